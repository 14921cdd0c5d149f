import math
from functools import partial

import ot
import pytest
import torch
from ot.batch import solve_batch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mixbench.functional as mf
from mixbench.functional.sinkhorn import SOLVERS

ENDS = [("compat", "columns"), ("scaled", "rows"), ("scaled", "columns")]
ENDS += [("pot", "rows"), ("pot", "columns")]


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def random_cost(*shape: int, largest: float = 1.0, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed)) * largest


def raw_cost(h: Tensor) -> Tensor:
    """Costs of each map and the next one, in float64 by broadcasting."""
    a, b = (each.flatten(2).double() for each in (h, h.roll(1, dims=0)))
    return torch.stack(
        [(x[:, :, None] - y[:, None, :]).square().sum(0) for x, y in zip(a, b, strict=True)]
    )


def sums(plan: Tensor, side: str) -> Tensor:
    """Sums of rows or columns of a plan in multiples of their share."""
    dim = 2 if side == "rows" else 1
    return plan.sum(dim=dim) * plan.shape[3 - dim]


def by_authors_formula(cost: Tensor, eps: float, iters: int) -> tuple[Tensor, Tensor, Tensor]:
    """Plan and potentials as written in the official code: increments of both potentials."""
    share = torch.tensor([1 / cost.shape[1], 1 / cost.shape[2]], dtype=cost.dtype)
    log_mu, log_nu = (share + 1e-8).log()
    u, v = cost.new_zeros(cost.shape[:2]), cost.new_zeros(cost.shape[0], cost.shape[2])

    def exponent() -> Tensor:
        return (u[:, :, None] + v[:, None, :] - cost) / eps

    for _ in range(iters):
        u = u + eps * (log_mu - exponent().logsumexp(dim=2))
        v = v + eps * (log_nu - exponent().logsumexp(dim=1))
    return exponent().exp(), u, v


def converged(cost: Tensor, eps: float, last: str) -> Tensor:
    """The float64 plan: the entropic weight falls in 40 steps of 100 iterations each."""
    kernel = cost.double().permute(1, 2, 0).contiguous()
    start = (kernel.mean((0, 1)) / eps).clamp(min=1)
    f, g = torch.zeros_like(kernel[:, :1]), torch.zeros_like(kernel[:1])

    def update(other: Tensor, dim: int) -> Tensor:
        value = (other - kernel) / weight
        top = value.amax(dim=dim, keepdim=True)
        # exp() takes 50 times as long where its result underflows.
        total = (value - top).clamp(min=-100).exp().sum(dim=dim, keepdim=True)
        return -weight * (total.log() + top)

    for step in range(40):
        weight = eps * start ** (1 - step / 39)
        for _ in range(100):
            if last == "columns":
                f = update(g, 1)
            g = update(f, 0)
            if last == "rows":
                f = update(g, 1)
    plan = ((f + g - kernel) / eps).exp().permute(2, 0, 1)
    return plan / plan.shape[1 if last == "rows" else 2]


# What the plans are.


@pytest.mark.parametrize("iters", [1, 2, 17, 100])
@pytest.mark.parametrize("shape", [(3, 9, 9), (2, 4, 7), (1, 5, 3)])
def test_compat_equals_the_authors_formula_after_any_number_of_iterations(iters, shape):
    cost = random_cost(*shape, largest=3.0).double()
    found = mf.sinkhorn(cost, eps=0.1, iters=iters)
    for value, expected in zip(found, by_authors_formula(cost, 0.1, iters), strict=False):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    assert found.iterations == iters


def test_the_plan_costs_no_more_than_any_other_with_its_marginals():
    # For two positions all plans with uniform marginals are a line; eps log(...) is known.
    cost = torch.tensor([[[0.0, 0.3], [0.5, 0.0]]])
    for solver, last in ENDS:
        plan = mf.sinkhorn(cost, eps=0.2, solver=solver, last=last).plan
        same = 0.5 / (1 + math.exp(-(0.3 + 0.5) / (2 * 0.2)))
        expected = torch.tensor([[[same, 0.5 - same], [0.5 - same, same]]])
        torch.testing.assert_close(plan, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("solver", "last"), ENDS)
@pytest.mark.parametrize("shape", [(3, 9, 9), (2, 4, 7), (4, 6, 2), (2, 1, 5), (2, 5, 1)])
def test_a_converged_plan_is_that_of_pot(solver, last, shape):
    cost = random_cost(*shape)
    share = [torch.full(shape[:2], 1 / shape[1]), torch.full((shape[0], shape[2]), 1 / shape[2])]
    mu, nu = (side.double() for side in share)
    reference = solve_batch(cost.double(), 0.1, mu, nu, max_iter=5000, tol=1e-12)
    found = mf.sinkhorn(cost, eps=0.1, iters=400, solver=solver, last=last)
    assert found.plan.dtype == torch.float32
    torch.testing.assert_close(found.plan.double(), reference.plan, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_a_converged_plan_is_that_of_pot_s_own_solver_in_the_log_domain(solver, last):
    cost = random_cost(3, 9, 7)
    plan = mf.sinkhorn(cost, eps=0.1, iters=400, solver=solver, last=last).plan
    mu, nu = (torch.full((count,), 1 / count, dtype=torch.float64) for count in (9, 7))
    settings = {"reg": 0.1, "method": "sinkhorn_log", "numItermax": 5000, "stopThr": 1e-12}
    reference = torch.stack([ot.sinkhorn(mu, nu, each.double(), **settings) for each in cost])
    torch.testing.assert_close(plan.double(), reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_potentials_and_cost_give_the_plan(solver, last):
    cost = random_cost(3, 6, 4, largest=2.0)
    found = mf.sinkhorn(cost, eps=0.1, iters=30, solver=solver, last=last)
    exponent = (found.u[:, :, None] + found.v[:, None, :] - cost) / 0.1
    torch.testing.assert_close(exponent.exp(), found.plan, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("iters", [1, 3, 100])
@pytest.mark.parametrize("largest", [10.0, 2800.0])
def test_compat_ends_with_exact_columns_after_any_number_of_iterations(iters, largest):
    plan = mf.sinkhorn(random_cost(8, 16, 16, largest=largest), iters=iters).plan
    assert (sums(plan, "columns") - 1).abs().max() < 1e-5
    assert (plan >= 0).all()


@pytest.mark.parametrize("iters", [1, 2, 5, 50])
@pytest.mark.parametrize(("last", "largest"), [("rows", 10.0), ("columns", 2800.0)])
def test_scaled_ends_with_the_side_asked_for_exact(last, largest, iters):
    cost = random_cost(8, 16, 9, largest=largest)
    plan = mf.sinkhorn(cost, iters=iters, solver="scaled", last=last).plan
    assert (sums(plan, last) - 1).abs().max() < 1e-5
    assert (plan >= 0).all()


@pytest.mark.parametrize("last", ["rows", "columns"])
def test_scaled_is_within_a_thousandth_on_the_other_side(raw_features, last):
    other = {"rows": "columns", "columns": "rows"}[last]
    moderate = mf.sinkhorn(random_cost(8, 16, 16), solver="scaled", last=last).plan
    assert (sums(moderate, other) - 1).abs().max() < 1e-3
    raw = mf.sinkhorn(raw_cost(raw_features[0]).float(), solver="scaled", last=last).plan
    assert (sums(raw, other) - 1).abs().mean() < 1e-3


@pytest.mark.parametrize("last", ["rows", "columns"])
@pytest.mark.parametrize(
    ("layer", "tolerance"),
    [
        pytest.param(0, 0.02, id="r16"),
        pytest.param(1, 0.2, marks=pytest.mark.slow, id="r64"),
    ],
)
def test_scaled_converges_on_raw_features_where_compat_does_not(
    raw_features, last, layer, tolerance
):
    cost = raw_cost(raw_features[layer])
    exact = converged(cost, 0.1, last)

    def error(solver: str, last: str) -> float:
        plan = mf.sinkhorn(cost.float(), solver=solver, last=last).plan
        return float((plan.double() - exact).abs().sum(dim=(1, 2)).mean())

    assert error("scaled", last) < tolerance
    assert error("compat", "columns") > 0.4


def test_the_largest_entry_of_each_row_is_the_optimal_assignment_on_raw_features(raw_features):
    cost = raw_cost(raw_features[0])
    plan = mf.sinkhorn(cost.float(), solver="scaled", last="rows").plan
    best = torch.stack([torch.tensor(linear_sum_assignment(each)[1]) for each in cost])
    assert (plan.argmax(dim=2) == best).float().mean() >= 0.99


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_permuting_positions_permutes_the_plan(solver, last):
    cost = random_cost(3, 7, 7)
    rows, columns = (torch.randperm(7, generator=seeded(seed)) for seed in (1, 2))
    solve = partial(mf.sinkhorn, solver=solver, last=last, iters=10)
    plan = solve(cost[:, rows][:, :, columns]).plan
    torch.testing.assert_close(plan, solve(cost).plan[:, rows][:, :, columns], rtol=1e-4, atol=1e-7)


def test_swapping_the_sides_transposes_the_plan_when_converged():
    cost = random_cost(3, 7, 7)
    for solver in SOLVERS:
        plan = mf.sinkhorn(cost, iters=500, solver=solver).plan
        swapped = mf.sinkhorn(cost.transpose(1, 2), iters=500, solver=solver).plan
        torch.testing.assert_close(swapped.transpose(1, 2), plan, rtol=1e-4, atol=1e-6)
    # At any time, if the other side comes last.
    rows = mf.sinkhorn(cost, iters=3, solver="scaled", last="rows").plan
    columns = mf.sinkhorn(cost.transpose(1, 2), iters=3, solver="scaled", last="columns").plan
    torch.testing.assert_close(columns.transpose(1, 2), rows, rtol=1e-5, atol=1e-7)


def test_a_smaller_eps_gives_a_harder_plan():
    cost = random_cost(4, 9, 9)
    entropies = [
        mf.plan_entropy(mf.sinkhorn(cost, eps=eps, solver="scaled").plan).mean()
        for eps in (0.001, 0.01, 0.1, 1.0, 100.0)
    ]
    assert entropies == sorted(entropies)
    assert entropies[0] < 0.05
    assert entropies[-1] > 0.999


# Numbers at the edge.


@pytest.mark.parametrize(("solver", "last"), ENDS)
@pytest.mark.parametrize("cost", [torch.zeros(2, 4, 6), torch.full((2, 4, 6), 1e5)])
def test_equal_costs_give_the_uniform_plan(solver, last, cost):
    plan = mf.sinkhorn(cost, solver=solver, last=last).plan
    torch.testing.assert_close(plan, torch.full_like(plan, 1 / 24), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_a_single_position_takes_everything(solver, last):
    plan = mf.sinkhorn(torch.tensor([[[3.0]], [[0.0]]]), solver=solver, last=last).plan
    torch.testing.assert_close(plan, torch.ones(2, 1, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("solver", "last"), [pair for pair in ENDS if pair[0] != "pot"])
@pytest.mark.parametrize(("eps", "largest"), [(1e-6, 1.0), (0.1, 1e7), (1e4, 1e-6)])
def test_extreme_costs_give_finite_plans(solver, last, eps, largest):
    cost = random_cost(4, 8, 8, largest=largest)
    cost[0] = 0
    cost[1, 2] = 0
    found = mf.sinkhorn(cost, eps=eps, solver=solver, last=last)
    for value in found[:3]:
        assert value.isfinite().all()
    if solver == "scaled":
        assert (sums(found.plan, last) - 1).abs().max() < 1e-5


def test_half_precision_costs_are_solved_in_float32_and_autocast_changes_nothing():
    cost = random_cost(2, 8, 8, largest=100.0)
    for solver in SOLVERS:
        low = mf.sinkhorn(cost.bfloat16(), solver=solver).plan
        assert low.dtype == torch.float32
        assert torch.equal(low, mf.sinkhorn(cost.bfloat16().float(), solver=solver).plan)
        plain = mf.sinkhorn(cost, solver=solver).plan
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(mf.sinkhorn(cost, solver=solver).plan, plain)


@pytest.mark.parametrize("solver", ["compat", "scaled"])
def test_float32_is_as_good_as_float64_on_raw_features(raw_features, solver):
    cost = raw_cost(raw_features[0])
    low, high = (mf.sinkhorn(each, solver=solver).plan for each in (cost.float(), cost))
    assert high.dtype == torch.float64
    assert (low - high).abs().max() * 16 < 0.02


# A plan is its own problem's alone.


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_a_plan_does_not_depend_on_the_rest_of_the_batch(solver, last):
    cost = random_cost(4, 6, 6) * torch.tensor([1.0, 5.0, 50.0, 0.0])[:, None, None]
    solve = partial(mf.sinkhorn, solver=solver, last=last, iters=40)
    together = solve(cost).plan
    for row in range(4):
        alone = solve(cost[row : row + 1]).plan
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-7)
    cost[2] = float("nan")
    spoilt = solve(cost).plan
    torch.testing.assert_close(spoilt[[0, 1, 3]], together[[0, 1, 3]], rtol=1e-5, atol=1e-7)
    assert spoilt[2].isnan().all()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_costs_in_any_memory_order_are_solved_alike_and_never_modified(solver, batch):
    cost = random_cost(batch, 6, 6)
    turned = cost.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    before = cost.clone()
    plan = mf.sinkhorn(cost, solver=solver, finalize="row").plan
    assert torch.equal(cost, before)
    torch.testing.assert_close(mf.sinkhorn(turned, solver=solver, finalize="row").plan, plan)


def test_no_gradient_passes():
    cost = random_cost(2, 4, 4).requires_grad_()
    for solver in SOLVERS:
        assert not any(value.requires_grad for value in mf.sinkhorn(cost, solver=solver)[:3])


# Iterations and the device.


class Reads(TorchDispatchMode):
    """Counts how often a number of a tensor is read by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("solver", ["compat", "scaled"])
def test_a_fixed_number_of_iterations_never_reads_from_the_device(solver):
    cost = random_cost(4, 6, 6)
    with Reads() as reads:
        found = mf.sinkhorn(cost, solver=solver, iters=37, finalize="row")
        mf.marginal_error(found.plan)
        mf.plan_entropy(found.plan)
    assert reads.count == 0
    assert found.iterations == 37
    assert mf.sinkhorn(cost.to("meta"), solver=solver).plan.shape == (4, 6, 6)


def test_the_official_stop_ends_where_the_mean_change_falls_below_it():
    cost = random_cost(4, 6, 6, largest=2.0)
    changes, before = [], torch.zeros(4, 6)
    for iters in range(1, 40):
        u = mf.sinkhorn(cost, iters=iters).u
        changes.append(float((u - before).abs().sum(dim=1).mean()))
        before = u
    for stop in (1.0, 0.1, 0.01):
        expected = next(index for index, change in enumerate(changes, 1) if change < stop)
        found = mf.sinkhorn(cost, stop=stop)
        assert found.iterations == expected < 40
        torch.testing.assert_close(found.plan, mf.sinkhorn(cost, iters=expected).plan)
    assert mf.sinkhorn(cost, stop=1e-30, iters=5).iterations == 5


@pytest.mark.parametrize("solver", ["compat", "scaled"])
def test_new_costs_neither_break_a_compiled_graph_nor_compile_it_again(compiled, solver):
    solve = partial(mf.sinkhorn, solver=solver, iters=5, finalize="row")
    operation = compiled(lambda cost: solve(cost).plan)
    for seed in range(3):
        cost = random_cost(4, 6, 6, seed=seed)
        torch.testing.assert_close(operation.call(cost), solve(cost).plan)
    assert operation.graphs == 1


# Finalising and describing a plan.


@pytest.mark.parametrize("solver", SOLVERS)
def test_finalising_gives_every_row_its_share_and_changes_nothing_else(raw_features, solver):
    cost = raw_cost(raw_features[0]).float()
    raw, final = (mf.sinkhorn(cost, solver=solver, finalize=rule) for rule in ("none", "row"))
    torch.testing.assert_close(sums(final.plan, "rows"), torch.ones(16, 16), rtol=0, atol=1e-5)
    shares = raw.plan / raw.plan.sum(dim=2, keepdim=True)
    torch.testing.assert_close(final.plan * 16, shares, rtol=1e-4, atol=1e-6)
    assert torch.equal(final.u, raw.u)


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_a_row_far_away_from_all_columns_is_not_left_empty(solver, last):
    cost = torch.zeros(1, 3, 2)
    cost[0, 0] = 1e6
    cost[0, 1, 0] = 1e6
    for iters in (1, 2, 100):
        settings = {"iters": iters, "solver": solver, "last": last, "finalize": "row"}
        plan = mf.sinkhorn(cost, **settings).plan
        torch.testing.assert_close(sums(plan, "rows"), torch.ones(1, 3), rtol=0, atol=1e-5)


def test_marginal_error_and_entropy_are_those_of_plans_known_by_hand():
    even, hard = torch.full((4, 4), 1 / 4), torch.eye(4)
    skew = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    plans = torch.stack([even, hard, skew])
    rows, columns = mf.marginal_error(plans)
    torch.testing.assert_close(rows, torch.tensor([0, 0, 0.5]))
    torch.testing.assert_close(columns, torch.zeros(3))
    torch.testing.assert_close(mf.plan_entropy(plans), torch.tensor([1, 0, 0.125]))
    for scale in (0.1, 7.0):
        torch.testing.assert_close(mf.marginal_error(plans * scale)[0], rows)
    assert mf.plan_entropy(torch.ones(2, 3, 1)).tolist() == [0, 0]


# Bad settings.


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"eps": 0.0}, r"eps must be > 0 and finite, got 0\.0"),
        ({"eps": -1.0}, "eps must be > 0"),
        ({"eps": float("nan")}, "eps must be > 0"),
        ({"eps": float("inf")}, "eps must be > 0"),
        ({"iters": 0}, "iters must be >= 1, got 0"),
        ({"solver": "exact"}, "solver must be one of compat, scaled, pot, got 'exact'"),
        ({"last": "row"}, "last must be one of rows, columns, got 'row'"),
        ({"last": "rows"}, "'compat' always ends on columns; take solver='scaled' or finalize"),
        ({"finalize": "column"}, "finalize must be one of none, row, got 'column'"),
        ({"stop": 0.0}, r"stop must be > 0, or None for a fixed number of steps, got 0\.0"),
        ({"stop": float("nan")}, "stop must be > 0"),
        ({"stop": 0.1, "solver": "scaled"}, "stop belongs to solver 'compat'"),
    ],
)
def test_settings_that_cannot_be_solved_with_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        mf.sinkhorn(random_cost(1, 2, 2), **settings)


@pytest.mark.parametrize("shape", [(3, 3), (1, 2, 3, 3), (0, 2, 2), (2, 0, 2), (2, 2, 0)])
def test_costs_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(B, n, m\)"):
        mf.sinkhorn(torch.zeros(shape))
