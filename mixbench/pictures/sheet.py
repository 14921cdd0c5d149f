"""Sheets: what a picture of a batch holds, pair by pair, before anything is drawn.

:mod:`mixbench.pictures.layout` gives each part its place; :mod:`mixbench.pictures.raster` and
:mod:`mixbench.pictures.vector` write it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from mixbench.errors import UserError, near_match, printable
from mixbench.functional.mixed import Mixed, mix_targets

CELL = 128  # pixels of an image's longer side, in the size that drawings are made for
ROWS = 8  # of a batch
LIGHTEST = 0.005  # weight of a class that is named
PAIRS = 4  # of a picture with more than the images
GREY = 0.92  # of a panel where there is no image
LONGEST = 200  # characters of a class name, before it is measured

Drawing = Callable[[int], Image.Image]  # from pixels of an image's longer side


class Label(NamedTuple):
    """A class with its weight; only the name may be shortened."""

    weight: float
    name: str


class Panel(NamedTuple):
    """One place of a sheet: the title of its column, a picture, and lines of text below it.

    The picture is an image (3, H, W) in [0, 1], one that was drawn for a cell of ``CELL`` pixels,
    or a function that draws it for another cell.
    """

    title: str
    image: Tensor | Image.Image | Drawing
    lines: Sequence[str | Label] = ()


Row = Sequence[Panel]


class Sheet(NamedTuple):
    """Pairs of a batch, each in the same number of rows of panels.

    ``pairs`` are rows of the batch and of their partners; ``rows`` makes the panels of a pair, the
    last of which shows what became of it. ``notes`` are sentences about all panels, ``caveats``
    those that the last one needs also where it stands alone. ``most`` pairs are shown unless
    another number is asked for.
    """

    pairs: Sequence[tuple[int, int]]
    rows: Callable[[int, int], Sequence[Row]]
    notes: Sequence[str] = ()
    caveats: Sequence[str] = ()
    title: str = ""
    most: int = PAIRS

    def drawn(self, images: int | None = None) -> list[Row]:
        """Rows of the first pairs.

        Args:
            images: Number of pairs; ``most`` if None.

        Returns:
            The rows, those of one pair after those of another.
        """
        shown = self.pairs[: self.most if images is None else images]
        return [row for pair in shown for row in self.rows(*pair)]


def label_text(target: Tensor, names: list[str], most: int = 2) -> list[Label | str]:
    """The heaviest classes of a soft label.

    Args:
        target: (K,) soft label.
        names: Class names.
        most: Number of classes to name.

    Returns:
        Weights and names, and how many classes more there are; classes below 0.005 are left out,
        and those that are unknown.
    """
    known = target.float().nan_to_num(0)
    weights, classes = known.topk(min(most, len(target)))
    pairs = zip(weights.tolist(), classes.tolist(), strict=True)
    found: list[Label | str] = [
        Label(weight, printable(names[index][:LONGEST]))
        for weight, index in pairs
        if weight >= LIGHTEST
    ]
    more = int((known >= LIGHTEST).sum()) - len(found)
    return found + [f"and {more} more"] * (more > 0)


def shown_pairs(perm: Tensor) -> list[tuple[int, int]]:
    """The images that meet another image, with their partners.

    Args:
        perm: (B,) index of each image's partner.

    Returns:
        Rows of the batch; where every image meets itself, all of them.

    Example:
        >>> shown_pairs(torch.tensor([0, 2, 1]))
        [(1, 2), (2, 1)]
    """
    found = list(enumerate(perm.tolist()))
    return [pair for pair in found if pair[0] != pair[1]] or found


def enlarge(image: Tensor, cell: int = CELL) -> Image.Image:
    """An image in the size in which it is looked at, its pixels kept square and sharp.

    Args:
        image: (3, H, W) values in [0, 1]; others are cut off.
        cell: Longer side of the result in pixels.

    Returns:
        The picture; a larger image is averaged.
    """
    shown = as_picture(image)
    scale = cell / max(shown.size)
    width, height = (max(1, round(side * scale)) for side in shown.size)
    kind = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    return shown.resize((width, height), kind)


def as_picture(image: Tensor) -> Image.Image:
    """An image, a pixel for each of its own.

    Args:
        image: (3, H, W) values in [0, 1]; others are cut off.

    Returns:
        The picture.
    """
    array = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return Image.fromarray(array.permute(1, 2, 0).numpy())


def mixed_sheet(
    pixels: Tensor,
    targets: Tensor,
    mixed: Mixed,
    names: list[str],
    caveats: Sequence[str] = (),
) -> Sheet:
    """Images, partners and mixed images of a batch with their labels.

    Args:
        pixels: (B, 3, H, W) images before mixing, in [0, 1].
        targets: (B, K) their labels.
        mixed: The mixed batch, its ``x`` (N, 3, H, W) as pixels in [0, 1].
        names: Class names.
        caveats: Sentences below.

    Returns:
        The sheet.
    """
    labels = mixed.targets if isinstance(mixed.targets, Tensor) else targets
    if labels is targets and mixed.perm is not None and mixed.lam is not None:
        labels = mix_targets(targets, mixed.perm, mixed.lam)
    partners = range(len(pixels)) if mixed.perm is None else mixed.perm.tolist()
    more = len(mixed.x) - len(pixels)
    if more > 0:
        caveats = [*caveats, f"Images that are appended to the batch are not shown: {more}."]

    def rows(own: int, other: int) -> list[Row]:
        row = [Panel("image", pixels[own], label_text(targets[own], names))]
        if mixed.perm is not None:
            row.append(Panel("partner", pixels[other], label_text(targets[other], names)))
        return [[*row, Panel("mixed", mixed.x[own], label_text(labels[own], names))]]

    return Sheet(list(enumerate(partners)), rows, caveats=caveats, most=ROWS)


def matrix_sheet(
    pixels: Tensor, targets: Tensor, names: list[str], sheets: Mapping[str, Sheet]
) -> Sheet:
    """What several methods make of the same pairs, a column for each.

    Args:
        pixels: (B, 3, H, W) images before mixing, in [0, 1].
        targets: (B, K) their labels.
        names: Class names.
        sheets: Sheet of each method by its name, all with the same partners.

    Returns:
        The sheet, with the titles and caveats of all.
    """

    def rows(own: int, other: int) -> list[Row]:
        row = [
            Panel("image", pixels[own], label_text(targets[own], names)),
            Panel("partner", pixels[other], label_text(targets[other], names)),
        ]
        made = {name: sheet.rows(own, other)[-1][-1] for name, sheet in sheets.items()}
        return [[*row, *(panel._replace(title=name) for name, panel in made.items())]]

    shared = set.intersection(*(set(sheet.pairs) for sheet in sheets.values()))
    pairs = [pair for pair in next(iter(sheets.values())).pairs if pair in shared]
    notes = [
        f"{name}: {text}"
        for name, sheet in sheets.items()
        for text in (sheet.title, *sheet.caveats)
        if text
    ]
    return Sheet(pairs, rows, caveats=notes)


def as_sheets(picture: Sequence[Sheet] | Image.Image) -> list[Sheet]:
    """What a method shows of a batch, as sheets.

    Args:
        picture: Its sheets, or a finished picture.

    Returns:
        The sheets; of a finished picture one with one panel.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(picture, Image.Image):
        return [Sheet([(0, 0)], lambda *_: [[Panel("", picture)]])]
    if not isinstance(picture, list | tuple) or not all(isinstance(s, Sheet) for s in picture):
        kind = type(picture).__name__
        raise TypeError(f"picture returned {kind}, expected sheets or a picture of Pillow")
    return list(picture)


def under_title(picture: Sequence[Sheet] | Image.Image, title: str) -> list[Sheet]:
    """What a method shows of a batch, under a title.

    Args:
        picture: Its sheets, or a finished picture.
        title: The title, which stands in front of that of the first sheet.

    Returns:
        The sheets.
    """
    first, *others = as_sheets(picture)
    return [first._replace(title=f"{title} {first.title}".strip()), *others]


def selected(
    sheets: Sequence[Sheet], columns: Sequence[str] = (), images: int | None = None
) -> list[Sheet]:
    """Sheets with some of their columns, and a number of pairs.

    Args:
        sheets: The sheets of one picture.
        columns: Titles of the columns, in the order in which they are shown; all if empty.
        images: Pairs of each sheet; as many as it shows by itself if None.

    Returns:
        The sheets that have any of the columns.

    Raises:
        UserError: If a title is unknown or given twice, or a sheet has fewer pairs.
    """
    if images is not None:
        have = min(len(sheet.pairs) for sheet in sheets)
        if not 1 <= images <= have:
            what = f"--images {images} is not between 1 and {have}, the pairs of this batch"
            raise UserError(what, "show", "ask for fewer, or give a larger batch_size")
        sheets = [sheet._replace(most=images) for sheet in sheets]
    if not columns:
        return list(sheets)
    titles = {id(sheet): _titles(sheet) for sheet in sheets}
    known = list(dict.fromkeys(title for found in titles.values() for title in found if title))
    for name in columns:
        if name not in known:
            listed = f"the columns are: {', '.join(known)}" if known else "it has no columns"
            hint = near_match(name, known)
            raise UserError(
                f"no column {name!r}", "--columns", "; ".join(filter(None, (hint, listed)))
            )
    if len(set(columns)) < len(columns):
        raise UserError(
            f"a column is given twice: {', '.join(columns)}", "--columns", "name it once"
        )
    return [
        _with_columns(s, titles[id(s)], columns) for s in sheets if {*columns} & {*titles[id(s)]}
    ]


def _titles(sheet: Sheet) -> list[str]:
    return [panel.title for panel in sheet.rows(*sheet.pairs[0])[0]]


def _with_columns(sheet: Sheet, titles: Sequence[str], columns: Sequence[str]) -> Sheet:
    places = [place for name in columns for place, title in enumerate(titles) if title == name]

    def rows(own: int, other: int) -> list[Row]:
        found = sheet.rows(own, other)
        return [[row[place] for place in places if place < len(row)] for row in found]

    return sheet._replace(rows=rows)
