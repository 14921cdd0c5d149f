"""The occlusion suite: accuracy while patches of each image disappear in a random order."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch
from mixbench.evaluation import patches
from mixbench.evaluation.suite import SUITE_SEED, Counts, Model, Suite


class Occlusion(Suite):
    """Counts right answers at each ratio; the order of the patches belongs to the image."""

    columns = ("occ_auc",)
    kinds = ("occ",)  # of orders

    def count(self, model: Model, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Right answers by ``occ_<percent>``."""
        grid = grid_of(info)

        def order(x: Tensor, batch: Batch) -> dict[str, Tensor]:
            return {"occ": patches.drop_orders(SUITE_SEED, batch.ids, grid)}

        return count_while_disappearing(model, batches, info, self.kinds, order)

    def score(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Accuracy at each ratio in percent, ``<kind>_0`` to ``<kind>_90``, and the area under it.

        The area, ``<kind>_auc``, stands in front of its curve.
        """
        ratios = torch.tensor(patches.RATIOS, dtype=torch.float64)
        found: dict[str, float] = {}
        for kind in self.kinds:
            curve = {name: 100 * counts[name] / counts["n"] for name in _names(kind)}
            accuracy = torch.tensor(list(curve.values()), dtype=torch.float64)
            found[f"{kind}_auc"] = float(patches.occlusion_auc(ratios, accuracy))
            found |= curve
        return found

    def facts(self, info: DataInfo, counts: Mapping[str, int]) -> dict[str, Any]:
        """The ratios and the colour."""
        del info, counts
        return {"ratios": list(patches.RATIOS), "fill": "mean colour"}


def count_while_disappearing(
    model: Model,
    batches: Iterable[Batch],
    info: DataInfo,
    kinds: tuple[str, ...],
    order: Callable[[Tensor, Batch], dict[str, Tensor]],
) -> Counts:
    """Right answers while patches disappear.

    Args:
        model: Pixels (B, C, H, W) in [0, 1] to logits (B, K), in eval mode.
        batches: Images.
        info: Reads the mean colour, which takes the place of a patch.
        kinds: Names of the orders.
        order: Pixels (B, C, H, W) and their batch to orders (B, P) of patches, by kind.

    Returns:
        Counts by ``<kind>_<percent>``, and the number of images ``n``.
    """
    counts = {"n": 0} | {name: 0 for kind in kinds for name in _names(kind)}
    fill = torch.tensor(info.mean)
    for batch in batches:
        counts["n"] += len(batch.labels)
        x = to_float(batch.images)
        for kind, places in order(x, batch).items():
            gone = patches.dropped(places, patches.RATIOS)
            for number, name in enumerate(_names(kind)):
                seen = patches.occlude(x, gone[:, number], fill)
                counts[name] += count_right(model, seen, batch.labels)
    return counts


def count_right(model: Model, x: Tensor, labels: Tensor) -> int:
    """Number of images (B, C, H, W) whose class (B,) a network gets right."""
    with torch.no_grad():
        return int((model(x).argmax(dim=1) == labels).sum())


def grid_of(info: DataInfo) -> int:
    """Patches per side for the images of a data set.

    Args:
        info: Reads their size.

    Returns:
        As :func:`mixbench.evaluation.patches.patch_grid`.

    Raises:
        ValueError: If no grid divides them.
    """
    grid = patches.patch_grid(info.height)
    if info.width % grid:
        raise ValueError(f"a grid of {grid} patches does not divide {info.width} pixels")
    return grid


def _names(kind: str) -> list[str]:
    return [f"{kind}_{100 * ratio:.0f}" for ratio in patches.RATIOS]
