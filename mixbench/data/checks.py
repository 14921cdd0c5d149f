"""What is wrong with a data set, all of it at once."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mixbench.data.classes import class_counts, class_notices
from mixbench.data.decode import unreadable
from mixbench.data.encoded import Part
from mixbench.data.images import ResidentImages, summed, unused_line
from mixbench.data.overlap import file_hashes, pixel_hashes, shared_line, shared_rows
from mixbench.schema import DataConfig
from mixbench.words import counted


@dataclass
class Findings:
    """Facts of a data set as lines to print, and its problems."""

    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def inspect(source: Any) -> Findings:
    """Count, decode and compare every image of a data set.

    Args:
        source: A :class:`mixbench.data.source.DataSource`.

    Returns:
        What was found. Problems are images that cannot be read or have several sizes, fewer than
        two classes, classes without images, and images that are in both splits.

    Raises:
        UserError: If files are missing, or do not fit together; as a run refuses them.
    """
    found = Findings()
    digest = source.fingerprint()
    official = {True: "the authors' own files", False: "not the authors' files", None: "a copy"}
    found.facts.append(f"{source.name}: {official[source.official]}, hash {digest[:16]}")
    parts = source.parts()
    if parts is not None:
        train, test, names = parts
        notices, unused = train.notices + test.notices, summed(train.unused, test.unused)
        looks = [_look_at_files(part) for part in (train, test)]
    else:
        content = source.read()
        train, test, names = content.train, content.test, content.class_names
        notices, unused = content.notices, content.unused
        looks = [_look_at_pixels(part) for part in (train, test)]
    found.facts += notices
    found.facts += [unused_line(unused)] if unused else []
    for split, part, look in zip(("train", "test"), (train, test), looks, strict=True):
        found.facts.append(f"{split}: {counted(len(look.hashes), 'image')}, {_sizes(look.sizes)}")
        _balance(found, split, part.labels, names)
        found.problems += [f"{split}: {reason}" for reason in look.bad.values()]
    found.problems += class_notices(train.labels, test.labels, names)
    present = int((class_counts(train.labels, len(names)) > 0).sum())
    if present < 2:
        what = f"{present} class with training images; training needs at least two"
        found.problems.append(what)
    _two_sizes(found, source.config, *looks)
    _leaks(found, *looks)
    if not looks[0].bad:  # others are counted off by their place
        source.training_labels(train.labels, names, 0)
    return found


@dataclass
class _Look:
    """Names, hashes and sizes of the images of a split, and why some cannot be read."""

    names: list[str]
    hashes: list[bytes]
    sizes: Counter[tuple[int, int]]
    bad: dict[int, str]


def _look_at_files(part: Part) -> _Look:
    hashes, found = file_hashes(part)
    sizes = Counter(size for size in found if size is not None)
    return _Look(list(part.names), hashes, sizes, unreadable(part.names, part.load))


def _look_at_pixels(part: ResidentImages) -> _Look:
    count, _, height, width = part.images.shape
    names = [f"image {row}" for row in range(count)]
    return _Look(names, pixel_hashes(part), Counter({(width, height): count}), {})


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
    found.facts.append(
        f"{split}: {counted(len(names), 'class')} with {int(counts[low])} ({names[low]}) to "
        f"{int(counts[high])} ({names[high]}) images"
    )


def _two_sizes(found: Findings, config: DataConfig, *looks: _Look) -> None:
    """What a run refuses: images of several sizes, where none is asked for."""
    if config.size is None and len(sizes := looks[0].sizes + looks[1].sizes) > 1:
        shown = f"{_sizes(sizes)}; resize them with data.size=PIXELS"
        found.problems.append(f"training and test images have {shown}")


def _leaks(found: Findings, train: _Look, test: _Look) -> None:
    places = dict(zip(reversed(train.hashes), reversed(train.names), strict=True))
    rows = shared_rows(train.hashes, test.hashes)
    found.facts.append(shared_line(len(rows), len(test.names)))
    found.problems += [
        f"the test image {test.names[row]} is also the training image {places[test.hashes[row]]}"
        for row in rows
    ]
