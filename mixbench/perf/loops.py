"""Mixing as scripts write it, one image after the other, to measure per-sample forms against.

Each does for every image what the code of the authors and of OpenMixup does for one.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.functional.saliencymix import LUMA, REACH
from mixbench.perf.peers import Variant

CELLS = 8  # along each side of the maps of Attentive CutMix
TOP = 6
MAPS = f"{TOP} of {CELLS} x {CELLS} cells, of maps that are given"
_LABELS = "returns both labels and the weight, no soft targets"
_DECAY = 3.0
RANDOM = np.random.default_rng(0)

Array = np.ndarray[Any, Any]
Loop = tuple[Tensor, Tensor, Tensor, Tensor | float]


def cell_maps(x: Tensor) -> Tensor:
    """Maps (B, 8, 8) of images (B, C, H, W), at no cost."""
    step = x.shape[2] // CELLS
    return x[:, 0, ::step, ::step]


def attentivemix_loop(x: Tensor, y: Tensor) -> Loop:
    """Attentive CutMix, its cells marked image by image."""
    maps, perm = cell_maps(x), torch.randperm(len(x), device=x.device)
    cells = torch.zeros_like(maps)
    side = maps.shape[2]
    _, best = maps.flatten(1).topk(TOP)
    for row, chosen in enumerate(best):
        cells[row, chosen // side, chosen % side] = 1
    mask = F.interpolate(cells[:, None], scale_factor=x.shape[2] // side)
    lam = float(mask[0].mean())
    return mask * x + (1 - mask) * x[perm], y, y[perm], lam


def fmix_mask(lam: float, height: int, width: int) -> Array:
    """One mask of FMix, its pixels sorted."""
    columns = width // 2 + 1
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[:columns])
    scale = np.maximum(frequency, 1 / max(height, width)) ** -_DECAY
    noise = RANDOM.standard_normal((height, columns, 2)) * scale[..., None]
    grey = np.fft.irfft2(noise[0] + 1j * noise[1], (height, width)).ravel()
    mask = np.zeros(grey.size, dtype=np.float32)
    mask[grey.argsort()[::-1][: round(lam * grey.size)]] = 1
    return mask.reshape(height, width)


def fmix_loop(x: Tensor, y: Tensor) -> Loop:
    """FMix with a mask of each image."""
    perm = torch.randperm(len(x), device=x.device)
    shares = RANDOM.beta(1.0, 1.0, len(x))
    masks = np.stack([fmix_mask(lam, x.shape[2], x.shape[3]) for lam in shares])
    mask = torch.from_numpy(masks).to(x.device)[:, None]
    return mask * x + (1 - mask) * x[perm], y, y[perm], torch.from_numpy(shares)


def fine_grained(image: Array) -> Array:
    """OpenCV's fine-grained saliency of an image (3, H, W) in [0, 1], as levels from 0 to 255."""
    red, green, blue = (w * part for w, part in zip(LUMA, np.rint(image * 255.0), strict=True))
    grey = np.floor((red + green + blue) / 2**15 + 0.5)
    for _ in range(2):
        wide = np.pad(grey, 1, mode="reflect")
        rows = wide[:-2] + 2 * wide[1:-1] + wide[2:]
        grey = np.floor((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16 + 0.5)
    total = np.pad(grey.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    brighter, darker = np.zeros_like(grey), np.zeros_like(grey)
    for reach in REACH:
        (top, bottom), (left, right) = (
            (np.clip(at - reach + 1, 0, None), np.clip(at + reach + 1, None, len(at)))
            for at in map(np.arange, grey.shape)
        )
        rows = total[bottom] - total[top]
        count = (bottom - top)[:, None] * (right - left)
        around = (rows[:, right] - rows[:, left] - grey) / np.maximum(count - 1, 1)
        brighter += np.floor(np.maximum(grey - around, 0))
        darker += np.floor(np.maximum(around - grey, 0))
    parts = (np.floor(255 * part / max(part.max(), 1)) for part in (brighter, darker))
    return sum(parts, np.zeros_like(grey))


def saliencymix_loop(x: Tensor, y: Tensor) -> Loop:
    """SaliencyMix with the map and the box of each partner."""
    perm = torch.randperm(len(x), device=x.device)
    mixed, weights = x.clone(), torch.empty(len(x))
    size = x.shape[2:]
    for row, other in enumerate(perm.tolist()):
        kept = RANDOM.beta(1.0, 1.0)
        saliency = fine_grained(x[other].cpu().numpy())
        peak = np.unravel_index(saliency.argmax(), saliency.shape)
        half = [int(side * (1 - kept) ** 0.5) // 2 for side in size]
        top, left = (max(at - reach, 0) for at, reach in zip(peak, half, strict=True))
        bottom, right = (
            min(at + reach, side) for at, reach, side in zip(peak, half, size, strict=True)
        )
        mixed[row, :, top:bottom, left:right] = x[other, :, top:bottom, left:right]
        weights[row] = 1 - (bottom - top) * (right - left) / (size[0] * size[1])
    return mixed, y, y[perm], weights


def loops(shape: Any) -> list[Variant]:
    """Loops over the images of a batch, whatever its shape."""
    del shape
    by_numpy = f"of NumPy, image by image; {_LABELS}"
    return [
        Variant("fmix per sample, loop", fmix_loop, f"mask, spectrum and sort {by_numpy}"),
        Variant("saliencymix per sample, loop", saliencymix_loop, f"map and box {by_numpy}"),
        Variant("attentivemix per sample, loop", attentivemix_loop, f"{MAPS}; {_LABELS}"),
    ]
