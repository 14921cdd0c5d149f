"""The interface of data sets, which can be named, identified and read."""

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mixbench.config.schema import DataConfig, DataInfo
from mixbench.data.classes import class_notices
from mixbench.data.files.cache import read_prepared
from mixbench.data.files.decode import is_image, left_out_notice
from mixbench.data.files.encoded import FileImages, Part, read_part
from mixbench.data.hmix import HumanJudgements
from mixbench.data.images import (
    HOLDOUT_LIMIT,
    Content,
    ImageSet,
    ResidentImages,
    Splits,
    Stats,
    image_stats,
    stratified,
    sum_counts,
)
from mixbench.data.judged import JUDGEMENTS_KEY, JudgedPart, read_judgements
from mixbench.data.labels import OtherLabels, labels_of, read_labels
from mixbench.data.overlap import pixel_hashes, shared_notices, shared_rows, with_hashes
from mixbench.data.race_folds import fold_rows, training_rows
from mixbench.errors import UserError, counted


class DataSource(ABC):
    """A data set that can be named, identified and read.

    Args:
        config: The ``data`` part of a run.
    """

    task = "multiclass"
    constants: Stats | None = None  # as published; else those of the training images are used

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    @property
    def official(self) -> bool | None:
        """True if the files are those that the authors distribute; None where that is not known."""
        return None

    @property
    def name(self) -> str:
        """Shown name, part of every run id."""
        return self.config.name or self.config.kind

    @cached_property
    def other_labels(self) -> OtherLabels | None:
        """The labels that ``data.labels`` asks for."""
        return None if self.config.labels is None else read_labels(self.config.labels)

    @cached_property
    def judgements(self) -> HumanJudgements | None:
        """What people said of its images, if ``data.judgements`` names it."""
        given = self.config.judgements
        return None if given is None else read_judgements(given)

    @property
    def full_name(self) -> str:
        """The shown name, with that of other training labels, and of a part of the test set."""
        name = self.name if self.other_labels is None else f"{self.name}+{self.other_labels.name}"
        found = self.judgements
        dropped = found is not None and len(found.used_images) and not self.config.allow_overlap
        return f"{name}-unjudged" if dropped else name

    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash of the files, without decoding them."""

    def identity(self) -> str:
        """Content hash of all that is trained and tested on, labels of others included."""
        self.check_division()  # keys that the hash does not hold, as they can have no effect
        found = self.fingerprint()
        for other in (self.other_labels, self.judgements):
            if other is not None:
                found = hashlib.sha256((found + other.fingerprint()).encode()).hexdigest()
        return found

    def original_rows(self) -> tuple[Tensor | None, Tensor | None]:
        """Places of the training and of the test images in the sets that they were taken from.

        None where these are the sets themselves.
        """
        return None, None

    @property
    def division(self) -> str:
        """How the test images were set aside; empty where they have always stood apart."""
        return ""

    def check_division(self) -> None:
        """Refuse keys that set test images aside, of a set that has its own.

        Raises:
            UserError: If one is given.
        """
        for key in ("test_fraction", "folds"):
            if getattr(self.config, key) is not None:
                raise UserError(
                    f"{self.name} has test images of its own, and none are set aside",
                    f"data.{key}",
                    f"leave data.{key} out, or give images that are not divided",
                )

    def train_count(self) -> int:
        """Number of training images; to be written anew where that is known before reading."""
        return len(self.read().train)

    def parts(self) -> tuple[Part, Part, list[str]] | None:
        """Files of the training and of the test images, and class names; None if it has none."""
        return None

    def class_ids(self) -> list[str]:
        """WordNet ids of the classes, in the order of the labels; empty where they have none."""
        return []

    def read(self) -> Content:
        """Read everything; to be written anew for a set that does not consist of image files."""
        parts = self.parts()
        if parts is None:
            raise UserError(
                f"{type(self).__name__} has neither parts() nor read(), so it cannot be read",
                f"data={self.config.kind}",
                "define one of the two in the class",
            )
        return read_content(*parts, self.config)

    def load(self, *, holdout: bool = False) -> Splits:
        """Read, take the subsets that the configuration asks for, and describe the result.

        Args:
            holdout: Set aside a stratified part of the training images.

        Returns:
            The splits; the hold-out is no longer part of ``train``. With ``data.race_fold`` a fold
            of the training images stands in place of the test images, which nothing looks at.

        Raises:
            UserError: If files are missing, unreadable or do not fit together.
        """
        config = self.config
        self.check_division()
        content = read_prepared(self) or self.read()
        train, test, class_names, skipped, stats, notices, unused, shared = content
        if config.store is not None and isinstance(train, FileImages) and train.part.pixels is None:
            raise UserError(
                f"the pixels of {self.name} are not kept yet",
                f"data.store={config.store}",
                f"give the same keys of data to mixbench data prepare {config.kind}",
            )
        racing = config.race_fold is not None
        if racing and self.judgements is not None:
            raise UserError(
                "data.judgements would use test images, and a race may not read any before its "
                "last run",
                JUDGEMENTS_KEY,
                "leave it out",
            )
        if racing:  # from here on there is no test set
            test, shared, skipped = train, 0, (skipped[0], 0)
        if config.random_crops and isinstance(train, ResidentImages):
            notices = [*notices, _not_cropped(self.name, config)]
        if (
            shared is None
            and isinstance(train, ResidentImages)
            and isinstance(test, ResidentImages)
        ):
            shared = len(shared_rows(pixel_hashes(train), pixel_hashes(test)))
        if config.size is not None:  # files have it from decoding; what was stored as pixels not
            sized = [
                part.resized(config.size, config.fit)
                if isinstance(part, ResidentImages) and part.shape[1:] != (config.size,) * 2
                else part
                for part in ((train,) if racing else (train, test))
            ]
            train, test = sized[0], sized[-1]
        if train.shape != test.shape:
            raise _two_sizes(train.shape, test.shape)
        notices = [*notices, *shared_notices(shared, len(test))]
        whole = len(train)
        # Subsets and hold-outs hold the same images whichever labels are trained on.
        rows = stratified(train.labels, self._kept(whole))
        labels = self.training_labels(train.labels, class_names, skipped[0])[rows]
        judged = self._judged_part("train", train, skipped[0], rows, len(class_names))
        train = train.subset(rows)
        noise = None if self.config.labels is None else _unequal(labels, train.labels)
        if racing:
            held_out = fold_rows(train.labels, *config.fold_of_race)
            test = train.subset(held_out).with_labels(labels[held_out])
            rest = training_rows(len(train), held_out)
            train, labels = train.subset(rest), labels[rest]
        rows = stratified(test.labels, min(len(test), config.limit or len(test)))
        judged = judged or self._judged_part("test", test, skipped[1], rows, len(class_names))
        if judged is not None:
            rows, told = self._unjudged(judged, rows, len(test))
            notices = [*notices, told]
        places = None
        if not skipped[1] and not racing and config.folds is None:  # a fold counts anew
            places = self._places(1, len(test))
            places = rows if places is None else places[rows]
        test, test_rows = test.subset(rows), rows
        val, seen = None, None
        if holdout:
            count = self._held_out(len(train))
            if not 0 < count < len(train):
                raise UserError(
                    f"a hold-out of {count} of {len(train)} training images is too small, or "
                    "leaves too few images",
                    "data.val_fraction",
                    "change the fraction or use select=last",
                )
            rows = stratified(train.labels, count)
            rest = training_rows(len(train), rows)
            if judged is not None and judged.split == "train":
                seen = torch.zeros(len(train), dtype=torch.bool)
                seen[rest] = True
            val = train.subset(rows).with_labels(labels[rows])
            train, labels = train.subset(rest), labels[rest]
        train = train.with_labels(labels)
        lost = "" if judged is None else judged.left_out(seen)
        notices += [lost] if lost else []
        notices += class_notices(train.labels, test.labels, class_names)
        if stats is None or (len(train) < whole and isinstance(train, ResidentImages)):
            stats = self._stats(train)
        channels, height, width = train.shape
        info = DataInfo(
            num_classes=len(class_names),
            height=height,
            width=width,
            channels=channels,
            task=self.task,
            **stats._asdict(),
            class_names=class_names,
            class_ids=self.class_ids(),
            name=self.full_name,
            train_size=len(train),
            test_size=len(test),
            skipped=sum(skipped),
            skipped_test=skipped[1],
            division=self.division,
            official=self.official,
            label_noise=noise,
            notices=notices,
            unused=dict(unused),
            shared_images=shared,
        )
        names = (lambda: None) if skipped[1] or racing else lambda: self._test_names(test_rows)
        made = None if judged is None else lambda: judged.mixtures(seen)
        return Splits(train, test, info, val, places, names, made)

    def _judged_part(
        self, split: str, whole: ImageSet, skipped: int, rows: Tensor, classes: int
    ) -> JudgedPart | None:
        """The images of a split as judgements number them; None if they are not of this split.

        Args:
            split: ``train`` or ``test``.
            whole: All its images.
            skipped: Images that were left out of it.
            rows: Those of the subset that the run takes, which is what a study of ours shows.
            classes: Number of classes.
        """
        if self.judgements is None or self.judgements.source.split != split:
            return None
        if self.judgements.source.own and self.config.folds is not None:
            # Each fold numbers its images anew, and classes of equal size would hide that.
            raise UserError(
                "the images of a study cannot be found in folds, as a study does not record the "
                "fold",
                f"{JUDGEMENTS_KEY}, data.folds",
                "leave one of them out",
            )
        if skipped:
            raise UserError(
                f"{skipped} {split} images cannot be read, so the numbers of the others no longer "
                "fit",
                JUDGEMENTS_KEY,
                "repair them, or do without data.on_corrupt=skip",
            )
        if self.judgements.source.own:
            return JudgedPart(self.judgements, whole.subset(rows), None, classes)
        places = self._places(int(split == "test"), len(whole))
        return JudgedPart(self.judgements, whole, places, classes)

    def _unjudged(self, judged: JudgedPart, rows: Tensor, total: int) -> tuple[Tensor, str]:
        """The test images that stay, and a sentence on the others.

        Args:
            judged: The images that people judged.
            rows: (N,) rows of the test images that the run would take.
            total: Number of all test images.
        """
        name = judged.judgements.path.name
        if judged.split == "train":
            return rows, f"people judged training images ({name}): all test images are tested on"
        used = torch.zeros(total, dtype=torch.bool)
        used[rows[judged.rows] if judged.judgements.source.own else judged.rows] = True
        stay = rows[~used[rows]]
        lost = counted(len(rows) - len(stay), "test image")
        if self.config.allow_overlap:
            return rows, (
                f"warning: {lost} of {len(rows):,} that people judged ({name}) are tested on, as "
                "data.allow_overlap=true: a method that has trained on them scores too well"
            )
        if not len(stay):
            raise UserError(
                f"people judged all {len(rows):,} test images ({name}), so no test image is left",
                JUDGEMENTS_KEY,
                "use more test images, or judgements of fewer",
            )
        return stay, f"{lost} of {len(rows):,} that people judged ({name}) are not tested on"

    def _kept(self, count: int) -> int:
        """Training images of ``count`` that are used."""
        keep = count
        if self.config.train_fraction < 1:
            keep = max(1, round(keep * self.config.train_fraction))
        return min(keep, self.config.limit or keep)

    def _held_out(self, count: int) -> int:
        """Images of the hold-out from ``count`` that are used."""
        return min(round(count * self.config.val_fraction), HOLDOUT_LIMIT)

    def trained_count(self, *, holdout: bool = False) -> int:
        """Images that training sees.

        Args:
            holdout: As for :meth:`load`.

        Returns:
            Their number, which images that cannot be read may lower.
        """
        keep = self._kept(self.train_count())
        return keep - (self._held_out(keep) if holdout else 0)

    def _test_names(self, rows: Tensor) -> list[str] | None:
        """Names of the files of the test images at ``rows``, if each image is a file of its own."""
        parts = self.parts()
        if parts is None:
            return None
        names = [str(parts[1].names[row]) for row in rows.tolist()]
        return names if all(map(is_image, names)) else None

    def training_labels(self, own: Tensor, class_names: list[str], skipped: int) -> Tensor:
        """Labels to train on: ``data.labels``, or the data set's own.

        Args:
            own: Labels of all training images.
            class_names: Of the data set.
            skipped: Training images that were left out.

        Returns:
            As many labels.

        Raises:
            UserError: If the other ones do not belong to these images.
        """
        if self.other_labels is None:
            return own
        if skipped:
            raise UserError(
                f"{skipped} training images cannot be read, so the numbers of the others no "
                "longer fit",
                "data.labels",
                "repair them, or do without data.on_corrupt=skip",
            )
        rows = self._places(0, len(own))
        return labels_of(self.other_labels, own, rows, class_names)

    def _places(self, split: int, count: int) -> Tensor | None:
        """Original places of the training (0) or of the test images (1)."""
        rows = self.original_rows()[split]
        if rows is not None and len(rows) != count:
            part = ("training", "test")[split]
            what = f"original_index has {len(rows)} rows for {count} {part} images"
            raise UserError(what, "data", "correct the pack")
        return rows

    def _stats(self, train: ImageSet) -> Stats:
        """Published constants where there are any; what only BC+ needs is not read from files."""
        if self.constants is None:
            return image_stats(train.sample())
        if not isinstance(train, ResidentImages):
            return self.constants
        stats = image_stats(train.sample())
        return stats._replace(mean=self.constants.mean, std=self.constants.std)


def read_content(
    train: Part | ResidentImages,
    test: Part | ResidentImages,
    class_names: list[str],
    config: DataConfig,
) -> Content:
    """Read both parts of a data set.

    Args:
        train: Files or pixels of the training images.
        test: The same of the test images.
        class_names: Of both.
        config: As for :func:`mixbench.data.files.encoded.read_part`.

    Returns:
        The content, with what it says of itself.

    Raises:
        UserError: As :func:`mixbench.data.files.encoded.read_part`.
    """
    (train_set, bad, hashes), (test_set, bad_test, others) = (
        _read(part, config) if isinstance(part, Part) else (part, [], None)
        for part in (train, test)
    )
    shared = None
    if hashes is not None and others is not None:
        shared = len(shared_rows(hashes, others))
    parts = [part for part in (train, test) if isinstance(part, Part)]
    notices = [notice for part in parts for notice in part.notices]
    if bad or bad_test:
        notices.append(left_out_notice(bad, bad_test))
    return Content(
        train_set,
        test_set,
        class_names,
        (len(bad), len(bad_test)),
        notices=notices,
        unused=sum_counts(*(part.unused for part in parts)),
        shared_images=shared,
    )


def _read(part: Part, config: DataConfig) -> tuple[ImageSet, list[str], list[bytes] | None]:
    """Images of files, what was left out and why, and hashes of files where they are at hand."""
    hashes = None
    if not config.random_crops:
        part, hashes = with_hashes(part)
    elif part.hashes is not None:
        hashes = part.hashes()
    images, bad = read_part(part, config)
    if hashes is not None:
        hashes = [b"" if row in bad else digest for row, digest in enumerate(hashes)]
    return images, list(bad.values()), hashes


def _not_cropped(name: str, config: DataConfig) -> str:
    """What becomes of a key of random crops on training images that are no files.

    Raises:
        UserError: If multi-scale crops are asked for, without which their recipe is another.
    """
    if config.crop_scales is not None:
        raise UserError(
            f"multi-scale crops are cut out of image files, and {name} is stored as pixels",
            f"data.crop_scales={config.crop_scales}",
            "use data.crop_scales=null with data.crop, which pads images and crops them",
        )
    return (
        f"the training images of {name} are stored as pixels and stay whole: data.crop_area="
        f"{config.crop_area:g} cuts image files only"
    )


def _two_sizes(*shapes: tuple[int, int, int]) -> UserError:
    train, test = (f"{width}x{height}" for _, height, width in shapes)
    return UserError(
        f"training images are {train} pixels and test images {test}",
        "data",
        "bring them to one size with data.size=PIXELS",
    )


def _unequal(first: Tensor, second: Tensor) -> float:
    return float((first != second).double().mean())


def existing_path(path: str | None, key: str) -> Path:
    """A file or folder that the configuration names.

    Args:
        path: Value of the key.
        key: The key, for the message.

    Returns:
        The path.

    Raises:
        UserError: If it is not given or does not exist.
    """
    if path is None:
        raise UserError(f"{key} is not given", "data", f"add {key}=PATH")
    try:
        found = Path(path).exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        what = f"{path[:80]} cannot be looked at: {error.strerror}"
        raise UserError(what, key, f"correct {key}") from error
    if not found:
        raise UserError(f"no such file or folder: {path}", key, f"correct {key}")
    return Path(path)
