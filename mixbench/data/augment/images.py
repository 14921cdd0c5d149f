"""Changes of single training images, made by worker processes before the images are mixed.

Every draw is keyed by seed, epoch and image, so that neither workers nor a resumed run change it.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from mixbench.config.schema import DataConfig
from mixbench.data.images import Batch, ImageSet
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
FILL = (124, 116, 104)  # mean colour of ImageNet, where an operation uncovers what is not there

# Principal directions of ImageNet's colours, a row for each of R, G and B, and their deviations in
# pixels of [0, 1]; Krizhevsky et al., NeurIPS 2012, with the figures of fb.resnet.torch.
COLOR_DIRECTIONS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
COLOR_DEVIATIONS = (0.2175, 0.0188, 0.0045)

Operation = Callable[[Image.Image, random.Random], Image.Image]


class AugmentedImages(ImageSet):
    """The images of another set, each changed at random when training asks for it.

    Args:
        images: The set; evaluation sees it unchanged.
        config: Reads ``auto_augment``, ``jitter`` and ``lighting``.

    Raises:
        UserError: If ``auto_augment`` needs a package or a word that is not there.
    """

    def __init__(self, images: ImageSet, config: DataConfig) -> None:
        super().__init__(images.labels, images.boxes)
        self.images, self.config = images, config
        self.operations = operations(config)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the images that are changed."""
        return self.images.shape

    def __getitem__(self, draw: BatchIndex) -> Batch:
        batch = self.images[draw]
        if draw.crop_seed is None:
            return batch
        changed = batch.images.new_empty(batch.images.shape)
        seeds = draw.image_seeds(draw.indices.tolist(), 1)  # the crop's stream has no number
        for place, seed in enumerate(seeds):
            changed[place] = self._change(batch.images[place], seed)
        return batch._replace(images=changed)

    def sample(self) -> Tensor:
        """Images as they were."""
        return self.images.sample()

    def subset(self, rows: Tensor) -> "AugmentedImages":
        """The images at ``rows`` (M,), in that order."""
        return AugmentedImages(self.images.subset(rows), self.config)

    def _change(self, pixels: Tensor, seed: int) -> Tensor:
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        generator = random.Random(seed)
        for operation in self.operations:
            image = operation(image, generator)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def augment_images(images: ImageSet, config: DataConfig) -> ImageSet:
    """The training set as a configuration wants to see it.

    Args:
        images: The training set.
        config: Reads the keys of :class:`AugmentedImages`.

    Returns:
        The same set where none of them asks for anything.
    """
    return AugmentedImages(images, config) if operations(config) else images


def operations(config: DataConfig) -> list[Operation]:
    """The operations on each image, in order.

    Args:
        config: Reads ``auto_augment``, ``jitter`` and ``lighting``.

    Returns:
        Functions of an image and of what draws for it.

    Raises:
        UserError: As :class:`AugmentedImages`.
    """
    found: list[Operation] = []
    if config.auto_augment is not None:
        found.append(auto_augment(config.auto_augment))
    if config.jitter:
        found.append(lambda image, generator: jitter(image, config.jitter, generator))
    if config.lighting:
        found.append(lambda image, generator: lighting(image, config.lighting, generator))
    return found


def auto_augment(words: str) -> Operation:
    """A policy of timm, such as the RandAugment of DeiT, ``rand-m9-mstd0.5-inc1``.

    Args:
        words: The policy in timm's words.

    Returns:
        The operation.

    Raises:
        UserError: If timm is missing or does not know the policy.
    """
    where = f"data.auto_augment={words}"
    try:
        from timm.data import auto_augment as policies
    except ImportError as error:
        todo = "pip install 'mixbench[timm]', or EXTRAS=timm in front of make"
        raise UserError("timm is not installed", where, todo) from error
    makers: dict[str, Any] = {
        "rand": policies.rand_augment_transform,
        "augmix": policies.augment_and_mix_transform,
    }
    maker = makers.get(words.split("-")[0], policies.auto_augment_transform)
    try:
        policy = maker(words, {"img_mean": FILL})
    except (AssertionError, KeyError, ValueError) as error:
        todo = "give a policy of timm, such as rand-m9-mstd0.5-inc1 or original"
        raise UserError("timm knows no such policy", where, todo) from error

    for op in _flat(getattr(policy, "ops", getattr(policy, "policy", []))):
        if op.aug_fn is policies.posterize:  # Pillow refuses the 0 bits that timm may ask for
            op.aug_fn = lambda image, bits, **_: policies.posterize(image, max(1, bits))

    def operate(image: Image.Image, generator: random.Random) -> Image.Image:
        with _global_draws(generator):
            return policy(image)

    return operate


def _flat(ops: list[Any]) -> list[Any]:
    return [one for op in ops for one in (op if isinstance(op, list) else [op])]


@contextlib.contextmanager
def _global_draws(generator: random.Random) -> Iterator[None]:
    """Let what draws from the global sources of Python and NumPy draw from another one."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.setstate(generator.getstate())
    np.random.seed(generator.getrandbits(32))  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002


def jitter(image: Image.Image, strength: float, generator: random.Random) -> Image.Image:
    """Change brightness, contrast and saturation, in random order.

    Args:
        image: RGB.
        strength: Largest change of each, as a share.
        generator: Random source.

    Returns:
        RGB.
    """
    for enhancer in generator.sample(ENHANCERS, len(ENHANCERS)):
        image = enhancer(image).enhance(1 + generator.uniform(-strength, strength))
    return image


def lighting(image: Image.Image, strength: float, generator: random.Random) -> Image.Image:
    """Shift all pixels along the principal directions of ImageNet's colours.

    Args:
        image: RGB.
        strength: Deviation of the shift, in deviations of the colours.
        generator: Random source.

    Returns:
        RGB.
    """
    along = [generator.gauss(0, strength) * spread for spread in COLOR_DEVIATIONS]
    shift = 255 * np.array(COLOR_DIRECTIONS) @ np.array(along)
    return Image.fromarray((np.asarray(image) + shift).round().clip(0, 255).astype(np.uint8))
