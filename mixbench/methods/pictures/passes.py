"""The picture of the control that passes clean and mixed images, written to be its ``picture``."""

from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.pictures.sheet import ROWS, Panel, Row, Sheet, label_text


def draw_passes(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Pairs, and what either pass of the network sees of them.

    Args:
        self: A method with a ``clean`` and a ``mix`` pass.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux.x`` are the images of the clean pass.

    Returns:
        The sheet.
    """
    assert mixed.perm is not None
    pixels, names = self.to_pixels(x), self.info.names
    clean, made, labels = self.to_pixels(mixed.aux.x), self.to_pixels(mixed.x), mixed.targets

    def rows(own: int, other: int) -> list[Row]:
        return [
            [
                Panel("image", pixels[own], label_text(targets[own], names)),
                Panel("partner", pixels[other], label_text(targets[other], names)),
                Panel("clean pass", clean[own], label_text(labels["clean"][own], names)),
                Panel("mixed pass", made[own], label_text(labels["mix"][own], names)),
            ]
        ]

    notes = ["The loss is the sum over both passes, each with its own labels."]
    return [Sheet(list(enumerate(mixed.perm.tolist())), rows, notes, most=ROWS)]
