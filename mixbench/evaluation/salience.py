"""The salience suite: accuracy while patches disappear by how much a network attends to them.

The most salient patches first (``occ_salient``) or the background first (``occ_nonsalient``). The
map is that of the judged network, or of a finished run that ``eval.saliency`` names.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mixbench.config.schema import DataInfo
from mixbench.data.images import Batch, Splits
from mixbench.errors import UserError
from mixbench.evaluation import patches
from mixbench.evaluation.occlusion import Occlusion, count_while_disappearing, grid_of
from mixbench.evaluation.suite import Counts, Model, Suite
from mixbench.nn.saliency import (
    check_saliency_map,
    has_class_map,
    resize_images,
    saliency_map,
)
from mixbench.records.weights import load_network

JUDGED_NETWORK = "own"  # in the facts of a record: the map is that of the judged network


class SaliencyMap:
    """A network's attention in images, or its activation map of the true class.

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
            if not _has_map(self.net, info):
                raise ValueError("the network shows no map of its own; give eval.saliency=RUN")
            return
        key = f"eval.saliency={given}"
        self.net, known = load_network(given, "eval.saliency")
        check_saliency_map(self.net, key)
        if not _has_map(self.net, info):
            raise UserError(
                f"the network of that run has {known.num_classes} classes, and the data have "
                f"{info.num_classes}",
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


class Salience(Occlusion):
    """Counts right answers at each ratio, for both orders."""

    columns = ("occ_salient_auc", "occ_nonsalient_auc")
    keys = ("eval.saliency",)
    kinds = ("occ_salient", "occ_nonsalient")

    def count(self, model: Model, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Right answers by ``occ_salient_<percent>`` and ``occ_nonsalient_<percent>``."""
        return count_by_salience(
            model, batches, info, SaliencyMap(self.config.saliency, model, info)
        )

    def facts(self, info: DataInfo, counts: Mapping[str, int]) -> dict[str, Any]:
        """Ratios and colour, and the network that the map is of."""
        source = self.config.saliency or JUDGED_NETWORK
        return super().facts(info, counts) | {"saliency": source}

    def check_data(self, splits: Splits) -> None:
        """Refuse a run whose network shows no map of the classes."""
        if self.config.saliency is not None:
            SaliencyMap(self.config.saliency, None, splits.info)

    def as_recorded(self, facts: Mapping[str, Any]) -> Suite:
        """With the map that the record names."""
        source = facts.get("saliency")
        given = None if source == JUDGED_NETWORK else self.config.saliency or source
        return self._with(saliency=given)


def count_by_salience(
    model: Model, batches: Iterable[Batch], info: DataInfo, saliency: Callable[..., Tensor]
) -> Counts:
    """Right answers while patches disappear by the saliency that they hold.

    Args:
        model: Pixels (B, C, H, W) in [0, 1] to logits (B, K), in eval mode.
        batches: Images.
        info: Reads size and mean colour.
        saliency: Images and labels (B,) to maps (B, H, W), such as :class:`SaliencyMap`.

    Returns:
        Counts by ``occ_salient_<percent>``, the most salient first, and by
        ``occ_nonsalient_<percent>``, and the number of images ``n``.

    Raises:
        ValueError: If no grid of patches divides the images.
    """
    grid = grid_of(info)

    def order(x: Tensor, batch: Batch) -> dict[str, Tensor]:
        maps = saliency(x, batch.labels)
        first = patches.salient_orders(maps, grid)
        last = patches.salient_orders(maps, grid, lowest_first=True)
        return dict(zip(Salience.kinds, (first, last), strict=True))

    return count_while_disappearing(model, batches, info, Salience.kinds, order)


def _has_map(net: Any, info: DataInfo) -> bool:
    """Whether a network has attention, or an activation map for each class of the data."""
    attention = "attention" in getattr(net, "provides", frozenset())
    return attention or has_class_map(net, info.num_classes)
