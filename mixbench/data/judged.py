"""Images that people judged: which ones a test must leave out, and how training sees them.

H-Mix holds judgements of sums of two test images of CIFAR-10, CIFAR-10S soft labels of single ones,
and a study of ``mixbench elicit`` either. The sums are made again from the images of the data set.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.data.files.location import data_folder
from mixbench.data.hmix import (
    SUMMED,
    HumanJudgements,
    JudgedImages,
    JudgedPairs,
    SoftLabels,
    annotations,
    read_hmix,
    stimuli,
)
from mixbench.data.images import Batch, ImageSet
from mixbench.data.labels import read_annotators
from mixbench.data.sampling import JUDGED, BatchIndex, mix_seed
from mixbench.errors import UserError, counted
from mixbench.functional.ratings import RELABEL_RULES

JUDGEMENTS_KEY = "data.judgements"
LINEAR = "linear"  # the weight of the pixels, which nobody has judged
JUDGED_RULES = (LINEAR, *RELABEL_RULES)
WHOLE_RULES = (LINEAR, "mean", "per_annotator")  # for labels of all classes
FINEST = 1000  # shares of a batch are multiples of one part in so many, or nearly


class JudgedMixtures(NamedTuple):
    """Judged images (S, C, H, W) uint8, and what is said of them.

    ``first`` and ``second`` (S,) int64 are the classes of the two images that each is the sum of,
    equal for a single image, and ``lam`` (S,) float64 the weight of the first. Either ``ratings``
    and ``confidence`` (S, R) float64 are people's weights of the first image, or ``labels``
    (S, R, K) float64 their labels of all classes; NaN where fewer than R people judged.
    """

    images: Tensor
    first: Tensor
    second: Tensor
    lam: Tensor
    ratings: Tensor | None = None
    confidence: Tensor | None = None
    labels: Tensor | None = None


class LabelTable(NamedTuple):
    """Labels (S, R, K) float32 that each judged image can bear, of which ``counts`` (S,) are real.

    One for each image, unless single people's labels are drawn.
    """

    labels: Tensor
    counts: Tensor


def read_judgements(given: str) -> HumanJudgements:
    """Read what people said of images.

    Args:
        given: Value of ``data.judgements``: what :func:`mixbench.data.hmix.read_hmix` reads, or
            soft labels as of CIFAR-10S; a relative path that is not here is looked for in the
            folder of data sets.

    Returns:
        The judgements; soft labels of single images are sums of weight 1.

    Raises:
        UserError: If there is no such file, or it is no such file.
    """
    path = answers_path(Path(given))
    annotated = read_annotators(path) if path.is_file() else None
    if annotated is None:
        return read_hmix(path)
    rows, unknown = annotated.rows, torch.full_like(annotated.rows, -1)
    pairs = JudgedPairs(rows, unknown, rows, unknown)
    ones = torch.ones(len(rows), dtype=torch.float64)
    soft = SoftLabels(pairs, ones, annotated.labels)
    return HumanJudgements(path, None, None, None, soft, JudgedImages(images=int(rows.max()) + 1))


def answers_path(given: Path) -> Path:
    """Where a file of judgements or answers lies.

    Args:
        given: Its path.

    Returns:
        The path; below the folder of data sets if it is relative, only there, and not here.
    """
    below = data_folder() / given
    return below if not given.exists() and below.exists() else given


@dataclass(frozen=True)
class JudgedPart:
    """The part of a data set whose images people judged.

    Args:
        judgements: What they said.
        images: The part.
        places: (N,) places of its images in the original set; None where these are all images in
            their order.
        classes: Number of classes.

    Raises:
        UserError: If the judgements are about other images.
    """

    judgements: HumanJudgements
    images: ImageSet
    places: Tensor | None
    classes: int

    def __post_init__(self) -> None:
        self._check(self._pairs())

    @property
    def split(self) -> str:
        """``train`` or ``test``."""
        return self.judgements.source.split

    @property
    def rows(self) -> Tensor:
        """Rows (M,) of the part that people have seen, in whatever task."""
        used = [self._find(each) for pairs in self._pairs() for each in (pairs.first, pairs.second)]
        found = torch.cat(used).unique()
        return found[found >= 0]

    def mixtures(self, allowed: Tensor | None = None) -> JudgedMixtures:
        """Make the judged images again.

        Args:
            allowed: (N,) bool, rows of the part that training may see; all if None.

        Returns:
            Those whose images are there and allowed: with people's weights where there are such,
            else with their labels.

        Raises:
            UserError: If none is left, or they were mixed by a method that makes no sums.
        """
        source, where = self.judgements.source, str(self.judgements.path)
        if source.method not in SUMMED:
            what = f"people judged images mixed by {source.method}, which are not made again here"
            raise UserError(what, where, f"use a study of method={SUMMED[0]}")
        judged = self._judged()
        if judged is None:
            what, todo = (
                "nobody judged a weight or gave a label in this study",
                "the tasks infer or categorical",
            )
            raise UserError(what, where, f"give judgements of {todo}")
        pairs, lam, values = judged
        first, second, kept = self._kept(pairs, allowed)
        if not bool(kept.any()):
            what = "none of the judged images can be made from the given images"
            raise UserError(what, where, "use the data that were judged, and more of them")
        first, second, lam = first[kept], second[kept], lam[kept]
        made = _sums(self._pixels(first), self._pixels(second), lam)
        classes = self.images.labels.cpu()
        return JudgedMixtures(
            made, classes[first], classes[second], lam, **{k: v[kept] for k, v in values.items()}
        )

    def left_out(self, allowed: Tensor | None = None) -> str:
        """A sentence on judged images that :meth:`mixtures` leaves out; empty if there are none."""
        judged = self._judged()
        kept = torch.ones(0) if judged is None else self._kept(judged[0], allowed)[2]
        lost = len(kept) - int(kept.sum())
        why = "they show images that are not at hand, or of the hold-out"
        return (
            f"{lost:,} of {len(kept):,} judged images cannot be trained on: {why}" if lost else ""
        )

    def _kept(self, pairs: JudgedPairs, allowed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (S,) of both images in the part, and which sums can be made of allowed ones."""
        first, second = self._find(pairs.first), self._find(pairs.second)
        kept = (first >= 0) & (second >= 0)
        return first, second, kept if allowed is None else kept & allowed[first] & allowed[second]

    def _pairs(self) -> list[JudgedPairs]:
        found = self.judgements
        groups = (found.infer, found.construct, found.select, found.soft)
        return [group.pairs for group in groups if group is not None]

    def _judged(self) -> tuple[JudgedPairs, Tensor, dict[str, Tensor]] | None:
        """Pairs (S,), weights (S,) and what people said of them; None where they did otherwise."""
        infer, soft = self.judgements.infer, self.judgements.soft
        if infer is not None and not bool(infer.repeated.all()):
            found = stimuli(infer)
            return (
                found.pairs,
                found.true,
                {"ratings": found.ratings, "confidence": found.confidence},
            )
        if soft is not None:
            labelled = annotations(soft)
            return labelled.pairs, labelled.true, {"labels": labelled.labels}
        return None

    def _find(self, rows: Tensor) -> Tensor:
        """Rows of the part for places in the original set, -1 where it lacks one."""
        places = torch.arange(len(self.images)) if self.places is None else self.places
        size = max(int(places.max()), int(rows.max()) if len(rows) else 0) + 1
        found = torch.full((size,), -1)
        found[places] = torch.arange(len(places))
        return found[rows]

    def _pixels(self, rows: Tensor) -> Tensor:
        return self.images[BatchIndex(rows, 0)].images.cpu()

    def _check(self, groups: list[JudgedPairs]) -> None:
        where = str(self.judgements.path)
        if self.images.labels.ndim > 1:
            raise UserError(
                "people judged images with one class each, and these have several",
                where,
                "use the data that were judged",
            )
        soft = self.judgements.soft
        if soft is not None and soft.labels.shape[1] != self.classes:
            what = f"labels of {soft.labels.shape[1]} classes for images of {self.classes}"
            raise UserError(what, where, "use the data that were judged")
        classes = self.images.labels.cpu()
        wrong = total = 0
        for pairs in groups:
            for rows, known in (
                (pairs.first, pairs.first_class),
                (pairs.second, pairs.second_class),
            ):
                found = self._find(rows)
                told = (found >= 0) & (known >= 0)
                wrong += int((classes[found[told]] != known[told]).sum())
                total += int(told.sum())
        if wrong:
            raise UserError(
                f"the classes of {wrong:,} of {total:,} judged images differ from the data set's: "
                "they are others, or in another order",
                where,
                "use the data that were judged, with the same data.limit and data.train_fraction",
            )


def _sums(first: Tensor, second: Tensor, lam: Tensor) -> Tensor:
    """Weighted sums (S, C, H, W) uint8, rounded as the files that people saw."""
    weight = lam[:, None, None, None]
    return (weight * first + (1 - weight) * second).round().to(torch.uint8)


def label_table(
    judged: JudgedMixtures, classes: int, *, rule: str, omega: float, smoothing: float = 0.0
) -> LabelTable:
    """Labels of judged images.

    Args:
        judged: The images.
        classes: Number of classes K.
        rule: One of :data:`JUDGED_RULES`; of labels of all classes one of :data:`WHOLE_RULES`.
        omega: As for :func:`mixbench.functional.relabel`.
        smoothing: Label smoothing of the classes of both images, in [0, 1].

    Returns:
        All labels that a person gave for ``per_annotator``, else one for each image.

    Raises:
        UserError: If the rule needs weights and there are labels, or gives no label.
    """
    first, second = (
        mf.one_hot(y, classes, smoothing=smoothing, dtype=torch.float64)
        for y in (judged.first, judged.second)
    )
    ones = torch.ones(len(first), dtype=torch.int64)
    where = f"method.rule={rule}"
    if rule == LINEAR:
        label = judged.lam[:, None] * first + (1 - judged.lam[:, None]) * second
        return LabelTable(label[:, None].float(), ones)
    if judged.labels is not None:
        if rule not in WHOLE_RULES:
            what = "people gave labels of all classes, and no weights, which this rule needs"
            raise UserError(what, where, f"choose of: {', '.join(WHOLE_RULES)}")
        if rule == "mean":
            return LabelTable(judged.labels.nanmean(dim=1, keepdim=True).float(), ones)
        counts = (~judged.labels.isnan().any(dim=2)).sum(dim=1)
        return LabelTable(judged.labels.nan_to_num(0).float(), counts)
    assert judged.ratings is not None
    given = (first, second, judged.ratings, judged.confidence)
    if rule != "per_annotator":
        label = mf.relabel(*given, rule=rule, omega=omega)
        lost = int(label.isnan().any(dim=1).sum())
        if lost:
            what = f"nobody was sure at all of {counted(lost, 'image')}, which get no label"
            raise UserError(what, where, "choose mean, median or smooth_uniform")
        return LabelTable(label[:, None].float(), ones)
    counts = (~judged.ratings.isnan()).sum(dim=1)
    labels = [
        mf.relabel(*given, rule=rule, rater=counts.sub(1).clamp(max=rater))
        for rater in range(judged.ratings.shape[1])
    ]
    return LabelTable(torch.stack(labels, dim=1).float(), counts)


class JudgedBatches(Dataset[Batch]):
    """A training set in whose batches judged images take the places of some others.

    Which places, which images and whose labels follows from the seed and from how many images
    training has seen before, whatever process or batch they are in. Each judged image is shown once
    before any of them is shown again, in an order that is drawn anew each time.

    Args:
        images: The training set.
        judged: The judged images.
        table: Their labels.
        share: Part of the places that they take, in (0, 1].
        seed: Seed of the run.
    """

    def __init__(
        self,
        images: Dataset[Batch],
        judged: JudgedMixtures,
        table: LabelTable,
        share: float,
        seed: int,
    ) -> None:
        self.images, self.counts, self.seed = images, table.counts, seed
        self.share = Fraction(share).limit_denominator(FINEST)
        self.choices = table.labels.shape[1]
        self._pixels, self._first = judged.images, judged.first
        self._labels = table.labels.flatten(0, 1)

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, draw: BatchIndex) -> Batch:
        batch = self.images[draw]
        if draw.places is None:
            return batch
        device = batch.images.device
        if self._pixels.device != device:
            tables = (self._pixels, self._first, self._labels)
            self._pixels, self._first, self._labels = (each.to(device) for each in tables)
        place, number, rater = (
            each.to(device, non_blocking=True) for each in self.chosen(draw.places)
        )
        soft = self._labels.index_select(0, number * self.choices + rater)
        blank = soft.new_full((len(batch.ids), soft.shape[1]), torch.nan)
        crops = batch.crops
        if crops is not None:  # judged images are whole
            whole = crops.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(place), 4)
            crops = crops.index_copy(0, place, whole)
        return batch._replace(
            images=batch.images.index_copy(0, place, self._pixels.index_select(0, number)),
            labels=batch.labels.index_copy(0, place, self._first.index_select(0, number)),
            ids=batch.ids.index_copy(0, place, len(self) + number),
            crops=crops,
            soft=blank.index_copy(0, place, soft),
        )

    def chosen(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What stands in a batch.

        Args:
            places: (B,) as in :class:`mixbench.data.sampling.BatchIndex`.

        Returns:
            (J,) places in the batch, numbers of the judged images there, and which of its labels
            each bears.
        """
        part, whole = self.share.numerator, self.share.denominator
        before = places * part // whole
        where = ((places + 1) * part // whole > before).nonzero()[:, 0]
        turn, own = before[where] // len(self.counts), before[where] % len(self.counts)
        number, rater = torch.empty_like(own), torch.empty_like(own)
        for each in turn.unique().tolist():
            generator = Generator().manual_seed(mix_seed(JUDGED, self.seed, each))
            order = torch.randperm(len(self.counts), generator=generator)
            drawn = torch.rand(len(order), generator=generator, dtype=torch.float64)
            mine = turn == each
            number[mine] = order[own[mine]]
            rater[mine] = (drawn * self.counts).long()[number[mine]]
        return where, number, rater


class AnsweredImages(ImageSet):
    """Test images for which people answered, whose batches hold their answers.

    Args:
        images: The images.
        answers: (N, K) labels by people, in their order.
    """

    def __init__(self, images: ImageSet, answers: Tensor) -> None:
        super().__init__(images.labels, images.boxes)
        self.images, self.answers = images, answers.float()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.images.shape

    def __getitem__(self, draw: BatchIndex) -> Batch:
        batch = self.images[draw]
        if self.answers.device != batch.ids.device:
            self.answers = self.answers.to(batch.ids.device)
        return batch._replace(soft=self.answers.index_select(0, batch.ids))

    def subset(self, rows: Tensor) -> "AnsweredImages":
        """The images at ``rows`` (M,), in that order."""
        return AnsweredImages(self.images.subset(rows), self.answers[rows])

    def to(self, device: torch.device) -> "AnsweredImages":
        """The same set on another device."""
        return AnsweredImages(self.images.to(device), self.answers)
