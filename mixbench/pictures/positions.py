"""Positions of feature maps in pictures: their colours, patches, matches and values.

A map of ``grid = (h, w)`` positions divides the image into as many patches, row by row.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from mixbench.pictures.sheet import CELL, enlarge

Grid = tuple[int, int]
Match = tuple[int, int, float]
GAP = 28 / CELL  # between two images with arrows, in cells
ARROWS = 9  # at most
_FINE = 3  # arrows are drawn larger by this factor and made smaller, for smooth lines
_SMALLEST = 6 / CELL  # of a cell; smaller patches get no grid
_LIFT = 0.25  # what black becomes under a colour, so that the colour can be told
# Top left, top right, bottom left, bottom right.
_CORNERS = ((0.90, 0.16, 0.22), (0.98, 0.80, 0.10), (0.20, 0.30, 0.92), (0.05, 0.72, 0.45))
_HEAT = (
    (0.05, 0.03, 0.25),
    (0.45, 0.10, 0.50),
    (0.85, 0.28, 0.35),
    (0.98, 0.65, 0.20),
    (1, 1, 0.8),
)


def position_colours(grid: Grid) -> Tensor:
    """A colour for every position, near ones alike and the corners far apart.

    Args:
        grid: Rows and columns of the map.

    Returns:
        (h * w, 3) RGB values in [0, 1].

    Example:
        >>> position_colours((2, 2))[0]
        tensor([0.9000, 0.1600, 0.2200])
    """
    corners = torch.tensor(_CORNERS).view(1, 2, 2, 3).permute(0, 3, 1, 2)
    colours = F.interpolate(corners, size=grid, mode="bilinear", align_corners=True)
    return colours[0].flatten(1).t()


def matched_colours(weights: Tensor, colours: Tensor) -> Tensor:
    """Colours of the positions that a plan matches, averaged with its weights.

    Args:
        weights: (n, m) plan; rows are the positions that have colours.
        colours: (n, 3) RGB values.

    Returns:
        (m, 3) RGB values; a position that nothing was matched to is black.

    Example:
        >>> matched_colours(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.eye(3)[:2])
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
    """
    mass = weights.sum(dim=0).clamp(min=torch.finfo(weights.dtype).tiny)
    return (weights.t() @ colours) / mass[:, None]


def tinted(image: Tensor, colours: Tensor, grid: Grid, share: float = 0.6) -> Tensor:
    """An image in grey under patches of colour.

    Args:
        image: (3, H, W) values in [0, 1].
        colours: (h * w, 3) colour of each patch.
        grid: Rows and columns of patches.
        share: Weight of the colour.

    Returns:
        (3, H, W) values in [0, 1].
    """
    grey = (_LIFT + (1 - _LIFT) * image.mean(dim=0, keepdim=True)).expand_as(image)
    patches = colours.to(image).t().unflatten(1, grid)[None]
    return grey.lerp(F.interpolate(patches, size=image.shape[1:])[0], share)


def moved(image: Tensor, weights: Tensor, grid: Grid) -> Tensor:
    """An image whose patches a plan has moved.

    Args:
        image: (3, H, W) values in [0, 1], the side that is moved.
        weights: (n, n) plan; row i holds what patch i of the result is made of.
        grid: Rows and columns of patches.

    Returns:
        (3, H, W): every patch is the mean of the image's patches with the weights of its row. A
        row that sums to something else than 1 is brought to 1; one that is empty gives black.

    Example:
        >>> image = torch.tensor([[[0.0, 1.0]]]).expand(3, 1, 2)
        >>> moved(image, torch.tensor([[0.0, 1.0], [0.5, 0.5]]), (1, 2))[0]
        tensor([[1.0000, 0.5000]])
    """
    height, width = image.shape[1:]
    patch = (-(-height // grid[0]), -(-width // grid[1]))
    size = (grid[0] * patch[0], grid[1] * patch[1])
    even = F.interpolate(image[None], size=size)
    patches = F.unfold(even, patch, stride=patch)[0]
    mass = weights.sum(dim=1).clamp(min=torch.finfo(weights.dtype).tiny)
    mean = patches @ (weights / mass[:, None]).to(patches).t()
    return F.interpolate(F.fold(mean[None], size, patch, stride=patch), size=(height, width))[0]


def strongest_matches(weights: Tensor, grid: Grid, most: int = ARROWS) -> list[Match]:
    """For an even selection of positions, the position that each is matched to most.

    Args:
        weights: (n, n) plan.
        grid: Rows and columns of the map.
        most: Positions to select at most.

    Returns:
        Position, its match, and the match's share of the position's weights, in [0, 1].

    Example:
        >>> strongest_matches(torch.tensor([[0.25, 0.75], [1.0, 0.0]]), (1, 2))
        [(0, 1, 0.75), (1, 0, 1.0)]
    """
    chosen = _selection(grid, most).to(weights.device)
    share, match = weights[chosen].max(dim=1)
    share = share / weights[chosen].sum(dim=1).clamp(min=torch.finfo(weights.dtype).tiny)
    return list(zip(chosen.tolist(), match.tolist(), share.tolist(), strict=True))


def _selection(grid: Grid, most: int) -> Tensor:
    """Positions of every k-th row and column, or every second of these as on a chessboard."""
    step = 1
    while True:
        rows, columns = (torch.arange((side - 1) % step // 2, side, step) for side in grid)
        places = rows[:, None] * grid[1] + columns
        black = (rows[:, None] // step + columns // step) % 2 == 0
        for chosen in (places.flatten(), places[black]):
            if len(chosen) <= max(1, most):
                return chosen
        step += 1


def heat(values: Tensor) -> Tensor:
    """Values as colours from dark blue (0) over red to pale yellow (1).

    Args:
        values: (h, w) in [0, 1].

    Returns:
        (3, h, w) RGB values.
    """
    anchors = torch.tensor(_HEAT, device=values.device)
    place = values.clamp(0, 1) * (len(_HEAT) - 1)
    low = place.long().clamp(max=len(_HEAT) - 2)
    colours = anchors[low].lerp(anchors[low + 1], (place - low)[..., None])
    return colours.permute(2, 0, 1)


def with_grid(image: Image.Image, grid: Grid) -> Image.Image:
    """A picture with the borders of the patches, where these are large enough to see.

    Args:
        image: The picture.
        grid: Rows and columns of patches.

    Returns:
        A copy.
    """
    lines = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(lines)
    width, height = image.size
    thick = line_width(image)
    if min(width / grid[1], height / grid[0]) >= _SMALLEST * max(image.size):
        for index in range(1, grid[1]):
            x = round(index * width / grid[1])
            draw.line((x, 0, x, height), (255, 255, 255, 130), thick)
        for index in range(1, grid[0]):
            y = round(index * height / grid[0])
            draw.line((0, y, width, y), (255, 255, 255, 130), thick)
    return Image.alpha_composite(image.convert("RGBA"), lines).convert("RGB")


def with_box(image: Image.Image, box: Sequence[float], size: tuple[int, int]) -> Image.Image:
    """A picture with the outline of a box.

    Args:
        image: The picture, of any size.
        box: ``top, left, bottom, right`` in pixels of the original; nothing is drawn if empty.
        size: Height and width of the original in pixels.

    Returns:
        A copy.
    """
    shown = image.copy()
    top, left, bottom, right = box
    if bottom > top and right > left:
        down, along = image.height / size[0], image.width / size[1]
        ends = (left * along, top * down, right * along - 1, bottom * down - 1)
        draw, thick = ImageDraw.Draw(shown), line_width(image)
        draw.rectangle(ends, outline="black", width=3 * thick)
        draw.rectangle(ends, outline="white", width=thick)
    return shown


def line_width(image: Image.Image) -> int:
    """Pixels of a thin line in a picture of a whole image, which is 1 in a cell of usual size.

    Args:
        image: The picture.

    Returns:
        The width.
    """
    return max(1, round(max(image.size) / CELL))


def correspondence(
    layout: Tensor, other: Tensor, weights: Tensor, grid: Grid, cell: int = CELL
) -> Image.Image:
    """Two images side by side, matched positions in the same colour and joined by arrows.

    Args:
        layout: (3, H, W) image whose layout is kept, on the left.
        other: (3, H, W) image that is moved to it.
        weights: (n, n) plan; row i holds the weights of the other's positions in position i.
        grid: Rows and columns of the map.
        cell: Longer side of one image in pixels.

    Returns:
        The picture; a stronger match has a wider and less transparent arrow.
    """
    weights = weights.float().cpu()
    colours = position_colours(grid)
    tints = (colours, matched_colours(weights, colours))
    sides = [
        with_grid(enlarge(tinted(image.float().cpu(), tint, grid), cell), grid)
        for image, tint in zip((layout, other), tints, strict=True)
    ]
    width, height = sides[0].size
    gap = round(GAP * cell)
    canvas = Image.new("RGB", (2 * width + gap, height), "white")
    canvas.paste(sides[0], (0, 0))
    canvas.paste(sides[1], (width + gap, 0))
    arrows = Image.new("RGBA", (canvas.width * _FINE, height * _FINE))
    draw, unit = ImageDraw.Draw(arrows), _FINE * cell / CELL
    for start, end, share in strongest_matches(weights, grid):
        colour = tuple(round(255 * part) for part in colours[start].tolist())
        ends = (
            _middle(start, grid, sides[0].size, 0),
            _middle(end, grid, sides[0].size, width + gap),
        )
        _arrow(draw, *ends, colour, share, unit)
    small = arrows.resize(canvas.size, Image.Resampling.LANCZOS)
    return Image.alpha_composite(canvas.convert("RGBA"), small).convert("RGB")


def _middle(position: int, grid: Grid, size: tuple[int, int], left: int) -> tuple[float, float]:
    row, column = divmod(position, grid[1])
    x, y = (column + 0.5) * size[0] / grid[1], (row + 0.5) * size[1] / grid[0]
    return (left + x) * _FINE, y * _FINE


def _arrow(
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: tuple[int, ...],
    share: float,
    unit: float,
) -> None:
    alpha, width = round(70 + 185 * share), round((1 + 1.5 * share) * unit)
    length = ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
    along = ((end[0] - start[0]) / length, (end[1] - start[1]) / length)
    head, half = 8 * unit, 3.5 * unit
    neck = (end[0] - head * along[0], end[1] - head * along[1])
    wings = [(neck[0] - s * half * along[1], neck[1] + s * half * along[0]) for s in (1, -1)]
    for fill, more in (((255, 255, 255, alpha), round(2 * unit)), ((*colour, alpha), 0)):
        draw.line((start, neck), fill, width + more)
        draw.polygon([end, *wings], fill, fill if more else None, max(1, more // 2))
        radius = 2 * unit + more // 2
        x, y = start
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill)
