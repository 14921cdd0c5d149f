"""Residual networks for small images: a 3x3 stem without stride, then three or four stages.

Pre-activation ResNet: He et al., ECCV 2016, arXiv:1603.05027. Wide ResNet: Zagoruyko and
Komodakis, BMVC 2016, arXiv:1605.07146. ResNeXt: Xie et al., CVPR 2017, arXiv:1611.05431.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mixbench.backbones.base import Head, StagedNet
from mixbench.backbones.resnet import ResNet, conv, init_he
from mixbench.config.schema import DataInfo, NetConfig


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each behind its normalisation and ReLU.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Stride of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else conv(inputs, outputs, 1, stride)

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
        stem: Channels of the stem; those of the first stage if None.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        num_classes: int,
        channels: int = 3,
        final_norm: bool = True,
        stem: int | None = None,
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        inputs = stem or width
        for index, count in enumerate(blocks):
            outputs = width * 2**index
            layers: list[nn.Module] = [] if index else [conv(channels, inputs, 3)]
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
        (2, 2, 2, 2), config.first_width, info.num_classes, info.channels, config.final_norm
    )


def wrn16x8(config: NetConfig, info: DataInfo) -> PreActResNet:
    """WRN-16-8: three stages of two blocks, 11.0 M parameters at width 128.

    Args:
        config: Reads ``width``, 16 times the factor of the paper, and ``final_norm``.
        info: Reads ``num_classes`` and ``channels``.

    Returns:
        The network with the initialisation of He et al., without dropout.
    """
    return _wide((2, 2, 2), config, info)


def wrn28x8(config: NetConfig, info: DataInfo) -> PreActResNet:
    """WRN-28-8: three stages of four blocks, 23.4 M parameters at width 128.

    Args:
        config: Reads ``width``, 16 times the factor of the paper, and ``final_norm``.
        info: Reads ``num_classes`` and ``channels``.

    Returns:
        The network with the initialisation of He et al., without dropout.
    """
    return _wide((4, 4, 4), config, info)


def wrn40x2(config: NetConfig, info: DataInfo) -> PreActResNet:
    """WRN-40-2: three stages of six blocks, 2.2 M parameters at width 32.

    Args:
        config: Reads ``width``, 16 times the factor of the paper, and ``final_norm``.
        info: Reads ``num_classes`` and ``channels``.

    Returns:
        The network with the initialisation of He et al., without dropout.
    """
    return _wide((6, 6, 6), config, info)


def _wide(blocks: tuple[int, ...], config: NetConfig, info: DataInfo) -> PreActResNet:
    net = PreActResNet(
        blocks, config.first_width, info.num_classes, info.channels, config.final_norm, stem=16
    )
    init_he(net)
    return net


def resnext50(config: NetConfig, info: DataInfo) -> ResNet:
    """ResNeXt-50 32x4d with the stem of small images, 23.2 M parameters at 100 classes.

    As OpenMixup has it: torchvision's network with a 3x3 stem without stride and no pooling behind
    it; the weights bear torchvision's names.

    Args:
        config: Reads ``width``, here that of the stem; the first stage has four times as many
            channels. A multiple of 16.
        info: Reads ``num_classes`` and ``channels``.

    Returns:
        The network with the initialisation of He et al.
    """
    return ResNet(
        (3, 4, 6, 3),
        config.first_width,
        info.num_classes,
        info.channels,
        bottleneck=True,
        groups=32,
        group_width=4,
        small_stem=True,
    )
