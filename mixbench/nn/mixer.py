"""Mixers: small attention networks that draw a mask from the features of two images.

AutoMix: Liu et al., ECCV 2022, arXiv:2103.13027. SAMix: Li et al., arXiv:2111.15454. Official code
of both: Westlake-AI/openmixup.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mixbench.functional.maskmix import rescale_lam
from mixbench.functional.mixed import take

REDUCTION = 2  # channels of the features per channel of query and key
NO_RESCALE = -1.0  # official spelling of a weight that is left as it is
UPSAMPLING = ("bilinear", "nearest")
# The attention kernels of GPUs take values of a few channels only; a single one would give the
# whole (B, n, n) matrix. All of these hold the same.
VALUE_WIDTH = 8


class SharedProjections(NamedTuple):
    """Projections of the features that depend on neither weight nor partner.

    ``own`` (B, n, 2d) is the first image's part of query and key, ``partner`` the second image's,
    and its part of the value; ``grid`` is height and width of the feature map, n their product.
    """

    own: Tensor
    partner: Tensor
    grid: tuple[int, int]


class Mixer(nn.Module):
    """The mixer of SAMix.

    Features f of an image and f' of its partner are weighed by ``1 + lam`` and ``2 - lam``. Query
    and key are linear in both, the value is a small network on the partner's; attention to the
    value gives a map, and its sigmoid the partner's weight of each pixel. All of it is computed in
    the type of the parameters, float32 unless they were cast, also under autocast.

    Query and key of one batch of features differ between two uses by weight and partner only, so
    that :meth:`share` does their work once and :meth:`draw` what is left; ``forward`` is both.

    Args:
        channels: Channels C of the features; query and key have half as many.
        rescale: k of :func:`mixbench.functional.rescale_lam`; -1 leaves the weight as it is.
        dropout: Share of the values set to zero in training.
        upsampling: From feature map to image: ``bilinear`` or ``nearest``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> h, lam, perm = torch.randn(2, 8, 4, 3), torch.tensor([0.7]), torch.tensor([1, 0])
        >>> Mixer(8)(h, lam, perm, (16, 12)).shape
        torch.Size([2, 1, 16, 12])
    """

    def __init__(
        self,
        channels: int,
        *,
        rescale: float = NO_RESCALE,
        dropout: float = 0.0,
        upsampling: str = "bilinear",
    ) -> None:
        super().__init__()
        if channels < REDUCTION:
            raise ValueError(f"a mixer needs features of {REDUCTION} channels or more: {channels}")
        if rescale != NO_RESCALE:
            rescale_lam(torch.zeros(()), rescale)
        if upsampling not in UPSAMPLING:
            raise ValueError(f"upsampling must be one of {', '.join(UPSAMPLING)}: {upsampling!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.channels, self.width = channels, channels // REDUCTION
        self.rescale, self.dropout, self.upsampling = rescale, dropout, upsampling
        self.build()
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.01)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def build(self) -> None:
        """Make the layers; 1x1 convolutions are linear layers over the positions."""
        self.query = nn.Linear(2 * self.channels, self.width)
        self.key = nn.Linear(2 * self.channels, self.width)
        self.value = nn.Linear(self.channels, self.width, bias=False)
        self.norm = nn.BatchNorm1d(self.width)
        self.score = nn.Linear(self.width, 1, bias=False)

    def forward(
        self,
        h: Tensor,
        lam: Tensor,
        perm: Tensor,
        size: Sequence[int],
        generator: Generator | None = None,
    ) -> Tensor:
        """Masks for the images of a feature map.

        Args:
            h: (B, C, h, w) features.
            lam: (B,) or (1,) weight of the first image, in [0, 1].
            perm: (B,) index of each image's partner.
            size: Height H and width W of the image in pixels.
            generator: Random source of dropout; torch's global one if None.

        Returns:
            (B, 1, H, W) weight of the first image in (0, 1); the partner's is the rest.

        Raises:
            ValueError: If ``h`` is no such map, or larger than the image.
        """
        return self.draw(self.share(h), lam, perm, size, generator=generator)

    def share(self, h: Tensor) -> SharedProjections:
        """The part of the work that does not depend on weight and partner.

        Args:
            h: (B, C, h, w) features.

        Returns:
            What :meth:`draw` needs, with a graph to the mixer's parameters.

        Raises:
            ValueError: If ``h`` is no such map.
        """
        if h.ndim != 4 or h.shape[1] != self.channels:
            wanted = f"(B, {self.channels}, h, w)"
            raise ValueError(f"the mixer needs features {wanted}, got {tuple(h.shape)}")
        with torch.autocast(h.device.type, enabled=False):
            tokens = h.flatten(2).transpose(1, 2).to(self.query.weight.dtype)
            own, partner = self.project(tokens)
        return SharedProjections(own, partner, (h.shape[2], h.shape[3]))

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of query, key and value that are linear in the features (B, n, C)."""
        query, key = (part.weight.split(self.channels, dim=1) for part in (self.query, self.key))
        weight = torch.cat([query[0], key[0], query[1], key[1], self.value.weight])
        own, partner = F.linear(tokens, weight).split([2 * self.width, 3 * self.width], dim=2)
        return own, partner

    def draw(
        self,
        shared: SharedProjections,
        lam: Tensor,
        perm: Tensor,
        size: Sequence[int],
        *,
        partner: SharedProjections | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Masks for one weight and one choice of partners.

        Args:
            shared: What :meth:`share` gave.
            lam: (B,) or (1,) weight of the first image, in [0, 1].
            perm: (B,) index of each image's partner.
            size: Height H and width W of the image in pixels.
            partner: What :meth:`share` gave of the images that partners are taken from; the same
                ones if None.
            generator: Random source of dropout; torch's global one if None.

        Returns:
            (B, 1, H, W) weight of the first image in (0, 1).

        Raises:
            ValueError: If the feature map is larger than the image.
        """
        if shared.grid[0] > size[0] or shared.grid[1] > size[1]:
            raise ValueError(f"features {shared.grid} are larger than the image {tuple(size)}")
        own, other = shared.own, (partner or shared).partner
        with torch.autocast(own.device.type, enabled=False):
            lam = lam.to(own.device, own.dtype, non_blocking=True).reshape(-1, 1, 1)
            if self.rescale != NO_RESCALE:
                lam = rescale_lam(lam, self.rescale)
            query, key, value = self.attend(own, take(other, perm), lam)
            if self.training and self.dropout:
                kept = torch.rand(value.shape, generator=generator) >= self.dropout
                value = value * kept.to(value.device, non_blocking=True) / (1 - self.dropout)
            low = _attention(query, key, value).mT.unflatten(2, shared.grid)
            corners = {"align_corners": False} if self.upsampling == "bilinear" else {}
            high = F.interpolate(low, list(size), mode=self.upsampling, **corners)
            return (-high).sigmoid()  # of the first image; the sigmoid itself is the partner's

    def attend(self, own: Tensor, partner: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query and key (B, n, d) and value (B, n, 1) of pairs, for a weight (B or 1, 1, 1)."""
        first, second = 1 + lam, 2 - lam
        both = first * own + second * partner[..., : 2 * self.width]
        query, key = both.split(self.width, dim=2)
        hidden = second * partner[..., 2 * self.width :]
        normal = self.norm(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        return query + self.query.bias, key + self.key.bias, self.score(F.elu(normal))


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Values (B, n, 1) of each position, weighed by queries and keys (B, n, d)."""
    if query.device.type == "cpu":  # no kernel there takes so narrow values, and this is faster
        return (query * query.shape[2] ** -0.5 @ key.mT).softmax(dim=2) @ value
    heads = query[:, None], key[:, None], value[:, None].expand(-1, 1, -1, VALUE_WIDTH)
    return F.scaled_dot_product_attention(*heads)[:, 0, :, :1]


class AutoMixer(Mixer):
    """The mixer of AutoMix: one linear layer gives query and key, one the value.

    Args:
        channels: Channels C of the features.
        lam_concat: Append the weight as a channel: ``lam`` to the first image's features, the rest
            to the partner's. Without it the mask does not know the weight.
        dropout: Share of the values set to zero in training.
        upsampling: From feature map to image: ``bilinear`` or ``nearest``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        channels: int,
        *,
        lam_concat: bool = False,
        dropout: float = 0.0,
        upsampling: str = "nearest",
    ) -> None:
        self.lam_concat = lam_concat
        super().__init__(channels, dropout=dropout, upsampling=upsampling)

    def build(self) -> None:
        """Make the layers."""
        inputs = self.channels + self.lam_concat
        self.query = nn.Linear(inputs, self.width)
        self.value = nn.Linear(inputs, 1)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The query of either image of a pair, which is the partner's key, and the value."""
        weight = torch.cat([self.query.weight, self.value.weight])[:, : self.channels]
        bias = torch.cat([self.query.bias, self.value.bias])
        both = F.linear(tokens, weight, bias)
        return both[..., : self.width], both

    def attend(self, own: Tensor, partner: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query of the first image, key and value of the partner."""
        if self.lam_concat:
            column = torch.cat([self.query.weight, self.value.weight])[:, -1]
            own = own + lam * column[: self.width]
            partner = partner + (1 - lam) * column
        return own, partner[..., : self.width], partner[..., self.width :]
