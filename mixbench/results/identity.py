"""What a run is called: hashes of its configuration and of its data."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Identity:
    """What a run is, wherever and however it is carried out."""

    id: str
    config_hash: str
    recipe_hash: str
    settings: dict[str, Any]  # method keys away from their default
    data_hash: str = ""
    family_hash: str = ""  # recipe_hash of any number of epochs


def identify(
    config: dict[str, Any],
    defaults: dict[str, Any],
    aside: set[str],
    data_name: str,
    fingerprint: str,
) -> Identity:
    """Name a run after its configuration.

    Keys at their default are left out before hashing, so that a key added later leaves every
    old run its name.

    Args:
        config: Resolved configuration as nested dicts.
        defaults: The same of the schema, with the method's own defaults.
        aside: Dotted keys that do not count, such as paths and seeds.
        data_name: Shown name of the data.
        fingerprint: Content hash of the data.

    Returns:
        Id and hashes.
    """
    method, net = str(config["method"]["name"]), str(config["net"]["name"])
    flat, plain = dict(_flatten(config)), dict(_flatten(defaults))
    changed = {k: v for k, v in flat.items() if k not in aside and v != plain.get(k, _ABSENT)}
    named = {"data.kind", "data.name", "net.name", "method.name"}
    shared = {k: v for k, v in changed.items() if not k.startswith("method.") and k not in named}
    shared |= {"data.name": data_name, "data.fingerprint": fingerprint, "net.name": net}
    settings = {
        key.removeprefix("method."): value
        for key, value in changed.items()
        if key.startswith("method.") and key not in named
    }
    config_hash = _digest(shared | {"method.name": method, "method": settings})
    words = (_word(method), _word(data_name), _word(net), config_hash[:8], f"s{config['seed']}")
    family = _digest({key: value for key, value in shared.items() if key != "epochs"})
    return Identity("-".join(words), config_hash, _digest(shared), settings, fingerprint, family)


def differences(old: dict[str, Any], new: dict[str, Any], aside: set[str]) -> dict[str, list[Any]]:
    """Keys in which two configurations differ.

    Args:
        old: Resolved configuration as nested dicts.
        new: The same of another run.
        aside: Dotted keys that do not count.

    Returns:
        Old and new value by dotted key; a key that one of them lacks has None there.
    """
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return {
        key: [before.get(key), after.get(key)]
        for key in {**before, **after}
        if key not in aside and before.get(key) != after.get(key)
    }


def blended(config_hash: str, changes: dict[str, Any]) -> str:
    """Hash of a run whose configuration was changed on the way: it belongs with no other.

    Args:
        config_hash: Hash of what it was changed to.
        changes: As :func:`differences` returns them.

    Returns:
        Another hash.
    """
    return _digest({"hash": config_hash, "changes": changes})


_ABSENT = object()
# The checkpoint of another run stands for that run, wherever it lies and whatever its seed.
_CHECKPOINT = re.compile(r"([^/]+-[0-9a-f]{8})-s\d+/(?:last|best)\.ckpt$")


def is_checkpoint(path: str) -> bool:
    """Whether a path is that of a run's checkpoint.

    Args:
        path: The path.

    Returns:
        True where the folder bears the id of a run, and so says what the file is.
    """
    return _CHECKPOINT.search(path) is not None


def _flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, str) and (found := _CHECKPOINT.search(value)):
            yield f"{prefix}{key}", found[1]
        else:
            yield f"{prefix}{key}", value


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._")[:60] or "x"
