"""Networks of attention: what can be recorded of a forward pass without changing it.

Fused attention always makes the output. A map, or a weight that is carried along, is computed
beside it from the same queries and keys, without gradient and in float32, so that the output is
equal to the last bit whether something is recorded or not.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixbench.backbones.base import StagedNet

FORMS = ("class", "received", "mean")


class WeightPath(NamedTuple):
    """The way of a weight through the attention layers of a stage.

    ``residual`` says for each layer which share stays; 1 leaves the weight as it is and costs
    nothing. With ``respect_drop`` it also stays in images whose attention is dropped.
    """

    residual: tuple[float, ...]
    respect_drop: bool = False


@dataclass
class Capture:
    """Attention to record in one forward pass, and the recorded one; a new object for each pass.

    Everything recorded is the mean over the heads, float32 and without gradient. T counts all
    tokens, the class token first; where attention stays inside of windows, the tokens of the grid
    row by row.

    Attributes:
        wanted: Form by attention layer, counted from 0 or negative from the end. ``class``: (B, T),
            how much the class token attends to each token. ``received``: (B, T), the mean over all
            tokens of the same. ``mean``: (B, T, T), or (B, windows, n, n) inside of windows of n
            tokens, windows row by row; the rows are those that attend.
        weight: Share of the partner image in each token, carried through all attention layers by
            the rule of TL-Align: half stays, half moves with the attention. Given as (B, rows,
            columns) on the grid of patches if the pass starts at the image, else as a pass left it;
            returned as (B, T), or (B, rows, columns) where the tokens form a grid.
        residual: The share that stays, in [0, 1].
        last: Carry it through the last so many attention layers only; None for all.
        respect_drop: Leave it as it is in images whose attention is dropped.
        attention: Recorded maps by the keys of ``wanted``.
    """

    wanted: dict[int, str] = field(default_factory=dict)
    weight: Tensor | None = None
    residual: float = 0.5
    last: int | None = None
    respect_drop: bool = False
    attention: dict[int, Tensor] = field(default_factory=dict)


class AttentionNet(StagedNet):
    """A network whose stages can record their attention.

    A stage maps ``h`` to ``h``, and ``(h, weight, forms, carry)``, with a form or an empty word for
    each of its attention layers, to ``(h, weight, maps)``.

    Attributes:
        stage_layers: Attention layers of each stage.
        prefix: Tokens in front of the patches: 1 with a class token.
        patch: Pixels along a side of a patch.
        size: Height and width in pixels of the images it is built for.
    """

    provides = frozenset({"stages", "attention", "tokens"})
    stage_layers: tuple[int, ...]
    prefix: int
    patch: int
    size: tuple[int, int]

    @property
    def attention_layers(self) -> int:
        """Number of attention layers."""
        return sum(self.stage_layers)

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of images ``x`` (B, C, H, W)."""
        return x.shape[2] // self.patch, x.shape[3] // self.patch

    def tokens(self, h: Tensor) -> Tensor:
        """Patches of features ``h`` as (B, N, D), those of a grid row by row."""
        return h.flatten(2).transpose(1, 2) if h.ndim == 4 else h[:, self.prefix :]

    def forward_stages(
        self, h: Tensor, start: int = 0, stop: int | None = None, capture: Capture | None = None
    ) -> Tensor:
        """Run the stages from layer ``start`` to layer ``stop``.

        Args:
            h: Features of layer ``start``; the normalised image (B, C, H, W) for 0.
            start: Layer of ``h``. Negative counts from the end.
            stop: Layer to return; None for the last one. Negative counts from the end.
            capture: What to record; its ``attention`` and ``weight`` are set.

        Returns:
            Features of layer ``stop``, equal whether something is recorded or not.

        Raises:
            ValueError: If the layers are not in order, or what is wanted cannot be recorded.
        """
        if capture is None:
            return super().forward_stages(h, start, stop)
        start, stop = self.span(start, stop)
        before = sum(self.stage_layers[:start])
        forms = self._forms(capture, before, sum(self.stage_layers[:stop]))
        weight = capture.weight
        if weight is not None:
            weight = weight.detach().float()
            if start == 0 and weight.shape != (h.shape[0], *self.grid(h)):
                wanted = (h.shape[0], *self.grid(h))
                raise ValueError(f"weight must be {wanted}, got {tuple(weight.shape)}")
        total = self.attention_layers
        keys = {layer % total: layer for layer in capture.wanted}
        moving = total if capture.last is None else min(capture.last, total)
        residual = (1.0,) * (total - moving) + (capture.residual,) * moving
        for index in range(start, stop):
            after = before + self.stage_layers[index]
            carry = WeightPath(residual[before:after], capture.respect_drop)
            h, weight, maps = self.stages[index](h, weight, tuple(forms[before:after]), carry)
            for layer in range(before, after):
                if forms[layer]:
                    capture.attention[keys[layer]] = maps[layer - before]
            before = after
        capture.weight = weight
        return h

    def _forms(self, capture: Capture, first: int, last: int) -> list[str]:
        """The form wanted of each attention layer, empty for most."""
        total = self.attention_layers
        forms = [""] * total
        for layer, form in capture.wanted.items():
            place = layer + total if layer < 0 else layer
            if not first <= place < last:
                raise ValueError(
                    f"attention layer {layer} is not among those of this pass, {first} to "
                    f"{last - 1} of {total}"
                )
            if form not in FORMS or (form == "class" and not self.prefix):
                usable = FORMS if self.prefix else FORMS[1:]
                raise ValueError(
                    f"attention of {type(self).__name__} can be recorded as "
                    f"{', '.join(usable)}, got {form!r}"
                )
            if forms[place]:
                raise ValueError(f"attention layer {layer} is wanted twice")
            forms[place] = form
        return forms


@torch.no_grad()
def attention_map(q: Tensor, k: Tensor, form: str, bias: Tensor | None = None) -> Tensor:
    """Attention as the mean over the heads.

    Args:
        q: (..., heads, T, d) queries.
        k: (..., heads, T, d) keys.
        form: As in :class:`Capture`.
        bias: Added to the scores, of a shape that broadcasts to (..., heads, T, T).

    Returns:
        (..., T), or (..., T, T) for ``mean``, float32.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k = q.detach().float(), k.detach().float()
        rows = q[..., :1, :] if form == "class" else q
        scores = rows * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias.detach().float()
        attention = scores.softmax(-1).mean(-3)
        return attention if form == "mean" else attention.mean(-2)


@torch.no_grad()
def attention_mean(q: Tensor, k: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The mean of a weight on all tokens under the attention of each token.

    Args:
        q: (B, heads, T, d) queries.
        k: (B, heads, T, d) keys.
        weight: (B, 1 or heads, T) float32.
        bias: Added to the scores, of a shape that broadcasts to (B, heads, T, T).

    Returns:
        (B, heads, T) attention-weighted mean of ``weight``, float32.
    """
    with torch.autocast(q.device.type, enabled=False):
        # A second call of fused attention; with a value as wide as the keys it stays fused.
        value = weight[..., None].expand(q.shape).contiguous()
        mask = None if bias is None else bias.detach().float()
        q, k = q.detach().float(), k.detach().float()
        return F.scaled_dot_product_attention(q, k, value, attn_mask=mask)[..., 0]


class Mlp(nn.Module):
    """Two linear layers with a GELU between them.

    Args:
        dim: Channels in and out.
        hidden: Channels between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, h: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        return self.fc2(F.gelu(self.fc1(h)))


class DropPath(nn.Module):
    """Drop a residual branch of whole images in training, and scale up the others.

    Huang et al., ECCV 2016, arXiv:1603.09382.

    Args:
        prob: Chance to drop.
    """

    def __init__(self, prob: float) -> None:
        super().__init__()
        self.prob = prob

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, ...) to the same shape."""
        kept = self.draw(h)
        return h if kept is None else self.keep(h, kept)

    def draw(self, h: Tensor) -> Tensor | None:
        """Draw whose branch stays, as (B, 1, ...) bool; None where nothing can be dropped."""
        if not self.training or self.prob == 0:
            return None
        return torch.rand(h.shape[0], *[1] * (h.ndim - 1), device=h.device) >= self.prob

    def keep(self, h: Tensor, kept: Tensor) -> Tensor:
        """Drop the branches (B, ...) that do not stay, and scale up the others."""
        return h * (kept.to(h.dtype) / (1 - self.prob))


class TransformerBlock(nn.Module):
    """Attention and MLP, each behind its normalisation and with a shortcut around it.

    Args:
        attn: Maps ``(h, weight, form, residual)`` to ``(h, weight, map)``.
        dim: Channels D.
        drop_path: Chance to drop each of the two branches.
        eps: Of the normalisations.
    """

    def __init__(self, attn: nn.Module, dim: int, drop_path: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.attn, self.mlp = attn, Mlp(dim, 4 * dim)
        self.drop = DropPath(drop_path)

    def forward(
        self,
        h: Tensor,
        weight: Tensor | None = None,
        form: str = "",
        residual: float = 0.5,
        respect_drop: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Map tokens (B, ..., D), and the weight (B, ...), to the same, and the map if wanted."""
        branch, carried, seen = self.attn(self.norm1(h), weight, form, residual)
        kept = self.drop.draw(branch)
        if kept is not None:
            branch = self.drop.keep(branch, kept)
            if respect_drop and carried is not None and weight is not None:
                carried = torch.where(kept.squeeze(-1), carried, weight)
        h = h + branch
        return h + self.drop(self.mlp(self.norm2(h))), carried, seen


def drop_rates(last: float, count: int) -> list[float]:
    """Chance of each block to drop its branches, rising evenly from 0.

    Args:
        last: Chance of the last block.
        count: Number of blocks.

    Returns:
        One chance per block.
    """
    return [last * index / max(1, count - 1) for index in range(count)]


def init_transformer(net: nn.Module) -> None:
    """Draw linear layers from a normal distribution of deviation 0.02 cut at 2, biases 0.

    Args:
        net: A network; other layers stay as they are.
    """
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def resample(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate what is learned for each place of a square grid; bicubic, as timm does.

    Args:
        grid: (N, D) values, row by row, N being a square.
        size: Rows and columns wanted.

    Returns:
        (rows x columns, D) values; the same if N is no square.
    """
    side = math.isqrt(grid.shape[0])
    if side**2 != grid.shape[0]:
        return grid
    square = grid.float().T.unflatten(1, (side, side))[None]
    found = F.interpolate(square, size, mode="bicubic", antialias=True, align_corners=False)
    return found[0].flatten(1).T.to(grid.dtype)
