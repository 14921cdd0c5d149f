"""All corruptions by name: what they draw, and how they are applied to a batch."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixbench.evaluation.corruptions import blur, digital, noise, weather
from mixbench.evaluation.corruptions.constants import CorruptionTable, corruption_table
from mixbench.evaluation.corruptions.spatter import spatter
from mixbench.evaluation.per_image_random import keys, uniform

Arrays = dict[str, Tensor]
DRAWN_TEXTURES = 5  # of the textures of frost


class CorruptionDraws:
    """Random numbers for the images of a batch at one severity of a corruption.

    They depend on the seed, the image, the corruption and the severity alone.

    Args:
        seed: Seed.
        ids: (B,) int64 numbers of the images.
        name: Name of the corruption.
        severity: 1 to 5.
        size: Height and width of the images.
    """

    def __init__(
        self, seed: int, ids: Tensor, name: str, severity: int, size: tuple[int, int]
    ) -> None:
        self.seed, self.ids, self.size = seed, ids, size
        self.word = f"{name}/{severity}"

    def uniform(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) float32 in [0, 1), of one stream for each name."""
        stream = torch.tensor([zlib.crc32(f"{self.word}/{name}".encode())])
        return uniform(int(keys(self.seed, stream, 1)), self.ids, shape)

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) standard normal numbers in float32."""
        u = self.uniform(name, *shape) + 2.0**-25
        return 2**0.5 * torch.special.erfinv(2 * u.clamp(max=1 - 2.0**-24) - 1)

    def whole(self, name: str, count: int | Tensor, *shape: int) -> Tensor:
        """(B, *shape) int64 from 0 to below ``count``."""
        return (self.uniform(name, *shape).double() * count).long()


def _nothing(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    del draws, constants, textures
    return {}


def _normal(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    del constants, textures
    return {"z": draws.normal("z", 3, *draws.size)}


def _photons(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    del constants, textures
    return {"u": draws.uniform("u", 3, *draws.size)}


def _impulses(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    del constants, textures
    size = (3, *draws.size)
    return {"u": draws.uniform("u", *size), "salt": draws.uniform("salt", *size) < 0.5}


def _moves(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    del textures
    _, reach, rounds = constants
    return {"moves": draws.whole("moves", 2 * reach, rounds, *draws.size, 2) - reach}


def _angle(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    del constants, textures
    return {"angle": 90 * draws.uniform("angle").double() - 45}


def _flakes(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    angle = _angle(draws, constants, textures)["angle"] - 90
    return {"layer": draws.normal("layer", *draws.size), "angle": angle}


def _ice(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    del constants
    which = draws.whole("texture", min(DRAWN_TEXTURES, len(textures)))
    free = torch.tensor([t.shape[:2] for t in textures]) - torch.tensor(draws.size)
    start = draws.whole("start", free.to(which.device)[which].double(), 2)
    return {"ice": weather.crop_textures(textures, which, start, draws.size)}


def _clouds(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    del constants, textures
    return {"plasma": draws.uniform("plasma", weather.plasma_side(*draws.size) ** 2 - 1)}


def _warps(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    del constants, textures
    field = draws.uniform("field", 2, *draws.size)
    return {"affine": draws.uniform("affine", 3, 2), "field": field}


def _drops(draws: CorruptionDraws, constants: Any, textures: Sequence[Tensor]) -> Arrays:
    del constants, textures
    return {"layer": draws.normal("layer", *draws.size)}


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        apply: Images (B, 3, H, W) uint8, constants and random arrays to grey levels in float64.
        draw: Draws the random arrays, by the names of the parameters of ``apply``.
    """

    apply: Callable[..., Tensor]
    draw: Callable[[CorruptionDraws, Any, Sequence[Tensor]], Arrays] = _nothing


CORRUPTIONS = {
    "gaussian_noise": Corruption(noise.gaussian_noise, _normal),
    "shot_noise": Corruption(noise.shot_noise, _photons),
    "impulse_noise": Corruption(noise.impulse_noise, _impulses),
    "defocus_blur": Corruption(blur.defocus_blur),
    "glass_blur": Corruption(blur.glass_blur, _moves),
    "motion_blur": Corruption(blur.motion_blur, _angle),
    "zoom_blur": Corruption(blur.zoom_blur),
    "snow": Corruption(weather.snow, _flakes),
    "frost": Corruption(weather.frost, _ice),
    "fog": Corruption(weather.fog, _clouds),
    "brightness": Corruption(weather.brightness),
    "contrast": Corruption(digital.contrast),
    "elastic_transform": Corruption(digital.elastic_transform, _warps),
    "pixelate": Corruption(digital.pixelate),
    "jpeg_compression": Corruption(digital.jpeg_compression),
    "speckle_noise": Corruption(noise.speckle_noise, _normal),
    "gaussian_blur": Corruption(blur.gaussian_blurred),
    "spatter": Corruption(spatter, _drops),
    "saturate": Corruption(digital.saturate),
}


def constants_of(name: str, severity: int, table: CorruptionTable, size: tuple[int, int]) -> Any:
    """Constants of a corruption in pixels.

    Args:
        name: A name of :data:`CORRUPTIONS`.
        severity: 1 to 5.
        table: The table for images of this size.
        size: Height and width of the images.

    Returns:
        A number or a tuple, as the corruption takes it.
    """
    found = table.constants[name][severity - 1]
    if name == "elastic_transform":
        side = min(size) * table.unit
        return tuple(side * value for value in found)
    return found


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    ids: Tensor | None = None,
    arrays: Mapping[str, Tensor] | None = None,
    textures: Sequence[Tensor] = (),
    table: CorruptionTable | None = None,
) -> Tensor:
    """Corrupt a batch of images.

    Args:
        images: (B, 3, H, W) uint8.
        name: A name of :data:`CORRUPTIONS`.
        severity: 1 to 5.
        seed: Seed of what is drawn.
        ids: (B,) int64 numbers of the images, by which random arrays are drawn; 0 to B - 1 if None.
        arrays: Random arrays in place of drawn ones, by the names of the parameters of the
            corruption's function; one for all images, or one for each.
        textures: (h, w, 3) uint8 each, for ``frost``, already resized.
        table: Constants; those for the size of the images if None.

    Returns:
        (B, 3, H, W) uint8, truncated.

    Raises:
        ValueError: If the name or the severity is unknown, images are too small or
            have no 3 channels, or ``frost`` gets
            no textures.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}, choose one of: {', '.join(CORRUPTIONS)}")
    if images.shape[1] != 3:
        raise ValueError(f"corruptions need 3 channels, got images {tuple(images.shape)}")
    if severity not in range(1, 6):
        raise ValueError(f"severities are 1 to 5, got {severity}")
    size = (images.shape[2], images.shape[3])
    table = table or corruption_table(*size)
    constants = constants_of(name, severity, table, size)
    kind = CORRUPTIONS[name]
    if arrays is None:
        if name == "frost" and not textures:
            raise ValueError("frost needs textures")
        ids = torch.arange(len(images)) if ids is None else ids
        draws = CorruptionDraws(seed, ids.to(images.device), name, severity, size)
        arrays = kind.draw(draws, constants, textures)
    return kind.apply(images, constants, **arrays).to(torch.uint8)
