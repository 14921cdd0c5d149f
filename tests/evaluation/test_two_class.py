import pytest
import torch

from mixbench import compose, run
from mixbench.config.schema import EvalConfig
from mixbench.data.images import Batch
from mixbench.errors import UserError
from mixbench.evaluation.suite import load_suite
from mixbench.methods import METHODS
from mixbench.metrics.classification import two_class_hits
from mixbench.testing.samples import SIZE, sample_method


def suite(**settings):
    return load_suite("two_class", EvalConfig(**settings))


def shades(count=40):
    """Images whose brightness tells their class, in groups of many classes."""
    labels = torch.arange(count) % 4
    images = (60 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 3, SIZE, SIZE)
    return Batch(images.contiguous(), labels, torch.arange(count))


def test_a_hit_needs_both_classes_and_one_class_needs_the_best_guess():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(5, 1)
    first, second = torch.tensor([0, 1, 0, 0, 1]), torch.tensor([1, 0, 2, 0, 1])
    assert two_class_hits(logits, first, second).tolist() == [True, True, False, True, False]


class Sees(torch.nn.Module):
    """Finds the classes whose shade an image has anywhere."""

    def forward(self, pixels):
        shown = (pixels[:, 0] * 255).round()
        return torch.stack([(shown == 60 * k).float().mean((1, 2)) for k in range(4)], dim=1)


def counted(method, sight):
    # What a method tests is asked; here it sees shades instead.
    method = method.eval()
    method.forward = sight.forward
    return suite().count(method, [shades()], method.info)


def test_pasted_classes_are_seen_and_blended_ones_are_not():
    pasted = sample_method(METHODS.get("cutmix"), minmax=[0.4, 0.6])
    found = counted(pasted, Sees())
    assert found == {"n": 40, "hits": 40}
    assert suite().score(found) == {"two_class_hit": 100.0}
    blended = counted(sample_method(METHODS.get("mixup"), alpha=50.0), Sees())
    assert blended["n"] == 40
    assert blended["hits"] < 20


def test_pairs_of_one_class_do_not_count():
    batch = shades(16)
    labels = torch.tensor([0, 0, 1, 1] * 4)
    method = sample_method(METHODS.get("mixup")).eval()
    found = suite().count(method, [batch._replace(labels=labels)], method.info)
    assert found["n"] == 8


def test_methods_that_leave_pixels_alone_are_refused():
    info = sample_method(METHODS.get("erm")).info
    for name in ("erm", "manifoldmixup", "alignmix"):
        assert "mixes no pixels" in suite().refusal(info, sample_method(METHODS.get(name)))
    for name in ("mixup", "cutmix", "transformmix_recon", "transformmix_search"):
        assert suite().refusal(info, sample_method(METHODS.get(name))) == ""


def test_another_run_is_the_judge_and_the_record_names_it(runs, tiny):
    judge = run(compose([*tiny, "method=erm"]))
    place = runs / judge.id
    words = [*tiny, "method=cutmix", "eval.suites=[two_class]", "eval.adv_n=null"]
    own, other = (run(compose([*words, f"seed={s}", *more])) for s, more in
                  ((0, []), (1, [f"eval.judge={place}"])))  # fmt: skip
    assert own.evaluations["two_class"]["judge"] == "own"
    assert other.evaluations["two_class"]["judge"] == str(place)
    for record in (own, other):
        assert 0 <= record.metrics["two_class_hit"] <= 100
    with pytest.raises(UserError, match="has 10 classes, and the data have 4"):
        suite(judge=str(place)).count(
            sample_method(METHODS.get("cutmix")).eval(), [], sample_method(METHODS.get("erm")).info
        )
