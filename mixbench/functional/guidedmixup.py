"""GuidedMixup: mix each pixel by the saliency of both images, in pairs that look at other places.

Kang and Kim, AAAI 2023, arXiv:2306.16612; official code 3neutronstar/GuidedMixup.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.draws import draw_perm
from mixbench.functional.maskmix import maskmix
from mixbench.functional.mixed import Mixed, check_batch

PAIRINGS = ("greedy", "random")
GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue
MOST = 128  # pixels of a side, beyond which a spectrum is that of a smaller image
KERNEL, SIGMA = 7, 3.0  # of the Gaussian, in pixels


def residual_saliency(x: Tensor) -> Tensor:
    """Saliency of images by themselves: what their spectrum has beyond its local mean.

    After Hou and Zhang, CVPR 2007, as the code of GuidedMixup computes it, which takes no square.

    Args:
        x: (B, C, H, W) images of any range; of three channels red, green and blue, of others their
            mean. Both sides have 4 pixels or more.

    Returns:
        (B, H, W) float32 maps, not negative.

    Raises:
        ValueError: If the images are too small.

    Example:
        >>> image = torch.zeros(1, 1, 16, 16)
        >>> image[0, 0, 9, 6] = 1
        >>> residual_saliency(image)[0].argmax()  # 9 * 16 + 6
        tensor(150)
    """
    x = x.float()
    size = (x.shape[2], x.shape[3])
    if x.shape[1] == len(GREY):
        x = torch.einsum("bchw,c->bhw", x, torch.tensor(GREY).to(x.device, non_blocking=True))
    else:
        x = x.mean(dim=1)
    small = (min(size[0], MOST), min(size[1], MOST))
    spectrum = torch.fft.fft2(_resized(x, small))
    size_of = (spectrum.real.square() + spectrum.imag.square() + 1e-10).sqrt()
    logarithm = size_of.log()
    around = F.avg_pool2d(F.pad(logarithm[:, None], [1] * 4, mode="replicate"), 3, stride=1)[:, 0]
    found = torch.fft.ifft2(spectrum / size_of * (logarithm - around).exp()).abs()
    return _resized(_blurred(found), size)


def normalized_saliency(maps: Tensor) -> Tensor:
    """Maps blurred by a Gaussian, whose values sum to 1.

    Args:
        maps: (B, H, W) maps, not negative, both sides of 4 pixels or more.

    Returns:
        (B, H, W) float32; even where a map is 0 everywhere.

    Raises:
        ValueError: If the maps are too small.

    Example:
        >>> normalized_saliency(torch.zeros(1, 4, 4))[0, 0]
        tensor([0.0625, 0.0625, 0.0625, 0.0625])
    """
    maps = _blurred(maps.float())
    total = maps.sum((1, 2), keepdim=True)
    share = maps / total.where(total > 0, 1)
    return share.where(total > 0, 1 / maps[0].numel())


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[1:] == size:
        return maps
    return F.interpolate(maps[:, None], size, mode="bilinear", antialias=True)[:, 0]


def _blurred(maps: Tensor) -> Tensor:
    """Maps (B, H, W) under the Gaussian, mirrored at their borders."""
    reach = KERNEL // 2
    if min(maps.shape[1:]) <= reach:
        raise ValueError(
            f"maps are blurred over {KERNEL} pixels and must have {reach + 1} or more along each "
            f"side, got {tuple(maps.shape[1:])}; use larger images"
        )
    places = torch.arange(KERNEL, dtype=maps.dtype, device=maps.device) - reach
    weights = torch.exp(-((places / SIGMA) ** 2) / 2)
    weights = weights / weights.sum()
    maps = F.pad(maps[:, None], [reach] * 4, mode="reflect")
    return F.conv2d(F.conv2d(maps, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))[:, 0]


def saliency_distance(maps: Tensor) -> Tensor:
    """Euclidean distances between all maps of a batch.

    Args:
        maps: (..., B, H, W) maps.

    Returns:
        (..., B, B) float32 distances.

    Example:
        >>> saliency_distance(torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    flat = maps.float().flatten(-2)
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")


def greedy_pairing(distance: Tensor) -> Tensor:
    """Partners on one cycle through all rows, each the farthest of those that are left.

    It begins at the two rows that are farthest from each other and goes on from the partner; the
    last row gets the first one. Of equal distances the first counts. The host waits for none of
    the steps.

    Args:
        distance: (..., B, B) distances; the diagonal is not read.

    Returns:
        (..., B) int64 partner of each row, never the row itself where B is 2 or more.

    Example:
        >>> greedy_pairing(torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 2.0], [5.0, 2.0, 0.0]]))
        tensor([2, 0, 1])
    """
    rows = distance.shape[-1]
    others = distance.reshape(-1, rows, rows).float()
    count, device = len(others), distance.device
    if rows == 1:
        return torch.zeros(distance.shape[:-1], dtype=torch.long, device=device)
    own = torch.eye(rows, dtype=torch.bool, device=device)
    others = others.masked_fill(own, -torch.inf)
    start = others.flatten(1).argmax(1, keepdim=True)
    row, column = start // rows, start % rows
    # One row after the other by its place, then whom it is followed by.
    cycle, lost = [row, column], torch.zeros(count, 1, rows, device=device)
    for _ in range(rows - 2):
        lost = lost.scatter(2, row[:, :, None], -torch.inf)
        row = column
        left = others.take_along_dim(row[:, :, None], 1) + lost
        column = left.argmax(2)
        cycle.append(column)
    visited = torch.cat(cycle, dim=1)
    partners = torch.empty_like(visited).scatter_(1, visited, visited.roll(-1, 1))
    return partners.view(distance.shape[:-1])


def guidedmixup(
    x: Tensor,
    targets: Tensor,
    saliency: Tensor | None = None,
    *,
    pairing: str = "greedy",
    part: int | None = None,
    mask: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Mix each pixel by the share that the saliency of its image has of that of both.

    Args:
        x: (B, C, H, W) images of a floating type.
        targets: (B, K) soft or multi-hot labels.
        saliency: (B, H, W) maps, not negative; :func:`residual_saliency` of the images if None.
        pairing: ``greedy``, images that look at other places, see :func:`greedy_pairing`, or
            ``random``.
        part: Rows that are paired among themselves; None for the whole batch.
        mask: (B, 1, H, W) weight of each pixel of the first image, in place of the maps; needs
            ``perm``.
        perm: (B,) index of each image's partner.
        generator: Random source of random pairs (CPU by default).

    Returns:
        Mixed batch; ``lam`` (B,) is the mean of the mask, and ``aux`` the (B, 1, H, W) mask.

    Raises:
        ValueError: If a shape or a value does not fit, or as :func:`mixbench.functional.maskmix`.

    Note:
        OpenMixup's code mixes images, maps and labels by random partners and finds the greedy ones
        only afterwards, so that nobody uses them: ``pairing="random"`` is what it does.

    Example:
        >>> x, targets = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4), torch.eye(2)
        >>> saliency = torch.tensor([1.0, 3.0]).view(2, 1, 1).expand(2, 4, 4).clone()
        >>> mixed = guidedmixup(x, targets, saliency)  # each map sums to 1
        >>> mixed.perm, mixed.lam
        (tensor([1, 0]), tensor([0.5000, 0.5000]))
    """
    check_batch(x, targets)
    if x.ndim != 4:
        raise ValueError(f"guidedmixup needs images (B, C, H, W), got {tuple(x.shape)}")
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}")
    if part is not None and part < 1:
        raise ValueError(f"part must be 1 or more rows, got {part}")
    if mask is not None and perm is None:
        raise ValueError("a mask is of pairs; give perm with it")
    if mask is None:
        saliency = residual_saliency(x) if saliency is None else saliency
        if saliency.shape != (len(x), *x.shape[2:]):
            raise ValueError(
                f"saliency must be {(len(x), *x.shape[2:])} maps, got {tuple(saliency.shape)}"
            )
        maps = normalized_saliency(saliency)
        if perm is None:
            perm = _paired(maps, part) if pairing == "greedy" else draw_perm(len(x), generator)
        own, other = maps, maps.index_select(0, perm.to(maps.device, non_blocking=True))
        both = own + other
        mask = (own / both.where(both > 0, 1)).where(both > 0, 0.5)[:, None]
    assert perm is not None
    lam = mask.float().mean((1, 2, 3))
    return maskmix(x, targets, mask=mask, lam=lam, perm=perm)._replace(aux=mask)


def _paired(maps: Tensor, part: int | None) -> Tensor:
    """Greedy partners among each ``part`` rows, and among those that are left."""
    rows = len(maps)
    part = rows if part is None else min(part, rows)
    whole = rows - rows % part
    first = torch.arange(0, whole, part, device=maps.device)[:, None]
    groups = maps[:whole].unflatten(0, (-1, part))
    found = [(greedy_pairing(saliency_distance(groups)) + first).flatten()]
    if whole < rows:
        found.append(greedy_pairing(saliency_distance(maps[whole:])) + whole)
    return torch.cat(found)
