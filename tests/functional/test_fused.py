"""The kernel that solves transport plans in one launch, by Triton's interpreter on the CPU."""

import importlib.util
import os
import subprocess
import sys
import types

import pytest
import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mixbench.functional as mf
from mixbench.functional.sinkhorn import _in_one_launch
from mixbench.testing.device import OnDevice, pretended_device

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed"),
]

SINKHORN = sys.modules["mixbench.functional.sinkhorn"]
ENDS = [("compat", "columns"), ("scaled", "rows"), ("scaled", "columns")]
# Reads costs and settings, and writes the plan and the potentials of each.
SOLVE = """
import sys, warnings
import torch
from mixbench.functional.sinkhorn import _in_one_launch
assert "mixbench.functional._fused" not in sys.modules  # only a launch loads it
warnings.simplefilter("error", UserWarning)
torch.set_num_threads(1)
problems = torch.load(sys.argv[1])
torch.save({name: _in_one_launch(*problem) for name, problem in problems.items()}, sys.argv[2])
"""


def interpret(folder, problems: dict) -> dict:
    """Solve problems by the kernel, in a process of its own, where Triton is interpreted."""
    torch.save(problems, folder / "problems.pt")
    command = [sys.executable, "-c", SOLVE, folder / "problems.pt", folder / "found.pt"]
    subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, check=True)
    return torch.load(folder / "found.pt")


def random_cost(*shape: int, largest: float = 1.0) -> Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(0)) * largest


def raw_cost(h: Tensor) -> Tensor:
    return mf.position_cost(h, h.roll(1, dims=0))


def extreme_cost(largest: float) -> Tensor:
    cost = random_cost(2, 8, 8, largest=largest)
    cost[0] = 0
    cost[1, 2] = 0
    return cost


def spoilt_cost() -> Tensor:
    cost = random_cost(6, 4, 5)
    cost[1, 2, 3] = float("nan")
    cost[2, 1, 1] = float("inf")
    cost[3, 1] = float("inf")
    cost[4, :, 1] = float("inf")
    cost[5, 0, 0] = -float("inf")
    return cost


# Costs, eps and iterations.
MODERATE = {
    "square": (random_cost(1, 9, 9), 0.1, 7),
    "wide": (random_cost(1, 4, 7), 0.1, 7),
    "tall": (random_cost(1, 7, 4), 0.1, 7),
    "row": (random_cost(1, 1, 5), 0.1, 7),
    "column": (random_cost(1, 5, 1), 0.1, 7),
    "single": (random_cost(1, 1, 1), 0.1, 7),
    "r49": (random_cost(1, 49, 49), 0.1, 7),
    "one iteration": (random_cost(1, 6, 6), 0.1, 1),
    "two iterations": (random_cost(1, 6, 6), 0.1, 2),
    "turned": (random_cost(5, 4, 1).permute(2, 1, 0), 0.1, 7),
    # More costs than a program holds at a time.
    "tall tiles": (random_cost(1, 130, 40), 0.1, 5),
    "wide tiles": (random_cost(1, 40, 130), 0.1, 5),
}
EXTREME = {
    f"eps {eps}, costs to {largest}": (extreme_cost(largest), eps, 5)
    for eps, largest in ((1e-6, 1.0), (0.1, 1e7), (1e4, 1e-6))
}
SPOILT, RAW = "spoilt", "raw r16"


@pytest.fixture(scope="module")
def problems(raw_features) -> dict[str, tuple[Tensor, float, int]]:
    raw = raw_cost(raw_features[0])[:1]
    return MODERATE | EXTREME | {SPOILT: (spoilt_cost(), 0.1, 3), RAW: (raw, 0.1, 100)}


@pytest.fixture(scope="module")
def found(problems, tmp_path_factory) -> dict[tuple, tuple[Tensor, Tensor, Tensor]]:
    return interpret(
        tmp_path_factory.mktemp("interpreted"),
        {(name, *ends): (*each, *ends) for name, each in problems.items() for ends in ENDS},
    )


def by_torch(problem: tuple[Tensor, float, int], solver: str, last: str) -> mf.Transport:
    cost, eps, iters = problem
    return mf.sinkhorn(cost, eps=eps, iters=iters, solver=solver, last=last)


def sums(plan: Tensor, side: str) -> Tensor:
    dim = 2 if side == "rows" else 1
    return plan.sum(dim=dim) * plan.shape[3 - dim]


@pytest.mark.parametrize(("solver", "last"), ENDS)
@pytest.mark.parametrize("name", MODERATE)
def test_plans_and_potentials_are_those_of_float64(found, name, solver, last):
    cost, *settings = MODERATE[name]
    exact = by_torch((cost.double(), *settings), solver, last)
    plan, u, v = found[name, solver, last]
    torch.testing.assert_close(plan.double(), exact.plan, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(u.double(), exact.u, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(v.double(), exact.v, rtol=1e-4, atol=1e-5)


def check_raw(plan: Tensor, cost: Tensor, solver: str, last: str) -> None:
    """Hold a plan after 100 iterations against float64, at the tolerances of the solvers."""
    count = cost.shape[1]
    exact = by_torch((cost.double(), 0.1, 100), solver, last).plan
    error = (plan - exact) * count
    assert error.abs().max() < 0.02
    assert error.abs().mean() < 1e-4
    assert (sums(plan, last) - 1).abs().max() < 1e-5
    if solver == "scaled":
        converged = by_torch((cost.double(), 0.1, 4000), solver, last).plan
        distance = (plan - converged).abs().sum(dim=(1, 2)).mean()
        assert distance < (0.02 if count == 16 else 0.2)


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_plans_of_raw_features_are_those_of_float64(found, problems, solver, last):
    check_raw(found[RAW, solver, last][0], problems[RAW][0], solver, last)


@pytest.mark.slow
@pytest.mark.parametrize("count", [49, 64, 196])
def test_plans_of_more_positions_are_those_of_float64(tmp_path, raw_features, count):
    h = raw_features[1][:2, :, :7, :7] if count == 49 else raw_features[1][:2]
    if count == 196:
        h = torch.nn.functional.interpolate(h, size=(14, 14), mode="bilinear")
    cost = raw_cost(h)[:1]
    found = interpret(tmp_path, {ends: (cost, 0.1, 100, *ends) for ends in ENDS})
    for ends in ENDS:
        check_raw(found[ends][0], cost, *ends)


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_the_side_asked_for_is_met_exactly(found, solver, last):
    for name in (*MODERATE, *EXTREME):
        plan = found[name, solver, last][0]
        assert (sums(plan, last) - 1).abs().max() < 1e-5, name
        assert (plan >= 0).all(), name


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_values_that_are_no_numbers_spoil_what_they_spoil_elsewhere(found, problems, solver, last):
    expected = by_torch(problems[SPOILT], solver, last)
    for value, other in zip(found[SPOILT, solver, last], expected[:3], strict=True):
        assert torch.equal(value.isfinite(), other.isfinite())
        sound = other.isfinite()
        torch.testing.assert_close(value[sound], other[sound], rtol=1e-4, atol=1e-6)
    assert found[SPOILT, solver, last][0][0].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "tiles"), [(1, 1, 1), (16, 16, 1), (64, 64, 1), (16, 256, 13)]
)
def test_the_kernel_compiles_for_a_gpu_that_is_not_there(
    height, width, tiles, tmp_path, monkeypatch
):
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mixbench.functional._fused import _solve_one

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = {"height": height, "width": width, "tiles": tiles}
    sizes |= {"zero_mean": "f"}
    types = dict.fromkeys(_solve_one.arg_names, "i32") | dict.fromkeys(sizes, "constexpr")
    types |= dict.fromkeys(["cost", "plan", "f_out", "g_out", "kept"], "*fp32")
    types |= dict.fromkeys(["eps", "log_first", "log_final"], "fp32")
    made = compile(
        ASTSource(_solve_one, types, sizes),
        target=GPUTarget("cuda", 90, 32),
        options={"enable_fp_fusion": True},
    )
    assert "ex2.approx" in made.asm["ptx"]


# What takes the kernel.


class Operations(TorchDispatchMode):
    """The names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def launches(operation, *values: Tensor, **settings) -> int:
    """How often the kernel is asked for on a device that is not there."""
    with pretended_device() as refuse_waits:
        on_device = [OnDevice(each) for each in values]
        refuse_waits("stop" not in settings)
        with Operations() as operations:
            operation(*on_device, **settings)
    return operations.names.count("mixbench.sinkhorn.default")


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_a_batch_on_a_gpu_is_solved_in_one_launch_without_a_wait(solver, last):
    settings = {"solver": solver, "last": last, "iters": 2, "finalize": "row"}
    assert launches(mf.sinkhorn, torch.rand(3, 4, 5), **settings) == 1
    assert launches(mf.sinkhorn, torch.rand(3, 4, 5).bfloat16(), **settings) == 1
    assert launches(mf.sinkhorn, torch.rand(1, 256, 2), **settings) == 1


@pytest.mark.parametrize("solver", ["compat", "scaled"])
def test_a_step_of_alignmix_on_a_gpu_takes_one_launch_without_a_wait(solver):
    h, targets = torch.rand(3, 8, 4, 4), torch.eye(3)
    assert launches(mf.alignmix, h, targets, side=1, iters=2, solver=solver) == 1
    assert launches(mf.alignmix, h.bfloat16(), targets, side=0, iters=2, solver=solver) == 1


@pytest.mark.parametrize(
    ("cost", "settings"),
    [
        (torch.rand(3, 4, 5).double(), {}),
        (torch.rand(1, 257, 2), {}),
        (torch.rand(1, 2, 257), {}),
        (torch.rand(3, 4, 5), {"stop": 1e-9}),
    ],
    ids=["float64", "many rows", "many columns", "early stop"],
)
def test_what_the_kernel_does_not_solve_goes_on_in_torch(cost, settings):
    assert launches(mf.sinkhorn, cost, iters=2, **settings) == 0


def test_the_kernel_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("MIXBENCH_FUSED", "0")
    assert launches(mf.sinkhorn, torch.rand(3, 4, 5), iters=2) == 0


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_torch_knows_the_shapes_that_the_operation_gives(solver, last):
    given = torch.rand(4, 5, 3).permute(2, 0, 1), 0.1, 2, solver, last
    operation = torch.ops.mixbench.sinkhorn.default
    checks = ("test_schema", "test_faketensor")
    found = torch.library.opcheck(operation, given, test_utils=checks, raise_exception=False)
    assert found == dict.fromkeys(checks, "SUCCESS")


@pytest.mark.parametrize(("solver", "last"), ENDS)
def test_where_triton_cannot_launch_torch_solves_after_one_warning(
    solver, last, monkeypatch, recwarn
):
    monkeypatch.setattr(SINKHORN, "_UNFIT", [])
    monkeypatch.setitem(sys.modules, "mixbench.functional._fused", None)  # as if it could not load
    cost = torch.rand(2, 4, 4)
    with pytest.warns(UserWarning, match="MIXBENCH_FUSED=0"):
        plan = _in_one_launch(cost, 0.1, 5, solver, last)[0]
    assert torch.equal(plan, by_torch((cost, 0.1, 5), solver, last).plan)
    recwarn.clear()
    assert torch.equal(_in_one_launch(cost, 0.1, 5, solver, last)[0], plan)
    assert not recwarn


def test_memory_that_ran_out_once_is_no_verdict_on_the_machine(monkeypatch):
    fused = types.ModuleType("fused")

    def solve(*args, **settings):
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(fused, "solve", solve, raising=False)
    monkeypatch.setattr(SINKHORN, "_UNFIT", [])
    monkeypatch.setitem(sys.modules, "mixbench.functional._fused", fused)
    with pytest.raises(torch.OutOfMemoryError, match="planted"):
        _in_one_launch(torch.rand(2, 4, 4), 0.1, 5, "compat", "columns")
    assert SINKHORN._UNFIT == []
