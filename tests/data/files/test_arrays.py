"""Files of arrays from anywhere: none may take memory that it does not hold, or run anything."""

import io
import lzma
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from mixbench.data.files import arrays
from mixbench.data.files.arrays import Arrays, UnreadableArraysError, read_array, read_arrays


def saved(array, **options):
    """Content of an ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def header(shape):
    """Head of an ``.npy`` file of bytes that claims any shape."""
    file = io.BytesIO()
    claimed = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, claimed)
    return file.getvalue()


def refused(path, name, match):
    """An array of a file, which is opened without a complaint, cannot be had."""
    with Arrays(path) as found, pytest.raises(UnreadableArraysError, match=match):
        found[name]


def packed(path, packing=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_are_those_that_numpy_wrote(tmp_path, write):
    kept = {
        "images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "text": np.array(["ant", "bée"]),
        "none": np.zeros((0, 3)),
        "single": np.array(7),
    }
    write(tmp_path / "a.npz", **kept)
    with Arrays(tmp_path / "a.npz") as found:
        assert found.names == list(kept)
        for name, array in kept.items():
            assert name in found
            assert found.shape(name) == array.shape
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
        found["images"][0] = 0  # writable, as torch wants it
        with pytest.raises(UnreadableArraysError, match="no array 'x'; found images, turned"):
            found["x"]
    (tmp_path / "a.npz.xz").write_bytes(lzma.compress((tmp_path / "a.npz").read_bytes()))
    with Arrays(tmp_path / "a.npz.xz") as found:
        assert np.array_equal(found["turned"], kept["turned"])
    np.save(tmp_path / "b.npy", kept["turned"])
    assert np.array_equal(read_array(tmp_path / "b.npy"), kept["turned"])
    assert np.array_equal(read_array(str(tmp_path / "b.npy")), kept["turned"])
    assert Arrays(str(tmp_path / "a.npz")).names == list(kept)


def test_a_header_that_claims_more_than_its_file_holds_is_refused_before_it_is_read(tmp_path):
    vast = header((50_000_000, 1000, 1000)) + bytes(100)
    path = packed(tmp_path / "a.npz", images=vast)
    (tmp_path / "a.npy").write_bytes(vast)
    few = header((-2, -50))
    tracemalloc.start()
    refused(path, "images", r"45\.5 TiB.*100 bytes")
    with pytest.raises(UnreadableArraysError, match=r"45\.5 TiB.*100 bytes"):
        read_array(tmp_path / "a.npy")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    refused(packed(path, images=few + bytes(100)), "images", "header claims")


def test_a_file_that_unpacks_beyond_its_limits_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch
):
    flat = np.zeros((1 << 20, 4), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=flat, labels=np.zeros(9))
    with Arrays(tmp_path / "a.npz") as found:  # a picture of one colour is none the less one
        assert found["images"].shape == flat.shape
    monkeypatch.setattr(arrays, "FREE_BYTES", 1 << 22)
    with Arrays(tmp_path / "a.npz") as found:
        assert found["labels"].shape == (9,)
        with pytest.raises(UnreadableArraysError, match=r"KiB to 4\.0 MiB.*numpy\.savez stores"):
            found["images"]
    np.savez(tmp_path / "b.npz", images=flat)  # as the message says
    with Arrays(tmp_path / "b.npz") as found:
        assert found["images"].shape == flat.shape
    (tmp_path / "b.npz.xz").write_bytes(lzma.compress((tmp_path / "b.npz").read_bytes()))
    with pytest.raises(UnreadableArraysError, match="more than 200 times"):
        Arrays(tmp_path / "b.npz.xz")
    monkeypatch.setattr(arrays, "free_memory", lambda: 3 << 20)
    refused(tmp_path / "b.npz", "images", r"4\.0 MiB of memory, and 3\.0 MiB are free")
    monkeypatch.setattr(arrays, "MAX_UNPACKED_BYTES", 2 << 20)
    refused(tmp_path / "b.npz", "images", r"4\.0 MiB, above 2\.0 MiB")


def test_arrays_that_are_in_memory_are_not_asked_of_it_again(tmp_path, monkeypatch):
    free = [10 << 20]
    monkeypatch.setattr(arrays, "free_memory", lambda: free[0])
    np.savez(tmp_path / "a.npz", images=np.zeros(6 << 20, np.uint8), labels=np.zeros(10))
    with Arrays(tmp_path / "a.npz") as found:
        free[0] -= found["images"].nbytes
        assert len(found["labels"]) == 10


def test_cached_files_are_free_memory_of_a_container(tmp_path):
    stat = "anon 100\nactive_file 3000\ninactive_file 4000\n"
    for name, text in (("max", "10000\n"), ("current", "9000\n"), ("stat", stat)):
        (tmp_path / f"memory.{name}").write_text(text)
    assert arrays.free_memory(tmp_path) == 10000 - 9000 + 7000
    (tmp_path / "memory.max").write_text("max\n")  # no limit
    assert (arrays.free_memory(tmp_path) or 0) > 1 << 20


def test_text_beyond_unicode_is_refused(tmp_path):
    names = np.array(["ant", "bee"])
    names.view(np.uint32)[4] = 0x110000
    np.savez(tmp_path / "a.npz", names=names)
    np.save(tmp_path / "a.npy", names)
    refused(tmp_path / "a.npz", "names", "no Unicode")
    with pytest.raises(UnreadableArraysError, match="no Unicode"):
        read_array(tmp_path / "a.npy")


def test_stored_arrays_are_whole(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3), y=np.zeros(2))
    assert sorted(read_arrays(tmp_path / "a.npz")) == ["x", "y"]
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("other.txt", "0" * 100)
    with pytest.raises(UnreadableArraysError, match="more than arrays"):
        read_arrays(tmp_path / "a.npz")


def test_several_members_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_UNPACKED_BYTES", 1000)
    np.savez(tmp_path / "a.npz", first=np.zeros(600, np.uint8), other=np.zeros(600, np.uint8))
    with Arrays(tmp_path / "a.npz") as found:
        assert len(found["first"]) == found.shape("other")[0] == 600
        with pytest.raises(UnreadableArraysError, match=r"1\.4 KiB, above 1000 bytes"):
            found["other"]


def test_the_limits_are_those_of_the_bomb_that_was_found():
    with pytest.raises(UnreadableArraysError, match=r"13\.0 MiB to 3\.0 GiB"):
        arrays.check_size(3 << 30, 13 << 20)
    free = arrays.free_memory()
    assert free is None or 1 << 20 < free < 1 << 50


def test_what_is_no_file_of_arrays_says_what_it_is(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError):
        Arrays(path)
    with pytest.raises(FileNotFoundError):
        read_array(path)
    os.mkfifo(path)
    for read in (Arrays, read_array):
        with pytest.raises(UnreadableArraysError, match="stands in place of a file"):
            read(path)
    path.unlink()
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(UnreadableArraysError, match="npz with several named ones"):
        Arrays(tmp_path / "a.npy")
    path.write_bytes(b"<html>")
    for read in (Arrays, read_array):
        with pytest.raises(UnreadableArraysError):
            read(path)
    refused(
        packed(path, names=saved(np.array(["a", None]), allow_pickle=True)),
        "names",
        "names: it holds Python objects",
    )


def test_a_flipped_bit_is_noticed(tmp_path):
    whole = packed(tmp_path / "whole.npz", zipfile.ZIP_STORED, x=saved(np.ones(64)))
    with Arrays(whole) as found:
        assert found["x"].tolist() == [1.0] * 64
    content = bytearray(whole.read_bytes())
    content[content.index(b"NUMPY") + 300] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz", "x", "CRC")


@pytest.mark.filterwarnings("ignore:invalid escape")
def test_damaged_files_raise_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    np.savez_compressed(tmp_path / "a.npz", images=np.arange(40), names=np.array(["ant", "bee"]))
    np.save(tmp_path / "a.npy", np.arange(40))
    for name, read in (("a.npz", read_all), ("a.npy", read_array)):
        content, refusals = (tmp_path / name).read_bytes(), 0
        for _ in range(300):
            damaged = bytearray(content)
            for place in rng.integers(0, len(damaged), rng.integers(1, 6)):
                damaged[place] = rng.integers(0, 256)
            if rng.random() < 0.3:
                del damaged[rng.integers(0, len(damaged)) :]
            (tmp_path / f"damaged-{name}").write_bytes(damaged)
            try:
                read(tmp_path / f"damaged-{name}")
            except UnreadableArraysError:  # anything else would be a traceback
                refusals += 1
        assert 50 < refusals <= 300


def read_all(path):
    with Arrays(path) as found:
        return [found[name] for name in found.names]
