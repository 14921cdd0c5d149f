import pytest
import torch

import mixbench.functional as mf

GOLDEN = "input_mixup"
NOT_COMPARED: dict[str, str] = {}


@pytest.mark.cases("case*")
def test_mixup_equals_the_authors_code_up_to_the_gradient_of_the_loss(case):
    y, targets = case["y"], mf.one_hot(case["y"], int(case["num_classes"]))
    mixed = mf.mixup(case["x"], targets, lam=case["lam"], perm=case["perm"])
    case.compare("expect_x", mixed.x)
    case.compare("expect_soft_target", mixed.targets)
    case.compare("expect_y_a", targets.argmax(dim=1))
    case.compare("expect_y_b", mf.take(y, mixed.perm))
    logits = case["logits"].requires_grad_()
    loss = mf.soft_cross_entropy(logits, mixed.targets)
    case.compare("expect_loss", loss.detach())
    case.compare("expect_dlogits", *torch.autograd.grad(loss, logits))


@pytest.mark.cases("timm_*")
def test_smoothed_targets_and_weights_per_batch_element_and_pair_equal_timm(case):
    x, lam = case["x"], case["lam"]
    if len(lam) == len(x) // 2:  # rows i and B-1-i share a weight
        lam = torch.cat([lam, lam.flip(0)])
    targets = mf.one_hot(case["y"], int(case["num_classes"]), smoothing=float(case["smoothing"]))
    mixed = mf.mixup(x, targets, lam=lam, partner="flip")
    case.compare("expect_x", mixed.x)
    case.compare("expect_target", mixed.targets)


@pytest.mark.cases("torchvision")
def test_rolled_partners_equal_torchvision(case):
    targets = mf.one_hot(case["y"], int(case["num_classes"]))
    mixed = mf.mixup(case["x"], targets, lam=case["lam"], partner="roll")
    case.compare("expect_x", mixed.x)
    case.compare("expect_target", mixed.targets)


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
