"""Suites that compare with people's labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from making import write_answers
from torch import nn

from mixbench.config.schema import DataInfo, EvalConfig, RunConfig
from mixbench.data.images import ResidentImages, Splits
from mixbench.data.loaders import MixData
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import UserError
from mixbench.evaluation.suite import load_suite
from mixbench.metrics.calibration import equal_mass_rmsce
from mixbench.metrics.human import human_cross_entropy

CLASSES, COUNT, SIDE = 10, 40, 6
INFO = DataInfo(CLASSES, SIDE, SIDE, name="made", test_size=COUNT)


class Linear(nn.Module):
    """A network whose gradient by the pixels is known."""

    info, device = INFO, torch.device("cpu")

    def transfer_batch_to_device(self, batch, device, number):
        return batch

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = 0.3 * torch.randn(CLASSES, 3 * SIDE * SIDE, generator=generator)

    def forward(self, x):
        return (x.flatten(1) - 0.5) @ self.weight.T


def made(rows=None):
    generator = torch.Generator().manual_seed(1)
    shape = (COUNT, 3, SIDE, SIDE)
    images = torch.randint(20, 236, shape, generator=generator, dtype=torch.uint8)
    labels = torch.arange(COUNT) % CLASSES
    rows = torch.arange(COUNT) if rows is None else rows
    test = ResidentImages(images, labels)
    return Splits(test, test.subset(torch.arange(len(rows))), INFO, test_rows=rows)


def outcome(name, path, splits=None, **settings):
    config = EvalConfig(human=str(path), **settings)
    suite = load_suite(name, config)
    suite.check()
    splits = splits or made()
    suite.check_data(splits)
    return suite.run(Linear(), MixData(splits, RunConfig(batch_size=4)), ProcessGroup())


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.npz"
    write_answers(path, np.arange(COUNT) % CLASSES)
    return path


def parts(splits, path):
    with np.load(path) as found:
        shares = torch.from_numpy(found["counts"] / found["counts"].sum(1, keepdims=True))
    x = splits.test.images / 255
    return x, Linear()(x), shares


def test_the_scores_are_those_of_all_images_by_hand(answers):
    found = outcome("human", answers)
    _, logits, shares = parts(made(), answers)
    probs = logits.double().softmax(dim=1)
    scores = found.scores
    assert scores["ce_human"] == pytest.approx(float(human_cross_entropy(logits, shares)))
    direct = -(shares * probs.log()).sum(dim=1).mean()
    assert scores["ce_human"] == pytest.approx(float(direct))
    assert scores["l1_human"] == pytest.approx(float((probs - shares).abs().sum(1).mean()))
    labels = torch.arange(COUNT) % CLASSES
    hits = logits.argmax(dim=1) == labels
    worst = min(float(hits[labels == y].float().mean()) for y in range(CLASSES))
    assert scores["worst_class"] == pytest.approx(100 * worst)
    from scipy.stats import entropy, pearsonr, wasserstein_distance

    pairs = list(zip(probs.numpy(), shares.numpy(), strict=True))
    distance = np.mean([wasserstein_distance(p, q) for p, q in pairs])
    assert scores["w1_human"] == pytest.approx(distance)
    assert scores["rmsce_100"] == pytest.approx(float(equal_mass_rmsce(logits, labels)))
    assert scores["rmsce_100_legacy"] == 0  # one bin only, which it leaves out
    entropies = [entropy(p) for p, _ in pairs], [entropy(q) for _, q in pairs]
    if np.ptp(entropies[1]) > 1e-9:
        assert scores["entropy_corr"] == pytest.approx(pearsonr(*entropies).statistic)
    else:
        assert np.isnan(scores["entropy_corr"])
    assert found.facts["images"] == COUNT


def test_losses_under_attack_are_those_of_the_gradient_by_hand(answers):
    found = outcome("human_attacks", answers, adv_n=None)
    x, logits, shares = parts(made(), answers)
    model, shares = Linear(), shares.float()
    gradient = (logits.softmax(dim=1) - shares) @ model.weight
    moved = (x + 4 / 255 * gradient.view_as(x).sign()).clamp(0, 1)
    attacked = model(moved)
    loss = F.cross_entropy(attacked, shares)
    assert found.scores["fgsm_loss_human"] == pytest.approx(float(loss), rel=1e-5)
    wrong = attacked.argmax(dim=1) != torch.arange(COUNT) % CLASSES
    assert found.scores["fgsm_err_human"] == pytest.approx(100 * float(wrong.float().mean()))
    losses = [found.scores[f"pgd_loss_human_{step}"] for step in range(10)]
    losses.append(found.scores["pgd_loss_human"])
    assert losses == sorted(losses)
    clean = float(F.cross_entropy(logits, shares))
    assert losses[0] != pytest.approx(clean, rel=1e-4)  # at the random start
    assert losses[0] < clean + (losses[-1] - clean) / 2
    # Ten steps reach the corner of the ball where the sign of the gradient never turns.
    assert losses[-1] == pytest.approx(float(loss), rel=2e-2)
    assert losses[-1] >= float(loss) - 1e-4


def test_only_images_that_people_answered_for_count(tmp_path, answers):
    path = tmp_path / "soft.npz"
    soft = np.eye(CLASSES, dtype=np.float32)[[3, 3, 7, 5]] * 0.8 + 0.02
    np.savez(path, image_index=np.array([3, 3, 17, 25]), soft_label=soft)
    rows = torch.arange(COUNT).roll(5)  # places of the images in the original test set
    splits = made(rows)
    found = outcome("human", path, splits)
    assert found.facts["images"] == 3
    x = splits.test.images / 255
    seen = [int((rows == row).nonzero()) for row in (3, 17, 25)]
    order = sorted(range(3), key=lambda place: seen[place])
    logits = Linear()(x)[[seen[place] for place in order]]
    labels = torch.from_numpy(soft[[1, 2, 3]][order])
    expected = float(human_cross_entropy(logits, labels))
    assert found.scores["ce_human"] == pytest.approx(expected)
    assert found.facts["answers"] != outcome("human", answers).facts["answers"]


def test_answers_for_other_images_are_refused_before_training(tmp_path, answers):
    with pytest.raises(UserError, match="needs people's answers") as caught:
        load_suite("human", EvalConfig()).check()
    assert "eval.human=FILE" in caught.value.todo
    with pytest.raises(UserError, match="file of people's answers does not exist"):
        outcome("human", tmp_path / "gone.npz")
    with pytest.raises(UserError, match="classes of 40 of 40 images differ"):
        outcome("human", answers, made(torch.arange(COUNT).roll(1)))
    splits = made()
    splits.test_rows = None
    with pytest.raises(UserError, match="left out"):
        outcome("human", answers, splits)
    np.savez(tmp_path / "far.npz", image_index=np.array([900]), soft_label=np.eye(10)[:1])
    with pytest.raises(UserError, match="none of its images is tested on"):
        outcome("human", tmp_path / "far.npz")


@pytest.mark.parametrize("name", ["human", "human_attacks"])
def test_the_passes_of_an_image_are_known(name, answers):
    passes = 0

    class Counted(Linear):
        def forward(self, x):
            nonlocal passes
            passes += (2 if x.requires_grad else 1) * len(x)
            return super().forward(x)

    config = EvalConfig(human=str(answers), adv_n=16)
    suite = load_suite(name, config)
    suite.run(Counted(), MixData(made(), RunConfig(batch_size=4)), ProcessGroup())
    assert suite.passes == (0 if name == "human" else passes / 16)
