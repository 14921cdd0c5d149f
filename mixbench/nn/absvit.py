"""AbSViT: a vision transformer that looks twice, the second time for what it is told to look for.

Shi, Darrell, Wang, "Top-Down Visual Attention from Analysis by Synthesis", CVPR 2023,
arXiv:2303.13043; official code bfshi/AbSViT. Weights bear the names of the published files.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixbench.backbones.attention import Mlp, init_transformer

HEAD_DIM = 64  # channels of an attention head in the published networks
HIGH, LOW = 0.7, 0.3  # shares of a map's maximum and minimum that make its threshold


class AbSViTOutput(NamedTuple):
    """Results of two passes; N counts patches, row by row.

    ``first`` and ``second`` (B, 1 + N) are the similarities of all tokens to what is looked for,
    before and after, in [0, 1]; ``signal`` (B, 1 + N, D) is what the last block was told,
    ``tokens`` (B, 1 + N, D) are those of the second pass, and ``maps`` (B, R, C) is what stands
    out of the second similarity.
    """

    first: Tensor
    second: Tensor
    signal: Tensor
    tokens: Tensor
    maps: Tensor


class GuidedAttention(nn.Module):
    """Attention of all tokens to all tokens whose values take in a signal.

    Args:
        dim: Channels D.
        heads: Number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, h: Tensor, signal: Tensor | None = None) -> Tensor:
        """Map tokens (B, T, D), and a signal of the same shape, to tokens."""
        q, k, v = self.qkv(h).chunk(3, dim=2)
        if signal is not None:
            # With its bias, which the authors so add a second time; queries and keys are not used.
            dim = h.shape[2]
            v = v + F.linear(signal, self.qkv.weight[2 * dim :], self.qkv.bias[2 * dim :])
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class GuidedBlock(nn.Module):
    """Attention and MLP, each behind its normalisation and with a shortcut around it.

    Args:
        dim: Channels D.
        heads: Number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = GuidedAttention(dim, heads), Mlp(dim, 4 * dim)

    def forward(self, h: Tensor, signal: Tensor | None = None) -> Tensor:
        """Map tokens (B, T, D), and a signal for the attention, to tokens."""
        h = h + self.attn(self.norm1(h), signal)
        return h + self.mlp(self.norm2(h))


class FeedbackLayer(nn.Module):
    """The way back through a block: what goes on to the block before it, and its own signal.

    Args:
        dim: Channels D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear, self.linear2 = (nn.Linear(dim, dim, bias=False) for _ in range(2))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to both, of the same shape."""
        z = self.linear(z)
        return z, self.linear2(z)


class PatchEmbed(nn.Module):
    """Patches to tokens.

    Args:
        channels: Channels of the image.
        dim: Channels D.
        patch: Pixels along a side of a patch.
    """

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to tokens (B, N, D)."""
        return self.proj(x).flatten(2).transpose(1, 2)


class AbSViT(nn.Module):
    """A transformer with a class token that can be told what to look for.

    Args:
        dim: Channels D of a token.
        depth: Number of blocks.
        heads: Heads of each.
        patch: Pixels along a side of a patch.
        grid: Patches along a side of the square image.
        num_classes: Rows of its classifier.
        channels: Channels of the image.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        grid: int,
        num_classes: int,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.grid, self.size = grid, grid * patch
        self.patch_embed = PatchEmbed(channels, dim, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=1e-6))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid**2, dim))
        self.prompt = nn.Parameter(torch.randn(dim))
        self.blocks = nn.ModuleList(GuidedBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoders = nn.ModuleList(FeedbackLayer(dim) for _ in range(depth))
        self.head = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        init_transformer(self)

    def encode(self, x: Tensor, signals: list[Tensor] | None = None) -> Tensor:
        """Pass images through all blocks.

        Args:
            x: (B, C, S, S) normalised images of the network's own size.
            signals: What each block's attention takes in, (B, 1 + N, D).

        Returns:
            (B, 1 + N, D) normalised tokens, that of the class first.
        """
        h = self.patch_embed(x)
        h = torch.cat([self.cls_token.expand(len(h), -1, -1), h], dim=1) + self.pos_embed
        for index, block in enumerate(self.blocks):
            h = block(h, None if signals is None else signals[index])
        return self.norm(h)

    def feedback(self, z: Tensor, sigma: float) -> list[Tensor]:
        """Go back from the last block to the first.

        Args:
            z: (B, 1 + N, D) what was found of what is looked for.
            sigma: Weight of the way back against the way there.

        Returns:
            Signal of each block, the first one's in front.
        """
        signals = []
        for decoder in reversed(self.decoders):
            z, signal = decoder(z)
            signals.append(sigma * signal)
        return signals[::-1]

    def forward(self, x: Tensor, wanted: Tensor, sigma: float = 1.0) -> AbSViTOutput:
        """Look for something.

        Args:
            x: (B, C, S, S) normalised images of the network's own size.
            wanted: (B, D) or (1, D) what to look for, in the space of the classifier's rows.
            sigma: Weight of the way back; with 0 the second pass is still not the first one, as
                the bias of the values is added twice.

        Returns:
            What was found, in float32.
        """
        with torch.autocast(x.device.type, enabled=False):
            x, wanted = x.float(), wanted.float()
            found = self.encode(x)
            first = similarity(found, wanted)
            signals = self.feedback(found * first[..., None], sigma)
            tokens = self.encode(x, signals)
            second = similarity(tokens, wanted)
            maps = above_threshold(second[:, 1:]).unflatten(1, (self.grid, self.grid))
        return AbSViTOutput(first, second, signals[-1], tokens, maps)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], heads: int | None = None) -> "AbSViT":
        """Build the network that weights belong to.

        Args:
            state: Weights under the published names.
            heads: Heads of each block; one per 64 channels if None.

        Returns:
            The network with these weights.

        Raises:
            KeyError: If a name is missing that tells its size.
            RuntimeError: If names or shapes do not fit a network of that size.
        """
        dim, channels, patch, _ = state["patch_embed.proj.weight"].shape
        places = state["pos_embed"].shape[1] - 1
        depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        with torch.device("meta"):
            net = cls(
                dim,
                depth,
                heads or max(1, dim // HEAD_DIM),
                patch,
                round(places**0.5),
                len(state["head.weight"]),
                channels,
            )
        net.load_state_dict(dict(state), assign=True)
        return net


def similarity(tokens: Tensor, wanted: Tensor) -> Tensor:
    """Cosine of tokens and what is looked for, negative ones as 0.

    Args:
        tokens: (B, T, D).
        wanted: (B, D) or (1, D).

    Returns:
        (B, T) in [0, 1], float32.
    """
    tokens, wanted = F.normalize(tokens.float(), dim=2), F.normalize(wanted.float(), dim=1)
    return (tokens * wanted[:, None]).sum(2).clamp(0, 1)


def above_threshold(values: Tensor) -> Tensor:
    """Height of each value above 0.7 of the maximum and 0.3 of the minimum of its row, mostly 0.

    Args:
        values: (B, N).

    Returns:
        (B, N), not negative.
    """
    low, high = values.aminmax(dim=1, keepdim=True)
    return (values - (HIGH * high + LOW * low)).clamp(min=0)
