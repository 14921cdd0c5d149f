"""Rules for mixing functions of anybody: does the label follow the pixels?

``mixbench check module:function`` runs them. The function takes a batch and its labels, which are
soft or, if it refuses those, class indices, and returns mixed images with soft labels, as the
transforms of torchvision and timm do; a :class:`mixbench.functional.Mixed`; or images, both labels
and the weight of the first.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixbench.functional import Mixed, one_hot
from mixbench.testing.contract import BrokenRuleError, Result
from mixbench.testing.device import HostWaitError, OnDevice, pretended_device

COLOURS = 3  # classes; images of class k are 1 in channel k and 0 elsewhere
ROWS, SIDE, DRAWS = 6, 16, 8
LARGEST_GAP = 0.01
Mixer = Callable[..., Any]


def check_mixer(mixer: Mixer) -> list[Result]:
    """Run every rule on a mixing function.

    Args:
        mixer: The function, or a module.

    Returns:
        One result per rule.
    """
    results = []
    for rule in MIXER_RULES:
        try:
            rule(mixer)
            error = ""
        except BrokenRuleError as broken:
            error = str(broken)
        except Exception as failure:  # of anybody's code
            error = f"{type(failure).__name__}: {failure}".splitlines()[0]
        results.append(Result((rule.__doc__ or rule.__name__).strip().rstrip("."), error))
    return results


def _batch(rows: int = ROWS, height: int = SIDE, width: int = SIDE) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) of one colour each, and the classes that the colours stand for."""
    y = torch.arange(rows) % COLOURS
    return one_hot(y, COLOURS)[:, :, None, None].expand(-1, -1, height, width).contiguous(), y


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what many mixers draw from


def _mixed(mixer: Mixer, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Images and soft labels that a function makes of a batch."""
    try:
        return _read(mixer(x, one_hot(y, COLOURS)))
    except HostWaitError:
        raise
    except Exception as refused:
        try:
            return _read(mixer(x, y))
        except Exception:
            raise refused from None


def _read(found: Any) -> tuple[Tensor, Tensor]:
    if isinstance(found, Mixed):
        found = found[:2]
    if isinstance(found, tuple | list) and len(found) == 4:
        images, first, second, lam = found
        weight = torch.as_tensor(lam, dtype=torch.float32).reshape(-1, 1)
        found = images, _soft(first) * weight + _soft(second) * (1 - weight)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise BrokenRuleError(
            "expected images and soft labels, Mixed, or images, two labels and a weight, got "
            f"{_kind(found)}"
        )
    images, labels = found
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise BrokenRuleError(f"{name} are {_kind(value)}, expected a floating tensor")
    if labels.ndim != 2 or labels.shape != (len(images), COLOURS):
        wanted = f"({len(images)}, {COLOURS})"
        raise BrokenRuleError(f"labels have shape {tuple(labels.shape)}, expected {wanted}")
    return images, labels


def _soft(labels: Tensor) -> Tensor:
    return one_hot(labels, COLOURS) if labels.ndim == 1 else labels


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def returns_images_and_labels(mixer: Mixer) -> None:
    """It returns finite images (B, C, H, W) and soft labels (B, K)."""
    x, y = _batch()
    _seed(0)
    images, labels = _mixed(mixer, x, y)
    if images.ndim != 4 or images.shape[1:] != x.shape[1:]:
        raise BrokenRuleError(f"images have shape {tuple(images.shape)} after {tuple(x.shape)}")
    if not bool(images.isfinite().all() and labels.isfinite().all()):
        raise BrokenRuleError("images or labels are not finite")


def label_follows_pixels(mixer: Mixer) -> None:
    """The label of an image says how much of each class its pixels show."""
    x, y = _batch()
    for seed in range(DRAWS):
        _seed(seed)
        images, labels = _mixed(mixer, x, y)
        shown = images.double().mean(dim=(2, 3)).clamp(min=0)
        total = shown.sum(dim=1, keepdim=True)
        shown = torch.where(total > 0, shown / total.clamp(min=1e-9), labels.double())
        gaps = (shown - labels.double()).abs()
        if gaps.max() > LARGEST_GAP:
            row, label = divmod(int(gaps.argmax()), COLOURS)
            raise BrokenRuleError(
                f"image {row} of seed {seed} shows {shown[row, label]:.3f} of class {label}, and "
                f"its label says {labels[row, label]:.3f}"
            )


def weights_of_labels_sum_to_one(mixer: Mixer) -> None:
    """Labels of each image sum to 1, and none is negative."""
    for seed in range(DRAWS):
        _seed(seed)
        _, labels = _mixed(mixer, *_batch())
        worst = float((labels.sum(1) - 1).abs().max())
        if worst > 1e-4 or bool((labels < -1e-6).any()):
            raise BrokenRuleError(
                f"labels sum to 1 +- {worst:.2g}, the least is {labels.min():.2g}"
            )


def batch_is_left_alone(mixer: Mixer) -> None:
    """It does not write into the batch that it is given."""
    x, y = _batch()
    before = x.clone(), y.clone()
    for seed in range(DRAWS):
        _seed(seed)
        _mixed(mixer, x, y)
        if not (torch.equal(x, before[0]) and torch.equal(y, before[1])):
            raise BrokenRuleError("the images or labels that it was given have changed")


def seeds_decide(mixer: Mixer) -> None:
    """Equal seeds of torch, NumPy and Python give equal batches."""
    x, y = torch.rand(ROWS, COLOURS, SIDE, SIDE), _batch()[1]
    pairs = []
    for _ in range(2):
        _seed(5)
        pairs.append(_mixed(mixer, x.clone(), y))
    if not all(torch.equal(a, b) for a, b in zip(*pairs, strict=True)):
        raise BrokenRuleError("two calls with equal seeds differ")


def takes_any_batch(mixer: Mixer) -> None:
    """Batches of 1, 2, 3 and 5 rows and images that are not square."""
    for rows, height, width in ((1, SIDE, SIDE), (2, SIDE, SIDE), (3, 16, 24), (5, 24, 16)):
        try:
            _mixed(mixer, *_batch(rows, height, width))
        except Exception as error:
            what = str(error).strip() or type(error).__name__
            raise BrokenRuleError(f"{rows} images of {height}x{width}: {what}") from error


def precision_stays(mixer: Mixer) -> None:
    """Images of bfloat16 stay so, and labels keep their precision."""
    x, y = _batch()
    images, labels = _mixed(mixer, x.bfloat16(), y)
    if images.dtype != torch.bfloat16 or labels.dtype != torch.float32:
        raise BrokenRuleError(f"images became {images.dtype}, and labels {labels.dtype}")


def needs_no_wait(mixer: Mixer) -> None:
    """The host does not wait for the device."""
    with pretended_device() as refuse_waits:
        x, y = _batch()
        batch = OnDevice(x), OnDevice(y)
        for step in range(2):
            refuse_waits(step > 0)
            _seed(step)
            _mixed(mixer, *batch)


MIXER_RULES: list[Callable[[Mixer], None]] = [
    returns_images_and_labels,
    label_follows_pixels,
    weights_of_labels_sum_to_one,
    batch_is_left_alone,
    seeds_decide,
    takes_any_batch,
    precision_stays,
    needs_no_wait,
]
