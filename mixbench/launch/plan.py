"""A grid of runs as lists of override words; no torch needed to check it."""

import itertools
import re
from dataclasses import dataclass, field, replace

from mixbench.config.compose import check_method_keys, compose_text
from mixbench.config.names import CORE, METHODS
from mixbench.config.overrides import COMMAND_LINE, split_overrides
from mixbench.errors import UserError

MOST_SEEDS = 1000  # of a range
AXES = ("data", "net", "recipe", "method")  # keys that take several values, outermost first


@dataclass
class PlannedRun:
    """One run of a grid."""

    words: list[str]  # overrides
    arm: str = ""  # its name in a plan that has named arms
    optional: bool = False  # of method=all, which leaves out what cannot be trained
    id: str = ""
    recipe_hash: str = ""
    done: bool = False
    unjudged: list[str] = field(default_factory=list)  # suites that are asked for, where it is done
    seconds: float | None = None  # estimate of its time from start to end
    after_s: float = 0.0  # of these, those after training: test and suites
    cores: int = 1  # of all its processes, where it computes on the CPU
    gpus: int = 0  # of this machine, where it computes on them
    choice: str = ""  # what the number of its training images and the device decided, in a sentence
    settled: list[str] = field(default_factory=list)  # overrides for what the device decided
    doubts: list[str] = field(default_factory=list)  # why its training cannot work


def expand(words: list[str], *, strict: bool = False) -> list[PlannedRun]:
    """Multiply out a grid and check every name and key that can be checked without torch.

    Args:
        words: Overrides; ``method``, ``data``, ``net`` and ``recipe`` take several values divided
            by commas, ``method=all`` stands for every registered one that can train the network
            on the data, and ``seeds`` lists seeds.
            Without a method, plain training and the core methods that are registered.
            With ``data.folds`` and no ``data.fold`` each run is carried out on every fold.
        strict: Refuse keys that have no effect.

    Returns:
        The runs, all methods of one seed and fold together.

    Raises:
        UserError: On an unknown name, a bad key or value, or a repeated seed.
    """
    pairs = split_overrides(words)
    given = dict(pairs)
    if "seed" in given and "seeds" in given:
        raise UserError("both seed and seeds are given", COMMAND_LINE, "use seeds=0,1,2")
    seeds = parse_seeds(given.get("seeds", given.get("seed", "0")))
    rest = [f"{key}={text}" for key, text in pairs if key not in (*AXES, "seed", "seeds")]
    choices: list[list[str]] = []
    for axis in AXES:
        if axis == "method":
            names = _methods(given.get("method"))
        elif axis in given:
            names = _values(axis, given[axis])
        else:
            choices.append([""])
            continue
        choices.append([f"{axis}={name}" for name in names])
    grids = [[word for word in combination if word] for combination in itertools.product(*choices)]
    optional = given.get("method") == "all"
    runs = [
        PlannedRun([*combination, *rest, f"seed={seed}"], optional=optional)
        for seed, combination in itertools.product(seeds, grids)
    ]
    return on_folds(runs, len(grids), strict=strict)


def on_folds(runs: list[PlannedRun], cells: int, *, strict: bool = False) -> list[PlannedRun]:
    """Check the runs of a grid, and put each on all folds where ``data.folds`` names no fold.

    Args:
        runs: The runs, all of one seed together.
        cells: Number of runs of one seed, which those of the other seeds repeat.
        strict: Refuse keys that have no effect.

    Returns:
        The runs, all of one seed and fold together.

    Raises:
        UserError: On a bad key or value.
    """
    folds: list[list[list[str]]] = []  # words that name each fold of a cell
    for run in runs[:cells]:
        composed = compose_text(run.words, strict=strict)
        check_method_keys(composed)
        data = composed.config.data
        several = data.folds is not None and data.fold is None
        named = [[f"data.fold={fold}"] for fold in range(data.folds or 0)]
        folds.append(named if several else [[]])
    return [
        replace(run, words=[*run.words, *words[fold]])
        for start in range(0, len(runs), cells)
        for fold in range(max(map(len, folds)))
        for run, words in zip(runs[start : start + cells], folds, strict=True)
        if fold < len(words)
    ]


def seeds_note(words: list[str]) -> str:
    """A sentence where ``seeds`` is one number, which may have been meant as how many.

    Args:
        words: Overrides.

    Returns:
        The sentence; empty where nothing can be mistaken.
    """
    text = dict(split_overrides(words)).get("seeds", "").strip()
    if not text.isdecimal() or int(text) < 2:
        return ""
    count = int(text)
    many = [*range(count)] if count <= 5 else [0, 1, "...", count - 1]
    listed = ",".join(map(str, many))
    return f"seeds={text} is the one seed {text}; for {text} seeds give seeds={listed}"


def _methods(text: str | None) -> list[str]:
    if text is None:
        return ["erm", *(name for name in CORE if name in METHODS.names())]
    return METHODS.names() if text == "all" else _values("method", text)


def _values(key: str, text: str) -> list[str]:
    values = [value.strip() for value in text.split(",")]
    if "" in values:
        raise UserError(
            f"{key}={text} has an empty name",
            COMMAND_LINE,
            f"write {key}=a,b without an empty part",
        )
    if len(set(values)) < len(values):
        raise UserError(f"{key}={text} names one twice", COMMAND_LINE, "give each name once")
    return values


def parse_seeds(text: str) -> list[int]:
    """Seeds that a user lists, such as ``0,1,2``, or gives as a range, such as ``0..9``.

    Args:
        text: The value of ``seeds``.

    Returns:
        The seeds, both ends of a range among them.

    Raises:
        UserError: If one is no whole number >= 0 or given twice, or a range has none or too many.
    """
    span = re.fullmatch(r"\s*(\d{1,9})\.\.(\d{1,9})\s*", text)
    if span and not 0 <= int(span[2]) - int(span[1]) < MOST_SEEDS:
        falling = int(span[1]) > int(span[2])
        what = "goes from a larger to a smaller seed" if falling else f"is over {MOST_SEEDS} seeds"
        what = f"seeds={text} {what}"
        raise UserError(what, COMMAND_LINE, "write seeds=0..9")
    values = [*map(str, range(int(span[1]), int(span[2]) + 1))] if span else _values("seeds", text)
    try:
        seeds = [int(value) for value in values]
    except ValueError as error:
        raise UserError(
            f"seeds={text} are not whole numbers", COMMAND_LINE, "write seeds=0,1,2"
        ) from error
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(
            f"seeds={text} must be >= 0 and all different", COMMAND_LINE, "write seeds=0,1,2"
        )
    return seeds
