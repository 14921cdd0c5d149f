"""Labels for each token of a transformer, and the label weights that its attention gives.

TL-Align: Xiao et al., ICCV 2023, arXiv:2210.06455; official code Euphoria16/TL-Align.
TransMix: Chen et al., CVPR 2022, arXiv:2111.09833; official code Beckschen/TransMix.

Where two images share a token, its label is ``(1 - w)`` of the one and ``w`` of the other, and
whatever mixes tokens linearly mixes ``w``. One number per token therefore does the work of a label
per token, exactly, at 1/K of the memory.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.cutmix import cutmix, cutmix_box
from mixbench.functional.draws import draw_lam
from mixbench.functional.mixed import Mixed, check_lam


def token_cutmix(
    x: Tensor,
    targets: Tensor,
    *,
    patch: int,
    alpha: float = 1.0,
    per_sample: bool = False,
    partner: str = "flip",
    box_rule: str = "official",
    lam: Tensor | None = None,
    center: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """CutMix whose boxes consist of whole patches. Decisions that are not given are drawn.

    Args:
        x: (B, C, H, W) images of any type.
        targets: (B, K) soft or multi-hot labels.
        patch: Pixels along a side of a patch; it divides H and W.
        alpha: Beta(alpha, alpha) of the kept share; unused when ``lam`` is given.
        per_sample: Draw one box per image; the official code draws one per batch.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        box_rule: How a side becomes patches, see :func:`cutmix_box`. ``official`` makes all sides
            even, so that a small box is empty and the image stays; ``timm`` keeps the odd patch.
        lam: (B,) or (1,) share to keep before clipping, in [0, 1].
        center: (B, 2) or (1, 2) box centre as fractions of the image, in [0, 1).
        perm: (B,) index of each image's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch as :func:`cutmix` returns it; ``aux`` is the (B, 4) or (1, 4) box in pixels.

    Raises:
        ValueError: If the patch does not divide the image, or as :func:`cutmix` does.

    Example:
        >>> x, targets = torch.zeros(2, 1, 8, 8), torch.eye(2)
        >>> half, middle = torch.tensor([0.5]), torch.tensor([[0.5, 0.5]])
        >>> mixed = token_cutmix(x, targets, patch=2, lam=half, center=middle)
        >>> mixed.aux, mixed.lam
        (tensor([[2, 2, 6, 6]]), tensor([0.7500, 0.7500]))
    """
    if x.ndim != 4 or patch < 1 or x.shape[2] % patch or x.shape[3] % patch:
        raise ValueError(
            f"x {tuple(x.shape)} must be images (B, C, H, W) of whole patches of {patch}x{patch} "
            "pixels; resize them, or choose a patch that divides both sides"
        )
    if not alpha > 0:
        raise ValueError(f"token_cutmix: alpha must be > 0, got {alpha}")
    count = x.shape[0] if per_sample else 1
    if lam is None:
        lam = draw_lam(count, alpha, generator)
    check_lam(lam, x.shape[0])
    if center is None:
        device = generator.device if generator is not None else None
        center = torch.rand(count, 2, generator=generator, device=device)
    rows, columns = x.shape[2] // patch, x.shape[3] // patch
    box = patch * cutmix_box(lam.reshape(-1), center, rows, columns, rule=box_rule)
    return cutmix(x, targets, box=box, perm=perm, partner=partner, generator=generator)


def pasted_tokens(box: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Tokens that count as pasted: those whose sampled pixel lies in the box.

    One pixel is looked at for each token, as nearest-neighbour interpolation does; for boxes of
    whole patches nothing is lost.

    Args:
        box: (N, 4) ``top, left, bottom, right`` in pixels, ends exclusive.
        size: Height and width of the image in pixels.
        grid: Rows and columns of tokens.

    Returns:
        (N, rows, columns) float32, 1 where the token is the partner's and 0 elsewhere.

    Example:
        >>> pasted_tokens(torch.tensor([[0, 2, 4, 8]]), (8, 8), (2, 4))
        tensor([[[0., 1., 1., 1.],
                 [0., 0., 0., 0.]]])
    """
    top, left, bottom, right = box[:, :, None].unbind(1)
    places = [torch.arange(pixels, dtype=torch.float32, device=box.device) for pixels in size]
    rows, columns = (
        F.interpolate(place[None, None], count)[0, 0]
        for place, count in zip(places, grid, strict=True)
    )
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None]).float()


def attention_lam(
    attn: Tensor, pasted: Tensor, lam: Tensor | float, *, ratio: float = 0.5
) -> Tensor:
    """Weight of the first image by TransMix: its area and the attention that it gets.

    Args:
        attn: (B, N) attention to each patch, such as the class token's row of the last block as
            the mean over heads; not normalised. (B, heads, N) is averaged over the heads.
        pasted: (B, ...) or (1, ...) of N values per image, 1 where a patch is the partner's, as
            :func:`pasted_tokens` returns them.
        lam: (B,) or (1,) area of the first image, in [0, 1].
        ratio: Weight of attention against area; 0 is CutMix.

    Returns:
        (B,) float32 without gradient. An image without any attention keeps its area, where the
        official code divides zero by zero.

    Raises:
        ValueError: If the numbers of patches or images do not fit, or ``ratio`` is not in [0, 1].

    Example:
        >>> attn, pasted = torch.tensor([[0.6, 0.2], [0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> attention_lam(attn, pasted, torch.tensor([0.5]))
        tensor([0.6250, 0.5000])
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must lie in [0, 1], got {ratio}")
    attn = _head_mean(attn, 2)
    pasted = pasted.flatten(1).to(attn.device)
    if pasted.shape[1] != attn.shape[1] or len(pasted) not in (1, len(attn)):
        raise ValueError(
            f"attn {tuple(attn.shape)} and pasted {tuple(pasted.shape)} must have equal patches; "
            "leave out the columns of class and other prefix tokens"
        )
    area = torch.as_tensor(lam, dtype=torch.float32).to(attn.device, non_blocking=True)
    check_lam(area, len(attn))
    other, total = (attn * pasted).sum(1), attn.sum(1)
    seen = 1 - other / torch.where(total > 0, total, 1)
    return torch.where(total > 0, torch.lerp(area, seen, ratio), area)


def propagate(weight: Tensor, attn: Tensor, *, residual: float = 0.5) -> Tensor:
    """Carry label weights through one attention layer by the rule of TL-Align.

    Args:
        weight: (B, T) weight of the partner's label in each token, in [0, 1].
        attn: (B, T, T) attention after the softmax and before dropout, rows attending, as the mean
            over heads; (B, heads, T, T) is averaged.
        residual: Share that stays where it is; the rest moves with the attention.

    Returns:
        (B, T) float32 without gradient.

    Raises:
        ValueError: If the tokens do not fit or ``residual`` is not in [0, 1].

    Example:
        >>> propagate(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.2, 0.8], [0.2, 0.8]]]))
        tensor([[0.6000, 0.1000]])
    """
    if not 0 <= residual <= 1:
        raise ValueError(f"residual must lie in [0, 1], got {residual}")
    attn = _head_mean(attn, 3)
    tokens = weight.shape[1]
    if attn.shape[1:] != (tokens, tokens):
        raise ValueError(
            f"attn {tuple(attn.shape)} must be (B, T, T) for the {tokens} tokens of weight; count "
            "class and other prefix tokens in both"
        )
    weight = weight.detach().float().to(attn.device)
    with torch.autocast(attn.device.type, enabled=False):
        moved = torch.einsum("bts,bs->bt", attn, weight)
    return torch.lerp(moved, weight, residual)


def token_weights(
    pasted: Tensor,
    attns: Iterable[Tensor],
    *,
    prefix: int = 1,
    residual: float = 0.5,
    last: int | None = None,
) -> Tensor:
    """Weight of the partner's label in each token behind all attention layers; TL-Align.

    Args:
        pasted: (B, rows, columns) or (B, N) share of the partner in each patch.
        attns: Attention of each layer from first to last, as :func:`propagate` takes it.
        prefix: Tokens in front of the patches (class, distillation, registers); each begins with
            the share of the whole image.
        residual: As for :func:`propagate`.
        last: Only the last so many layers move labels; all by default.

    Returns:
        (B, prefix + N) float32. Column 0 belongs to the class token, so that its target is
        ``mix_targets(targets, perm, 1 - weights[:, 0])``; column 1 to a distillation token.

    Raises:
        ValueError: As :func:`propagate`; if ``prefix`` or ``last`` is negative.

    Example:
        >>> uniform = torch.full((1, 5, 5), 0.2)
        >>> token_weights(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), [uniform, uniform])
        tensor([[0.2500, 0.4375, 0.1875, 0.1875, 0.1875]])
    """
    if prefix < 0 or (last is not None and last < 0):
        raise ValueError(f"prefix and last must be >= 0, got {prefix} and {last}")
    weight = pasted.detach().flatten(1).float()
    weight = torch.cat([weight.mean(1, keepdim=True).expand(-1, prefix), weight], dim=1)
    layers = list(attns)
    for attn in layers if last is None else layers[max(0, len(layers) - last) :]:
        weight = propagate(weight, attn, residual=residual)
    return weight


def propagate_windows(
    weight: Tensor,
    attn: Tensor,
    window: tuple[int, int],
    *,
    shift: tuple[int, int] = (0, 0),
    residual: float = 0.5,
) -> Tensor:
    """Carry label weights through one layer of attention inside of windows, as of Swin.

    The rule of TL-Align in each window. Its authors report results with Swin and released no code
    of it, so that this form is ours.

    Args:
        weight: (B, rows, columns) weight of the partner's label in each token.
        attn: (B * windows, heads, n, n) or (B, windows, n, n) attention, windows row by row, those
            of a shifted layer in the rolled order.
        window: Rows and columns of a window, which divide the grid's.
        shift: Rows and columns by which the grid is rolled up and left before it is cut.
        residual: As for :func:`propagate`.

    Returns:
        (B, rows, columns) float32 without gradient.

    Raises:
        ValueError: If the windows do not fit the grid, or as :func:`propagate` does.

    Example:
        >>> rows = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
        >>> propagate_windows(rows, torch.full((1, 2, 2, 2), 0.5), (1, 2), shift=(0, 1))
        tensor([[[0.7500, 0.7500, 0.2500, 0.2500]]])
    """
    batch, *grid = weight.shape
    if grid[0] % window[0] or grid[1] % window[1]:
        raise ValueError(f"windows of {window} tokens do not divide a grid of {tuple(grid)}")
    rolled = weight.roll((-shift[0], -shift[1]), (1, 2))
    cut = split_windows(rolled, window)
    if attn.ndim == 4 and attn.shape[:2] == cut.shape[:2]:
        attn = attn.flatten(0, 1)
    if len(attn) != batch * cut.shape[1]:
        raise ValueError(
            f"attn {tuple(attn.shape)} must hold {cut.shape[1]} windows for each of {batch} images"
        )
    moved = propagate(cut.flatten(0, 1), attn, residual=residual).view(cut.shape)
    return join_windows(moved, window, (grid[0], grid[1])).roll(shift, (1, 2))


def merge_weights(weight: Tensor) -> Tensor:
    """Label weights of merged tokens: the mean of each 2x2 neighbours.

    Args:
        weight: (B, rows, columns) weights; both sides are even.

    Returns:
        (B, rows / 2, columns / 2) weights.

    Example:
        >>> merge_weights(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
        tensor([[[0.7500]]])
    """
    return F.avg_pool2d(weight[:, None], 2)[:, 0]


def split_windows(h: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a grid into windows.

    Args:
        h: (B, H, W, ...) values on a grid.
        window: Height and width of a window, which divide the grid's.

    Returns:
        (B, windows, n, ...), windows and the n places of each row by row.

    Example:
        >>> split_windows(torch.arange(8).view(1, 2, 4), (2, 2))
        tensor([[[0, 1, 4, 5],
                 [2, 3, 6, 7]]])
    """
    batch, rows, columns = h.shape[:3]
    height, width = window
    h = h.reshape(batch, rows // height, height, columns // width, width, *h.shape[3:])
    return h.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join_windows(windows: Tensor, window: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Put windows together again; the inverse of :func:`split_windows`.

    Args:
        windows: (B, windows, n, ...) values.
        window: Height and width of a window.
        grid: Height and width of the grid.

    Returns:
        (B, H, W, ...) values on the grid.

    Example:
        >>> join_windows(torch.tensor([[[0, 1], [2, 3]]]), (1, 2), (1, 4))
        tensor([[[0, 1, 2, 3]]])
    """
    (height, width), (rows, columns) = window, grid
    parts = (rows // height, columns // width)
    h = windows.unflatten(1, parts).unflatten(3, window).transpose(2, 3)
    return h.reshape(h.shape[0], rows, columns, *windows.shape[3:])


def _head_mean(attn: Tensor, ndim: int) -> Tensor:
    """Attention in float32 without gradient, the mean over the heads if they are there."""
    attn = attn.detach().float()
    if attn.ndim == ndim + 1:
        attn = attn.mean(1)
    if attn.ndim != ndim:
        shape = tuple(attn.shape)
        raise ValueError(f"attn must have {ndim} dimensions, or one more for heads, got {shape}")
    return attn
