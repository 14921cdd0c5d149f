"""The picture of methods that learn from views, written to be a method's ``picture``."""

from typing import Any

from PIL import Image
from torch import Tensor

import mixbench.functional as mf
from mixbench.pictures.sheet import Panel, label_text, sheet

SHOWN = 4  # rows of a picture


def draw_views(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> Image.Image:
    """Both views of the first images, and the images that were mixed of them.

    Args:
        self: A method that learns by contrast.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` begins with both views.

    Returns:
        The picture.
    """
    pixels, views = self.to_pixels(x), [self.to_pixels(view) for view in mixed.aux[:2]]
    shown, names = self.to_pixels(mixed.x), self.info.names
    rows = []
    for row in range(min(SHOWN, len(x))):
        panels = [Panel("image", pixels[row], label_text(targets[row], names))]
        panels += [Panel("view", views[0][row]), Panel("its key", views[1][row])]
        if mixed.perm is not None and mixed.lam is not None:
            other, lam = int(mixed.perm[row]), float(mixed.lam.expand(len(x))[row])
            panels.append(
                Panel("partner's key", views[1][other], label_text(targets[other], names))
            )
            panels.append(Panel("mixed", shown[row], [f"{lam:.2f} of the view"]))
        rows.append(panels)
    return sheet(rows, ["Labels are shown for the reader; training does not see them."])
