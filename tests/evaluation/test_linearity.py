import pytest
import torch
import torch.nn.functional as F

from mixbench import compose, run
from mixbench.config.names import SUITES
from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.images import Batch
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import UserError
from mixbench.evaluation.linearity import LAMS, linearity_gaps, partners
from mixbench.evaluation.suite import SUITE_BATCH, load_suite
from mixbench.training.reevaluate import evaluate_run, verify_run

INFO = DataInfo(num_classes=4, height=4, width=4, test_size=150, name="noise")


@pytest.fixture(scope="module")
def noise():
    """Pixels, their labels, and a network that is not linear."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (150, 3, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.randint(4, (150,), generator=generator)
    weight = torch.randn(48, 4, generator=generator)
    return images, labels, lambda x: 3 * (x.flatten(1) @ weight).sin()


def by_hand(model, a, b, lam):
    """The formula, one pair and class after the other."""
    p = [model(x[None]).double().softmax(1)[0] for x in (a, b, lam * a + (1 - lam) * b)]
    return sum(abs(float(p[2][k] - lam * p[0][k] - (1 - lam) * p[1][k])) for k in range(4)) / 2


def outcome(noise, config=None, group=None, rows=None):
    images, labels, model = noise
    suite = load_suite("linearity", config or EvalConfig(adv_n=None))
    rows = suite.batches(labels, group or ProcessGroup()) if rows is None else rows
    batches = [Batch(images[d.indices], labels[d.indices], d.indices) for d in rows]
    return suite.evaluate(model, batches, INFO, ProcessGroup())


def test_the_gap_is_the_formula(noise):
    images, _, model = noise
    x = images.float() / 255
    gaps = linearity_gaps(model, x[:5], x[5:10])
    assert gaps.shape == (5, 9)
    assert list(LAMS) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    for pair in range(5):
        expected = [by_hand(model, x[pair], x[5 + pair], lam) for lam in LAMS]
        torch.testing.assert_close(gaps[pair].tolist(), expected, rtol=1e-5, atol=1e-6)
    assert gaps.min() > 0
    assert gaps.max() < 1


def test_a_network_that_is_linear_has_none_and_one_that_jumps_nearly_all():
    def linear(x):  # probabilities move along the segment
        share = x.flatten(1).mean(1)
        return torch.stack([share, 1 - share], dim=1).log()

    a, b = torch.full((2, 1, 2, 2), 0.9), torch.full((2, 1, 2, 2), 0.2)
    assert linearity_gaps(linear, a, b).max() < 1e-6

    def elsewhere(x):  # sure of a third class everywhere but at the ends
        inner = ((x - 0.55).abs().mean(dim=(1, 2, 3)) < 0.3).float()
        return 50 * F.one_hot(torch.where(inner > 0, 2, (x.mean(dim=(1, 2, 3)) > 0.5).long()), 3)

    assert linearity_gaps(elsewhere, a, b).min() > 0.999


def test_lam_weighs_the_first_image():
    def sees(x):
        return torch.stack([20 * (x.mean(dim=(1, 2, 3)) > 0.75).float(), 0 * x.mean((1, 2, 3))], 1)

    a, b = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    gaps = linearity_gaps(sees, a, b)[0]
    # Class 0 from lam 0.8 on, where the mixture gives it lam; half is left to chance below.
    assert gaps[7].item() == pytest.approx(0.5 * 0.2, abs=1e-6)
    assert gaps[0].item() == pytest.approx(0.5 * 0.1, abs=1e-6)
    assert gaps[6].item() == pytest.approx(0.5 * 0.7, abs=1e-6)


def test_partners_are_of_another_class_and_belong_to_the_image():
    labels = torch.tensor([0] * 50 + [1] * 10 + [3] * 5 + [0] * 35)
    rows = torch.arange(100)
    found = partners(labels, rows)
    assert (labels[found] != labels[rows]).all()
    for part in torch.randperm(100, generator=torch.Generator().manual_seed(0)).split(7):
        assert torch.equal(partners(labels, part), found[part])
    assert not torch.equal(partners(labels, rows, seed=1), found)
    # Of all images of other classes each is as likely: here 15 for the 85 images of class 0.
    drawn = torch.cat([partners(labels, rows[labels == 0], seed) for seed in range(200)])
    counts = drawn.bincount(minlength=100)[50:65].double()
    assert counts.sum() == 200 * 85
    chi = ((counts - counts.mean()).square() / counts.mean()).sum()
    assert chi < 36.1  # 0.1 % of 14 degrees of freedom
    last = partners(labels, rows[labels == 3])  # also the class that comes last
    assert (labels[last] != 3).all()


def test_one_class_gives_no_pair():
    with pytest.raises(ValueError, match="pairs need two"):
        partners(torch.zeros(5, dtype=torch.long), torch.arange(5))
    with pytest.raises(UserError, match="all images are of one class") as error:
        load_suite("linearity", EvalConfig()).batches(
            torch.ones(5, dtype=torch.long), ProcessGroup()
        )
    assert error.value.todo == "leave linearity out"


def test_the_score_is_the_mean_over_pairs_and_weights(noise):
    images, labels, model = noise
    found = outcome(noise)
    x, other = images.float() / 255, partners(labels, torch.arange(150))
    gaps = linearity_gaps(model, x, x[other])
    assert found.scores == {"lin_gap": pytest.approx(100 * gaps.mean().item(), rel=1e-6)}
    assert (found.facts["pairs"], found.facts["images"], found.facts["of"]) == (150, 150, 150)
    assert list(found.facts["curve"]) == [f"{lam:g}" for lam in LAMS]
    assert found.facts["curve"]["0.3"] == pytest.approx(100 * gaps[:, 2].mean().item(), abs=1e-4)


def test_processes_share_pairs_and_change_nothing(noise):
    images, labels, model = noise
    suite = load_suite("linearity", EvalConfig(adv_n=None))

    def counts(rank, world):
        rows = suite.batches(labels, ProcessGroup(rank, world))
        batches = [Batch(images[d.indices], labels[d.indices], d.indices) for d in rows]
        return suite.count(model, batches, INFO)

    whole, parts = counts(0, 1), [counts(rank, 7) for rank in range(7)]
    assert all(list(part) == list(whole) for part in parts)
    assert {key: sum(part[key] for part in parts) for key in whole} == whole
    assert whole["n"] == 150


def test_a_subset_has_the_pairs_of_the_whole(noise):
    _, labels, _ = noise
    few, every = (
        load_suite("linearity", EvalConfig(adv_n=n)).batches(labels, ProcessGroup())
        for n in (20, None)
    )
    assert [len(draw.indices) for draw in few] == [40]

    def pairs(draw):
        half = len(draw.indices) // 2
        return zip(draw.indices[:half].tolist(), draw.indices[half:].tolist(), strict=True)

    assert max(len(draw.indices) for draw in every) == SUITE_BATCH
    known = {first: second for draw in every for first, second in pairs(draw)}
    assert len(known) == 150
    assert all(known[first] == second for first, second in pairs(few[0]))
    assert outcome(noise, EvalConfig(adv_n=20)).facts["pairs"] == 20


def test_it_is_opt_in_and_for_single_labels():
    assert "linearity" in SUITES.names()
    assert "linearity" not in EvalConfig().suites
    info = DataInfo(num_classes=3, height=8, width=8, task="multilabel", name="voc2007")
    reason = "it pairs images of two classes, and voc2007 is multilabel"
    assert load_suite("linearity", EvalConfig()).refusal(info) == reason


def test_a_run_is_judged_by_it_later_and_verified(tmp_path):
    words = ["data=digits", "data.limit=96", "net.width=4", "epochs=1", "batch_size=16"]
    words += ["wandb.mode=disabled", "eval.adv_n=40", f"run.dir={tmp_path}"]
    record = run(compose([*words, "eval.suites=[calibration,linearity]"]))
    gap, facts = record.metrics["lin_gap"], record.evaluations["linearity"]
    assert 0 < gap < 100
    assert facts["pairs"] == 40
    assert sum(facts["curve"].values()) / 9 == pytest.approx(gap, abs=1e-5)
    again = evaluate_run(tmp_path / record.id, [], ["linearity"])
    assert again.metrics["lin_gap"] == pytest.approx(gap, rel=1e-9)
    verified = verify_run(tmp_path / record.id)
    assert "lin_gap" in verified.compared
    assert verified.left == {}
