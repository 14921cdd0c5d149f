"""What this machine offers to runs, and what would stop them."""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from mixbench.data.files.location import data_folder
from mixbench.errors import SWITCHES, UserError, counted, switched_on
from mixbench.records.record import RECORD, cpu_name, runs_folder
from mixbench.tracking.run import MODES, api_key

LITTLE = 2e9  # bytes of free disk below which a few runs may not fit
OK, NOTE, BAD = "ok", "note", "BAD"
_REQUIRED = re.compile(r"([\w.-]+)\s*>=\s*([\d.]+)")


class Finding(NamedTuple):
    """One line about the machine.

    ``state`` is ``ok``; ``note`` for what works otherwise than one may think; or ``BAD`` for what
    stops runs, whose text then says what to do.
    """

    state: str
    subject: str
    text: str


def examine() -> Iterator[Finding]:
    """Look at versions, device, W&B, folders and disk.

    Yields:
        A finding for each.
    """
    python = platform.python_version()
    yield Finding(OK, "python", f"{python} on {sys.platform}, {sys.executable}")
    yield _packages()
    yield _extras()
    switches = list(_switches())
    yield from switches
    device = _device()
    yield device
    if device.state != BAD and not switches:
        yield _compiler()
    yield _wandb()
    for name, folder in (("data", data_folder()), ("runs", runs_folder())):
        yield _folder(name, folder)
        yield _disk(name, folder)


def _requirements() -> list[tuple[str, str, str]]:
    """Name, smallest version and extra of each package that is asked for."""
    try:
        lines = metadata.requires("mixbench") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return []
    found = []
    for line in lines:
        if match := _REQUIRED.match(line):
            extra = re.search(r"extra\s*==\s*['\"](\w+)", line)
            found.append((match[1], match[2], extra[1] if extra else ""))
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _packages() -> Finding:
    needed = [(name, least) for name, least, extra in _requirements() if not extra]
    wrong = [
        f"{name}>={least}" for name, least in needed if _numbers(_version(name)) < _numbers(least)
    ]
    if wrong:
        text = f"missing or too old: {', '.join(wrong)}; pip install '{wrong[0]}'"
        return Finding(BAD, "packages", text)
    shown = ("mixbench", "torch", "torchvision", "lightning", "torchmetrics", "wandb")
    text = ", ".join(f"{name} {_version(name) or '(not installed)'}" for name in shown)
    return Finding(OK, "packages", text)


def _extras() -> Finding:
    parts: dict[str, bool] = {}
    for name, least, extra in _requirements():
        if extra:
            there = _numbers(_version(name)) >= _numbers(least)
            parts[extra] = parts.get(extra, True) and there
    there = [name for name, whole in parts.items() if whole]
    lacking = [name for name, whole in parts.items() if not whole]
    text = f"installed: {', '.join(there) or 'none'}"
    if lacking:
        text += f"; not installed: {', '.join(lacking)} (pip install 'mixbench[{lacking[0]}]')"
    return Finding(OK, "extras", text)


def _device() -> Finding:
    try:
        import torch
    except Exception as error:  # a broken installation raises anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Finding(BAD, "device", f"torch cannot be imported ({reason}); install it again")
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        name = torch.cuda.get_device_name()
        return Finding(OK, "device", f"{counted(count, 'GPU')}: {name}, {memory:.0f} GB each")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    built = "" if torch.version.cuda is None else ", although torch is built for CUDA"
    return Finding(OK, "device", f"no GPU{built}; CPU {cpu_name()}, {cores} cores")


def _switches() -> Iterator[Finding]:
    """Environment variables that are neither on nor off."""
    for name in SWITCHES:
        try:
            switched_on(name)
        except UserError as error:
            yield Finding(BAD, name, f"{error.what}; {error.todo}")


def _compiler() -> Finding:
    from mixbench.native.library import cache_folder, missing_reason

    reason = missing_reason()
    if reason:
        text = "AugMix on the CPU is left to torch, several times slower and equal"
        return Finding(NOTE, "compiler", f"{text}: {reason}")
    return Finding(OK, "compiler", f"AugMix on the CPU is compiled, in {cache_folder()}")


def _wandb() -> Finding:
    word = os.environ.get("WANDB_MODE", "")
    if word and word not in MODES:
        known = ", ".join(dict.fromkeys(MODES.values()))
        return Finding(
            BAD, "W&B", f"WANDB_MODE={word} is not a mode of W&B; set one of {known}, or none"
        )
    mode = MODES.get(word) or ("online" if api_key() else "offline")
    why = "by WANDB_MODE" if word else "an API key is there" if api_key() else "no API key"
    state = NOTE if mode == "online" and not api_key() else OK
    return Finding(state, "W&B", f"{mode}, {why}")


def _folder(name: str, folder: Path) -> Finding:
    variable = f"MIXBENCH_{name.upper()}"
    if not folder.exists():
        parent = next(part for part in folder.absolute().parents if part.exists())
        if os.access(parent, os.W_OK):
            return Finding(OK, name, f"{folder} is not there yet; it is made when it is needed")
        return Finding(BAD, name, f"{folder} cannot be made in {parent}; set {variable}")
    if not folder.is_dir():
        return Finding(BAD, name, f"{folder} is not a folder; set {variable} to a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            entries = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        text = f"{folder}: {error.strerror}"
        if name == "data":
            return Finding(NOTE, name, f"{text}; data sets can be read but not fetched")
        return Finding(BAD, name, f"{text}; set {variable} to another folder")
    if name == "runs":
        count = sum((folder / entry / RECORD).exists() for entry in entries)
        return Finding(OK, name, f"{folder.absolute()}, {counted(count, 'run')}")
    made = ("hashes", "prepared")  # by mixbench itself
    shown = [entry for entry in entries if not entry.startswith(".") and entry not in made]
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return Finding(OK, name, f"{folder.absolute()}: {', '.join(shown[:5]) or 'empty'}{more}")


def _disk(name: str, folder: Path) -> Finding:
    place = folder.absolute()
    place = next(part for part in (place, *place.parents) if part.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free for {name}"
    if free < LITTLE:
        return Finding(NOTE, "disk", f"{text}, which is little; make room before long runs")
    return Finding(OK, "disk", text)
