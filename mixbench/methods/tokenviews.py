"""Pictures of methods whose labels come from attention, written to be a method's ``picture``."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.pasting import Pasted, Pasting
from mixbench.methods.views import PAIRS
from mixbench.pictures.positions import heat, tinted, with_box
from mixbench.pictures.sheet import Panel, enlarge, label_text, mixed_sheet, sheet

Draw = Callable[[Any, Tensor, Tensor, mf.Mixed], Image.Image]


def _drawing(titles: tuple[str, str], note: str) -> Draw:
    """A ``picture`` with a map before and one after the pass under two titles."""

    @torch.no_grad()
    def draw(self: Pasting, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> Image.Image:
        pixels, names = self.to_pixels(x), self.info.names
        if not isinstance(mixed.aux, Pasted):
            shown = mixed._replace(x=self.to_pixels(mixed.x))
            return mixed_sheet(pixels, targets, shown, names, ["No box was drawn for this batch."])
        perm, area = mixed.perm, mixed.aux.area
        assert perm is not None
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers()]
        _, after = self.predict(mixed)
        for buffer, before in buffers:  # a network may write down statistics of what it sees
            buffer.copy_(before)
        size = (x.shape[2], x.shape[3])
        boxes = mixed.aux.box.expand(len(x), -1)
        tokens = after.aux.weight
        grid = tuple(tokens.shape[1:]) if tokens.ndim == 3 else self.net.grid(x)
        tokens = tokens if tokens.ndim == 3 else tokens[:, self.net.prefix :].unflatten(1, grid)
        before = mf.pasted_tokens(boxes, size, grid)
        by_area = mf.mix_targets(targets, perm, area)
        made = self.to_pixels(mixed.x)
        rows = []
        for own in range(min(PAIRS, len(x))):
            image, box, other = made[own], boxes[own].tolist(), int(perm[own])
            most = tokens[own].max().clamp(min=1e-12) if self.relative else 1
            maps = [
                with_box(enlarge(tinted(image, heat(m).flatten(1).t(), grid)), box, size)
                for m in (before[own], tokens[own] / most)
            ]
            rows.append(
                [
                    Panel("image", pixels[own], label_text(targets[own], names)),
                    Panel("partner", pixels[other], label_text(targets[other], names)),
                    Panel("mixed, by area", image, label_text(by_area[own], names)),
                    Panel(titles[0], maps[0]),
                    Panel(titles[1], maps[1], label_text(after.targets[own], names)),
                ]
            )
        return sheet(rows, [note])

    return draw


draw_tokens = _drawing(
    ("labels of tokens, before", "after all layers"),
    "Colours give the partner's share in the label of each token, from 0 (dark) to 1 (pale), "
    "before the first layer and behind the last. The last label is the target: that of the class "
    "token, or the mean over all tokens where there is none.",
)
draw_attention = _drawing(
    ("tokens that count as pasted", "attention of the class"),
    "The last map is what the class token looks at in the last block (without a class token, what "
    "all tokens look at), from nothing (dark) to the most in the image (pale). The last label is "
    "the target: half by area, half by the attention inside and outside of the box.",
)
