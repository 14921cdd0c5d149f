import numpy as np
import pytest
import torch
from paths import SHARED

import mixbench.functional as mf
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.hmix import CONFIDENCE, KNOTS, RATED, read_label_map
from mixbench.testing.samples import BATCH, CLASSES, SIZE, sample_method

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
    with pytest.raises(ValueError, match="no method that mixes"):
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
    with pytest.raises(UserError, match="infer task"):
        method(source=str(path))


@pytest.mark.skipif(not (SHARED / "data/hmix.npz").exists(), reason="needs ../shared/data/hmix.npz")
def test_the_map_without_a_source_is_that_of_the_published_judgements():
    fitted = read_label_map(SHARED / "data/hmix.npz")
    for values, found in zip((KNOTS, RATED, CONFIDENCE), fitted, strict=True):
        np.testing.assert_allclose(values, found, atol=5.1e-5)
