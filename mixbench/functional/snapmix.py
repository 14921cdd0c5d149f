"""SnapMix: paste a part of a partner into another box, weigh labels by what both mean.

Huang, Wang and Tao, AAAI 2021, arXiv:2012.04846; official code Shaoli-Huang/SnapMix.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.cutmix import box_shares, cutmix_box
from mixbench.functional.draws import draw_lam, draw_perm, draw_uniform
from mixbench.functional.mixed import Mixed, check_batch, check_lam, check_perm, mix_targets, take
from mixbench.functional.resizemix import paste_resized

SAME_LABEL = ("once", "sum")


class Snapped(NamedTuple):
    """What was pasted where, and how much the label of each image weighs in the loss.

    ``box`` (B or 1, 4) in pixels is what is covered of each image and ``source`` (B or 1, 4) what
    its partner gives for it; nothing is pasted where one of them is empty. ``weight`` (B,) is the
    sum of the weights of both labels, and ``maps`` (B, H, W) are those of :func:`percent_map`.
    """

    box: Tensor
    source: Tensor
    weight: Tensor
    maps: Tensor


def percent_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of each pixel in what an image shows of its class; the semantic percent map.

    Args:
        maps: (B, h, w) class activation maps, or others, of any sign.
        size: Height H and width W of the images.

    Returns:
        (B, H, W) float32: the map in the size of the image, minus its smallest value, divided by
        its sum. Zero everywhere for a map of one value.

    Example:
        >>> percent_map(torch.tensor([[[-1.0, 0.0, 2.0]]]), (1, 3))
        tensor([[[0.0000, 0.2500, 0.7500]]])
    """
    maps = maps.float()
    if maps.shape[1:] != size:
        maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    total = maps.sum((1, 2), keepdim=True)
    return maps / total.where(total > 0, 1)


def _regions(box: Tensor, source: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(N, H, W) 1 where an image is covered, and where its partner gives; 0 if either is empty."""
    there = ((box[:, 2:] > box[:, :2]) & (source[:, 2:] > source[:, :2])).all(1, keepdim=True)
    covered, given = (box_shares(each * there, size)[1] for each in (box, source))
    return covered, given


def snapmix_shares(box: Tensor, source: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Shares of pixels that a mixed image shows of an image, and of its partner.

    Args:
        box: (B, 4) or (1, 4) covered box in pixels.
        source: (B, 4) or (1, 4) the partner's box that is resized to it.
        size: Height H and width W of the images.

    Returns:
        Two shares (B or 1, H, W) of the pixels: 0 or 1 of the image; of its partner, inside of its
        box, the area of the covered one to that of its own, at most 1.

    Example:
        >>> snapmix_shares(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 2, 1, 4]]), (1, 4))
        (tensor([[[0., 1., 1., 1.]]]), tensor([[[0.0000, 0.0000, 0.5000, 0.5000]]]))
    """
    covered, given = _regions(box, source, size)
    areas = [part.sum((1, 2), keepdim=True) for part in (covered, given)]
    return 1 - covered, given * (areas[0] / areas[1].clamp(min=1)).clamp(max=1)


def snapmix(
    x: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    alpha: float = 5.0,
    per_sample: bool = False,
    same_label: str = "once",
    partner: str = "random",
    lam: Tensor | None = None,
    center: Tensor | None = None,
    source_lam: Tensor | None = None,
    source_center: Tensor | None = None,
    box: Tensor | None = None,
    source: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Paste a box of each image's partner, resized, over another box. What is not given is drawn.

    The own label weighs what its map has outside of the covered box, the partner's what its map has
    inside of the given one; the two need not sum to 1.

    Args:
        x: (B, C, H, W) images of a floating type.
        targets: (B, K) soft labels.
        maps: (B, h, w) map of each image for its class, of any size and sign.
        alpha: Beta(alpha, alpha) of the shares outside of both boxes; unused where they are given.
        per_sample: Draw two boxes per image; the authors draw two per batch.
        same_label: Weight of a label that both images have: ``once``, the sum of both weights, or
            ``sum``, twice that, as the official code computes.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        lam: (B,) or (1,) share outside of the covered box before clipping, in [0, 1].
        center: (B, 2) or (1, 2) its centre as fractions of the image, in [0, 1).
        source_lam: (B,) or (1,) share outside of the partner's box before clipping.
        source_center: (B, 2) or (1, 2) centre of the partner's box.
        box: (B, 4) or (1, 4) covered box as :func:`cutmix_box` returns it, instead of the first
            two decisions.
        source: (B, 4) or (1, 4) the partner's box, instead of the other two.
        perm: (B,) index of each image's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch with distributions as targets; ``lam`` (B,) is the own label's part of both
        weights and ``aux`` a :class:`Snapped`, whose ``weight`` belongs to the loss:
        ``soft_cross_entropy(logits, mixed.targets * mixed.aux.weight[:, None])``. Where one of the
        boxes is empty the image stays, with the weight 1. Where a map has one value only, the area
        of the covered box takes its place.

    Raises:
        ValueError: If a shape or a value does not fit, or as :func:`check_batch`.

    Example:
        >>> x, targets = torch.rand(2, 3, 1, 4), torch.eye(2)
        >>> maps = torch.tensor([[[4.0, 3.0, 2.0, 1.0]], [[0.0, 0.0, 1.0, 1.0]]])
        >>> box, source = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 2, 1, 4]])
        >>> given = {"box": box, "source": source, "perm": torch.tensor([1, 0])}
        >>> mixed = snapmix(x, targets, maps, **given)
        >>> mixed.aux.weight, mixed.lam
        (tensor([1.5000, 1.1667]), tensor([0.3333, 0.8571]))
    """
    check_batch(x, targets)
    if x.ndim != 4 or maps.ndim != 3 or len(maps) != len(x):
        raise ValueError(
            f"snapmix needs maps (B, h, w) of images (B, C, H, W), got {tuple(maps.shape)} for "
            f"{tuple(x.shape)}"
        )
    if same_label not in SAME_LABEL:
        raise ValueError(f"same_label must be one of {', '.join(SAME_LABEL)}, got {same_label!r}")
    batch, size = len(x), (x.shape[2], x.shape[3])
    count = batch if per_sample else 1
    if perm is None:
        perm = draw_perm(batch, generator, rule=partner)
    check_perm(perm, batch)
    boxes = []
    for given, share, middle in ((box, lam, center), (source, source_lam, source_center)):
        if given is None:
            share = draw_lam(count, alpha, generator) if share is None else share
            middle = draw_uniform(generator, count, 2) if middle is None else middle
            check_lam(share, batch)
            given = cutmix_box(share.reshape(-1).to(middle.device), middle, *size)
        boxes.append(given)
    perm, box, source = (t.to(x.device, non_blocking=True) for t in (perm, *boxes))
    mixed = paste_resized(x, perm, box, mode="bilinear", source=source, align_corners=True)

    maps = percent_map(maps.detach().to(x.device), size)
    covered, given = _regions(box, source, size)
    area = covered.mean((1, 2)).expand(batch)
    # Not a number where a map has no contrast; so is a sum that it is part of.
    theirs = take(maps, perm)
    own = 1 - (maps * covered).sum((1, 2)) / maps.sum((1, 2))
    other = (theirs * given).sum((1, 2)) / theirs.sum((1, 2))
    if same_label == "sum":
        pasted = covered.amax((1, 2)) > 0
        same = (targets == take(targets, perm)).all(1) & pasted
        own, other = (torch.where(same, own + other, each) for each in (own, other))
    own, other = own.where(~own.isnan(), 1 - area), other.where(~other.isnan(), area)
    weight = own + other
    lam = torch.where(weight > 0, own / weight.where(weight > 0, 1), 1 - area)
    labels = mix_targets(targets, perm, lam)
    return Mixed(mixed, labels, lam, perm, Snapped(box, source, weight, maps))
