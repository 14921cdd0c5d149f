"""The record of a run: one versioned JSON file, written whole at each change.

Local files are the truth. A run is ``done`` only after its last evaluation is on disk, and a
``running`` record whose process is gone reads as interrupted.
"""

import hashlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from mixbench.errors import UserError

SCHEMA = 1
STATUSES = ("running", "done", "failed", "diverged", "interrupted")
RECORD, LOCK = "record.json", "lock.json"
_PACKAGES = ("mixbench", "torch", "torchvision", "lightning", "torchmetrics", "numpy", "wandb")


@dataclass
class Record:
    """A run and its results, as ``record.json`` holds them."""

    id: str
    method: str
    data: str
    net: str
    recipe: str
    seed: int
    epochs: int
    select: str
    config_hash: str
    recipe_hash: str
    status: str = "running"
    fidelity: str = "paper"
    settings: dict[str, Any] = field(default_factory=dict)  # method keys away from their default
    metrics: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    device_count: int = 1
    precision: str = "fp32"
    batch_size: int = 0
    threads: int = 1
    shared_cores: bool = False  # other runs used the machine at the same time
    wall_s: float = 0.0
    img_per_s: float | None = None
    ms_step: float | None = None
    dataloader_wait_pct: float | None = None
    peak_mem_gb: float | None = None
    gpu_hours: float | None = None  # wall time times GPUs; None on a CPU
    params: int = 0  # of the network that is tested
    params_train: int = 0  # of everything that training holds
    macs: int = 0  # multiply-adds of one forward pass of one image
    train_size: int = 0
    test_size: int = 0
    skipped: int = 0  # unreadable images left out
    attempts: list[dict[str, Any]] = field(default_factory=list)
    resumed_bit_exact: bool | None = None
    verified: bool | None = None
    message: str = ""  # why it did not finish
    extra: dict[str, Any] = field(default_factory=dict)  # keys of a newer version, kept as read

    def to_json(self) -> dict[str, Any]:
        """Plain dict for the file, unknown keys of a newer version included."""
        known = {item.name: getattr(self, item.name) for item in fields(self)}
        return known.pop("extra") | known

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Record":
        """Read the dict of a file.

        Args:
            content: What the file holds.

        Returns:
            The record; keys that this version does not know are kept in ``extra``.

        Raises:
            ValueError: If a required key is missing or of the wrong type.
        """
        names = {item.name for item in fields(cls)} - {"extra"}
        known = {key: value for key, value in content.items() if key in names}
        extra = {key: value for key, value in content.items() if key not in names}
        try:
            record = cls(**known, extra=extra)
        except TypeError as error:
            raise ValueError(str(error)) from error
        texts = (record.id, record.method, record.data, record.net, record.status, record.select)
        numbers = (record.seed, record.epochs)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("id, method, data, net, status and select must be text")
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError("seed and epochs must be whole numbers")
        if not isinstance(record.metrics, dict) or not isinstance(record.settings, dict):
            raise ValueError("metrics and settings must be mappings")
        return record


@dataclass
class Identity:
    """What a run is, wherever and however it is carried out."""

    id: str
    config_hash: str
    recipe_hash: str
    settings: dict[str, Any]  # method keys away from their default


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
    return Identity("-".join(words), config_hash, _digest(shared), settings)


_ABSENT = object()


def _flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._")[:60] or "x"


def runs_folder(given: str | None = None) -> Path:
    """The folder of all runs.

    Args:
        given: Value of ``run.dir``.

    Returns:
        That, else ``MIXBENCH_RUNS``, else ``runs``.
    """
    return Path(given or os.environ.get("MIXBENCH_RUNS") or "runs")


def write_text(path: Path, text: str) -> None:
    """Replace a text file by a complete new one, or leave the old one untouched.

    Args:
        path: The file; its folder must exist.
        text: New content.
    """
    write_bytes(path, lambda file: file.write(text.encode()))


def write_bytes(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file by a complete new one, or leave the old one untouched.

    The new content is written beside the file, as a rename is whole only within a file system.

    Args:
        path: The file; its folder must exist.
        write: Writes the content to the open file that it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_record(folder: Path, record: Record) -> None:
    """Write ``record.json`` whole.

    Args:
        folder: Folder of the run.
        record: Its record.
    """
    write_text(folder / RECORD, json.dumps(record.to_json(), indent=2) + "\n")


def read_record(folder: Path) -> Record:
    """Read the record of a run.

    Args:
        folder: Folder of the run.

    Returns:
        The record; ``running`` without a live process reads as ``interrupted``.

    Raises:
        UserError: If the file is missing, truncated or not a record.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a mapping")
        record = Record.from_json(content)
    except FileNotFoundError as error:
        raise UserError("no record of a run", str(path)) from error
    except (OSError, ValueError) as error:
        raise UserError(f"unreadable record: {error}", str(path)) from error
    if record.status == "running" and not is_live(folder):
        record.status = "interrupted"
    return record


def earlier_record(folder: Path) -> Record | None:
    """The record of a run that was started before; a damaged one is moved aside.

    Args:
        folder: Folder of the run.

    Returns:
        The record, or None where there is none that can be read.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        return read_record(folder)
    except UserError:
        path.replace(path.with_name(f"unreadable-{path.stat().st_mtime_ns}.json"))
        return None


def is_live(folder: Path) -> bool:
    """Whether a process is at work on a run.

    Args:
        folder: Folder of the run.

    Returns:
        True if its lock names a living process, or one of another machine, which cannot be asked.
    """
    try:
        holder = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        host, pid = holder["host"], int(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run for this process.

    Args:
        folder: Folder of the run.

    Yields:
        While the lock is held.

    Raises:
        UserError: If another living process holds it.
    """
    path = folder / LOCK
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()})
    for _ in range(2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError as error:
            if is_live(folder):
                raise UserError(
                    f"another process is at work on {folder.name}",
                    str(path),
                    "wait for it, or choose another seed or run.dir",
                ) from error
            path.unlink(missing_ok=True)
    else:
        raise UserError(f"the lock of {folder.name} keeps coming back", str(path))
    with os.fdopen(handle, "w") as file:
        file.write(mine)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """Versions and source revision, for the record.

    Returns:
        ``versions`` and ``commit``.
    """
    versions = {"python": platform.python_version(), "platform": sys.platform}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "commit": _commit()}


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        shown = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return shown.stdout.strip()
