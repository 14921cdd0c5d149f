"""Boxes of objects from maps of a network, and the share of them that are right.

MaxBoxAcc and MaxBoxAccV2 of Choe et al., CVPR 2020, arXiv:2001.07437, by the rules of the official
code, clovaai/wsolevaluation: maps of 224 x 224 pixels and 8 bits, cut at 1,000 thresholds, and the
box of the largest contour, or of the best of all contours. Contours are those of OpenCV, found as
connected components, so that OpenCV is not needed.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAP_SIDE = 224  # pixels of a map that is cut, in both directions
THRESHOLDS = np.arange(0, 1, 0.001)
IOUS = (0.3, 0.5, 0.7)  # at which a box is right
RESIZES = ("bicubic", "bilinear")
_TOUCHING = np.ones((3, 3))  # pixels of a contour may touch at corners, those of a hole may not
_GROWN = np.array([-1, -1, 1, 1])
_NONE = np.zeros((1, 4), dtype=np.int64)  # the box where nothing lies above a threshold


class CutBoxes(NamedTuple):
    """Boxes of what lies above a threshold.

    ``largest`` (4,) and ``every`` (K, 4) int64 are left, top, right and bottom in pixels, the ends
    one beyond the last pixel, but never beyond the last of the map. Without anything above the
    threshold both are one box at 0, 0, 0, 0.
    """

    largest: np.ndarray
    every: np.ndarray


def normalised_maps(maps: Tensor, resize: str = "bicubic") -> Tensor:
    """Maps in the size of the judgement, from 0 to 1.

    Args:
        maps: (B, h, w) scores of places.
        resize: ``bicubic``, with a = -0.75 as the official code's, or ``bilinear``.

    Returns:
        (B, 224, 224) float32; zeros where a map is constant or holds NaN.
    """
    shape = (MAP_SIDE, MAP_SIDE)
    constant = (maps.amax(dim=(1, 2)) == maps.amin(dim=(1, 2)))[:, None, None]
    large = F.interpolate(maps[:, None].float(), shape, mode=resize, align_corners=False)[:, 0]
    large = large - large.amin(dim=(1, 2), keepdim=True)
    top = large.amax(dim=(1, 2), keepdim=True)
    # Interpolation makes ripples of rounding of a constant map.
    return torch.where((top > 0) & ~constant, large / top, torch.zeros_like(large))


def heat_of(maps: Tensor) -> np.ndarray:
    """Maps in [0, 1] as the bytes that thresholds are compared with, truncated: (B, S, S) uint8."""
    return (maps * 255).to(torch.uint8).cpu().numpy()


def scaled_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """True boxes in pixels of the map, truncated.

    Args:
        boxes: (M, 4) left, top, right, bottom in pixels of the image.
        sizes: (M, 2) width and height of the image.

    Returns:
        (M, 4) int64.
    """
    return (boxes.double() * MAP_SIDE / sizes.double().repeat(1, 2)).long()


def cut_boxes(heat: np.ndarray, cut: int, euler: int | None = None) -> CutBoxes:
    """Boxes of the contours of all pixels above a threshold.

    Args:
        heat: (S, S) uint8.
        cut: Values above it count.
        euler: Number of components less that of holes, where it is known: it saves looking for
            holes where there are none.

    Returns:
        The boxes. Contours are components whose pixels touch, and the outline of each hole in one.
        The largest is the one whose outline through the middles of its pixels encloses the largest
        area, of several the last in the order of rows; lines and single pixels enclose none.
    """
    above = heat > cut
    rows, columns = (np.flatnonzero(above.any(axis)) for axis in (1, 0))
    if not len(rows):
        return CutBoxes(_NONE[0], _NONE)
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    mask = np.pad(above[top:bottom, left:right], 1)  # what lies around is one region, the first
    labels, count = _components(mask, _TOUCHING)
    boxes = np.array([[1, 1, right - left + 1, bottom - top + 1]])
    boxes = _extents(labels) if count > 1 else boxes
    filled, whole = labels, boxes
    if count != euler:
        regions, gaps = _components(~mask)
        # The outline of a hole lies in the pixels around it.
        boxes = np.concatenate([boxes, _extents(regions)[1:] + _GROWN])
        # What lies within a hole is smaller than what is around it, and never the largest.
        if gaps > 1 and count > 1:
            filled, count = _components(regions != 1, _TOUCHING)
            whole = _extents(filled)
    largest = 0
    if count > 1:
        largest = count - 1 - int(_areas(filled, count)[::-1].argmax())
    corner = np.array([left, top, left, top]) - 1
    limits = _limits(*heat.shape)
    return CutBoxes(np.minimum(whole[largest] + corner, limits), np.minimum(boxes + corner, limits))


def box_ious(boxes: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes whose ends belong to them.

    Args:
        boxes: (K, 4) left, top, right, bottom.
        truths: (M, 4) the same.

    Returns:
        (K, M) float64.
    """
    (left, top, right, bottom), others = boxes.T[:, :, None], truths.T[:, None]
    wide = np.minimum(right, others[2]) - np.maximum(left, others[0]) + 1
    tall = np.minimum(bottom, others[3]) - np.maximum(top, others[1]) + 1
    common = np.maximum(0, wide) * np.maximum(0, tall)
    area = (right - left + 1) * (bottom - top + 1)
    other = (others[2] - others[0] + 1) * (others[3] - others[1] + 1)
    return common / (area + other - common)


def best_ious(heat: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Best agreement of the boxes of a map with the true ones, at each threshold.

    Args:
        heat: (S, S) uint8.
        truths: (M, 4) int64 true boxes, as :func:`scaled_boxes` returns them; one or more.

    Returns:
        (2, 1000) float64 largest intersection over union, of the largest contour's box and of all.
    """
    values = np.flatnonzero(np.bincount(heat.ravel(), minlength=256))
    cuts = (THRESHOLDS * values[-1]).astype(np.int64)
    # Cuts between the same two values of the map leave the same pixels.
    places, back = np.unique(np.searchsorted(values, cuts, side="right"), return_inverse=True)
    euler = _euler(heat)
    found = np.empty((2, len(places)))
    for number, place in enumerate(places):
        cut = int(values[place - 1]) if place else -1
        boxes = cut_boxes(heat, cut, int(euler[cut]) if place else None)
        ious = box_ious(np.concatenate([boxes.largest[None], boxes.every]), truths)
        found[:, number] = ious[0].max(), ious[1:].max()
    return found[:, back]


def localisation_scores(
    largest: Tensor, every: Tensor, right: Tensor, second: Tensor
) -> dict[str, float]:
    """Shares of images whose object is found, in percent.

    Args:
        largest: (N, 1000) bool, whether the largest contour's box is right at IoU 0.5.
        every: (3, N, 1000) bool, whether one of all boxes is right at each of :data:`IOUS`.
        right: (N,) bool, whether the class is right.
        second: (N,) bool, one of two halves.

    Returns:
        ``max_box_acc`` and ``max_box_acc_v2``, at the threshold that is best on these very images;
        ``box_acc_val``, the first where each half is judged at the threshold that is best on the
        other; ``top1_loc``, class and box right at the first threshold that reaches
        ``max_box_acc``, and ``top1_loc_max``, its largest value over thresholds.

    Raises:
        ValueError: If there is no image.
    """
    if not len(largest):
        raise ValueError("there is no image with a box")
    found = largest.sum(0)
    both = (largest & right[:, None]).sum(0)
    hits = 0
    for half in (second, ~second):
        chosen = largest[~half].sum(0).argmax()
        hits += int(largest[half][:, chosen].sum())
    total = len(largest)
    return {
        "max_box_acc": 100 * int(found.amax()) / total,
        "max_box_acc_v2": float((100 * every.sum(1).amax(1).double() / total).mean()),
        "box_acc_val": 100 * hits / total,
        "top1_loc": 100 * int(both[found.argmax()]) / total,
        "top1_loc_max": 100 * int(both.amax()) / total,
    }


def _euler(heat: np.ndarray) -> np.ndarray:
    """Components less holes of the pixels above each value, (256,), for all values at once.

    Pixels are squares with their sides and corners: faces less edges plus corners of the union.
    """
    padded = np.pad(heat, 1)
    across = np.maximum(padded[:, :-1], padded[:, 1:])
    down = np.maximum(padded[:-1], padded[1:])
    corners = np.maximum(across[:-1], across[1:])
    parts = ((heat, 1), (across[1:-1], -1), (down[:, 1:-1], -1), (corners, 1))
    counts = sum(sign * np.bincount(each.ravel(), minlength=256) for each, sign in parts)
    return np.cumsum(counts[::-1])[::-1] - counts  # type: ignore[index]


def _components(mask: np.ndarray, touching: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Connected pixels numbered from 1 in the order of rows, and how many components there are."""
    from scipy import ndimage

    found: Any = ndimage.label(mask, touching)
    return found


def _extents(labels: np.ndarray) -> np.ndarray:
    """Boxes (K, 4) of regions in the order of their labels, ends one beyond the last pixel."""
    from scipy import ndimage

    places = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
    return np.array(places, dtype=np.int64)


def _areas(labels: np.ndarray, count: int) -> np.ndarray:
    """Areas (count,) within the outlines of components without holes, in half pixels.

    Of each 2 x 2 pixels, four enclose a unit, three a half, and fewer a line at most.
    """
    held = (labels > 0).astype(np.uint8)
    pairs = held[:-1] + held[1:]
    corners = pairs[:, :-1] + pairs[:, 1:]
    of = np.maximum(labels[:-1, :-1], labels[1:, 1:])  # of three pixels one is at these corners
    inside = corners > 2
    return np.bincount(of[inside], corners[inside] - 2.0, count + 1)[1:]


@cache
def _limits(height: int, width: int) -> np.ndarray:
    return np.array([width, height, width - 1, height - 1])
