"""What is wrong with a data set, all of it at once."""

import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mixbench.data.decode import size_of, unreadable
from mixbench.data.encoded import Part
from mixbench.data.images import ResidentImages, summed, unused_line


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
        What was found. Problems are images that cannot be read, classes without images, and images
        that are in both splits.

    Raises:
        UserError: If files are missing, or do not fit together.
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
        found.facts.append(f"{split}: {len(look.hashes)} images, {_sizes(look.sizes)}")
        _balance(found, split, part.labels, names)
        found.problems += [f"{split}: {reason}" for reason in look.bad.values()]
    _leaks(found, *looks)
    return found


@dataclass
class _Look:
    """Names, hashes and sizes of the images of a split, and why some cannot be read."""

    names: list[str]
    hashes: list[str]
    sizes: Counter[tuple[int, int]]
    bad: dict[int, str]


def _look_at_files(part: Part) -> _Look:
    def attempt(row: int) -> tuple[str, tuple[int, int] | None]:
        try:
            raw = part.load(row)
            return hashlib.sha256(raw).hexdigest(), size_of(raw)
        except OSError:
            return "", None

    with ThreadPoolExecutor(4) as pool:
        looks = list(pool.map(attempt, range(len(part.names)), chunksize=256))
    sizes = Counter(size for _, size in looks if size is not None)
    bad = unreadable(part.names, part.load)
    return _Look(list(part.names), [digest for digest, _ in looks], sizes, bad)


def _look_at_pixels(part: ResidentImages) -> _Look:
    count, _, height, width = part.images.shape
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in part.images.numpy()]
    names = [f"image {row}" for row in range(count)]
    return _Look(names, hashes, Counter({(width, height): count}), {})


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
        counts = (labels == 1).sum(dim=0)
        unknown = int(labels.isnan().sum())
        found.facts.append(f"{split}: {unknown} of {labels.numel()} labels are unknown")
    else:
        counts = labels.bincount(minlength=len(names))
    low, high = int(counts.argmin()), int(counts.argmax())
    found.facts.append(
        f"{split}: {len(names)} classes with {int(counts[low])} ({names[low]}) to "
        f"{int(counts[high])} ({names[high]}) images"
    )
    empty = [names[k] for k in torch.nonzero(counts == 0).flatten().tolist()]
    if empty:
        found.problems.append(f"{split}: no image of {len(empty)} classes: {', '.join(empty)}")


def _leaks(found: Findings, train: _Look, test: _Look) -> None:
    places = defaultdict(list)
    for name, digest in zip(train.names, train.hashes, strict=True):
        places[digest].append(name)
    twins = [
        f"the test image {name} is also the training image {places[digest][0]}"
        for name, digest in zip(test.names, test.hashes, strict=True)
        if digest and digest in places
    ]
    found.facts.append(f"{len(twins)} of {len(test.names)} test images are also training images")
    found.problems += twins
