"""Generator and discriminator of small images, and the averaged copy of a generator.

DCGAN: Radford, Metz, Chintala, ICLR 2016, arXiv:1511.06434, with two steps of its layers for images
of 28 or 32 pixels. Spectral normalisation: Miyato et al., ICLR 2018, arXiv:1802.05957.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import UserError
from mixbench.nn.folded_generator import FoldedGenerator

STRIDE = 4  # a side of the image per side of the first feature map
NORMS, ACTIVATIONS = ("batch", "group"), ("leaky", "relu")
INIT_STD, LEAK = 0.02, 0.2  # of the first weights, and of the slope below 0, as DCGAN has them
GROUPS = 8  # of group normalisation, or as many as divide the channels


class ImageGenerator(nn.Module):
    """Images from latent vectors: a linear layer and two transposed convolutions.

    Args:
        latent: Numbers L that an image is made from, each in [-1, 1].
        image_shape: Channels C, height H and width W in pixels.
        width: Channels of the first feature map, a quarter of the image's sides; the second has
            half of them.
        norm: ``batch`` or ``group`` normalisation of the feature maps.
        span: Smallest and largest value that a pixel can have.

    Raises:
        ValueError: If a side is no multiple of 4 or the width is odd.
    """

    provides = frozenset({"latent"})

    def __init__(
        self,
        latent: int = 100,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        width: int = 256,
        norm: str = "batch",
        span: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        channels, height, rows_of = image_shape
        check_sides(height, rows_of)
        if width % 2:
            raise ValueError(f"the width of a generator must be even, got {width}")
        self.latent, self.image_shape, self.width = latent, image_shape, width
        self.norm, self.span = norm, span
        grid = (width, height // STRIDE, rows_of // STRIDE)
        plain = norm == "group"  # batch normalisation would take a bias away
        up: Any = {"kernel_size": 4, "stride": 2, "padding": 1}
        self.layers = nn.Sequential(
            nn.Linear(latent, grid[0] * grid[1] * grid[2], bias=plain),
            nn.Unflatten(1, grid),
            normalisation(norm, width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width // 2, bias=plain, **up),
            normalisation(norm, width // 2),
            nn.ReLU(),
            nn.ConvTranspose2d(width // 2, channels, **up),
        )
        draw_first_weights(self)

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) inside of the span, of latent vectors (N, L).

        Raises:
            ValueError: If the vectors have another length.
        """
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise ValueError(
                f"latent vectors (N, {self.latent}) are needed, got {tuple(z.shape)}; net.latent "
                "is their length"
            )
        low, high = self.span
        return low + (high - low) * self.layers(z).sigmoid()

    def folded(self) -> Callable[[Tensor], Tensor]:
        """This frozen generator in the form that suits many latent vectors at a time.

        On a CPU and with batch normalisation in eval mode this is a :class:`FoldedGenerator`, with
        copies of the weights; elsewhere it is the generator itself.
        """
        on_cpu = self.layers[-1].weight.device.type == "cpu"
        if self.norm != "batch" or self.training or not on_cpu:
            return self
        return FoldedGenerator(self.layers, self.span)

    def like(self, norm: str, span: tuple[float, float]) -> "ImageGenerator":
        """A new generator of the same size with weights of its own."""
        return ImageGenerator(self.latent, self.image_shape, self.width, norm, span)


class ImageDiscriminator(nn.Module):
    """Logits of how much images look like observed ones: two convolutions and a linear layer.

    Args:
        image_shape: Channels, height H and width W in pixels.
        width: Channels after the first convolution; after the second there are twice as many.
        norm: ``batch`` or ``group`` normalisation of the second layer.
        act: ``leaky``, as DCGAN has it, or ``relu``.
        spectral: Whether to bound the largest singular value of each layer, which also takes the
            place of normalisation.

    Raises:
        ValueError: If a side is no multiple of 4.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        width: int = 64,
        norm: str = "batch",
        act: str = "leaky",
        spectral: bool = False,
    ) -> None:
        super().__init__()
        channels, height, rows_of = image_shape
        check_sides(height, rows_of)
        self.image_shape = image_shape
        down: Any = {"kernel_size": 4, "stride": 2, "padding": 1}
        activation = nn.ReLU if act == "relu" else lambda: nn.LeakyReLU(LEAK)
        plain = spectral or norm == "group"
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, **down),
            activation(),
            nn.Conv2d(width, 2 * width, bias=plain, **down),
            nn.Identity() if spectral else normalisation(norm, 2 * width),
            activation(),
            nn.Flatten(),
            nn.Linear(2 * width * (height // STRIDE) * (rows_of // STRIDE), 1),
        )
        draw_first_weights(self)
        if spectral:
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N,) in float32 of images (N, C, H, W) in any fixed range.

        Raises:
            ValueError: If the images are of another shape.
        """
        if x.shape[1:] != self.image_shape:
            raise ValueError(f"images {self.image_shape} are needed, got {tuple(x.shape[1:])}")
        return self.layers(x)[:, 0].float()


class AveragedGenerators(nn.Module):
    """Generators whose weights follow those of others, for evaluation.

    Args:
        nets: The generators that are trained; they are copied.
    """

    def __init__(self, nets: nn.ModuleList) -> None:
        super().__init__()
        self.nets = copy.deepcopy(nets).requires_grad_(False)

    @torch.no_grad()
    def update(self, nets: nn.ModuleList, decay: float) -> None:
        """Keep ``decay`` of the weights and take the rest from ``nets``; buffers are copied."""
        own: list[Tensor] = list(self.nets.parameters())
        trained: list[Tensor] = list(nets.parameters())
        torch._foreach_lerp_(own, trained, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for buffer, other in zip(self.nets.buffers(), nets.buffers(), strict=True):
            buffer.copy_(other)


def dcgan(config: NetConfig, info: DataInfo) -> ImageGenerator:
    """The generator that ``net=dcgan`` picks.

    Args:
        config: Reads ``width`` and ``latent``.
        info: Shape of the images.

    Returns:
        A generator of such images.

    Raises:
        UserError: If their sides or the width do not fit.
    """
    width = config.first_width
    try:
        return ImageGenerator(config.latent, (info.channels, info.height, info.width), width)
    except ValueError as error:
        sides = width % 2 == 0
        where = "data.size" if sides else f"net.width={width}"
        todo = "resize the images by data.size=28 or data.size=32" if sides else "use an even one"
        raise UserError(str(error), where, todo) from error


def check_sides(height: int, width: int) -> None:
    """Refuse images that two layers of stride 2 do not divide.

    Raises:
        ValueError: With the sides.
    """
    if height % STRIDE or width % STRIDE or not height or not width:
        raise ValueError(
            f"the layers of a small GAN make images whose sides are multiples of {STRIDE}, such as "
            f"28x28, got {height}x{width}"
        )


def normalisation(kind: str, channels: int) -> nn.Module:
    """Batch normalisation, or group normalisation, which sees each image alone."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = next(count for count in range(GROUPS, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


def draw_first_weights(net: nn.Module) -> None:
    """Draw first weights as DCGAN does: deviation 0.02, and 1 around of normalisation."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, INIT_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, INIT_STD)
            nn.init.zeros_(layer.bias)
