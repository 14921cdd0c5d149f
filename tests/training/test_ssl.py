"""Runs that learn without labels: how they are asked for, and what is judged."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mixbench import cli, compose, run
from mixbench.config.compose import compose_text, render, resolve_method
from mixbench.data import DATA
from mixbench.errors import RunFailedError, UserError
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.methods.base import Method
from mixbench.metrics import topk
from mixbench.nn.probe import knn_scores, linear_probe
from mixbench.records.checkpoints import LAST, read_checkpoint
from mixbench.records.record import write_record
from mixbench.training.build import build
from mixbench.training.job import resolve
from mixbench.training.reevaluate import verify_run

SMALL = "data=digits data.limit=160 data.size=16 net.width=4 epochs=1 batch_size=32 "
SMALL += "wandb.mode=disabled "
NAMES = ("moco", "mocosamix")


def saved(runs, record):
    """The method of a run as its checkpoint has it, its data, and the run's predictions."""
    folder = runs / record.id
    config = compose("", base=folder / "config.yaml")
    splits = DATA.get("digits")(config.data).load(holdout=config.select == "val")
    method, _ = build(resolve(config), splits)
    method.load_state_dict(read_checkpoint(folder / LAST)["state_dict"])
    with np.load(folder / "predictions.npz") as stored:
        names = [key for key in stored.files if key != "class_names"]
        predictions = {key: torch.from_numpy(stored[key]) for key in names}
    return method.eval(), splits, predictions


# How it is asked for.


@pytest.mark.parametrize("name", NAMES)
def test_the_method_says_that_it_needs_no_labels_and_saying_it_too_changes_nothing(name):
    said, unsaid = compose(f"method={name} task=ssl"), compose(f"method={name}")
    assert said == unsaid
    assert unsaid.task == "ssl"
    assert resolve(said).identity.id == resolve(unsaid).identity.id
    composed = resolve_method(compose_text(f"method={name}"))
    assert f"task: ssl # method {name}" in " ".join(render(composed).split())


def test_runs_with_and_without_labels_are_in_no_table_together():
    with_labels, without = (compose(f"method={name} recipe=quick") for name in ("erm", "moco"))
    assert with_labels.task == "supervised"
    assert resolve(with_labels).identity.recipe_hash != resolve(without).identity.recipe_hash


@pytest.mark.parametrize(
    ("words", "match", "todo"),
    [
        ("method=erm task=ssl", "erm trains with labels", "moco, mocosamix"),
        ("method=samix recipe=moco_small", "samix trains with labels", "moco, mocosamix"),
        ("method=moco task=supervised", "moco trains without labels", "alignmix, "),
        ("method=moco data=voc2007 data.size=32", "one label for each image", "other data"),
    ],
)
def test_what_does_not_fit_ends_before_data_is_read(runs, words, match, todo):
    with pytest.raises(UserError, match=match) as error:
        run(compose(f"data.root=missing {words} wandb.mode=disabled"))
    assert todo in error.value.todo
    assert not runs.exists()


def test_another_task_is_refused_by_name(capsys):
    assert cli.main(["run", "method=moco", "task=pretrain", "--show"]) == 2
    assert "task must be one of supervised, ssl" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["", "task=ssl"])
@pytest.mark.parametrize("key", ["data.crop=2", "data.erasing=0.5", "optim.label_smoothing=0.1"])
def test_keys_that_views_and_features_do_not_know_are_said_to_have_no_effect(task, key):
    words = ["method=moco", key, *task.split()]
    with pytest.warns(UserWarning, match="has no effect while task=ssl") as seen:
        compose(words)
    assert len(seen) == 1
    with pytest.raises(UserError, match="has no effect while task=ssl"):
        compose(words, strict=True)


def test_the_recipes_ask_for_it():
    for name in ("moco_small", "moco_cifar", "moco_imagenet"):
        config = compose_text(f"method=moco recipe={name}").config
        assert config.task == "ssl"
    large = compose("method=mocosamix data=imagenet recipe=moco_imagenet data.size=224").method
    official = {"queue": 65536, "temperature": 0.2, "ema": 0.999, "blur": 0.5, "bn_groups": 2}
    assert {key: large[key] for key in official} == official
    for group in ({}, {"data": "imagenet"}):
        words = [f"{key}={value}" for key, value in group.items()] + ["data.size=224"]
        plain, mixed = (compose([f"method={name}", *words]).method for name in NAMES)
        assert {key: mixed[key] for key in plain if key != "name"} == {
            key: value for key, value in plain.items() if key != "name"
        }


# What is judged.


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_judged_by_a_classifier_and_by_neighbours_from_the_training_images(name, runs):
    record = run(compose(f"{SMALL} method={name} method.queue=64 method.knn_k=20"))
    assert (record.status, record.task) == ("done", "ssl")
    method, splits, predictions = saved(runs, record)
    assert torch.equal(predictions["labels"], splits.test.labels)
    with torch.no_grad():
        logits = method(splits.test.images / 255)
        features = method.features(splits.train.images / 255)
        tested = method.features(splits.test.images / 255)
    torch.testing.assert_close(logits, predictions["logits"], rtol=1e-4, atol=1e-4)
    assert float(topk(logits, splits.test.labels)) == pytest.approx(record.metrics["top1"])
    decay = method.config.probe_decay
    weight, bias = linear_probe(features, splits.train.labels, 10, decay=decay)
    fc = method.net.head.fc
    torch.testing.assert_close(fc.weight.detach(), weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fc.bias.detach(), bias, rtol=1e-3, atol=1e-3)
    assert float(topk(features @ weight.t() + bias, splits.train.labels)) > 60
    votes = knn_scores(
        tested, F.normalize(features, dim=1), splits.train.labels, 10, k=20, temperature=0.1
    )
    expected = float(topk(votes, splits.test.labels))
    assert expected == pytest.approx(record.metrics["top1_knn"], abs=0.7)
    assert 15 < record.metrics["top1_knn"] <= 100
    (group,) = build_leaderboard(find_runs([runs])).groups
    assert "task ssl" in group.title
    assert group.rows[0].summaries["top1_knn"].mean == record.metrics["top1_knn"]


def test_the_classifier_of_the_data_s_labels_changes_with_them_and_the_features_do_not(runs):
    states = []
    for limit in ("method.probe_decay=0.001", "method.probe_decay=1.0"):
        record = run(compose(f"{SMALL} method=moco method.queue=64 {limit}"))
        states.append(read_checkpoint(runs / record.id / LAST)["state_dict"])
    differ = {key for key in states[0] if not torch.equal(states[0][key], states[1][key])}
    assert differ == {"net.head.fc.weight", "net.head.fc.bias"}


def test_the_best_epoch_is_chosen_by_a_classifier_that_never_saw_the_hold_out(runs, monkeypatch):
    banks = []
    step = Method.validation_step

    def look(self, batch, batch_idx):
        banks.append((self.trainer.testing, self.bank.z.clone()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Method, "validation_step", look)
    monkeypatch.setattr(Method, "test_step", look)
    record = run(compose(f"{SMALL} method=moco method.queue=64 epochs=2 select=val"))
    assert record.train_size == 144  # of 160, without the hold-out
    assert [testing for testing, _ in banks] == [False, False, True, True]  # hold-out, then test
    assert all(len(z) == 144 for _, z in banks)
    torch.testing.assert_close(banks[0][1].norm(dim=1), torch.ones(144))
    assert not torch.equal(banks[0][1], banks[1][1])
    best = int(record.metrics["best_epoch"])
    assert all(torch.equal(banks[best][1], bank) for _, bank in banks[2:])
    method, splits, predictions = saved(runs, record)
    for name in (LAST, "best.ckpt"):
        method.load_state_dict(read_checkpoint(runs / record.id / name)["state_dict"])
        with torch.no_grad():
            logits = method(splits.test.images / 255)
            features = method.features(splits.train.images / 255)
        weight, _ = linear_probe(features, splits.train.labels, 10, decay=1e-3)
        torch.testing.assert_close(method.net.head.fc.weight.detach(), weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits, predictions["logits"], rtol=1e-4, atol=1e-4)


def test_the_vote_of_neighbours_is_verified(runs):
    record = run(compose(f"{SMALL} method=moco method.queue=64 select=val"))
    folder = runs / record.id
    _, compared, left = verify_run(folder)
    assert left == {}
    assert "top1_knn" in compared
    record.metrics["top1_knn"] += 0.1
    write_record(folder, record)
    with pytest.raises(RunFailedError, match=r"top1_knn is recorded as .* from its weights"):
        verify_run(folder)


def test_averaged_weights_have_a_classifier_of_their_own(runs):
    record = run(compose(f"{SMALL} method=moco method.queue=64 optim.ema=0.9"))
    method, splits, predictions = saved(runs, record)
    with torch.no_grad():
        logits = method(splits.test.images / 255)
        features = method.features(splits.train.images / 255)
    torch.testing.assert_close(logits, predictions["logits"], rtol=1e-4, atol=1e-4)
    weight, _ = linear_probe(features, splits.train.labels, 10, decay=1e-3)
    torch.testing.assert_close(method.net.head.fc.weight.detach(), weight, rtol=1e-3, atol=1e-3)


def test_a_run_that_was_stopped_before_its_test_gets_the_same_classifier(runs, monkeypatch):
    words = f"{SMALL} method=moco method.queue=64"
    first = run(compose(words))
    folder = runs / first.id
    before = read_checkpoint(folder / LAST)["state_dict"]
    (folder / LAST).write_bytes((folder / "previous.ckpt").read_bytes())
    bare = read_checkpoint(folder / LAST)["state_dict"]
    assert not torch.equal(bare["net.head.fc.weight"], before["net.head.fc.weight"])
    content = json.loads((folder / "record.json").read_text())
    content |= {"status": "interrupted", "metrics": {}}
    (folder / "record.json").write_text(json.dumps(content))
    monkeypatch.delattr(Method, "training_step")
    again = run(compose(words))
    assert again.metrics == first.metrics
    after = read_checkpoint(folder / LAST)["state_dict"]
    assert all(torch.equal(after[key], before[key]) for key in before)
