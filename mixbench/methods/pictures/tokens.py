"""Pictures of methods whose labels come from attention, written to be a method's ``picture``."""

from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.base import Method
from mixbench.methods.pictures.initial import NETWORK, initial_weights
from mixbench.methods.tokenlabels.base import PastedBox
from mixbench.pictures.positions import heat, tinted, with_box
from mixbench.pictures.sheet import (
    Panel,
    Row,
    Sheet,
    enlarge,
    label_text,
    mixed_sheet,
    shown_pairs,
)


def draw_tokens(self: Method, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Labels of tokens before the first layer and behind the last, under the box."""
    titles = "labels of tokens at first", "labels after all layers"
    note = (
        "Colours give the partner's share in the label of each token, from 0 (dark) to 1 (pale), "
        "before the first layer, where the label is by area, and behind the last. The label of "
        "the mixed image is that of the class token, or the mean over all tokens where there is "
        "none."
    )
    return _draw(self, x, targets, mixed, [*titles, note], relative=False)


def draw_attention(self: Method, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Tokens that count as pasted, and what the class token looks at, under the box."""
    titles = "tokens that count as pasted", "attention of the class"
    note = (
        "The last map is what the class token looks at in the last block (without a class token, "
        "what all tokens look at), from nothing (dark) to the most in the image (pale). The label "
        "of the pasted tokens is by area, that of the mixed image also by attention."
    )
    return _draw(self, x, targets, mixed, [*titles, note], relative=True)


@torch.no_grad()
def _draw(
    method: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed, texts: list[str], relative: bool
) -> list[Sheet]:
    pixels, made, names = method.to_pixels(x), method.to_pixels(mixed.x), method.info.names
    if not isinstance(mixed.aux, PastedBox):
        shown = mixed._replace(x=made)
        return [mixed_sheet(pixels, targets, shown, names, ["No box was drawn for this batch."])]
    buffers = [(buffer, buffer.clone()) for buffer in method.buffers()]
    _, after = method.predict(mixed)
    for buffer, before in buffers:  # a network may write down statistics of what it sees
        buffer.copy_(before)
    assert mixed.perm is not None
    by_area = mf.mix_targets(targets, mixed.perm, mixed.aux.area)
    tokens, boxes = after.aux.weight, mixed.aux.box.expand(len(x), -1)
    if tokens.ndim == 2:  # in a row, behind the class token
        tokens = tokens[:, method.net.prefix :].unflatten(1, method.net.grid(x))
    size, grid = (x.shape[2], x.shape[3]), (tokens.shape[1], tokens.shape[2])
    pasted = mf.pasted_tokens(boxes, size, grid)

    def over(own: int, values: Tensor, cell: int) -> Image.Image:
        shown = tinted(made[own], heat(values).flatten(1).t(), grid)
        return with_box(enlarge(shown, cell), boxes[own].tolist(), size)

    def rows(own: int, other: int) -> list[Row]:
        most = tokens[own].max().clamp(min=1e-12) if relative else 1
        first, last = pasted[own], tokens[own] / most
        return [
            [
                Panel("image", pixels[own], label_text(targets[own], names)),
                Panel("partner", pixels[other], label_text(targets[other], names)),
                Panel(texts[0], partial(over, own, first), label_text(by_area[own], names)),
                Panel(texts[1], partial(over, own, last)),
                Panel("mixed", made[own], label_text(after.targets[own], names)),
            ]
        ]

    return [Sheet(shown_pairs(mixed.perm), rows, texts[2:], initial_weights(method, NETWORK))]
