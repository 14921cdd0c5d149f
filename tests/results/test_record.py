import json
import os
import socket
import subprocess
import sys

import pytest

from mixbench.errors import UserError
from mixbench.results.files import LOCK, is_live, locked, write_bytes
from mixbench.results.identity import identify
from mixbench.results.record import RECORD, Record, read_record, runs_folder, write_record


def record(**changes):
    known = {
        "id": "erm-digits-net-12345678-s0",
        "method": "erm",
        "data": "digits",
        "net": "net",
        "recipe": "digits",
        "seed": 0,
        "epochs": 2,
        "select": "last",
        "config_hash": "1" * 16,
        "recipe_hash": "2" * 16,
    }
    return Record(**(known | changes))


def config(**changes):
    flat = {
        "method": {"name": "mixup", "alpha": 1.0, "prob": 1.0},
        "data": {"kind": "digits", "name": "", "root": None, "crop": 4},
        "net": {"name": "preactresnet18", "width": 64},
        "lr": 0.1,
        "seed": 0,
    }
    for key, value in changes.items():
        group, _, leaf = key.partition("__")
        if leaf:
            flat[group][leaf] = value
        else:
            flat[group] = value
    return flat


def identity(given, defaults=None, name="digits", fingerprint="abc"):
    return identify(given, defaults or config(), {"seed", "data.root"}, name, fingerprint)


def test_the_id_names_method_data_net_hash_and_seed():
    found = identity(config(seed=3))
    assert found.id == f"mixup-digits-preactresnet18-{found.config_hash[:8]}-s3"
    assert found.settings == {}


# FAULTS row 40.
def test_ids_depend_on_the_configuration_alone():
    assert identity(config()).id == identity(config()).id
    assert identity(config(data__root="/elsewhere")).id == identity(config()).id
    assert identity(config(seed=1)).config_hash == identity(config()).config_hash
    for change in ({"lr": 0.2}, {"method__alpha": 0.5}, {"data__crop": 2}, {"net__width": 8}):
        assert identity(config(**change)).id != identity(config()).id
    assert identity(config(), fingerprint="other").id != identity(config()).id


def test_a_new_key_at_its_default_orphans_no_run():
    old = identity(config())
    newer = config()
    newer["method"]["fold"] = False
    newer["trainer"] = {"compile": False}
    assert identity(newer, defaults=newer).id == old.id
    changed = json.loads(json.dumps(newer))
    changed["method"]["fold"] = True
    assert identity(changed, defaults=newer).id != old.id


def test_the_checkpoint_of_another_run_counts_as_that_run_of_any_seed_anywhere():
    def named(path):
        given = config()
        given["method"]["weights"] = path
        return identity(given)

    first = named("runs/erm-digits-net-12345678-s0/last.ckpt")
    assert first.id == named("/else/where/erm-digits-net-12345678-s3/last.ckpt").id
    assert first.id != named("runs/erm-digits-net-12345679-s0/last.ckpt").id
    assert first.id != named("runs/erm.ckpt").id


def test_the_recipe_hash_leaves_the_method_out():
    base = identity(config())
    assert identity(config(method__alpha=0.5)).recipe_hash == base.recipe_hash
    other = config()
    other["method"] = {"name": "erm"}
    assert identity(other).recipe_hash == base.recipe_hash
    assert identity(config(lr=0.2)).recipe_hash != base.recipe_hash
    assert identity(config(net__name="other")).recipe_hash != base.recipe_hash
    assert identity(config(method__alpha=0.5)).settings == {"alpha": 0.5}


def test_hostile_names_make_a_plain_folder_name():
    found = identity(config(), name="../a b/;<x>é")
    assert "/" not in found.id
    assert found.id.startswith("mixup-a_b_x-")


def test_a_record_comes_back_as_it_was_written(tmp_path):
    written = record(status="done", metrics={"top1": 97.5}, attempts=[{"number": 1}])
    write_record(tmp_path, written)
    assert read_record(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


def test_the_maximum_calibration_error_of_old_records_keeps_its_value(tmp_path):
    content = record(status="done").to_json() | {"metrics": {"mce": 0.3, "top1": 90.0}}
    (tmp_path / RECORD).write_text(json.dumps(content | {"schema": 1}))
    assert read_record(tmp_path).metrics == {"maxce": 0.3, "top1": 90.0}
    write_record(tmp_path, read_record(tmp_path))
    assert read_record(tmp_path).metrics == {"maxce": 0.3, "top1": 90.0}
    (tmp_path / RECORD).write_text(json.dumps(content))  # the mean corruption error
    assert read_record(tmp_path).metrics == {"mce": 0.3, "top1": 90.0}


# FAULTS row 54.
def test_unknown_fields_of_a_newer_version_are_kept(tmp_path):
    content = record(status="done").to_json() | {"novel": [1, 2], "schema": 9}
    (tmp_path / RECORD).write_text(json.dumps(content))
    found = read_record(tmp_path)
    assert found.extra == {"novel": [1, 2]}
    write_record(tmp_path, found)
    assert json.loads((tmp_path / RECORD).read_text()) == content


# FAULTS row 54.
@pytest.mark.parametrize(
    "text", ["", "{", '{"id": "x"', "[]", '{"id": 3}', "null", "\x00\xff", '{"id": "x"}']
)
def test_a_damaged_record_is_unreadable_and_named(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(UserError, match="unreadable record") as error:
        read_record(tmp_path)
    assert str(tmp_path) in str(error.value)


# FAULTS row 54.
def test_a_field_of_the_wrong_type_is_unreadable(tmp_path):
    changes = [{"seed": "0"}, {"metrics": 3}, {"status": None}, {"metrics": {"top1": None}}]
    changes += [{"metrics": {"top1": "90"}}, {"config_hash": []}, {"recipe": {}}, {"attempts": 3}]
    changes += [{"attempts": ["x"]}, {"evaluations": []}, {"evaluations": {"adversarial": 3}}]
    changes += [{"test_size": None}]
    for change in changes:
        content = record().to_json() | change
        (tmp_path / RECORD).write_text(json.dumps(content))
        with pytest.raises(UserError, match="unreadable record"):
            read_record(tmp_path)


def test_running_without_a_living_process_reads_as_interrupted(tmp_path):
    write_record(tmp_path, record(status="running"))
    assert read_record(tmp_path).status == "interrupted"
    with locked(tmp_path):
        assert read_record(tmp_path).status == "running"
    assert read_record(tmp_path).status == "interrupted"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    holder = {"host": socket.gethostname(), "pid": ended.pid}
    (tmp_path / LOCK).write_text(json.dumps(holder))
    assert read_record(tmp_path).status == "interrupted"
    (tmp_path / LOCK).write_text(json.dumps(holder | {"host": "another"}))
    assert read_record(tmp_path).status == "running"


WRITER = """
import sys, time
from pathlib import Path
from mixbench.errors import UserError
from mixbench.results.files import locked
from mixbench.results.record import read_record, write_record

folder, done = Path(sys.argv[1]), 0
while done < 8:
    try:
        with locked(folder):
            record = read_record(folder)
            time.sleep(0.005)  # long enough for the others to come in between
            record.attempts.append({"writer": sys.argv[2], "number": done})
            write_record(folder, record)
        done += 1
    except UserError as error:
        assert "another process is at work" in error.what, error
    time.sleep(0.002)
"""


# FAULTS row 54: additions happen under a lock.
def test_what_several_writers_add_at_once_is_all_there(tmp_path):
    write_record(tmp_path, record(status="done"))
    words = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*words, name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = [(each["writer"], each["number"]) for each in read_record(tmp_path).attempts]
    assert sorted(found) == [(name, number) for name in "abc" for number in range(8)]
    assert not (tmp_path / LOCK).exists()


# FAULTS row 54.
def test_a_second_writer_is_refused_and_a_stale_lock_is_not(tmp_path):
    second = locked(tmp_path)
    with locked(tmp_path), pytest.raises(UserError, match="another process is at work"):
        second.__enter__()
    (tmp_path / LOCK).write_text("half a lo")
    with locked(tmp_path):
        assert is_live(tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_sees_the_old_file_or_the_new_one_never_a_mixture(tmp_path):
    path = tmp_path / "file"
    path.write_text("old and whole")
    with path.open() as reader:
        write_bytes(path, lambda file: file.write(b"new"))
        assert reader.read() == "old and whole"
    assert path.read_text() == "new"


def test_the_folder_of_runs_is_given_or_from_the_environment(monkeypatch):
    monkeypatch.delenv("MIXBENCH_RUNS", raising=False)
    assert str(runs_folder()) == "runs"
    monkeypatch.setenv("MIXBENCH_RUNS", "/a")
    assert str(runs_folder()) == "/a"
    assert str(runs_folder("/b")) == "/b"
