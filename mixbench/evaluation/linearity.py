"""How far a network is from linear between two test images of different classes.

With p = softmax of the logits, the gap of a pair (a, b) at lam is the total variation distance
``0.5 * sum_k |p_k(lam a + (1 - lam) b) - lam p_k(a) - (1 - lam) p_k(b)|``, and ``lin_gap`` is its
mean over the pairs and lam = 0.1, 0.2 ... 0.9, in percent. Mixup trains for a gap of 0 between
training images; this asks about images that nothing was trained on. The definition is ours: we know
of no published measure to compare it with.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mixbench.evaluation.keys import keys

LAMS = tuple(tenth / 10 for tenth in range(1, 10))


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
