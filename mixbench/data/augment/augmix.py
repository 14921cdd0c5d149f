"""AugMix by Pillow, image by image in the processes that read images, as its authors do it.

Hendrycks et al., ICLR 2020, arXiv:1912.02781; official code google-research/augmix. The same
operations on whole batches are :mod:`mixbench.functional.image_ops`.
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Generator, Tensor
from torch.utils.data import Dataset

from mixbench.config.schema import DataConfig
from mixbench.data.augment.batches import alternating_flips, crop_flip, draw_crop_flip
from mixbench.data.images import Batch, ImageSet
from mixbench.data.sampling import BatchIndex
from mixbench.functional.augmix import Chains, ChainViews, check_chains, mix_chains
from mixbench.functional.image_ops import OPERATIONS, op_values

_BILINEAR = Image.Resampling.BILINEAR


class AugMixImages(Dataset[Batch]):
    """The images of another set, cropped and mirrored, each with mixed views of it.

    What is drawn for a batch is what the method itself would draw in that step.

    Args:
        images: The training set.
        config: Reads ``padding``, ``flip`` and ``flip_rule``.
        draw: Draws the chains of a number of views by a generator.
        views: Mixed views of an image.
        seed: Seed of the run, by which images begin mirrored where they alternate.
    """

    def __init__(
        self,
        images: ImageSet,
        config: DataConfig,
        draw: Callable[[int, Generator], Chains],
        views: int,
        seed: int = 0,
    ) -> None:
        self.images, self.config, self.draw = images, config, draw
        self.views, self.seed = views, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: BatchIndex) -> Batch:
        batch, config = self.images[draw], self.config
        generator = Generator().manual_seed(draw.method_seed)
        offsets, flips = draw_crop_flip(len(batch.images), config.padding, config.flip, generator)
        if config.alternating:
            flips = alternating_flips(batch.ids.cpu(), self.seed, draw.epoch)
        pixels = crop_flip(batch.images.cpu(), offsets, flips, config.padding)
        chains = self.draw(self.views * len(pixels), generator)
        views = mix_chains(pixels, pillow_chains(pixels, chains), chains)
        return batch._replace(images=pixels, views=ChainViews(views, chains))


def pillow_chains(pixels: Tensor, chains: Chains) -> Tensor:
    """Pass images through the chains of their views, by Pillow.

    Args:
        pixels: (B, 1 or 3, H, W) uint8, on the CPU.
        chains: Decisions of N views, where N is a multiple of B.

    Returns:
        (N, width, C, H, W) uint8, as :func:`mixbench.functional.chain_images` gives them.

    Raises:
        ValueError: If the shapes of the chains do not fit.
    """
    check_chains(chains, len(pixels))
    values = op_values(*chains[:3], *pixels.shape[2:]).tolist()
    images = [_to_pillow(image) for image in pixels.permute(0, 2, 3, 1).numpy()]
    made = [
        np.asarray(_pass(images[view % len(images)], *chain))
        for view, (all_ops, all_values) in enumerate(zip(chains.ops.tolist(), values, strict=True))
        for chain in zip(all_ops, all_values, strict=True)
    ]
    shape = (*chains.ops.shape[:2], *pixels.shape[2:], pixels.shape[1])
    return torch.from_numpy(np.stack(made)).view(shape).permute(0, 1, 4, 2, 3)


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])


def _pass(image: Image.Image, ops: list[int], values: list[float]) -> Image.Image:
    for place, value in zip(ops, values, strict=True):
        if place >= 0:
            image = pillow_op(image, place, value)
    return image


def pillow_op(image: Image.Image, place: int, value: float) -> Image.Image:
    """One operation.

    Args:
        image: RGB, or grey.
        place: Of the operation in ``OPERATIONS``.
        value: Its parameter, as :func:`mixbench.functional.op_values` gives it.

    Returns:
        The changed image, of the same mode and size.
    """
    name = OPERATIONS[place]
    if name in _SLOPES:
        slopes = tuple(value if slope is None else slope for slope in _SLOPES[name])
        return image.transform(image.size, Image.Transform.AFFINE, slopes, resample=_BILINEAR)
    if name in _ENHANCERS:
        return _ENHANCERS[name](image).enhance(value)
    return _OTHERS[name](image, value)


# Where each pixel comes from: the column by the first three numbers, the row by the others; None
# stands for the value.
_SLOPES: dict[str, tuple[float | None, ...]] = {
    "shear_x": (1, None, 0, 0, 1, 0),
    "shear_y": (1, 0, 0, None, 1, 0),
    "translate_x": (1, 0, None, 0, 1, 0),
    "translate_y": (1, 0, 0, 0, 1, None),
}
_ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}
_OTHERS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    # Pillow itself refuses to keep 0 bits, which level 10 asks for.
    "posterize": lambda image, bits: (
        ImageOps.posterize(image, int(bits)) if bits else image.point(lambda _: 0)
    ),
    "rotate": lambda image, degrees: image.rotate(degrees, resample=_BILINEAR),
    "solarize": lambda image, first: ImageOps.solarize(image, int(first)),
}
