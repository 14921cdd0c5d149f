"""Provenance of a row: how its configuration differs from the recipe, and how to repeat it."""

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mixbench.config import yaml_files
from mixbench.config.compose import compose_text, to_plain
from mixbench.config.overrides import NAMES, flatten
from mixbench.config.schema import keys_not_in_identity
from mixbench.errors import UserError, counted
from mixbench.leaderboard.rows import Row
from mixbench.records.identity import POOLED_KEYS
from mixbench.records.marks import mark_explanations, marks_text
from mixbench.records.record import Record

CONFIG = "config.yaml"
GROUPS = ("method", "data", "net", "recipe")
DEFAULT_RECIPE = "default"  # the name of no file
OF_METHOD = "method."
# What these keys name does not count in the identity of a run, and its scores depend on it.
PLACES = ("data.root", "data.train", "data.test", "data.classes")
FIDELITIES = {
    "official-verified": "agrees with the official code, number by number",
    "paper": "written after the paper",
    "reconstruction": "written after an incomplete description",
    "variant": "differs from the paper on purpose",
}


@dataclass(frozen=True)
class Difference:
    """A key whose value is not that of the recipe.

    Attributes:
        key: Dotted key.
        recipe: Its value there, as text.
        run: Its value in the run, as an override takes it.
    """

    key: str
    recipe: str
    run: str


@dataclass
class Provenance:
    """Origin of a row.

    Attributes:
        label: The row.
        facts: Names and texts.
        differences: Keys that differ from the recipe's files.
        command: Repeats its runs; empty where the configuration cannot be read.
        gap: Why there are no differences and no command.
    """

    label: str
    facts: list[tuple[str, str]]
    differences: list[Difference] = field(default_factory=list)
    command: str = ""
    gap: str = ""


def provenance(row: Row) -> Provenance:
    """The origin of a row.

    Args:
        row: The row.

    Returns:
        Its origin; the configuration is that of the first seed, and the same for all of them.
    """
    found = Provenance(row.label, facts(row))
    if not row.folders:
        found.gap = "The folders of its runs are not known."
        return found
    try:
        picks, found.differences = recipe_differences(row.folders[0], row.records[0])
    except UserError as error:
        found.gap = f"Its configuration cannot be compared with the recipe: {error.what}."
        return found
    words = [f"{group}={name}" for group, name in picks.items()]
    words += [f"{item.key}={item.run}" for item in found.differences if item.key not in POOLED_KEYS]
    words += [f"seeds={','.join(map(str, row.seeds))}"]
    found.command = shlex.join(["mixbench", "bench", *words])
    return found


def recipe_differences(folder: Path, record: Record) -> tuple[dict[str, str], list[Difference]]:
    """Compare the configuration of a run with the files that it names.

    Args:
        folder: Folder of the run.
        record: Its record.

    Returns:
        Name of each group, and the keys in which the run differs from their files.

    Raises:
        UserError: If the configuration cannot be read, or names what is not known here.
    """
    content, _ = yaml_files.read(folder / CONFIG)
    own = dict(flatten(content))
    picks = {group: str(own.get(NAMES[group])) for group in GROUPS}
    if picks["recipe"] == DEFAULT_RECIPE and yaml_files.find("recipe", DEFAULT_RECIPE) is None:
        del picks["recipe"]
    recipe = _composed(tuple(f"{group}={name}" for group, name in picks.items()))
    changed = {f"{OF_METHOD}{key}" for key in record.settings}  # away from the method's default
    found = []
    for key, value in own.items():
        if key in recipe:
            differs, origin = recipe[key] != value, value_text(recipe[key])
        elif key.startswith(OF_METHOD):
            differs, origin = key in changed, "default"
        else:
            differs, origin = True, "not known here"
        if differs and _counts(key):
            found.append(Difference(key, origin, value_text(value)))
    return picks, found


@cache
def _composed(words: tuple[str, ...]) -> dict[str, Any]:
    """Values by dotted key, of the method only those that a file sets."""
    return dict(flatten(to_plain(compose_text(words).config)))


def _counts(key: str) -> bool:
    """Whether the scores of a run depend on a key beside its seed."""
    if key in NAMES.values():
        return False
    return key.startswith("eval.") or key in PLACES or key not in keys_not_in_identity()


def value_text(value: Any) -> str:
    """A value as an override takes it.

    Args:
        value: A plain value.

    Returns:
        YAML on one line.
    """
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        plain = yaml_files.parse(value, "")[0] == value
    except UserError:
        plain = False
    return value if plain else json.dumps(value)


def facts(row: Row) -> list[tuple[str, str]]:
    """What is known of the runs of a row.

    Args:
        row: The row.

    Returns:
        Names and texts; facts that are not known are left out.
    """
    records = row.records
    found = {
        "runs": ", ".join(record.id for record in records),
        "seeds": ", ".join(map(str, row.seeds)),
        "fidelity": _fidelity(row.fidelity),
        "verified": row.verified or "not yet: mixbench verify RUN computes its scores again",
        "commit": _each(record.commit for record in records),
        "versions": _each(map(_versions, records)),
        "hardware": _each(map(_hardware, records)),
        "time": _times(records),
        "data": _each(map(_data, records)),
        "starts from": _each(_inputs(record) for record in records),
        "changed during the run": _each(", ".join(record.config_changes) for record in records),
        "notices": _each(" ".join(record.notices) for record in records),
        "caution": " ".join(
            [marks_text(row.marks, len(records)) + ".", *mark_explanations(row.marks)]
            if row.marks
            else []
        ),
        "in no mean": _failures(row),
    }
    return [(name, text) for name, text in found.items() if text]


def _each(texts: Iterable[str]) -> str:
    """Different texts, each once."""
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _fidelity(word: str) -> str:
    return f"{word}: {FIDELITIES[word]}" if word in FIDELITIES else word


def _versions(record: Record) -> str:
    return ", ".join(f"{name} {version}" for name, version in record.versions.items())


def _hardware(record: Record) -> str:
    count = f"{record.device_count} x " if record.device_count > 1 else ""
    parts = [f"{count}{record.device or 'not recorded'}", record.precision]
    parts += [f"batch of {record.batch_size}"] if record.batch_size else []
    parts += [counted(record.threads, "thread")]
    parts += ["engine fast"] * (record.engine == "fast")
    parts += ["augmented by epoch"] * (record.augment_by == "epoch")
    parts += [] if record.cuda_graphs is None else [f"CUDA graphs: {record.cuda_graphs}"]
    parts += ["compiled"] * record.compiled + ["compiled input"] * record.compiled_input
    parts += ["cores shared with other runs"] * record.shared_cores
    return ", ".join(parts)


def _times(records: list[Record]) -> str:
    times = [record.wall_s for record in records]
    low, high = f"{min(times):,.0f}", f"{max(times):,.0f}"
    return f"{low if low == high else f'{low} to {high}'} s for a run" if max(times) else ""


def _data(record: Record) -> str:
    parts = [f"content {record.data_hash[:12]}"] if record.data_hash else []
    parts += ["not the authors' own files"] if record.official is False else []
    parts += [f"{100 * record.label_noise:.3g} % of labels changed"] if record.label_noise else []
    parts += [f"{counted(record.skipped, 'unreadable image')} left out"] if record.skipped else []
    return ", ".join(parts)


def _inputs(record: Record) -> str:
    return ", ".join(f"{key}: {file.get('name', '?')}" for key, file in record.inputs.items())


def _failures(row: Row) -> str:
    if not row.failed:
        return ""
    diverged = f", {row.diverged} of them diverged" if row.diverged else ""
    return f"{counted(row.failed, 'run')}{diverged}"
