"""Textures of ice for ``frost``: made here, or read from a folder of the official ones."""

import math
import zlib
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mixbench.data.files.decode import decode
from mixbench.data.files.tree import MAX_IMAGE_BYTES
from mixbench.errors import UserError
from mixbench.evaluation.corruptions.weather import resize_texture
from mixbench.evaluation.per_image_random import uniform
from mixbench.files import read_bytes

# Those that the authors draw of; a sixth file lies beside them and is never drawn.
OFFICIAL_TEXTURES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
OWN_TEXTURES = 5
_SIDE, _LATTICE, _SEED = 480, 64, 0
_TINT = (0.86, 0.93, 1.0)


@cache
def frost_textures(folder: str | None, factor: float, side: int) -> tuple[Tensor, ...]:
    """Textures in the size in which they are cropped.

    Args:
        folder: Folder of the official textures; None for our own.
        factor: By which they are resized; more where they would be smaller than the images.
        side: Longer side of the images in pixels.

    Returns:
        (h, w, 3) uint8 each.

    Raises:
        UserError: If a file is missing or cannot be read.
    """
    if folder is not None:
        whole = _read(Path(folder))
    else:
        whole = [own_texture(number) for number in range(OWN_TEXTURES)]
    found = []
    for texture in whole:
        least = (side + 2) / min(texture.shape[:2])
        found.append(resize_texture(texture, max(factor, least)))
    return tuple(found)


def _read(folder: Path) -> list[Tensor]:
    found = []
    for name in OFFICIAL_TEXTURES:
        try:
            image = decode(read_bytes(folder / name, MAX_IMAGE_BYTES))
        except OSError as error:
            raise UserError(
                f"the texture {name} cannot be read: {error}",
                f"eval.frost={folder}",
                f"put {', '.join(OFFICIAL_TEXTURES)} of hendrycks/robustness there, or leave "
                "eval.frost out and use textures made by mixbench",
            ) from error
        found.append(torch.from_numpy(image.copy()))
    return found


@cache
def own_texture(number: int) -> Tensor:
    """Crystals of ice that grow along a few directions, thicker in some places than in others.

    Args:
        number: Which texture; each number gives another one, the same on every machine.

    Returns:
        (480, 480, 3) uint8.
    """
    row, column = torch.meshgrid(*[torch.arange(_SIDE, dtype=torch.float64)] * 2, indexing="ij")
    bend = 30 * (_smooth_noise(f"{number}/bend", row / 90, column / 90) - 0.5)
    cover = _octaves(f"{number}/cover", row, column, 160.0)
    ice = 0.55 * cover
    directions = 6
    for way in range(directions):
        turn = math.pi * (way + 0.37 * number) / directions
        along = column * math.cos(turn) + row * math.sin(turn) + bend
        aside = row * math.cos(turn) - column * math.sin(turn) + bend
        ridge = _smooth_noise(f"{number}/{way}/needles", along / 70, aside / 6)
        ridge = (1 - (2 * ridge - 1).abs()) ** 6
        where = _smooth_noise(f"{number}/{way}/where", row / 110, column / 110)
        ice = torch.maximum(ice, 1.15 * ridge * where + 0.35 * cover)
    grain = _smooth_noise(f"{number}/grain", row / 2, column / 2) - 0.5
    ice = (ice + 0.15 * grain).clamp(0, 1)
    tint = torch.tensor(_TINT, dtype=torch.float64)
    return (255 * (ice[..., None] * tint)).round().to(torch.uint8)


def _octaves(name: str, row: Tensor, column: Tensor, coarse: float) -> Tensor:
    """Noise in [0, 1] of several scales, the coarsest of which is ``coarse`` pixels."""
    total, weight = torch.zeros_like(row), 0.0
    for level in range(5):
        scale, share = coarse / 2**level, 0.6**level
        total += share * _smooth_noise(f"{name}/{level}", row / scale, column / scale)
        weight += share
    return total / weight


def _smooth_noise(name: str, row: Tensor, column: Tensor) -> Tensor:
    """Noise in [0, 1) with random values at whole places, and smooth between them."""
    stream = torch.tensor([zlib.crc32(name.encode())])
    lattice = uniform(_SEED, stream, (_LATTICE, _LATTICE))[0].double()
    top, left = row.floor(), column.floor()
    down, right = (share * share * (3 - 2 * share) for share in (row - top, column - left))
    rows = [(top.long() + step).remainder(_LATTICE) for step in (0, 1)]
    columns = [(left.long() + step).remainder(_LATTICE) for step in (0, 1)]
    lines = [torch.lerp(lattice[r, columns[0]], lattice[r, columns[1]], right) for r in rows]
    return torch.lerp(lines[0], lines[1], down)
