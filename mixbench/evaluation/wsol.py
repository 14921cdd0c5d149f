"""The suite wsol: whether a network that knows classes alone finds the object (weak supervision).

A map of the network is cut at 1,000 thresholds, and the boxes of what is left are compared with
those that people drew, as :mod:`mixbench.metrics.localisation` says. The map is the class
activation map; of a transformer that has none, what its last block attends to, which is the same
for all classes.

The two scores of the paper take the threshold that is best on the judged images, an oracle.
``box_acc_val`` does not: the test images are divided into two halves of equal classes, and each is
judged at the threshold that is best on the other. The paper's own validation images (CUBV2,
ImageNetV2) are another download, exist for two data sets and would leave Tiny-ImageNet without the
score.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.boxes import BoxedImages
from mixbench.data.images import Batch, ImageSet, Splits
from mixbench.errors import UserError
from mixbench.evaluation.suite import SUITE_SEED, Counts, Suite
from mixbench.metrics import stratified_halves
from mixbench.metrics.localisation import (
    IOUS,
    MAP_SIDE,
    THRESHOLDS,
    best_ious,
    box_ious,
    heat_of,
    localisation_scores,
    normalised_maps,
    scaled_boxes,
)
from mixbench.nn.saliency import attention_of_patches, class_activation, has_class_map

SINGLE_IOU = 0.5  # at which the largest contour's box is right
_WHOLE = np.array([[0, 0, MAP_SIDE - 1, MAP_SIDE - 1]])
CLASS_MAP = "class activation map"
ATTENTION = "attention of the last block, the same for all classes"


class Wsol(Suite):
    """Keeps for each image at which thresholds its boxes are right."""

    columns = ("max_box_acc", "max_box_acc_v2", "box_acc_val", "top1_loc")
    keys = ("eval.wsol_resize", "eval.wsol_class")
    needs = "looks for the object of the one class of an image"

    def images(self, part: str, splits: Splits) -> ImageSet:
        """The test images with their boxes."""
        return BoxedImages(super().images(part, splits))

    def count(self, model: Any, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Images ``n``, those whose map is ``attention``, and values of each image.

        These are its ``label``, whether its class is ``right``, whether it is ``boxed``, as an
        image without a box of its class is not, whether the box of the ``whole`` image would be
        right, and ``found``, (B, 1000) uint8 with a bit for the largest contour's box, right at IoU
        0.5, and one for the best of all boxes at each of 0.3, 0.5 and 0.7.
        """
        labels = [torch.empty(0, dtype=torch.int64)]
        right, boxed, whole = ([torch.empty(0, dtype=torch.bool)] for _ in range(3))
        found = [torch.empty(0, len(THRESHOLDS), dtype=torch.uint8)]
        for batch in batches:
            if batch.boxes is None:
                raise ValueError("the images have no boxes")
            x = to_float(batch.images)
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                predicted = model(x).argmax(dim=1)
                y = batch.labels if self.config.wsol_class == "true" else predicted
                maps = localisation_maps(model, x, y, info)
            heats = heat_of(normalised_maps(maps, self.config.wsol_resize))
            truths = [
                true_boxes(boxes[boxes[:, 0] == label])
                for boxes, label in zip(batch.boxes.cpu(), batch.labels.cpu(), strict=True)
            ]
            labels.append(batch.labels.cpu())
            right.append((predicted == batch.labels).cpu())
            boxed.append(torch.tensor([len(boxes) > 0 for boxes in truths]))
            agreed = (box_ious(_WHOLE, boxes) for boxes in truths)
            whole.append(torch.tensor([bool((ious >= SINGLE_IOU).any()) for ious in agreed]))
            pairs = zip(heats, truths, strict=True)
            found.append(torch.stack([found_at(heat, boxes) for heat, boxes in pairs]))
        values = {
            "label": labels,
            "right": right,
            "boxed": boxed,
            "whole": whole,
            "found": found,
        }
        counts: Counts = {name: torch.cat(parts) for name, parts in values.items()}
        total = len(counts["label"])
        shown = total if map_kind(model.net, info) == ATTENTION else 0
        return {"n": total, "attention": shown} | counts

    def score(self, counts: Mapping[str, Any]) -> dict[str, float]:
        """See :func:`mixbench.metrics.localisation.localisation_scores`, over images with a box."""
        boxed = counts["boxed"]
        found, right, label = (counts[name][boxed] for name in ("found", "right", "label"))
        largest, *every = ((found >> bit) & 1 == 1 for bit in range(1 + len(IOUS)))
        halves = stratified_halves(label, SUITE_SEED)
        scores = localisation_scores(largest, torch.stack(every), right, halves)
        return {f"{name}{self._ending}": value for name, value in scores.items()}

    def facts(self, info: DataInfo, counts: Mapping[str, Any]) -> dict[str, Any]:
        """The map and its class, and what of the images could not be judged."""
        return {
            "cam_class": self.config.wsol_class,
            "cam_resize": self.config.wsol_resize,
            "map": ATTENTION if counts["attention"] else CLASS_MAP,
            "without_box": int((~counts["boxed"]).sum()),
            "whole_image": round(_whole_share(counts), 6),
            "box_acc_val": "threshold of the other half of the test images",
            "box_ends": "one beyond the last pixel, cut at what the image shows",
        }

    def doubts(self, scores: Mapping[str, float], counts: Mapping[str, Any]) -> list[str]:
        """A map that finds no more than who does not look at it."""
        best, whole = scores[f"max_box_acc{self._ending}"], _whole_share(counts)
        if best > whole:
            return []
        return [
            f"the maps find {best:.2f} % of the objects, and the box of the whole image {whole:.2f}"
            " %: they say nothing of places"
        ]

    def check_data(self, splits: Splits) -> None:
        """Refuse images without boxes."""
        if splits.test.boxes is None:
            raise UserError(
                f"{self.name} compares with boxes, and {splits.info.name} has none",
                "eval.suites",
                f"leave {self.name} out, or use cub200, tinyimagenet, imagenet with its boxes or a "
                "pack with bbox",
            )

    def refusal(self, info: DataInfo, method: Any = None) -> str:
        """Also a network that shows neither a map of each class nor attention."""
        reason = super().refusal(info, method)
        if reason or method is None or map_kind(method.net, info):
            return reason
        return (
            f"it needs feature maps with a classifier of {info.num_classes} classes, or attention; "
            f"{type(method.net).__name__} shows neither"
        )

    def headline(self, scores: Iterable[str]) -> list[str]:
        """Its columns, also under names that tell of other settings."""
        return [s for s in scores if s.removesuffix(self._ending) in self.columns]

    def as_recorded(self, facts: Mapping[str, Any]) -> Suite:
        """With the map of the record."""
        names = ("class", "resize")
        told = {f"wsol_{name}": facts.get(f"cam_{name}") for name in names}
        return self._with(**{key: value for key, value in told.items() if value is not None})

    def varies(self, score: str) -> bool:
        """A map that is a last bit smaller can be truncated to the byte below."""
        return score.removesuffix(self._ending) in (*self.columns, "top1_loc_max")

    @property
    def _ending(self) -> str:
        """What scores of other settings than the paper's are told apart by."""
        resize = "" if self.config.wsol_resize == "bicubic" else f"_{self.config.wsol_resize}"
        return resize + ("" if self.config.wsol_class == "true" else "_predicted")


def map_kind(net: Any, info: DataInfo) -> str:
    """What the map of a network shows, in words; empty if it has none."""
    if has_class_map(net, info.num_classes):
        return CLASS_MAP
    return ATTENTION if "attention" in getattr(net, "provides", ()) else ""


def localisation_maps(model: Any, x: Tensor, y: Tensor, info: DataInfo) -> Tensor:
    """The maps that tell where a network sees the object.

    Args:
        model: A method in eval mode.
        x: (B, C, H, W) images in [0, 1].
        y: (B,) classes of the maps.
        info: Facts of the data.

    Returns:
        (B, h, w) in the size of the last features, of any sign.

    Raises:
        ValueError: If the network shows no map.
    """
    net, kind = model.net, map_kind(model.net, info)
    if kind == CLASS_MAP:
        h = net.forward_stages(model.normalize(x))
        return class_activation(net.head.norm(h), net.head.fc.weight, y)
    if kind == ATTENTION:
        return attention_of_patches(net, model.normalize(x))[1]
    raise ValueError(f"{type(net).__name__} shows neither feature maps nor attention")


def true_boxes(boxes: Tensor) -> np.ndarray:
    """Boxes (M, 7) of :class:`mixbench.data.images.Batch` as (M, 4) int64 in pixels of the map."""
    # From rows and columns to the horizontal first, as boxes of maps have it.
    return scaled_boxes(boxes[:, [2, 1, 4, 3]], boxes[:, [6, 5]]).numpy()


def found_at(heat: np.ndarray, truths: np.ndarray) -> Tensor:
    """At which thresholds the boxes of a map are right.

    Args:
        heat: (224, 224) uint8 map.
        truths: (M, 4) the object's boxes in pixels of the map; there may be none.

    Returns:
        (1000,) uint8 bits, as :meth:`Wsol.count` says.
    """
    if not len(truths):
        return torch.zeros(len(THRESHOLDS), dtype=torch.uint8)
    single, every = torch.from_numpy(best_ious(heat, truths))
    bits = torch.stack([single >= SINGLE_IOU, *(every >= limit for limit in IOUS)])
    return (bits.to(torch.uint8) << torch.arange(len(bits), dtype=torch.uint8)[:, None]).sum(
        0, dtype=torch.uint8
    )


def _whole_share(counts: Mapping[str, Any]) -> float:
    """Percent of the images with a box of which the box of the whole image is right."""
    boxed = counts["boxed"]
    return 100 * int((counts["whole"] & boxed).sum()) / max(1, int(boxed.sum()))
