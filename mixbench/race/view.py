"""A race in W&B: a group of its runs, and one run that shows what it found.

Scores of the test set are kept back until the last run of a look has ended; the run of the race
shows them as a table.
"""

import uuid
from pathlib import Path
from typing import Any

from mixbench.race.state import RaceState
from mixbench.race.words import answer_texts
from mixbench.records.record import Record, read_record
from mixbench.tracking.run import View, open_view

# Keys of W&B that a race decides itself, and why they may not be given.
DECIDED_VIEW = {
    "wandb.group": "the runs of a race make a group of their own",
    "wandb.test": "a race shows no test score before its last run has ended",
}
SELECTION: list[Any] = ["method", "round", "block", "fold", "score"]
CONFIRMATION: list[Any] = ["method", "seed", "run"]


def view_words(state: RaceState, words: list[str], *, tested: bool) -> list[str]:
    """Overrides that show a run of a race in its group.

    Args:
        state: The race.
        words: Those that ask for a view; none where there is none.
        tested: Whether the run is tested on the test set, whose scores nobody may see yet.
    """
    if not words:
        return []
    return [*words, f"wandb.group={state.id}", *(["wandb.test=false"] if tested else [])]


def show_race(state: RaceState, folder: Path, mode: str | None, project: str) -> list[str]:
    """Show what a race has found.

    Args:
        state: A race that is finished as far as it was paid for.
        folder: Folder of all runs.
        mode: As for :func:`mixbench.tracking.run.open_view`.
        project: W&B project.

    Returns:
        Lines that say where it is.
    """
    view = open_view(
        folder / state.id,
        run_id=f"{state.id}-{uuid.uuid4().hex[:8]}",
        name=state.id,
        group=state.id,
        job_type="race",
        project=project,
        mode=mode,
        config=_facts(state),
        notes=" ".join(answer_texts(state)),
    )
    if view is None:
        return []
    records = [read_record(folder / run) for look in state.looks[-1:] for run in look.run_ids]
    view.send(lambda: _log(view, state, [each for each in records if each.status == "done"]))
    if not view.close():
        return [f"W&B: the race is not complete there; what there is: {view.folder}"]
    if view.url:
        return [f"W&B: {view.url}"]
    return [f"W&B: offline, upload with: wandb sync $(find {folder} -name 'offline-run-*')"]


def _facts(state: RaceState) -> dict[str, Any]:
    return {
        "data": state.data,
        "score": state.score,
        "costs": state.costs,
        "left_out": state.left_out,
        "budgets": [budget.text for budget in state.budgets],
        "folds": state.folds,
        "hashes": state.hashes,
    }


def _log(view: View, state: RaceState, records: list[Record]) -> None:
    import wandb

    lines = [
        [name, number, each.first + place, (each.first + place) % state.folds, value]
        for number, each in enumerate(state.rounds, start=1)
        for name, values in each.scores.items()
        for place, value in enumerate(values)
    ]
    tables = {"selection": wandb.Table(columns=list(SELECTION), data=lines)}
    scores = list(dict.fromkeys(name for record in records for name in record.metrics))
    if records:
        lines = [
            [each.method, each.seed, each.id, *(each.metrics.get(name) for name in scores)]
            for each in records
        ]
        tables["confirmation"] = wandb.Table(columns=[*CONFIRMATION, *scores], data=lines)
    view.run.log(tables)
    found: dict[str, Any] = {"winner": state.winner}
    if state.looks:
        look = state.looks[-1]
        found |= {"look": look.k, "pairs": look.n, "outcome": look.outcome}
        if look.result is not None:
            found |= {name: getattr(look.result, name) for name in ("gain", "low", "high")}
    view.run.summary.update(found)
