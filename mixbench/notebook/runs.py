"""Small runs behind a notebook: trained once, found again by their ids."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mixbench.config.compose import compose
from mixbench.config.overrides import flatten
from mixbench.errors import InterruptedRunError, RunFailedError, UserError, counted
from mixbench.launch.local import LocalLauncher
from mixbench.launch.plan import PlannedRun, expand
from mixbench.launch.sweep import read_sweep
from mixbench.notebook.table import Table
from mixbench.records.curves import read_curves
from mixbench.records.record import read_record, runs_folder


def bench(words: Sequence[str], say: Callable[[str], None]) -> list[Path]:
    """Train the runs of a grid that are not done, as ``mixbench bench`` does.

    Args:
        words: Overrides such as ``method=erm,alignmix``, ``data=digits``, ``seeds=0,1``.
        say: Called with one line per run.

    Returns:
        Folders of the runs, in the order of the grid.

    Raises:
        UserError: If a name, key or value cannot be used.
        RunFailedError: If a run failed; the others are done.
        InterruptedRunError: If it was stopped; the same call goes on.
    """
    return _launch(expand(_with_suites(words)), say)


def sweep(name: str, words: Sequence[str], say: Callable[[str], None]) -> list[Path]:
    """Train the runs of an ablation plan that are not done, as ``mixbench sweep`` does.

    Args:
        name: Name of a plan in ``experiments/sweep``, or path of its file.
        words: Overrides; they replace what the plan says of the same key, a whole axis too.
        say: Called with one line per run.

    Returns:
        Folders of the runs, in the order of the plan.

    Raises:
        UserError: If the plan cannot be used, or needs another one first; else as :func:`bench`.
    """
    plan = read_sweep(name, _with_suites(words))
    if plan.needs:
        raise UserError("the plan needs another one first", name, f"use mixbench sweep {name}")
    return _launch(plan.runs, say)


def scores(folders: Sequence[Path], keys: Sequence[str], curves: Sequence[str] = ()) -> Table:
    """Settings and results of runs, one row each, nothing averaged over seeds.

    Args:
        folders: Folders of finished runs.
        keys: Settings to show, such as ``method.eps``.
        curves: Values logged in training, such as ``row_error``; their mean over the run.

    Returns:
        Settings, seed, ``top1`` in percent, ``nll`` in nats, and the curves that a run has.
    """
    rows = []
    for folder in folders:
        record, config = read_record(folder), compose("", base=folder / "config.yaml")
        settings = dict(flatten({"method": config.method, "net": vars(config.net)}))
        row: dict[str, Any] = {key: settings[key] for key in keys} | {"seed": record.seed}
        row |= {name: record.metrics[name] for name in ("top1", "nll")}
        rows.append(row | _means(read_curves(folder / "metrics.csv")[0], curves))
    return Table(rows)


def logged(folders: Sequence[Path], names: Sequence[str], parts: int = 20) -> Table:
    """Values logged in training over the epochs of runs, averaged over equal parts of each run.

    Args:
        folders: Folders of runs, finished or not.
        names: Values, such as ``loss_mixer``; a run lacks those that its method does not log.
        parts: Rows of each run.

    Returns:
        Method, seed, ``epochs`` done in the middle of the part, and the means of the part.
    """
    rows = []
    for folder in folders:
        config, record = compose("", base=folder / "config.yaml"), read_record(folder)
        lines, _ = read_curves(folder / "metrics.csv")
        steps = max(line["step"] for line in lines) + 1
        for part in range(parts):
            within = [line for line in lines if int(parts * line["step"] / steps) == part]
            row = {"method": record.method, "seed": record.seed}
            row["epochs"] = config.epochs * (part + 0.5) / parts
            rows.append(row | _means(within, names))
    return Table(rows)


def _means(lines: list[dict[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Mean of each logged value over the lines that have it; a name without any has none."""
    found = {
        name: [line[key] for line in lines if (key := f"train/{name}") in line] for name in names
    }
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def _with_suites(words: Sequence[str]) -> list[str]:
    """Leave out suites that no notebook shows; they take no part in the ids."""
    given = any(word.startswith("eval.") for word in words)
    return [*words, *([] if given else ["eval.suites=[calibration]"])]


def _launch(runs: list[PlannedRun], say: Callable[[str], None]) -> list[Path]:
    folder = runs_folder(compose(runs[0].words).run.dir)
    launcher = LocalLauncher(say)
    runs = launcher.prepare(runs)
    say(f"{counted(len(runs), 'run')}, {sum(run.done for run in runs)} of them done already")
    before = signal.getsignal(signal.SIGTERM)
    try:
        outcome = launcher.launch(runs, folder)
    finally:
        signal.signal(signal.SIGTERM, before)
    if outcome.interrupted:
        raise InterruptedRunError("interrupted", str(folder), "the same call goes on")
    if outcome.failures:
        what = f"{len(outcome.failures)} of {len(runs)} runs failed"
        raise RunFailedError(what, ", ".join(outcome.failures), f"read {folder}/<id>/log.txt")
    return [folder / run.id for run in runs]
