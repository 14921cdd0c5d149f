"""The suite ood: whether a network is less sure of images that are not of its training's kind.

Test images (in-distribution, ID) are compared with each set that ``eval.ood`` names, by four scores
of an image: the largest probability (the default of tables), the largest logit, energy and entropy,
each higher for ID. Test images are positive in AUROC, ``aupr_in`` and ``fpr95``, the OOD images in
``aupr_out``. Whether a set shows classes or even images of the training data is not looked at.

``gaussian`` and ``uniform`` are noise, which any network should tell apart: a sanity check that
takes no part in the mean over sets.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch, ImageSet, Splits
from mixbench.data.ood import (
    KEY,
    NAMED_SETS,
    WAYS,
    OodImages,
    find_ood,
    full_word,
    ood_name,
    read_ood,
)
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.evaluation.per_image_random import uniform
from mixbench.evaluation.suite import SUITE_SEED, Counts, Model, Outcome, Suite
from mixbench.metrics import detection_scores, ood_score

INSIDE = "test images"  # the part that is no set
NOISE = ("gaussian", "uniform")
NOISE_IMAGES = 1_000
MEASURES = ("auroc", "aupr_in", "aupr_out", "fpr95", "det_acc")
# Ending of the column's name, and the score of an image.
IMAGE_SCORES = {
    "": "msp",
    "_maxlogit": "maxlogit",
    "_energy": "energy",
    "_entropy": "negentropy",
}
SHOWN = ("auroc", "fpr95")  # in the line that is logged


class Ood(Suite):
    """Keeps four scores of each test image and of each image of the other sets."""

    columns = tuple(f"{measure}{ending}" for ending in IMAGE_SCORES for measure in MEASURES)
    keys = (KEY,)
    needs = "asks how sure a network is of one class"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._sets: dict[str, OodImages | NoiseImages] = {}

    def parts(self, info: DataInfo) -> Sequence[str]:
        """The test images, and each set by its name."""
        return (INSIDE, *self._open(info))

    def images(self, part: str, splits: Splits) -> ImageSet:
        """The images of a set."""
        return splits.test if part == INSIDE else self._open(splits.info)[part]

    def count_part(
        self, part: str, model: Model, batches: Iterable[Batch], info: DataInfo
    ) -> Counts:
        """Images ``n``, those that are ``grey``, and four ``sureness`` (B, 4) of each image."""
        found = [torch.empty(0, len(IMAGE_SCORES), dtype=torch.float64)]
        grey = 0
        for batch in batches:
            with torch.no_grad():
                logits = model(to_float(batch.images))
            kinds = IMAGE_SCORES.values()
            found.append(torch.stack([ood_score(logits, kind) for kind in kinds], dim=1).cpu())
            same = batch.images[:, :1] == batch.images
            grey += int(same.flatten(1).all(dim=1).sum())
        sureness = torch.cat(found)
        return {"n": len(sureness), "grey": grey, "sureness": sureness}

    def score(self, counts: Mapping[str, Any]) -> dict[str, float]:
        """Measures in percent: means over the sets, then those of each set by the probability."""
        tables = _tables(counts)
        real = [name for name in tables if name not in NOISE]
        found = {}
        for ending in IMAGE_SCORES if real else ():
            for measure in MEASURES:
                values = [tables[name][f"{measure}{ending}"] for name in real]
                found[f"{measure}{ending}"] = math.fsum(values) / len(values)
        for name, table in tables.items():
            found |= {f"{name}_{measure}": table[measure] for measure in MEASURES}
        return found

    def facts(self, info: DataInfo, counts: Mapping[str, Any]) -> dict[str, Any]:
        """The sets, how their images were changed, and all measures of each."""
        opened, tables = self._open(info), _tables(counts)
        total = sum(counts[f"{name}/n"] for name in opened)
        grey = sum(counts[f"{name}/grey"] for name in opened)
        told = {
            name: {
                "source": str(images.source),
                "way": WAYS[images.way],
                "images": counts[f"{name}/n"],
                "grey": counts[f"{name}/grey"],
                "other_files": images.unused,
                "scores": {key: round(value, 6) for key, value in tables[name].items()},
            }
            for name, images in opened.items()
        }
        return {
            "sets": ", ".join(sorted(name for name in opened if name not in NOISE)),
            "words": [word if word in NOISE else full_word(word) for word in self.config.ood],
            "outside_images": total,
            "outside_grey": grey,
            "by_set": told,
            "positive": "test images; OOD images in aupr_out and fpr95_oodpos",
            "overlap": "classes and images that a set shares with the training data: not checked",
        }

    def doubts(self, scores: Mapping[str, float], counts: Mapping[str, Any]) -> list[str]:
        """Sets of grey images beside colour ones, which colour alone tells apart."""
        names = sorted({key.rpartition("/")[0] for key in counts} - {INSIDE, *NOISE})
        grey = [name for name in names if counts[f"{name}/grey"]]
        if not grey:
            return []
        told = ", ".join(f"{counts[f'{n}/grey']} of {counts[f'{n}/n']} of {n}" for n in grey)
        own = f"{counts[f'{INSIDE}/grey']} of {counts[f'{INSIDE}/n']} test images"
        return [f"grey images are shown in RGB: {told}; {own} are grey"]

    def check(self) -> None:
        """Refuse to be carried out without sets, or with files that are not there."""
        if not self.config.ood:
            known = ", ".join([*NAMED_SETS, *NOISE])
            todo = f"give {KEY}=[NAME or PATH, ...]; names are {known}"
            raise UserError(f"the suite {self.name} needs images of other data sets", KEY, todo)
        names = [word if word in NOISE else ood_name(word) for word in self.config.ood]
        for word, name in zip(self.config.ood, names, strict=True):
            if name in NOISE and word not in NOISE:  # it would take no part in the means
                what = f"{word} has the name of the noise {name}"
                raise UserError(what, KEY, "rename the file")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            what = f"two sets are named {twice}, and their scores would have the same name"
            raise UserError(what, KEY, "rename one of the files")
        for word in self.config.ood:
            if word not in NOISE:
                find_ood(word)

    def check_data(self, splits: Splits) -> None:
        """Refuse files that cannot be read."""
        self._open(splits.info)

    def headline(self, scores: Iterable[str]) -> list[str]:
        """The two best known measures, of each set where there is no mean over sets."""
        scores = list(scores)
        means = [score for score in scores if score in SHOWN]
        return means or [s for s in scores if s.endswith(tuple(f"_{name}" for name in SHOWN))]

    def add_to_record(
        self, outcome: Outcome, metrics: dict[str, float], evaluations: dict[str, Any]
    ) -> list[str]:
        """Add an outcome; scores of sets that are no longer among those of the mean go."""
        for score in score_names(evaluations.get(self.name, {})):
            if score not in self.columns and score not in outcome.scores:
                metrics.pop(score, None)
        if any(score not in outcome.scores for score in self.columns):  # noise alone has no mean
            for score in self.columns:
                metrics.pop(score, None)
        return super().add_to_record(outcome, metrics, evaluations)

    def as_recorded(self, facts: Mapping[str, Any]) -> Suite | None:
        """With the sets of the record, where they lay then, or lie now; None if one is lost."""
        for words in (list(facts.get("words", ())), self.config.ood):
            suite = self._with(ood=words)
            try:
                suite.check()
            except UserError:
                continue
            return suite
        return None

    def unverified(self, score: str, facts: Mapping[str, Any]) -> str:
        """The reason why a score was not computed again."""
        if score not in (*self.columns, *score_names(facts)):
            return ""
        names = ", ".join(facts.get("by_set", ()))
        return f"images of {names} are not there; give {KEY}=[PATH, ...]"

    def _open(self, info: DataInfo) -> "dict[str, OodImages | NoiseImages]":
        """The sets by name; opened once."""
        if not self._sets:
            size = (info.height, info.width)
            for word in self.config.ood:
                images = NoiseImages(word, size) if word in NOISE else read_ood(word, size)
                if images.name in self._sets or images.name == INSIDE:
                    raise UserError(f"two sets are named {images.name}", KEY, "rename one")
                self._sets[images.name] = images
        return self._sets


class NoiseImages(ImageSet):
    """Images of independent random values, the same for every network of the size.

    Args:
        name: ``uniform``, all values alike, or ``gaussian``, of mean 0.5 and deviation 1 for pixels
            in [0, 1], cut at both ends.
        size: Height and width in pixels.
    """

    way, source, unused = "", Path(), 0

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        super().__init__(torch.zeros(NOISE_IMAGES, dtype=torch.int64))
        self.name, self._size, self._rows = name, size, torch.arange(NOISE_IMAGES)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Those of the network's images."""
        return (3, *self._size)

    def __getitem__(self, draw: BatchIndex) -> Batch:
        rows = draw.indices.cpu()
        drawn = uniform(SUITE_SEED, self._rows[rows], (2, *self.shape)).double()
        values = drawn[:, 0]
        if self.name == "gaussian":  # Box and Muller, 1958
            radius = (-2 * (1 - drawn[:, 0]).log()).sqrt()
            values = 0.5 + radius * (2 * math.pi * drawn[:, 1]).cos()
        images = (values * 256).floor().clamp(0, 255).to(torch.uint8)
        return Batch(images, self.labels[rows], rows)

    def subset(self, rows: Tensor) -> "NoiseImages":
        """The images at ``rows`` (M,), in that order."""
        other = NoiseImages(self.name, self._size).with_labels(self.labels[rows])
        other._rows = self._rows[rows]
        return other


def score_names(facts: Mapping[str, Any]) -> list[str]:
    """Names of the scores of single sets that a record's facts of the suite tell of."""
    return [f"{name}_{measure}" for name in facts.get("by_set", {}) for measure in MEASURES]


def _tables(counts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """All measures of each set, by all scores of an image; NaN where a network gave none."""
    inside = counts[f"{INSIDE}/sureness"]
    names = [key.removesuffix("/sureness") for key in counts if key.endswith("/sureness")]
    tables: dict[str, dict[str, float]] = {}
    for name in names:
        if name == INSIDE:
            continue
        outside, table = counts[f"{name}/sureness"], tables.setdefault(name, {})
        for column, ending in enumerate(IMAGE_SCORES):
            pair = inside[:, column], outside[:, column]
            lost = any(bool(values.isnan().any()) for values in pair)
            measured = dict.fromkeys((*MEASURES, "fpr95_oodpos"), math.nan)
            if not lost:
                measured = detection_scores(*pair)
            table |= {f"{measure}{ending}": value for measure, value in measured.items()}
    return tables
