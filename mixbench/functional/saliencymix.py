"""SaliencyMix: paste the most salient part of a partner, weigh the labels by visible area.

Uddin et al., ICLR 2021, arXiv:2006.01791; official code afm-shahab-uddin/SaliencyMix. Its maps are
those of Montabone and Soto, Image and Vision Computing 28, 2010, as OpenCV computes them.
"""

from collections import Counter

import torch
from torch import Generator, Tensor

from mixbench.functional.cutmix import cutmix
from mixbench.functional.mixed import Mixed

LUMA = (9798, 19235, 3735)  # of red, green and blue, in units of 2^-15
REACH = (12, 24, 48, 28, 56, 112)  # pixels around the centre of a neighbourhood


def fine_grained_saliency(pixels: Tensor) -> Tensor:
    """How much brighter or darker each pixel is than six neighbourhoods of it.

    Args:
        pixels: (N, C, H, W) images in [0, 1], of three channels red, green and blue; of others the
            mean counts.

    Returns:
        (N, H, W) float32 map, not negative, in levels of 1/255: the sum of the contrasts of both
        signs, the largest of each being 1.

    Example:
        >>> image = torch.zeros(1, 1, 1, 60)
        >>> image[..., 30:] = 1
        >>> fine_grained_saliency(image)[0, 0, [0, 27, 32, 59]]
        tensor([0.4745, 1.0000, 1.0000, 0.4824])
    """
    levels = (pixels.float() * 255).round()
    if pixels.shape[1] == len(LUMA):
        red, green, blue = levels.unbind(1)
        grey = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
        grey = (grey / 2**15 + 0.5).floor()
    else:
        grey = levels.mean(1).round()
    for _ in range(2):
        grey = _blurred(grey)
    # The sum goes on beyond the borders, so that parts of it serve neighbourhoods that do so too.
    ends = min(max(REACH), grey.shape[1]), min(max(REACH), grey.shape[2])
    total = grey.int().cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    for axis, end in ((2, ends[1]), (1, ends[0])):
        after = total.narrow(axis, -1, 1).repeat_interleave(end, dim=axis)
        total = torch.cat([torch.zeros_like(after), total, after], dim=axis)
    brighter, both = torch.zeros_like(grey), torch.zeros_like(grey)
    reaches = Counter((min(reach, ends[0]), min(reach, ends[1])) for reach in REACH)
    for reach, times in reaches.items():
        contrast = times * _contrast(grey, total, reach, ends)
        both += contrast
        brighter += contrast.clamp_(min=0)
    contrasts = torch.stack([brighter, brighter - both])
    most = contrasts.amax((2, 3), keepdim=True)
    return (255 * contrasts / most.where(most > 0, 1)).floor().sum(0) / 255


def _blurred(grey: Tensor) -> Tensor:
    """Images (N, H, W) of whole levels, blurred by a quarter, a half and a quarter both ways."""
    for axis in (1, 2):
        size = grey.shape[axis]
        place = torch.arange(-1, size + 1, device=grey.device).abs()
        wide = grey.index_select(axis, (size - 1 - (size - 1 - place).abs()).clamp(min=0))
        grey = 2 * grey + wide.narrow(axis, 0, size) + wide.narrow(axis, 2, size)
    return (grey / 16 + 0.5).floor()


def _contrast(grey: Tensor, total: Tensor, reach: tuple[int, int], ends: tuple[int, int]) -> Tensor:
    """Whole levels by which pixels are brighter than the mean around them without themselves.

    Sums of the largest neighbourhood stay below 2^24, so that float32 holds them exactly.
    """
    slices, counts = [], []
    for size, near, end in zip(grey.shape[1:], reach, ends, strict=True):
        slices.append([slice(at, at + size) for at in (end + near, end - near)])
        place = torch.arange(size, device=grey.device)
        counts.append((place + near + 1).clamp(max=size) - (place - near + 1).clamp(min=0))
    (below, above), (right, left) = slices
    inside = total[:, below, right] - total[:, above, right]
    inside += total[:, above, left] - total[:, below, left]
    count = (counts[0][:, None] * counts[1]).float()
    return ((grey * count - inside) / (count - 1).clamp(min=1)).trunc_()


def saliency_peak(saliency: Tensor) -> Tensor:
    """Place of the most salient pixel, of equal levels of 1/255 the first from the upper left.

    Args:
        saliency: (N, h, w) maps of any size, in [0, 1].

    Returns:
        (N, 2) row and column of the middle of the pixel as fractions of the map.

    Example:
        >>> saliency_peak(torch.tensor([[[0.2, 0.9], [0.1, 0.9]]]))
        tensor([[0.2500, 0.7500]])
    """
    width = saliency.shape[2]
    place = (saliency.float() * 255).floor().flatten(1).argmax(dim=1)
    rows, cols = place // width, place % width
    return torch.stack([(rows + 0.5) / saliency.shape[1], (cols + 0.5) / width], dim=1)


def saliencymix(
    x: Tensor,
    targets: Tensor,
    saliency: Tensor,
    *,
    alpha: float = 1.0,
    per_sample: bool = False,
    lam: Tensor | None = None,
    perm: Tensor | None = None,
    partner: str = "random",
    generator: Generator | None = None,
) -> Mixed:
    """Paste a box around the most salient pixel of each image's partner, at the same place.

    Args:
        x: (B, C, H, W) images.
        targets: (B, K) soft or multi-hot labels.
        saliency: (B, h, w) or (1, h, w) maps in [0, 1] of what is pasted: of each partner, or of
            one image whose box is that of the whole batch.
        alpha: Beta(alpha, alpha) of the kept share; unused when ``lam`` is given.
        per_sample: Draw one share per image; the authors draw one per batch.
        lam: (B,) or (1,) share to keep before clipping, in [0, 1].
        perm: (B,) index of each image's partner.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch as of :func:`mixbench.functional.cutmix`: ``lam`` (B,) is the share that stays
        visible after clipping and ``aux`` the (B, 4) or (1, 4) box.

    Raises:
        ValueError: If the maps are of another number, or as :func:`mixbench.functional.cutmix`.

    Example:
        >>> x, targets, saliency = torch.rand(2, 3, 4, 4), torch.eye(2), torch.zeros(1, 4, 4)
        >>> saliency[0, 1, 2] = 1
        >>> saliencymix(x, targets, saliency, lam=torch.tensor([0.75])).aux
        tensor([[0, 1, 2, 3]])
    """
    if saliency.ndim != 3 or len(saliency) not in (1, len(x)):
        raise ValueError(
            f"saliency must be 1 or {len(x)} maps (N, h, w), got {tuple(saliency.shape)}"
        )
    center = saliency_peak(saliency)
    decisions = {"lam": lam, "perm": perm, "partner": partner, "center": center}
    return cutmix(x, targets, alpha=alpha, per_sample=per_sample, **decisions, generator=generator)
