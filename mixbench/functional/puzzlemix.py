"""PuzzleMix: choose for each block which of two images it shows, and move blocks to be seen.

Kim et al., ICML 2020, arXiv:2009.06962; official code snu-mllab/PuzzleMix.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.draws import Switch, draw_lam, draw_perm
from mixbench.functional.maskmix import blend
from mixbench.functional.mixed import Mixed, check_batch, check_lam, check_perm, mix_targets, take
from mixbench.functional.puzzle_cut import CutProblem, exact_cut, relaxed_cut

BLOCKS = (2, 4, 8, 16)
CUTS = {"relaxed": relaxed_cut, "exact": exact_cut}
LARGE = 1000  # costs of a block of mean saliency become whole numbers of this size


class PuzzleCosts(NamedTuple):
    """Costs of a pair on a grid of R x C blocks.

    ``own`` (B, R, C) is lost where a block shows the partner and ``other`` where it shows the image
    itself; ``rows`` (B, R - 1, C) and ``columns`` (B, R, C - 1) is what two neighbours lose that
    show different images, beside what they lose by being of different labels at all.
    """

    own: Tensor
    other: Tensor
    rows: Tensor
    columns: Tensor


class Puzzle(NamedTuple):
    """Record of a mixed batch.

    ``mask`` (B, 1, H, W) is the weight of the first image in each pixel. ``own`` and ``partner``
    (B, R, C) are the cells of both images that each cell shows, counted row by row, -1 for none;
    None where nothing is moved.
    """

    mask: Tensor
    own: Tensor | None
    partner: Tensor | None


def block_grid(height: int, width: int, blocks: int) -> tuple[int, int] | None:
    """Rows and columns of square blocks, if they fit into an image.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        blocks: Blocks along the shorter side.

    Returns:
        Numbers of rows and columns; None if the blocks do not divide the image.

    Example:
        >>> block_grid(32, 48, 4), block_grid(28, 28, 8)
        ((4, 6), None)
    """
    side = min(height, width) // blocks
    fits = side and side * blocks == min(height, width) and max(height, width) % side == 0
    return (height // side, width // side) if fits else None


def fitting_blocks(height: int, width: int) -> list[int]:
    """Numbers of blocks along the shorter side, of 2, 4, 8 and 16, that divide an image.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        The numbers, in ascending order; none if no number divides it.

    Example:
        >>> fitting_blocks(28, 28)
        [2, 4]
    """
    return [blocks for blocks in BLOCKS if block_grid(height, width, blocks)]


def block_saliency(saliency: Tensor, grid: tuple[int, int]) -> Tensor:
    """Shares of the saliency of images that lie in each cell of a grid.

    Args:
        saliency: (B, H, W) maps, not negative.
        grid: Rows and columns (R, C) of cells, which divide the maps.

    Returns:
        (B, R, C) float32 that sums to 1; the same for all cells where a map is 0.
    """
    found = F.avg_pool2d(saliency.float()[:, None], _sides(saliency, grid))[:, 0]
    total = found.sum((1, 2), keepdim=True)
    return (found / total.where(total > 0, 1)).where(total > 0, 1 / found[0].numel())


def _sides(images: Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    return images.shape[-2] // grid[0], images.shape[-1] // grid[1]


def _divisor(side: int, most: int) -> int:
    """Largest number up to ``most`` that divides a side."""
    return max(n for n in range(1, min(side, most) + 1) if side % n == 0)


def smoothness(beta: float, grid: tuple[int, int]) -> float:
    """What two neighbours of different labels lose whatever they show, on a grid of blocks."""
    return beta / (16 * math.sqrt(grid[0] * grid[1]))


def puzzle_costs(
    pixels: Tensor,
    saliency: Tensor,
    perm: Tensor,
    grid: tuple[int, int],
    *,
    beta: float = 1.2,
    gamma: float = 0.5,
    neigh: int = 4,
) -> PuzzleCosts:
    """Costs of the blocks of all pairs: saliency that is hidden, and borders that can be seen.

    Args:
        pixels: (B, C, H, W) images in [0, 1], whose differences at borders count.
        saliency: (B, H, W) maps, not negative.
        perm: (B,) index of each image's partner.
        grid: Rows and columns of blocks.
        beta: Weight of neighbours of different labels.
        gamma: Share of it that borders count.
        neigh: Pixels over which they are compared, at most a block.

    Returns:
        The costs.

    Example:
        >>> saliency = torch.tensor([[[3.0, 1.0]], [[1.0, 1.0]]])
        >>> costs = puzzle_costs(torch.zeros(2, 3, 1, 2), saliency, torch.tensor([1, 0]), (1, 2))
        >>> costs.own[0], costs.other[0], costs.columns[0]
        (tensor([[0.7500, 0.2500]]), tensor([[0.5000, 0.5000]]), tensor([[0.]]))
    """
    perm = perm.to(pixels.device, non_blocking=True)
    own = block_saliency(saliency, grid)
    other = take(own, perm)
    height, width = _sides(pixels, grid)
    near = _divisor(math.gcd(height, width), neigh)
    first = F.avg_pool2d(pixels.float(), near)
    images = {1: first, 0: take(first, perm)}
    weight = smoothness(beta, grid) * gamma
    steps = height // near, width // near
    seen = {
        (s, t): [weight * part for part in _borders(images[s], images[t], steps)]
        for s in (0, 1)
        for t in (0, 1)
    }
    own, other = own.clone(), other.clone()
    pairwise = []
    for axis, (before, after) in enumerate(
        (
            ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
            ((..., slice(None, -1)), (..., slice(1, None))),
        )
    ):
        both, partners = seen[1, 1][axis], seen[0, 0][axis]
        down, up = seen[1, 0][axis], seen[0, 1][axis]
        other[before] += (down + both) / 2
        own[before] += (up + partners) / 2
        other[after] += (up + both) / 2
        own[after] += (down + partners) / 2
        pairwise.append((down + up - both - partners) / 2)
    return PuzzleCosts(own, other, *pairwise)


def _borders(first: Tensor, second: Tensor, steps: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mean differences between the last cells of a block and the first of the next, both ways."""
    rows, columns = steps
    down = (first[:, :, :-1] - second[:, :, 1:])[:, :, rows - 1 :: rows].abs().mean(1)
    right = (first[..., :-1] - second[..., 1:])[..., columns - 1 :: columns].abs().mean(1)
    return _pooled(down, (1, columns)), _pooled(right, (rows, 1))


def _pooled(values: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Means over parts; also of values without rows or columns, as a grid of one block has them."""
    if values.numel() == 0:
        return values[:, :: kernel[0], :: kernel[1]]
    return F.avg_pool2d(values, kernel)


def cut_problem(
    costs: PuzzleCosts,
    lam: Tensor,
    *,
    labels: int = 3,
    beta: float = 1.2,
    eta: float = 0.2,
) -> CutProblem:
    """Costs of labels, of which the first shows the image alone and the last the partner alone.

    Args:
        costs: Of :func:`puzzle_costs`.
        lam: (B,) or (1,) share of the image that is asked for.
        labels: Number L of labels, 2 or more.
        beta: As of :func:`puzzle_costs`.
        eta: Weight of shares that differ from ``lam``, as a binomial law of labels.

    Returns:
        The problem in whole numbers, as the official code cuts it.

    Example:
        >>> half, none = torch.full((1, 1, 1), 0.5), torch.zeros(1, 0, 1)
        >>> costs = PuzzleCosts(half, half, none, none.mT)
        >>> cut_problem(costs, torch.tensor([0.25])).unary.flatten()
        tensor([1054.,  696.,  615.])
    """
    grid = (costs.own.shape[1], costs.own.shape[2])
    blocks, last = grid[0] * grid[1], labels - 1
    lam = lam.to(costs.own.device, torch.float64, non_blocking=True).reshape(-1, 1, 1)
    unary = []
    for label in range(labels):
        t = label / last
        law = math.comb(last, label) * lam ** (last - label) * (1 - lam) ** label
        prior = -eta / blocks * (law + 1e-8).log()
        unary.append((1 - t) * costs.other + t * costs.own + prior)
    flat, scale = smoothness(beta, grid), LARGE * blocks
    rows, columns = (
        (scale * (part + flat)).trunc().clamp(min=0) for part in (costs.rows, costs.columns)
    )
    return CutProblem((scale * torch.stack(unary, dim=1)).trunc().float(), rows, columns)


def move_plan(saliency: Tensor, shown: Tensor, *, eps: float = 0.8) -> Tensor:
    """Which cell of an image each cell is to show, so that salient ones are seen.

    Each cell asks for the place that costs it least, its way there less the saliency that it would
    bring to a visible one; of those that ask for a place the first of the least cost has it, and
    the others pay 1 more there, as often as there are cells along the longer side. A place that all
    would have to pay for is no one's.

    Args:
        saliency: (B, R, C) shares of the cells.
        shown: (B, R, C) weight of the image in each cell.
        eps: Cost of the way across the longer side.

    Returns:
        (B, R, C) int64 cell that is shown, counted row by row; -1 for none.

    Example:
        >>> saliency = torch.tensor([[[0.9, 0.1]]])
        >>> move_plan(saliency, torch.tensor([[[0.0, 1.0]]]), eps=0.5)
        tensor([[[-1,  0]]])
    """
    rows, columns = saliency.shape[1:]
    count, longest, device = rows * columns, max(rows, columns), saliency.device
    place = torch.arange(count, device=device)
    along = [at[:, None] - at for at in (place // columns, place % columns)]
    way = (along[0].square() + along[1].square()).float() / max(longest - 1, 1) ** 2
    seen = (shown > 0).float().flatten(1)[:, None]
    cost = eps * way - saliency.float().flatten(1)[:, :, None] * seen
    lines = cost.unflatten(2, (rows, columns))  # a view, whose least values are followed
    lowest = lines.amin(3)
    asked = wins = place
    for _ in range(longest):
        line = lowest.argmin(2, keepdim=True)
        values = lines.take_along_dim(line[..., None], 2)[:, :, 0]
        column = values.argmin(2, keepdim=True)
        asked = (line * columns + column)[..., 0]
        paid = values.take_along_dim(column, 2)[..., 0]
        least = torch.full_like(paid, torch.inf).scatter_reduce(1, asked, paid, "amin")
        cheap = paid == least.take_along_dim(asked, 1)
        first = torch.full_like(asked, count).scatter_reduce(
            1, asked, torch.where(cheap, place, count), "amin"
        )
        # Rows that do not ask for a place have a cost of 0 there in the official code.
        leading = (asked == asked[:, :1]).long().cumprod(1).sum(1, keepdim=True)
        free = (paid < 0) | ((paid == 0) & (place < leading))
        wins = free & (first.take_along_dim(asked, 1) == place)
        lost = (~wins).float()[..., None]
        cost.scatter_add_(2, asked[..., None], lost)
        lowest.scatter_(2, line, values.scatter_add(2, column, lost).amin(2, keepdim=True))
    plan = torch.full((len(cost), count + 1), -1, device=device)
    plan = plan.scatter(1, torch.where(wins, asked, count), place.expand_as(asked))
    return plan[:, :count].view(saliency.shape)


def move_cells(x: Tensor, plan: Tensor) -> Tensor:
    """Images whose cells are where a plan puts them; black in normalised values where none is.

    Args:
        x: (B, ch, H, W) images.
        plan: (B, R, C) of :func:`move_plan`.

    Returns:
        (B, ch, H, W).

    Example:
        >>> move_cells(torch.tensor([[[[5.0, 6.0]]]]), torch.tensor([[[-1, 0]]]))
        tensor([[[[0., 5.]]]])
    """
    batch, rows, columns = plan.shape
    cells = x.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5)
    cells = cells.flatten(1, 2)
    index = plan.view(batch, -1, 1, 1, 1)
    moved = cells.take_along_dim(index.clamp(min=0), 1) * (index >= 0)
    moved = moved.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)
    return moved.reshape(x.shape)


def puzzle_shares(puzzle: Puzzle) -> tuple[Tensor, Tensor]:
    """Shares that are seen of each pixel of the images, and of their partners.

    Args:
        puzzle: Mask and plans of a batch.

    Returns:
        (B, H, W) shares of the images, and (B, H, W) of their partners.

    Example:
        >>> plan = torch.tensor([[[-1, 0]]])
        >>> puzzle_shares(Puzzle(torch.tensor([[[[0.0, 1.0]]]]), plan, plan))
        (tensor([[[1., 0.]]]), tensor([[[0., 0.]]]))
    """
    own, other = puzzle.mask[:, 0], 1 - puzzle.mask[:, 0]
    if puzzle.own is None or puzzle.partner is None:
        return own, other
    return _seen(own, puzzle.own), _seen(other, puzzle.partner)


def _seen(share: Tensor, plan: Tensor) -> Tensor:
    rows, columns = _sides(share, (plan.shape[1], plan.shape[2]))
    count = plan[0].numel()
    cells = share[:, ::rows, ::columns].flatten(1)
    source = torch.where(plan < 0, count, plan).flatten(1)
    found = cells.new_zeros(len(cells), count + 1).scatter(1, source, cells)[:, :count]
    return found.view(plan.shape).repeat_interleave(rows, 1).repeat_interleave(columns, 2)


def puzzlemix(
    x: Tensor,
    targets: Tensor,
    saliency: Tensor,
    *,
    alpha: float = 1.0,
    labels: int = 3,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
    neigh: int = 4,
    transport: bool = True,
    cell: int | None = 4,
    eps: float = 0.8,
    solver: str = "relaxed",
    per_sample: bool = False,
    official: bool = False,
    partner: str = "random",
    pixels: Tensor | None = None,
    views: tuple[Tensor, Tensor] | None = None,
    blocks: int | None = None,
    mask: Tensor | None = None,
    lam: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Show in each block what is salient of two images. Decisions that are not given are drawn.

    Args:
        x: (B, C, H, W) images of a floating type.
        targets: (B, K) soft or multi-hot labels.
        saliency: (B, H, W) maps, not negative.
        alpha: Beta(alpha, alpha) of the share that is asked for; unused when ``lam`` is given.
        labels: Shares that a block can show, 2 for one of both images.
        beta: Weight of neighbours that show other shares.
        gamma: Share of it that differences of their pixels count, in [0, 1].
        eta: Weight of shares that differ from the one asked for.
        neigh: Pixels over which neighbours are compared, at most a block.
        transport: Move cells to where they can be seen.
        cell: Side of a moved cell in pixels, at most a block; None for whole blocks.
        eps: Cost of the way of a cell across the image.
        solver: ``relaxed`` on the device, see :func:`relaxed_cut`, or ``exact`` on the host, see
            :func:`exact_cut`.
        per_sample: Draw one share per image; the authors draw one per batch.
        official: Draw the share even if ``lam`` is given, as OpenMixup's code does.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        pixels: (B, C, H, W) the images in [0, 1], whose differences count; ``x`` itself if None.
        views: (B, C, H, W) twice, what is seen of the images where they are the first and where
            they are the partner, such as with noise; ``x`` in both places if None.
        blocks: Blocks along the shorter side; drawn of 2, 4, 8 and 16 that divide the images.
        mask: (B, R, C) weight of the first image in each block, instead of the cut.
        lam: (B,) or (1,) share of the image that is asked for, in [0, 1].
        perm: (B,) index of each image's partner.
        generator: CPU random source of the drawn decisions.

    Returns:
        Mixed batch; ``lam`` (B,) is the share that is shown, and ``aux`` a :class:`Puzzle`.

    Raises:
        ValueError: If no number of blocks divides the images, or a shape or a value does not fit.

    Example:
        >>> x, targets = torch.rand(2, 3, 8, 8), torch.eye(2)
        >>> saliency = torch.zeros(2, 8, 8)
        >>> saliency[0, :, :4], saliency[1, :, 4:] = 1, 1
        >>> decisions = {"blocks": 2, "lam": torch.tensor([0.5]), "perm": torch.tensor([1, 0])}
        >>> puzzlemix(x, targets, saliency, **decisions).aux.mask[0, 0, 0]
        tensor([1., 1., 1., 1., 0., 0., 0., 0.])
    """
    check_batch(x, targets)
    if x.ndim != 4:
        raise ValueError(f"puzzlemix needs images (B, C, H, W), got {tuple(x.shape)}")
    batch, _, height, width = x.shape
    if saliency.shape != (batch, height, width):
        shape = (batch, height, width)
        raise ValueError(f"saliency must be {shape} maps, got {tuple(saliency.shape)}")
    if labels < 2 or solver not in CUTS or not 0 <= gamma <= 1:
        raise ValueError(
            f"puzzlemix needs 2 labels or more, gamma in [0, 1] and a solver of "
            f"{', '.join(CUTS)}, got {labels}, {gamma} and {solver!r}"
        )
    if blocks is None:
        known = fitting_blocks(height, width)
        if not known:
            raise ValueError(
                f"images of {height} x {width} pixels have no 2, 4, 8 or 16 square blocks along "
                "the shorter side; give blocks, or other images"
            )
        blocks = known[Switch(generator).pick([1.0] * len(known))]
    grid = block_grid(height, width, blocks)
    if grid is None:
        raise ValueError(
            f"{blocks} square blocks along the shorter side do not divide images of {height} x "
            f"{width} pixels"
        )
    if perm is None:
        perm = draw_perm(batch, generator, rule=partner)
    check_perm(perm, batch)
    perm = perm.to(x.device, non_blocking=True)
    if mask is None:
        if lam is None or official:
            lam = draw_lam(batch if per_sample else 1, alpha, generator)
        check_lam(lam, batch)
        weights = {"beta": beta, "gamma": gamma, "neigh": neigh}
        costs = puzzle_costs(x if pixels is None else pixels, saliency, perm, grid, **weights)
        problem = cut_problem(costs, lam, labels=labels, beta=beta, eta=eta)
        mask = 1 - CUTS[solver](problem).float() / (labels - 1)
    if mask.shape != (batch, *grid):
        raise ValueError(f"mask must be of {(batch, *grid)} blocks, got {tuple(mask.shape)}")
    own, other = (x, x) if views is None else views
    other, plans = take(other, perm), (None, None)
    if transport:
        side = _divisor(height // grid[0], height if cell is None else cell)
        cells = block_saliency(saliency, (height // side, width // side))
        seen = _enlarged(mask, height // grid[0] // side)
        plans = (move_plan(cells, seen, eps=eps), move_plan(take(cells, perm), 1 - seen, eps=eps))
        own, other = move_cells(own, plans[0]), move_cells(other, plans[1])
    shares = mask.mean((1, 2))
    wide = _enlarged(mask, height // grid[0])[:, None]
    mixed = blend(own, other, wide)
    return Mixed(mixed, mix_targets(targets, perm, shares), shares, perm, Puzzle(wide, *plans))


def _enlarged(mask: Tensor, times: int) -> Tensor:
    return mask.repeat_interleave(times, 1).repeat_interleave(times, 2)
