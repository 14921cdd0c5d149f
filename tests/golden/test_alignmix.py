from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mixbench.functional as mf

GOLDEN = "alignmix"
NOT_COMPARED: dict[str, str] = {}
# In the file, "mixed" is also the quantity of the plain mixture of images.
FEATURES = "aligned"


def settings(case) -> dict[str, Any]:
    stop = float(case["stop_threshold"])
    return {
        "eps": float(case["eps"]),
        "iters": int(case["max_iter"]),
        "stop": stop if stop >= 0 else None,  # negative: a fixed number of iterations
    }


def aligned(h: Tensor, perm: Tensor, side: int, plan: Tensor) -> Tensor:
    """The map that moves, alone: the partner's for side 0, the own one for side 1."""
    return mf.align(h, lam=torch.tensor([float(side)]), perm=perm, side=side, plan=plan)


@pytest.mark.filterwarnings("ignore:a batch of 1 has no partner")
@pytest.mark.cases("case*")
def test_alignmix_equals_the_authors_code_up_to_the_gradient_of_the_loss(case):
    h, perm = case["feat"], case["perm"]
    cost = mf.position_cost(h, h[perm])
    case.compare("expect_cost", cost, "cost")
    found = mf.sinkhorn(cost, **settings(case))
    case.compare("expect_u", found.u, "R")
    case.compare("expect_v", found.v, "R")
    case.compare("expect_n_iters", torch.tensor(found.iterations))
    case.compare("expect_plan", found.plan, "R")
    side, plan = int(case["direction"]), mf.position_plan(h, h[perm], **settings(case))
    case.compare("expect_R", plan, "R")
    case.compare("expect_aligned", aligned(h, perm, side, plan), "aligned")
    if "expect_plan_f64" in case:
        exact = mf.sinkhorn(mf.position_cost(h.double(), h[perm].double()), **settings(case))
        assert exact.plan.dtype == torch.float64
        case.compare("expect_plan_f64", exact.plan, "float64")
    mix_and_train(case)


def mix_and_train(case) -> None:
    """From the features to the gradient of the loss, with pooling and a linear layer as head."""
    h, y, lam = case["feat"].requires_grad_(), case["y"], case["lam"].float()
    decisions = {"lam": lam[None], "perm": case["perm"], "side": int(case["direction"])}
    weight, bias = case["fc_weight"], case["fc_bias"]
    mixed = mf.alignmix(h, mf.one_hot(y, len(bias)), **decisions, **settings(case))
    case.compare("expect_mixed", mixed.x.detach(), FEATURES)
    case.compare("expect_y_a", y)
    case.compare("expect_y_b", mf.take(y, mixed.perm))
    logits = F.linear(mixed.x.mean(dim=(2, 3)), weight, bias)
    case.compare("expect_logits", logits.detach(), "logits")
    loss = mf.soft_cross_entropy(logits, mixed.targets)
    case.compare("expect_loss", loss.detach(), "loss")
    case.compare("expect_grad_feat", *torch.autograd.grad(loss, h), "grad_feat")
    if "expect_mixed_f64" in case:
        decisions["lam"] = case["lam"][None]
        exact = mf.align(case["feat"].double(), **decisions, **settings(case))
        case.compare("expect_mixed_f64", exact, "float64")


@pytest.mark.cases("input*")
def test_the_branch_without_alignment_is_mixup(case):
    y = case["y"]
    targets = mf.one_hot(y, int(y.max()) + 1)
    mixed = mf.mixup(case["x"], targets, lam=case["lam"], perm=case["perm"])
    case.compare("expect_mixed", mixed.x, "input mixed")
    case.compare("expect_y_a", y)
    case.compare("expect_y_b", mf.take(y, mixed.perm))


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
