import math

import pytest
import torch
from torch import nn

from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.images import Batch
from mixbench.distributed.process_group import ProcessGroup
from mixbench.evaluation.suite import Outcome, load_suite

INFO = DataInfo(num_classes=3, height=8, width=8, test_size=40, name="noise")


class Network(nn.Module):
    """A linear network whose output is no number for images that are darker than a limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(192, 3, generator=generator))
        self.limit = limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return torch.where((x.mean(1) < self.limit)[:, None], math.nan, x @ self.weight)


@pytest.mark.parametrize("name", ["adversarial", "occlusion", "shuffle", "linearity"])
def test_outputs_that_are_no_numbers_leave_no_score(name):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels, suite = torch.arange(40) % 3, load_suite(name, EvalConfig(attacks=["fgsm_8"]))
    rows = suite.batches(labels, ProcessGroup())

    def outcome(limit: float):
        batches = [Batch(images[d.indices], labels[d.indices], d.indices) for d in rows]
        return suite.evaluate(Network(limit), batches, INFO, ProcessGroup())

    sound, broken = outcome(0), outcome(0.5)
    assert all(math.isfinite(value) for value in sound.scores.values())
    assert broken.scores.keys() == sound.scores.keys()
    kept = {key for key, value in broken.scores.items() if math.isfinite(value)}
    assert kept == ({"adv_n"} if name == "adversarial" else set())
    assert "not numbers" in broken.facts["warnings"][0]
    assert broken.facts["images"] == sound.facts["images"]


def attacked(name, rate, images=40, **facts):
    facts = {"images": images, "of": 40, "seed": 0, "attacks": [name], "seconds": 1.0} | facts
    return Outcome({"adv_n": float(images), name: rate, f"{name}_acc": 100 - rate}, facts)


def test_an_attack_that_is_added_is_held_against_those_before():
    suite, metrics, evaluations = load_suite("adversarial", EvalConfig()), {}, {}
    assert suite.add_to_record(attacked("pgd10_8", 50.0), metrics, evaluations) == []
    (sign,) = suite.add_to_record(attacked("fgsm_8", 60.0), metrics, evaluations)
    assert sign.startswith("pgd10_8 fails on 50.0 %")
    facts = evaluations["adversarial"]
    assert facts["attacks"] == ["pgd10_8", "fgsm_8"]
    assert facts["warnings"] == [sign]
    assert suite.add_to_record(attacked("fgsm_4", 40.0), metrics, evaluations) == []
    assert evaluations["adversarial"]["warnings"] == [sign]


def test_attacks_on_other_images_take_the_place_of_those_before():
    suite, metrics, evaluations = load_suite("adversarial", EvalConfig()), {"top1": 80.0}, {}
    suite.add_to_record(attacked("fgsm_8", 60.0), metrics, evaluations)
    (told,) = suite.add_to_record(attacked("fgsm_4", 50.0, images=20), metrics, evaluations)
    assert "fgsm_8" in told
    assert metrics == {"top1": 80.0, "adv_n": 20.0, "fgsm_4": 50.0, "fgsm_4_acc": 50.0}
    assert evaluations["adversarial"]["attacks"] == ["fgsm_4"]
