"""Errors under common corruptions as one number.

Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261; the unnormalised mean as google-research/
augmix reports it for CIFAR.
"""

from torch import Tensor


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
