"""Columns of the page's tables until the leaderboard has them."""

import math

from mixbench.leaderboard.columns import NONE, column_names, describe
from mixbench.leaderboard.evidence import sentences
from mixbench.leaderboard.rows import Group, Row, gaps
from mixbench.leaderboard.verdict import p_text
from mixbench.records.marks import marks_text


def default_columns(group):
    names = [n for n in ("nll", "ece_cf", "fgsm_8") if any(n in r.summaries for r in group.rows)]
    tested = ["difference", "p"] if group.evidence.contrasts and not group.smoke_test else []
    return ["method", "n", group.score, *tested, *names]


def all_columns(group):
    known = {name for row in group.rows for name in row.summaries}
    tested = ["difference", "p"] if group.evidence.contrasts and not group.smoke_test else []
    return [
        "method",
        "n",
        group.score,
        "interval",
        *tested,
        *[n for n in column_names() if n in known and n != group.score],
        "fidelity",
        "verified",
        "seeds",
        "marks",
    ]


def header_text(group, name):
    column = describe(name)
    arrow = {"higher": " ↑", "lower": " ↓"}.get(column.better, "")
    if name == "difference":
        return f"vs {group.evidence.reference}"
    return (f"{name} ± sd" if name == group.score else name) + arrow


def cell_text(group: Group, row: Row, name: str) -> str:
    if name == "method":
        return row.label
    if name == "n":
        return f"{len(row.seeds)}" + (f" of {len(row.seeds) + row.failed}" if row.failed else "")
    if name == "interval":
        s = row.summaries[group.score]
        if s.low is None or s.high is None:
            return NONE
        return f"{s.low:.2f} to {s.high:.2f}" if math.isfinite(s.low + s.high) else NONE
    if name in ("difference", "p"):
        c = group.evidence.contrasts.get(row.label)
        if c is None:
            return "reference" if row.label == group.evidence.reference and name != "p" else NONE
        if name == "p":
            return p_text(c.p).removeprefix("p ").removeprefix("= ")
        return f"{c.difference:+.2f} [{c.low:+.2f} to {c.high:+.2f}]"
    if name in ("fidelity", "verified"):
        return getattr(row, name) or NONE
    if name == "seeds":
        return ", ".join(map(str, row.seeds))
    if name == "marks":
        return marks_text(row.marks, len(row.seeds)) or NONE
    s = row.summaries.get(name)
    text = describe(name).text(s.mean if s else None)
    if name == group.score and s and s.sd is not None:
        text += f" ± {describe(name).text(s.sd)}"
    return text


def table_notes(group, names):
    return [
        *sentences(group.evidence, group.score),
        *[note for row in group.rows for note in gaps(row, names)],
    ]
