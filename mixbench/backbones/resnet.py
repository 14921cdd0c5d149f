"""Residual networks as torchvision has them, by stages; their weights keep torchvision's names.

He et al., CVPR 2016, arXiv:1512.03385. As in torchvision, and unlike the paper, a bottleneck halves
the resolution in its 3x3 convolution.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.backbones.base import Head, StagedNet
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import UserError


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded so that stride 1 keeps the resolution.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        size: Pixels along a side of the kernel, an odd number.
        stride: Stride in pixels.
        groups: Groups of channels.

    Returns:
        The layer.
    """
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)


def init_he(net: nn.Module) -> None:
    """Draw every convolution from the normal distribution of He et al., ICCV 2015.

    Args:
        net: A network; other layers stay as they are.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResidualBlock(nn.Module):
    """Convolutions with normalisation, and a shortcut around them.

    Args:
        inputs: Channels in.
        planes: Channels of the stage before a bottleneck widens them by four.
        stride: Stride of the first 3x3 convolution.
        inner: Channels inside a bottleneck; None for a block of two 3x3 convolutions.
        groups: Groups of a bottleneck's 3x3 convolution.
    """

    def __init__(
        self, inputs: int, planes: int, stride: int, inner: int | None = None, groups: int = 1
    ) -> None:
        super().__init__()
        self.deep = inner is not None
        if inner is None:
            outputs = planes
            self.conv1 = conv(inputs, planes, 3, stride)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = conv(planes, planes, 3)
            self.bn2 = nn.BatchNorm2d(planes)
        else:
            outputs = 4 * planes
            self.conv1, self.bn1 = conv(inputs, inner, 1), nn.BatchNorm2d(inner)
            self.conv2 = conv(inner, inner, 3, stride, groups)
            self.bn2 = nn.BatchNorm2d(inner)
            self.conv3, self.bn3 = conv(inner, outputs, 1), nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        short = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.downsample = None if same else short

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        skip = h if self.downsample is None else self.downsample(h)
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(h)))))
        if self.deep:
            h = self.bn3(self.conv3(F.relu(h)))
        return F.relu(h + skip)


class Stem(nn.Module):
    """The layers before the blocks.

    Args:
        channels: Channels of the image.
        width: Channels out.
        small: A 3x3 convolution without stride; else 7x7 with stride 2, then pooling with stride 2.
    """

    def __init__(self, channels: int, width: int, small: bool) -> None:
        super().__init__()
        self.conv1 = conv(channels, width, 3) if small else conv(channels, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, width, H, W), or to a quarter of the resolution."""
        return self.pool(F.relu(self.bn1(self.conv1(x))))


class ResNet(StagedNet):
    """ResNet or ResNeXt in four stages; layer k is the output of torchvision's ``layer<k>``.

    Args:
        blocks: Blocks of each stage.
        width: Channels of the stem, and of the first stage before bottlenecks widen it by four.
        num_classes: Number of classes K.
        channels: Channels of the image.
        bottleneck: Blocks of three convolutions.
        groups: Groups of the 3x3 convolution of a bottleneck.
        group_width: Channels of a group in the first stage, at width 64.
        small_stem: The stem of small images.

    Raises:
        UserError: If the width gives groups no whole number of channels.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        num_classes: int,
        channels: int = 3,
        *,
        bottleneck: bool = False,
        groups: int = 1,
        group_width: int = 64,
        small_stem: bool = False,
    ) -> None:
        super().__init__()
        if bottleneck and width * group_width % 64:
            raise UserError(
                f"net.width={width} would give groups of {width * group_width / 64:g} channels, "
                "which is not a whole number",
                "net.width",
                f"choose a multiple of {64 // group_width}",
            )
        stages: list[nn.Module] = []
        inputs = width
        for index, count in enumerate(blocks):
            planes = width * 2**index
            inner = planes * group_width // 64 * groups if bottleneck else None
            parts: list[nn.Module] = [] if index else [Stem(channels, width, small_stem)]
            for block in range(count):
                stride = 2 if index and block == 0 else 1
                parts.append(ResidualBlock(inputs, planes, stride, inner, groups))
                inputs = 4 * planes if bottleneck else planes
            stages.append(nn.Sequential(*parts))
        self.stages = nn.ModuleList(stages)
        self.head = Head(inputs, num_classes)
        widest = inputs // 2 ** (len(blocks) - 1)
        self.channels = (channels, *(widest * 2**index for index in range(len(blocks))))
        self.renames = (
            ("stages.0.0.", ""),
            *((f"stages.0.{block + 1}.", f"layer1.{block}.") for block in range(blocks[0])),
            *((f"stages.{index}.", f"layer{index + 1}.") for index in range(1, len(blocks))),
            ("head.fc.", "fc."),
        )
        init_he(self)


def resnet18(config: NetConfig, info: DataInfo) -> ResNet:
    """ResNet-18 for images of about 224 pixels, 11.7 M parameters at 1000 classes.

    Args:
        config: Reads ``width``.
        info: Reads ``num_classes`` and ``channels``.

    Returns:
        torchvision's network with its initialisation.
    """
    return ResNet((2, 2, 2, 2), config.first_width, info.num_classes, info.channels)


def resnet101(config: NetConfig, info: DataInfo) -> ResNet:
    """ResNet-101 for images of about 224 pixels, 44.5 M parameters at 1000 classes.

    Args:
        config: Reads ``width``, here that of the stem; the first stage has four times as many
            channels.
        info: Reads ``num_classes`` and ``channels``.

    Returns:
        torchvision's network with its initialisation.
    """
    return ResNet(
        (3, 4, 23, 3), config.first_width, info.num_classes, info.channels, bottleneck=True
    )


def resnet50(config: NetConfig, info: DataInfo) -> ResNet:
    """ResNet-50 for images of about 224 pixels, 25.6 M parameters at 1000 classes.

    Args:
        config: Reads ``width``, here that of the stem; the first stage has four times as many
            channels.
        info: Reads ``num_classes`` and ``channels``.

    Returns:
        torchvision's network with its initialisation.
    """
    return ResNet(
        (3, 4, 6, 3), config.first_width, info.num_classes, info.channels, bottleneck=True
    )
