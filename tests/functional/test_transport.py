import pytest
import torch
from torch import Generator, Tensor

import mixbench.functional as mf
from mixbench.functional.transport import COST_SCALES

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def maps(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, *shape, generator=seeded(seed))
    return a, b


def by_broadcasting(a: Tensor, b: Tensor, scale: str) -> Tensor:
    a, b = (each.flatten(2).double() for each in (a, b))
    if scale == "cosine":
        a, b = (each / each.norm(dim=1, keepdim=True) for each in (a, b))
    cost = (a[:, :, :, None] - b[:, :, None, :]).square().sum(dim=1)
    return cost / {"mean": cost.mean((1, 2), True), "dim": a.shape[1]}.get(scale, 1)


@pytest.mark.parametrize("scale", COST_SCALES)
def test_costs_are_squared_distances_of_all_pairs_of_positions(scale):
    a, b = maps(3, 7, 4, 5)
    cost = mf.position_cost(a, b, scale=scale)
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost.double(), by_broadcasting(a, b, scale), rtol=1e-5, atol=1e-5)
    # The maps need not have as many positions.
    cost = mf.position_cost(a.double(), b[:, :, :3].double(), scale=scale)
    expected = by_broadcasting(a, b[:, :, :3], scale)
    torch.testing.assert_close(cost, expected, rtol=1e-12, atol=1e-12)


def test_a_row_is_a_position_of_the_first_map_counted_along_its_rows():
    a, b = torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3)
    a[0, 0, 1, 0] = 2.0
    expected = torch.zeros(1, 6, 6)
    expected[0, 3] = 4.0
    torch.testing.assert_close(mf.position_cost(a, b), expected)


def test_an_offset_that_all_positions_share_costs_no_accuracy():
    a, b = (each + 100 for each in maps(2, 512, 4, 4))
    cost = mf.position_cost(a, b)
    torch.testing.assert_close(cost.double(), by_broadcasting(a, b, "none"), rtol=1e-5, atol=1e-3)


def test_costs_are_never_negative_and_equal_positions_cost_nothing():
    a, _ = maps(4, 512, 4, 4)
    cost = mf.position_cost(a, a)
    assert (cost >= 0).all()
    assert cost.diagonal(dim1=1, dim2=2).max() < 1e-3


@pytest.mark.parametrize("factor", [1e-4, 1e3])
@pytest.mark.parametrize("scale", ["mean", "cosine"])
def test_scaled_costs_do_not_depend_on_the_size_of_the_features(scale, factor):
    a, b = maps(3, 7, 4, 5)
    cost = mf.position_cost(a, b, scale=scale)
    again = mf.position_cost(a * factor, b * factor, scale=scale)
    torch.testing.assert_close(again, cost, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", COST_SCALES)
@pytest.mark.parametrize("value", [0.0, 3.0, 1e4])
def test_constant_and_zero_features_give_finite_costs_and_even_plans(scale, value):
    h = torch.full((2, 8, 3, 3), value)
    cost = mf.position_cost(h, h, scale=scale)
    torch.testing.assert_close(cost, torch.zeros(2, 9, 9))
    for solver in ("compat", "scaled", "pot"):
        plan = mf.position_plan(h, h, cost_scale=scale, solver=solver)
        torch.testing.assert_close(plan, torch.full((2, 9, 9), 1 / 9), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", COST_SCALES)
def test_single_positions_of_norm_zero_give_finite_costs_and_plans(scale):
    a, b = maps(2, 8, 3, 3)
    a[0], a[1, :, 0, 0], b[1, :, 2] = 0, 0, 0
    assert mf.position_cost(a, b, scale=scale).isfinite().all()
    for solver in ("compat", "scaled"):
        for side in (0, 1):
            plan = mf.position_plan(a, b, side=side, cost_scale=scale, solver=solver)
            assert plan.isfinite().all()


def test_half_precision_features_and_autocast_leave_the_product_in_float32():
    a, b = (each.bfloat16() for each in maps(2, 64, 4, 4))
    expected = by_broadcasting(a, b, "none")
    for context in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=context):
            for kind in (torch.bfloat16, torch.float32):
                cost = mf.position_cost(a.to(kind), b.to(kind))
                assert cost.dtype == torch.float32
                torch.testing.assert_close(cost.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.fixture
def rounded_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_leave_to_round_products_is_not_taken(rounded_products, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    a, b = (each.to(device) * 3 for each in maps(4, 512, 4, 4))
    error = mf.position_cost(a, b).double() - by_broadcasting(a, b, "none")
    assert error.abs().max() < 0.005  # of 9000; TF32 and bfloat16 products are off by 1 to 30


def test_where_products_may_be_rounded_costs_take_the_one_in_float64(rounded_products, monkeypatch):
    """On any machine, as not every CPU rounds."""
    taken, bmm = [], torch.bmm

    def watched(a, b):
        taken.append(a.dtype)
        return bmm(a, b)

    monkeypatch.setattr(torch, "bmm", watched)
    assert mf.position_cost(*maps(2, 8, 3, 3)).dtype == torch.float32
    torch.set_float32_matmul_precision("highest")
    mf.position_cost(*maps(2, 8, 3, 3))
    assert taken == [torch.float64, torch.float32]


def test_plans_of_raw_features_in_float32_are_those_of_float64(raw_features):
    h, other = raw_features[0], raw_features[0].roll(1, dims=0)
    for solver in ("compat", "scaled"):
        low = mf.position_plan(h, other, solver=solver)
        high = mf.position_plan(h.double(), other.double(), solver=solver)
        assert (low - high).abs().max() < 0.02
        assert (low - high).abs().mean() < 1e-4


# Plans.


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("solver", ["scaled", "pot"])
def test_a_plan_ends_on_the_sums_that_its_side_uses(solver, side):
    a, b = maps(3, 16, 4, 4)
    plan = mf.position_plan(a, b, side=side, solver=solver, iters=5)
    exact = plan.sum(dim=2 if side == 0 else 1)
    torch.testing.assert_close(exact, torch.ones(3, 16), rtol=0, atol=1e-5)
    other = plan.sum(dim=1 if side == 0 else 2)
    assert (other - 1).abs().max() > 1e-3


@pytest.mark.parametrize("side", [0, 1])
def test_rows_are_finalised_for_the_own_layout_only(side):
    a, b = maps(3, 16, 4, 4)
    raw, final = (mf.position_plan(a, b, side=side, finalize=rule) for rule in ("none", "row"))
    if side == 1:
        assert torch.equal(final, raw)
    else:
        torch.testing.assert_close(final.sum(dim=2), torch.ones(3, 16), rtol=0, atol=1e-5)
        assert (raw.sum(dim=2) - 1).abs().max() > 1e-3


@pytest.mark.parametrize("solver", ["compat", "scaled", "pot"])
def test_moved_positions_are_found_again(solver):
    a, _ = maps(3, 16, 4, 4)
    order = torch.rand(3, 16, generator=seeded(2)).argsort(dim=1)
    b = a.flatten(2).gather(2, order[:, None].expand(-1, 16, -1)).view_as(a)
    for side in (0, 1):
        plan = mf.position_plan(a, b, side=side, eps=0.05, solver=solver)
        expected = torch.nn.functional.one_hot(order, 16).float().transpose(1, 2)
        torch.testing.assert_close(plan, expected, rtol=0, atol=1e-3)
        same = mf.position_plan(a, a, side=side, eps=0.05, solver=solver)
        torch.testing.assert_close(same, torch.eye(16).expand(3, 16, 16), rtol=0, atol=1e-3)


@pytest.mark.parametrize("solver", ["compat", "scaled"])
def test_permuting_the_partners_positions_permutes_the_columns(solver):
    a, b = maps(3, 16, 4, 4)
    order = torch.randperm(16, generator=seeded(3))
    moved = b.flatten(2)[:, :, order].view_as(b)
    for side in (0, 1):
        plan = mf.position_plan(a, b, side=side, solver=solver)
        again = mf.position_plan(a, moved, side=side, solver=solver)
        torch.testing.assert_close(again, plan[:, :, order], rtol=1e-3, atol=1e-4)


def test_swapping_images_and_sides_transposes_the_plan_when_converged():
    a, b = maps(3, 16, 4, 4)
    for solver in ("compat", "scaled", "pot"):
        settings = {"solver": solver, "cost_scale": "mean", "iters": 400}
        plan = mf.position_plan(a, b, side=0, **settings)
        swapped = mf.position_plan(b, a, side=1, **settings)
        torch.testing.assert_close(swapped.transpose(1, 2), plan, rtol=1e-4, atol=1e-5)


def test_an_unknown_scale_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="cost_scale must be one of none, mean, dim, cosine, got"):
        mf.position_cost(*maps(1, 2, 2, 2), scale="max")
