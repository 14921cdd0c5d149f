"""Residual networks for small images: a 3x3 stem without stride, then four stages.

Pre-activation ResNet: He et al., ECCV 2016, arXiv:1603.05027.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mixbench.backbones.base import Head, StagedNet
from mixbench.schema import DataInfo, NetConfig


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each behind its normalisation and ReLU.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Stride of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else _conv(inputs, outputs, 1, stride)

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        ready = F.relu(self.norm1(h))
        skip = h if self.shortcut is None else self.shortcut(ready)
        return skip + self.conv2(F.relu(self.norm2(self.conv1(ready))))


class PreActResNet(StagedNet):
    """Pre-activation ResNet with a stride-1 stem, for images of any size.

    Args:
        blocks: Blocks of each stage.
        width: Channels of the first stage; each later one has twice as many.
        num_classes: Number of classes K.
        channels: Channels of the image.
        final_norm: End the last stage with BN and ReLU.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        num_classes: int,
        channels: int = 3,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        inputs = width
        for index, count in enumerate(blocks):
            outputs = width * 2**index
            layers: list[nn.Module] = [] if index else [_conv(channels, width, 3)]
            for block in range(count):
                stride = 2 if index and block == 0 else 1
                layers.append(PreActBlock(inputs, outputs, stride))
                inputs = outputs
            if final_norm and index == len(blocks) - 1:
                layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.head = Head(inputs, num_classes)
        self.final_norm = final_norm
        self.channels = (channels, *(width * 2**index for index in range(len(blocks))))


def preactresnet18(config: NetConfig, info: DataInfo) -> PreActResNet:
    """PreActResNet-18: four stages of two blocks, 11.2 M parameters at width 64.

    Args:
        config: Reads ``width`` and ``final_norm``.
        info: Reads ``num_classes`` and ``channels``.

    Returns:
        The network with PyTorch's default initialisation, as the mixup authors' code has it.
    """
    return PreActResNet(
        (2, 2, 2, 2), config.width, info.num_classes, info.channels, config.final_norm
    )
