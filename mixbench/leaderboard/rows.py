"""Records to rows over seeds, grouped by what may be compared."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixbench.errors import UserError, counted
from mixbench.leaderboard.columns import column_names, describe, sampled
from mixbench.leaderboard.costs import CostTable, equal_cost, relative_costs
from mixbench.leaderboard.evidence import Evidence, weigh
from mixbench.leaderboard.folds import join_folds
from mixbench.leaderboard.headline import RANKED
from mixbench.leaderboard.verdict import Verdict, decide
from mixbench.records.marks import count_marks
from mixbench.records.record import RECORD, Record, read_record
from mixbench.stats.intervals import Summary, summarize

SMOKE_TESTS = ("digits",)
LONGEST_VALUE = 40  # signs of a setting that a label holds
# The setting by which methods of a task choose their test images; scores of others do not compare.
CHOOSES_IMAGES = {"demix": "tested"}


@dataclass
class Row:
    """A method with its settings, over its seeds.

    Attributes:
        label: Name of the row in its table: the method, and those settings in which it differs
            from other rows of the method.
        settings: Settings of the method away from their defaults, by key.
        cost: Time of training relative to plain training, else to the cheapest row; None where it
            is not known or that of another machine.
        origin: What tells it from rows of equal settings, such as the checkpoint it starts from.
    """

    label: str
    fidelity: str
    seeds: list[int]
    summaries: dict[str, Summary]
    failed: int = 0
    marked: bool = False  # best, or not separated from the best
    shared_cores: bool = False
    diverged: int = 0  # of those that failed
    images: dict[str, list[int]] = field(default_factory=dict)  # of suites that sample them
    calibrated: bool = False  # no seed's ECE is more than chance makes of perfect calibration
    settings: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    cost: float | None = None
    records: list[Record] = field(default_factory=list, repr=False)  # by seed
    folders: list[Path] = field(default_factory=list, repr=False)  # by seed, and fold if any

    @property
    def runs(self) -> list[list[Path]]:
        """The folders of each seed: one, or those of all folds."""
        each = len(self.folders) // max(1, len(self.seeds))
        return [self.folders[start : start + each] for start in range(0, len(self.folders), each)]

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.records[0].method

    @property
    def full_label(self) -> str:
        """The method with all settings away from their defaults, in any table the same."""
        return _label(self, sorted(self.settings))

    def summary(self, name: str) -> Summary | None:
        """Mean of a score or cost over seeds; None where a run lacks it."""
        if name not in self.summaries and all(name in record.metrics for record in self.records):
            self.summaries[name] = summarize([record.metrics[name] for record in self.records])
        return self.summaries.get(name)

    @property
    def marks(self) -> dict[str, int]:
        """Words of caution, by number of seeds."""
        return count_marks(self.records)

    def images_of(self, score: str) -> set[int | str | None]:
        """Numbers or sets of images that its runs have a score of; of several no mean is taken.

        None stands for a run that does not say; a score of all test images has none of them.
        """
        return _images_of(self.records, score)

    @property
    def verified(self) -> str:
        """``yes``, ``partly`` or ``no``, of the worst run; empty where one was not verified."""
        found = {record.verified for record in self.records}
        words = {False: "no", None: "", "partly": "partly", True: "yes"}
        return next((word for value, word in words.items() if value in found), "")


@dataclass
class Group:
    """Rows that may be compared: same data, network, recipe, selection and test images."""

    data: str
    net: str
    recipe: str
    recipe_hash: str
    select: str
    epochs: int
    sizes: tuple[int, int]
    devices: list[str]
    task: str = "supervised"
    folds: int | None = None  # in which all images are tested in turn
    tested: str = ""  # setting that chooses the test images, where it is not the default
    rows: list[Row] = field(default_factory=list)
    score: str = "top1"  # what rows are ranked by
    varied: tuple[str, ...] = ()  # settings in which rows of one method differ
    order: str = ""  # column by which a user has sorted the rows
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def smoke_test(self) -> bool:
        """Whether the data is too easy to rank methods on."""
        return self.data in SMOKE_TESTS

    @property
    def verdict(self) -> Verdict:
        """The answer of the table in words."""
        means = {row.label: row.summaries[self.score] for row in self.rows}
        return decide(self.evidence, means, self.score, smoke_test=self.smoke_test)

    @property
    def title(self) -> str:
        """The facts that the rows have in common, in one line."""
        task = "" if self.task == "supervised" else f"task {self.task} · "
        return (
            f"{self.data} · {self.net} · {task}recipe {self.recipe} ({self.recipe_hash[:8]}) · "
            f"{counted(self.epochs, 'epoch')} · select {self.select} · "
            f"{self.sizes[0]:,} training and {counted(self.sizes[1], 'test image')}"
            f"{'' if self.folds is None else f' in {self.folds} folds'}"
        )


@dataclass
class Leaderboard:
    """Groups of rows, and the runs that are in none."""

    groups: list[Group]
    others: list[str] = field(default_factory=list)  # one line per run that is not averaged
    costs: list[CostTable] = field(default_factory=list)

    def only(self, recipe_hashes: set[str]) -> "Leaderboard":
        """The groups of some recipes; the runs in no group stay listed."""
        kept = [group for group in self.groups if group.recipe_hash in recipe_hashes]
        titles = {(group.data, group.net, group.select) for group in kept}
        costs = [table for table in self.costs if table.place in titles]
        return Leaderboard(kept, self.others, costs)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Folders of runs at or directly below the given paths.

    Args:
        paths: Folders of runs, or of collections of runs.

    Returns:
        Sorted folders that hold a record.

    Raises:
        UserError: If a path does not exist.
    """
    found: dict[Path, Path] = {}  # a folder may be named in several ways
    for path in paths:
        if not path.is_dir():
            what = "this folder holds no runs" if path.exists() else "no such folder"
            raise UserError(
                what, str(path), "check the name, or train some runs with mixbench bench"
            )
        for folder in filter(_has_record, (path, *path.iterdir())):
            found.setdefault(folder.resolve(), folder)
    return sorted(found.values())


def _has_record(folder: Path) -> bool:
    """Whether a folder has a record, even one that cannot be read."""
    try:
        os.lstat(folder / RECORD)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # a folder that may not be looked into
        return folder.is_dir()
    return True


def build_leaderboard(folders: Iterable[Path]) -> Leaderboard:
    """Read records and average them over seeds.

    Runs that are not done, or lack the score of their table, are counted and listed, never
    averaged. Of two records with one id, or of one method, configuration and seed, the later
    attempt counts.

    Args:
        folders: Folders of runs.

    Returns:
        The leaderboard.
    """
    others: list[str] = []
    records: dict[str, tuple[Record, Path]] = {}
    seeds: dict[tuple[Any, ...], str] = {}  # id by what no second run may repeat
    for folder in folders:
        try:
            record = read_record(folder)
        except UserError as error:
            others.append(f"{folder.name} cannot be read: {error.what}.")
            continue
        if record.race_fold is not None:
            others.append(
                f"{record.id} chose in a race: it is scored on a fold of the training images and "
                "stands in no table."
            )
            continue
        key = (record.config_hash, record.recipe_hash, record.method, record.data, record.net)
        key = (*key, record.select, record.epochs, record.seed)
        known = records.get(record.id) or records.get(seeds.get(key, ""))
        if known is None:
            records[record.id], seeds[key] = (record, folder), record.id
            continue
        older, newer = sorted([known, (record, folder)], key=lambda pair: _age(pair[0]))
        what = f"record of {record.id}"
        if known[0].id != record.id:
            what = f"run of {record.method} with seed {record.seed}"
        others.append(f"{older[1]} is another {what}, of which the later attempt counts.")
        del records[known[0].id]
        records[newer[0].id], seeds[key] = newer, newer[0].id

    groups: dict[tuple[Any, ...], dict[tuple[str, str], list[Record]]] = defaultdict(
        lambda: defaultdict(list)
    )
    joined = {record.id: (record, places) for record, places in join_folds(records.values())}
    for record, _ in joined.values():
        key = (record.data, record.net, record.recipe_hash, record.select, record.epochs)
        key += (_tested(record),)
        groups[key][record.method, record.row].append(record)
        if record.status != "done":
            reason = f" ({record.message.splitlines()[0]})" if record.message else ""
            others.append(f"{record.id} has the status {record.status}{reason}.")
        elif bad := _not_finite(record.metrics):
            others.append(
                f"{record.id} has no finite {', '.join(bad)}, so that its row has no mean of it."
            )
    for methods in groups.values():
        every = [record for members in methods.values() for record in members]
        score = _score(every)
        others += [
            f"{record.id} is done, but its record has no {score}; "
            f"mixbench eval {joined[record.id][1][0]} --suite {describe(score).suite} adds it."
            for record in every
            if record.status == "done" and not _counts(record, score)
        ]
        _divide(methods)
    rows: list[tuple[str, str, list[Record]]] = []
    built = [
        _group(methods, rows) for _, methods in sorted(groups.items(), key=lambda item: item[0])
    ]
    kept = [group for group in built if group.rows]
    for row in (row for group in kept for row in group.rows):
        row.folders = [place for record in row.records for place in joined[record.id][1]]
    return Leaderboard(kept, sorted(others), equal_cost(rows))


def _divide(methods: dict[tuple[str, str], list[Record]]) -> None:
    """Split rows in which runs of one seed start from several checkpoints.

    Runs that start each from the checkpoint of their own seed make one row; those that compare
    checkpoints do not.
    """
    for (method, row), records in list(methods.items()):
        seeds = [record.seed for record in records if record.status == "done"]
        if len(set(seeds)) < len(seeds):
            del methods[method, row]
            for record in records:
                methods.setdefault((method, f"{row} {record.config_hash}"), []).append(record)


def _score(records: Iterable[Record]) -> str:
    """The score by which the rows of a group are ranked."""
    scored = {name for record in records for name in record.metrics}
    return next((name for name in RANKED if name in scored), RANKED[0])


def _tested(record: Record) -> str:
    """The setting that chooses a run's test images, where it is not the default."""
    key = CHOOSES_IMAGES.get(record.task, "")
    if key not in record.settings:
        return ""
    value = record.settings[key]
    return f"{key}={'null' if value is None else value}"


def _counts(record: Record, score: str) -> bool:
    """Whether a run is averaged over seeds."""
    return record.status == "done" and score in record.metrics


def _not_finite(metrics: dict[str, float]) -> list[str]:
    return [k for k in column_names("score", "peek") if not math.isfinite(metrics.get(k, 0.0))]


def _age(record: Record) -> tuple[bool, int, str]:
    started = record.attempts[-1].get("started", "") if record.attempts else ""
    return record.status == "done", len(record.attempts), str(started)


def _group(
    methods: dict[tuple[str, str], list[Record]], rows: list[tuple[str, str, list[Record]]]
) -> Group:
    every = [record for records in methods.values() for record in records]
    first = every[0]
    recipes = sorted({record.recipe for record in every})
    tested = _tested(first)
    group = Group(
        data=first.data,
        net=first.net,
        recipe="/".join(recipes) + f", {tested}" * bool(tested),
        recipe_hash=first.recipe_hash,
        select=first.select,
        epochs=first.epochs,
        sizes=(first.train_size, first.test_size),
        devices=sorted({record.device for record in every if record.device}),
        task=first.task,
        folds=first.folds,
        tested=tested,
    )
    group.score = _score(every)
    values: dict[str, list[float]] = {}
    for (_, row_hash), records in methods.items():
        done = sorted((r for r in records if _counts(r, group.score)), key=lambda r: r.seed)
        if not done:
            continue
        row = _row(done, group.score, failed=len(records) - len(done))
        row.diverged = sum(record.status == "diverged" for record in records)
        if row_hash != done[0].row:  # told apart by what they start from
            names = (shown_value(file.get("name", "?")) for file in done[0].inputs.values())
            row.origin = f"from {', '.join(names)}"
        group.rows.append(row)
    group.varied = _name_rows(group.rows)
    for row in group.rows:
        values[row.label] = [record.metrics.get(group.score, math.nan) for record in row.records]
    costs = relative_costs({row.label: row.records for row in group.rows})
    for row in group.rows:
        row.cost = costs[row.label]
    if not group.smoke_test:
        rows += [(row.full_label, group.score, row.records) for row in group.rows]
    group.evidence = weigh(values, {row.label: row.diverged for row in group.rows})
    if group.smoke_test:
        group.rows.sort(key=lambda row: row.label)
        return group
    rank = describe(group.score).rank
    group.rows.sort(key=lambda row: (rank(row.summaries[group.score].mean), row.label))
    # Nothing stands out where the test separates nothing.
    tested = {group.evidence.reference, *group.evidence.contrasts} - {""}
    for row in group.rows:
        row.marked = row.label in group.evidence.best and group.evidence.best < tested
    return group


def _name_rows(rows: list[Row]) -> tuple[str, ...]:
    """Give rows labels that tell them apart, and return the settings that they need for it."""
    varied: dict[str, None] = {}
    labels: set[str] = set()
    of_method: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_method[row.method].append(row)
    for members in of_method.values():
        keys = sorted({key for row in members for key in row.settings})
        own = [key for key in keys if len({_setting(row, key) for row in members}) > 1]
        varied |= dict.fromkeys(own)
        for row in members:
            row.label = _label(row, own)
            while row.label in labels:  # same method and settings under another version's hash
                row.origin += "'"
                row.label = _label(row, own)
            labels.add(row.label)
    return tuple(varied)


def _setting(row: Row, key: str) -> str:
    return repr(row.settings[key]) if key in row.settings else ""


def _label(row: Row, keys: Iterable[str]) -> str:
    told = " ".join(
        f"{key}={shown_value(row.settings[key])}" for key in keys if key in row.settings
    )
    text = f"{row.method} {told}".strip()
    return f"{text}{'' if row.origin[:1] in ('', chr(39)) else ' '}{row.origin}"


def shown_value(value: Any) -> str:
    """A setting as labels and columns show it, cut where it is long."""
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _row(done: list[Record], score: str, failed: int) -> Row:
    first = done[0]
    summaries = {
        name: summarize([record.metrics.get(name, math.nan) for record in done])
        for name in column_names("score", "peek")
        if name == score or any(name in record.metrics for record in done)
    }
    images = {}
    for suite, found in sampled(summaries).items():
        sizes = _images(done, suite)
        images[suite] = sorted(filter(None, sizes))
        if len(sizes) > 1:  # scores of other images, or of fewer runs, make no mean
            summaries |= dict.fromkeys(found, summarize([math.nan]))
    for name in summaries:
        if describe(name).shared and len(_images_of(done, name)) > 1:
            summaries[name] = summarize([math.nan])
    for name in column_names("cost"):
        values = [value for record in done if (value := getattr(record, name)) is not None]
        if values:
            summaries[name] = summarize(values)
    return Row(
        label=first.method,
        settings=dict(first.settings),
        fidelity=first.fidelity,
        seeds=[record.seed for record in done],
        summaries=summaries,
        failed=failed,
        shared_cores=any(record.shared_cores for record in done),
        records=done,
        images=images,
        calibrated=all(_at_floor(record.metrics) for record in done),
    )


def gaps(row: Row, scores: Iterable[str]) -> list[str]:
    """Reasons why a row has no mean of scores that some of its runs have.

    Args:
        row: The row.
        scores: Their names.

    Returns:
        A sentence for each reason.
    """
    partly, mixed = defaultdict(list), defaultdict(list)
    for name in scores:
        having = tuple(name in record.metrics for record in row.records)
        images = row.images_of(name)
        if any(having) and not all(having):
            partly[having].append(name)
        elif any(having) and len(images) > 1:
            known = sorted(filter(None, images), key=lambda x: (x if isinstance(x, int) else 0, x))
            kind = "sets" if describe(name).shared else "numbers"
            words = map(str, [*known, *["unknown"] * (None in images)])
            shown = (" or " if describe(name).shared else ", ").join(words)
            mixed[kind, shown].append(name)
    found = [
        f"Only {sum(having)} of {len(having)} runs of {row.label} "
        f"{'has' if sum(having) == 1 else 'have'} {', '.join(lacking)}, so that there is no mean."
        for having, lacking in partly.items()
    ]
    return found + [
        f"There is no mean of {', '.join(other)} for {row.label}, as its runs were judged on "
        f"different {kind} of images ({shown})."
        for (kind, shown), other in mixed.items()
    ]


def _images_of(records: Iterable[Record], score: str) -> set[int | str | None]:
    column = describe(score)
    found: set[int | str | None] = set()
    for record in records:
        facts = record.evaluations.get(column.suite, {})
        images, shared = facts.get("images"), facts.get(column.shared)
        if column.sampled and shared and images is not None:
            found.add(f"{shared} on {images} images")
        elif column.sampled or column.shared:
            found.add(images if column.sampled else shared)
    return found


def _images(records: Iterable[Record], suite: str) -> set[int | None]:
    return {record.evaluations.get(suite, {}).get("images") for record in records}


def _at_floor(metrics: dict[str, float]) -> bool:
    return metrics.get("ece", math.nan) <= metrics.get("ece_floor_95", math.nan)
