"""``mixbench show``: what methods make of the first batch of a run."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Generator, Tensor

import mixbench.functional as mf
from mixbench.config.schema import RunConfig
from mixbench.data.files.decode import decode
from mixbench.data.files.encoded import Part
from mixbench.data.images import Batch, Splits
from mixbench.data.sampling import SAMPLE, BatchIndex, mix_seed
from mixbench.data.source import DataSource
from mixbench.errors import UserError, counted, printable
from mixbench.evaluation.corruption import CorruptionSuite, corruption_sheet
from mixbench.files import write_bytes
from mixbench.methods.base import Method
from mixbench.pictures.raster import raster
from mixbench.pictures.sheet import (
    CELL,
    LONGEST,
    Panel,
    Row,
    Sheet,
    as_picture,
    as_sheets,
    matrix_sheet,
    selected,
)
from mixbench.pictures.vector import check_matplotlib, write_vector
from mixbench.records.checkpoints import LAST, check_shapes, read_checkpoint
from mixbench.training.build import build
from mixbench.training.callbacks.samples import draw_batch, show_batch
from mixbench.training.job import resolve

VECTOR = ("svg", "pdf")
SIDES = {"png": math.inf, "jpg": 65_500, "jpeg": 65_500, "webp": 16_383}  # longest, in pixels
EACH_CLASS, SHOWN_CLASSES = 8, 20  # images of a class, and classes, on a sheet of a data set
BLANK, UNREADABLE = (238, 238, 238), (200, 60, 60)  # colours of a cell without an image
SCALES = (0.25, 16)  # smallest and largest


class Subject(NamedTuple):
    """A configuration, and the folder of the run whose weights are used, if it is not None."""

    config: RunConfig
    trained: Path | None = None


@dataclass(frozen=True)
class PictureForm:
    """Form of a picture.

    Attributes:
        kind: Kind of the file such as ``svg``; that of its suffix if empty.
        scale: Factor of the whole picture.
        columns: Titles of the columns to show; all if empty.
        images: Pairs to show; as many as the method shows by itself if None.
    """

    kind: str = ""
    scale: float = 1.0
    columns: tuple[str, ...] = ()
    images: int | None = None


def show(subjects: Mapping[str, Subject], path: Path, form: PictureForm | None = None) -> None:
    """Write what methods make of the first training batch; of several as a matrix.

    Args:
        subjects: Methods by the names that a matrix gives them.
        path: The file to write.
        form: Its form.

    Raises:
        UserError: If the path is no picture, its folder does not exist, the form does not fit, the
            methods see different batches, or a run has no weights that fit.
    """
    form = PictureForm() if form is None else form
    kind = _kind_of(path, form)
    if len(subjects) == 1:
        (subject,) = subjects.values()
        sheets = as_sheets(show_batch(*first_batch(*subject)))
    else:
        sheets = [matrix(subjects)]
    _write(sheets, path, kind, form)


def show_corruptions(config: RunConfig, path: Path, form: PictureForm | None = None) -> None:
    """Write the first test image under each corruption and severity that a run would be judged by.

    Args:
        config: A composed configuration; reads ``data`` and ``eval``.
        path: The file to write.
        form: Its form; ``images`` is the number of corruptions.

    Raises:
        UserError: As :func:`show`, or if the suite cannot corrupt such data.
    """
    form = PictureForm() if form is None else form
    kind = _kind_of(path, form)
    suite = CorruptionSuite(config.eval)
    suite.name = "corruption"
    suite.check()
    splits = resolve(config).read_data()
    if reason := suite.refusal(splits.info):
        raise UserError(f"no corruptions: {reason}", "show", "give other data")
    suite.check_data(splits)
    _write([corruption_sheet(suite, splits)], path, kind, form)


def show_data(source: DataSource, path: Path, form: PictureForm | None = None) -> None:
    """Write a few images of each class of a data set.

    Args:
        source: The data set.
        path: The file to write.
        form: Its form; ``images`` is the number of classes.

    Raises:
        UserError: As :func:`show`, or if the images cannot be read.
    """
    form = PictureForm() if form is None else form
    kind = _kind_of(path, form)
    _write([contact_sheet(source)], path, kind, form)


def contact_sheet(source: DataSource) -> Sheet:
    """A row of images for each class, evenly spaced over its training images.

    Args:
        source: The data set.

    Returns:
        The sheet, of at most :data:`SHOWN_CLASSES` classes.
    """
    parts, load = source.parts(), None
    if parts is None:
        content = source.read()
        names, labels = content.class_names, content.train.labels
        load = functools.partial(_stored, content.train)
    else:
        names, labels = parts[2], parts[0].labels
        load = functools.partial(_decoded, parts[0])
    one_hot = labels.ndim > 1
    rows_of = {
        label: (labels[:, label] == 1 if one_hot else labels == label).nonzero().flatten().tolist()
        for label in range(len(names))
    }
    shown = [label for label, rows in rows_of.items() if rows]

    def rows(label: int, _: int) -> list[Row]:
        own = rows_of[label]
        count = min(len(own), EACH_CLASS)
        picked = [own[place * len(own) // count] for place in range(count)]
        about = [printable(names[label])[:LONGEST], counted(len(own), "image")]
        panels = [Panel("", load(row), about if not n else ()) for n, row in enumerate(picked)]
        blank = Image.new("RGB", (CELL, CELL), BLANK)
        return [[*panels, *[Panel("", blank)] * (EACH_CLASS - count)]]

    notes = []
    if len(shown) > SHOWN_CLASSES:
        notes.append(f"Shown are {SHOWN_CLASSES} of {len(shown)} classes.")
    title = f"{source.full_name}: training images of each class"
    return Sheet([(label, label) for label in shown], rows, notes, title=title, most=SHOWN_CLASSES)


def _stored(images: Any, row: int) -> Image.Image:
    return _on_square(as_picture(images[BatchIndex(torch.tensor([row]), 0)].images[0] / 255))


def _decoded(part: Part, row: int) -> Image.Image:
    try:
        return _on_square(Image.fromarray(decode(part.load(row))))
    except OSError:
        return Image.new("RGB", (CELL, CELL), UNREADABLE)


def _on_square(image: Image.Image) -> Image.Image:
    """A whole image in a square cell, small ones with sharp pixels."""
    scale = CELL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    kind = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    square = Image.new("RGB", (CELL, CELL), BLANK)
    square.paste(image.resize((width, height), kind), ((CELL - width) // 2, (CELL - height) // 2))
    return square


def _write(sheets: list[Sheet], path: Path, kind: str, form: PictureForm) -> None:
    sheets = selected(sheets, form.columns, form.images)
    if kind in VECTOR:
        write_bytes(path, lambda file: write_vector(sheets, file, kind, form.scale))
        return
    drawn = raster(sheets, form.scale)
    if max(drawn.size) > SIDES[kind]:
        what = (
            f"a .{kind} has at most {SIDES[kind]:,} pixels a side, and this one {max(drawn.size):,}"
        )
        raise UserError(what, "-o", "write a .png, or give a smaller --scale or fewer --images")
    write_bytes(path, lambda file: drawn.save(file, "jpeg" if kind == "jpg" else kind))


def _kind_of(path: Path, form: PictureForm) -> str:
    """Kind of the file, after all checks that need no data."""
    suffix = path.suffix.lower().removeprefix(".")
    kinds = (*SIDES, *VECTOR)
    if form.kind and form.kind not in kinds:
        raise UserError(f"unknown format {form.kind!r}", "--format", f"use {', '.join(kinds)}")
    if not form.kind and suffix not in kinds:
        listed = ", ".join(f".{kind}" for kind in kinds)
        raise UserError(f"{path} has no suffix of a picture", "-o", f"end it in {listed}")
    if form.kind and suffix in kinds and {form.kind, suffix} not in ({form.kind}, {"jpg", "jpeg"}):
        what = f"{path} ends in .{suffix}, but --format is {form.kind}"
        raise UserError(what, "--format", "leave --format out, or give the file another ending")
    if not path.resolve().parent.is_dir():
        raise UserError(f"no such folder: {path.parent}", "-o", "create it first")
    if not SCALES[0] <= form.scale <= SCALES[1]:
        limits = f"{SCALES[0]:g} and {SCALES[1]:g}"
        raise UserError(f"--scale {form.scale:g} is out of range", "show", f"stay between {limits}")
    kind = form.kind or suffix
    if kind in VECTOR:
        check_matplotlib()
    return kind


def picture(
    config: RunConfig, trained: Path | None = None, splits: Splits | None = None
) -> Image.Image:
    """Draw what the method makes of the first training batch.

    Args:
        config: A composed configuration.
        trained: Folder of a run whose last weights are used; the initial ones if None.
        splits: Its data, if that was read already.

    Returns:
        The picture, the same for equal configurations and weights.

    Raises:
        UserError: If the data is missing, or the run has no weights that fit.
    """
    return draw_batch(*first_batch(config, trained, splits))


def matrix(subjects: Mapping[str, Subject]) -> Sheet:
    """Show what several methods make of the same pairs.

    Images and augmentation are those of the first batch. Partners are of other classes where the
    batch has such; each method draws all other decisions by itself.

    Args:
        subjects: Methods by their names.

    Returns:
        A sheet with a column for each.

    Raises:
        UserError: If they see different images, or one of them has no partners.
    """
    sheets: dict[str, Sheet] = {}
    first: tuple[Method, Batch, Tensor] | None = None
    for name, subject in subjects.items():
        method, batch = first_batch(*subject)
        if first is None:
            first = method, batch, _partners(method, batch)
        if not torch.equal(batch.ids, first[1].ids):
            what = f"{name} sees another first batch than {next(iter(subjects))}"
            raise UserError(what, "show", "give all the same data, batch_size and seed")
        mix: Any = functools.partial(method.mix, perm=first[2])
        vars(method)["mix"] = mix
        sheet = as_sheets(show_batch(method, batch))[-1]
        if not any(own != other for own, other in sheet.pairs):
            what = f"{name} shows no pairs of images"
            raise UserError(what, "show", "draw it alone")
        sheets[name] = sheet
    assert first is not None
    method, batch, _ = first
    method.reseed(0, 0)
    x, targets = method.prepare(batch)
    return matrix_sheet(method.to_pixels(x), targets, method.info.names, sheets)


def _partners(method: Method, batch: Batch) -> Tensor:
    generator = Generator().manual_seed(mix_seed(SAMPLE, method.run.seed))
    # Of several labels the first that is there; one that is unknown (NaN) would be the largest.
    return mf.draw_other_class(method.prepare(batch)[1].nan_to_num(0), generator)


def first_batch(
    config: RunConfig, trained: Path | None = None, splits: Splits | None = None
) -> tuple[Method, Batch]:
    """The method as a run builds it, and the batch that the run begins with.

    Args:
        config: A composed configuration.
        trained: As for :func:`picture`.
        splits: As for :func:`picture`.

    Returns:
        The method in training mode, and the batch.

    Raises:
        UserError: As :func:`picture`, or if the method cannot work with the network, which is seen
            before any data is read.
    """
    job = resolve(config)
    method, data = build(job, splits or job.read_data())
    if trained is not None:
        saved = read_checkpoint(trained / LAST)
        check_shapes(trained / LAST, saved["state_dict"], method.state_dict())
        method.load_state_dict(saved["state_dict"])
        method.step = saved["mixbench_step"]
    return method.train(), next(iter(data.train_dataloader()))
