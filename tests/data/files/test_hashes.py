import hashlib
import multiprocessing
import os
import sqlite3
import time

import pytest

from mixbench.data.files import hashes as module
from mixbench.data.files.hashes import NO_HASH, content_hashes, hashes_path


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(module, "SETTLED_NS", -(10**10))  # files of a test are younger
    return tmp_path / "data"


@pytest.fixture
def zoo(tmp_path):
    root = tmp_path / "zoo"
    root.mkdir()
    for number in range(20):
        (root / f"{number}.bin").write_bytes(bytes([number]) * 100)
    return root


@pytest.fixture
def reads(monkeypatch):
    """Paths of the files whose content is read."""
    paths = []

    def counted(path, limit):
        paths.append(os.path.basename(path))
        return read(path, limit)

    read = module._read
    monkeypatch.setattr(module, "_read", counted)
    return paths


def names(zoo):
    return sorted(path.name for path in zoo.iterdir())


def plain(zoo):
    return [hashlib.sha256((zoo / name).read_bytes()).digest() for name in names(zoo)]


def test_unchanged_files_are_read_once(zoo, reads):
    assert content_hashes(zoo, names(zoo)) == plain(zoo)
    assert sorted(reads) == names(zoo)
    assert content_hashes(zoo, names(zoo)) == plain(zoo)
    assert len(reads) == 20
    (zoo / "new.bin").write_bytes(b"new")
    assert content_hashes(zoo, names(zoo)) == plain(zoo)
    assert reads[20:] == ["new.bin"]


@pytest.mark.parametrize("how", ["in place", "replaced", "time set back"])
def test_a_file_that_changed_is_read_again(zoo, reads, how):
    before = content_hashes(zoo, names(zoo))
    path = zoo / "7.bin"
    facts = path.stat()
    if how == "replaced":
        (zoo / "other").write_bytes(b"x" * 100)
        (zoo / "other").replace(path)
    else:
        path.write_bytes(b"x" * 100)
    if how != "in place":
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert path.stat().st_mtime_ns == facts.st_mtime_ns
    after = content_hashes(zoo, names(zoo))
    assert reads[20:] == ["7.bin"]
    assert after == plain(zoo)
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


def test_a_file_that_is_too_young_to_be_known_again_is_not_kept(zoo, reads, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_NS", 10**12)
    for _ in range(2):
        assert content_hashes(zoo, names(zoo)) == plain(zoo)
    assert len(reads) == 40


def test_more_files_than_a_window_or_a_query_holds(zoo, reads, monkeypatch):
    monkeypatch.setattr(module, "FILES_PER_WRITE", 7)
    monkeypatch.setattr(module, "QUERY_NAMES", 3)
    for _ in range(2):
        assert content_hashes(zoo, names(zoo)) == plain(zoo)
    assert len(reads) == 20
    assert content_hashes(zoo, []) == []


def test_what_cannot_be_read_has_no_hash_and_is_tried_again(zoo, reads):
    os.mkfifo(zoo / "pipe.bin")
    (zoo / "link.bin").symlink_to(zoo / "gone")
    (zoo / "folder.bin").mkdir()
    strange = ["pipe.bin", "link.bin", "folder.bin", "missing.bin"]
    assert content_hashes(zoo, strange) == [NO_HASH] * 4
    (zoo / "gone").write_bytes(b"found")
    assert content_hashes(zoo, strange)[1] == hashlib.sha256(b"found").digest()
    assert content_hashes(zoo, ["0.bin"], limit=99) == [NO_HASH]


def test_names_of_any_bytes_are_kept(zoo, reads):
    name = os.fsdecode(b"caf\xe9.bin")
    (zoo / name).write_bytes(b"x")
    for _ in range(2):
        assert content_hashes(zoo, [name]) == [hashlib.sha256(b"x").digest()]
    assert reads == [name]


def test_without_a_place_files_are_read_each_time_and_that_is_said(zoo, reads, place, caplog):
    place.write_text("a file is in the way")
    with caplog.at_level("WARNING", "mixbench"):
        for _ in range(2):
            assert content_hashes(zoo, names(zoo)) == plain(zoo)
    assert len(reads) == 40
    assert len(caplog.records) == 2
    assert str(hashes_path(zoo)) in caplog.text


def test_a_place_that_can_only_be_read_serves(zoo, reads, place, caplog, monkeypatch):
    content_hashes(zoo, names(zoo))
    connect = sqlite3.connect

    def read_only(path, **options):
        return connect(f"file:{path}?mode=ro", uri=True, **options)

    monkeypatch.setattr(module.sqlite3, "connect", read_only)
    with caplog.at_level("WARNING", "mixbench"):
        assert content_hashes(zoo, names(zoo)) == plain(zoo)
        assert len(reads) == 20
        assert not caplog.records
        (zoo / "new.bin").write_bytes(b"new")
        assert content_hashes(zoo, names(zoo)) == plain(zoo)
    assert "read each time" in caplog.text


@pytest.mark.parametrize("damaged", [slice(0, 10), slice(100, 2000), slice(4096, 6000)])
def test_a_damaged_file_of_hashes_is_made_anew(zoo, reads, damaged, caplog):
    content_hashes(zoo, names(zoo))
    path = hashes_path(zoo)
    raw = bytearray(path.read_bytes())
    assert len(raw) > damaged.stop
    raw[damaged] = b"\xff" * (damaged.stop - damaged.start)
    path.write_bytes(raw)
    with caplog.at_level("WARNING", "mixbench"):
        assert content_hashes(zoo, names(zoo)) == plain(zoo)
    assert caplog.records
    content_hashes(zoo, names(zoo))
    count = len(reads)
    assert content_hashes(zoo, names(zoo)) == plain(zoo)
    assert len(reads) == count


def _hash(zoo, barrier, results):
    module.SETTLED_NS = -(10**10)
    read, count = module._read, []

    def counted(path, limit):
        count.append(path)
        time.sleep(0.05)  # long enough for the others to begin
        return read(path, limit)

    module._read = counted
    barrier.wait()
    results.put((content_hashes(zoo, names(zoo)), len(count)))


def test_of_processes_that_start_together_one_reads_and_the_others_wait(zoo):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_hash, args=(zoo, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert all(digests == plain(zoo) for digests, _ in found)
    assert sum(count for _, count in found) == 20
