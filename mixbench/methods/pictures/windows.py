"""The picture of TdAttenMix, written to be a method's ``picture``."""

from typing import Any

from PIL import Image
from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.base import Method
from mixbench.pictures.windows import windows_sheet


def draw_windows(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> Image.Image:
    """Maps and windows; of a batch that is mixed whole as it would be with windows.

    Args:
        self: TdAttenMix.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` is a ``WindowStep`` if it holds windows.

    Returns:
        The picture.
    """
    plain = Method.picture(self, x, targets, mixed)
    if mixed.aux is None and self.config.looks_with in ("file", "gaze"):
        return plain
    if mixed.aux is None:
        cfg, cells = self.config, min(self.grid(x))
        side = mf.draw_window(cells, cfg.min_ratio, cfg.max_ratio, self.shared_generator)
        whole, mixed = plain, self.mix(x, targets, side=side)
    else:
        whole = None
    shown = mixed._replace(x=self.to_pixels(mixed.x), aux=mixed.aux.pasted)
    return windows_sheet(self.to_pixels(x), targets, shown, self.info.names, whole)
