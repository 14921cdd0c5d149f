"""The picture of TransformMix, written to be a method's ``picture``."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.base import Method
from mixbench.methods.pictures.initial import MIXER, initial_weights
from mixbench.pictures.sheet import Panel, Row, Sheet, as_sheets, label_text, shown_pairs


def draw_transformed(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> Sequence[Sheet]:
    """Pairs with their maps, transformed images, mask and mixture.

    Args:
        self: The search or the use of a module.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` is a ``TransformStep`` if the batch is mixed.

    Returns:
        The sheet. Each pair has two rows: the image, its map, where it went and the mask; and the
        same of its partner with the mixed image.
    """
    step = mixed.aux
    if step is None or mixed.perm is None or mixed.lam is None:
        sheets = as_sheets(Method.picture(self, x, targets, mixed))
        return [sheets[0]._replace(title="This batch stays plain. Other batches are mixed.")]
    pixels, made, names = self.to_pixels(x), self.to_pixels(mixed.x), self.info.names
    moved = [self.to_pixels(each) for each in (step.warped.own, step.warped.partner)]
    area = step.mask.mean(dim=(1, 2, 3))

    def grey(image: Tensor) -> Tensor:
        return image.expand(3, -1, -1)

    def rows(own: int, other: int) -> list[Row]:
        told = [f"weight {step.asked[own]:.2f}", f"mean {area[own]:.2f}"]
        upper = [
            Panel("image / partner", pixels[own], label_text(targets[own], names)),
            Panel("saliency", grey(step.saliency[own])),
            Panel("transformed", moved[0][own]),
            Panel("mask / mixed", grey(step.mask[own]), told),
        ]
        lower = [
            Panel("", pixels[other], label_text(targets[other], names)),
            Panel("", grey(step.saliency[other])),
            Panel("", moved[1][own]),
            Panel("", made[own], label_text(mixed.targets[own], names)),
        ]
        return [upper, lower]

    notes = [
        "Maps of saliency are white where the teacher looks, masks where the image stays and black "
        "where its partner shows. Weight is what the mask was asked for, mean what it shows."
    ]
    searched = getattr(self.config, "module", None) is not None
    caveats = [] if searched else initial_weights(self, MIXER)
    return [Sheet(shown_pairs(mixed.perm), rows, notes, caveats)]
