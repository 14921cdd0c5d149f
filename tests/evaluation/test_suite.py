import math
import sys

import pytest
import torch
from torch import nn

from mixbench import compose, run
from mixbench.config.names import SUITES
from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.images import Batch
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import UserError
from mixbench.evaluation.suite import Outcome, load_suite, load_suites
from mixbench.leaderboard.columns import COLUMNS
from mixbench.training.reevaluate import evaluate_run, verify_run

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


@pytest.mark.parametrize("name", SUITES.table)
def test_every_column_of_a_suite_is_described_and_no_other(name):
    described = [column for column in COLUMNS.values() if column.suite == name]
    suite = load_suite(name, EvalConfig(adv_n=5))
    assert {column.name for column in described} == set(suite.columns)
    assert all(column.sampled == (suite.limit is not None) for column in described)


class Constant(nn.Module):
    """A network that no attack can mislead, and that counts its passes by image."""

    passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += (2 if x.requires_grad else 1) * len(x)
        return x.flatten(1)[:, :3] * 1e-3 + torch.tensor([9.0, 0.0, 0.0])


@pytest.mark.parametrize(
    "config",
    [EvalConfig(), EvalConfig(attacks=["fgsm_4"]), EvalConfig(attacks=["pgd20_4_puzzlemix"])],
    ids=lambda config: "+".join(config.attacks),
)
@pytest.mark.parametrize("name", ["adversarial", "linearity"])
def test_a_suite_knows_how_many_passes_an_image_costs(name, config):
    model, suite = Constant(), load_suite(name, config)
    images, labels = torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    counts = suite.count(model, [Batch(images, labels, torch.arange(8))], INFO)
    assert model.passes == suite.passes * counts["n"]


@pytest.mark.parametrize("attacks", [["fgsm_8", "pgd20_1"], ["fgsm_8"], ["autoattack_8"]], ids=str)
def test_the_judgement_takes_a_tenth_of_the_training_at_most(attacks):
    suite = load_suite("adversarial", EvalConfig(attacks=attacks))
    sizes = []
    for images in (10, 1_000, 17_244, 40_000, 60_000, 10**7):
        judge = suite.after_training(images)
        sizes.append(0 if judge is None else judge.limit)
        assert sizes[-1] * suite.passes <= 0.1 * 3 * images
        assert sizes[-1] == 0 or sizes[-1] >= 48
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert attacks == ["autoattack_8"] or sizes[-1] == 512
    assert suite.limit == 512  # `mixbench eval` has no training to fit in with


@pytest.mark.parametrize(("given", "expected"), [(10, 10), (512, 512), (None, None)])
def test_a_number_of_images_that_was_given_holds_after_any_training(given, expected):
    for name in ("adversarial", "linearity"):
        judge = load_suite(name, EvalConfig(adv_n=given)).after_training(1)
        assert judge is not None
        assert judge.limit == expected


def test_a_suite_that_looks_at_all_images_is_left_as_it_is():
    suite = load_suite("occlusion", EvalConfig())
    assert suite.after_training(1) is suite


def test_typed_keys_ask_for_their_suites():
    config = EvalConfig(suites=["shuffle", "salience"])
    typed = ["eval.gaze", "eval.attacks", "eval.saliency", "eval.adv_n"]
    names = [suite.name for suite in load_suites(config, typed)]
    assert names == ["shuffle", "salience", "adversarial", "gaze"]
    assert [suite.name for suite in load_suites(config)] == ["shuffle", "salience"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("eval.suites=[oclusion]", "did you mean 'occlusion'"),
        ("eval.suites=[gaze]", "needs one map per test image"),
        ("eval.suites=[adversarial] eval.attacks=[]", "has no attack"),
        ("eval.suites=[adversarial] eval.attacks=[fgsm8]", "did you mean 'fgsm_8'"),
    ],
)
def test_settings_that_cannot_be_carried_out_are_refused_before_any_data_is_read(
    tmp_path, words, text
):
    place = [f"data.root={tmp_path / 'none'}", f"run.dir={tmp_path}", "wandb.mode=disabled"]
    with pytest.raises(UserError, match=text):
        run(compose(["data=cifar10", *words.split(), *place]))


BRIGHT = """
from mixbench.evaluation.suite import Suite

class Bright(Suite):
    columns = ("bright",)

    def count(self, model, batches, info):
        counts = {"n": 0, "bright": 0}
        for batch in batches:
            counts["n"] += len(batch.ids)
            counts["bright"] += int((batch.images.float().mean(dim=(1, 2, 3)) > 76).sum())
        return counts

    def score(self, counts):
        return {"bright": 100 * counts["bright"] / counts["n"]}
"""


def test_a_suite_of_a_user_is_carried_out_where_its_code_was_typed(tmp_path, monkeypatch):
    (tmp_path / "my_suites.py").write_text(BRIGHT)
    monkeypatch.syspath_prepend(tmp_path)
    name = "my_suites:Bright"
    words = ["data=digits", "data.limit=64", "net.width=4", "epochs=1", "batch_size=16"]
    words += [f"run.dir={tmp_path}", "wandb.mode=disabled", f"eval.suites=[shuffle,{name}]"]
    record = run(compose(words))
    assert 0 < record.metrics["bright"] < 100
    assert record.evaluations[name]["images"] == record.test_size
    folder = tmp_path / record.id
    with pytest.raises(UserError, match=f"names code that would be imported: {name}"):
        evaluate_run(folder)
    with monkeypatch.context() as patch:  # suites that are replaced are not imported
        patch.setitem(sys.modules, "my_suites", None)
        evaluate_run(folder, [], ["shuffle"])
        assert verify_run(folder).left == {"bright": "this version does not know it"}
    again = evaluate_run(folder, [], [name])
    assert again.metrics["bright"] == record.metrics["bright"]
    left = verify_run(folder, [f"eval.suites=[{name}]"]).left
    assert left == {"bright": "this version does not know it"}  # a record imports no code


def test_a_suite_that_lacks_a_hook_is_refused_before_any_data_is_read(tmp_path, monkeypatch):
    (tmp_path / "half_suites.py").write_text(BRIGHT.partition("    def score")[0])
    monkeypatch.syspath_prepend(tmp_path)
    words = ["data=cifar10", f"data.root={tmp_path / 'none'}", f"run.dir={tmp_path}"]
    with pytest.raises(UserError, match="it has no score"):
        run(compose([*words, "wandb.mode=disabled", "eval.suites=[half_suites:Bright]"]))
