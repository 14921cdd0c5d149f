"""SmoothMix: blend a partner into an image through a window without edges.

Lee et al., CVPR Workshops 2020; the authors' code could not be read, and the formulas are those of
Westlake-AI/openmixup.
"""

import torch
from torch import Generator, Tensor

from mixbench.functional.draws import draw_perm, draw_uniform
from mixbench.functional.maskmix import maskmix
from mixbench.functional.mixed import Mixed, check_batch


def smooth_mask(center: Tensor, sigma: Tensor, height: int, width: int) -> Tensor:
    """Weights of images that fade out around a centre, by a Gaussian.

    Args:
        center: (N, 2) row and column of the centre as fractions of the image, in [0, 1). It lies
            on the line before the pixel that the fraction falls into.
        sigma: (N,) standard deviation as a share of the side of the image, of the geometric mean of
            both sides where they differ.
        height: Height H in pixels.
        width: Width W in pixels.

    Returns:
        (N, 1, H, W) float32 weight of the image: 0 at the centre, 1 far away from it.

    Example:
        >>> smooth_mask(torch.tensor([[0.5, 0.5]]), torch.tensor([0.5]), 4, 4)[0, 0, :2]
        tensor([[0.4302, 0.2684, 0.2684, 0.4302],
                [0.2684, 0.0606, 0.0606, 0.2684]])
    """
    spread = (sigma.double() * (height * width) ** 0.5)[:, None]
    rows, cols = (
        torch.exp(-((_places(size, center[:, axis]) / spread) ** 2) / 2)
        for axis, size in enumerate((height, width))
    )
    return (1 - rows[:, None, :, None] * cols[:, None, None, :]).float()


def _places(size: int, center: Tensor) -> Tensor:
    """(N, size) distances of the pixels' middles from the line of a centre."""
    line = (center.double() * size).floor()[:, None]
    return torch.arange(size, device=center.device) + 0.5 - line


def smoothmix(
    x: Tensor,
    targets: Tensor,
    *,
    spread: tuple[float, float] | list[float] = (0.25, 0.5),
    official: bool = False,
    per_sample: bool = False,
    partner: str = "random",
    center: Tensor | None = None,
    sigma: Tensor | None = None,
    mask: Tensor | None = None,
    lam: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Blend each image's partner into it around a point. Decisions that are not given are drawn.

    Args:
        x: (B, C, H, W) images of a floating type.
        targets: (B, K) soft or multi-hot labels.
        spread: Smallest and largest ``sigma`` that is drawn.
        official: Weigh the label of the image by the share of its partner, and the other way round,
            as the public code does; see the Note.
        per_sample: Draw one window per image; the public code draws one per batch.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        center: (B, 2) or (1, 2) centre of the window as fractions of the image, in [0, 1).
        sigma: (B,) or (1,) standard deviation of the window as a share of the image's side.
        mask: (B or 1, 1, H, W) weight of each pixel of the first image, instead of the decisions
            above.
        lam: (B,) or (1,) weight of the first label instead of the one that follows from the mask.
        perm: (B,) index of each image's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch; ``lam`` (B,) is the mean of the mask, or with ``official`` what it lacks of 1,
        and ``aux`` the (B or 1, 1, H, W) mask.

    Raises:
        ValueError: If a shape or a value does not fit, or as :func:`mixbench.functional.maskmix`.

    Note:
        The code that everybody uses returns the mean weight of the partner's pixels as the weight
        of the first label: the labels of a pair are swapped. The default is the weight that the
        paper describes.

    Example:
        >>> x, targets = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4), torch.eye(2)
        >>> where = {"center": torch.tensor([[0.5, 0.5]]), "sigma": torch.tensor([0.5])}
        >>> mixed = smoothmix(x, targets, perm=torch.tensor([1, 0]), **where)
        >>> mixed.x[0, 0, 0], mixed.lam[0]
        (tensor([0.5698, 0.7316, 0.7316, 0.5698]), tensor(0.2569))
    """
    check_batch(x, targets)
    if x.ndim != 4:
        raise ValueError(f"smoothmix needs images (B, C, H, W), got {tuple(x.shape)}")
    count = len(x) if per_sample else 1
    if perm is None:
        perm = draw_perm(len(x), generator, rule=partner)
    if mask is None:
        if center is None:
            center = draw_uniform(generator, count, 2)
        if sigma is None:
            sigma = draw_uniform(generator, count, ends=spread)
        center, sigma = (t.to(x.device, non_blocking=True) for t in (center, sigma))
        mask = smooth_mask(center, sigma.reshape(-1), x.shape[2], x.shape[3])
    if lam is None:
        kept = mask.double().mean((1, 2, 3)).float()
        lam = 1 - kept if official else kept
    return maskmix(x, targets, mask=mask, lam=lam, perm=perm)._replace(aux=mask)
