from pathlib import Path

import numpy as np
import pytest
import torch
from making import write_answers, write_judged
from paths import SHARED

import mixbench.functional as mf
from mixbench import cli, compose, run
from mixbench.data import DATA
from mixbench.data.loaders import MixData
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.hmix import CONFIDENCE, KNOTS, RATED, read_label_map
from mixbench.records.record import read_record
from mixbench.testing.samples import BATCH, CLASSES, SIZE, sample_method, sample_splits
from mixbench.training.job import resolve
from mixbench.training.reevaluate import evaluate_run, verify_run

NAMES = ("knots", "rated", "confidence")
LABELLED_BY_LAM = [
    "alignmix", "bc", "cutmix", "manifoldmixup", "mixup", "tdattenmix", "tlalign", "transmix"
]  # fmt: skip
HMIX = METHODS.get("hmix")


def method(member="mixup", **settings):
    return sample_method(HMIX, members=[member], **settings)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    return x, mf.one_hot(torch.randperm(BATCH, generator=generator) % CLASSES, CLASSES)


def step(found, x, targets):
    """A training step's batch and logits, by the decisions of its first step."""
    found.reseed(0, 0)
    mixed = found.mix(x, targets)
    return found.predict(mixed)


def plain(found):
    """With a map that changes nothing."""
    for name, values in zip(NAMES, ([0.0, 1.0], [0.0, 1.0], [1.0, 1.0]), strict=True):
        setattr(found, name, torch.tensor(values))
    return found


@pytest.mark.parametrize("member", LABELLED_BY_LAM)
def test_a_map_that_changes_nothing_leaves_the_labels_of_the_member(member):
    x, targets = batch()
    found = plain(method(member))
    logits, mixed = step(found, x, targets)
    alone = sample_method(METHODS.get(member)).eval()
    alone.load_state_dict(found.members[0].state_dict(), strict=False)
    assert mixed.perm is not None
    torch.testing.assert_close(mixed.targets, mf.mix_targets(targets, mixed.perm, mixed.lam))
    assert logits.shape == (BATCH, CLASSES)


@pytest.mark.parametrize("member", LABELLED_BY_LAM)
def test_labels_follow_the_map_and_images_do_not(member):
    x, targets = batch()
    seen, same = method(member, omega=0.25), plain(method(member))
    seen.load_state_dict(same.state_dict())
    (_, judged), (_, mixed) = step(seen, x, targets), step(same, x, targets)
    torch.testing.assert_close(judged.x, mixed.x)
    lam = mixed.lam.expand(BATCH)
    weight = torch.from_numpy(np.interp(lam.numpy(), KNOTS, RATED)).float()[:, None]
    sure = torch.from_numpy(np.interp(lam.numpy(), KNOTS, CONFIDENCE)).float()[:, None]
    two = weight * targets + (1 - weight) * targets[mixed.perm]
    smooth = 0.25 * (1 - sure)
    torch.testing.assert_close(judged.targets, (1 - smooth) * two + smooth / CLASSES)


def test_a_batch_that_is_not_mixed_keeps_its_labels():
    x, targets = batch()
    found = method("mixup", settings={"mixup": {"prob": 0.0}})
    _, mixed = step(found, x, targets)
    assert mixed.targets is targets


@pytest.mark.parametrize(
    ("member", "settings"),
    [("samix", {}), ("mixup2", {}), ("splicemix", {"labels": "mean"}), ("augmix", {"mixed": True})],
)
def test_members_of_other_labels_are_refused_by_name(member, settings):
    with pytest.raises(UserError, match=f"{member} does not label"):
        step(method(member, settings={member: settings}), *batch())


def test_members_of_which_none_mixes_are_refused():
    with pytest.raises(ValueError, match="must name methods that mix"):
        HMIX.Config(members=["erm"])
    assert HMIX.Config(members=["erm", "mixup"]).members == ["erm", "mixup"]


def test_people_judged_images_of_one_class_each():
    assert HMIX.tasks_with(HMIX.Config()) == {"multiclass"}


def test_judgements_of_a_study_give_the_map(tmp_path):
    true = np.repeat([0.25, 0.5, 0.75], 4).astype(np.float32)
    rated = np.where(true == 0.25, 0.4, np.where(true == 0.5, 0.5, 0.6)).astype(np.float32)
    whole = {key: np.arange(12, dtype=np.int16) % 10 for key in ("index1", "class1", "class2")}
    whole |= {"index2": whole["index1"] + 20, "subject": whole["index1"]}
    again = np.arange(12) == 11
    arrays = whole | {"true_lambda": true, "is_repeat": again}
    arrays |= {
        "inferred_lambda": np.where(again, 0, rated).astype(np.float32),
        "confidence": np.full(12, 0.5, np.float32),
    }
    path = tmp_path / "study.npz"
    np.savez(path, **{f"infer/{key}": value for key, value in arrays.items()})
    knots, rated, sure = read_label_map(path)
    assert knots.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert rated.tolist() == pytest.approx([0, 0.4, 0.5, 0.6, 1])  # the repeat counts for nothing
    assert sure.tolist() == [0.5] * 5
    found = method(source=str(path))
    assert found.rated.tolist() == pytest.approx([0, 0.4, 0.5, 0.6, 1])
    np.savez(path, **{f"select/{key}": value for key, value in whole.items()}
             | {"select/chosen_lambda": true, "select/is_repeat": again})  # fmt: skip
    with pytest.raises(UserError, match="task infer"):
        method(source=str(path))


@pytest.mark.skipif(not (SHARED / "data/hmix.npz").exists(), reason="needs ../shared/data/hmix.npz")
def test_the_map_without_a_source_is_that_of_the_published_judgements():
    fitted = read_label_map(SHARED / "data/hmix.npz")
    for values, found in zip((KNOTS, RATED, CONFIDENCE), fitted, strict=True):
        np.testing.assert_allclose(values, found, atol=5.1e-5)


# mode=fixed: judged images in the batches.

TINY = (
    "data=digits data.limit=96 data.size=16 net.width=4 epochs=2 batch_size=16 "
    "eval.suites=[calibration] "
    "wandb.mode=disabled trainer.accelerator=cpu"
)
PAIRS = [(0, 1), (0, 1), (2, 3), (2, 3), (4, 5)]
FIXED = "method=hmix method.mode=fixed data.judgements=judged.npz"


def fixed(**settings):
    found = method(mode="fixed", **settings)
    found.use_data(sample_splits(found))
    return found


def first_batch(found):
    data = MixData(sample_splits(found), found.run, found.wrap_dataset)
    return next(iter(data.train_dataloader()))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_judged_images_are_cropped_with_the_others_and_bear_people_s_labels(smoothing):
    found = method(mode="fixed", share=0.5, rule="mean")
    found.run.optim.label_smoothing = smoothing
    found.use_data(sample_splits(found))
    given = first_batch(found)
    mixed = given.ids >= 24
    assert int(mixed.sum()) == BATCH // 2
    found.reseed(0, 0)
    drawn = found.draw_augmentation(given)
    x, targets = found.prepare(given, drawn)
    assert bool(drawn.offsets.ne(2).any())
    for row in range(BATCH):  # every image alone, by the decisions drawn for it
        alone = given._replace(
            images=given.images[row : row + 1], labels=given.labels[row : row + 1], soft=None
        )
        own = drawn._replace(offsets=drawn.offsets[row : row + 1], flips=drawn.flips[row : row + 1])
        shown, hard = HMIX.__mro__[2].prepare(found, alone, own)
        torch.testing.assert_close(x[row : row + 1], shown)
        if not mixed[row]:
            torch.testing.assert_close(targets[row : row + 1], hard)
    judged, _ = found.judged
    numbers = given.ids[mixed] - 24
    hot = [mf.one_hot(y[numbers], CLASSES, smoothing=smoothing) for y in judged[1:3]]
    lam = judged.ratings[numbers].mean(dim=1, keepdim=True).float()
    torch.testing.assert_close(targets[mixed], lam * hot[0] + (1 - lam) * hot[1])


def test_nothing_is_mixed_beside_judged_images():
    found = fixed()
    given = first_batch(found)
    found.reseed(0, 0)
    x, targets = found.prepare(given)
    found.reseed(0, 0)
    mixed = found.mix_batch(given)
    logits, after = found.predict(mixed)
    assert torch.equal(after.x, x)
    assert torch.equal(after.targets, targets)
    expected = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(found.loss(logits, after), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "fixed", "members": ["cutmix"]}, "mix with method.mode=online"),
        ({"mode": "fixed", "probs": [1.0]}, "mix with method.mode=online"),
        ({"mode": "fixed", "source": "judged.npz"}, "takes data.judgements"),
        ({"mode": "fixed", "rule": "mode"}, "method.rule must be one of linear, "),
        ({"mode": "fixed", "share": 0.0}, "method.share must lie in"),
        ({"mode": "fixed", "rule": "mean", "omega": 0.1}, "needs method.rule=smooth_uniform"),
        ({"rule": "mean"}, "method.rule needs method.mode=fixed"),
        ({"share": 0.5}, "method.share needs method.mode=fixed"),
        ({"mode": "fixed", "settings": {"mixup": {"alpha": 0.2}}}, "not among method.members"),
    ],
)
def test_settings_of_the_other_mode_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HMIX.Config(**settings)


def test_judged_images_must_be_named_before_anything_is_read():
    with pytest.raises(UserError, match="none are named") as caught:
        resolve(compose("data=digits data.root=nowhere method=hmix method.mode=fixed"))
    assert "data.judgements=FILE" in caught.value.todo


@pytest.fixture
def judged(tmp_path, monkeypatch, runs):
    """A folder with judgements of digits' test images, and people's answers for them."""
    monkeypatch.chdir(tmp_path)
    labels = DATA.get("digits")(compose("data=digits").data).load().test.labels
    write_judged("judged.npz", PAIRS, labels, rated=[0.2, 0.4, 0.5, 0.9, 0.7])
    write_answers("answers.npz", labels)
    return labels


def test_a_run_on_judged_images_is_not_tested_on_them_and_says_so(judged, runs, caplog):
    plain = run(compose(f"{TINY} data.judgements=judged.npz"))
    words = [*TINY.split(), *FIXED.split(), "eval.suites=[calibration,human]"]
    assert cli.main(["run", *words, "eval.human=answers.npz"]) == 0
    (folder,) = [path for path in runs.iterdir() if path.name.startswith("hmix")]
    record = read_record(folder)
    left = {0, 1, 2, 3, 4, 5}
    config = compose(f"{TINY} data.judgements=judged.npz")
    rows = resolve(config).read_data().test_rows
    some = resolve(compose(TINY)).read_data().test_rows
    assert {*rows.tolist()} == {*some.tolist()} - left
    assert record.test_size == len(rows) == plain.test_size
    (line,) = [line for line in record.notices if "judged" in line]
    assert line.startswith(f"{96 - len(rows)} test images of 96 that people judged (judged.npz)")
    assert line in caplog.messages
    assert record.recipe_hash == plain.recipe_hash  # rows of one table
    assert record.settings == {"mode": "fixed", "members": ["erm"]}
    assert record.data == plain.data == "digits-unjudged"
    assert record.recipe_hash != run(compose(TINY)).recipe_hash
    assert record.evaluations["human"]["images"] == len(rows)
    assert verify_run(folder).record.verified is True
    again = evaluate_run(folder, ["eval.adv_n=32", "eval.human=answers.npz"], ["human_attacks"])
    assert again.evaluations["human_attacks"]["images"] == 32
    assert again.metrics["pgd_loss_human"] > again.metrics["pgd_loss_human_0"] > 0
    write_answers("others.npz", judged, others=20)
    other = evaluate_run(folder, ["eval.human=others.npz", "eval.adv_n=32"], ["human"])
    assert other.metrics["ce_human"] != again.metrics["ce_human"]
    assert verify_run(folder).record.verified is True  # by the answers of the record
    Path("others.npz").unlink()
    left = verify_run(folder).left
    assert {*left} >= {"ce_human", "rmsce_100_legacy", "pgd_loss_human_0"}
    assert left["ce_human"] == "people's answers are not at hand; eval.human=others.npz"


def test_an_overlap_marks_the_run_and_its_row(judged, runs, capsys):
    record = run(compose(f"{TINY} {FIXED} data.allow_overlap=true"))
    assert record.test_size == 96
    assert "judged images tested" in record.marks
    assert any(line.startswith("warning: ") for line in record.notices)
    assert cli.main(["leaderboard", "--columns", "all"]) == 0
    assert "judged images tested" in capsys.readouterr().out
