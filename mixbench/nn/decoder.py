"""Images from the last feature map of a network."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class Decoder(nn.Module):
    """Convolutions that walk the layers of a staged network back to its image.

    There is one 3x3 convolution for every layer, the first from the last features; normalisation,
    ReLU and upsampling follow each but the one that gives the image. The upsampling steps are
    alike, whatever the ratio of the sizes: 4 to 32 pixels in three steps are 8, 16 and 32. It is
    our own design; no paper or official code stands behind it.

    Args:
        channels: Channels of each layer of the network, the image's first, as
            :attr:`mixbench.backbones.base.StagedNet.channels`.

    Example:
        >>> import torch
        >>> h = torch.randn(2, 64, 4, 3)
        >>> Decoder((3, 16, 32, 64))(h, (32, 24)).shape
        torch.Size([2, 3, 32, 24])
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.inputs = channels[-1]
        blocks: list[nn.Module] = []
        for inputs, outputs in pairwise(reversed(channels[1:])):
            conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            blocks.append(nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU()))
        self.blocks = nn.ModuleList(blocks)
        self.image = nn.Conv2d(channels[1], channels[0], 3, padding=1)

    def forward(self, h: Tensor, size: Sequence[int]) -> Tensor:
        """Decode a feature map.

        Args:
            h: (B, C, h, w) features of the last layer.
            size: Height H and width W of the image in pixels.

        Returns:
            (B, channels of the image, H, W) images, as the network's input normalised.

        Raises:
            ValueError: If ``h`` is no such map.
        """
        if h.ndim != 4 or h.shape[1] != self.inputs:
            wanted = f"(B, {self.inputs}, h, w)"
            raise ValueError(f"Decoder needs features {wanted}, got {tuple(h.shape)}")
        start, steps = h.shape[2:], len(self.blocks)
        for done, block in enumerate(self.blocks, start=1):
            pairs = zip(start, size, strict=True)
            now = [round(small * (large / small) ** (done / steps)) for small, large in pairs]
            # The gradient of bilinear upsampling adds in no fixed order on a GPU.
            h = F.interpolate(block(h), size=now)
        return self.image(F.interpolate(h, size=list(size)) if not steps else h)
