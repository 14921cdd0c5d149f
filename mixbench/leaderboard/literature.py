"""Published figures: ``experiments/literature/*.yaml``, never mixed into rows of our runs.

A file holds ``figures``, each a setting with the ``values`` of several methods, and says of each
value how its epoch was chosen and where it was published. Keys at the top of a file stand for all
of its figures. ``recipe`` names the official recipe of a method in that setting, ``overrides`` what
it needs beyond that, and ``needs`` the keys that whoever repeats it has to give.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixbench.config import yaml_files
from mixbench.config.names import DATA, METHODS, NETS
from mixbench.config.overrides import refuse_code, split_overrides
from mixbench.errors import UserError, near_match
from mixbench.leaderboard.columns import column_names, describe
from mixbench.records.selection import CHOICES

GROUP = "literature"
UNKNOWN = "unknown"  # how the epoch was chosen was not said
# What a figure may be of: a column of ours, or what only papers report, in percent.
METRICS = {name: describe(name).title for name in column_names("score")} | {
    "top1_err": "top-1 error",
    "cf1_top3": "F1 per class of three guesses",
    "of1_top3": "F1 overall of three guesses",
    "c_acc": "mean accuracy under corruptions",
    "mce": "mean corruption error relative to AlexNet",
}
_SHARED = {
    "data": str,
    "net": str,
    "epochs": int,
    "metric": str,
    "select": str,
    "source": str,
    "setting": str,
    "n": int,
}
_MAPS = ("values", "recipe", "overrides")
_REGISTRIES = {"methods": METHODS, "data": DATA, "nets": NETS}


@dataclass(frozen=True)
class Figure:
    """A published value.

    Attributes:
        method: Name of the method.
        data: Name of the data set.
        net: Name of the network.
        value: As published.
        metric: A key of :data:`METRICS`.
        select: How its epoch was chosen, a key of ``CHOICES`` or ``unknown``.
        source: Where it stands.
        title: Paper or tables of its file.
        epochs: Length of the training, where it is known.
        n: Runs that it is the mean of, where it is known.
        setting: What else was particular.
        recipe: The official recipe, where there is one here.
        overrides: What the recipe needs beyond that.
        needs: Keys that have to be given to repeat it.
    """

    method: str
    data: str
    net: str
    value: float
    metric: str
    select: str
    source: str
    title: str
    epochs: int | None = None
    n: int | None = None
    setting: str = ""
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def score(self) -> str:
        """The score of a run that it is compared with."""
        return self.metric.removesuffix("_err")

    @property
    def comparable(self) -> float:
        """Its value as that score: an error in percent as an accuracy."""
        return round(100 - self.value, 6) if self.metric.endswith("_err") else self.value

    @property
    def choice(self) -> str:
        """The choice of its epoch, in words."""
        return (
            CHOICES[self.select][0]
            if self.select in CHOICES
            else "the source does not say how the epoch was chosen"
        )


def figures(
    method: str | None = None, data: str | None = None, net: str | None = None
) -> list[Figure]:
    """All published figures of a setting.

    Args:
        method: Only those of a method.
        data: Only those on a data set.
        net: Only those of a network.

    Returns:
        The figures, those of a file together and in its order.

    Raises:
        UserError: If a file is malformed.
    """
    wanted = {"method": method, "data": data, "net": net}
    paths = (yaml_files.find(GROUP, name) for name in yaml_files.names(GROUP))
    return [
        figure
        for path in paths
        if path is not None
        for figure in read_figures(path)
        if all(value in (None, getattr(figure, key)) for key, value in wanted.items())
    ]


def read_figures(path: Path) -> list[Figure]:
    """Read a file of published figures.

    Args:
        path: The file.

    Returns:
        Its figures, one per method and setting.

    Raises:
        UserError: On an unknown key, name, metric or choice, a wrong type, or a missing value.
    """
    content, notes = yaml_files.read(path)
    if notes:
        raise UserError(notes[0], str(path), "put quotes around it")
    top = {key: content.pop(key) for key in (*_SHARED, "needs") if key in content}
    title = _text(content.pop("title", None), "title", str(path))
    known = _known_names(content.pop("foreign", {}), str(path))
    for note in _list(content.pop("notes", []), "notes", str(path)):
        _text(note, "notes", str(path))
    entries = _list(content.pop("figures", None), "figures", str(path))
    _no_more(content, ("title", "foreign", "notes", "figures", "needs", *_SHARED), str(path))
    found: list[Figure] = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, figure {number}"
        if not isinstance(entry, dict):
            raise UserError("a figure must hold `key: value` pairs", where)
        found += _figures_of({**top, **entry}, title, known, where)
    return found


def _figures_of(
    entry: dict[str, Any], title: str, known: dict[str, set[str]], where: str
) -> list[Figure]:
    _no_more(entry, (*_SHARED, *_MAPS, "needs"), where)
    for key, kind in _SHARED.items():
        if key in entry and (not isinstance(entry[key], kind) or isinstance(entry[key], bool)):
            wanted = "text" if kind is str else "a whole number"
            raise UserError(f"{key}: {entry[key]!r} must be {wanted}", where, f"correct {key}")
    maps = {key: entry.pop(key, {}) for key in _MAPS}
    for key, value in maps.items():
        if not isinstance(value, dict):
            raise UserError(f"{key} must map methods to what holds for each", where)
        unknown = [name for name in value if name not in maps["values"]]
        if unknown:
            raise UserError(f"{key}: {unknown[0]} has no value here", where, "name its value too")
    for key in ("data", "net", "source"):
        if key not in entry:
            raise UserError(f"{key} is missing", where, f"add {key}")
    for key in ("epochs", "n"):
        if entry.get(key) is not None and entry[key] < 1:
            raise UserError(f"{key} must be >= 1, got {entry[key]}", where)
    metric, select = entry.pop("metric", "top1"), entry.pop("select", UNKNOWN)
    _known(metric, METRICS, "metric", where)
    _known(select, (*CHOICES, UNKNOWN), "select", where)
    _declared(entry["data"], "data", known, where)
    _declared(entry["net"], "nets", known, where)
    entry["needs"] = _words(entry.pop("needs", []), "needs", where)
    if not maps["values"]:
        raise UserError("values are missing", where, "write values: {method: value}")
    found = []
    for method, value in maps["values"].items():
        _declared(method, "methods", known, where)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < 100:
            raise UserError(
                f"{method}: {value!r} is not a value in percent",
                where,
                "give a number from 0 to 100",
            )
        recipe = maps["recipe"].get(method)
        if recipe is not None:
            yaml_files.check_recipe(_text(recipe, "recipe", where))
        overrides = _words(maps["overrides"].get(method, []), "overrides", where)
        refuse_code(split_overrides(overrides), where)
        if overrides and recipe is None:
            raise UserError(f"{method} has overrides and no recipe", where, "name the recipe")
        found.append(
            Figure(
                method=method,
                value=float(value),
                metric=metric,
                select=select,
                title=title,
                recipe=recipe,
                overrides=overrides,
                **entry,
            )
        )
    return found


def _declared(name: str, kind: str, known: dict[str, set[str]], where: str) -> None:
    """Refuse a name that is neither registered nor declared as foreign."""
    registry = _REGISTRIES[kind]
    if name in known[kind] or name.partition(":")[0] in registry.families:
        return
    hint = near_match(name, sorted(known[kind]))
    what = f"unknown {registry.kind} {name!r}" + (f"; {hint}" if hint else "")
    raise UserError(what, where, f"correct it, or list it under foreign: {kind}")


def _known_names(foreign: Any, where: str) -> dict[str, set[str]]:
    """Names by kind: ours, and those that the file declares as foreign."""
    if not isinstance(foreign, dict):
        raise UserError(
            "foreign must hold lists of methods, data and nets",
            where,
            "write foreign: {methods: [a, b]}",
        )
    _no_more(foreign, _REGISTRIES, f"{where}, foreign")
    return {
        kind: {*registry.names(), *_words(foreign.get(kind, []), kind, where)}
        for kind, registry in _REGISTRIES.items()
    }


def _known(value: str, known: Iterable[str], key: str, where: str) -> None:
    if value not in known:
        hint = near_match(value, known)
        what = f"unknown {key} {value!r}" + (f"; {hint}" if hint else "")
        raise UserError(what, where, f"choose one of: {', '.join(known)}")


def _no_more(content: dict[str, Any], known: Iterable[str], where: str) -> None:
    for key in content:
        _known(key, tuple(known), "key", where)


def _list(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{key} must be a list", where, f"write {key}: with lines that begin - ")
    return value


def _words(value: Any, key: str, where: str) -> tuple[str, ...]:
    return tuple(_text(word, key, where) for word in _list(value, key, where))


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{key}: {value!r} must be text", where, f"write {key}")
    return value
