"""The two-class suite: whether a network finds both classes of mixed test images.

Test images are mixed as the method mixes training images, in the groups and pairs of the gaze
suite, the same for every method. ``two_class_hit`` is the share of pairs of two classes that are
the two best guesses of the network that is tested, or of the finished run that ``eval.judge``
names: one that was not there when a method learned to mix is no judge of its own case.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mixbench.config.schema import DataInfo
from mixbench.data.images import Batch, Splits
from mixbench.errors import UserError
from mixbench.evaluation.gaze import GROUP, gaze_order
from mixbench.evaluation.suite import SUITE_BATCH, SUITE_SEED, Counts, Suite
from mixbench.methods.base import Method
from mixbench.methods.evaluation import mix_for_evaluation
from mixbench.metrics.classification import two_class_hits
from mixbench.nn.saliency import resize_images
from mixbench.records.weights import load_network

TESTED = "own"  # in the facts of a record: the judge is the network that is tested


class TwoClass(Suite):
    """Counts mixed images whose two classes are the two best guesses."""

    columns = ("two_class_hit",)
    keys = ("eval.judge",)
    needs = "asks for the two classes of an image"

    def count(self, model: Any, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Pairs of two classes ``n`` and the ``hits`` among them."""
        judge = model if self.config.judge is None else Judge(self.config.judge, info)
        counts = {"n": 0, "hits": 0}
        for batch in batches:
            for start in range(0, len(batch.ids) - 1, GROUP):  # a last image alone has no partner
                found = _group(model, judge, batch, slice(start, start + GROUP))
                counts = {key: counts[key] + found[key] for key in counts}
        return counts

    def score(self, counts: Mapping[str, int]) -> dict[str, float]:
        """The share of hits in percent."""
        if not counts["n"]:
            raise ValueError("no pair of two classes was mixed")
        return {"two_class_hit": 100 * counts["hits"] / counts["n"]}

    def facts(self, info: DataInfo, counts: Mapping[str, int]) -> dict[str, Any]:
        """The judge, and the number of pairs."""
        del info
        return {"judge": self.config.judge or TESTED, "pairs": counts["n"]}

    def check_data(self, splits: Splits) -> None:
        """Refuse a judge of other classes."""
        if self.config.judge is not None:
            Judge(self.config.judge, splits.info)

    def refusal(self, info: DataInfo, method: Any = None) -> str:
        """Also a method that does not mix pixels."""
        reason = super().refusal(info, method)
        plain = method is not None and type(method).pixel_weights is Method.pixel_weights
        return reason or ("it looks at mixed images, and the method mixes no pixels" * plain)

    def divide(self, rows: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Neighbours in a random order, which become pairs."""
        del rows
        return gaze_order(SUITE_SEED, len(labels)).split(SUITE_BATCH)

    def as_recorded(self, facts: Mapping[str, Any]) -> Suite:
        """With the judge that the record names."""
        judge = facts.get("judge")
        return self._with(judge=None if judge == TESTED else self.config.judge or judge)


class Judge:
    """The network of a finished run, that says what it sees in images of any size.

    Args:
        given: Folder of the run, or its checkpoint.
        info: Facts of the data.

    Raises:
        UserError: If there is no such run, or it knows another number of classes.
    """

    def __init__(self, given: str, info: DataInfo) -> None:
        self.net, known = load_network(given, "eval.judge")
        if known.num_classes != info.num_classes:
            raise UserError(
                f"the network of that run has {known.num_classes} classes, and the data have "
                f"{info.num_classes}",
                f"eval.judge={given}",
                "use a run of the same data set",
            )
        self.net.requires_grad_(False).eval()
        self.size = (known.height, known.width)
        self.mean, self.std = torch.tensor(known.mean), torch.tensor(known.std)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        mean, std = (value.to(pixels)[:, None, None] for value in (self.mean, self.std))
        return self.net.to(pixels.device)((resize_images(pixels, self.size) - mean) / std)


def _group(model: Any, judge: Any, batch: Batch, part: slice) -> dict[str, int]:
    """Pairs and hits among images that are mixed together."""
    images, labels, ids = batch.images[part], batch.labels[part], batch.ids[part]
    perm = torch.arange(len(labels), device=images.device).roll(1)
    _, mixed = mix_for_evaluation(model, images, labels, perm, SUITE_SEED, int(ids[0]))
    if mixed.perm is None or mixed.lam is None:  # this batch was left as it is
        return {"n": 0, "hits": 0}
    pixels = model.to_pixels(mixed.x[: len(labels)].float())
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        hits = two_class_hits(judge(pixels), labels, labels[perm])
    differ = labels != labels[perm]
    return {"n": int(differ.sum()), "hits": int((hits & differ).sum())}
