"""The picture of methods whose label comes from maps under a region, to be their ``picture``."""

from functools import partial
from typing import Any

from PIL import Image
from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.base import Method
from mixbench.methods.pictures.initial import NETWORK, initial_weights
from mixbench.pictures.positions import with_box
from mixbench.pictures.sheet import CELL, Panel, Row, Sheet, as_sheets
from mixbench.pictures.windows import attention_over

NOTE = (
    "Red: what the map shows of the class. The frame in the image is the box that is covered, the "
    "frame in its partner the part that covers it, resized. The weights below are those of the "
    "labels in the loss; they need not sum to 1."
)


def draw_snapped(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Pairs with their maps under both boxes, and their mixed images.

    Args:
        self: A method.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` is a :class:`mixbench.functional.Snapped` unless the
            batch is left as it is.

    Returns:
        The sheet.
    """
    (sheet,) = as_sheets(Method.picture(self, x, targets, mixed))
    if mixed.aux is None:
        return [sheet]
    snapped: mf.Snapped = mixed.aux
    pixels, size = self.to_pixels(x), (x.shape[2], x.shape[3])
    assert mixed.lam is not None
    own_weight, boxes = mixed.lam * snapped.weight, (snapped.box, snapped.source)
    covered, given = (box.expand(len(x), -1) for box in boxes)

    def framed(place: int, box: Tensor, cell: int = CELL) -> Image.Image:
        return with_box(
            attention_over(pixels[place], snapped.maps[place], cell), box.tolist(), size
        )

    def rows(own: int, other: int) -> list[Row]:
        image, partner, result = sheet.rows(own, other)[0]
        weight = float(own_weight[own])
        values = (weight, float(snapped.weight[own]) - weight)
        sides = zip(("image", "partner"), (own, other), (covered, given), values, strict=True)
        maps = [
            Panel(f"map of the {title}", partial(framed, place, box[own]), [f"weight {value:.2f}"])
            for title, place, box, value in sides
        ]
        return [[image, maps[0], partner, maps[1], result]]

    caveats = [] if self.kind == "spectral" else initial_weights(self, NETWORK)
    return [sheet._replace(rows=rows, notes=[*sheet.notes, NOTE], caveats=caveats)]
