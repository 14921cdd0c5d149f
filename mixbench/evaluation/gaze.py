"""The gaze suite: whether labels of mixed images agree with what people look at in them.

Test images are mixed as training mixes, by decisions that belong to the suite and not to batches or
processes, in groups whose images are neighbours in a random order and partners in a ring: the same
pairs for every method.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mixbench.config.schema import DataInfo
from mixbench.data.images import Batch, Splits
from mixbench.data.maps import interpolate_maps, read_test_maps
from mixbench.errors import UserError
from mixbench.evaluation.per_image_random import orders
from mixbench.evaluation.suite import SUITE_BATCH, SUITE_SEED, Counts, Suite
from mixbench.methods.evaluation import mix_for_evaluation
from mixbench.metrics import centre_gaussian, gaze_lam

GROUP = 16  # images that are mixed together, and share what a method draws once for a batch
EXACT = 10**9  # sums are whole numbers of this part of 1, equal in whatever order they are added
ORDER = 1  # of the images, among the keys of the suite's seed


class Gaze(Suite):
    """Adds up distances of labels from gaze, of images that the method mixes."""

    columns = ("gaze_inconsistency", "gaze_centre")
    keys = ("eval.gaze",)
    needs = "compares weights of two classes"
    needs_mask = "a mask over pixels"

    def count(self, model: Any, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """See :func:`gaze_counts`."""
        del info
        return gaze_counts(model, batches, SUITE_SEED)

    def score(self, counts: Mapping[str, int]) -> dict[str, float]:
        """See :func:`gaze_scores`."""
        return gaze_scores(counts)

    def facts(self, info: DataInfo, counts: Mapping[str, int]) -> dict[str, Any]:
        """The file of the maps, and the numbers of pairs with and without gaze."""
        del info
        return {"maps": self.config.gaze, "pairs": counts["pairs"], "blank": counts["blank"]}

    def check(self) -> None:
        """Refuse to be carried out without maps."""
        if self.config.gaze is None:
            what = f"the suite {self.name} needs one map per test image"
            raise UserError(what, "eval.gaze", "give eval.gaze=FILE or FOLDER")

    def check_data(self, splits: Splits) -> None:
        """Refuse maps that do not fit the test images."""
        if self.config.gaze is not None:
            read_test_maps(self.config.gaze, splits)

    @property
    def maps(self) -> str | None:
        """``eval.gaze``."""
        return self.config.gaze

    def divide(self, rows: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Neighbours in a random order, which become pairs."""
        del rows
        return gaze_order(SUITE_SEED, len(labels)).split(SUITE_BATCH)

    def as_recorded(self, facts: Mapping[str, Any]) -> Suite:
        """With the maps where they lie now, or lay then."""
        return self._with(gaze=self.config.gaze or facts.get("maps"))


def gaze_order(seed: int, total: int) -> Tensor:
    """The test images in the order in which they become pairs.

    Args:
        seed: Seed of the suite.
        total: Number of test images N.

    Returns:
        (N,) int64 rows.
    """
    return orders(seed, torch.tensor([ORDER]), total)[0]


def gaze_counts(model: Any, batches: Iterable[Batch], seed: int) -> dict[str, int]:
    """Distances of labels and gaze, summed over pairs of images.

    Args:
        model: A method in eval mode.
        batches: Images in the order of :func:`gaze_order`, in multiples of ``GROUP`` but for the
            last, with maps (B, h, w) of where people looked.
        seed: Seed of the suite.

    Returns:
        Images ``n`` that were mixed, their ``pairs`` without the ``blank`` ones, whose mixed image
        shows no gaze, and ``distance`` and ``centre``, sums of ``abs(lam_label - lam_gaze)`` over
        the pairs for the maps and for gaze at the centre of every image, in units of 1e-9.
    """
    counts: dict[str, int] = {"n": 0, "pairs": 0, "blank": 0, "distance": 0, "centre": 0}
    for batch in batches:
        assert batch.maps is not None
        places = range(0, len(batch.ids) - 1, GROUP)  # the last image alone has no partner
        for part in (slice(start, start + GROUP) for start in places):
            for key, value in _group(model, batch, part, seed).items():
                counts[key] += value
    return counts


def _group(model: Any, batch: Batch, part: slice, seed: int) -> dict[str, int]:
    images, ids, maps = batch.images[part], batch.ids[part], batch.maps
    assert maps is not None
    perm = torch.arange(len(ids), device=images.device).roll(1)
    x, mixed = mix_for_evaluation(model, images, batch.labels[part], perm, seed, int(ids[0]))
    shares = None if mixed.lam is None else model.pixel_weights(x, mixed)
    if shares is None or mixed.lam is None:  # this batch was left as it is
        return {}
    size = (x.shape[2], x.shape[3])
    shape = (len(ids), *size)
    own, partner = (share.expand(shape) for share in shares)
    label = mixed.lam.double().expand(len(ids))
    gaze = interpolate_maps(maps[part], size)
    lam, blank = gaze_lam(gaze, gaze.index_select(0, perm), own, partner)
    centre = centre_gaussian(size).to(x.device).expand(shape)
    middle, unseen = gaze_lam(centre, centre, own, partner)
    counted = ~(blank | unseen)
    found = {"n": len(ids), "pairs": int(counted.sum()), "blank": int((~counted).sum())}
    for key, other in (("distance", lam), ("centre", middle)):
        parts = ((label - other).abs() * EXACT).round().long()
        found[key] = int(parts[counted].sum())
    return found


def gaze_scores(counts: Mapping[str, int]) -> dict[str, float]:
    """The measure, and its control.

    Args:
        counts: Those of :func:`gaze_counts` over the whole set.

    Returns:
        ``gaze_inconsistency``, 100 times the mean distance, and ``gaze_centre``, the same if people
        looked at the centre of every image.

    Raises:
        ValueError: If no pair shows any gaze.
    """
    if not counts["pairs"]:
        raise ValueError(f"none of {counts['n']} mixed images shows any gaze; are the maps empty?")
    scale = 100 / EXACT / counts["pairs"]
    names = {"gaze_inconsistency": "distance", "gaze_centre": "centre"}
    return {name: scale * counts[key] for name, key in names.items()}
