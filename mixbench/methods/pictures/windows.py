"""The picture of TdAttenMix and SMMix, written to be a method's ``picture``."""

from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.base import Method
from mixbench.methods.pictures.initial import NETWORK, initial_weights
from mixbench.pictures.sheet import Sheet, as_sheets
from mixbench.pictures.windows import windows_sheet

WHOLE = "This batch is mixed as a whole. Other batches have windows, as below."
LEARNING = "self"  # source of maps that is trained along


def draw_windows(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Maps and windows; of a batch that is mixed whole as it would be with windows.

    Args:
        self: TdAttenMix or SMMix.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` is a ``WindowStep`` if it holds windows.

    Returns:
        The sheets; two of a batch that is mixed whole, if its maps are at hand.
    """
    sheets: list[Sheet] = []
    source = getattr(self.config, "looks_with", LEARNING)
    if mixed.aux is None:
        sheets = as_sheets(Method.picture(self, x, targets, mixed))
        if source in ("file", "gaze"):
            return sheets
        sheets[0] = sheets[0]._replace(title=WHOLE)
        cfg, cells = self.config, min(self.grid(x))
        side = mf.draw_window(cells, cfg.min_ratio, cfg.max_ratio, self.shared_generator)
        mixed = self.mix(x, targets, side=side)
    shown = mixed._replace(x=self.to_pixels(mixed.x), aux=mixed.aux.pasted)
    drawn = windows_sheet(self.to_pixels(x), targets, shown, self.info.names)
    title = "With windows" if sheets else ""
    caveats = initial_weights(self, NETWORK) if source == LEARNING else []
    return [*sheets, drawn._replace(title=title, caveats=caveats)]
