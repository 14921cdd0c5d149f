"""The cut of PuzzleMix: a label for each block of an image, with neighbours that agree.

Kim et al., ICML 2020, arXiv:2009.06962. The authors solve it by alpha-beta swaps on the host, image
by image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

STEPS, SWEEPS, ITERATIONS = 20, 3, 60
HOT, COLD = 1.0, 0.02  # temperatures in units of the mean weight of a block's neighbours
ENDLESS = 2**30  # capacity of an edge that no cut goes through


class CutProblem(NamedTuple):
    """Costs of labels on a grid of R x C blocks, in whole numbers.

    ``unary`` (B, L, R, C) is the cost of each label, ``rows`` (B, R - 1, C) and ``columns``
    (B, R, C - 1) are weights, not negative, of ``(t - t')^2`` between a block and the one below
    and to the right, with labels 0 to L - 1 as ``t`` from 0 to 1.
    """

    unary: Tensor
    rows: Tensor
    columns: Tensor


def cut_energy(problem: CutProblem, labels: Tensor) -> Tensor:
    """Cost of labels.

    Args:
        problem: The costs.
        labels: (B, R, C) int64, from 0 to L - 1.

    Returns:
        (B,) float64 energies.

    Example:
        >>> unary = torch.tensor([[[[1.0, 5.0]], [[4.0, 2.0]]]])
        >>> problem = CutProblem(unary, torch.zeros(1, 0, 2), torch.tensor([[[3.0]]]))
        >>> cut_energy(problem, torch.tensor([[[0, 1]]]))
        tensor([6.], dtype=torch.float64)
    """
    unary, rows, columns = (part.double() for part in problem)
    t = labels.double() / (unary.shape[1] - 1)
    own = unary.take_along_dim(labels[:, None], 1).sum((1, 2, 3))
    down = (rows * t.diff(dim=1).square()).sum((1, 2))
    return own + down + (columns * t.diff(dim=2).square()).sum((1, 2))


def relaxed_cut(problem: CutProblem) -> Tensor:
    """Labels of low energy, for all images at once and without a wait of the host.

    Two labels are those of the relaxed problem, a total variation, cut at three heights; more are
    found by annealing in the mean field. Both are refined label by label, and the best is taken,
    which may be one label everywhere. The energy is near that of :func:`exact_cut`, not below it.

    Args:
        problem: The costs.

    Returns:
        (B, R, C) int64 labels.

    Example:
        >>> unary = torch.tensor([[[[1.0, 5.0]], [[4.0, 2.0]]]])
        >>> relaxed_cut(CutProblem(unary, torch.zeros(1, 0, 2), torch.tensor([[[0.5]]])))
        tensor([[[0, 1]]])
    """
    unary, weights = problem.unary.float(), (problem.rows.float(), problem.columns.float())
    count = unary.shape[1]
    if count == 2:
        share = _relaxed(unary, *weights)
        found = [(share > height).float() for height in (0.2, 0.5, 0.8)]
    else:
        found = [_annealed(unary, *weights)]
    found = [_refined(unary, *weights, each) for each in found]
    found += [torch.full_like(found[0], label / (count - 1)) for label in range(count)]
    labels = [(each * (count - 1)).round().long() for each in found]
    energy = torch.stack([cut_energy(problem, each) for each in labels])
    best = energy.argmin(0)[None, :, None, None]
    return torch.stack(labels).take_along_dim(best, 0)[0]


def _around(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sum of the four neighbours of each block, by their weights."""
    total = torch.zeros_like(values)
    total[:, 1:] += rows * values[:, :-1]
    total[:, :-1] += rows * values[:, 1:]
    total[:, :, 1:] += columns * values[:, :, :-1]
    total[:, :, :-1] += columns * values[:, :, 1:]
    return total


def _beyond_first(unary: Tensor, rows: Tensor, columns: Tensor) -> tuple[list[Tensor], Tensor]:
    """What each label but the first costs more than it beside neighbours of 0, and their weight.

    Beside neighbours whose weighted sum is S, a label t costs 2 t S less.
    """
    weight = _around(torch.ones_like(unary[:, 0]), rows, columns)
    count = unary.shape[1]
    return [
        unary[:, label] - unary[:, 0] + (label / (count - 1)) ** 2 * weight
        for label in range(1, count)
    ], weight


def _halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks of both colours of a chessboard, of which none is the neighbour of one of its own."""
    rows, columns = (torch.arange(size, device=values.device) for size in values.shape[1:])
    dark = (rows[:, None] + columns) % 2 == 0
    return dark, ~dark


def _annealed(unary: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, R, C) means of labels, from 0 to 1, in a field that cools down."""
    costs, weight = _beyond_first(unary, rows, columns)
    mean, scale = torch.full_like(weight, 0.5), weight.mean((1, 2), keepdim=True).clamp(min=1)
    for step in range(STEPS):
        cold = -1 / (scale * HOT * (COLD / HOT) ** (step / (STEPS - 1)))
        cooled = [cost * cold for cost in costs]
        for half in _halves(mean):
            around = 2 * cold * _around(mean, rows, columns)
            total, shown = torch.ones_like(mean), torch.zeros_like(mean)
            for label, cost in enumerate(cooled, 1):
                t = label / len(cooled)
                odds = (cost - t * around).clamp(-60, 60).exp()
                total, shown = total + odds, shown + t * odds
            mean = torch.where(half, shown / total, mean)
    return mean


def _refined(unary: Tensor, rows: Tensor, columns: Tensor, mean: Tensor) -> Tensor:
    """(B, R, C) labels, from 0 to 1, none of which is better changed alone after the last sweep."""
    costs, _ = _beyond_first(unary, rows, columns)
    for _ in range(SWEEPS):
        for half in _halves(mean):
            around = 2 * _around(mean, rows, columns)
            least, best = torch.zeros_like(mean), torch.zeros_like(mean)
            for label, cost in enumerate(costs, 1):
                t = label / len(costs)
                cost = cost - t * around
                best = torch.where(cost < least, t, best)
                least = torch.minimum(cost, least)
            mean = torch.where(half, best, mean)
    return mean


def _relaxed(unary: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, R, C) shares of label 1 of 2 that minimise the total variation, by primal-dual steps.

    Chambolle and Pock, J. Math. Imaging Vis. 40, 2011.
    """
    weight = _around(torch.ones_like(unary[:, 0]), rows, columns)
    scale = weight.mean((1, 2), keepdim=True).clamp(min=1) / 4
    cost, rows, columns = (unary[:, 1] - unary[:, 0]) / scale, rows / scale, columns / scale
    share = ahead = torch.full_like(cost, 0.5)
    down, right = torch.zeros_like(rows), torch.zeros_like(columns)
    primal, dual = 0.5, 0.25  # whose product with the norm of 8 is at most 1
    for _ in range(ITERATIONS):
        down = (down + dual * ahead.diff(dim=1)).clamp(min=-rows, max=rows)
        right = (right + dual * ahead.diff(dim=2)).clamp(min=-columns, max=columns)
        slope = cost.clone()
        slope[:, 1:] += down
        slope[:, :-1] -= down
        slope[:, :, 1:] += right
        slope[:, :, :-1] -= right
        moved = (share - primal * slope).clamp(0, 1)
        share, ahead = moved, 2 * moved - share
    return share


def exact_cut(problem: CutProblem) -> Tensor:
    """Labels of the least energy, on the host, image by image.

    Between labels the pairwise cost is convex, so that one minimal cut of a graph with a node for
    each block and step of labels gives them: Ishikawa, IEEE TPAMI 25, 2003.

    Args:
        problem: The costs; on a device, the host waits for them.

    Returns:
        (B, R, C) int64 labels on the device of the problem. Of several optima the one with the
        lowest labels.

    Example:
        >>> unary = torch.tensor([[[[1.0, 5.0]], [[4.0, 2.0]]]])
        >>> exact_cut(CutProblem(unary, torch.zeros(1, 0, 2), torch.tensor([[[0.5]]])))
        tensor([[[0, 1]]])
    """
    device = problem.unary.device
    images = zip(*(part.double().cpu() for part in problem), strict=True)
    return torch.stack([_cut_image(*parts) for parts in images]).to(device)


def _cut_image(unary: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    steps, size = len(unary) - 1, unary[0].numel()
    source, sink = steps * size, steps * size + 1
    # Times the steps squared, so that the weights of differences of labels are whole numbers.
    unary = unary * steps**2
    node = torch.arange(steps * size).view(steps, *unary.shape[1:])  # labels above each step
    chain = [torch.full_like(node[0], source), *node, torch.full_like(node[0], sink)]
    edges = [(chain[label], chain[label + 1], unary[label]) for label in range(steps + 1)]
    endless = torch.full_like(unary[0], ENDLESS)
    edges += [(node[step], node[step - 1], endless) for step in range(1, steps)]
    for one, other, weight in (
        (node[:, :-1], node[:, 1:], rows),
        (node[:, :, :-1], node[:, :, 1:], columns),
    ):
        for high in range(steps):
            for low in range(high + 1):
                amount = weight if low == high else 2 * weight
                edges += [(one[high], other[low], amount), (other[high], one[low], amount)]
    start, end, capacity = (
        torch.cat([edge[part].flatten() for edge in edges]) for part in range(3)
    )
    capacity = capacity.round().clamp(0, ENDLESS).int().numpy()
    graph = csr_matrix((capacity, (start.numpy(), end.numpy())), shape=(sink + 1, sink + 1))
    left = graph - maximum_flow(graph, source, sink).flow
    left.data = (left.data > 0).astype("int32")
    left.eliminate_zeros()
    reached = torch.zeros(sink + 1, dtype=torch.long)
    reached[breadth_first_order(left, source, return_predecessors=False)] = 1
    return reached[:source].view(steps, *unary.shape[1:]).sum(0)
