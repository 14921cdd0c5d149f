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
ORDER, SAMPLE, SHARED, INIT, DATA, GLOBAL, CROP, REPEAT, JUDGED, OBSERVE, FLIP = range(1, 12)


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


def seed_torch(seed: int, device: torch.device) -> None:
    """Set torch's global generators, which serve dropout and the like.

    Args:
        seed: The seed of both.
        device: Beside the CPU's that of this device alone; torch.manual_seed visits them all.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


class BatchIndex(NamedTuple):
    """The rows of one batch: (B,) indices, and a seed for what the data set itself draws.

    ``crop_seed`` keys what is drawn for each image, whatever batch or process it is in; None asks
    for the images as evaluation sees them. ``shown`` (B,) counts how often the epoch has shown each
    image before; None where it shows each of them once. ``sample_seed`` is that of the generator of
    the method in the step that the batch is for, for a data set that carries out a part of it.
    ``places`` (B,) count the images of all epochs before each one, the same for any number of
    processes and micro-batches; None in evaluation. ``epoch`` is that of training, and ``number``
    counts the batches of the process before this one in the epoch.
    """

    indices: Tensor
    seed: int
    crop_seed: int | None = None
    shown: Tensor | None = None
    sample_seed: int | None = None
    places: Tensor | None = None
    epoch: int = 0
    number: int = 0

    @property
    def method_seed(self) -> int:
        """``sample_seed``; where there is none, that of the data set."""
        return self.seed if self.sample_seed is None else self.sample_seed

    def image_seeds(self, rows: list[int], *stream: int) -> list[int]:
        """A seed for each image of the batch; needs a ``crop_seed``.

        Args:
            rows: What each image is known by, in the order of the batch.
            *stream: What the seeds are for.

        Returns:
            Seeds; those of images that are shown for the first time are the same in every epoch
            of this ``crop_seed``, repeated or not.
        """
        assert self.crop_seed is not None
        shown = [0] * len(rows) if self.shown is None else self.shown.tolist()
        bases = [mix_seed(REPEAT, self.crop_seed, n) if n else self.crop_seed for n in shown]
        return [mix_seed(base, row, *stream) for base, row in zip(bases, rows, strict=True)]


class KeyedBatches(Sampler[BatchIndex]):
    """Batches of a fresh permutation per epoch, the same for equal (seed, epoch).

    Every optimiser step takes the next ``batch_size`` images of the permutation, divided among
    micro-batches and processes, so that neither accumulation nor the number of devices changes
    which images meet. What does not fill a step is dropped: shapes stay fixed and batch
    normalisation never sees a single image. A set smaller than a batch gives one step of its own
    size.

    Args:
        total: Number of training images.
        batch_size: Images per optimiser step, over all processes and micro-batches.
        seed: Seed of the run.
        rank: This process among ``world``.
        world: Number of processes that share an epoch.
        accumulate: Micro-batches per optimiser step.
        repeats: Times that an epoch shows an image, one after the other; it is as long as without
            and shows a part of the images. Repeated augmentation: Hoffer et al., CVPR 2020,
            arXiv:1901.09335.
    """

    def __init__(
        self,
        total: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        repeats: int = 1,
    ) -> None:
        self.total, self.seed, self.rank, self.world = total, seed, rank, world
        self.accumulate, self.repeats = accumulate, repeats
        #: Images per micro-batch of this process.
        self.batch_size = max(1, min(batch_size, total) // (accumulate * world))
        self.epoch = self._start_epoch = self._start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of an epoch; Lightning calls this."""
        self.epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Go on inside an epoch.

        The epoch is set here too, as worker processes fetch before Lightning sets it.

        Args:
            epoch: Epoch to begin with.
            batch: Micro-batches of that epoch which are done; later epochs begin at 0.
        """
        self.epoch = self._start_epoch = epoch
        self._start = batch

    def __len__(self) -> int:
        return self.total // (self.batch_size * self.world * self.accumulate) * self.accumulate

    def __iter__(self) -> Iterator[BatchIndex]:
        order = self._order(self.epoch)
        first = self._start if self.epoch == self._start_epoch else 0
        for batch in range(first, len(self)):
            yield self._draw(order, self.epoch, batch)

    def draw(self, epoch: int, batch: int) -> BatchIndex:
        """One batch, as iterating gives it.

        Args:
            epoch: Epoch of the batch.
            batch: Its place in the epoch.

        Returns:
            Its rows and seed.
        """
        return self.draws(epoch, batch, 1)[0]

    def draws(self, epoch: int, first: int, count: int) -> list[BatchIndex]:
        """Batches that follow one another in an epoch, as iterating gives them.

        Args:
            epoch: Epoch of the batches.
            first: Place of the first one in it.
            count: Their number, smaller where the epoch ends before.

        Returns:
            Rows and seeds of each.
        """
        order = self._order(epoch)
        numbers = range(first, min(first + count, len(self)))
        return [self._draw(order, epoch, number) for number in numbers]

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(mix_seed(ORDER, self.seed, epoch))
        order = torch.randperm(self.total, generator=generator)
        return order if self.repeats == 1 else self._repeated(order)

    def _repeated(self, order: Tensor) -> Tensor:
        return order[: -(-self.total // self.repeats)].repeat_interleave(self.repeats)[: self.total]

    def _draw(self, order: Tensor, epoch: int, batch: int) -> BatchIndex:
        start = (batch * self.world + self.rank) * self.batch_size
        seed = mix_seed(DATA, self.seed, epoch, batch, self.rank)
        crop_seed = mix_seed(CROP, self.seed, epoch)
        places = torch.arange(start, start + self.batch_size)
        shown = None if self.repeats == 1 else places % self.repeats
        sample_seed = mix_seed(SAMPLE, self.seed, epoch, batch, self.rank)
        counted = epoch * self.total + places
        rows = order[places]
        return BatchIndex(rows, seed, crop_seed, shown, sample_seed, counted, epoch, batch)


class OrderedBatches(Sampler[BatchIndex]):
    """All rows once and in order, for evaluation; the last batch may be smaller.

    Processes take turns by row and nothing is padded, except that a process without any row
    repeats the first one, as all of them have to answer; scores tell rows apart by their id.

    Args:
        total: Number of images.
        batch_size: Images per batch.
        rank: This process among ``world``.
        world: Number of processes that share the rows.
    """

    def __init__(self, total: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.batch_size = batch_size
        self.rows = torch.arange(rank if rank < total else 0, total, world)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[BatchIndex]:
        for rows in self.rows.split(self.batch_size):
            yield BatchIndex(rows, 0)
