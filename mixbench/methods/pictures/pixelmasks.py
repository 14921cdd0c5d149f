"""The picture of methods that mix by a mask over the pixels, written to be their ``picture``."""

from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.base import Method
from mixbench.pictures.sheet import Panel, Row, Sheet, as_sheets


def draw_pixel_masks(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Pairs with their mask, white where the image stays, and their mixed images.

    Args:
        self: A method.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` is the mask unless the batch is left as it is.

    Returns:
        The sheet.
    """
    (sheet,) = as_sheets(Method.picture(self, x, targets, mixed))
    if mixed.aux is None:
        return [sheet]
    masks = mixed.aux.expand(len(x), 3, -1, -1)

    def rows(own: int, other: int) -> list[Row]:
        (row,) = sheet.rows(own, other)
        mask = Panel("mask", masks[own], [f"mean {masks[own].mean():.2f}"])
        return [[*row[:-1], mask, row[-1]]]

    return [sheet._replace(rows=rows)]
