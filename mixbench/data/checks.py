"""All problems of a data set, found in one pass."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mixbench.config.schema import DataConfig
from mixbench.data.classes import class_counts, class_notices
from mixbench.data.files.decode import find_unreadable
from mixbench.data.files.encoded import FileImages, Part
from mixbench.data.images import ImageSet, ResidentImages, sum_counts, unused_line
from mixbench.data.overlap import (
    NOT_COMPARED,
    file_hashes,
    pixel_hashes,
    shared_line,
    shared_rows,
)
from mixbench.errors import counted

SPLIT_NAMES = ("train", "test")


@dataclass
class Findings:
    """Facts of a data set as lines to print, and its problems."""

    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    looks: list["CheckedSplit"] = field(default_factory=list)  # at the training and the test images
    classes: list[str] = field(default_factory=list)


def check_data_set(source: Any) -> Findings:
    """Count, decode and compare every image of a data set, and add what a run says of it.

    Args:
        source: A :class:`mixbench.data.source.DataSource`.

    Returns:
        What was found. Problems are what a run refuses: images that cannot be read or have several
        sizes, and fewer than two classes; and images that are in both splits.

    Raises:
        UserError: If files are missing, or do not fit together; as a run refuses them.
    """
    found = Findings()
    digest, config = source.fingerprint(), source.config
    origin = {True: "the authors' own files, ", False: "not the authors' files, ", None: ""}
    parts, skip = source.parts(), config.on_corrupt == "skip"
    if parts is not None:
        train, test, names = parts
        notices, unused = train.notices + test.notices, sum_counts(train.unused, test.unused)
        looks = [_look(part, skip) for part in (train, test)]
    else:
        content = source.read()
        names, notices, unused = content.class_names, content.notices, content.unused
        looks = [_look(part, skip) for part in (content.train, content.test)]
    found.looks, found.classes = looks, names
    bad = [
        f"{split}: {why}"
        for split, look in zip(SPLIT_NAMES, looks, strict=True)
        for why in look.bad
    ]
    found.problems += [] if skip else bad
    _two_sizes(found, config, *looks)
    labels, others = (look.labels for look in looks)
    taken = sizes = [len(look.hashes) for look in looks]
    if found.problems:  # a run would end before it says more
        notices = [*notices, *class_notices(labels, others, names)]
    else:
        info = source.load().info
        notices, unused = info.notices, info.unused
        taken = [info.train_size, info.test_size]
    shared = _leaks(found, *looks)
    found.facts.append(f"{source.name}: {origin[source.official]}hash {digest[:16]}")
    found.facts += [notice for notice in notices if notice not in (NOT_COMPARED, shared)]
    found.facts += bad if skip else []
    found.facts += [unused_line(unused)] if unused else []
    for split, look in zip(SPLIT_NAMES, looks, strict=True):
        found.facts.append(f"{split}: {counted(len(look.hashes), 'image')}, {_sizes(look.sizes)}")
        _balance(found, split, look.labels, names)
    if taken != sizes:
        found.facts.append(f"a run takes {taken[0]} training and {taken[1]} test images of these")
    found.facts.append(shared)
    present = int((class_counts(labels, len(names)) > 0).sum())
    if present < 2:
        what = f"{present} class with training images; training needs at least two"
        found.problems.append(what)
    return found


@dataclass
class CheckedSplit:
    """Names, hashes, sizes and labels of the images of a split, and why some cannot be read."""

    names: list[str]
    hashes: list[bytes]
    sizes: Counter[tuple[int, int]]
    labels: Tensor
    bad: list[str]


def _look(part: Part | ImageSet, skip: bool) -> CheckedSplit:
    if isinstance(part, FileImages):
        part = part.part
    return _look_at_files(part, skip) if isinstance(part, Part) else _look_at_pixels(part)


def _look_at_files(part: Part, skip: bool) -> CheckedSplit:
    """All files, or without those that cannot be read."""
    bad = find_unreadable(part.names, part.load)
    hashes, sizes = file_hashes(part)
    rows = [row for row in range(len(hashes)) if not (skip and row in bad)]
    return CheckedSplit(
        [part.names[row] for row in rows],
        [hashes[row] for row in rows],
        Counter(size for row in rows if (size := sizes[row]) is not None),
        part.labels[rows],
        list(bad.values()),
    )


def _look_at_pixels(part: ImageSet) -> CheckedSplit:
    assert isinstance(part, ResidentImages)
    count, _, height, width = part.images.shape
    names = [f"image {row}" for row in range(count)]
    sizes = Counter({(width, height): count})
    return CheckedSplit(names, pixel_hashes(part), sizes, part.labels, [])


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    if not sizes:
        return "of no readable size"
    (width, height), count = sizes.most_common(1)[0]
    if len(sizes) == 1:
        return f"{width}x{height} pixels"
    sides = [side for size in sizes for side in size]
    return (
        f"{len(sizes)} sizes with sides of {min(sides)} to {max(sides)} pixels, "
        f"most often {width}x{height} ({count})"
    )


def _balance(found: Findings, split: str, labels: Tensor, names: list[str]) -> None:
    if labels.ndim > 1:
        unknown = int(labels.isnan().sum())
        found.facts.append(f"{split}: {unknown} of {labels.numel()} labels are unknown")
    counts = class_counts(labels, len(names))
    low, high = int(counts.argmin()), int(counts.argmax())
    fewest, most = int(counts[low]), int(counts[high])
    each = f"{fewest} ({names[low]}) to {most} ({names[high]}) images"
    each = f"{counted(most, 'image')} each" if fewest == most else each
    found.facts.append(f"{split}: {counted(len(names), 'class')} with {each}")


def _two_sizes(found: Findings, config: DataConfig, *looks: CheckedSplit) -> None:
    """The error of a run on images of several sizes, where no size is asked for."""
    if config.size is None and len(sizes := looks[0].sizes + looks[1].sizes) > 1:
        shown = f"{_sizes(sizes)}; resize them with data.size=PIXELS"
        found.problems.append(f"training and test images have {shown}")


def _leaks(found: Findings, train: CheckedSplit, test: CheckedSplit) -> str:
    """A line on what is in both splits; each such image is a problem."""
    places = dict(zip(reversed(train.hashes), reversed(train.names), strict=True))
    rows = shared_rows(train.hashes, test.hashes)
    found.problems += [
        f"the test image {test.names[row]} is also the training image {places[test.hashes[row]]}"
        for row in rows
    ]
    return shared_line(len(rows), len(test.names))
