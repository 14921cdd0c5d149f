import json
import os
import socket
import subprocess
import sys

import pytest

from mixbench.errors import UserError
from mixbench.records.identity import InputFile, identify, seedless_id
from mixbench.records.lock import LOCK, locked
from mixbench.records.record import (
    RECORD,
    RECORD_SCHEMA,
    Record,
    earlier_record,
    read_record,
    rename_damaged_record,
    runs_folder,
    write_record,
)

LABEL = "erm-digits-net-12345678"


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


def started(content, pooled, key="net.weights", name="erm-digits-net-12345678-s0/last.ckpt"):
    group, _, leaf = key.partition(".")
    given = config()
    given[group][leaf] = "/runs/" + name
    file = InputFile(name, content, pooled)
    return identify(given, config(), {"seed"}, "digits", "abc", {key: file})


@pytest.mark.parametrize("key", ["net.weights", "method.teacher"])
def test_a_file_counts_by_its_content_in_the_id_and_as_its_run_in_a_row(key):
    first, second = (started(content, "erm-digits-net-12345678", key) for content in ("a", "b"))
    assert first.id != second.id
    assert first.config_hash != second.config_hash
    for name in ("row_hash", "recipe_hash", "family_hash", "settings"):
        assert getattr(first, name) == getattr(second, name)
    other = started("a", "erm-digits-net-12345679", key)
    assert other.row_hash != first.row_hash
    assert first.row_hash not in (first.config_hash, identity(config()).row_hash)
    assert first.inputs[key]["content"] == "a"


def test_without_a_file_a_row_is_grouped_by_what_it_always_was():
    found = identity(config(lr=0.2))
    assert found.row_hash == found.config_hash
    assert found.inputs == {}
    assert record(config_hash="c").row == "c"  # of an older version, which knew no other hash
    assert record(config_hash="c", row_hash="r").row == "r"


def test_the_checkpoint_of_a_run_is_pooled_as_the_run_of_any_seed_and_of_this_epoch():
    last = seedless_id("runs/erm-digits-net-12345678-s0/last.ckpt", "1234567890abcdef")
    assert last == seedless_id("/else/erm-digits-net-12345678-s3/last.ckpt", "") == LABEL
    assert seedless_id("runs/erm-digits-net-12345678-s0/best.ckpt", "") not in (last, LABEL)
    # A run that itself starts from a checkpoint has an id of its own for each seed of that one.
    assert seedless_id("runs/erm-digits-net-99999999-s1/last.ckpt", "1234567890abcdef") == LABEL
    with pytest.raises(ValueError, match="not the checkpoint"):
        seedless_id("runs/erm.ckpt", "")


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
    content = record(status="done").to_json() | {"novel": [1, 2]}
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
    with pytest.raises(UserError, match="the record cannot be read") as error:
        read_record(tmp_path)
    assert str(tmp_path) in str(error.value)


# FAULTS row 54: what the fields mean is no longer known.
def test_a_record_of_a_newer_schema_is_unreadable_and_left_alone(tmp_path):
    content = record(status="done").to_json() | {"schema": RECORD_SCHEMA + 1}
    (tmp_path / RECORD).write_text(json.dumps(content))
    for use in (read_record, earlier_record, rename_damaged_record):
        with pytest.raises(UserError, match="newer version"):
            use(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


IMPOSSIBLE = [
    {"seed": "0"},
    {"seed": -1},
    {"metrics": 3},
    {"status": None},
    {"status": "finished"},
    {"config_hash": []},
    {"recipe": {}},
    {"task": ["ssl"]},
    {"wall_s": "long"},
    {"wall_s": -1.0},
    {"wall_s": float("nan")},
    {"peak_mem_gb": {"gpu": 1}},
    {"img_per_s": float("inf")},
    {"gpu_hours": 1e39},
    {"dataloader_wait_pct": 101.0},
    {"label_noise": 1.5},
    {"epochs": 0},
    {"epochs": True},
    {"schema": 0},
    {"test_size": None},
    {"device": 7},
    {"net": "n" * 1001},
    {"attempts": 3},
    {"attempts": ["x"]},
    {"attempts": [{"started": 5}]},
    {"attempts": [{"status": "lost"}]},
    {"attempts": [{"wall_s": -1}]},
    {"evaluations": []},
    {"evaluations": {"adversarial": 3}},
    {"evaluations": {"adversarial": {"images": [100]}}},
    {"evaluations": {"adversarial": {"images": -1}}},
    {"evaluations": {"adversarial": {"attacks": "fgsm_8"}}},
    {"metrics": {"top1": None}},
    {"metrics": {"top1": "90"}},
    {"metrics": {"top1": True}},
    {"metrics": {"top1": 250.0}},
    {"metrics": {"top1": 100.0012}},
    {"metrics": {"val_top1": 100.1}},
    {"metrics": {"top1_median10": -1.0}},
    {"metrics": {"map": 250}},
    {"metrics": {"fgsm_8": 100.5}},
    {"metrics": {"nll": -0.1}},
    {"metrics": {"nll_cf": 1e39}},
    {"metrics": {"ece": -1}},
    {"metrics": {"T": -2.0}},
    {"metrics": {"novel": -1e300}},
]


# FAULTS row 54.
@pytest.mark.parametrize("change", IMPOSSIBLE, ids=str)
def test_a_value_that_no_run_can_have_is_unreadable_and_named(tmp_path, change):
    (tmp_path / RECORD).write_text(json.dumps(record().to_json() | change))
    with pytest.raises(UserError, match="the record cannot be read") as error:
        read_record(tmp_path)
    name = next(iter(change))
    assert name in error.value.what
    inner = change[name]
    if name in ("metrics", "evaluations") and isinstance(inner, dict):
        assert f"{name}.{next(iter(inner))}" in error.value.what


def test_values_at_the_edge_of_what_can_be_are_read(tmp_path):
    edge = {"metrics": {"top1": 100.0, "nll": float("nan"), "nll_cf": float("inf"), "lin_gap": -9}}
    edge["metrics"] |= {"val_top1": 100.0009, "map": 0, "ece": 0.0, "bias": -0.5, "novel": 1e30}
    edge |= {"wall_s": 0, "seed": 2**63 - 1, "status": "diverged", "message": "m" * 5000}
    (tmp_path / RECORD).write_text(json.dumps(record().to_json() | edge))
    assert read_record(tmp_path).metrics["lin_gap"] == -9


def test_a_record_that_cannot_be_read_just_now_is_not_taken_for_a_damaged_one(
    tmp_path, monkeypatch
):
    write_record(tmp_path, record(status="done"))

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("mixbench.records.record.read_json", denied)
        with pytest.raises(UserError, match="Permission denied"):
            earlier_record(tmp_path)
        with pytest.raises(UserError, match="Permission denied"):
            rename_damaged_record(tmp_path)
    assert earlier_record(tmp_path) == record(status="done")
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


def test_a_damaged_record_is_kept_under_another_name(tmp_path):
    (tmp_path / RECORD).write_text("{")
    assert earlier_record(tmp_path) is None
    assert (tmp_path / RECORD).exists()  # nobody may move it without the lock
    rename_damaged_record(tmp_path)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("unreadable-")
    assert kept.read_text() == "{"


def test_a_pipe_in_place_of_a_record_is_named_at_once(tmp_path):
    os.mkfifo(tmp_path / RECORD)
    for read in (read_record, earlier_record):
        with pytest.raises(UserError, match="a pipe stands in place of a file"):
            read(tmp_path)
    (tmp_path / RECORD).unlink()
    (tmp_path / RECORD).symlink_to("nowhere")
    for read in (read_record, earlier_record):
        with pytest.raises(UserError, match="its link leads nowhere"):
            read(tmp_path)


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
from mixbench.records.lock import locked
from mixbench.records.record import read_record, write_record

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


def test_the_folder_of_runs_is_given_or_from_the_environment(monkeypatch):
    monkeypatch.delenv("MIXBENCH_RUNS", raising=False)
    assert str(runs_folder()) == "runs"
    monkeypatch.setenv("MIXBENCH_RUNS", "/a")
    assert str(runs_folder()) == "/a"
    assert str(runs_folder("/b")) == "/b"
