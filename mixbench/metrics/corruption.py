"""Errors under common corruptions as one number.

Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261; the unnormalised mean as google-research/
augmix reports it for CIFAR.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Mean error of AlexNet on ImageNet-C, by which mCE divides; as in google-research/augmix.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
ALEXNET_CLEAN_ERROR = 0.435  # on ImageNet itself, table 1 of Hendrycks and Dietterich


def group_means(errors: Tensor, groups: Sequence[str]) -> dict[str, Tensor]:
    """Mean error over the corruptions of each group, such as noise and blur.

    Args:
        errors: (C, S) error of each corruption at each severity.
        groups: Group of each of the C corruptions.

    Returns:
        Scalars by group, in the order in which groups appear.

    Raises:
        ValueError: If there is not one group for each corruption.
    """
    if len(groups) != len(errors):
        raise ValueError(f"{len(groups)} groups for {len(errors)} corruptions")
    rows = {name: [row for row, g in enumerate(groups) if g == name] for name in groups}
    return {name: errors[torch.tensor(places)].mean() for name, places in rows.items()}


def mean_ce(errors: Tensor) -> Tensor:
    """Mean error over corruptions and severities, the figure for CIFAR-C and Tiny-ImageNet-C.

    Args:
        errors: (C, S) error of each corruption at each severity, in [0, 1] or in percent.

    Returns:
        Scalar in the unit of the errors.
    """
    return errors.mean()


def mce(errors: Tensor, reference: Tensor) -> Tensor:
    """Mean corruption error (mCE): relative to a reference network's, the figure for ImageNet-C.

    The maximum calibration error, MCE elsewhere, is :func:`mixbench.metrics.maxce`.

    Args:
        errors: (C, S) error of each corruption at each severity.
        reference: (C,) mean error of the reference (AlexNet) for each corruption, in the same unit.

    Returns:
        Scalar in percent; 100 for the reference itself.
    """
    return 100 * (errors.mean(dim=1) / reference).mean()


def relative_mce(
    errors: Tensor, clean: Tensor, reference: Tensor, reference_clean: Tensor
) -> Tensor:
    """Mean loss of accuracy relative to a reference network's.

    Args:
        errors: (C, S) error of each corruption at each severity.
        clean: Scalar, error without corruption.
        reference: (C,) mean error of the reference for each corruption.
        reference_clean: Scalar, the reference's error without corruption.

    Returns:
        Scalar in percent; 100 for the reference itself.
    """
    lost = errors.mean(dim=1) - clean
    return 100 * (lost / (reference - reference_clean)).mean()
