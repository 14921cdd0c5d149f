"""Methods at equal cost: for a slow method, the scores of others in the same time.

Equal epochs are the budget of a leaderboard. A method whose step costs more has seen more
computation for it, so that longer runs of the others stand beside it here.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mixbench.leaderboard.evidence import BASELINE, Evidence, weigh
from mixbench.leaderboard.verdict import Verdict, decide
from mixbench.records.marks import count_marks
from mixbench.records.record import Record
from mixbench.stats.intervals import Summary, summarize

SLOW = 1.3  # cost of a step, relative to the baseline, from which on equal epochs favour a method
NEAR = 0.15  # runs whose cost differs by no more than this share count as equally long
SHORTEST, LONGEST = 1e-12, 1e12  # hours; ratios of other costs mean nothing


@dataclass
class CostRow:
    """A method at some number of epochs."""

    label: str
    epochs: int
    seeds: list[int]
    values: list[float]
    hours: float
    step: float | None  # cost of an epoch relative to the baseline's
    marks: dict[str, int] = field(default_factory=dict)  # words of caution, by number of seeds

    @property
    def summary(self) -> Summary:
        """Mean and interval over seeds."""
        return summarize(self.values)


@dataclass
class CostTable:
    """A slow method and what costs as much."""

    place: tuple[str, str, str]  # data, network, selection
    title: str
    score: str
    unit: str
    rows: list[CostRow]
    slow: str = ""  # the method whose cost the others have
    lacking: int | None = None  # epochs of plain training that would cost as much, if none did

    @cached_property
    def evidence(self) -> Evidence:
        """Its default test; of a table without plain training, which nobody is shown, nothing."""
        if self.lacking is not None:
            return Evidence()
        return weigh({row.label: row.values for row in self.rows}, {})

    @property
    def note(self) -> str:
        """A sentence on what the table lacks; empty if nothing."""
        if self.lacking is None:
            return ""
        return f"No run of {BASELINE} costs as much; train one with epochs={self.lacking}."

    @property
    def verdict(self) -> Verdict:
        """The answer of the table in words."""
        return decide(self.evidence, {row.label: row.summary for row in self.rows}, self.score)


def relative_costs(rows: Mapping[str, list[Record]]) -> dict[str, float | None]:
    """Cost of each row of a table relative to plain training, else to the cheapest row.

    Args:
        rows: Finished runs by label.

    Returns:
        Ratios by label; None where no cost is known, or that of another machine or precision.
    """
    known = {label: cost for label, records in rows.items() if (cost := mean_hours(records))}
    if not known:
        return dict.fromkeys(rows)
    base = BASELINE if BASELINE in known else min(known, key=lambda label: known[label])
    machines = {label: {machine(record) for record in records} for label, records in rows.items()}
    return {
        label: known[label] / known[base]
        if label in known and machines[label] == machines[base] and len(machines[base]) == 1
        else None
        for label in rows
    }


def hours(record: Record) -> float | None:
    """Cost of a run in hours.

    Args:
        record: Its record.

    Returns:
        GPU hours with all stages of the training; on a CPU hours of training at the measured
        speed. Both with the runs whose checkpoints it uses, such as a teacher. None where neither
        is known.
    """
    if record.gpu_hours is not None:
        return record.gpu_hours
    if not record.img_per_s:
        return None
    runs = record.folds or 1 if record.fold is None else 1  # all folds, where they are joined
    own = runs * record.epochs * record.train_size / record.img_per_s / 3600
    return own + sum(record.prior_hours.values())


def prior_hours(record: Record, used: Iterable[Record]) -> dict[str, float]:
    """Cost of the runs without whose checkpoints a run would not be what it is.

    Args:
        record: The run.
        used: The runs whose checkpoints it uses.

    Returns:
        Hours by id, each run once; those that these have used in turn are among them. Runs of
        another kind of device are left out, as their hours do not add up.
    """
    found: dict[str, float] = {}
    for other in used:
        total = hours(other)
        if total is None or (other.gpu_hours is None) != (record.gpu_hours is None):
            continue
        found |= other.prior_hours
        found[other.id] = total - sum(other.prior_hours.values())
    return found


def equal_cost(rows: Iterable[tuple[str, str, list[Record]]]) -> list[CostTable]:
    """Tables for methods whose step costs more than 1.3 times the baseline's.

    Args:
        rows: Label, score and finished runs of each row of a leaderboard, all groups together.

    Returns:
        One table per slow row; none where no cost is known or nothing is slow. Runs are compared
        on the same machine with the same precision, batch and threads only.
    """
    places: dict[tuple[Any, ...], list[tuple[CostRow, Record]]] = defaultdict(list)
    scores: dict[tuple[Any, ...], str] = {}
    for label, score, records in rows:
        row, first = _row(label, score, records), records[0]
        if row is None:
            continue
        key = (first.data, first.net, first.select, first.family_hash or first.recipe)
        key += machine(first)
        places[key].append((row, first))
        scores[key] = score
    tables = []
    for key, members in sorted(places.items(), key=lambda item: str(item[0])):
        tables += _tables(members, scores[key])
    return tables


def _tables(members: list[tuple[CostRow, Record]], score: str) -> list[CostTable]:
    bases = {row.epochs: row for row, _ in members if row.label == BASELINE}
    if not bases:
        return []
    longest = bases[max(bases)]
    for row, _ in members:
        base = bases.get(row.epochs, longest)
        row.step = (row.hours / row.epochs) / (base.hours / base.epochs)
    tables = []
    for slow, record in members:
        if slow.step is None or slow.step <= SLOW:
            continue
        chosen: dict[str, CostRow] = {}
        for row, _ in members:
            distance = abs(row.hours / slow.hours - 1)
            known = chosen.get(row.label)
            nearer = known is None or distance < abs(known.hours / slow.hours - 1)
            if row.label != slow.label and distance <= NEAR and nearer:
                chosen[row.label] = row
        rows = sorted([slow, *chosen.values()], key=lambda row: (-row.summary.mean, row.label))
        unit = "CPU hours" if record.gpu_hours is None else "GPU hours"
        table = CostTable(
            (record.data, record.net, record.select),
            f"{record.data} \N{MIDDLE DOT} {record.net} \N{MIDDLE DOT} select {record.select} "
            f"\N{MIDDLE DOT} at the cost of {slow.label}: {slow.hours:.3g} {unit}, "
            f"within {100 * NEAR:.0f} %",
            score,
            unit,
            rows,
            slow.label,
        )
        if BASELINE not in chosen:
            table.lacking = round(slow.hours / (longest.hours / longest.epochs))
        tables.append(table)
    return tables


def _row(label: str, score: str, records: list[Record]) -> CostRow | None:
    cost = mean_hours(records)
    if cost is None or len({machine(record) for record in records}) > 1:
        return None
    return CostRow(
        label=label,
        epochs=records[0].epochs,
        seeds=[record.seed for record in records],
        values=[record.metrics.get(score, float("nan")) for record in records],
        hours=cost,
        step=None,
        marks=count_marks(records),
    )


def mean_hours(records: list[Record]) -> float | None:
    """Mean cost of a row's runs.

    Args:
        records: Of the runs.

    Returns:
        Hours; None where the cost of one of them is not known.
    """
    costs = [hours(record) for record in records]
    known = [cost for cost in costs if cost and SHORTEST < cost < LONGEST]
    return sum(known) / len(known) if known and len(known) == len(records) else None


def machine(record: Record) -> tuple[Any, ...]:
    """Conditions of a run's speed beside its method; costs compare only where they are equal.

    Args:
        record: Its record.

    Returns:
        Plain values.
    """
    return (
        record.device,
        record.device_count,
        record.precision,
        record.batch_size,
        record.threads,
        record.compiled,
        record.compiled_input,
        record.engine,
        record.augment_by == "epoch",
        record.cuda_graphs is None,
        record.shared_cores,
    )
