"""The picture of methods whose label comes from maps under a region, to be their ``picture``."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.base import Method
from mixbench.methods.pictures.initial import NETWORK, initial_weights
from mixbench.methods.pictures.pixelmasks import draw_pixel_masks
from mixbench.pictures.positions import with_box
from mixbench.pictures.sheet import CELL, Panel, Row, Sheet, as_sheets
from mixbench.pictures.windows import attention_over

NOTE = (
    "Red: what the map shows of the class. The frame in the image is the box that is covered, the "
    "frame in its partner the part that covers it, resized. The weights below are those of the "
    "labels in the loss; they need not sum to 1."
)
SALIENT_NOTE = (
    "Red: how salient each pixel is. The frame is the box that is pasted, around the most salient "
    "pixel of the partner, or of the one image whose box is that of the whole batch."
)
OF_IMAGES = ("fine_grained", "spectral")  # kinds of maps that no network gives
TOKEN_NOTE = (
    "Red: what the map says of the label. Its share in the white patches of the mask weighs the "
    "label of the image, that of the partner's map in the black ones its partner's; the two need "
    "not sum to 1, and their sum is the weight in the loss."
)
CELL_NOTE = (
    "Red: what the class token looks at in the last block (without a class token, what all tokens "
    "look at). Its share in the white cells of the mask weighs the label as far as the prediction "
    "agrees with the label by area, and the area weighs the rest."
)


def draw_snapped(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Pairs with their maps under both boxes, and their mixed images.

    Args:
        self: A method.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` is a :class:`mixbench.functional.Snapped` unless the
            batch is left as it is.

    Returns:
        The sheet.
    """
    (sheet,) = as_sheets(Method.picture(self, x, targets, mixed))
    if mixed.aux is None:
        return [sheet]
    snapped: mf.Snapped = mixed.aux
    pixels, size = self.to_pixels(x), (x.shape[2], x.shape[3])
    assert mixed.lam is not None
    own_weight, boxes = mixed.lam * snapped.weight, (snapped.box, snapped.source)
    covered, given = (box.expand(len(x), -1) for box in boxes)

    def framed(place: int, box: Tensor, cell: int = CELL) -> Image.Image:
        return with_box(
            attention_over(pixels[place], snapped.maps[place], cell), box.tolist(), size
        )

    def rows(own: int, other: int) -> list[Row]:
        image, partner, result = sheet.rows(own, other)[0]
        weight = float(own_weight[own])
        values = (weight, float(snapped.weight[own]) - weight)
        sides = zip(("image", "partner"), (own, other), (covered, given), values, strict=True)
        maps = [
            Panel(f"map of the {title}", partial(framed, place, box[own]), [f"weight {value:.2f}"])
            for title, place, box, value in sides
        ]
        return [[image, maps[0], partner, maps[1], result]]

    caveats = [] if self.kind == "spectral" else initial_weights(self, NETWORK)
    return [sheet._replace(rows=rows, notes=[*sheet.notes, NOTE], caveats=caveats)]


def draw_salient(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Pairs with the map that placed the box, and their mixed images.

    Args:
        self: SaliencyMix.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` are the boxes unless the batch is left as it is.

    Returns:
        The sheet.
    """
    (sheet,) = as_sheets(Method.picture(self, x, targets, mixed))
    if mixed.aux is None or mixed.perm is None:
        return [sheet]
    pixels, size, maps = self.to_pixels(x), (x.shape[2], x.shape[3]), self.find_saliency(x, targets)
    boxes, shared = mixed.aux.tolist(), len(mixed.aux) == 1
    first = int(mixed.perm[0])

    def rows(own: int, other: int) -> list[Row]:
        *row, result = sheet.rows(own, other)[0]
        place, box = (first, boxes[0]) if shared else (other, boxes[own])

        def framed(cell: int = CELL) -> Image.Image:
            return with_box(attention_over(pixels[place], maps[place], cell), box, size)

        return [[*row, Panel("map that places the box", framed), result]]

    caveats = [] if self.kind in OF_IMAGES else initial_weights(self, NETWORK)
    return [sheet._replace(rows=rows, notes=[*sheet.notes, SALIENT_NOTE], caveats=caveats)]


def draw_token_masks(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Pairs with their maps and the mask, and their mixed images.

    Args:
        self: A method.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` is a :class:`mixbench.functional.MaskedTokens` unless
            the batch is mixed whole.

    Returns:
        The sheet.
    """
    if mixed.aux is None:
        return as_sheets(Method.picture(self, x, targets, mixed))
    tokens: mf.MaskedTokens = mixed.aux
    shown = F.interpolate(tokens.mask[:, None], (x.shape[2], x.shape[3]))
    (sheet,) = draw_pixel_masks(self, x, targets, mixed._replace(aux=shown))
    pixels = self.to_pixels(x)

    def rows(own: int, other: int) -> list[Row]:
        image, partner, mask, result = sheet.rows(own, other)[0]
        maps = [
            Panel(f"map of the {title}", partial(attention_over, pixels[place], tokens.maps[place]))
            for title, place in (("image", own), ("partner", other))
        ]
        weight = [f"weight {float(tokens.weight[own]):.2f}"]
        result = result._replace(lines=[*result.lines, *weight])
        return [[image, maps[0], partner, maps[1], mask, result]]

    caveats = initial_weights(self, NETWORK) if self.source is None else []
    return [sheet._replace(rows=rows, notes=[*sheet.notes, TOKEN_NOTE], caveats=caveats)]


@torch.no_grad()
def draw_cells(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Pairs with the mask of cells, their mixed images, and what the class token looks at.

    Args:
        self: MixPro.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned; ``aux`` has a ``mask`` where cells are kept.

    Returns:
        The sheet.
    """
    cells = getattr(mixed.aux, "mask", None)
    if cells is None:
        return as_sheets(Method.picture(self, x, targets, mixed))
    after = self.predict(mixed)[1]
    mask = mf.cell_pixels(cells, self.cell(x), (x.shape[2], x.shape[3]))
    (sheet,) = draw_pixel_masks(self, x, targets, after._replace(x=mixed.x, aux=mask))
    made, attention = self.to_pixels(mixed.x), after.aux.attention

    def rows(own: int, other: int) -> list[Row]:
        *row, result = sheet.rows(own, other)[0]
        seen = partial(attention_over, made[own], attention[own])
        return [[*row, Panel("attention of the class", seen), result]]

    return [
        sheet._replace(
            rows=rows,
            notes=[*sheet.notes, CELL_NOTE],
            caveats=initial_weights(self, NETWORK),
        )
    ]
