"""The record of a run: one versioned JSON file, written whole at each change.

Local files are the truth. A run is ``done`` only after its last evaluation is on disk, and a
``running`` record whose process is gone reads as interrupted.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from mixbench.errors import UserError
from mixbench.results.files import is_live, write_text

SCHEMA = 2
RENAMED = {"mce": "maxce"}  # scores of schema 1: mce is the mean corruption error since
STATUSES = ("running", "done", "failed", "diverged", "interrupted")
RECORD = "record.json"
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
    data_hash: str = ""
    task: str = "supervised"  # or ssl: top1 is that of a classifier on frozen features
    family_hash: str = ""  # recipe_hash of any number of epochs
    status: str = "running"
    fidelity: str = "paper"
    settings: dict[str, Any] = field(default_factory=dict)  # method keys away from their default
    metrics: dict[str, float] = field(default_factory=dict)
    evaluations: dict[str, Any] = field(default_factory=dict)  # by suite: how it was carried out
    schema: int = SCHEMA
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    device_count: int = 1
    precision: str = "fp32"
    batch_size: int = 0
    threads: int = 1
    compiled: bool = False
    shared_cores: bool = False  # other runs used the machine at the same time
    wall_s: float = 0.0
    img_per_s: float | None = None
    ms_step: float | None = None
    dataloader_wait_pct: float | None = None
    peak_mem_gb: float | None = None
    gpu_hours: float | None = None  # wall time without suites, times GPUs; None on a CPU
    params: int = 0  # of the network that is tested
    params_train: int = 0  # of everything that training holds
    macs: int = 0  # multiply-adds of one forward pass of one image
    train_size: int = 0
    test_size: int = 0
    skipped: int = 0  # unreadable images left out
    official: bool | None = None  # the data files are the authors' own; None: not known
    label_noise: float | None = None  # share of training labels that data.labels changed
    attempts: list[dict[str, Any]] = field(default_factory=list)
    resumed_bit_exact: bool | None = None  # None: trained in one go
    config_changes: dict[str, Any] = field(default_factory=dict)  # allowed on the way, by key
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
        texts += (record.recipe, record.config_hash, record.recipe_hash)
        numbers = (record.seed, record.epochs, record.train_size, record.test_size)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("names, status, select and hashes must be text")
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError("seed, epochs and sizes must be whole numbers")
        if not isinstance(record.metrics, dict) or not isinstance(record.settings, dict):
            raise ValueError("metrics and settings must be mappings")
        if not all(isinstance(value, (int, float)) for value in record.metrics.values()):
            raise ValueError("metrics must be numbers")
        facts = (*record.evaluations.values(),) if isinstance(record.evaluations, dict) else (0,)
        if not isinstance(record.attempts, list) or not all(
            isinstance(item, dict) for item in (*record.attempts, *facts)
        ):
            raise ValueError("attempts and evaluations must hold mappings")
        if record.schema == 1:
            renamed = {RENAMED.get(name, name): value for name, value in record.metrics.items()}
            record.metrics = renamed
        return record


def runs_folder(given: str | None = None) -> Path:
    """The folder of all runs.

    Args:
        given: Value of ``run.dir``.

    Returns:
        That, else ``MIXBENCH_RUNS``, else ``runs``.
    """
    return Path(given or os.environ.get("MIXBENCH_RUNS") or "runs")


def run_folder(name: str) -> Path:
    """Folder of a run that is named on the command line.

    Args:
        name: Path of the folder, or the id of a run in :func:`runs_folder`.

    Returns:
        The folder; it may not exist.
    """
    path = Path(name)
    return runs_folder() / name if not path.is_dir() and path.name == name else path


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


def cpu_name() -> str:
    """Model of the processor.

    Returns:
        Its name, or ``CPU`` where the system does not tell.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "CPU"
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, "CPU")


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
