"""The record of a run: one versioned JSON file, written whole at each change.

Local files are the truth. A run is ``done`` only after its last evaluation is on disk, and a
``running`` record whose process is gone reads as interrupted.
"""

import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args, get_type_hints

from mixbench.errors import UserError
from mixbench.files import read_json, write_text
from mixbench.records.fields import check_fields
from mixbench.records.lock import is_live

RECORD_SCHEMA = 2  # of what the fields mean; fields that are added do not change it
RENAMED = {"mce": "maxce"}  # scores of schema 1: mce is the mean corruption error since
Status = Literal["running", "done", "failed", "diverged", "interrupted"]
STATUSES = get_args(Status)
RECORD = "record.json"
LARGEST_NUMBER = (
    3.5e38  # of a number: scores are computed in single precision, and squared for tables
)
MAX_NAME_LENGTH = 1000  # characters of a name
_PERCENT = re.compile(
    r"(val_)?(top1|top5|map|cf1|of1)(_\w+)?|(fgsm|pgd\d+|apgd|autoattack|square)_\w+|\w+_pct"
)
_POSITIVE = re.compile(
    r"(nll|brier|a?ece|maxce|mce|rmsce|cwece|oe|aurc|augrc|T)(_\w+)?|best_epoch|adv_n"
)
_FROM_ONE = ("epochs", "device_count", "threads", "schema")
_PACKAGES = ("mixbench", "torch", "torchvision", "lightning", "torchmetrics", "numpy", "wandb")


class DamagedRecordError(UserError):
    """A record was read and is none."""


class _Attempt(TypedDict, total=False):
    number: int
    started: str
    status: Status
    from_step: int
    epochs: int
    steps: int
    wall_s: float
    machine: dict[str, Any]


class _Evaluation(TypedDict, total=False):
    images: int
    of: int
    seed: int
    seconds: float
    attacks: list[str]
    autoattack: dict[str, Any]
    device: str
    maps: str | None
    saliency: str | None
    judge: str | None
    warnings: list[str]


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
    row_hash: str = ""  # config_hash with the checkpoints that it starts from of any seed
    # Files that it starts from, by key: name, content, and what it is pooled as.
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    status: Status = "running"
    fidelity: str = "paper"
    settings: dict[str, Any] = field(default_factory=dict)  # method keys away from their default
    metrics: dict[str, float] = field(default_factory=dict)
    evaluations: dict[str, Any] = field(default_factory=dict)  # by suite: how it was carried out
    schema: int = RECORD_SCHEMA
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    device_count: int = 1
    precision: str = "fp32"
    batch_size: int = 0
    threads: int = 1
    compiled: bool = False
    compiled_input: bool = False  # augmentation and, where it can be, mixing
    engine: str = "lightning"  # loop over the training batches of the last attempt
    augment_by: str = "batch"  # or epoch; with a reason where epoch was asked for in vain
    cuda_graphs: str | None = None  # how many of what, or why none; None: not asked for
    shared_cores: bool = False  # other runs used the machine at the same time
    wall_s: float = 0.0
    img_per_s: float | None = None
    ms_step: float | None = None
    dataloader_wait_pct: float | None = None
    peak_mem_gb: float | None = None
    # Wall time without suites, times GPUs, and that of the runs in prior_hours; None on a CPU.
    gpu_hours: float | None = None
    # Cost of the runs whose checkpoints it uses, and of those before them, by id.
    prior_hours: dict[str, float] = field(default_factory=dict)
    params: int = 0  # of the network that is tested
    params_train: int = 0  # of everything that training holds
    macs: int = 0  # multiply-adds of one forward pass of one image
    train_size: int = 0
    test_size: int = 0
    division: str = ""  # how test images were set aside, with a hash of what stands where
    folds: int | None = None  # parts that were tested in turn, where the images were so divided
    fold: int | None = None  # the part that this run was tested on
    skipped: int = 0  # unreadable images left out
    skipped_test: int | None = None  # of these, test images; None: not known
    official: bool | None = None  # the data files are the authors' own; None: not known
    label_noise: float | None = None  # share of training labels that data.labels changed
    notices: list[str] = field(default_factory=list)  # what a user should know of the data
    unused: dict[str, int] = field(default_factory=dict)  # what was left out, counted by reason
    shared_images: int | None = None  # test images that are training images too; None: not known
    race_fold: str | None = None  # scored in place of the test set, to choose in a race
    attempts: list[dict[str, Any]] = field(default_factory=list)
    resumed_bit_exact: bool | None = None  # None: trained in one go
    config_changes: dict[str, Any] = field(default_factory=dict)  # allowed on the way, by key
    marks: list[str] = field(default_factory=list)  # words of caution, see results.marks
    verified: bool | str | None = None  # partly: what is shown comes out, as far as it could
    unverified: dict[str, str] = field(default_factory=dict)  # why not, by score or fact
    message: str = ""  # why it did not finish
    extra: dict[str, Any] = field(default_factory=dict)  # keys of a newer version, kept as read

    @property
    def row(self) -> str:
        """The hash that runs of several seeds share, which make one row of a table."""
        return self.row_hash or self.config_hash

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
        check_fields(known, _TYPES)
        for name, value in known.items():
            _check_value(name, value)
        for name, value in known.get("metrics", {}).items():
            _check_metric(name, value)
        for attempt in known.get("attempts", []):
            _check_counts("attempts", attempt)
        for suite, facts in known.get("evaluations", {}).items():
            _check_counts(f"evaluations.{suite}", facts)
        if known.get("schema") == 1 and "metrics" in known:
            named = {RENAMED.get(name, name): value for name, value in known["metrics"].items()}
            known["metrics"] = named
        try:
            return cls(**known, extra=extra)
        except TypeError as error:
            raise ValueError(str(error).partition("__init__() ")[2]) from error


# Attempts and evaluations are mappings that grow; what is read from them by name has a type.
_TYPES = get_type_hints(Record) | {
    "attempts": list[_Attempt],
    "evaluations": dict[str, _Evaluation],
}


def _check_value(name: str, value: Any) -> None:
    """Refuse what no run can have: fields are sizes, times and shares, or names."""
    if isinstance(value, str) and len(value) > MAX_NAME_LENGTH and name != "message":
        raise ValueError(f"{name} has {len(value):,} characters")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    least = 1 if name in _FROM_ONE else 0
    most = 100 if name.endswith("_pct") else 1 if name == "label_noise" else LARGEST_NUMBER
    if not least <= value <= most:
        raise ValueError(f"{name} is {value!r:.40}, and no run can have that")


def _check_metric(name: str, value: float) -> None:
    """Refuse a score that cannot be; one that is not finite is that of a diverged run."""
    if not math.isfinite(value):
        return
    percent = bool(_PERCENT.fullmatch(name))
    least = 0.0 if percent or _POSITIVE.fullmatch(name) else -LARGEST_NUMBER
    most = 100.0 if percent else LARGEST_NUMBER
    if not least - 1e-3 <= value <= most + 1e-3:  # rounding may carry a sum a little too far
        raise ValueError(f"metrics.{name} is {value!r:.40}, and no network can have that")


def _check_counts(where: str, facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not 0 <= value <= LARGEST_NUMBER:
            raise ValueError(f"{where}.{name} is {value!r:.40}, and no run can have that")


def runs_folder(given: str | None = None) -> Path:
    """The folder of all runs.

    Args:
        given: Value of ``run.dir``.

    Returns:
        That, else ``MIXBENCH_RUNS``, else ``runs``.

    Raises:
        UserError: If ``run.dir`` is relative and leads out of the working directory.
    """
    if given and not Path(given).is_absolute():
        place = Path(given).resolve()
        if not place.is_relative_to(Path.cwd().resolve()):
            raise UserError(
                "run.dir leads outside the working directory",
                f"run.dir={given}",
                f"give it as an absolute path: run.dir={place}",
            )
    return Path(given or os.environ.get("MIXBENCH_RUNS") or "runs")


def make_runs_folder(folder: Path) -> None:
    """Make the folder of all runs, and find out whether anything can be written there.

    Args:
        folder: As of :func:`runs_folder`.

    Raises:
        UserError: If not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"runs cannot be kept here: {error.strerror}",
            str(folder),
            "give another folder as run.dir or in MIXBENCH_RUNS",
        ) from error


def run_folder(name: str) -> Path:
    """Folder of a run that is named on the command line.

    Args:
        name: Path of the folder, or the id of a run in :func:`runs_folder`.

    Returns:
        The folder; it may not exist.
    """
    path = Path(name)
    return runs_folder() / name if not os.path.isdir(name) and path.name == name else path


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
        DamagedRecordError: If what was read is no record, or an impossible one.
        UserError: If there is none, it cannot be read, or a newer version has written it.
    """
    path = folder / RECORD
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError("not a mapping")
        schema = content.get("schema", RECORD_SCHEMA)
        if type(schema) is int and schema > RECORD_SCHEMA:
            raise UserError(
                "the record cannot be read: a newer version of mixbench has written it (schema "
                f"{schema}; "
                f"this one knows {RECORD_SCHEMA})",
                str(path),
                "use that version",
            )
        record = Record.from_json(content)
    except FileNotFoundError as error:
        what = "the record cannot be read: its link leads nowhere" if path.is_symlink() else ""
        todo = "give the folder of a run, such as runs/ID, or its id"
        raise UserError(
            what or "there is no record of a run", str(path), "" if what else todo
        ) from error
    except OSError as error:
        raise UserError(f"the record cannot be read: {error.strerror}", str(path)) from error
    except UserError:
        raise
    except ValueError as error:
        raise DamagedRecordError(f"the record cannot be read: {error}", str(path)) from error
    if record.status == "running" and not is_live(folder):
        record.status = "interrupted"
    return record


def earlier_record(folder: Path) -> Record | None:
    """The record of a run that was started before.

    Args:
        folder: Folder of the run.

    Returns:
        The record, or None where there is none, or a damaged one.

    Raises:
        UserError: If there is one that cannot be read now, or that a newer version has written.
    """
    if not os.path.lexists(folder / RECORD):
        return None
    try:
        return read_record(folder)
    except DamagedRecordError:
        return None


def rename_damaged_record(folder: Path) -> Record | None:
    """Keep a damaged record under another name, so that a new one takes nothing away.

    Args:
        folder: A folder that this process holds the lock of.

    Returns:
        As :func:`earlier_record`.

    Raises:
        UserError: As :func:`earlier_record`.
    """
    record, path = earlier_record(folder), folder / RECORD
    if record is None and os.path.lexists(path):
        path.replace(path.with_name(f"unreadable-{path.stat().st_mtime_ns}.json"))
    return record


def environment() -> dict[str, Any]:
    """Versions and source revision, for the record.

    They are those of the first call, as what a process has imported stays as it was.

    Returns:
        ``versions`` and ``commit``.
    """
    return {"versions": dict(_versions()), "commit": _commit()}


@cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": sys.platform}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


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


@cache
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
