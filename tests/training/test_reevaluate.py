"""Finished runs, judged by suites, later again, and verified."""

import contextlib
import dataclasses
import io
import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mixbench import cli, compose, run
from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.images import Batch
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import RunFailedError, UserError
from mixbench.evaluation import autoattack
from mixbench.evaluation.suite import load_suite
from mixbench.records.checkpoints import read_checkpoint
from mixbench.records.curves import read_curves
from mixbench.records.lock import locked
from mixbench.records.predictions import PREDICTIONS, read_predictions
from mixbench.records.record import Record, read_record, write_record
from mixbench.tasks.classification import Classification
from mixbench.training.facts import ADDED, other_facts, run_facts
from mixbench.training.reevaluate import evaluate_run, rebuild, task_scores, verify_run
from mixbench.training.run import resume

WORDS = ["data=digits", "data.limit=96", "net.width=4", "epochs=2", "batch_size=16", "lr=0.1"]
WORDS += ["data.size=16"]
WORDS += ["wandb.mode=disabled", "method=mixup", "eval.adv_n=20"]
ATTACKED = {"adv_n", "sat_pct", "fgsm_8", "fgsm_8_acc", "pgd20_1", "pgd20_1_acc"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was judged by the default suites."""
    folder = tmp_path_factory.mktemp("runs")
    record = run(compose([*WORDS, f"run.dir={folder}"]))
    return folder / record.id


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it, to be changed."""
    copy = tmp_path / finished.name
    shutil.copytree(finished, copy)
    return copy


def changed(folder, **metrics):
    record = read_record(folder)
    record.metrics |= metrics
    write_record(folder, record)


def test_a_run_is_attacked_once_after_its_test(finished):
    record = read_record(finished)
    assert record.metrics.keys() >= ATTACKED
    assert record.metrics["adv_n"] == 20
    assert record.metrics["fgsm_8"] + record.metrics["fgsm_8_acc"] == pytest.approx(100)
    assert record.metrics["fgsm_8"] >= record.metrics["pgd20_1"] > 0
    facts = record.evaluations["adversarial"]
    assert facts["attacks"] == ["fgsm_8", "pgd20_1"]
    assert (facts["images"], facts["of"], facts["seed"]) == (20, 96, 0)
    assert "20 of 96 images: sat_pct" in (finished / "log.txt").read_text()
    rows, _ = read_curves(finished / "metrics.csv")
    (row,) = [row for row in rows if "test/fgsm_8" in row]
    assert row["test/fgsm_8"] == pytest.approx(record.metrics["fgsm_8"], rel=1e-6)


def test_suites_take_no_part_in_the_identity(finished, tmp_path):
    words = [*WORDS, f"run.dir={tmp_path}", "eval.suites=[]", "eval.adv_n=null"]
    record = run(compose(words))
    assert record.id == finished.name
    assert not record.metrics.keys() & ATTACKED
    assert record.evaluations == {}
    judged = read_record(finished).metrics
    assert {name: judged[name] for name in record.metrics} == record.metrics


def test_a_later_evaluation_finds_what_the_run_itself_found(finished, folder):
    before = read_record(folder)
    bare = dataclasses.replace(before, metrics={"top1": 1.0}, evaluations={})
    write_record(folder, bare)
    record = evaluate_run(folder)
    assert record.metrics == pytest.approx(before.metrics, rel=1e-6)
    assert read_record(folder).metrics == record.metrics
    assert record.evaluations["adversarial"]["attacks"] == ["fgsm_8", "pgd20_1"]


def test_other_suites_and_attacks_are_added(folder, caplog):
    with caplog.at_level(logging.WARNING, "mixbench"):
        record = evaluate_run(
            folder, ["eval.attacks=[fgsm_4]", "eval.adv_n=null"], ["adversarial", "occlusion"]
        )
    (line,) = [line for line in caplog.messages if "replaces" in line]
    assert line.startswith("adversarial replaces fgsm_8, pgd20_1 of")
    assert "images 20 -> 96" in line
    assert record.metrics["adv_n"] == 96
    assert record.metrics.keys() >= {"fgsm_4", "occ_auc", "occ_0", "occ_90"}
    # What was attacked on other images is no column beside it any more.
    assert not record.metrics.keys() & {"fgsm_8", "pgd20_1", "fgsm_8_acc"}
    assert record.metrics["occ_0"] == pytest.approx(record.metrics["top1"])
    curve = [record.metrics[f"occ_{percent}"] for percent in range(0, 100, 10)]
    assert record.metrics["occ_auc"] == pytest.approx(np.trapezoid(curve) / 9)
    assert record.evaluations["occlusion"]["images"] == 96


def test_attacks_on_the_same_images_stand_side_by_side(folder, caplog):
    before = read_record(folder)
    with caplog.at_level(logging.WARNING, "mixbench"):
        record = evaluate_run(folder, ["eval.attacks=[fgsm_4]"], ["adversarial"])
    assert not any("replaces" in line for line in caplog.messages)
    assert record.metrics.items() >= before.metrics.items()
    assert "fgsm_4" in record.metrics
    assert record.evaluations["adversarial"]["attacks"] == ["fgsm_8", "pgd20_1", "fgsm_4"]
    assert "fgsm_4" in verify_run(folder)[1]


@pytest.mark.parametrize(
    ("suite", "first", "second", "line"),
    [
        ("linearity", "eval.adv_n=20", "eval.adv_n=10", "replaces lin_gap of .*images 20 -> 10"),
        pytest.param(
            "salience",
            "eval.saliency=null",
            "eval.saliency={}",
            "occ_salient_auc.*saliency own ->",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_scores_of_other_settings_are_replaced_aloud(folder, caplog, suite, first, second, line):
    with caplog.at_level(logging.WARNING, "mixbench"):
        for words in (first, first, second):
            assert not any("replaces" in told for told in caplog.messages)
            evaluate_run(folder, [words.format(folder)], [suite])
    assert re.search(line, "\n".join(caplog.messages))
    assert verify_run(folder).record.verified is True


def test_calibration_is_computed_from_the_predictions_alone(folder):
    (folder / "last.ckpt").unlink()
    expected = task_scores(Classification(), read_predictions(folder / PREDICTIONS))
    changed(folder, nll=99.0)
    record = evaluate_run(folder, [], ["calibration"])
    assert {name: record.metrics[name] for name in expected} == expected


def test_lost_predictions_are_made_again(folder):
    before = read_predictions(folder / PREDICTIONS)
    (folder / PREDICTIONS).unlink()
    evaluate_run(folder, [], ["calibration"])
    after = read_predictions(folder / PREDICTIONS)
    assert torch.equal(after.logits, before.logits)
    assert after.class_names == before.class_names == tuple("0123456789")


def test_an_evaluation_changes_nothing_that_was_trained(folder):
    with pytest.raises(UserError, match="lr says what is trained"):
        evaluate_run(folder, ["lr=0.2"])
    with pytest.raises(UserError, match="did you mean 'fgsm_8'"):
        evaluate_run(folder, ["eval.attacks=[fgsm8]"])
    with pytest.raises(UserError, match="unknown suite 'colour'"):
        evaluate_run(folder, ["eval.suites=[colour]"])
    with pytest.raises(UserError, match="names an entry twice"):
        evaluate_run(folder, ["eval.attacks=[fgsm_8,fgsm_8]"])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Folder of a run of a method and a network that are in no registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_mix.py").write_text(
        "from mixbench.methods.mixup import Mixup\n\n\nclass OwnMix(Mixup):\n    pass\n"
    )
    words = ["data=digits", "data.limit=32", "epochs=1", "batch_size=16", "wandb.mode=disabled"]
    words += ["eval.suites=[]", f"run.dir={tmp_path / 'runs'}"]
    return tmp_path / "runs" / run(compose([*words, *OWN])).id


OWN = ["method=own_mix:OwnMix", "net=small_nets:narrow_vit"]
READ = {
    "verify": ["verify"],
    "eval": ["eval", "--suite", "linearity", "eval.adv_n=4"],
    "resume": ["resume", "trainer.threads=1"],
    "show": ["show", "-o", "drawn.png"],
    "export": ["export", "-o", "net.onnx"],
}


@pytest.mark.slow
def test_code_of_a_run_is_imported_by_every_command_where_it_is_typed_and_nowhere_else(own, capsys):
    for command, *words in READ.values():
        assert cli.main([command, str(own), *words]) == 2, command
        assert re.search(r"to do: add (method=own_mix|net=small_nets)", capsys.readouterr().err)
    for command, *words in READ.values():
        assert cli.main([command, str(own), *words, *OWN]) == 0, command
    assert cli.main(["export", str(own), "-o", "net.onnx", "net=mixup"]) == 2
    assert "net has no effect on an export" in capsys.readouterr().err
    record = read_record(own)
    assert record.verified is None  # judged after it
    assert "lin_gap" in record.metrics


def test_other_data_are_refused(folder):
    record = read_record(folder)
    record.data_hash = "other"
    write_record(folder, record)
    with pytest.raises(UserError, match="not those that"):
        evaluate_run(folder)


# FAULTS row 54: of two writers the second is refused.
@pytest.mark.parametrize("command", ["eval", "verify"])
def test_a_run_that_another_process_works_at_is_left_alone(folder, capsys, command):
    before = (folder / "record.json").read_bytes()
    with locked(folder):
        assert cli.main([command, str(folder)]) == 2
    assert "another process is at work" in capsys.readouterr().err
    assert (folder / "record.json").read_bytes() == before


# FAULTS row 54: what a newer version has written stays through a change.
def test_an_evaluation_keeps_what_a_newer_version_has_written(folder):
    path = folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"novel": {"a": [1]}}))
    evaluate_run(folder, [], ["calibration"])
    verify_run(folder)
    assert json.loads(path.read_text())["novel"] == {"a": [1]}


def test_an_unfinished_run_is_not_judged(folder):
    record = read_record(folder)
    record.status = "interrupted"
    write_record(folder, record)
    with pytest.raises(UserError, match="not finished but interrupted"):
        evaluate_run(folder)
    with pytest.raises(UserError, match="not finished but interrupted"):
        verify_run(folder)


def test_a_true_record_verifies(folder):
    assert read_record(folder).verified is None
    record, compared, left = verify_run(folder)
    assert left == {}
    assert record.verified is True
    assert read_record(folder).verified is True
    assert set(compared) >= {"top1", "nll", "ece_cf", "fgsm_8", "pgd20_1", "sat_pct"}


@pytest.mark.parametrize(
    ("name", "delta"),
    [("top1", 1.1), ("ece_cf", 1e-4), ("pgd20_1", 10.0)],
)
def test_a_score_that_was_changed_is_found(folder, capsys, name, delta):
    changed(folder, **{name: read_record(folder).metrics[name] + delta})
    assert cli.main(["verify", str(folder)]) == 3
    error = capsys.readouterr().err
    assert f"does not verify: {name} is recorded as" in error
    assert "Traceback" not in error
    assert read_record(folder).verified is False


def rewritten(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_configuration_that_is_not_the_checkpoint_s_is_found(folder, capsys):
    rewritten(folder / "config.yaml", "lr: 0.1", "lr: 0.2")
    assert cli.main(["verify", str(folder)]) == 3
    error = capsys.readouterr().err
    assert "lr in config.yaml is recorded as 0.2 and comes out as 0.1" in error
    assert "restore config.yaml" in error
    assert read_record(folder).verified is False


def test_a_seed_that_was_rewritten_everywhere_but_in_the_checkpoint_is_found(folder, capsys):
    rewritten(folder / "config.yaml", "seed: 0", "seed: 7")
    record = read_record(folder)
    record.seed, record.id = 7, f"{record.id[:-1]}7"
    write_record(folder, record)
    renamed = folder.rename(folder.with_name(record.id))
    assert cli.main(["verify", str(renamed)]) == 3
    assert "seed in config.yaml is recorded as 7 and comes out as 0" in capsys.readouterr().err


@pytest.mark.parametrize("marks", [[], ["few steps", "chance", "large batch"]])
def test_marks_that_were_rewritten_are_found(folder, marks):
    record = read_record(folder)
    assert "few steps" in record.marks
    record.marks = marks
    write_record(folder, record)
    with pytest.raises(RunFailedError, match="marks is recorded as"):
        verify_run(folder)


def test_everything_that_was_rewritten_is_named_at_once(folder, capsys):
    record = read_record(folder)
    record.method, record.net, record.select = "cutmix", "resnet50", "val"
    record.metrics |= {"top1": 99.0, "nll": 0.01}
    write_record(folder, record)
    assert cli.main(["verify", str(folder)]) == 3
    error = capsys.readouterr().err
    for name in ("method is", "net is", "select is", "top1", "nll"):
        assert name in error


@pytest.fixture(scope="module")
def rebuilt(finished):
    """A record with all that it is held against."""
    config = compose([], base=finished / "config.yaml")
    record = read_record(finished)
    saved = read_checkpoint(finished / "last.ckpt")["mixbench"]
    network = rebuild(finished, finished / "last.ckpt", config, record)
    return record, saved, network.job, network.method


CHANGED = {
    "id": "erm-digits-preactresnet18-00000000-s0",
    "method": "cutmix",
    "data": "cifar10",
    "net": "resnet50",
    "recipe": "official",
    "seed": 1,
    "epochs": 200,
    "select": "val",
    "config_hash": "0" * 16,
    "recipe_hash": "0" * 16,
    "data_hash": "0" * 16,
    "family_hash": "0" * 16,
    "row_hash": "0" * 16,
    "inputs": {"net.weights": {"name": "a", "content": "b", "pooled": "c"}},
    "task": "ssl",
    "fidelity": "variant",
    "settings": {"alpha": 0.2},
    "precision": "bf16",
    "batch_size": 128,
    "params": 10**7,
    "params_train": 10**7,
    "macs": 10**9,
    "train_size": 50_000,
    "test_size": 10_000,
    "skipped": 1,
    "skipped_test": 1,
    "official": True,
    "label_noise": 0.1,
    "notices": ["a fine data set"],
    "unused": {"hidden file": 3},
    "shared_images": 7,
    "division": "a fifth of each class",
    "folds": 5,
    "fold": 0,
    "race_fold": "0/5",
    "config_changes": {"lr": [0.1, 0.2]},
    "device": "H100",
    "device_count": 8,
    "threads": 64,
    "compiled": True,
    "compiled_input": True,
    "engine": "fast",
    "augment_by": "epoch",
    "commit": "0" * 12,
    "resumed_bit_exact": True,
}
ATTEMPT = {"device", "device_count", "threads", "compiled", "compiled_input", "engine", "commit"}
ATTEMPT |= {"resumed_bit_exact", "augment_by"}


@pytest.mark.parametrize("name", CHANGED)
def test_a_fact_that_was_rewritten_is_found(rebuilt, name):
    record, *true = rebuilt
    assert other_facts(record, *true) == ([], {})
    assert getattr(record, name) != CHANGED[name]
    wrong, _ = other_facts(dataclasses.replace(record, **{name: CHANGED[name]}), *true)
    assert [item.name for item in wrong] == [name]


def test_every_fact_that_can_be_computed_is_held_against_the_record(rebuilt):
    record, _, job, method = rebuilt
    known = run_facts(job, job.identity, method)
    assert CHANGED.keys() == {*known, "config_changes", *ATTEMPT}
    fresh = Record(**known)
    other = {item.name for item in dataclasses.fields(Record)} - CHANGED.keys()
    same = [name for name in CHANGED if getattr(record, name) == getattr(fresh, name)]
    assert set(same) >= CHANGED.keys() - ATTEMPT
    assert other == LATER  # what only the run itself could tell


# Results, how they came about, and what was measured.
LATER = {"status", "metrics", "evaluations", "schema", "versions", "extra", "shared_cores"}
LATER |= {"wall_s", "img_per_s", "ms_step", "dataloader_wait_pct", "peak_mem_gb", "gpu_hours"}
LATER |= {"prior_hours", "cuda_graphs"}
LATER |= {"attempts", "verified", "unverified", "message", "marks"}


def test_a_run_of_an_older_version_verifies_without_the_facts_that_it_lacks(rebuilt):
    record, saved, *true = rebuilt
    old = {key: value for key, value in saved.items() if key not in ("inputs", "config_changes")}
    lacking = {"row_hash": "", "family_hash": "", "params": 0, "macs": 0, "batch_size": 0}
    assert other_facts(dataclasses.replace(record, **lacking), old, *true) == ([], {})
    # It looked for nothing in its data, and noted nothing of the machine of an attempt.
    seen = ("notices", "unused", "shared_images", "skipped_test")
    info = {key: value for key, value in saved["info"].items() if key not in seen}
    lacking |= {"shared_images": None, "skipped_test": None}
    lacking |= {"attempts": [{"number": 1, "from_step": 0}]}
    older = dataclasses.replace(record, **lacking)
    assert record.shared_images == 0
    assert other_facts(older, old | {"info": info}, *true) == ([], {})
    wrong, left = other_facts(
        dataclasses.replace(older, resumed_bit_exact=True), old | {"info": info}, *true
    )
    assert (wrong, list(left)) == ([], ["resumed_bit_exact"])


DIVIDED = {"division", "folds", "fold", "race_fold"}  # which the run has none of


@pytest.mark.parametrize("name", [*sorted(ADDED.keys() - DIVIDED), "skipped_test"])
def test_a_fact_that_was_taken_out_is_not_taken_for_that_of_an_older_version(rebuilt, name):
    record, *true = rebuilt
    wrong, _ = other_facts(dataclasses.replace(record, **{name: ADDED.get(name)}), *true)
    assert [item.name for item in wrong] == [name]


@pytest.fixture
def resumed(rebuilt):
    """The record as if its run had gone on once, and what it is held against."""
    record, *true = rebuilt
    (first,) = record.attempts
    attempts = [first, first | {"number": 2, "from_step": 6}]
    whole = dataclasses.replace(record, attempts=attempts, resumed_bit_exact=True)
    assert other_facts(whole, *true) == ([], {})
    return whole, *true


def test_attempts_that_were_taken_out_or_renumbered_are_noticed(resumed):
    whole, *true = resumed
    _, second = whole.attempts
    wrong, left = other_facts(dataclasses.replace(whole, attempts=[second]), *true)
    assert "numbers of attempts" in [item.name for item in wrong]
    moved = dataclasses.replace(whole, attempts=[second | {"number": 1}], resumed_bit_exact=False)
    assert "attempts" in other_facts(moved, *true)[1]
    none = dataclasses.replace(whole, attempts=[], resumed_bit_exact=None)
    wrong, left = other_facts(none, *true)
    assert (wrong, list(left)) == ([], ["attempts"])


def test_a_file_that_came_to_lie_beside_the_images_makes_no_untrue_record(rebuilt):
    record, saved, *true = rebuilt
    then = {"unused": {"hidden file": 2}, "notices": ["2 files were left out"]}
    saved = saved | {"info": saved["info"] | then}
    assert other_facts(dataclasses.replace(record, **then), saved, *true) == ([], {})
    wrong, _ = other_facts(dataclasses.replace(record, unused={"hidden file": 1}), saved, *true)
    assert [item.name for item in wrong] == ["unused"]


def test_a_resumed_run_is_bit_exact_only_if_its_attempts_computed_alike(resumed):
    alike, *true = resumed
    first, second = alike.attempts
    elsewhere = first | {"machine": first["machine"] | {"torch": "1.0"}}
    wrong, _ = other_facts(dataclasses.replace(alike, attempts=[elsewhere, second]), *true)
    assert [(item.name, item.found) for item in wrong] == [("resumed_bit_exact", False)]


@pytest.mark.parametrize("name", ["top1", "nll_cf", "T", "fgsm_8", "pgd20_1_acc", "adv_n"])
def test_a_score_that_was_taken_out_is_named(folder, capsys, name):
    record = read_record(folder)
    del record.metrics[name]
    write_record(folder, record)
    assert cli.main(["verify", str(folder)]) == 3
    assert f"{name} is missing and comes out as" in capsys.readouterr().err


def test_without_curves_and_attacks_the_main_score_alone_must_be_there(folder):
    (folder / "metrics.csv").unlink()
    record = read_record(folder)
    del record.metrics["nll_cf"]
    write_record(folder, record)
    found = verify_run(folder)
    assert found.record.verified == "partly"
    assert list(found.left) == ["nll_cf"]
    assert "--suite calibration" in found.left["nll_cf"]
    evaluate_run(folder, [], ["calibration"])
    assert verify_run(folder).record.verified is True
    record.metrics.pop("top1")
    write_record(folder, record)
    with pytest.raises(RunFailedError, match="top1 is missing"):
        verify_run(folder)


@pytest.mark.parametrize("name", ["of", "seed"])
def test_how_a_suite_was_carried_out_is_held_against_the_record(folder, name):
    record = read_record(folder)
    record.evaluations["adversarial"][name] += 1
    write_record(folder, record)
    with pytest.raises(RunFailedError, match=f"{name} of adversarial is recorded as"):
        verify_run(folder)


def test_a_run_that_started_from_a_file_verifies_without_it(finished, tmp_path):
    path = tmp_path / "net.pth"
    assert cli.main(["export", str(finished), "-o", str(path)]) == 0
    words = [*WORDS, f"run.dir={tmp_path}", f"net.weights={path}", "epochs=1", "eval.suites=[]"]
    record = run(compose(words))
    folder = tmp_path / record.id
    path.unlink()
    assert verify_run(folder).record.verified is True
    # Of an older version, which did not note the file: the id cannot be computed without it.
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    del checkpoint["mixbench"]["inputs"]
    torch.save(checkpoint, folder / "last.ckpt")
    record = read_record(folder)
    record.inputs, record.row_hash = {}, ""
    write_record(folder, record)
    found = verify_run(folder)
    assert found.record.verified == "partly"
    assert found.left["config_hash"] == f"net.weights: no such file or folder: {path}"
    assert cli.main(["export", str(finished), "-o", str(path)]) == 0
    assert verify_run(folder).record.verified is True


def test_a_run_verifies_after_the_file_that_it_started_from_has_moved(finished, tmp_path):
    path, moved = tmp_path / "net.pth", tmp_path / "moved.pth"
    assert cli.main(["export", str(finished), "-o", str(path)]) == 0
    words = [*WORDS, f"run.dir={tmp_path}", f"net.weights={path}", "epochs=1", "eval.suites=[]"]
    record = run(compose(words))
    folder = path.rename(moved) and tmp_path / record.id
    rewritten(folder / "config.yaml", str(path), str(moved))
    assert verify_run(folder).record.verified is True
    assert resume(folder, [f"net.weights={moved}"]).status == "done"
    torch.save(torch.load(moved, weights_only=True) | {}, moved)  # other bytes
    rewritten(folder / "record.json", record.inputs["net.weights"]["content"], "sha256:0123")
    with pytest.raises(RunFailedError, match="inputs"):
        verify_run(folder)


def test_a_checkpoint_without_its_facts_is_no_untrue_record(folder, capsys):
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    del checkpoint["mixbench"]["config"]
    torch.save(checkpoint, folder / "last.ckpt")
    assert cli.main(["verify", str(folder)]) == 2
    assert "does not say its config" in capsys.readouterr().err


def test_a_run_of_an_older_version_that_started_from_a_run_verifies(finished, tmp_path):
    words = [*WORDS, f"run.dir={tmp_path}", f"net.weights={finished}", "epochs=1", "eval.suites=[]"]
    record = run(compose(words))
    folder = tmp_path / record.id
    assert verify_run(folder).record.verified is True
    # Its id stood for the run that it started from of any seed, as a row of a table does.
    record.config_hash, record.row_hash, record.inputs = record.row_hash, "", {}
    record.id = record.id.replace(record.id.split("-")[-2], record.config_hash[:8])
    write_record(folder, record)
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    del checkpoint["mixbench"]["inputs"]
    checkpoint["mixbench"]["id"] = record.id
    torch.save(checkpoint, folder / "last.ckpt")
    assert verify_run(folder).record.verified is True


def test_scores_that_are_added_are_not_verified_yet(folder):
    verify_run(folder)
    assert evaluate_run(folder, [], ["calibration"]).verified is None
    assert read_record(folder).verified is None


def test_a_record_whose_ties_were_in_the_order_of_files_is_not_called_false(folder):
    content = json.loads((folder / "record.json").read_text())
    known = content["metrics"]
    known["mce"] = known.pop("maxce")
    (folder / "record.json").write_text(json.dumps(content | {"schema": 1}))
    changed(folder, aurc=known["aurc"] + 0.1)
    _, compared, left = verify_run(folder)
    assert list(left) == ["aurc"]
    assert "--suite calibration" in left["aurc"]
    assert "maxce" in compared
    evaluate_run(folder, suites=["calibration"])
    assert verify_run(folder)[2] == {}
    changed(folder, aurc=known["aurc"] + 0.1)
    with pytest.raises(RunFailedError, match="aurc"):
        verify_run(folder)


def test_other_weights_are_found(folder):
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["net.head.fc.weight"] *= 1.1
    torch.save(checkpoint, folder / "last.ckpt")
    with pytest.raises(RunFailedError, match="from its weights"):
        verify_run(folder)


@pytest.mark.parametrize("key", ["logits", "labels", "ids"])
def test_other_predictions_are_found(folder, key):
    arrays = dict(np.load(folder / PREDICTIONS))
    arrays[key] = arrays[key][::-1].copy()
    if key == "logits":
        arrays[key] = arrays[key] * 1.01
    np.savez(folder / PREDICTIONS, **arrays)
    with pytest.raises(RunFailedError, match="does not verify"):
        verify_run(folder)


def test_verifying_does_without_what_is_newer(folder, capsys):
    record = read_record(folder)
    record.evaluations["x-ray"] = {"images": 3}
    record.metrics["x_ray"] = 5.0
    write_record(folder, record)
    _, compared, left = verify_run(folder)
    assert "x_ray" not in compared
    assert left == {"x_ray": "this version does not know it"}
    assert read_record(folder).verified == "partly"
    assert read_record(folder).unverified == left
    assert cli.main(["verify", str(folder)]) == 0
    told = capsys.readouterr().out
    assert f"{folder.name}: partly verified" in told
    assert "not verified: x_ray, as this version does not know it" in told


def test_a_hold_out_gives_its_temperature_again(tmp_path):
    record = run(compose([*WORDS, f"run.dir={tmp_path}", "select=val", "eval.suites=[]"]))
    verified, compared, left = verify_run(tmp_path / record.id)
    assert verified.verified
    assert left == {}
    assert {"T_ts", "ece_ts"} <= set(compared)
    # Both files changed alike: only the weights can tell.
    folder = tmp_path / record.id
    arrays = dict(np.load(folder / PREDICTIONS))
    arrays["holdout_logits"] = 2 * arrays["holdout_logits"]
    np.savez(folder / PREDICTIONS, **arrays)
    changed(folder, **task_scores(Classification(), read_predictions(folder / PREDICTIONS)))
    with pytest.raises(RunFailedError, match=r"_ts is recorded as .* from its weights"):
        verify_run(folder)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A run whose epoch was chosen on the hold-out, with a look at the test set after each."""
    folder = tmp_path_factory.mktemp("chosen")
    words = [*WORDS, "select=val", "peek=true", "epochs=10", "eval.suites=[]", f"run.dir={folder}"]
    return folder / run(compose(words)).id


def test_what_an_epoch_was_chosen_by_is_verified(chosen):
    record, compared, left = verify_run(chosen)
    assert left == {}
    assert {"val_top1", "best_epoch", "top1_best_test", "top1_median10"} <= set(compared)
    assert set(compared) == set(record.metrics)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("val_top1", "weights"),
        ("best_epoch", "curves"),
        ("top1_best_test", "curves"),
        ("top1_median10", "curves"),
        ("T_ts", "weights"),
    ],
)
def test_a_choice_that_was_changed_is_found(chosen, tmp_path, name, source):
    folder = tmp_path / chosen.name
    shutil.copytree(chosen, folder)
    changed(folder, **{name: read_record(folder).metrics[name] + 1e-3})
    with pytest.raises(RunFailedError, match=f"{name} is recorded as .* from its {source}"):
        verify_run(folder)


def test_a_better_epoch_in_the_curves_is_found(chosen, tmp_path):
    folder = tmp_path / chosen.name
    shutil.copytree(chosen, folder)
    best = read_record(folder).metrics["val_top1"]
    (folder / "metrics.csv").write_text(
        "epoch,step,val/top1\n" + "".join(f"{n},{n},{best + (n == 3)}\n" for n in range(10))
    )
    with pytest.raises(RunFailedError, match="from its curves"):
        verify_run(folder)


@pytest.mark.parametrize("lost", ["all of it", "an epoch"])
def test_without_the_curves_the_reason_is_said(chosen, tmp_path, capsys, lost):
    folder = tmp_path / chosen.name
    shutil.copytree(chosen, folder)
    path = folder / "metrics.csv"
    if lost == "all of it":
        path.unlink()
    else:
        lines = path.read_text().splitlines(keepends=True)
        column = lines[0].strip().split(",").index("val/top1")
        scored = [line for line in lines[1:] if line.strip().split(",")[column]]
        path.write_text("".join(line for line in lines if line != scored[4]))
    assert cli.main(["verify", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "not verified: best_epoch, as metrics.csv lacks the hold-out's score" in shown
    assert "not verified: val_top1" not in shown  # the weights tell
    if lost == "all of it":
        for name in ("top1_median10", "top1_best_test"):
            assert f"not verified: {name}, as metrics.csv lacks the test score" in shown


def test_attacks_that_nothing_is_known_of_are_named(folder, monkeypatch):
    monkeypatch.setattr(autoattack, "find_spec", lambda name: None)
    record = read_record(folder)
    record.metrics |= {"autoattack_8": 100.0, "autoattack_8_acc": 0.0, "pgd10_4": 50.0}
    record.evaluations["adversarial"]["attacks"].append("autoattack_8")
    asked = OmegaConf.load(folder / "config.yaml")  # a run of a machine that had the package
    asked.eval.attacks = ["autoattack_8"]
    OmegaConf.save(asked, folder / "config.yaml")
    write_record(folder, record)
    _, compared, left = verify_run(folder)
    assert left == {
        "autoattack_8": "pyautoattack is not installed",
        "autoattack_8_acc": "pyautoattack is not installed",
        "pgd10_4": "the record does not say how it was carried out",
    }
    assert {"fgsm_8", "sat_pct"} <= set(compared)
    others = record.metrics.keys() & ATTACKED - {"adv_n"}
    record.metrics = {k: v for k, v in record.metrics.items() if k not in others}
    del record.metrics["autoattack_8_acc"], record.metrics["pgd10_4"]
    record.evaluations["adversarial"]["attacks"] = ["autoattack_8"]
    write_record(folder, record)
    _, compared, left = verify_run(folder)
    assert "top1" in compared
    assert set(left) == {"autoattack_8", "adv_n"}


def test_a_masked_gradient_is_said_and_recorded(caplog):
    images = torch.full((40, 3, 4, 4), 128, dtype=torch.uint8)
    info = DataInfo(num_classes=2, height=4, width=4, test_size=40, name="flat")

    def blind(x):
        # Wrong at the full radius only, and its gradient leads many small steps elsewhere.
        far = (x - 128 / 255).abs().amin(dim=(1, 2, 3)) > 7.9 / 255
        slope = 1e-3 * (x - 129 / 255).abs().sum(dim=(1, 2, 3))
        return torch.stack([10.0 - 20.0 * far + slope, torch.zeros(len(x))], dim=1)

    config = EvalConfig(attacks=["fgsm_8", "pgd10_8"])
    batches = [Batch(images, torch.zeros(40, dtype=torch.long), torch.arange(40))]
    with caplog.at_level(logging.INFO, "mixbench"):
        suite = load_suite("adversarial", config)
        outcome = suite.evaluate(blind, batches, info, ProcessGroup())
        suite.log_outcome(outcome)
    assert outcome.scores["fgsm_8"] == 100
    assert outcome.scores["pgd10_8"] == 0
    (warning,) = outcome.facts["warnings"]
    assert "gradients are probably masked" in warning
    assert warning in caplog.messages


def test_networks_of_several_labels_are_not_attacked(caplog):
    info = DataInfo(num_classes=3, height=8, width=8, task="multilabel", name="voc2007")
    config = EvalConfig()
    reason = "it counts right classes, and voc2007 is multilabel"
    assert load_suite("adversarial", config).refusal(info) == reason
    assert load_suite("calibration", config).refusal(info) == ""


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["eval"], 2, "no run is named"),
        (["verify", "eval.adv_n=3"], 2, "no run is named"),
        (["eval", "missing"], 2, "no record of a run"),
        (["eval", "RUN", "--suite", "colour"], 2, "unknown suite 'colour'\n  where: --suite\n"),
    ],
)
def test_bad_words_give_one_line(finished, capsys, words, code, text):
    assert cli.main([str(finished) if word == "RUN" else word for word in words]) == code
    assert text in capsys.readouterr().err


def test_of_several_runs_the_others_go_on(folder, finished, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "record.json").write_text((finished / "record.json").read_text())
    words = ["--suite", "calibration"]
    assert cli.main(["eval", str(broken), str(folder), *words]) == 5
    shown = capsys.readouterr()
    assert "mixbench: " in shown.err
    assert finished.name in shown.out


def test_the_command_prints_scores_and_writes_them(folder, capsys, caplog):
    with caplog.at_level(logging.INFO, "mixbench"):
        words = [str(folder), "--suite", "adversarial", "eval.attacks=[fgsm_4]", "eval.adv_n=8"]
        assert cli.main(["eval", *words]) == 0
    assert "fgsm_4" in capsys.readouterr().out
    assert any("adversarial on 8 of 96 images" in line for line in caplog.messages)
    assert json.loads((folder / "record.json").read_text())["metrics"]["adv_n"] == 8
    assert cli.main(["eval", str(folder), "--suite", "shuffle,calibration", "--suite", "gaze"]) == 2
    assert cli.main(["eval", str(folder), "--suite", "shuffle", "--suite", "occlusion"]) == 0
    assert read_record(folder).evaluations.keys() >= {"shuffle", "occlusion"}


@pytest.fixture
def maps(tmp_path):
    """A file of maps, one for each test image of the runs above."""
    path = tmp_path / "maps.npy"
    np.save(path, np.random.default_rng(0).random((96, 8, 8)) ** 4)
    return path


def test_gaze_stands_in_the_record_beside_its_control_and_verifies(tmp_path, maps, capsys):
    words = [*WORDS, f"run.dir={tmp_path}", "method=cutmix", "eval.suites=[]"]
    record = run(compose(words))
    folder = tmp_path / record.id
    with pytest.raises(UserError, match=r"needs one map per test image(.|\n)*eval\.gaze=FILE"):
        evaluate_run(folder, [], ["gaze"])
    assert cli.main(["eval", str(folder), "--suite", "gaze", f"eval.gaze={maps}"]) == 0
    assert "gaze_inconsistency" in capsys.readouterr().out
    record = read_record(folder)
    facts = record.evaluations["gaze"]
    assert (facts["images"], facts["of"], facts["pairs"], facts["blank"]) == (96, 96, 96, 0)
    assert facts["maps"] == str(maps)
    gaze, centre = record.metrics["gaze_inconsistency"], record.metrics["gaze_centre"]
    assert 1 < gaze < 50
    assert gaze != centre
    assert {"gaze_inconsistency", "gaze_centre"} <= set(verify_run(folder)[1])
    assert {gaze, centre} == set(board(folder.parent)["cutmix"])
    # The same after training, on another number of images in a batch.
    again = run(compose([*words[:-1], "run.tags=[b]", "eval.suites=[gaze]", f"eval.gaze={maps}",
                         f"run.dir={tmp_path / 'again'}"]))  # fmt: skip
    assert again.metrics["gaze_inconsistency"] == pytest.approx(gaze, abs=1e-6)
    assert again.id == record.id
    # Other maps are found out, and lost ones can be given again.
    maps.rename(tmp_path / "moved.npy")
    with pytest.raises(UserError, match=r"the file maps\.npy does not exist"):
        verify_run(folder)
    assert verify_run(folder, [f"eval.gaze={tmp_path / 'moved.npy'}"])[0].verified
    np.save(maps, np.ones((96, 8, 8)))
    with pytest.raises(RunFailedError, match="gaze_inconsistency is recorded as"):
        verify_run(folder)


def board(folder):
    """The columns of gaze in the leaderboard, by method."""
    words = ["leaderboard", str(folder), "--format", "json"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert cli.main(words) == 0
    rows = [row for group in json.loads(shown.getvalue())["groups"] for row in group["rows"]]
    names = ("gaze_inconsistency", "gaze_centre")
    return {row["method"]: [row["metrics"][name]["mean"] for name in names] for row in rows}


def test_a_method_without_a_mask_is_not_judged_by_gaze(tmp_path, maps, capsys):
    words = [*WORDS, f"run.dir={tmp_path}", "method=erm", "eval.suites=[gaze]", f"eval.gaze={maps}"]
    record = run(compose(words))
    assert "gaze" not in record.evaluations
    folder = tmp_path / record.id
    line = "gaze needs a mask over pixels; erm: it does not mix pixels"
    assert f"no gaze suite: {line}" in (folder / "log.txt").read_text()
    assert cli.main(["eval", str(folder), "--suite", "gaze", f"eval.gaze={maps}"]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert "leave gaze out" in error
    assert "Traceback" not in error


def test_maps_that_do_not_fit_are_refused_before_training(tmp_path, capsys):
    np.save(tmp_path / "maps.npy", np.ones((95, 8, 8)))
    words = [*WORDS, f"run.dir={tmp_path / 'runs'}", "eval.suites=[gaze]"]
    assert cli.main(["run", *words, f"eval.gaze={tmp_path / 'maps.npy'}"]) == 2
    assert "95 maps for 96 test images" in capsys.readouterr().err
    assert cli.main(["run", *words]) == 2
    assert "gaze needs one map per test image" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_maps_without_any_gaze_are_refused(tmp_path, folder):
    np.save(tmp_path / "maps.npy", np.zeros((96, 8, 8)))
    with pytest.raises(UserError, match="none of 96 mixed images shows any gaze"):
        evaluate_run(folder, [f"eval.gaze={tmp_path / 'maps.npy'}"], ["gaze"])


def test_attacks_that_are_typed_are_carried_out_whatever_the_run_was_judged_by(tmp_path):
    record = run(compose([*WORDS, f"run.dir={tmp_path}", "eval.suites=[]", "epochs=1"]))
    folder = tmp_path / record.id
    with pytest.raises(UserError, match=r"no suite(.|\n)*--suite"):
        evaluate_run(folder)
    assert evaluate_run(folder, ["eval.attacks=[fgsm_4]", "eval.adv_n=8"]).metrics["adv_n"] == 8
    looking = evaluate_run(folder, [f"eval.saliency={folder}"], ["calibration"])
    assert "occ_salient_auc" in looking.metrics  # asked for beside the suite that is named
