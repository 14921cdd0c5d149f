"""The recipe ``auto``: batch size, learning rate and epochs by the number of training images.

A fixed number of epochs starves a small set: 16 epochs of 300 images in batches of 256 are 16
optimiser steps. The rules, of which each number is named below:

- ``batch_size``: a fiftieth of the images, from 16 to 256, no more than half of the images, and a
  multiple of 4;
- ``lr``: 0.2 at batches of 256, and by the square root of the batch size below; a tenth of it for
  a network that starts from weights;
- ``epochs``: as many as 2,000 optimiser steps take, from 16 to 200.

That is 40 epochs from 800 to 12,800 images, more below, fewer above, and from 32,000 images on the
recipe ``quick``.
"""

import math
from dataclasses import dataclass, replace

from mixbench.config.schema import AUTO_KEYS, RunConfig
from mixbench.errors import counted

STEPS = 2_000  # optimiser steps of a run
LEAST_EPOCHS, MOST_EPOCHS = 16, 200
SMALLEST_BATCH, LARGEST_BATCH = 16, 256
BATCHES_PER_EPOCH = 50
ROUNDED = 4  # of which a batch size is a multiple
LARGEST_LR = 0.2  # at the largest batch
TUNED = 0.1  # factor of the learning rate of a network that starts from weights


@dataclass(frozen=True)
class AutoValues:
    """Values that the number of images decides."""

    batch_size: int
    lr: float
    epochs: int


def auto_values(
    images: int, *, batch_size: int | None = None, multiple: int = 1, tuned: bool = False
) -> AutoValues:
    """Values for a number of training images.

    Args:
        images: That number.
        batch_size: One that is given, which the others follow.
        multiple: What a chosen batch size is a multiple of, as devices share it.
        tuned: The network starts from weights.

    Returns:
        The values.

    Example:
        >>> auto_values(300)
        AutoValues(batch_size=16, lr=0.05, epochs=112)
        >>> auto_values(3_000)
        AutoValues(batch_size=60, lr=0.097, epochs=40)
        >>> auto_values(50_000)
        AutoValues(batch_size=256, lr=0.2, epochs=16)
    """
    if batch_size is None:
        share = max(images // BATCHES_PER_EPOCH, SMALLEST_BATCH)
        wanted = max(2, min(share, LARGEST_BATCH, images // 2))
        batch_size = wanted // ROUNDED * ROUNDED or wanted
        batch_size = max(1, batch_size // multiple) * multiple
    share = min(batch_size, LARGEST_BATCH) / LARGEST_BATCH
    lr = LARGEST_LR * math.sqrt(share) * (TUNED if tuned else 1)
    epochs = math.ceil(STEPS / max(1, images // batch_size))
    return AutoValues(batch_size, float(f"{lr:.2g}"), min(max(epochs, LEAST_EPOCHS), MOST_EPOCHS))


def with_auto_values(config: RunConfig, images: int) -> tuple[RunConfig, str]:
    """A configuration with numbers in place of what was left to the number of images.

    Args:
        config: A configuration, whose ``auto`` names the keys to fill in.
        images: Training images, hold-out and subsets considered.

    Returns:
        The configuration, with ``auto`` empty, and a sentence that says what was chosen.
    """
    found = auto_values(
        images,
        batch_size=None if "batch_size" in config.auto else config.batch_size,
        multiple=config.optim.accumulate * config.world,
        tuned=config.net.weights is not None or config.net.pretrained,
    )
    chosen = {key: getattr(found, key) for key in AUTO_KEYS if key in config.auto}
    filled = replace(config, auto=[], **chosen)
    steps = filled.epochs * max(1, images // filled.batch_size)
    told = ", ".join(f"{key}={value:g}" for key, value in chosen.items())
    return filled, (
        f"recipe {config.recipe}: {counted(images, 'training image')} make {told} "
        f"({counted(steps, 'optimiser step')})"
    )
