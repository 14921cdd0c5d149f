"""The picture of methods that learn from views, written to be a method's ``picture``."""

from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.pictures.initial import MIXER, initial_weights
from mixbench.pictures.sheet import Panel, Row, Sheet, label_text


def draw_views(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Both views of the first images, and the images that were mixed of them.

    Args:
        self: A method that learns by contrast.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` begins with both views.

    Returns:
        The sheet.
    """
    pixels, views = self.to_pixels(x), [self.to_pixels(view) for view in mixed.aux[:2]]
    shown, names = self.to_pixels(mixed.x), self.info.names
    partners = range(len(x)) if mixed.perm is None else mixed.perm.tolist()

    def rows(own: int, other: int) -> list[Row]:
        panels = [Panel("image", pixels[own], label_text(targets[own], names))]
        panels += [Panel("view", views[0][own]), Panel("its key", views[1][own])]
        if mixed.perm is not None and mixed.lam is not None:
            lam = float(mixed.lam.expand(len(x))[own])
            panels.append(
                Panel("partner's key", views[1][other], label_text(targets[other], names))
            )
            panels.append(Panel("mixed", shown[own], [f"{lam:.2f} of the view"]))
        return [panels]

    notes = ["Labels are shown for the reader; training does not see them."]
    # Only a mixer mixes views.
    caveats = [] if mixed.perm is None else initial_weights(self, MIXER)
    return [Sheet(list(enumerate(partners)), rows, notes, caveats)]
