"""The linearity suite: how far a network is from linear between test images of two classes.

With p = softmax of the logits, the gap of a pair (a, b) at lam is the total variation distance
``0.5 * sum_k |p_k(lam a + (1 - lam) b) - lam p_k(a) - (1 - lam) p_k(b)|``, and ``lin_gap`` is its
mean over the pairs and lam = 0.1, 0.2 ... 0.9, in percent. Mixup trains for a gap of 0 between
training images; this asks about images that nothing was trained on. The definition is ours: we know
of no published measure to compare it with.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch
from mixbench.evaluation.per_image_random import keys
from mixbench.evaluation.suite import SUITE_BATCH, SUITE_SEED, Counts, Model, Suite

LAMS = tuple(tenth / 10 for tenth in range(1, 10))
UNIT = 1 << 40  # gaps are added up as whole numbers of 1 / UNIT, so that no order matters


class Linearity(Suite):
    """Adds up the gaps of pairs of images of different classes."""

    columns = ("lin_gap",)
    needs = "pairs images of two classes"

    def count(self, model: Model, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Sums of gaps by ``lin_<percent>`` in units of 2**-40, and the number of pairs ``n``.

        The second half of each batch are the partners of the first, in its order.
        """
        del info
        names = [_weight_name(lam) for lam in LAMS]
        counts = {"n": 0} | dict.fromkeys(names, 0)
        for batch in batches:
            pairs = len(batch.labels) // 2
            x = to_float(batch.images)
            sums = (linearity_gaps(model, x[:pairs], x[pairs:]) * UNIT).round().long().sum(0)
            counts["n"] += pairs
            for name, value in zip(names, sums.tolist(), strict=True):
                counts[name] += value
        return counts

    def score(self, counts: Mapping[str, int]) -> dict[str, float]:
        """The mean gap in percent."""
        curve = linearity_curve(counts)
        return {"lin_gap": sum(curve.values()) / len(curve)}

    def facts(self, info: DataInfo, counts: Mapping[str, int]) -> dict[str, Any]:
        """The number of pairs, and the mean gap at each weight."""
        del info
        curve = {f"{lam:g}": round(value, 6) for lam, value in linearity_curve(counts).items()}
        return {"pairs": counts["n"], "curve": curve}

    @property
    def limit(self) -> int | None:
        """``eval.adv_n`` pairs."""
        return self.config.subset_size

    @property
    def passes(self) -> int:
        """The two ends and what lies between them."""
        return 2 + len(LAMS)

    def divide(self, rows: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Images and behind them their partners."""
        firsts = rows.split(SUITE_BATCH // 2)
        return [torch.cat([first, partners(labels, first, SUITE_SEED)]) for first in firsts]


def linearity_curve(counts: Mapping[str, int]) -> dict[float, float]:
    """Mean gap at each weight of the first image.

    Args:
        counts: Those of :meth:`Linearity.count` over the whole set.

    Returns:
        Percent by lam.
    """
    return {lam: 100 * counts[_weight_name(lam)] / (UNIT * counts["n"]) for lam in LAMS}


def partners(labels: Tensor, rows: Tensor, seed: int = 0) -> Tensor:
    """An image of another class for each of some images, each such image as likely as any.

    A partner depends on the labels, the seed and the image alone.

    Args:
        labels: (N,) class indices of the whole set.
        rows: (B,) numbers of the images that need a partner.
        seed: Seed.

    Returns:
        (B,) int64 numbers of the partners.

    Raises:
        ValueError: If the whole set is of one class.
    """
    # Grouped by class, all others of an image are the circle without its own group.
    grouped = labels.argsort(stable=True)
    sizes = labels.bincount()
    own = labels[rows]
    others = len(labels) - sizes[own]
    if not (others > 0).all():
        raise ValueError("all images are of one class; pairs need two")
    drawn = keys(seed, rows, 1)[:, 0] & ((1 << 63) - 1)
    return grouped[(sizes.cumsum(0)[own] + drawn % others) % len(labels)]


def linearity_gaps(
    model: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, lams: Sequence[float] = LAMS
) -> Tensor:
    """Distance of the prediction between two images from the mixture of their predictions.

    Args:
        model: Pixels to logits, in eval mode.
        a: (P, C, H, W) first images, pixels in [0, 1].
        b: (P, C, H, W) second images.
        lams: Weights of the first image.

    Returns:
        (P, L) float64 total variation distances in [0, 1].
    """
    ends = [_predicted(model, x) for x in (a, b)]
    gaps = []
    for lam in lams:
        between = _predicted(model, lam * a + (1 - lam) * b)
        mixture = lam * ends[0] + (1 - lam) * ends[1]
        gaps.append(0.5 * (between - mixture).abs().sum(dim=1))
    return torch.stack(gaps, dim=1)


def _predicted(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return model(x.float()).double().softmax(dim=1)


def _weight_name(lam: float) -> str:
    return f"lin_{100 * lam:.0f}"
