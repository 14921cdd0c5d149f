"""Swin transformer: attention inside of windows that shift; weights bear timm's names.

Liu et al., ICCV 2021, arXiv:2103.14030.
"""

from collections.abc import Mapping

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
from mixbench.backbones.vit import check_patch
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import UserError
from mixbench.functional.token_labels import join_windows as join
from mixbench.functional.token_labels import merge_weights
from mixbench.functional.token_labels import split_windows as split

LARGEST_WINDOW = 7
NO_ATTENTION = (
    -100.0
)  # score between tokens that only the shift made neighbours, as the authors have it


class WindowAttention(nn.Module):
    """Attention inside of windows, with a learned bias for every offset between two places.

    Args:
        dim: Channels C.
        heads: Number of heads.
        grid: Height and width of the grid of tokens.
        window: Height and width of a window.
        shift: Rows and columns by which the grid is rolled before it is cut.
    """

    offsets: Tensor
    apart: Tensor | None

    def __init__(
        self,
        dim: int,
        heads: int,
        grid: tuple[int, int],
        window: tuple[int, int],
        shift: tuple[int, int],
    ) -> None:
        super().__init__()
        self.heads, self.grid, self.window, self.shift = heads, grid, window, shift
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        height, width = window
        table = torch.empty((2 * height - 1) * (2 * width - 1), heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        row, column = (
            n.flatten() for n in torch.meshgrid(*map(torch.arange, window), indexing="ij")
        )
        down, right = row[:, None] - row + height - 1, column[:, None] - column + width - 1
        self.register_buffer("offsets", down * (2 * width - 1) + right, persistent=False)
        self.register_buffer("apart", self._apart(), persistent=False)

    def _apart(self) -> Tensor | None:
        """(windows, n, n) scores that keep parts of the rolled grid apart."""
        if not any(self.shift):
            return None
        parts = []
        for size, window, shift in zip(self.grid, self.window, self.shift, strict=True):
            place = torch.arange(size)
            parts.append((place >= size - window).long() + (place >= size - shift).long())
        label = split((3 * parts[0][:, None] + parts[1])[None], self.window)[0]
        return NO_ATTENTION * (label[:, :, None] != label[:, None]).float()

    def _roll(self, h: Tensor, back: bool = False) -> Tensor:
        if not any(self.shift):
            return h
        rows, columns = self.shift
        return h.roll((rows, columns) if back else (-rows, -columns), (1, 2))

    def _cut(self, h: Tensor) -> Tensor:
        return split(self._roll(h), self.window)

    def _paste(self, windows: Tensor) -> Tensor:
        return self._roll(join(windows, self.window, self.grid), back=True)

    def forward(
        self, h: Tensor, weight: Tensor | None, form: str, residual: float = 0.5
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Map a grid (B, H, W, C) to a grid, the weight (B, H, W) carried on, and the map."""
        windows = self._cut(h)
        batch, count, n, dim = windows.shape
        qkv = self.qkv(windows).reshape(batch, count, n, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
        table = self.relative_position_bias_table[self.offsets.flatten()]
        bias = table.view(n, n, self.heads).permute(2, 0, 1)[None]
        # Four dimensions, or attention is not fused: a bias of its own for every window goes with
        # the heads, a common one leaves the windows in the batch.
        fold = (0, 1)
        if self.apart is not None:
            bias = bias + self.apart[:, None]
            fold = (1, 2)
        folded, bias4 = [t.flatten(*fold) for t in (q, k, v)], bias.flatten(0, 1)[None]
        out = F.scaled_dot_product_attention(*folded, attn_mask=bias4.to(q.dtype))
        out = out.reshape(q.shape).transpose(2, 3).flatten(3)
        out = self._paste(self.proj(out))
        seen = None
        if form:
            seen = attention_map(q, k, form, bias)
            seen = self._paste(seen).flatten(1) if form == "received" else seen
        if weight is not None and residual != 1:
            w = self._cut(weight)
            per_head = w[:, :, None].expand(-1, -1, self.heads, -1).flatten(*fold)
            moved = attention_mean(folded[0], folded[1], per_head, bias4).reshape(q.shape[:-1])
            weight = self._paste(moved.mean(2).lerp(w, residual))
        return out, weight, seen


class SwinPatchEmbed(nn.Module):
    """Patches to normalised tokens.

    Args:
        channels: Channels of the image.
        dim: Channels C of a token.
        patch: Pixels along a side of a patch.
        size: Height and width of the images in pixels.
    """

    def __init__(self, channels: int, dim: int, patch: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.proj, self.norm = nn.Conv2d(channels, dim, patch, patch), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, channels, H, W) to a grid of tokens (B, H / patch, W / patch, C)."""
        if x.shape[2:] != self.size:
            raise ValueError(f"built for images of {self.size} pixels, got {tuple(x.shape[2:])}")
        return self.norm(self.proj(x).permute(0, 2, 3, 1))

    def spread(self, weight: Tensor) -> Tensor:
        """Shares on the grid are shares of tokens."""
        return weight


class PatchMerging(nn.Module):
    """Four neighbours to one token of twice the channels.

    Args:
        dim: Channels in.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """Map layer (B, C, H, W) to a grid (B, H / 2, W / 2, 2 C)."""
        h = h.permute(0, 2, 3, 1)
        four = [h[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(four, dim=-1)))

    def spread(self, weight: Tensor) -> Tensor:
        """Shares of tokens (B, H, W) to those of merged ones: the mean of the four."""
        return merge_weights(weight)


class SwinStage(nn.Module):
    """Some blocks, and what makes their tokens.

    Args:
        entry: Embedding of patches, or merging of tokens.
        blocks: The blocks.
    """

    def __init__(
        self, entry: SwinPatchEmbed | PatchMerging, blocks: list[TransformerBlock]
    ) -> None:
        super().__init__()
        self.entry, self.blocks = entry, nn.ModuleList(blocks)

    def forward(
        self,
        h: Tensor,
        weight: Tensor | None = None,
        forms: tuple[str, ...] | None = None,
        carry: WeightPath | None = None,
    ) -> Tensor | tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Map layers (B, C, H, W) to layers; with ``forms``, also the weight and the maps."""
        h = self.entry(h)
        weight = None if weight is None else self.entry.spread(weight)
        maps, count = [], len(self.blocks)
        carry = carry or WeightPath((0.5,) * count)
        for block, form, residual in zip(
            self.blocks, forms or [""] * count, carry.residual, strict=True
        ):
            h, weight, seen = block(h, weight, form, residual, carry.respect_drop)
            maps.append(seen)
        h = h.permute(0, 3, 1, 2)  # a view, of channels_last layout
        return h if forms is None else (h, weight, maps)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each place of a map (B, C, H, W)."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Swin(AttentionNet):
    """Swin transformer in four stages; every layer is a map (B, C, H, W).

    Args:
        dim: Channels of the first stage.
        depths: Blocks of each stage.
        heads: Heads of each stage.
        patch: Pixels along a side of a patch.
        window: Patches along a side of a window.
        size: Height and width of the images in pixels.
        num_classes: Number of classes K.
        channels: Channels of the image.
        drop_path: Chance of the last block to drop a branch.
    """

    provides = frozenset({"stages", "maps", "attention", "tokens"})
    prefix = 0
    no_decay = frozenset({"relative_position_bias_table"})

    def __init__(
        self,
        dim: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        patch: int,
        window: int,
        size: tuple[int, int],
        num_classes: int,
        channels: int = 3,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch, self.size = patch, size
        rates = iter(drop_rates(drop_path, sum(depths)))
        stages: list[nn.Module] = []
        for index, depth in enumerate(depths):
            width = dim * 2**index
            rows, columns = (n // patch // 2**index for n in size)
            # A grid that fits into one window is one window, and is not shifted.
            fitted = (min(rows, window), min(columns, window))
            half = (
                fitted[0] // 2 if fitted[0] < rows else 0,
                fitted[1] // 2 if fitted[1] < columns else 0,
            )
            blocks = []
            for number in range(depth):
                shift = half if number % 2 else (0, 0)
                attn = WindowAttention(width, heads[index], (rows, columns), fitted, shift)
                blocks.append(TransformerBlock(attn, width, next(rates)))
            first = SwinPatchEmbed(channels, width, patch, size)
            stages.append(SwinStage(PatchMerging(width // 2) if index else first, blocks))
        self.stages = nn.ModuleList(stages)
        self.channels = (channels, *(dim * 2**index for index in range(len(depths))))
        self.head = Head(self.channels[-1], num_classes)
        self.head.norm = ChannelNorm(self.channels[-1])
        self.stage_layers = depths
        self.renames = (
            ("stages.0.entry.", "patch_embed."),
            *((f"stages.{n}.entry.", f"layers.{n}.downsample.") for n in range(1, len(depths))),
            *((f"stages.{n}.", f"layers.{n}.") for n in range(len(depths))),
            ("head.norm.", "norm."),
        )
        init_transformer(self)

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bias tables of other windows are interpolated."""
        found = dict(state)
        for name, module in self.named_modules():
            key = f"{name}.relative_position_bias_table"
            if isinstance(module, WindowAttention) and key in found:
                size = (2 * module.window[0] - 1, 2 * module.window[1] - 1)
                if found[key].shape[0] != size[0] * size[1]:
                    found[key] = resample(found[key], size)
        return found


def swin_tiny(config: NetConfig, info: DataInfo) -> Swin:
    """Swin-T, 28.3 M parameters at 1000 classes.

    Args:
        config: Reads ``patch`` (4 by default), ``window`` (by default the largest of at most 7
            that divides the grid of every stage, 7 at 224 pixels) and ``drop_path``.
        info: Reads ``num_classes``, ``channels``, ``height`` and ``width``.

    Returns:
        The network with timm's initialisation.

    Raises:
        UserError: If the patch does not divide the images into a grid that can be halved three
            times, or the window does not divide a grid.
    """
    patch, size = config.patch or 4, (info.height, info.width)
    check_patch(config.name, patch, *size, halvings=3)
    grids = [n // patch // 2**stage for n in size for stage in range(4)]
    fitting = [w for w in range(1, max(grids) + 1) if all(g <= w or g % w == 0 for g in grids)]
    window = config.window or max(w for w in fitting if w <= LARGEST_WINDOW)
    if window not in fitting and window < max(grids):
        raise UserError(
            f"windows of {window}x{window} patches do not divide the grids of images of "
            f"{size[0]}x{size[1]} pixels",
            f"net={config.name}, net.window",
            f"use net.window={' or '.join(map(str, fitting))}, or another data.size",
        )
    return Swin(
        96,
        (2, 2, 6, 2),
        (3, 6, 12, 24),
        patch,
        window,
        size,
        info.num_classes,
        info.channels,
        config.drop_path,
    )
