"""The module of TransformMix: where two images go, and what is seen of each.

Cheung and Yeung, arXiv:2403.12429, combine a spatial transformer network (Jaderberg et al., NeurIPS
2015, arXiv:1506.02025) and one that predicts a mask. Its layers are a reconstruction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixbench.functional.transformmix import AFFINES

STN_INPUTS = ("saliency", "image+saliency")
STN_SIZE, CELL = 32, 4  # pixels of the transformer's input; pixels of the image in a cell of masks
WIDTHS = (16, 32, 64)


class TransformMixer(nn.Module):
    """The two networks of TransformMix, which read maps of saliency and a weight.

    Neither knows classes, and both read images of any size. All of it is computed in float32, also
    under autocast. It starts as Input Mixup with equal weights: the last layers are zero.

    Args:
        affine: ``similarity`` (scale, turn and shift) or ``full`` (six free numbers).
        stn_input: ``saliency``, or ``image+saliency`` with ``channels`` of the images.
        channels: Channels of the images.
        lam_input: Tell the mask network the weight; else it reads 0.5.
        symmetric: Mean over both orders of a pair, so that a pair in the other order, with the rest
            of the weight, has the other part of the mask.
        stn: Have a network for transformations.
        mpn: Have a network for masks.
        temperature: Divides the logits of the mask.
    """

    def __init__(
        self,
        *,
        affine: str = "similarity",
        stn_input: str = "saliency",
        channels: int = 3,
        lam_input: bool = True,
        symmetric: bool = True,
        stn: bool = True,
        mpn: bool = True,
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        if affine not in AFFINES or stn_input not in STN_INPUTS:
            raise ValueError(f"there is no module with affine={affine!r}, stn_input={stn_input!r}")
        self.numbers, self.with_images = AFFINES[affine], stn_input != "saliency"
        self.channels = channels * self.with_images  # of images that it reads
        self.lam_input, self.symmetric, self.temperature = lam_input, symmetric, temperature
        inputs = 2 * (1 + self.channels)
        self.stn = _transformer(inputs, 2 * self.numbers) if stn else None
        self.mpn = _MaskNetwork() if mpn else None

    def transformations(self, first: Tensor, second: Tensor) -> Tensor:
        """Numbers of the transformations of both images of each pair.

        Args:
            first: (B, C, H, W) map of the first image, behind its image if the network reads it.
            second: (B, C, H, W) the same of the partner.

        Returns:
            (2B, 4) or (2B, 6) for :func:`mixbench.functional.affine_matrices`: of the first images,
            then of the partners; zeros without such a network.
        """
        if self.stn is None:
            return first.new_zeros(2 * len(first), self.numbers, dtype=torch.float32)
        with torch.autocast(first.device.type, enabled=False):
            pair = [F.adaptive_avg_pool2d(each.float(), STN_SIZE) for each in (first, second)]
            found = torch.cat(self.stn(torch.cat(pair, dim=1)).chunk(2, dim=1))
            if self.symmetric:
                other = torch.cat(self.stn(torch.cat(pair[::-1], dim=1)).chunk(2, dim=1)[::-1])
                found = (found + other) / 2
        return found

    def mask(self, first: Tensor, second: Tensor, lam: Tensor) -> Tensor:
        """Weights of the pixels of transformed pairs.

        Args:
            first: (B, 1, H, W) transformed map of the first image.
            second: (B, 1, H, W) that of the partner.
            lam: (B,) or (1,) weight of the first image, in [0, 1].

        Returns:
            (B, 1, H, W) weight of the first image, in (0, 1).
        """
        assert self.mpn is not None
        size = first.shape[2:]
        with torch.autocast(first.device.type, enabled=False):
            low = (max(1, size[0] // CELL), max(1, size[1] // CELL))
            pair = [F.adaptive_avg_pool2d(each.float(), low) for each in (first, second)]
            lam = lam.to(first.device, torch.float32, non_blocking=True).reshape(-1, 1, 1, 1)
            lam = lam if self.lam_input else torch.full_like(lam, 0.5)
            logit = self.mpn(torch.cat([*pair, lam.expand_as(pair[0])], dim=1))
            if self.symmetric:
                other = torch.cat([*pair[::-1], (1 - lam).expand_as(pair[0])], dim=1)
                logit = (logit - self.mpn(other)) / 2
            high = F.interpolate(logit, size, mode="bilinear", align_corners=False)
            return (high / self.temperature).sigmoid()


def _transformer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        _zero(nn.Linear(64, outputs)),
    )


class _MaskNetwork(nn.Module):
    """A U-Net of three levels, from (B, 3, h, w) to logits (B, 1, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.down = nn.ModuleList(
            [_block(3, fine), _block(fine, middle), _block(middle, coarse)],
        )
        self.up = nn.ModuleList([_block(coarse + middle, middle), _block(middle + fine, fine)])
        self.last = _zero(nn.Conv2d(fine, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = []
        for place, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if place else x)
            levels.append(x)
        for block, level in zip(self.up, levels[-2::-1], strict=True):
            wide = F.interpolate(x, level.shape[2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([wide, level], dim=1))
        return self.last(x)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers = nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()
    return nn.Sequential(*layers)


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
