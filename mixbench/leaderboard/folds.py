"""Runs on the folds of one set as one run that was tested on all of its images.

Folds share most of their training images, so that their scores are no independent values: an
interval over them as if they were is too narrow, and no estimate from one division of the images is
free of bias (Bengio and Grandvalet, JMLR 2004). Here all folds of one seed make one value, the mean
over all images, and seeds are what intervals and tests count, as they do where the test images are
the same for all runs. What they say holds for these images; `compare` resamples images as well.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixbench.records.marks import marks_of
from mixbench.records.record import Record

Run = tuple[Record, list[Path]]  # a record, and the folders that it stands for
WORST = ("diverged", "failed", "interrupted", "running", "done")  # status of the whole
ADDED = ("wall_s", "gpu_hours", "skipped", "skipped_test", "test_size")
AVERAGED = ("img_per_s", "ms_step", "dataloader_wait_pct")


def join_folds(runs: Iterable[tuple[Record, Path]]) -> list[Run]:
    """One record in place of those of all folds of one seed.

    Args:
        runs: Records with their folders; those without folds stay as they are.

    Returns:
        Records with all their folders. Where a fold is missing or not done, the record is not done
        either, and says why.
    """
    found: list[Run] = []
    folds: dict[tuple[Any, ...], list[tuple[Record, Path]]] = defaultdict(list)
    for record, folder in runs:
        if record.folds is None or record.fold is None:
            found.append((record, [folder]))
            continue
        key = (record.method, record.row, record.data, record.net, record.recipe_hash)
        folds[*key, record.select, record.epochs, record.seed, record.folds].append(
            (record, folder)
        )
    return found + [_joined(members) for members in folds.values()]


def _joined(members: list[tuple[Record, Path]]) -> Run:
    members = sorted(members, key=lambda member: member[0].fold or 0)
    records = [record for record, _ in members]
    first, count = records[0], records[0].folds or 0
    # A fold of another configuration is another run; a row has each once.
    done = sorted({record.fold or 0 for record in records if record.status == "done"})
    status = next(word for word in WORST if any(record.status == word for record in records))
    message = ""
    if len(done) < count or len(records) > count:
        status = "interrupted" if status == "done" else status
        shown = ", ".join(map(str, done)) or "none"
        left = [f"fold {r.fold} is {r.status}" for r in records if r.status != "done"]
        more = "; ".join(["", *left])
        message = f"of {count} folds these are done: {shown}{more}; fewer do not compare"
    name = first.id.rsplit("-", 2)[0]
    whole = replace(
        first,
        id=f"{name}-{first.row[:8]}-s{first.seed}",
        config_hash=first.row,
        fold=None,
        status=status,
        message=message,
        metrics=_means(records),
        evaluations=_evaluations(records),
        marks=list(dict.fromkeys(mark for record in records for mark in marks_of(record))),
        notices=_common_notices(records),
        config_changes={},
        verified=_worst([record.verified for record in records]),
        shared_cores=any(record.shared_cores for record in records),
        train_size=round(math.fsum(record.train_size for record in records) / len(records)),
        **{name: _total(records, name) for name in ADDED},
        **{name: _mean(records, name) for name in AVERAGED},
    )
    peaks = [record.peak_mem_gb for record in records if record.peak_mem_gb is not None]
    whole.peak_mem_gb = max(peaks) if len(peaks) == len(records) else None
    return whole, [folder for _, folder in members]


def _means(records: list[Record]) -> dict[str, float]:
    """Scores that all folds have, as means over their test images."""
    total = sum(record.test_size for record in records)
    return {
        name: math.fsum(record.metrics[name] * record.test_size for record in records) / total
        for name in records[0].metrics
        if total and all(name in record.metrics for record in records)
    }


def _evaluations(records: list[Record]) -> dict[str, Any]:
    """How suites were carried out, with the images of all folds."""
    found: dict[str, Any] = {}
    for suite, facts in records[0].evaluations.items():
        own = [record.evaluations.get(suite, {}) for record in records]
        sums = {
            key: sum(each.get(key) or 0 for each in own)
            for key in ("images", "of")
            if facts.get(key) is not None
        }
        found[suite] = {**facts, **sums}
    return found


def _common_notices(records: list[Record]) -> list[str]:
    """What all folds say; each says of itself which images it tests."""
    return [note for note in records[0].notices if all(note in each.notices for each in records)]


def _worst(found: list[bool | str | None]) -> bool | str | None:
    return next((value for value in (False, None, "partly", True) if value in found), None)


def _total(records: list[Record], name: str) -> Any:
    values = [getattr(record, name) for record in records]
    return None if any(value is None for value in values) else sum(values)


def _mean(records: list[Record], name: str) -> float | None:
    total = _total(records, name)
    return None if total is None else total / len(records)
