"""SpliceMix: grids of shrunken images, appended to the batch with the labels of all their cells.

Wang et al., 2023, arXiv:2311.15200; official code zuiran/SpliceMix.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.draws import Switch
from mixbench.functional.mixed import Mixed, check_batch, readable, take

SPLICE_LABELS = ("union", "mean")
APPENDED = 4  # images of the batch for each that is appended, as the authors have it
ABSENT = -1000.0  # logit of a dropped cell: its sigmoid and its loss are 0
_GRID = re.compile(r"([1-9]\d?)x([1-9]\d?)(?:-(\d{1,4}))?")


class SpliceGrid(NamedTuple):
    """Rows and columns of a mixed image, and how many of its cells are dropped."""

    rows: int
    columns: int
    drops: int = 0

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.rows * self.columns


# Grids of the default setting with their chances, and the chance that cells of a batch are dropped.
SPLICE_GRIDS = (SpliceGrid(1, 2), SpliceGrid(2, 2), SpliceGrid(2, 3))
SPLICE_CHANCES = (0.3, 0.4, 0.3)
DROP_CHANCE = 0.3


class Spliced(NamedTuple):
    """Decisions that made the images that are appended to a batch.

    ``counts`` images of each of the ``grids``, one grid after the other. ``sources`` (N,) are the
    rows of the batch that their N cells show, row by row inside an image, and ``dropped`` (N,) is
    True for cells that are empty.
    """

    grids: tuple[SpliceGrid, ...]
    counts: tuple[int, ...]
    sources: Tensor
    dropped: Tensor

    @property
    def images(self) -> int:
        """Number of images that are appended."""
        return sum(self.counts)

    def parts(self) -> list[tuple[SpliceGrid, int, Tensor, Tensor]]:
        """Grid, number of images, ``sources`` and ``dropped`` of each grid."""
        sizes = [g.cells * n for g, n in zip(self.grids, self.counts, strict=True)]
        parts = self.sources.split(sizes), self.dropped.split(sizes)
        return list(zip(self.grids, self.counts, *parts, strict=True))


def parse_splice_grid(text: str) -> SpliceGrid:
    """A grid by its name, ``RxC`` or ``RxC-d`` with d dropped cells.

    Args:
        text: The name.

    Returns:
        The grid.

    Raises:
        ValueError: If the name is another, or no cell would be left.

    Example:
        >>> parse_splice_grid("2x3-1")
        SpliceGrid(rows=2, columns=3, drops=1)
    """
    found = _GRID.fullmatch(text)
    if found is None:
        raise ValueError(f"a grid is RxC or RxC-d, such as 2x2 or 2x3-1, got {text!r}")
    grid = SpliceGrid(*(int(number or 0) for number in found.groups()))
    if grid.drops >= grid.cells:
        raise ValueError(
            f"grid {text} drops {grid.drops} of {grid.cells} cells; leave one at least"
        )
    return grid


def draw_splice_grid(generator: Generator | None = None) -> SpliceGrid:
    """Draw the grid of a batch as the authors do by default, before it is transposed.

    Args:
        generator: CPU random source.

    Returns:
        1x2, 2x2 or 2x3 with chances of 0.3, 0.4 and 0.3; with a chance of 0.3 it drops 1, 1 to 3
        or 1 to 5 cells, each number as likely.
    """
    switch = Switch(generator)
    grid = SPLICE_GRIDS[switch.pick(SPLICE_CHANCES)]
    most = grid.cells - 1
    drops = 1 + switch.pick([1.0] * most)
    return grid._replace(drops=drops if switch.on(DROP_CHANCE) else 0)


def draw_transposed(
    grids: Sequence[SpliceGrid], generator: Generator | None = None
) -> tuple[bool, ...]:
    """Draw whether rows and columns of each grid change places, with a chance of one half.

    Args:
        grids: The grids; a square one stays as it is.
        generator: CPU random source.

    Returns:
        A decision for each grid.
    """
    return tuple(Switch(generator).on(0.5) and grid.rows != grid.columns for grid in grids)


def draw_sources(cells: int, batch: int, generator: Generator | None = None) -> Tensor:
    """Draw which image each cell shows; none is shown again before all others are.

    Args:
        cells: Number of cells N.
        batch: Batch size B.
        generator: Random source; the result lies on its device (CPU by default).

    Returns:
        (N,) int64 rows of the batch: as many random permutations as it takes.
    """
    device = generator.device if generator is not None else None
    rounds = max(1, -(-cells // batch))
    orders = [torch.randperm(batch, generator=generator, device=device) for _ in range(rounds)]
    return torch.cat(orders)[:cells]


def draw_dropped(grid: SpliceGrid, images: int, generator: Generator | None = None) -> Tensor:
    """Draw which cells of each image are dropped.

    Args:
        grid: Its grid.
        images: Number of images M.
        generator: Random source; the result lies on its device (CPU by default).

    Returns:
        (M * R * C,) bool, True for ``grid.drops`` different cells of each image.
    """
    device = generator.device if generator is not None else None
    order = torch.rand(images, grid.cells, generator=generator, device=device).argsort(dim=1)
    dropped = torch.zeros_like(order, dtype=torch.bool)
    return dropped.scatter_(1, order[:, : grid.drops], True).flatten()


def splicemix(
    x: Tensor,
    targets: Tensor,
    *,
    grids: Sequence[SpliceGrid] | None = None,
    counts: Sequence[int] | None = None,
    labels: str = "union",
    antialias: bool = False,
    transposed: Sequence[bool] | None = None,
    sources: Tensor | None = None,
    dropped: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Append grids of shrunken images to a batch. Decisions that are not given are drawn.

    Args:
        x: (B, C, H, W) images of a floating type, 0 where a dropped cell is to be grey.
        targets: (B, K) multi-hot or soft labels; NaN where a label is unknown.
        grids: Grids of the appended images; drawn by :func:`draw_splice_grid` if None.
        counts: Images of each grid. None is a quarter of the batch, of one grid only; 0, of one
            grid only, is as many as show each image of the batch once.
        labels: ``union`` is the largest label of the cells that are kept, and known where one of
            them is 1; ``mean`` their mean, for images of one class each (an addition of this
            package).
        antialias: Smooth before shrinking; corners are then not aligned. The authors' code aligns
            them and does not smooth.
        transposed: Whether rows and columns of each grid change places.
        sources: (N,) row of the batch that each cell shows, row by row inside an image, the images
            of one grid after those of another.
        dropped: (N,) bool, True for cells that are empty.
        generator: CPU random source of the drawn decisions.

    Returns:
        Mixed batch: the B images and behind them M mixed ones, of which ``aux``, a
        :class:`Spliced`, tells the decisions; ``aux`` is None and nothing appended where the batch
        is too small.

    Raises:
        ValueError: If ``targets`` are class indices, ``x`` is of an integer type or not
            (B, C, H, W), the batch sizes differ, an image is smaller than its grid, or the
            decisions do not fit together.

    Example:
        >>> x, targets = torch.ones(4, 1, 2, 2), torch.eye(4)
        >>> grid, sources = SpliceGrid(1, 2), torch.tensor([3, 0])
        >>> mixed = splicemix(x, targets, grids=[grid], transposed=[False], sources=sources)
        >>> mixed.x.shape, mixed.targets[4]
        (torch.Size([5, 1, 2, 2]), tensor([1., 0., 0., 1.]))
    """
    check_batch(x, targets)
    if x.ndim != 4:
        raise ValueError(f"splicemix needs images (B, C, H, W), got {tuple(x.shape)}")
    if labels not in SPLICE_LABELS:
        raise ValueError(f"labels must be one of {', '.join(SPLICE_LABELS)}, got {labels!r}")
    grids = [draw_splice_grid(generator)] if grids is None else list(grids)
    numbers = _counts(len(x), grids, counts)
    if transposed is None:
        transposed = draw_transposed(grids, generator)
    if len(transposed) != len(grids):
        raise ValueError(f"transposed must decide on {len(grids)} grids, got {len(transposed)}")
    placed = tuple(
        grid._replace(rows=grid.columns, columns=grid.rows) if turn else grid
        for grid, turn in zip(grids, transposed, strict=True)
    )
    _check_grids(placed, x)
    if not sum(numbers):
        return Mixed(x, targets)
    cells = sum(grid.cells * n for grid, n in zip(placed, numbers, strict=True))
    if sources is None:
        sources = draw_sources(cells, len(x), generator)
    if dropped is None:
        parts = zip(placed, numbers, strict=True)
        dropped = torch.cat([draw_dropped(grid, n, generator) for grid, n in parts])
    _check_cells(sources, dropped, cells, len(x))
    sources, dropped = (t.to(x.device, non_blocking=True) for t in (sources, dropped))
    spliced = Spliced(placed, numbers, sources, dropped)
    images, soft = [x], [targets]
    for grid, count, rows, gone in spliced.parts():
        images.append(_placed(x, grid, count, rows, gone, antialias))
        soft.append(_labels(targets, grid, count, rows, gone, labels))
    return Mixed(torch.cat(images), torch.cat(soft), aux=spliced)


def splice_cells(h: Tensor, spliced: Spliced) -> list[Tensor]:
    """Cut features of appended images into their cells.

    Args:
        h: (M, C, h, w) features of the appended images alone.
        spliced: The decisions that made the images.

    Returns:
        (M_i * R * C, C, h', w') cells of each grid, in the order of ``spliced.sources``. Maps that
        rows or columns do not divide are resized first, to at least one place a cell.

    Raises:
        ValueError: If the number of images is another.
    """
    if h.ndim != 4 or len(h) != spliced.images:
        raise ValueError(f"h must be ({spliced.images}, C, h, w), got {tuple(h.shape)}")
    found = []
    for (rows, columns, _), part in zip(spliced.grids, h.split(list(spliced.counts)), strict=True):
        high, wide = max(1, h.shape[2] // rows), max(1, h.shape[3] // columns)
        part = _resized(part, rows * high, columns * wide)
        cells = part.reshape(len(part), -1, rows, high, columns, wide).permute(0, 2, 4, 1, 3, 5)
        found.append(cells.reshape(-1, h.shape[1], high, wide))
    return found


def mark_dropped(logits: Tensor, dropped: Tensor) -> Tensor:
    """Logits of cells with those of dropped cells at -1000, where they add nothing to a loss.

    Args:
        logits: (N, K) logits of the cells, or of the images that they show.
        dropped: (N,) bool, True for dropped cells.

    Returns:
        (N, K) logits.

    Example:
        >>> mark_dropped(torch.ones(2, 1), torch.tensor([False, True]))
        tensor([[    1.],
                [-1000.]])
    """
    return logits.masked_fill(dropped[:, None], ABSENT)


def splice_consistency(
    cells: Tensor,
    logits: Tensor,
    spliced: Spliced,
    *,
    detach: bool = True,
    kept_only: bool = False,
) -> Tensor:
    """Binary cross-entropy of cells against the predictions for the images that they show.

    Args:
        cells: (N, K) logits of the cells.
        logits: (B or more, K) logits of the batch, its regular images in front.
        spliced: The decisions that made the images.
        detach: Let no gradient into the predictions for the images.
        kept_only: Average over the cells that are kept; the authors' code counts dropped ones too.

    Returns:
        Scalar in nats, averaged over cells and classes.

    Example:
        >>> spliced = Spliced((SpliceGrid(1, 1),), (1,), torch.tensor([0]), torch.tensor([False]))
        >>> splice_consistency(torch.zeros(1, 2), torch.zeros(1, 2), spliced)
        tensor(0.6931)
    """
    reference = take(logits, spliced.sources)
    reference = reference.detach() if detach else reference
    own, reference = (mark_dropped(z.float(), spliced.dropped) for z in (cells, reference))
    losses = F.binary_cross_entropy_with_logits(own, reference.sigmoid(), reduction="none")
    if not kept_only:
        return losses.mean()
    return losses.sum() / ((~spliced.dropped).sum() * losses.shape[1]).clamp(min=1)


def _counts(
    batch: int, grids: Sequence[SpliceGrid], counts: Sequence[int] | None
) -> tuple[int, ...]:
    if counts is None and len(grids) == 1:
        return (batch // APPENDED,)
    if counts is None or len(counts) != len(grids) or min(counts) < 0:
        raise ValueError(f"counts must give each of {len(grids)} grids its images, got {counts}")
    if 0 in counts and len(counts) > 1:
        raise ValueError(f"a count of 0, all images once, is for a single grid, got {list(counts)}")
    return tuple(count or batch // grid.cells for count, grid in zip(counts, grids, strict=True))


def _check_grids(grids: Sequence[SpliceGrid], x: Tensor) -> None:
    height, width = x.shape[2:]
    for grid in grids:
        if grid.rows > height or grid.columns > width:
            raise ValueError(
                f"images of {height}x{width} pixels cannot be a cell of {grid.rows} rows and "
                f"{grid.columns} columns; use larger images or fewer cells"
            )
        if not 0 <= grid.drops < grid.cells:
            raise ValueError(f"{grid} leaves no cell")


def _check_cells(sources: Tensor, dropped: Tensor, cells: int, batch: int) -> None:
    if sources.shape != (cells,) or dropped.shape != (cells,):
        raise ValueError(
            f"sources and dropped must hold {cells} cells, got {tuple(sources.shape)} and "
            f"{tuple(dropped.shape)}"
        )
    if dropped.dtype != torch.bool:
        raise ValueError(f"dropped must be bool, got {dropped.dtype}")
    if readable(sources) and not bool(((sources >= 0) & (sources < batch)).all()):
        raise ValueError(f"sources must name rows of a batch of {batch}, got {sources.tolist()}")


def _placed(
    x: Tensor, grid: SpliceGrid, count: int, sources: Tensor, dropped: Tensor, antialias: bool
) -> Tensor:
    """Mixed images of one grid (M, C, H, W): one resize, then the cells change places."""
    channels, height, width = x.shape[1:]
    high, wide = height // grid.rows, width // grid.columns
    cells = _resized(take(x, sources), high, wide, antialias)
    # Filled, not multiplied: a pixel that is not finite stays in its own image.
    cells = cells.masked_fill(dropped[:, None, None, None], 0)
    cells = cells.reshape(count, grid.rows, grid.columns, channels, high, wide)
    images = cells.permute(0, 3, 1, 4, 2, 5)
    images = images.reshape(count, channels, grid.rows * high, grid.columns * wide)
    images = _resized(images, height, width, antialias)
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return images.contiguous(memory_format=torch.channels_last)
    return images


def _labels(
    targets: Tensor, grid: SpliceGrid, count: int, sources: Tensor, dropped: Tensor, rule: str
) -> Tensor:
    """Labels (M, K) of mixed images of one grid."""
    cells = take(targets, sources).reshape(count, grid.cells, -1)
    gone = dropped.reshape(count, grid.cells, 1)
    if rule == "mean":
        return cells.masked_fill(gone, 0).sum(dim=1) / (~gone).sum(dim=1).clamp(min=1)
    largest = cells.nan_to_num(0).masked_fill(gone, 0).amax(dim=1)
    # A class that one cell shows for certain is there, whatever is unknown of the others.
    unknown = (cells.isnan() & ~gone).any(dim=1) & (largest < 1)
    return largest.masked_fill(unknown, torch.nan)


def _resized(x: Tensor, height: int, width: int, antialias: bool = False) -> Tensor:
    if x.shape[2:] == (height, width):
        return x
    # In float32 at least: smoothing is not there in bfloat16 on the CPU, and rounds only once.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    how = {"mode": "bilinear", "align_corners": not antialias, "antialias": antialias}
    return F.interpolate(wide, (height, width), **how).to(x.dtype)
