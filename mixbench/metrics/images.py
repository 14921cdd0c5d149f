"""How close images come to others: PSNR and SSIM of each, by torchmetrics."""

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

BEST_PSNR = 100.0  # dB of equal images, whose ratio would be infinite
KERNEL = 11  # pixels of a side of SSIM's window


def psnr_of(x: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image for pixels in [0, 1].

    Args:
        x: (B, C, H, W) images.
        truth: (B, C, H, W) what they should be.

    Returns:
        (B,) float32 in dB, at most 100.
    """
    axes = (1, 2, 3)
    found = peak_signal_noise_ratio(
        x.float(), truth.float(), data_range=1.0, reduction="none", dim=axes
    )
    return found.clamp(max=BEST_PSNR)


def ssim_of(x: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image for pixels in [0, 1].

    Args:
        x: (B, C, H, W) images.
        truth: (B, C, H, W) what they should be.

    Returns:
        (B,) float32 in [-1, 1]; NaN of images smaller than its window of 11 pixels.
    """
    if min(x.shape[2:]) < KERNEL:
        return torch.full((len(x),), torch.nan, device=x.device)
    found = structural_similarity_index_measure(
        x.float(), truth.float(), data_range=1.0, reduction="none", kernel_size=KERNEL
    )
    assert isinstance(found, Tensor)
    return found
