"""Entropic optimal transport between two sets of positions, for a whole batch at once.

Sinkhorn iterations of Cuturi, NeurIPS 2013, arXiv:1306.0895, in the log domain. AlignMix solves
them on the features of two images; official code shashankvkt/AlignMixup_CVPR22 (``utils/OT.py``).
"""

import importlib.util
import math
import warnings
from typing import NamedTuple, cast

import torch
from torch import Tensor

from mixbench.errors import FUSED, switched_on

SOLVERS = ("compat", "scaled", "pot")
FINALIZE = ("none", "row")
ENDS = ("rows", "columns")
OFFICIAL_STOP = 0.1

# Added to both marginals by the official code.
_MARGINAL_EPS = 1e-8
# exp(-80) vanishes beside the exp(0) of the same sum, and exp() below about -87 is 30 to 60 times
# slower on a CPU.
_FLOOR = -80.0
# The largest side of a problem that is solved in one launch on a GPU.
_LARGEST = 256
_TRITON = importlib.util.find_spec("triton") is not None
_UNFIT: list[str] = []  # why this machine cannot solve in one launch, once that is known


class Transport(NamedTuple):
    """A plan between n and m positions for each of B problems, and how it was found.

    ``plan`` (B, n, m) has the total mass 1. ``u`` (B, n) and ``v`` (B, m) are the potentials in
    the unit of the cost: ``plan = exp((u + v - cost) / eps)`` before it was finalised.
    ``iterations`` is the number of iterations that ran.
    """

    plan: Tensor
    u: Tensor
    v: Tensor
    iterations: int


@torch.no_grad()
def sinkhorn(
    cost: Tensor,
    *,
    eps: float = 0.1,
    iters: int = 100,
    solver: str = "compat",
    last: str = "columns",
    stop: float | None = None,
    finalize: str = "none",
) -> Transport:
    """Transport plans between uniform marginals. No gradient passes through them.

    Args:
        cost: (B, n, m) non-negative costs; solved in float32, or in float64 if given so.
        eps: Weight of the entropy, in the unit of the cost.
        iters: Iterations of two half-steps each, a fixed number unless ``stop`` is given.
        solver: ``compat`` repeats the official arithmetic: both potentials start at 0, rows first,
            1e-8 added to the marginals. On features that are not normalised it is far from
            converged after 100 iterations. ``scaled`` lets the entropic weight of each problem
            fall from its mean cost to ``eps`` over the first four fifths of the iterations, which
            converges on such features at half the time. ``pot`` asks POT's batched log-domain
            solver in float64, a slow reference.
        last: The marginal that the last half-step meets exactly, ``rows`` or ``columns``;
            ``compat`` knows only ``columns``.
        stop: Of ``compat`` only: end when the sum of the changes of ``u``, averaged over the
            batch, falls below this; the official code has 0.1. Every iteration then waits for the
            device, and a plan depends on the other problems of the batch.
        finalize: ``row`` divides every row of the plan by its share of the mass, which repairs the
            rows that ``compat`` left unfinished; ``none`` leaves the plan as it is.

    Returns:
        Plans, potentials and the number of iterations.

    Raises:
        ValueError: If a setting is out of range, unknown, or unknown to the solver, or ``cost`` is
            not (B, n, m).

    Note:
        ``scaled`` returns the potentials with ``v`` of mean 0; they are free up to a constant.
        On a GPU where Triton is installed, ``compat`` and ``scaled`` solve a whole float32 batch
        of at most 256 by 256 positions in one launch, unless ``stop`` is given. That changes
        nothing but rounding; the environment variable ``MIXBENCH_FUSED=0`` switches it off.

    Example:
        >>> cost = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
        >>> sinkhorn(cost, eps=0.5, solver="scaled").plan
        tensor([[[0.4404, 0.0596],
                 [0.0596, 0.4404]]])
    """
    check_solver(eps=eps, iters=iters, solver=solver, last=last, stop=stop, finalize=finalize)
    if cost.ndim != 3 or not cost.numel():
        raise ValueError(f"sinkhorn needs costs (B, n, m), none empty, got {tuple(cost.shape)}")
    cost = cost.detach().to(torch.promote_types(cost.dtype, torch.float32))
    if solver != "pot" and stop is None and _fits_a_launch(cost):
        plan, u, v = torch.ops.mixbench.sinkhorn.default(cost, eps, iters, solver, last)
        found = Transport(plan, u, v, iters)
    elif solver == "compat":
        found = _compat(cost, eps, iters, stop)
    elif solver == "scaled":
        found = _scaled(cost, eps, iters, last)
    else:
        found = _pot(cost, eps, iters, last)
    if finalize == "none":
        return found
    # Never 0: an iteration begins with rows, and its columns leave each at least 1 / (n m) of that.
    rows = found.plan.sum(dim=2, keepdim=True) * cost.shape[1]
    return found._replace(plan=found.plan / rows)


def check_solver(
    *,
    eps: float = 0.1,
    iters: int = 1,
    solver: str = "compat",
    last: str = "columns",
    stop: float | None = None,
    finalize: str = "none",
) -> None:
    """Refuse settings that :func:`sinkhorn` cannot solve with.

    Args:
        eps: Weight of the entropy.
        iters: Number of iterations.
        solver: Name of the solver.
        last: Marginal that is met exactly.
        stop: Threshold of the early stop.
        finalize: What is done to the plan.

    Raises:
        ValueError: If one is out of range, unknown, or unknown to the solver.
    """
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"eps must be > 0 and finite, got {eps}")
    if iters < 1:
        raise ValueError(f"iters must be >= 1, got {iters}")
    for name, value, known in (
        ("solver", solver, SOLVERS),
        ("last", last, ENDS),
        ("finalize", finalize, FINALIZE),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if solver == "compat" and last == "rows":
        raise ValueError(
            "solver 'compat' always ends on columns; take solver='scaled' or finalize='row'"
        )
    if stop is not None and not stop > 0:
        raise ValueError(f"stop must be > 0, or None for a fixed number of steps, got {stop}")
    if stop is not None and solver != "compat":
        raise ValueError(f"stop belongs to solver 'compat', got {stop} with {solver!r}")


# Both solvers keep the problem as (n, m, B): sums over positions then run along contiguous
# batches, which halves the time of small plans on a CPU.


def _compat(cost: Tensor, eps: float, iters: int, stop: float | None) -> Transport:
    scaled = (cost.permute(1, 2, 0) / eps).contiguous()
    rows, columns, _ = scaled.shape
    log_mu, log_nu = (math.log(1 / count + _MARGINAL_EPS) for count in (rows, columns))
    u, v = torch.zeros_like(scaled[:, :1]), torch.zeros_like(scaled[:1])
    done = 0
    while done < iters:
        before = u
        u = log_mu - _log_sum_exp(v - scaled, dim=1)
        v = log_nu - _log_sum_exp(u - scaled, dim=0)
        done += 1
        if stop is not None and float((u - before).abs().sum(dim=0).mean()) * eps < stop:
            break
    # As exp(u + v - cost), but costs in the thousands of eps leave no rounding in column sums.
    plan = (u - scaled).softmax(dim=0).mul_(math.exp(log_nu)).permute(2, 0, 1).contiguous()
    return Transport(plan, u[:, 0].t() * eps, v[0].t() * eps, done)


def _log_sum_exp(values: Tensor, dim: int) -> Tensor:
    """The logarithm of the sum, over ``values``, which are overwritten."""
    top = values.amax(dim=dim, keepdim=True)
    values.sub_(top).clamp_(min=_FLOOR).exp_()
    return values.sum(dim=dim, keepdim=True).log_().add_(top)


def _scaled(cost: Tensor, eps: float, iters: int, last: str) -> Transport:
    rows, columns = cost.shape[1:]
    falling = _falling(iters)
    # Per problem, from the mean cost down to eps; a plan never depends on the rest of the batch.
    ratio = (cost.mean(dim=(1, 2)) / eps).clamp_(min=1)
    step = ratio ** (1 / max(falling, 1))
    log_plan = cost.permute(1, 2, 0) / (-eps * (ratio if falling else 1))
    first, final = (1, 0) if last == "columns" else (0, 1)
    # A half-step in the log domain is a log-softmax over one side: potentials need not be kept,
    # and a new entropic weight rescales the logarithm of the plan.
    for done in range(iters):
        log_plan = log_plan.log_softmax(first).log_softmax(final)
        if done < falling:
            log_plan.mul_(step)
    log_plan = log_plan.permute(2, 0, 1)
    log_plan = log_plan - math.log(columns if last == "columns" else rows)
    potentials = log_plan * eps + cost
    u = potentials.mean(dim=2)
    v = potentials.mean(dim=1) - u.mean(dim=1, keepdim=True)
    return Transport(log_plan.exp().contiguous(), u, v, iters)


def _falling(iters: int) -> int:
    """Number of iterations after which ``scaled`` has reached ``eps``."""
    return iters * 4 // 5


def launches_once(device: torch.device) -> bool:
    """Whether plans on a device are solved in one launch, as far as this process knows.

    Args:
        device: Where costs lie; problems that are too large take many launches all the same.

    Returns:
        False also where Triton has turned out not to work.

    Raises:
        UserError: If ``MIXBENCH_FUSED`` is neither on nor off.
    """
    return device.type == "cuda" and _TRITON and switched_on(FUSED) and not _UNFIT


def _fits_a_launch(cost: Tensor) -> bool:
    """True for costs that one launch of a kernel can solve, and may."""
    fits = cost.dtype == torch.float32 and max(cost.shape[1:]) <= _LARGEST
    return fits and launches_once(cost.device)


def _in_one_launch(
    cost: Tensor, eps: float, iters: int, solver: str, last: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Plan and potentials of ``compat`` or ``scaled``, by a kernel if there can be one here."""
    if _UNFIT:
        return _in_many_launches(cost, eps, iters, solver, last)
    scaled = solver == "scaled"
    margin = 0.0 if scaled else _MARGINAL_EPS
    rows, columns = (math.log(1 / count + margin) for count in cost.shape[1:])
    try:
        from mixbench.functional._fused import solve

        shares, falling = (rows, columns), _falling(iters) if scaled else 0
        return solve(cost, eps, iters, shares, last, falling=falling, centered=scaled)
    except torch.OutOfMemoryError:  # of this moment, not of the machine
        raise
    except Exception as error:  # a GPU that Triton does not know, or no compiler for its launcher
        _UNFIT.append(f"{type(error).__name__}: {error}".partition("\n")[0])
        warnings.warn(
            f"Triton cannot solve transport plans on this machine ({_UNFIT[0]}); PyTorch solves "
            "them, which is slower; MIXBENCH_FUSED=0 asks for that without this warning",
            stacklevel=2,
        )
        return _in_many_launches(cost, eps, iters, solver, last)


def _in_many_launches(
    cost: Tensor, eps: float, iters: int, solver: str, last: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by operations of PyTorch."""
    compat = solver == "compat"
    found = _compat(cost, eps, iters, None) if compat else _scaled(cost, eps, iters, last)
    return found.plan, found.u.contiguous(), found.v.contiguous()


def _shapes(
    cost: Tensor, eps: float, iters: int, solver: str, last: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Tensors of the shapes of what is found."""
    del eps, iters, solver, last
    batch, rows, columns = cost.shape
    return cost.new_empty(cost.shape), cost.new_empty(batch, rows), cost.new_empty(batch, columns)


# One operation, into which neither torch.compile nor a device without values looks.
torch.library.define(
    "mixbench::sinkhorn",
    "(Tensor cost, float eps, int iters, str solver, str last) -> (Tensor, Tensor, Tensor)",
)
torch.library.impl("mixbench::sinkhorn", "CUDA", _in_one_launch)
torch.library.impl("mixbench::sinkhorn", "CPU", _in_many_launches)
torch.library.register_fake("mixbench::sinkhorn", _shapes)


def _pot(cost: Tensor, eps: float, iters: int, last: str) -> Transport:
    from ot.batch import solve_batch

    if last == "rows":  # POT ends on columns
        found = _pot(cost.transpose(1, 2), eps, iters, "columns")
        return Transport(found.plan.transpose(1, 2), found.v, found.u, found.iterations)
    exact = cost.double()
    mu, nu = (torch.full_like(side, 1 / side.shape[1]) for side in (exact[:, :, 0], exact[:, 0]))
    # Without a tolerance it runs a fixed number of iterations, as the other two do.
    found = solve_batch(
        exact, eps, mu, nu, max_iter=iters, tol=0.0, method="log_sinkhorn", grad="detach"
    )
    solution = cast(tuple[Tensor, ...], (found.plan, *cast(tuple, found.potentials)))
    plan, u, v = (part.to(cost.dtype) for part in solution)
    return Transport(plan, u * eps, v * eps, iters)


def marginal_error(plan: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of a plan from its uniform marginals: 0 where every position has its share.

    Args:
        plan: (B, n, m) plan of any total mass.

    Returns:
        Mean distance of the row sums and of the column sums from their share, each (B,), as a
        multiple of the share.

    Example:
        >>> marginal_error(torch.tensor([[[0.5, 0.5], [0.0, 1.0]]]))
        (tensor([0.]), tensor([0.5000]))
    """
    mass = plan.sum(dim=(1, 2))[:, None]
    rows, columns = (plan.sum(dim=dim) * plan.shape[3 - dim] / mass for dim in (2, 1))
    return (rows - 1).abs().mean(dim=1), (columns - 1).abs().mean(dim=1)


def plan_entropy(plan: Tensor) -> Tensor:
    """Entropy of the rows of a plan: 0 for a hard matching, 1 if every row is spread evenly.

    Args:
        plan: (B, n, m) plan; each row is brought to the sum 1 first.

    Returns:
        (B,) mean over the rows, as a fraction of log m; 0 where m is 1.

    Example:
        >>> plan_entropy(torch.tensor([[[0.5, 0.5], [0.0, 1.0]]]))
        tensor([0.5000])
    """
    share = plan / plan.sum(dim=2, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
    entropy = -torch.xlogy(share, share).sum(dim=2).mean(dim=1)
    return entropy / math.log(plan.shape[2]) if plan.shape[2] > 1 else entropy
