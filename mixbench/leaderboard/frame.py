"""Rows of a leaderboard for Python: a data frame, or records where pandas is not installed."""

import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mixbench.leaderboard.rows import Group, Row
from mixbench.leaderboard.sealed import shown_leaderboard
from mixbench.leaderboard.table import sort_rows
from mixbench.records.record import runs_folder


def leaderboard_frame(
    runs: str | Path | Iterable[str | Path] | None = None, *, sort: str | None = None
) -> Any:
    """Finished runs as rows over seeds, a row for each method and its settings.

    Args:
        runs: Folder of runs, or several; the default folder of runs if None.
        sort: Column by which the rows of each table are sorted, the best first; by their rank if
            None.

    Returns:
        A ``pandas.DataFrame`` if pandas is installed, else a list of dicts with the same keys: what
        the rows of a table share (``data net recipe select epochs``), ``method``, ``label``, ``n``
        and ``seeds``, settings as ``method.<key>``, the mean of each score and cost by its name and
        its deviation as ``<name>_sd``, and the default test against ``reference``: ``difference``
        with ``low`` and ``high`` (simultaneous 95 % interval) and ``p``. What is not known is None.

    Raises:
        UserError: If a folder or the column does not exist.

    Warns:
        UserWarning: For each run that is in no row, and for runs that a race still keeps back,
            with the reason.
    """
    named = [runs_folder()] if runs is None else [runs] if isinstance(runs, str | Path) else runs
    board = shown_leaderboard(map(Path, named))
    if sort is not None:
        board = sort_rows(board, sort)
    for line in board.others:
        warnings.warn(f"not among the rows: {line}", stacklevel=3)
    found = [line for group in board.groups for line in _lines(group)]
    try:
        from pandas import DataFrame  # pyright: ignore[reportMissingImports]
    except ImportError:
        return found
    return DataFrame(found)


def _lines(group: Group) -> Iterator[dict[str, Any]]:
    for row in group.rows:
        shared = ("data", "net", "recipe", "recipe_hash", "select", "epochs")
        line = {name: getattr(group, name) for name in shared}
        line |= {"method": row.method, "label": row.label, "n": len(row.seeds), "seeds": row.seeds}
        line |= {f"method.{key}": value for key, value in row.settings.items()}
        yield (
            line
            | _scores(row)
            | _contrast(group, row)
            | {
                "cost": row.cost,
                "failed": row.failed,
                "fidelity": row.fidelity,
                "verified": row.verified,
                "marks": row.marks,
            }
        )


def _scores(row: Row) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, summary in row.summaries.items():
        found[name] = summary.mean if math.isfinite(summary.mean) else None
        found[f"{name}_sd"] = summary.sd
    return found


def _contrast(group: Group, row: Row) -> dict[str, Any]:
    tested = None if group.smoke_test else group.evidence.contrasts.get(row.label)
    names = ("difference", "low", "high", "p")
    return {"reference": group.evidence.reference or None} | {
        name: None if tested is None else getattr(tested, name) for name in names
    }
