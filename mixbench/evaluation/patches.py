"""Suites that take patches away or move them: which images a network still gets right.

Patches disappear in a random order, or in the order of what a network looks at: the object first
(``salient``) or the background first (``nonsalient``). Counts of several processes add up.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch
from mixbench.errors import UserError
from mixbench.evaluation import occlusion
from mixbench.evaluation.adversarial import Model
from mixbench.evaluation.keys import orders
from mixbench.nn.saliency import check_saliency_map, resize_images, saliency_map
from mixbench.records.weights import load_network

OWN = "own"  # where the judged network itself looks
RANDOM, SALIENT, NONSALIENT = "occ", "occ_salient", "occ_nonsalient"
Counts = dict[str, int]


class Looking:
    """Where a network looks in images: its attention, or its activation map of the true class.

    Args:
        given: Folder of a finished run, or its checkpoint; None: the judged network.
        model: The judged method.
        info: Facts of the data.

    Raises:
        UserError: If there is no such run, or its network shows no map of these classes.
        ValueError: If the judged network shows none.
    """

    def __init__(self, given: str | None, model: Any, info: DataInfo) -> None:
        if given is None:
            self.net, self.size = model.net, (info.height, info.width)
            self.mean, self.std = torch.tensor(info.mean), torch.tensor(info.std)
            if not _shows(self.net, info):
                raise ValueError("the network shows no map of its own; give eval.saliency=RUN")
            return
        key = f"eval.saliency={given}"
        self.net, known = load_network(given, "eval.saliency")
        check_saliency_map(self.net, key)
        if not _shows(self.net, info):
            raise UserError(
                f"its network knows {known.num_classes} classes, the data has {info.num_classes}",
                key,
                "use a run of the same data set, or one with attention",
            )
        self.net.requires_grad_(False).eval()
        self.size = (known.height, known.width)
        self.mean, self.std = torch.tensor(known.mean), torch.tensor(known.std)

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Maps (B, H, W) of images (B, C, H, W) in [0, 1] with labels (B,)."""
        mean, std = (value.to(x)[:, None, None] for value in (self.mean, self.std))
        with torch.autocast(x.device.type, enabled=False):
            maps = saliency_map(
                self.net.to(x.device), (resize_images(x, self.size) - mean) / std, y
            )[1]
        return resize_images(maps[:, None], (x.shape[2], x.shape[3]))[:, 0]


def occluded(model: Model, batches: Iterable[Batch], info: DataInfo, seed: int) -> Counts:
    """Right answers while patches disappear in random order.

    Args:
        model: Pixels (B, C, H, W) in [0, 1] to logits (B, K), in eval mode.
        batches: Images.
        info: Reads size and mean colour.
        seed: Of the orders, which belong to the image.

    Returns:
        Counts by ``occ_<percent>``, and the number of images ``n``.

    Raises:
        ValueError: If no grid of patches divides the images.
    """
    grid = _grid(info)

    def order(x: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {RANDOM: occlusion.drop_orders(seed, batch.ids, grid)}

    return _disappearing(model, batches, info, (RANDOM,), order)


def occluded_by_salience(
    model: Model, batches: Iterable[Batch], info: DataInfo, look: Callable[[Tensor, Tensor], Tensor]
) -> Counts:
    """Right answers while patches disappear by how much is looked at them.

    Args:
        model: As for :func:`occluded`.
        batches: Images.
        info: Reads size and mean colour.
        look: Images and labels (B,) to maps (B, H, W), such as :class:`Looking`.

    Returns:
        Counts by ``occ_salient_<percent>``, the most looked at first, and by
        ``occ_nonsalient_<percent>``, and the number of images ``n``.

    Raises:
        ValueError: If no grid of patches divides the images.
    """
    grid = _grid(info)

    def order(x: Tensor, batch: Batch) -> dict[str, Tensor]:
        maps = look(x, batch.labels)
        first = occlusion.salient_orders(maps, grid)
        last = occlusion.salient_orders(maps, grid, lowest_first=True)
        return {SALIENT: first, NONSALIENT: last}

    return _disappearing(model, batches, info, (SALIENT, NONSALIENT), order)


def occlusion_scores(counts: Mapping[str, int]) -> dict[str, float]:
    """Accuracy at each ratio in percent, and the area under it.

    Args:
        counts: Those of :func:`occluded` or :func:`occluded_by_salience` over the whole set.

    Returns:
        By kind of order ``<kind>_auc`` and ``<kind>_0`` to ``<kind>_90``.
    """
    ratios = torch.tensor(occlusion.RATIOS, dtype=torch.float64)
    found: dict[str, float] = {}
    for kind in (RANDOM, SALIENT, NONSALIENT):
        names = _names(kind)
        if names[0] in counts:
            curve = {name: 100 * counts[name] / counts["n"] for name in names}
            accuracy = torch.tensor(list(curve.values()), dtype=torch.float64)
            found[f"{kind}_auc"] = float(occlusion.occlusion_auc(ratios, accuracy))
            found |= curve
    return found


def shuffled(model: Model, batches: Iterable[Batch], info: DataInfo, seed: int) -> Counts:
    """Right answers after the patches of each image have changed places.

    Args:
        model: As for :func:`occluded`.
        batches: Images.
        info: Reads the size.
        seed: Of the orders, which belong to the image.

    Returns:
        Counts by ``shuffle_<patches per side>`` for the grids of 2, 4 and 8 that divide the
        images, and the number of images ``n``.

    Raises:
        ValueError: If none of them does.
    """
    sides = (info.height, info.width)
    grids = [grid for grid in occlusion.SHUFFLES if not any(side % grid for side in sides)]
    if not grids:
        raise ValueError(f"no grid of 2, 4 or 8 patches divides {info.height} x {info.width}")
    counts = {"n": 0} | {f"shuffle_{grid}": 0 for grid in grids}
    for batch in batches:
        counts["n"] += len(batch.labels)
        x = to_float(batch.images)
        for grid in grids:
            order = orders(seed, batch.ids, grid * grid)
            counts[f"shuffle_{grid}"] += _right(model, occlusion.shuffle(x, order), batch.labels)
    return counts


def shuffle_scores(counts: Mapping[str, int]) -> dict[str, float]:
    """Accuracy in percent for each grid.

    Args:
        counts: Those of :func:`shuffled` over the whole set.

    Returns:
        ``shuffle_2``, ``shuffle_4`` and ``shuffle_8``, as far as they fit.
    """
    return {name: 100 * count / counts["n"] for name, count in counts.items() if name != "n"}


def _disappearing(
    model: Model,
    batches: Iterable[Batch],
    info: DataInfo,
    kinds: tuple[str, ...],
    order: Callable[[Tensor, Batch], dict[str, Tensor]],
) -> Counts:
    counts = {"n": 0} | {name: 0 for kind in kinds for name in _names(kind)}
    fill = torch.tensor(info.mean)
    for batch in batches:
        counts["n"] += len(batch.labels)
        x = to_float(batch.images)
        for kind, patches in order(x, batch).items():
            gone = occlusion.dropped(patches, occlusion.RATIOS)
            for number, name in enumerate(_names(kind)):
                seen = occlusion.occlude(x, gone[:, number], fill)
                counts[name] += _right(model, seen, batch.labels)
    return counts


def _right(model: Model, x: Tensor, labels: Tensor) -> int:
    with torch.no_grad():
        return int((model(x).argmax(dim=1) == labels).sum())


def _grid(info: DataInfo) -> int:
    grid = occlusion.patch_grid(info.height)
    if info.width % grid:
        raise ValueError(f"a grid of {grid} patches does not divide {info.width} pixels")
    return grid


def _names(kind: str) -> list[str]:
    return [f"{kind}_{100 * ratio:.0f}" for ratio in occlusion.RATIOS]


def _shows(net: Any, info: DataInfo) -> bool:
    """Whether a network has attention, or an activation map for each class of the data."""
    provides = getattr(net, "provides", frozenset())
    weight = getattr(getattr(getattr(net, "head", None), "fc", None), "weight", None)
    return "attention" in provides or (
        "maps" in provides and weight is not None and len(weight) == info.num_classes
    )
