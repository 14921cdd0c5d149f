import sys
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

import mixbench.functional as mf
from mixbench.functional.align import PLANS, check_finite

pytestmark = pytest.mark.usefixtures("one_thread")

NEXT = torch.tensor([1, 2, 3, 0])  # every map gets another one as partner
LAM = torch.tensor([0.3, 0.9, 0.5, 0.0])
SOLVERS = ("compat", "scaled", "pot")


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Four maps of 6 x 3 positions and 16 channels."""
    return torch.randn(4, 16, 6, 3, generator=seeded(0)), torch.eye(4)


@pytest.fixture
def plan() -> Tensor:
    """Any weights: no plan, so that rows and columns cannot be confused."""
    return torch.rand(4, 18, 18, generator=seeded(1))


@pytest.fixture
def no_transport(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a transport plan was computed")

    # The package holds the function under the name of the module.
    module = sys.modules["mixbench.functional.align"]
    monkeypatch.setattr(module, "position_plan", refuse)


# What is mixed.


@pytest.mark.parametrize("lam", [LAM, torch.tensor([0.3]), torch.tensor(0.3)])
@pytest.mark.parametrize("side", [0, 1])
def test_the_side_says_which_map_moves(batch, plan, side, lam):
    h = batch[0]
    own, other = h.flatten(2), h[NEXT].flatten(2)
    weight = lam.reshape(-1, 1, 1)
    if side == 0:
        other = torch.einsum("bij,bcj->bci", plan, other)
    else:
        own = torch.einsum("bij,bci->bcj", plan, own)
    expected = (weight * own + (1 - weight) * other).view_as(h)
    mixed = mf.align(h, lam=lam, perm=NEXT, side=side, plan=plan)
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("side", [0, 1])
def test_by_default_the_plan_is_the_transport_plan_of_the_pair(batch, side, solver):
    h = batch[0]
    settings = {"solver": solver, "eps": 0.3, "iters": 7, "cost_scale": "dim", "finalize": "row"}
    plan = mf.position_plan(h, h[NEXT], side=side, **settings)
    given = mf.align(h, lam=LAM, perm=NEXT, side=side, plan=plan)
    assert torch.equal(mf.align(h, lam=LAM, perm=NEXT, side=side, **settings), given)
    mixed = mf.alignmix(*batch, lam=LAM, perm=NEXT, side=side, **settings)
    assert torch.equal(mixed.x, given)
    assert torch.equal(mixed.aux.plan, plan)
    assert mixed.aux.side == side


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_side_that_keeps_its_layout_is_left_exactly_as_it_is_at_full_weight(batch, solver):
    h = batch[0] * 10
    own = mf.align(h, lam=torch.ones(4), perm=NEXT, side=0, solver=solver)
    partner = mf.align(h, lam=torch.zeros(4), perm=NEXT, side=1, solver=solver)
    assert torch.equal(own, h)
    assert torch.equal(partner, h[NEXT])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_map_paired_with_itself_stays_itself(batch, solver):
    h = batch[0]
    for side in (0, 1):
        decisions = {"lam": LAM, "perm": torch.arange(4), "side": side}
        mixed = mf.align(h, **decisions, eps=0.05, solver=solver)
        torch.testing.assert_close(mixed, h, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_moved_copy_is_put_back_in_place(batch, solver):
    own = batch[0][:1]
    order = torch.randperm(18, generator=seeded(2))
    moved = own.flatten(2)[:, :, order].view_as(own)
    h, perm = torch.cat([own, moved]), torch.tensor([1, 0])
    mixed = mf.align(h, lam=torch.zeros(2), perm=perm, side=0, eps=0.05, solver=solver)
    torch.testing.assert_close(mixed, h, rtol=1e-3, atol=1e-3)
    mixed = mf.align(h, lam=torch.ones(2), perm=perm, side=1, eps=0.05, solver=solver)
    torch.testing.assert_close(mixed, h[perm], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solver", ["compat", "scaled"])
def test_the_partners_order_of_positions_matters_only_if_its_layout_is_kept(batch, solver):
    h = batch[0][:2]
    order = torch.randperm(18, generator=seeded(3))
    moved = torch.stack([h[0], h[1].flatten(1)[:, order].view_as(h[1])])
    for side in (0, 1):
        decisions = {"lam": torch.tensor([0.4]), "perm": torch.tensor([1, 0]), "side": side}
        before, after = (mf.align(each, **decisions, solver=solver)[0] for each in (h, moved))
        if side == 1:
            before = before.flatten(1)[:, order].view_as(before)
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_swapping_the_images_their_weights_and_the_side_changes_nothing(batch, solver):
    h, back = batch[0], NEXT.argsort()
    settings = {"solver": solver, "cost_scale": "mean", "iters": 400}
    mixed = mf.align(h, lam=LAM, perm=NEXT, side=0, **settings)
    swapped = mf.align(h, lam=1 - LAM[back], perm=back, side=1, **settings)
    torch.testing.assert_close(swapped[NEXT], mixed, rtol=1e-3, atol=1e-4)


# Average pooling cancels the alignment.


def pooled_head(channels: int) -> tuple[Tensor, Tensor]:
    generator = seeded(4)
    weight = torch.randn(10, channels, generator=generator) / channels**0.5
    return weight, torch.randn(10, generator=generator)


def logits_and_gradient(h: Tensor, mixed: Tensor, nonlinear: bool) -> tuple[Tensor, Tensor]:
    """Logits of a pooled linear head, behind a ReLU if asked for, and the loss's gradient."""
    weight, bias = pooled_head(h.shape[1])
    mixed = mixed.relu() if nonlinear else mixed
    logits = F.linear(mixed.mean(dim=(2, 3)), weight, bias)
    targets = torch.full_like(logits, 0.1)
    (gradient,) = torch.autograd.grad(mf.soft_cross_entropy(logits, targets), h)
    return logits.detach(), gradient


@pytest.mark.parametrize(
    ("solver", "side", "logits_tolerance", "gradient_tolerance"),
    [("compat", 0, 1e-6, 1e-7), ("scaled", 0, 1e-3, 1e-3), ("scaled", 1, 1e-3, 1e-3)],
)
def test_in_front_of_a_pooled_linear_head_alignment_is_plain_interpolation(
    raw_features, solver, side, logits_tolerance, gradient_tolerance
):
    h = raw_features[0].clone().requires_grad_()
    decisions = {"lam": torch.tensor([0.4]), "perm": torch.arange(16).roll(1), "side": side}
    aligned, embed = (
        mf.align(h, **decisions, plan=kind, solver=solver) for kind in ("transport", "identity")
    )
    assert (aligned - embed).detach().abs().max() > 1  # the maps themselves differ
    logits, gradient = logits_and_gradient(h, aligned, nonlinear=False)
    expected, expected_gradient = logits_and_gradient(h, embed, nonlinear=False)
    scale = expected.abs().max()
    torch.testing.assert_close(logits / scale, expected / scale, rtol=0, atol=logits_tolerance)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=gradient_tolerance)
    # With a nonlinearity in between it is not.
    aligned, embed = (
        mf.align(h, **decisions, plan=kind, solver=solver) for kind in ("transport", "identity")
    )
    logits, _ = logits_and_gradient(h, aligned, nonlinear=True)
    expected, _ = logits_and_gradient(h, embed, nonlinear=True)
    assert (logits - expected).abs().max() > 0.02


def pooled_distance(h: Tensor, **settings) -> float:
    """How far alignment moves the pooled vector, as a share of its norm."""
    decisions = {"lam": torch.tensor([0.5]), "perm": torch.arange(len(h)).roll(1)}
    aligned = mf.align(h, **decisions, **settings).mean(dim=(2, 3))
    plain = mf.align(h, **decisions, plan="identity").mean(dim=(2, 3))
    return float(((aligned - plain).norm(dim=1) / plain.norm(dim=1)).mean())


def test_on_raw_features_only_the_partners_layout_under_compat_moves_the_pooled_vector(
    raw_features,
):
    h = raw_features[0]
    assert pooled_distance(h, side=0) < 1e-3
    assert pooled_distance(h, side=1) > 0.02
    for side in (0, 1):
        assert pooled_distance(h, side=side, solver="scaled") < 1e-3


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("finalize", ["none", "row"])
def test_alignment_is_skipped_exactly_where_it_cancels(batch, side, solver, finalize):
    h = batch[0] * 5
    settings = {"solver": solver, "finalize": finalize, "iters": 300}
    skipped = solver == "scaled" or (solver == "compat" and side == 0 and finalize == "none")
    assert mf.alignment_cancels(side, solver=solver, finalize=finalize) == skipped
    mixed = mf.align(h, lam=LAM, perm=NEXT, side=side, only_mean=True, **settings)
    plain = mf.align(h, lam=LAM, perm=NEXT, plan="identity")
    full = mf.align(h, lam=LAM, perm=NEXT, side=side, **settings)
    assert torch.equal(mixed, plain if skipped else full)
    if skipped:
        means = (each.mean(dim=(2, 3)) for each in (mixed, full))
        torch.testing.assert_close(*means, rtol=0, atol=1e-5 if solver == "compat" else 5e-3)


@pytest.mark.parametrize(
    ("settings", "skipped"),
    [
        ({"side": 0}, True),
        ({"side": 1}, False),
        ({"side": 1, "solver": "scaled"}, True),
        ({"side": 0, "finalize": "row"}, False),
        ({"side": 0, "post_align": torch.relu}, False),
        ({"side": 1, "plan": "shuffled"}, True),
        ({"side": 0, "plan": "weights"}, False),
    ],
)
def test_what_is_skipped_costs_no_transport(batch, no_transport, settings, skipped):
    if not skipped:
        with pytest.raises(AssertionError, match="was computed"):
            mf.alignmix(*batch, only_mean=True, **settings)
        return
    mixed = mf.alignmix(*batch, only_mean=True, lam=LAM, perm=NEXT, **settings)
    assert mixed.aux.plan is None
    assert torch.equal(mixed.x, mf.mixup(*batch, lam=LAM, perm=NEXT).x)


def test_what_comes_after_is_applied_to_the_mixture(batch):
    norm = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU())
    settings = {"lam": LAM, "perm": NEXT, "side": 0}
    expected = norm(mf.align(batch[0], **settings))
    for only_mean in (False, True):
        mixed = mf.alignmix(*batch, **settings, post_align=norm, only_mean=only_mean)
        torch.testing.assert_close(mixed.x, expected)
        mixed = mf.align(batch[0], **settings, post_align=norm, only_mean=only_mean)
        torch.testing.assert_close(mixed, expected)


# Controls.


@pytest.mark.parametrize("side", [0, 1])
def test_the_identity_is_mixup_and_its_loss_the_ordinary_one(batch, no_transport, side):
    mixed = mf.alignmix(*batch, lam=LAM, perm=NEXT, side=side, plan="identity")
    plain = mf.mixup(*batch, lam=LAM, perm=NEXT)
    assert mixed.aux == (side, None)
    for value, expected in zip(mixed[:4], plain[:4], strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0)
    y = batch[1].argmax(dim=1)
    logits = torch.randn(4, 4, generator=seeded(6))
    own, other = (F.cross_entropy(logits, each, reduction="none") for each in (y, y[NEXT]))
    expected = (LAM * own + (1 - LAM) * other).mean()
    torch.testing.assert_close(mf.soft_cross_entropy(logits, mixed.targets), expected)


@pytest.mark.parametrize("side", [0, 1])
def test_a_batch_paired_with_itself_by_the_identity_has_the_ordinary_loss(batch, side):
    h, targets = batch
    decisions = {"lam": LAM, "perm": torch.arange(4), "side": side}
    weight, bias = torch.randn(4, 16, generator=seeded(5)), torch.zeros(4)
    expected = F.cross_entropy(F.linear(h.mean(dim=(2, 3)), weight, bias), targets.argmax(dim=1))
    for plan in ("identity", torch.eye(18)[None]):
        mixed = mf.alignmix(h, targets, **decisions, plan=plan)
        logits = F.linear(mixed.x.mean(dim=(2, 3)), weight, bias)
        torch.testing.assert_close(mf.soft_cross_entropy(logits, mixed.targets), expected)
        torch.testing.assert_close(mixed.x, h, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [0, 1])
def test_a_shuffled_plan_moves_whole_positions_by_the_given_order(batch, no_transport, side):
    h = batch[0]
    order = torch.rand(4, 18, generator=seeded(7)).argsort(dim=1)
    settings = {"perm": NEXT, "side": side, "plan": "shuffled"}
    moved = mf.align(h, lam=torch.tensor([float(side)]), order=order, **settings).flatten(2)
    for row in range(4):
        source = h[row if side else NEXT[row]].flatten(1)
        places = order[row].argsort() if side else order[row]
        torch.testing.assert_close(moved[row], source[:, places], rtol=0, atol=0)
    drawn = mf.alignmix(*batch, **settings, generator=seeded(8)).aux.plan
    for dim in (1, 2):
        torch.testing.assert_close(drawn.sum(dim=dim), torch.ones(4, 18), rtol=0, atol=0)
    assert drawn.unique().tolist() == [0, 1]
    assert not torch.equal(drawn[0], drawn[1])
    again = mf.alignmix(*batch, **settings, generator=seeded(8)).aux.plan
    assert torch.equal(again, drawn)


@pytest.mark.parametrize("side", [0, 1])
def test_position_weights_are_the_sums_of_the_plan_in_another_order(batch, side):
    h = batch[0] * 5
    order = torch.rand(4, 18, generator=seeded(9)).argsort(dim=1)
    settings = {"perm": NEXT, "side": side}
    plan = mf.position_plan(h, h[NEXT], side=side)
    sums = plan.sum(dim=2 if side else 1)
    mixed = mf.alignmix(h, batch[1], **settings, plan="weights", order=order)
    weights = mixed.aux.plan.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(weights, sums.gather(1, order))
    torch.testing.assert_close(mixed.aux.plan, weights.diag_embed())
    # With every weight in its own place the pooled vector is that of the plan itself.
    stay = torch.arange(18).expand(4, 18)
    pooled = [
        mf.align(h, lam=LAM, **settings, **kind).mean(dim=(2, 3))
        for kind in ({"plan": "weights", "order": stay}, {})
    ]
    torch.testing.assert_close(*pooled, rtol=1e-4, atol=1e-4)
    if side == 1:
        assert (sums - 1).abs().max() > 0.05


def test_one_plan_may_serve_the_whole_batch(batch, plan):
    mixed = mf.align(batch[0], lam=LAM, perm=NEXT, plan=plan[:1])
    each = mf.align(batch[0], lam=LAM, perm=NEXT, plan=plan[:1].repeat(4, 1, 1))
    torch.testing.assert_close(mixed, each)


# Decisions.


def test_one_weight_is_drawn_per_batch_from_beta_2_and_more_if_asked_for(batch):
    draws = [mf.alignmix(*batch, plan="identity", generator=seeded(s)).lam for s in range(400)]
    lam = torch.stack(draws)
    assert (lam == lam[:, :1]).all()
    assert abs(lam[:, 0].mean() - 0.5) < 0.04
    assert abs(lam[:, 0].var() - 0.05) < 0.012
    own = mf.alignmix(*batch, plan="identity", per_sample=True, generator=seeded(0)).lam
    assert len(own.unique()) == 4


def test_both_sides_are_drawn_alike(batch):
    generator = seeded(0)
    sides = [mf.draw_side(generator) for _ in range(1000)]
    assert set(sides) == {0, 1}
    assert abs(sum(sides) - 500) < 80
    drawn = [mf.alignmix(*batch, plan="identity", generator=seeded(s)).aux.side for s in range(60)]
    assert 15 < sum(drawn) < 45


def test_labels_are_mixed_with_the_same_weights_and_partners_on_both_sides(batch):
    for side in (0, 1):
        mixed = mf.alignmix(*batch, lam=LAM, perm=NEXT, side=side, iters=3)
        torch.testing.assert_close(mixed.targets.diagonal(), LAM)
        torch.testing.assert_close(mixed.targets[torch.arange(4), NEXT], 1 - LAM)
        assert torch.equal(mixed.perm, NEXT)
        assert torch.equal(mixed.lam, LAM)


# Gradients.


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("side", [0, 1])
def test_the_gradient_flows_to_both_maps_and_not_into_the_plan(batch, side, plan):
    order = torch.rand(4, 18, generator=seeded(1)).argsort(dim=1)
    h = batch[0].requires_grad_()
    settings = {"lam": torch.tensor([0.4]), "perm": NEXT, "side": side}
    mixed = mf.alignmix(h, batch[1], **settings, plan=plan, order=order)
    assert plan == "identity" or not mixed.aux.plan.requires_grad
    direction = torch.randn(mixed.x.shape, generator=seeded(2))
    (gradient,) = torch.autograd.grad(mixed.x, h, direction)
    fixed = "identity" if plan == "identity" else mixed.aux.plan
    again = mf.align(h, **settings, plan=fixed)
    torch.testing.assert_close(*torch.autograd.grad(again, h, direction), gradient)
    (one,) = torch.autograd.grad(mf.align(h, **settings, plan=fixed)[0].sum(), h)
    assert one[0].any()
    assert one[1].any()
    assert not one[2:].any()


@pytest.mark.parametrize("side", [0, 1])
def test_no_gradient_flows_into_a_given_plan(batch, plan, side):
    h = batch[0].requires_grad_()
    given = plan.requires_grad_()
    mf.align(h, lam=LAM, perm=NEXT, side=side, plan=given).sum().backward()
    assert h.grad is not None
    assert given.grad is None


@pytest.mark.parametrize("side", [0, 1])
def test_the_gradient_is_that_of_the_formula(plan, side):
    h = torch.randn(4, 3, 6, 3, generator=seeded(0), dtype=torch.float64).requires_grad_()
    settings = {"lam": LAM.double(), "perm": NEXT, "side": side, "plan": plan.double()}
    assert torch.autograd.gradcheck(lambda h: mf.align(h, **settings), h)


@pytest.mark.parametrize("solver", ["compat", "scaled"])
@pytest.mark.parametrize("cost_scale", ["none", "mean", "dim", "cosine"])
def test_constant_and_zero_features_give_finite_mixtures_and_gradients(solver, cost_scale):
    h = torch.zeros(4, 16, 3, 3)
    h[1], h[2] = 7.0, torch.randn(16, 3, 3, generator=seeded(0)) * 100
    h.requires_grad_()
    for side in (0, 1):
        settings = {"side": side, "solver": solver, "cost_scale": cost_scale}
        mixed = mf.align(h, lam=torch.tensor([0.4]), perm=NEXT, **settings)
        (gradient,) = torch.autograd.grad(mixed.square().sum(), h)
        assert mixed.isfinite().all()
        assert gradient.isfinite().all()


# Shapes, types and devices.


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("plan", PLANS)
def test_a_single_position_is_plainly_interpolated(batch, no_transport, plan, solver):
    h = batch[0][:, :, :1, :1]
    for side in (0, 1):
        mixed = mf.alignmix(h, batch[1], lam=LAM, perm=NEXT, side=side, plan=plan, solver=solver)
        assert torch.equal(mixed.x, mf.mixup(h, batch[1], lam=LAM, perm=NEXT).x)
        assert mixed.aux.plan is None


@pytest.mark.parametrize("solver", ["compat", "scaled"])
def test_bfloat16_maps_get_the_plan_of_their_values_in_float32(raw_features, solver):
    h = raw_features[0].bfloat16()
    targets = torch.eye(16)
    for side in (0, 1):
        decisions = {"lam": torch.tensor([0.4]), "perm": torch.arange(16).roll(1), "side": side}
        high = mf.alignmix(h.float(), targets, **decisions, solver=solver)
        for context in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=context):
                low = mf.alignmix(h, targets, **decisions, solver=solver)
            assert low.aux.plan.dtype == torch.float32
            assert torch.equal(low.aux.plan, high.aux.plan)
            assert low.x.dtype == torch.bfloat16
            torch.testing.assert_close(low.x, high.x.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("solver", ["compat", "scaled"])
def test_nothing_is_read_from_a_device(batch, plan, solver):
    # Tensors of this device have no values: whatever reads one raises.
    h, targets = (each.to("meta") for each in batch)
    for side in (0, 1):
        mixed = mf.alignmix(h, targets, side=side, plan=plan, solver=solver, finalize="row")
        assert mixed.x.shape == h.shape
        assert mixed.x.device.type == mixed.targets.device.type == "meta"
        decisions = {"lam": LAM.to("meta"), "perm": NEXT.to("meta"), "side": side}
        assert mf.align(h, **decisions, plan=plan, solver=solver).device.type == "meta"


@pytest.mark.parametrize("solver", ["compat", "scaled"])
def test_new_maps_neither_break_a_compiled_graph_nor_compile_it_again(compiled, batch, solver):
    align = partial(mf.align, side=1, solver=solver, iters=5)
    operation = compiled(align)
    for seed in range(3):
        decisions = {
            "lam": mf.draw_lam(1, 2.0, seeded(seed)),
            "perm": mf.draw_perm(4, seeded(seed)),
        }
        h = batch[0] + seed
        torch.testing.assert_close(operation.call(h, **decisions), align(h, **decisions))
    assert operation.graphs == 1


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("side", [0, 1])
def test_maps_in_any_memory_order_are_mixed_alike_and_channels_last_stays(batch, side, plan):
    h, targets = batch
    decisions = {"lam": LAM, "perm": NEXT, "side": side, "plan": plan}
    decisions["order"] = torch.rand(4, 18, generator=seeded(5)).argsort(dim=1)
    expected = mf.alignmix(h, targets, **decisions).x
    last = h.contiguous(memory_format=torch.channels_last)
    strided = torch.stack([h, -h], dim=-1)[..., 0]
    for other in (last, strided, h.transpose(2, 3).contiguous().transpose(2, 3)):
        before = other.clone()
        mixed = mf.alignmix(other, targets, **decisions).x
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(other, before)
    mixed = mf.alignmix(last, targets, **decisions).x
    assert mixed.is_contiguous(memory_format=torch.channels_last)


# Bad input.


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"alpha": 0.0}, r"alpha must be > 0 and finite, got 0\.0"),
        ({"alpha": -1.0}, "alpha must be > 0"),
        ({"alpha": float("nan")}, "alpha must be > 0"),
        ({"alpha": float("inf")}, "alpha must be > 0"),
        ({"lam": torch.tensor([1.5])}, r"lam must lie in \[0, 1\]"),
        ({"lam": torch.tensor([float("nan")])}, r"lam must lie in \[0, 1\]"),
        ({"lam": torch.rand(3)}, "lam must hold 1 or 4 weights"),
        ({"perm": torch.arange(3)}, "perm must hold 4 partners"),
        ({"partner": "pair"}, "partner rule must be one of"),
        ({"side": 2}, "side must be 0 .* or 1 .*, got 2"),
        ({"plan": "random"}, "plan must be one of transport, shuffled, identity, weights, got 'r"),
        ({"plan": torch.rand(4, 18, 17)}, r"plan must be \(4, 18, 18\), got \(4, 18, 17\)"),
        ({"plan": torch.rand(2, 18, 18)}, r"plan must be \(4, 18, 18\), got \(2, 18, 18\)"),
        ({"order": torch.zeros(4, 9).long()}, r"order must hold \(4, 18\) places, got \(4, 9\)"),
        ({"eps": 0.0}, "eps must be > 0"),
        ({"iters": 0}, "iters must be >= 1"),
        ({"solver": "exact"}, "solver must be one of compat, scaled, pot"),
        ({"stop": -1.0}, "stop must be > 0"),
        ({"finalize": "both"}, "finalize must be one of none, row"),
        ({"cost_scale": "max"}, "cost_scale must be one of none, mean, dim, cosine, got 'max'"),
    ],
)
def test_settings_out_of_range_are_refused_before_any_work(batch, no_transport, settings, match):
    with pytest.raises(ValueError, match=match):
        mf.alignmix(*batch, **settings)


@pytest.mark.parametrize(
    ("decisions", "match"),
    [
        ({"lam": torch.tensor([-0.1])}, r"lam must lie in \[0, 1\]"),
        ({"lam": torch.rand(3)}, "lam must hold 1 or 4 weights"),
        ({"perm": torch.arange(3)}, "perm must hold 4 partners"),
    ],
)
def test_align_alone_looks_at_its_decisions_too(batch, no_transport, decisions, match):
    with pytest.raises(ValueError, match=match):
        mf.align(batch[0], **{"lam": LAM, "perm": NEXT, **decisions})


@pytest.mark.parametrize("plan", ["identity", "shuffled"])
def test_settings_of_the_transport_are_read_even_where_it_is_not_used(batch, plan):
    with pytest.raises(ValueError, match="solver must be"):
        mf.align(batch[0], lam=LAM, perm=NEXT, plan=plan, solver="exact")


@pytest.mark.parametrize(
    "h", [torch.zeros(4, 16), torch.zeros(4, 16, 8), torch.zeros(4, 3, 2, 2, 2)]
)
def test_features_that_are_no_maps_are_refused_with_a_way_to_make_them(h):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\).*unflatten"):
        mf.align(h, lam=LAM, perm=NEXT)
    with pytest.raises(ValueError, match=r"\(B, C, H, W\).*unflatten"):
        mf.alignmix(h, torch.eye(4))


def test_labels_of_another_number_are_refused(batch):
    with pytest.raises(ValueError, match=r"x \(4, 16, 6, 3\) and targets \(3, 3\)"):
        mf.alignmix(batch[0], torch.eye(3))
    with pytest.raises(ValueError, match=r"one_hot\(y, K\)"):
        mf.alignmix(batch[0], torch.arange(4))


def test_integer_features_are_refused():
    with pytest.raises(ValueError, match=r"floating type, got \(4, 3, 2, 2\) torch.uint8"):
        mf.align(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), lam=LAM, perm=NEXT)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_no_numbers_are_refused_when_looked_at(batch, value):
    h, targets = batch
    check_finite(h)
    h[2, 3, 1, 1] = value
    with pytest.raises(ValueError, match=r"\(4, 16, 6, 3\) hold NaN or infinity"):
        check_finite(h)
    mf.alignmix(h, targets)  # which would have to wait for the device


@pytest.mark.parametrize("side", [0, 1])
def test_a_batch_of_one_is_mixed_with_itself_and_said_so_once(batch, side):
    h, targets = batch[0][:1], batch[1][:1]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            mixed = mf.alignmix(h, targets, side=side, solver="scaled", eps=0.05)
    assert [str(each.message) for each in said] == [
        "a batch of 1 has no partner and is mixed with itself"
    ]
    assert said[0].filename == __file__
    torch.testing.assert_close(mixed.x, h, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mixed.targets, targets)
