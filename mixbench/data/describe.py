"""What a data set holds, for people: classes, sizes, files, equal images, and what to do next."""

from collections import Counter
from collections.abc import Sequence

from mixbench.data.checks import SPLIT_NAMES, CheckedSplit, Findings, check_data_set
from mixbench.data.classes import class_counts
from mixbench.data.files.decode import in_threads, peculiarities
from mixbench.data.files.encoded import Part
from mixbench.data.source import DataSource
from mixbench.errors import counted, printable

SHOWN_CLASSES = 30  # lines of the table; of more classes the largest and the smallest
BAR = 30  # signs of the longest bar
UNBALANCED = 3.0  # ratio of the largest to the smallest class from which it is said
SIZES = (32, 48, 64, 96, 128, 160, 224)  # of data.size, as advised


def describe_data_set(source: DataSource) -> Findings:
    """Describe a data set; its images are decoded and compared as by ``data check``.

    Args:
        source: The data set.

    Returns:
        Lines to print, and problems, as of :func:`mixbench.data.checks.check_data_set`.

    Raises:
        UserError: As there.
    """
    found = check_data_set(source)
    found.facts += ["", *_class_lines(found), ""]
    found.facts += _balance_lines(found)
    parts = source.parts()
    if parts is not None:
        kinds = Counter(word for part in parts[:2] for word in _kinds(part))
        found.facts += [f"{count:,} x {word}" for word, count in kinds.most_common()]
    found.facts += _equal_lines(found)
    found.facts += _advice(source, found.looks)
    return found


def _kinds(part: Part) -> list[str]:
    def attempt(row: int) -> list[str]:
        try:
            return peculiarities(part.load(row))
        except OSError:
            return ["file that cannot be read"]

    rows = range(len(part.names))
    return [word for words in in_threads(attempt, rows) for word in words]


def _counts(found: Findings) -> list[list[int]]:
    """Images of each class, in training and in the test."""
    return [class_counts(look.labels, len(found.classes)).tolist() for look in found.looks]


def _class_lines(found: Findings) -> list[str]:
    """A table of the classes with a bar for the training images."""
    train, test = _counts(found)
    order = list(range(len(found.classes)))
    left = len(order) - SHOWN_CLASSES
    if left > 0:
        order = sorted(order, key=lambda label: -train[label])
        half = SHOWN_CLASSES // 2
        order = [*order[:half], *order[-half:]]
    names = [printable(found.classes[label])[:40] for label in order]
    width = max(len("class"), *map(len, names))
    most = max(1, *train)
    lines = [f"{'class':<{width}}  {'train':>7}  {'test':>7}"]
    for place, (name, label) in enumerate(zip(names, order, strict=True)):
        if left > 0 and place == SHOWN_CLASSES // 2:
            lines.append(f"... {counted(left, 'class')} between these ...")
        bar = "#" * round(BAR * train[label] / most)
        lines.append(f"{name:<{width}}  {train[label]:>7,}  {test[label]:>7,}  {bar}".rstrip())
    return lines


def _balance_lines(found: Findings) -> list[str]:
    train = [count for count in _counts(found)[0] if count]
    if len(train) < 2 or max(train) < UNBALANCED * min(train):
        return []
    return [
        f"the classes are not balanced: the largest has {max(train) / min(train):.1f} times the "
        "training images of the smallest, and top1 says most of the largest"
    ]


def _equal_lines(found: Findings) -> list[str]:
    """Images that are there twice, within a part or under two classes."""
    lines = []
    for split, look in zip(SPLIT_NAMES, found.looks, strict=True):
        known = [digest for digest in look.hashes if digest]
        twice = len(known) - len(set(known))
        if twice:
            lines.append(f"{split}: {counted(twice, 'image')} equal another one of this part")
    if all(look.labels.ndim == 1 for look in found.looks):
        classes: dict[bytes, set[int]] = {}
        for look in found.looks:
            for digest, label in zip(look.hashes, look.labels.tolist(), strict=True):
                if digest:
                    classes.setdefault(digest, set()).add(label)
        several = sum(len(labels) > 1 for labels in classes.values())
        if several:
            verb = "stands" if several == 1 else "stand"
            lines.append(f"{counted(several, 'image')} {verb} under two classes or more")
    return lines or ["no image stands twice in one part"]


def _advice(source: DataSource, looks: Sequence[CheckedSplit]) -> list[str]:
    sizes: Counter[tuple[int, int]] = Counter()
    for look in looks:
        sizes.update(look.sizes)
    if source.config.size is not None or len(sizes) < 2:
        return []
    sides = sorted(min(size) for size in sizes.elements())
    middle = sides[len(sides) // 2]
    size = max((side for side in SIZES if side <= middle), default=SIZES[0])
    return [
        f"half of the images have a shorter side of {middle} pixels or more: data.size={size} "
        "would suit them, and a smaller one trains faster"
    ]
