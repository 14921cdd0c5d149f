"""Ablation plans: a YAML file with keys to multiply out, seeds, and what must be there before.

A plan in ``experiments/sweep`` is called by its name, any other by its path::

    base: {method: cutmix, data: digits}
    grid: {method.alpha: [0.2, 1.0], optim.label_smoothing: [0, 0.1]}
    arms: {plain: {method: erm}, half: {method.prob: 0.5}}   # each with the whole grid
    seeds: [0, 1, 2]
    after: {net.weights: pretrained}   # another plan, whose checkpoint is filled in

What is said beside its name of data, network and training holds for the plan that goes first, too.
"""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mixbench.config import yaml_files
from mixbench.config.compose import compose_text
from mixbench.config.overrides import (
    code_names,
    flatten,
    refuse_code,
    refuse_place,
    split_overrides,
)
from mixbench.errors import UserError, near_match
from mixbench.launch.plan import PlannedRun, on_folds, parse_seeds
from mixbench.records.record import runs_folder

PLAN_KEYS = ("base", "grid", "arms", "seeds", "after")
CHECKPOINT = "last.ckpt"


@dataclass
class Sweep:
    """A plan, multiplied out."""

    name: str
    runs: list[PlannedRun]
    needs: dict[str, "Sweep"] = field(default_factory=dict)  # by the key that takes a checkpoint


def read_sweep(
    name: str,
    words: Sequence[str] = (),
    *,
    strict: bool = False,
    trusted: Collection[str] = (),
    within: tuple[str, ...] = (),
) -> Sweep:
    """Read a plan and check every name and key that can be checked without torch.

    Args:
        name: Name of a plan, or path of its file.
        words: Overrides; they replace what the plan says of the same key, a whole axis too. A plan
            that goes first gets them as well, without those of the method, and without seeds where
            all share its one run.
        strict: Refuse keys that have no effect.
        trusted: Code to import, ``module:Class``, that the plan may name beside what the words do.
        within: Plans that need this one.

    Returns:
        The runs, those of one seed together and in it those of an arm, and the plans that go
        first.

    Raises:
        UserError: If the file or anything in it cannot be used, or plans need each other.
    """
    path = _find(name)
    if path.stem in within:
        raise UserError(
            f"plans need each other: {' -> '.join([*within, path.stem])}",
            str(path),
            "take one of them out of needs",
        )
    content, _ = yaml_files.read(path)
    unknown = [key for key in content if key not in PLAN_KEYS]
    if unknown:
        hint = near_match(unknown[0], PLAN_KEYS) or f"its keys are {', '.join(PLAN_KEYS)}"
        raise UserError(f"unknown key {unknown[0]!r} of a plan", str(path), hint)
    given = dict(split_overrides(list(words)))
    base = dict(flatten(_mapping(content, "base", path)))
    grid = dict(flatten(_mapping(content, "grid", path)))
    planned = content.get("seeds", [0])
    if within and isinstance(planned, list) and len(planned) == 1:
        given.pop("seeds", None)
    passed = [f"{k}={v}" for k, v in given.items() if k.partition(".")[0] != "method"]
    seeds = _seeds(given.pop("seeds", None), planned, path)
    fixed = {key: _text(value) for key, value in base.items()}
    axes = {key: _axis(key, values, path) for key, values in grid.items() if key not in given}
    combinations = [
        dict(zip(axes, texts, strict=True)) for texts in itertools.product(*axes.values())
    ]
    trusted = {*trusted, *code_names(given.items())}
    cells = []
    for name, arm in _arms(content, path).items():
        twice = next((key for key in arm if key in grid), None)
        if twice is not None:
            raise UserError(f"{twice} stands in grid and in arm {name}", str(path), "take one out")
        for combination in combinations:
            cell = fixed | arm | combination
            own = [(key, text) for key, text in cell.items() if key not in given]
            refuse_code(own, str(path), trusted, option="--trust")
            refuse_place(own, str(path))
            cells.append((name, cell | given))
    runs = [
        PlannedRun([f"{key}={text}" for key, text in (pairs | {"seed": str(seed)}).items()], name)
        for seed, (name, pairs) in itertools.product(seeds, cells)
    ]
    runs = on_folds(runs, len(cells), strict=strict)
    after = _mapping(content, "after", path)
    needs = {
        key: read_sweep(
            str(need), passed, strict=strict, trusted=trusted, within=(*within, path.stem)
        )
        for key, need in after.items()
        if key not in given
    }
    return Sweep(path.stem, runs, needs)


def fill_needs(sweep: Sweep, done: dict[str, list[PlannedRun]]) -> list[PlannedRun]:
    """Give each run the checkpoints that it needs, of its seed and fold where there are several.

    Args:
        sweep: The plan.
        done: Finished runs by the key that takes their checkpoint.

    Returns:
        The runs with those keys set.

    Raises:
        UserError: If no single run fits.
    """
    filled = []
    for run in sweep.runs:
        words = list(run.words)
        for key, others in done.items():
            same = [other for other in others if _place(other) == _place(run)]
            fitting = others if len(others) == 1 else same
            if len(fitting) != 1:
                raise UserError(
                    f"{len(fitting)} runs fit {key} of seed {' and fold '.join(_place(run))}",
                    sweep.needs[key].name,
                    "let the plan that goes first have one run, or one for each seed",
                )
            folder = runs_folder(compose_text(fitting[0].words).config.run.dir)
            words.append(f"{key}={folder / fitting[0].id / CHECKPOINT}")
        filled.append(PlannedRun(words, run.arm))
    return filled


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError("no such plan", name, "name a plan of experiments/sweep, or its file")
        return path
    found = yaml_files.find("sweep", name)
    if found is None:
        known = yaml_files.names("sweep")
        hint = near_match(name, known) or f"choose one of: {', '.join(known) or 'none'}"
        raise UserError(f"unknown plan {name!r}", "sweep", hint)
    return found


def _mapping(content: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise UserError(
            f"{key} must hold `key: value` lines", str(path), f"write {key}: {{key: value}}"
        )
    return value


def _arms(content: dict[str, Any], path: Path) -> dict[str, dict[str, str]]:
    if "arms" not in content:
        return {"": {}}
    arms = {}
    for name, keys in _mapping(content, "arms", path).items():
        if not isinstance(keys, dict):
            raise UserError(
                f"arm {name} must hold `key: value` lines",
                str(path),
                f"write {name}: {{key: value}}",
            )
        arms[str(name)] = {key: _text(value) for key, value in flatten(keys)}
    if not arms:
        raise UserError("arms is empty", str(path), "write arms: {name: {key: value}}")
    return arms


def _axis(key: str, values: Any, path: Path) -> list[str]:
    if not isinstance(values, list) or not values:
        raise UserError(f"{key} must list its values", str(path), f"write {key}: [a, b]")
    texts = [_text(value) for value in values]
    if len(set(texts)) < len(texts):
        raise UserError(f"{key} lists a value twice", str(path), "list each once")
    return texts


def _seeds(given: str | None, values: Any, path: Path) -> list[int]:
    if given is not None:
        return parse_seeds(given)
    whole = isinstance(values, list) and all(type(seed) is int and seed >= 0 for seed in values)
    if not whole or not values or len(set(values)) < len(values):
        raise UserError(
            f"seeds {values} must be whole numbers >= 0, all different", str(path), "seeds: [0, 1]"
        )
    return values


def _place(run: PlannedRun) -> list[str]:
    """Seed and, where it has one, fold of a run."""
    given = dict(split_overrides(run.words))
    return [given[key] for key in ("seed", "data.fold") if key in given]


def _text(value: Any) -> str:
    """A value as a word of the command line spells it."""
    if isinstance(value, str):
        return value
    shown = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return shown.removesuffix("...\n").strip()
