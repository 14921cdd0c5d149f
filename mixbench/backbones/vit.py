"""Vision transformers with a class token and learned positions; weights bear timm's names.

ViT: Dosovitskiy et al., ICLR 2021, arXiv:2010.11929. DeiT: Touvron et al., ICML 2021,
arXiv:2012.12877, without the distillation token.
"""

import math
from collections.abc import Mapping
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixbench.backbones.attention import (
    AttentionNet,
    TransformerBlock,
    WeightPath,
    attention_map,
    attention_mean,
    drop_rates,
    init_transformer,
    resample,
)
from mixbench.backbones.base import Head
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import UserError

VIT_STAGES = 4


def check_patch(name: str, patch: int, height: int, width: int, halvings: int = 0) -> None:
    """Refuse images that cannot be cut into whole patches.

    Args:
        name: Name of the network, for the message.
        patch: Pixels along a side of a patch.
        height: Height of the images in pixels.
        width: Their width.
        halvings: How often the network halves the grid of patches.

    Raises:
        UserError: With both sizes, and the keys that change them.
    """
    unit = patch * 2**halvings
    if height % unit == 0 and width % unit == 0:
        return
    common = math.gcd(height, width)
    fitting = [str(n) for n in range(1, 33) if common % (n * 2**halvings) == 0]
    size = unit * -(-max(height, width) // unit)
    halved = f", halved {halvings} times" if halvings else ""
    use = f"use net.patch={' or '.join(fitting)}, or" if fitting else "use"
    raise UserError(
        f"images of {height}x{width} pixels are not a whole number of patches of {patch}x{patch} "
        f"pixels{halved}",
        f"net={name}, net.patch",
        f"{use} data.size={size}",
    )


class Attention(nn.Module):
    """Attention of all tokens to all tokens.

    Args:
        dim: Channels D.
        heads: Number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(
        self, h: Tensor, weight: Tensor | None, form: str, residual: float = 0.5
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Map tokens (B, T, D) to tokens, the weight (B, T) carried on, and the map if wanted."""
        batch, count, dim = h.shape
        qkv = self.qkv(h).reshape(batch, count, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        out = self.proj(out.transpose(1, 2).reshape(batch, count, dim))
        seen = attention_map(q, k, form) if form else None
        if weight is not None and residual != 1:
            weight = attention_mean(q, k, weight[:, None]).mean(1).lerp(weight, residual)
        return out, weight, seen


class ViTBlock(TransformerBlock):
    """Attention of all tokens and MLP.

    Args:
        dim: Channels D.
        heads: Number of heads.
        drop_path: Chance to drop each of the two branches.
    """

    def __init__(self, dim: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__(Attention(dim, heads), dim, drop_path, eps=1e-6)


class ViTEmbed(nn.Module):
    """Patches to tokens, a class token before them, and a position added to each.

    Args:
        channels: Channels of the image.
        dim: Channels D of a token.
        patch: Pixels along a side of a patch.
        size: Height and width of the images in pixels.
    """

    def __init__(self, channels: int, dim: int, patch: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        count = (size[0] // patch) * (size[1] // patch)
        self.proj = nn.Conv2d(channels, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=1e-6))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + count, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to tokens (B, 1 + N, D)."""
        if x.shape[2:] != self.size:
            raise ValueError(f"built for images of {self.size} pixels, got {tuple(x.shape[2:])}")
        h = self.proj(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(h.shape[0], -1, -1), h], dim=1) + self.pos_embed

    def spread(self, weight: Tensor) -> Tensor:
        """Shares on the grid (B, rows, columns) to shares of tokens; the class token has all."""
        weight = weight.flatten(1)
        return torch.cat([weight.mean(1, keepdim=True), weight], dim=1)


class Stage(nn.Module):
    """Some blocks, and what stands before them.

    Args:
        blocks: The blocks.
        embed: In the first stage, what makes tokens.
    """

    def __init__(self, blocks: list[ViTBlock], embed: ViTEmbed | None = None) -> None:
        super().__init__()
        self.embed, self.blocks = embed, nn.ModuleList(blocks)

    def forward(
        self,
        h: Tensor,
        weight: Tensor | None = None,
        forms: tuple[str, ...] | None = None,
        carry: WeightPath | None = None,
    ) -> Tensor | tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Map features to features; with ``forms``, also the weight and the maps."""
        if self.embed is not None:
            h = self.embed(h)
            weight = None if weight is None else self.embed.spread(weight)
        maps, count = [], len(self.blocks)
        carry = carry or WeightPath((0.5,) * count)
        for block, form, residual in zip(
            self.blocks, forms or [""] * count, carry.residual, strict=True
        ):
            h, weight, seen = block(h, weight, form, residual, carry.respect_drop)
            maps.append(seen)
        return h if forms is None else (h, weight, maps)


class ClassToken(nn.Module):
    """The first token of (B, T, D), as (B, D)."""

    def forward(self, h: Tensor) -> Tensor:
        """Map tokens (B, T, D) to (B, D)."""
        return h[:, 0]


class VisionTransformer(AttentionNet):
    """ViT in four stages: the embedding and a quarter of the blocks, then a quarter each.

    Layers 1 to 4 are all tokens (B, 1 + N, D), which can be mixed as they are; they are no maps.

    Args:
        dim: Channels D.
        depth: Number of blocks; fewer than 4 make as many stages.
        heads: Number of heads.
        patch: Pixels along a side of a patch; must divide the image.
        size: Height and width of the images in pixels.
        num_classes: Number of classes K.
        channels: Channels of the image.
        drop_path: Chance of the last block to drop a branch.
    """

    prefix = 1
    no_decay = frozenset({"cls_token", "pos_embed"})

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        size: tuple[int, int],
        num_classes: int,
        channels: int = 3,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch, self.size = patch, size
        blocks = [ViTBlock(dim, heads, rate) for rate in drop_rates(drop_path, depth)]
        cuts = [depth * index // VIT_STAGES for index in range(VIT_STAGES + 1)]
        parts = [blocks[first:last] for first, last in pairwise(cuts) if first < last]
        embed = ViTEmbed(channels, dim, patch, size)
        self.stages = nn.ModuleList(
            Stage(part, None if n else embed) for n, part in enumerate(parts)
        )
        self.head = Head(dim, num_classes)
        self.head.norm, self.head.pool = nn.LayerNorm(dim, eps=1e-6), ClassToken()
        self.channels = (channels, *[dim] * len(parts))
        self.stage_layers = tuple(len(part) for part in parts)
        self.renames = (
            ("stages.0.embed.proj.", "patch_embed.proj."),
            ("stages.0.embed.", ""),
            *(
                (f"stages.{stage}.blocks.{index}.", f"blocks.{first + index}.")
                for stage, first in enumerate(accumulate((0, *self.stage_layers[:-1])))
                for index in range(self.stage_layers[stage])
            ),
            ("head.fc.", "head."),
            ("head.", ""),
        )
        init_transformer(self)

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Positions of another grid are interpolated; that of the class token stays."""
        key = "stages.0.embed.pos_embed"
        positions = state.get(key)
        grid = (self.size[0] // self.patch, self.size[1] // self.patch)
        if positions is None or positions.shape[1] == self.prefix + grid[0] * grid[1]:
            return dict(state)
        first, places = positions[:, : self.prefix], positions[0, self.prefix :]
        return {**state, key: torch.cat([first, resample(places, grid)[None]], dim=1)}


def vit_tiny(config: NetConfig, info: DataInfo) -> VisionTransformer:
    """ViT-Ti/16, 5.7 M parameters at 224 pixels and 1000 classes.

    The network of :func:`deit_tiny`, as in timm, where the two differ in their pretrained weights
    and in the pixel normalisation of these, and in nothing else.

    Args:
        config: Reads ``patch`` (16 by default) and ``drop_path``.
        info: Reads ``num_classes``, ``channels``, ``height`` and ``width``.

    Returns:
        The network with timm's initialisation.

    Raises:
        UserError: If the patch does not divide the images.
    """
    return _build(192, 3, config, info)


def deit_tiny(config: NetConfig, info: DataInfo) -> VisionTransformer:
    """DeiT-Ti, 5.7 M parameters at 224 pixels and 1000 classes; see :func:`vit_tiny`.

    Args:
        config: Reads ``patch`` (16 by default) and ``drop_path``.
        info: Reads ``num_classes``, ``channels``, ``height`` and ``width``.

    Returns:
        The network with timm's initialisation.

    Raises:
        UserError: If the patch does not divide the images.
    """
    return _build(192, 3, config, info)


def deit_small(config: NetConfig, info: DataInfo) -> VisionTransformer:
    """DeiT-S, 22.1 M parameters at 224 pixels and 1000 classes.

    Args:
        config: Reads ``patch`` (16 by default) and ``drop_path``.
        info: Reads ``num_classes``, ``channels``, ``height`` and ``width``.

    Returns:
        The network with timm's initialisation.

    Raises:
        UserError: If the patch does not divide the images.
    """
    return _build(384, 6, config, info)


def _build(dim: int, heads: int, config: NetConfig, info: DataInfo) -> VisionTransformer:
    patch = config.patch or 16
    check_patch(config.name, patch, info.height, info.width)
    return VisionTransformer(
        dim,
        12,
        heads,
        patch,
        (info.height, info.width),
        info.num_classes,
        info.channels,
        config.drop_path,
    )
