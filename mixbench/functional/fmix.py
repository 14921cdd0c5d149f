"""FMix: mix with masks that are cut out of random images of low frequency.

Harris et al., arXiv:2002.12047; official code ecs-vlc/FMix.
"""

import torch
from torch import Generator, Tensor

from mixbench.functional.draws import draw_lam, draw_perm, draw_uniform
from mixbench.functional.maskmix import maskmix
from mixbench.functional.mixed import Mixed, check_batch, check_lam

SPECTRA = ("full", "official")


def low_frequency_image(
    noise: Tensor, height: int, width: int, *, decay: float = 3.0, spectrum: str = "full"
) -> Tensor:
    """Grey images whose frequencies weigh the less the higher they are.

    Args:
        noise: (N, R, F, 2) normal draws, F one of W // 2 + 1 and W // 2 + 2. In the full spectrum R
            is H and the last axis holds real and imaginary parts. In the official one the rows 0
            and 1 do, and the last axis are the horizontal frequencies 0 and 1; further rows are
            not read, and an odd W has the larger F.
        height: Height H in pixels.
        width: Width W in pixels.
        decay: Power by which an amplitude falls with its frequency.
        spectrum: ``full`` as the paper describes it, or ``official``, in which the code of the
            authors takes one axis for another: no mask has more than one horizontal period.

    Returns:
        (N, H, W) float32, from 0 to 1 each; 0 where an image has one value only.

    Raises:
        ValueError: If the noise does not fit, or ``spectrum`` is unknown.

    Example:
        >>> noise = torch.zeros(1, 2, 2, 2)
        >>> noise[0, 0, 1, 0] = 1  # one vertical period
        >>> low_frequency_image(noise, 4, 2, spectrum="official")[0, :, 0]
        tensor([1.0000, 0.5000, 0.0000, 0.5000])
    """
    if spectrum not in SPECTRA:
        raise ValueError(f"spectrum must be one of {', '.join(SPECTRA)}, got {spectrum!r}")
    rows, official = noise.shape[1], spectrum == "official"
    columns = width // 2 + 1
    fits = noise.ndim == 4 and noise.shape[2] - columns in (0, 1) and noise.shape[3] == 2
    if not fits or (rows < 2 if official else rows != height):
        shape = f"(N, {'2 or more' if official else height}, {columns} or {columns + 1}, 2)"
        raise ValueError(
            f"noise must be {shape} for images of {height} x {width}, got {tuple(noise.shape)}"
        )
    rows, columns = (2, noise.shape[2]) if official else (height, columns)
    noise, device = noise[:, :rows, :columns].float(), noise.device
    vertical, horizontal = (
        torch.fft.fftfreq(size, device=device)[torch.arange(count, device=device) % size]
        for size, count in ((height, rows), (width, columns))
    )
    frequency = vertical[:, None].hypot(horizontal).clamp(min=1 / max(height, width))
    scaled = noise * frequency[..., None] ** -decay
    # Of the official array the axes are the vertical and two horizontal frequencies.
    parts = torch.complex(*scaled.unbind(1 if official else -1))
    grey = torch.fft.irfft2(parts, s=(height, width))
    grey = grey - grey.amin((1, 2), keepdim=True)
    top = grey.amax((1, 2), keepdim=True)
    return grey / top.where(top > 0, 1)


def ranked_mask(grey: Tensor, lam: Tensor, round_up: Tensor, *, max_soft: float = 0.0) -> Tensor:
    """Masks of the brightest pixels.

    Args:
        grey: (N, H, W) images, not negative.
        lam: (N,) or (1,) share of the pixels that are 1, in [0, 1].
        round_up: (N,) or (1,) bool, whether a share becomes the next larger number of pixels.
        max_soft: Half the share of pixels, from 0 to 0.5, over which a mask falls from 1 to 0; at
            most ``lam`` and ``1 - lam``.

    Returns:
        (N, 1, H, W) float32 masks.

    Raises:
        ValueError: If ``max_soft`` is out of range.

    Example:
        >>> grey = torch.tensor([[[0.1, 0.7], [0.9, 0.3]]])
        >>> ranked_mask(grey, torch.tensor([0.5]), torch.tensor([True]))
        tensor([[[[0., 1.],
                  [1., 0.]]]])
    """
    if not 0 <= max_soft <= 0.5:
        raise ValueError(f"max_soft must lie in [0, 0.5], got {max_soft}")
    flat = grey.float().flatten(1)
    pixels = flat.shape[1]
    lam = lam.to(flat.device, torch.float64, non_blocking=True).reshape(-1, 1)
    round_up = round_up.to(flat.device, non_blocking=True).reshape(-1, 1)
    ones = torch.where(round_up, (lam * pixels).ceil(), (lam * pixels).floor()).long()
    if max_soft == 0:
        mask = _largest(flat, ones).float()
    else:
        smaller = torch.minimum(lam, 1 - lam)
        half = (pixels * smaller.clamp(max=max_soft)).long()
        order = flat.argsort(dim=1, descending=True, stable=True)
        rank = torch.arange(pixels, device=flat.device)
        # Of 2 half ranks the first is 1 and the last is 0; without any the step is a jump.
        fall = (rank - (ones - half)) / (2 * half - 1).clamp(min=1)
        value = torch.where(half > 0, (1 - fall).clamp(0, 1), (rank < ones).double())
        mask = torch.empty_like(flat).scatter_(1, order, value.float().expand_as(flat))
    return mask.reshape(len(flat), 1, *grey.shape[1:])


def _largest(flat: Tensor, count: Tensor) -> Tensor:
    """(N, M) bool, the largest ``count`` (N, 1) of each row, of equal ones the first.

    On the CPU selecting one value takes at most half of the time of sorting all, and four fifths of
    that of counting bits in histograms. Rows that ask for different ranks are filled up by values
    beyond both ends, so that all ask for the same.
    """
    size = flat.shape[1]
    filling = torch.arange(size, device=flat.device) < size - count
    ends = torch.where(filling, torch.inf, -torch.inf).to(flat.dtype).expand_as(flat)
    limit = torch.cat([flat, ends], dim=1).kthvalue(size + 1, dim=1, keepdim=True).values
    above, equal = flat > limit, flat == limit
    return above | (equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True)))


def fmix(
    x: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    decay: float = 3.0,
    max_soft: float = 0.0,
    spectrum: str = "full",
    per_sample: bool = False,
    partner: str = "random",
    lam: Tensor | None = None,
    round_up: Tensor | None = None,
    noise: Tensor | None = None,
    mask: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Mix with the brightest pixels of a low-frequency image. What is not given is drawn.

    Args:
        x: (B, C, H, W) images of a floating type.
        targets: (B, K) soft or multi-hot labels.
        alpha: Beta(alpha, alpha) of the kept share; unused when ``lam`` is given.
        decay: Power by which an amplitude falls with its frequency.
        max_soft: Softness of the mask's edge, see :func:`ranked_mask`.
        spectrum: ``full`` or ``official``, see :func:`low_frequency_image`.
        per_sample: Draw one mask per image; the paper draws one per batch.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        lam: (B,) or (1,) weight of the first image, in [0, 1].
        round_up: (B,) or (1,) bool, whether the mask has the next larger number of pixels.
        noise: (B or 1, R, F, 2) normal draws, see :func:`low_frequency_image`.
        mask: (B or 1, 1, H, W) weight of each pixel of the first image, instead of the decisions
            between; ``lam`` stays the weight of its label and is by default the mask's mean.
        perm: (B,) index of each image's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch; ``lam`` (B,) is the share as drawn and ``aux`` the (B or 1, 1, H, W) mask.

    Raises:
        ValueError: If a shape or a value does not fit, or as :func:`mixbench.functional.maskmix`.

    Example:
        >>> x, targets = torch.rand(2, 3, 8, 8), torch.eye(2)
        >>> mixed = fmix(x, targets, lam=torch.tensor([0.25]), generator=Generator())
        >>> mixed.aux.sum(), mixed.lam
        (tensor(16.), tensor([0.2500, 0.2500]))
    """
    check_batch(x, targets)
    if x.ndim != 4:
        raise ValueError(f"fmix needs images (B, C, H, W), got {tuple(x.shape)}")
    batch, _, height, width = x.shape
    count = batch if per_sample else 1
    if perm is None:
        perm = draw_perm(batch, generator, rule=partner)
    if mask is None:
        lam = draw_lam(count, alpha, generator) if lam is None else lam
        check_lam(lam, batch)
        if round_up is None:
            round_up = draw_uniform(generator, count) > 0.5
        if noise is None:
            rows, odd = (height, 0) if spectrum == "full" else (2, width % 2)
            device = generator.device if generator is not None else None
            size = (count, rows, width // 2 + 1 + odd, 2)
            noise = torch.randn(size, generator=generator, device=device)
        noise = noise.to(x.device, non_blocking=True)
        grey = low_frequency_image(noise, height, width, decay=decay, spectrum=spectrum)
        mask = ranked_mask(grey, lam, round_up, max_soft=max_soft)
    lam = mask.float().mean((1, 2, 3)) if lam is None else lam
    return maskmix(x, targets, mask=mask, lam=lam, perm=perm)._replace(aux=mask)
