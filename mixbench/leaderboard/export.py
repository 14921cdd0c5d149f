"""Leaderboards and comparisons for programs: JSON and CSV."""

import csv
import io
import json
import math
from typing import Any

from mixbench.leaderboard.compare import Comparison
from mixbench.leaderboard.rows import Group, Leaderboard, Row
from mixbench.leaderboard.text import safe_cell
from mixbench.records.marks import marks_text


def comparisons_json(comparisons: list[Comparison]) -> str:
    """Comparisons for programs.

    Args:
        comparisons: The comparisons.

    Returns:
        JSON without numbers that are not finite.
    """
    content = [
        {
            "title": comparison.title,
            "mine": comparison.mine,
            "with": comparison.other,
            "score": comparison.score,
            "test": _plain(comparison.numbers),
            "lines": {
                line.name: {
                    "mine": _plain(vars(line.mine)) if line.mine else None,
                    "with": _plain(vars(line.other)) if line.other else None,
                    "ratio" if line.cost else "difference": _finite(
                        line.ratio if line.cost else line.difference
                    ),
                    "low": _finite(line.low),
                    "high": _finite(line.high),
                }
                for line in comparison.lines
            },
            "notes": comparison.notes,
        }
        for comparison in comparisons
    ]
    return json.dumps(content, indent=2) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return _finite(value) if isinstance(value, float) else value


def board_json(board: Leaderboard) -> str:
    """A leaderboard for programs, with all that is known of its rows.

    Args:
        board: The leaderboard.

    Returns:
        JSON without numbers that are not finite.
    """
    return json.dumps(_board(board), indent=2) + "\n"


def _board(board: Leaderboard) -> dict[str, Any]:
    groups = []
    for group in board.groups:
        rows = [
            {
                "method": row.label,
                "settings": row.settings,
                "fidelity": row.fidelity,
                "n": len(row.seeds),
                "seeds": row.seeds,
                "failed": row.failed,
                "diverged": row.diverged,
                "marked": row.marked,
                "images": row.images,
                "calibrated": row.calibrated,
                "marks": row.marks,
                "verified": row.verified,
                "contrast": _contrast(group, row),
                "metrics": {
                    name: {k: _finite(v) for k, v in vars(summary).items()}
                    for name, summary in row.summaries.items()
                },
            }
            for row in group.rows
        ]
        groups.append(
            {
                "data": group.data,
                "net": group.net,
                "recipe": group.recipe,
                "recipe_hash": group.recipe_hash,
                "select": group.select,
                "epochs": group.epochs,
                "smoke_test": group.smoke_test,
                "verdict": group.verdict.text,
                "devices": group.devices,
                "score": group.score,
                "reference": group.evidence.reference or None,
                "detectable_difference": _finite(group.evidence.mdd),
                "levene_p": _finite(group.evidence.levene),
                "rows": rows,
            }
        )
    costs = [
        {
            "title": table.title,
            "unit": table.unit,
            "note": table.note,
            "detectable_difference": _finite(table.evidence.mdd),
            "rows": [
                {
                    "method": row.label,
                    "epochs": row.epochs,
                    "seeds": row.seeds,
                    "hours": row.hours,
                    "step_cost": row.step,
                    "marks": row.marks,
                    table.score: {k: _finite(v) for k, v in vars(row.summary).items()},
                }
                for row in table.rows
            ],
        }
        for table in board.costs
    ]
    return {"groups": groups, "equal_cost": costs, "others": board.others}


def _contrast(group: Group, row: Row) -> dict[str, float | bool | None] | None:
    """A row against the reference; None where nothing was tested."""
    contrast = group.evidence.contrasts.get(row.label)
    if contrast is None or group.smoke_test:
        return None
    return {k: _finite(v) for k, v in vars(contrast).items()} | {"separated": contrast.separated}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def board_csv(board: Leaderboard) -> str:
    """A leaderboard for spreadsheets, a line for each row, with all that is known of it.

    Args:
        board: The leaderboard.

    Returns:
        Comma-separated values; no cell begins a formula.
    """
    lines: list[dict[str, Any]] = []
    for group in board.groups:
        for row in group.rows:
            words = {
                "data": group.data,
                "net": group.net,
                "recipe": group.recipe,
                "recipe_hash": group.recipe_hash,
                "select": group.select,
                "method": row.label,
                "settings": " ".join(f"{key}={row.settings[key]}" for key in sorted(row.settings)),
                "fidelity": row.fidelity,
            }
            line: dict[str, Any] = {key: safe_cell(text) for key, text in words.items()}
            line |= {"epochs": group.epochs, "n": len(row.seeds), "failed": row.failed}
            line["marks"] = safe_cell(marks_text(row.marks, len(row.seeds)))
            line["verified"] = row.verified
            line |= {"diverged": row.diverged, "reference": safe_cell(group.evidence.reference)}
            contrast = _contrast(group, row) or {}
            for key in ("difference", "p", "mdd", "separated"):
                value = contrast.get(key)
                line[key] = "" if value is None else f"{value:.6g}" if key != "separated" else value
            for name, summary in row.summaries.items():
                for part in ("mean", "sd", "low", "high"):
                    value = _finite(getattr(summary, part))
                    line[safe_cell(f"{name}_{part}")] = "" if value is None else f"{value:.6g}"
            lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
