import planted
import pytest
import torch

from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.images import Batch
from mixbench.errors import UserError
from mixbench.evaluation import separation
from mixbench.evaluation.suite import load_suite, load_suites
from mixbench.methods import METHODS
from mixbench.testing.samples import sample_method

INFO = DataInfo(2, planted.SIDE, planted.SIDE, channels=1)


def suite(**settings):
    return load_suite("separation", EvalConfig(**settings))


def observations(count=6, seed=0):
    first = (255 * planted.images(False, count, seed)).round().to(torch.uint8)
    second = planted.images(True, count, seed + 1)[:, None]
    return Batch(first, torch.arange(count) % 2, torch.arange(count), added=second)


def counted(model, **settings):
    judge = suite(**settings)
    counts = {}
    for part in judge.parts(INFO):
        found = judge.count_part(part, model, [observations(seed=len(part))], INFO)
        counts |= {f"{part}/{name}": value for name, value in found.items()}
    return judge, counts


@pytest.mark.parametrize("first", [False, True])
def test_planted_components_are_found_whichever_generator_makes_them(first):
    judge, counts = counted(planted.method(first))
    scores = judge.score(counts)
    assert scores["sep_psnr"] > 40  # bytes of the images are rounded
    assert scores["sep_psnr_second"] > 40
    assert scores["sep_ssim"] > 0.99
    assert scores["sep_residual"] < 1e-4
    assert judge.facts(INFO, counts)["first_component"] == f"generator {1 + first}"


def test_what_is_left_is_the_second_component_of_a_denoiser():
    judge, counts = counted(planted.method(count=1))
    scores = judge.score(counts)
    assert scores["sep_psnr"] > 40
    assert scores["sep_psnr_second"] > 40
    assert counts["test/found"].shape == (6, 1, 4)


def crafted(deciding, test):
    """Counts of two images with the PSNR of both components under both assignments."""

    def found(rows):
        both = torch.tensor(rows)  # (N, A) the same PSNR of both components
        return torch.stack([both, 0 * both, both, 0 * both], dim=2)

    counts = {"deciding/found": found(deciding), "test/found": found(test)}
    counts |= {"test/trivial": torch.tensor([5.0, 5.0]), "test/residual": torch.zeros(2)}
    return counts


def test_the_assignment_is_one_for_the_model_and_none_that_test_images_choose():
    counts = crafted(deciding=[[10.0, 20.0], [30.0, 25.0]], test=[[10.0, 40.0], [30.0, 20.0]])
    scores = suite().score(counts)
    assert scores["sep_psnr"] == 30.0  # the second assignment, by 22.5 to 20 of others
    assert scores["sep_gain"] == 25.0
    assert scores["sep_psnr_matched"] == 35.0
    counts = crafted(deciding=[[30.0, 20.0], [30.0, 25.0]], test=[[10.0, 40.0], [10.0, 20.0]])
    assert suite().score(counts)["sep_psnr"] == 10.0


class SeesLeft:
    """Class 1 where the left half is bright and the right one is not."""

    mean = (0.0,)

    def __init__(self, given, info):
        del given, info

    def __call__(self, pixels):
        half = planted.SIDE // 2
        assert bool((pixels >= 0).all())
        right = pixels[..., half:].mean((1, 2, 3))
        return torch.stack([(right > 0.05).float(), (right <= 0.05).float()], dim=1)


def test_the_judge_looks_at_estimates_observations_and_true_images(monkeypatch):
    monkeypatch.setattr(separation, "Judge", SeesLeft)
    judge, counts = counted(planted.method(True), judge="some run")
    scores = judge.score(counts)
    # Half of the labels are 1, what a clean left half is; with a right half all look like 0.
    assert scores["sep_top1"] == scores["sep_top1_clean"] == 50.0
    hits = counts["test/hits"]
    labels = torch.arange(6) % 2
    assert torch.equal(hits[:, -1], labels == 1)
    assert torch.equal(hits[:, -2], labels == 0)
    assert torch.equal(hits[:, 1], labels == 1)
    assert torch.equal(hits[:, 0], labels == 0)


def test_without_a_judge_there_are_no_hits_and_those_of_an_earlier_one_go():
    judge, counts = counted(planted.method())
    scores = judge.score(counts)
    assert "sep_top1" not in scores
    metrics = {"sep_top1": 12.0, "top1": 3.0}
    outcome = separation.Outcome(scores, judge.facts(INFO, counts))
    judge.add_to_record(outcome, metrics, {})
    assert "sep_top1" not in metrics
    assert metrics["top1"] == 3.0


def test_methods_that_separate_nothing_and_unknown_parts_are_refused():
    info = sample_method(METHODS.get("erm")).info
    reason = suite().refusal(info, sample_method(METHODS.get("erm")))
    assert "demixgan and denoisegan" in reason
    model = planted.method()
    assert suite().refusal(INFO, model) == ""
    model.run.data.second = "none"
    assert "nobody knows" in suite().refusal(INFO, model)


def test_a_judge_that_is_typed_beside_the_suite_asks_for_no_other():
    names = [s.name for s in load_suites(EvalConfig(suites=["separation"]), {"eval.judge"})]
    assert names == ["separation"]
    names = [s.name for s in load_suites(EvalConfig(suites=["calibration"]), {"eval.judge"})]
    assert names == ["calibration", "two_class"]


def test_a_search_is_carried_out_as_asked_for():
    y = planted.images(False, 2) + planted.images(True, 2, 1)
    long, short = (
        planted.demixer(config=EvalConfig(search_steps=steps, restarts=3)).separate(
            y, torch.arange(2)
        )
        for steps in (300, 2)
    )
    assert long.data_terms.shape == (2, 3)
    assert long.data_terms.max() < 1e-3 < short.data_terms.min()
    other = planted.demixer(config=EvalConfig(search="alternating")).separate(y, torch.arange(2))
    assert other.data_terms.shape == (2, 2)
    assert other.data_terms.max() < 1e-3


def test_an_encoder_gives_a_better_starting_point():
    y = planted.images(False, 4) + planted.images(True, 4, 1)
    guessed, drawn = (
        planted.demixer(config=EvalConfig(search_steps=1, encoder_steps=steps)).separate(
            y, torch.arange(4)
        )
        for steps in (150, 0)
    )
    assert (guessed.data_terms[:, 0] < 0.3 * drawn.data_terms[:, 0]).all()
    torch.testing.assert_close(guessed.data_terms[:, 1], drawn.data_terms[:, 1])


def test_a_judge_that_is_not_there_is_refused_before_training():
    with pytest.raises(UserError, match="no such file or folder"):
        suite(judge="nothing").check_data(type("Splits", (), {"info": INFO})())
