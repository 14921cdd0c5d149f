"""Randomness that depends on where training stands, never on what was drawn before.

Every stream is seeded from (seed, epoch, batch[, rank]) by an integer mix, so that a run which is
started again in the middle, or beside other runs, draws the same numbers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

_MASK = (1 << 64) - 1

# What a stream is for; the first number of its key.
ORDER, SAMPLE, SHARED, INIT, DATA = range(1, 6)


def mix_seed(*numbers: int) -> int:
    """Mix integers into one seed; neighbouring inputs give unrelated seeds.

    Args:
        *numbers: Integers of any size and sign.

    Returns:
        A seed in [0, 2^63).
    """
    state = 0
    for number in numbers:  # SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)
        state = (state ^ (number & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


class Draw(NamedTuple):
    """The rows of one batch: (B,) indices, and a seed for what the data set itself draws."""

    indices: Tensor
    seed: int


class KeyedBatches(Sampler[Draw]):
    """Batches of a fresh permutation per epoch, the same for equal (seed, epoch).

    Incomplete last batches are dropped, so that shapes stay fixed and batch normalisation never
    sees a single image; a set smaller than a batch gives one batch of its own size.

    Args:
        total: Number of training images.
        batch_size: Images per batch, of this rank.
        seed: Seed of the run.
        rank: This process among ``world``.
        world: Number of processes that share an epoch.
    """

    def __init__(
        self, total: int, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.total, self.seed, self.rank, self.world = total, seed, rank, world
        self.batch_size = min(batch_size, max(1, total // world))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of an epoch; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.total // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(mix_seed(ORDER, self.seed, self.epoch))
        order = torch.randperm(self.total, generator=generator)
        for batch in range(len(self)):
            start = (batch * self.world + self.rank) * self.batch_size
            seed = mix_seed(DATA, self.seed, self.epoch, batch, self.rank)
            yield Draw(order[start : start + self.batch_size], seed)


class OrderedBatches(Sampler[Draw]):
    """All rows once and in order, for evaluation; the last batch may be smaller.

    Args:
        total: Number of images.
        batch_size: Images per batch.
    """

    def __init__(self, total: int, batch_size: int) -> None:
        self.total, self.batch_size = total, batch_size

    def __len__(self) -> int:
        return -(-self.total // self.batch_size)

    def __iter__(self) -> Iterator[Draw]:
        for rows in torch.arange(self.total).split(self.batch_size):
            yield Draw(rows, 0)
