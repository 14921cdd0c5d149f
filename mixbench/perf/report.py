"""Rows and gates: what was measured, what had to hold, and the tables of both."""

import json
import math
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mixbench.files import write_text
from mixbench.perf.timing import Budget, quartiles, ratio
from mixbench.records.record import cpu_name, environment

SCHEMA = 1
PASS, FAIL, SKIPPED = "pass", "FAIL", "skipped"
_PEERS = ("timm", "kornia", "pot", "geomloss", "pillow")


@dataclass
class Row:
    """One variant at one shape.

    ``rounds_ms`` holds one value per turn and is empty where ``skipped`` says why. ``images`` is
    the batch size, ``traffic`` the bytes that must be moved at least, ``figures`` whatever else
    was measured, by the title of its column.
    """

    part: str
    shape: str
    variant: str
    images: int
    rounds_ms: list[float] = field(default_factory=list)
    traffic: int | None = None
    note: str = ""
    skipped: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def median_ms(self) -> float:
        """Milliseconds of one batch."""
        return statistics.median(self.rounds_ms)

    @property
    def spread_ms(self) -> float:
        """Distance of the quartiles."""
        low, high = quartiles(self.rounds_ms)
        return high - low


@dataclass(frozen=True)
class Rule:
    """Condition on two rows of a shape: ``ours`` is ``speedup`` times faster."""

    part: str
    shape: str
    ours: str
    peer: str
    speedup: float

    def __str__(self) -> str:
        asked = f">= {self.speedup:g}x faster than"
        if self.speedup < 1:
            asked = f"<= {1 / self.speedup:.3g}x the time of"
        return f"{self.part} {self.shape}: {self.ours} {asked} {self.peer}"


@dataclass(frozen=True)
class Limit:
    """Bound on a figure of a row: at most a number, or at most the same figure of a peer."""

    part: str
    shape: str
    ours: str
    figure: str
    most: float | str

    def __str__(self) -> str:
        most = f"{self.most:g}" if isinstance(self.most, float) else f"that of {self.most}"
        return f"{self.part} {self.shape}: {self.figure} of {self.ours} <= {most}"


@dataclass(frozen=True)
class Gate:
    """A rule and how it came out."""

    rule: str
    status: str
    detail: str = ""


def judge(rules: Iterable[Rule | Limit], rows: Iterable[Row]) -> list[Gate]:
    """Hold rows against rules.

    Args:
        rules: What must hold, of times and of other figures.
        rows: What was measured.

    Returns:
        One gate per rule; skipped where a row is missing or was itself skipped.
    """
    found = {(row.part, row.shape, row.variant): row for row in rows}
    gates = []
    for rule in rules:
        names = [rule.ours]
        if isinstance(rule, Rule):
            names.append(rule.peer)
        elif isinstance(rule.most, str):
            names.append(rule.most)
        pair = [found.get((rule.part, rule.shape, name)) for name in names]
        absent = [
            f"{name}: {row.skipped if row else 'not measured'}"
            for name, row in zip(names, pair, strict=True)
            if row is None or row.skipped
        ]
        rows_there = [row for row in pair if row is not None]
        if absent:
            gates.append(Gate(str(rule), SKIPPED, "; ".join(absent)))
        elif isinstance(rule, Rule):
            gates.append(_judge_time(rule, *rows_there))
        else:
            gates.append(_judge_figure(rule, *rows_there))
    return gates


def _judge_time(rule: Rule, ours: Row, peer: Row) -> Gate:
    faster = ratio(peer.rounds_ms, ours.rounds_ms)
    shown = faster if rule.speedup >= 1 else ratio(ours.rounds_ms, peer.rounds_ms)
    detail = f"{shown.value:.2f}x, middle half of the turns {shown.low:.2f} to {shown.high:.2f}"
    return Gate(str(rule), PASS if faster.value >= rule.speedup else FAIL, detail)


def _judge_figure(rule: Limit, ours: Row, peer: Row | None = None) -> Gate:
    value = ours.figures[rule.figure]
    most = rule.most if peer is None else peer.figures[rule.figure]
    detail = f"{value:.4g}" if peer is None else f"{value:.4g} and {most:.4g}"
    return Gate(str(rule), PASS if value <= float(most) else FAIL, detail)


def conditions(device: torch.device, budget: Budget, *, freed_kept: bool) -> dict[str, Any]:
    """Everything a figure has to carry.

    Args:
        device: Where the variants computed.
        budget: How long was measured.
        freed_kept: Whether the allocator kept freed memory.

    Returns:
        JSON-ready dict.
    """
    cuda = device.type == "cuda"
    facts = environment()
    for package in _PEERS:
        try:
            facts["versions"][package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "schema": SCHEMA,
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if cuda else cpu_name(),
        "threads": 1,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
        "freed_memory_kept": freed_kept,
        "clock": "CUDA events" if cuda else "CPU seconds of the process",
        "budget": asdict(budget),
        **facts,
    }


def to_json(
    facts: dict[str, Any], rows: list[Row], gates: list[Gate], bases: dict[str, str]
) -> str:
    """All that was measured, round by round.

    Args:
        facts: Conditions of the measurement.
        rows: What was measured.
        gates: How the rules came out.
        bases: Variant that ratios refer to, by part.

    Returns:
        JSON text.
    """
    table = []
    for row in rows:
        entry = asdict(row)
        # A solver that fails gives NaN, which JSON does not know.
        entry["figures"] = {k: v if math.isfinite(v) else None for k, v in row.figures.items()}
        if not row.skipped:
            entry |= {"median_ms": row.median_ms, "spread_ms": row.spread_ms}
            entry["ratio"] = _to_base(row, rows, bases)
        table.append(entry)
    content = facts | {"bases": bases, "rows": table, "gates": [asdict(gate) for gate in gates]}
    return json.dumps(content, indent=1) + "\n"


def to_markdown(
    facts: dict[str, Any], rows: list[Row], gates: list[Gate], bases: dict[str, str]
) -> str:
    """The same as a table and a list of gates.

    Args:
        facts: Conditions of the measurement.
        rows: What was measured.
        gates: How the rules came out.
        bases: Variant that ratios refer to, by part.

    Returns:
        Markdown text.
    """
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    based = ", ".join(f"{part}: {base}" for part, base in bases.items())
    lines = [
        f"# Speed on {facts['device']}, {facts['date']}",
        "",
        f"{facts['hardware']}; {facts['threads']} thread; {facts['clock']}; {versions}; "
        f"commit {facts['commit'] or 'unknown'}. Median per batch over interleaved turns, spread "
        f"between quartiles, ratio to the time of the base ({based}). Compare ratios only.",
    ]
    for part in bases:
        lines += ["", *_part_table([row for row in rows if row.part == part], rows, bases)]
    lines += ["", "## Gates", ""]
    for gate in gates:
        lines.append(f"- {gate.status}: {gate.rule}" + (f": {gate.detail}" if gate.detail else ""))
    counts = ", ".join(
        f"{sum(gate.status == status for gate in gates)} {status}"
        for status in (PASS, FAIL, SKIPPED)
    )
    return "\n".join([*lines, "", counts]) + "\n"


def _part_table(part: list[Row], rows: list[Row], bases: dict[str, str]) -> list[str]:
    titles = list(dict.fromkeys(title for row in part for title in row.figures))
    columns = ["part", "shape", "variant", "ms", "spread", "ratio", "MB", "img/s", *titles, "note"]
    lines = ["| " + " | ".join(columns) + " |"]
    lines.append("|---|---|---|" + "--:|" * (len(columns) - 4) + "---|")
    for row in part:
        cells = [row.part, row.shape, row.variant]
        if row.skipped:
            cells += [""] * (5 + len(titles)) + [f"skipped: {row.skipped}"]
        else:
            base = _to_base(row, rows, bases)
            cells += [f"{row.median_ms:.3f}", f"{row.spread_ms:.3f}"]
            cells.append("" if base is None else f"{base:.3g}")
            cells.append("" if row.traffic is None else f"{row.traffic / 1e6:.1f}")
            cells.append(f"{1000 * row.images / row.median_ms:,.0f}")
            cells += [f"{row.figures[t]:.4g}" if t in row.figures else "" for t in titles]
            cells.append(row.note)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _to_base(row: Row, rows: list[Row], bases: dict[str, str]) -> float | None:
    for other in rows:
        same = (other.part, other.shape) == (row.part, row.shape)
        if same and other.variant == bases.get(row.part) and not other.skipped:
            return ratio(row.rounds_ms, other.rounds_ms).value
    return None


def write(folder: Path, stem: str, json_text: str, markdown: str) -> tuple[Path, Path]:
    """Keep both forms beside each other.

    Args:
        folder: Made if missing.
        stem: File name without its ending.
        json_text: Content of the JSON file.
        markdown: Content of the Markdown file.

    Returns:
        The two paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{stem}.json", folder / f"{stem}.md"
    for path, text in zip(paths, (json_text, markdown), strict=True):
        write_text(path, text)
    return paths
