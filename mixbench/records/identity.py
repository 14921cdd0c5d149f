"""The id of a run, and hashes of its configuration and of its data."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mixbench.config.overrides import flatten

# Keys that count in the id of a run and in nothing that groups runs: folds make one row.
POOLED_KEYS = ("data.fold",)


@dataclass(frozen=True)
class InputFile:
    """A file of weights or maps that a run starts from or uses.

    Attributes:
        name: Its name, with that of the folder if it is the checkpoint of a run.
        content: Hash of its content, which the identity of the run holds.
        pooled: What it counts as where rows of a table are averaged over seeds: the checkpoint of
            a finished run stands for that run of any seed, any other file for its content.
    """

    name: str
    content: str
    pooled: str


@dataclass
class Identity:
    """Id and hashes of a run, the same on every machine."""

    id: str
    config_hash: str
    recipe_hash: str
    settings: dict[str, Any]  # method keys away from their default
    data_hash: str = ""
    family_hash: str = ""  # recipe_hash of any number of epochs
    row_hash: str = ""  # config_hash with the checkpoints that it starts from of any seed
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)  # InputFile by dotted key


def identify(
    config: dict[str, Any],
    defaults: dict[str, Any],
    excluded: set[str],
    data_name: str,
    fingerprint: str,
    inputs: Mapping[str, InputFile] | None = None,
) -> Identity:
    """Name a run after its configuration.

    Keys at their default are left out before hashing, so that a key added later leaves every
    old run its name.

    Args:
        config: Resolved configuration as nested dicts.
        defaults: The same of the schema, with the method's own defaults.
        excluded: Dotted keys that do not count, such as paths and seeds.
        data_name: Shown name of the data.
        fingerprint: Content hash of the data.
        inputs: By dotted key, the files that the configuration names and whose content counts.

    Returns:
        Id and hashes. The files count by their content in ``config_hash`` and the id, and by what
        they are pooled as in everything that groups the runs of a table.
    """
    inputs = inputs or {}
    flat, plain = _leaves(config), _leaves(defaults)
    changed = {k: v for k, v in flat.items() if k not in excluded and v != plain.get(k, _ABSENT)}
    pooled = {key: value for key, value in changed.items() if key not in POOLED_KEYS}
    shared, settings = _parts(
        pooled | {key: file.pooled for key, file in inputs.items()}, config, data_name, fingerprint
    )
    own = _parts(
        changed | {key: file.content for key, file in inputs.items()},
        config,
        data_name,
        fingerprint,
    )
    method, net = str(config["method"]["name"]), str(config["net"]["name"])
    config_hash, row_hash = (
        _digest(of_all | {"method.name": method, "method": of_method})
        for of_all, of_method in (own, (shared, settings))
    )
    words = (_word(method), _word(data_name), _word(net), config_hash[:8], f"s{config['seed']}")
    return Identity(
        id="-".join(words),
        config_hash=config_hash,
        recipe_hash=_digest(shared),
        settings=settings,
        data_hash=fingerprint,
        family_hash=_digest({key: value for key, value in shared.items() if key != "epochs"}),
        row_hash=row_hash,
        inputs={key: asdict(file) for key, file in inputs.items()},
    )


def _parts(
    changed: dict[str, Any], config: dict[str, Any], data_name: str, fingerprint: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys that all methods share, and those of the method."""
    named = {"data.kind", "data.name", "net.name", "method.name"}
    shared = {k: v for k, v in changed.items() if not k.startswith("method.") and k not in named}
    shared |= {"data.name": data_name, "data.fingerprint": fingerprint}
    shared |= {"net.name": str(config["net"]["name"])}
    settings = {
        key.removeprefix("method."): value
        for key, value in changed.items()
        if key.startswith("method.") and key not in named
    }
    return shared, settings


def differences(
    old: dict[str, Any], new: dict[str, Any], excluded: Collection[str]
) -> dict[str, list[Any]]:
    """Keys in which two configurations differ.

    Args:
        old: Resolved configuration as nested dicts.
        new: The same of another run.
        excluded: Dotted keys that do not count.

    Returns:
        Old and new value by dotted key; a key that one of them lacks has None there.
    """
    before, after = _leaves(old), _leaves(new)
    return {
        key: [before.get(key), after.get(key)]
        for key in {**before, **after}
        if key not in excluded and before.get(key) != after.get(key)
    }


def changed_hash(config_hash: str, changes: dict[str, Any]) -> str:
    """Hash of a run whose configuration was changed during the run; no other run shares it.

    Args:
        config_hash: Hash of what it was changed to.
        changes: As :func:`differences` returns them.

    Returns:
        Another hash.
    """
    return _digest({"hash": config_hash, "changes": changes})


_ABSENT = object()
_CHECKPOINT = re.compile(r"([^/]+)-([0-9a-f]{8})-s\d+/(last|best)\.ckpt$")


def is_checkpoint(path: str) -> bool:
    """Tell whether a path is that of a run's checkpoint.

    Args:
        path: The path.

    Returns:
        True where the folder bears the id of a run.
    """
    return _CHECKPOINT.search(path) is not None


def seedless_id(path: str, row_hash: str) -> str:
    """The checkpoint of a run, whatever the run's seed and wherever it lies.

    Args:
        path: Path of the checkpoint, as :func:`is_checkpoint` knows it.
        row_hash: What the run's row of a table is grouped by.

    Returns:
        The run's id without its seed; that of another epoch than the last bears its name.
    """
    found = _CHECKPOINT.search(path)
    if found is None:
        raise ValueError(f"{path} is not the checkpoint of a run")
    epoch = "" if found[3] == "last" else f"/{found[3]}.ckpt"
    return f"{found[1]}-{(row_hash or found[2])[:8]}{epoch}"


def _leaves(content: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted key; an empty mapping is none, as it never was in a hash."""
    return {key: value for key, value in flatten(content) if value != {}}


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._")[:60] or "x"
