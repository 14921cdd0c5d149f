"""Marks of runs whose scores need a word of caution, as a table shows and explains them."""

from collections.abc import Iterable, Mapping

from mixbench.records.record import Record

CHANGED, WARMUP, LARGE_BATCH, STEPS = "changed", "long warm-up", "large batch", "few steps"
CHANCE, PARTLY, UNTRUE = "chance", "partly verified", "not true"
UNREADABLE, OVERLAP = "test images missing", "judged images tested"
MIN_STEPS = 100  # optimiser steps below which nothing is learned that a comparison could use
EXPLANATIONS = {
    CHANGED: "the configuration was changed during the run (resume --allow-config-change)",
    WARMUP: "the warm-up is as long as training or longer, so that the learning rate never falls",
    LARGE_BATCH: "batch_size is larger than the training set, so that each step takes all of it",
    STEPS: f"training took fewer than {MIN_STEPS} optimiser steps",
    CHANCE: (
        "the score is not above chance by a one-sided test at 5 %: an exact binomial test of top1 "
        "against the share of the largest class in the test set, or, with several labels per "
        "image, a comparison of map with that of shuffled labels"
    ),
    UNREADABLE: (
        "test images that cannot be read were left out (data.on_corrupt=skip), so that the scores "
        "are those of another test set"
    ),
    OVERLAP: (
        "test images that people judged are tested on (data.allow_overlap=true), so that a method "
        "that has trained on them scores too well"
    ),
    PARTLY: "mixbench verify could not compute every score or fact again",
    UNTRUE: "mixbench verify found that the record is not true",
}


def marks_of(record: Record) -> list[str]:
    """Marks of a run.

    Args:
        record: Its record.

    Returns:
        Those that it was given, and those that follow from its record.
    """
    found = list(record.marks)
    found += [UNREADABLE] if record.skipped_test else []
    found += [CHANGED] if record.config_changes else []
    found += [UNTRUE] if record.verified is False else []
    found += [PARTLY] if record.verified == "partly" else []
    return list(dict.fromkeys(found))


def health(record: Record) -> list[str]:
    """The verdict on a run that has ended: whether its scores need a word of caution.

    Args:
        record: Its record.

    Returns:
        Sentences; never empty.
    """
    if record.status != "done":
        why = f": {record.message}" if record.message else ""
        return [f"The run is not done; it is {record.status}{why}."]
    reasons = {mark: f": {EXPLANATIONS[mark]}" for mark in EXPLANATIONS}
    told = [f'The run bears the mark "{m}"{reasons.get(m, "")}.' for m in marks_of(record)]
    for suite, facts in record.evaluations.items():
        told += [f"The suite {suite} warns: {text}" for text in facts.get("warnings", ())]
    return told or ["The run bears no mark: nothing speaks against its scores."]


def count_marks(records: Iterable[Record]) -> dict[str, int]:
    """Marks of a row of a table.

    Args:
        records: Its runs.

    Returns:
        Number of runs by mark.
    """
    found: dict[str, int] = {}
    for record in records:
        for mark in marks_of(record):
            found[mark] = found.get(mark, 0) + 1
    return found


def marks_text(marks: Mapping[str, int], runs: int) -> str:
    """Marks of a row in one cell.

    Args:
        marks: Number of runs by mark.
        runs: Number of runs of the row.

    Returns:
        The marks, with their number where it is not that of all runs.
    """
    return ", ".join(
        mark if count == runs else f"{mark} ({count} of {runs})" for mark, count in marks.items()
    )


def mark_explanations(marks: Iterable[str]) -> list[str]:
    """Explanations of marks, each once.

    Args:
        marks: Marks of all rows of a table.

    Returns:
        A note for each; a mark of a newer version has none.
    """
    found = dict.fromkeys(marks)
    return [
        f'The mark "{mark}" means that {EXPLANATIONS[mark]}.'
        for mark in found
        if mark in EXPLANATIONS
    ]


def mark_notes(rows: Iterable[tuple[str, Mapping[str, int], int]]) -> list[str]:
    """Marks of rows below a table that has no column for them, and what they mean.

    Args:
        rows: Label, marks and number of runs of each row.

    Returns:
        Sentences.
    """
    marked = [row for row in rows if row[1]]
    labels: dict[str, list[str]] = {}
    for label, marks, runs in marked:
        labels.setdefault(marks_text(marks, runs), []).append(label)
    named = [f"The runs of {', '.join(of)} are marked: {text}." for text, of in labels.items()]
    return named + mark_explanations(mark for _, marks, _ in marked for mark in marks)
