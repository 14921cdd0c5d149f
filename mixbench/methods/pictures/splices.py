"""The picture of SpliceMix, written to be a method's ``picture``."""

from typing import Any

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.errors import counted
from mixbench.pictures.sheet import GREY, Panel, Row, Sheet, label_text, mixed_sheet

NAMED = 4  # classes of a mixed image, which shows several


def draw_splices(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """The cells of each appended image, and the image; with partners each pair and its image.

    Args:
        self: SpliceMix or SpliceMix-CL.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned.

    Returns:
        A sheet for each grid.
    """
    spliced = self.spliced(mixed)
    if spliced is None:
        plain = mixed._replace(x=self.to_pixels(mixed.x))
        sheet = mixed_sheet(self.to_pixels(x), targets, plain, self.info.names)
        return [sheet._replace(title="Nothing is appended to this batch.")]
    pixels, made, names = self.to_pixels(x), self.to_pixels(mixed.x[len(x) :]), self.info.names
    labels = mixed.targets[len(x) :]

    def shown(row: int, title: str) -> Panel:
        return Panel(title, pixels[row], label_text(targets[row], names))

    def spliced_panel(place: int) -> Panel:
        return Panel("mixed", made[place], label_text(labels[place], names, NAMED))

    if mixed.perm is not None:

        def pair(own: int, other: int) -> list[Row]:
            return [[shown(own, "image"), shown(other, "partner"), spliced_panel(own)]]

        return [Sheet(list(enumerate(mixed.perm.tolist())), pair)]

    sheets, start = [], 0
    for grid, count, sources, dropped in spliced.parts():
        cells = zip(sources.view(count, -1).tolist(), dropped.view(count, -1).tolist(), strict=True)
        sheets.append(_grid_sheet(grid, start, list(cells), shown, spliced_panel, pixels))
        start += count
    return sheets


def _grid_sheet(
    grid: mf.SpliceGrid,
    start: int,
    cells: list[tuple[list[int], list[bool]]],
    shown: Any,
    spliced_panel: Any,
    pixels: Tensor,
) -> Sheet:
    """The images of one grid, the first of which is number ``start`` of those appended."""
    empty = torch.full_like(pixels[0], GREY)

    def rows(place: int, _: int) -> list[Row]:
        sources, gone = cells[place - start]
        row = [
            Panel(_cell_title(grid, cell), empty, ["dropped"])
            if gone[cell]
            else shown(source, _cell_title(grid, cell))
            for cell, source in enumerate(sources)
        ]
        return [[*row, spliced_panel(place)]]

    places = range(start, start + len(cells))
    made = counted(len(cells), "image")
    title = f"Appended to the batch: {made} of {grid.rows} x {grid.columns} cells."
    if grid.drops:
        title += f" Dropped of each: {counted(grid.drops, 'cell')}."
    return Sheet([(place, place) for place in places], rows, title=title)


def _cell_title(grid: mf.SpliceGrid, cell: int) -> str:
    return f"row {cell // grid.columns + 1}, column {cell % grid.columns + 1}"
