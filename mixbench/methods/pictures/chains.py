"""The picture of AugMix, written to be its ``picture``."""

from typing import Any

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.functional.image_ops import OPERATIONS
from mixbench.pictures.sheet import Panel, Row, Sheet, label_text

UNITS = {
    "posterize": "{:.0f} bits",
    "rotate": "{:.0f} degrees",
    "solarize": "from {:.0f}",
    "shear_x": "{:.2f}",
    "shear_y": "{:.2f}",
    "translate_x": "{:.0f} px",
    "translate_y": "{:.0f} px",
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), "x {:.2f}"),
}


def op_text(place: int, value: float) -> str:
    """An operation with its parameter in words.

    Args:
        place: Of the operation in ``OPERATIONS``.
        value: Its parameter.

    Returns:
        The words.

    Example:
        >>> op_text(3, -7.0)
        'rotate -7 degrees'
    """
    name = OPERATIONS[place]
    return f"{name} {UNITS.get(name, '').format(value + 0.0)}".strip()


def draw_chain_sheet(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """The first images, what each chain makes of them, and their mixed views.

    Args:
        self: A method that mixes images with chains of operations on them.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` begins with views and chains.

    Returns:
        The sheet.
    """
    count, names = len(x), self.info.names
    clean, views = self.to_pixels(x), self.to_pixels(mixed.aux.views)
    chains = mf.Chains(*(part.cpu() for part in mixed.aux.chains))
    pixels = (255 * clean).round().clamp(0, 255).to(torch.uint8)
    made = mf.chain_images(pixels, chains) / 255
    values = mf.op_values(*chains[:3], *x.shape[2:]).tolist()
    ops, weights, m = chains.ops.tolist(), chains.weights.tolist(), chains.m.tolist()

    def steps(view: int, chain: int) -> list[str]:
        pairs = zip(ops[view][chain], values[view][chain], strict=True)
        return [op_text(place, value) for place, value in pairs if place >= 0]

    def rows(own: int, other: int) -> list[Row]:
        del other
        found = []
        for view in range(own, len(views), count):
            row = [Panel("image", clean[own], label_text(targets[own], names))]
            for chain, weight in enumerate(weights[view]):
                lines = [f"weight {weight:.2f}", *steps(view, chain)]
                row.append(Panel(f"chain {chain + 1}", made[view, chain], lines))
            row.append(Panel("mixed view", views[view], [f"{m[view]:.2f} of it from chains"]))
            found.append(row)
        return found

    notes = ["Each row is a view of its image, whose label it keeps."]
    return [Sheet([(own, own) for own in range(count)], rows, notes)]
