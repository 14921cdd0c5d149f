"""Measured speeds of training, and the hours that a grid of runs takes at them.

A speed holds for what it was measured with: method and settings, network, batch, precision, and
size of the images. No other speed stands in for one that is missing.
"""

import heapq
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixbench.config import yaml_files
from mixbench.config.compose import compose_text, resolve_method, to_plain
from mixbench.config.overrides import flatten
from mixbench.config.schema import RunConfig
from mixbench.errors import UserError, counted, time_text
from mixbench.launch.plan import PlannedRun
from mixbench.leaderboard.rows import find_runs
from mixbench.records.record import Record, read_record

# Training images, and pixels of a side, of data sets as their authors distribute them.
OFFICIAL = {"cifar10": (50_000, 32), "cifar100": (50_000, 32), "tinyimagenet": (100_000, 64)}
OFFICIAL |= {"fashionmnist": (60_000, 28)}
# What the time of a step depends on; method.* and net.* too, but where the weights come from.
COSTLY = {"batch_size", "precision", "task", "distill", "data.size", "data.auto_augment"}
COSTLY |= {"optim.name", "optim.accumulate", "optim.ema", "trainer.engine", "trainer.compile"}
COSTLY |= {"trainer.channels_last", "trainer.deterministic"}
FREE = {"net.weights", "net.pretrained"}
STEPS = "steps"  # what a speed comes from that is none of a run
STEP_KEYS = {"batch_size", "precision", "net.name", "net.width", "method.name", "distill"}
STEP_KEYS |= {"optim.accumulate", "optim.ema", "trainer.compile"}
LONG_S = 48 * 3600  # from which on times are told in days


@dataclass(frozen=True)
class Rate:
    """A speed that was measured on one device.

    Attributes:
        device: Name of the device, with the threads of a CPU.
        keys: Values of the keys that it holds for.
        data: Data set of the runs; empty for steps, which are timed apart from any.
        side: Pixels of a side of the images; None where that is not known.
        images_s: Training images per second; the median where several runs told it.
        other_s: Seconds of a run beside its training; None where none was carried out.
        count: Number of runs or measurements.
    """

    device: str
    keys: dict[str, Any]
    data: str
    side: int | None
    images_s: float
    other_s: float | None
    count: int = 1

    @property
    def source(self) -> str:
        """What it was measured by."""
        return counted(self.count, "run") + f" of {self.data}" if self.data else STEPS

    def differences(self, keys: dict[str, Any]) -> list[str]:
        """Keys that would have to be others, with the values that they were measured with."""
        return [f"{key}={value}" for key, value in self.keys.items() if keys.get(key) != value]


@dataclass(frozen=True)
class Cell:
    """Runs of a grid that differ in nothing but the seed and the fold.

    Attributes:
        keys: What the time of a step depends on.
        data: Name of the data set.
        side: Pixels of a side of the images; None where that is not known.
        epochs: Epochs of each run.
        images: Training images of an epoch.
        runs: Number of runs.
        words: Overrides of one of them.
    """

    keys: dict[str, Any]
    data: str
    side: int | None
    epochs: int
    images: int
    runs: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """A cell and the speed at which its runs train."""

    cell: Cell
    rate: Rate

    @property
    def seconds(self) -> float:
        """Seconds of one run."""
        training = self.cell.images * self.cell.epochs / self.rate.images_s
        return training + (self.rate.other_s or 0.0)


def read_rates(paths: Iterable[Path]) -> list[Rate]:
    """Read the speeds that finished runs and speed tables tell.

    Args:
        paths: Folders of runs, and ``.json`` files of ``make perf``, whose whole steps (P4) count.

    Returns:
        One speed for each device and all that it depends on. Runs on several devices, and runs
        that shared their cores with others, are left out.

    Raises:
        UserError: If a path does not exist or holds nothing of the kind.
    """
    found: list[Rate] = []
    for path in paths:
        if path.is_file():
            rates = _of_table(path)
        else:
            rates = [rate for folder in find_runs([path]) if (rate := _of_run(folder))]
        if not rates:
            raise UserError(
                "no speed is told here",
                str(path),
                "give folders of finished runs on one device "
                "that shared it with none, or a .json file of make perf with P4",
            )
        found += rates
    same: dict[str, list[Rate]] = defaultdict(list)
    for rate in found:
        same[repr((rate.device, sorted(rate.keys.items()), rate.data, rate.side))].append(rate)
    return [_pooled(rates) for rates in same.values()]


def _pooled(rates: list[Rate]) -> Rate:
    first = rates[0]
    others = [rate.other_s for rate in rates if rate.other_s is not None]
    speed = statistics.median(rate.images_s for rate in rates)
    other = statistics.median(others) if others else None
    return Rate(first.device, first.keys, first.data, first.side, speed, other, len(rates))


def _of_run(folder: Path) -> Rate | None:
    record = read_record(folder)
    if record.status != "done" or not record.img_per_s or record.device_count != 1:
        return None
    if record.shared_cores:
        return None
    content, _ = yaml_files.read(folder / "config.yaml")
    keys = _costly(content)
    trained = record.epochs * record.train_size / record.img_per_s
    side = OFFICIAL.get(record.data, (0, None))[1] if keys.get("data.size") is None else None
    other = max(0.0, record.wall_s - trained)
    return Rate(_device(record), keys, record.data, side, record.img_per_s, other)


def _device(record: Record) -> str:
    threads = f", {counted(record.threads, 'thread')}" if record.device.endswith("(CPU)") else ""
    return record.device + threads


def _of_table(path: Path) -> list[Rate]:
    try:
        content = json.loads(path.read_text())
        rows = [row for row in content["rows"] if row["part"] == "P4" and not row["skipped"]]
        device = content["hardware"]
        if content["device"] == "cpu":
            device += f" (CPU), {counted(content['threads'], 'thread')}"
        return [rate for row in rows if (rate := _of_step(row, device))]
    except (ValueError, KeyError, TypeError) as error:
        todo = "give the .json file that make perf wrote"
        raise UserError("this is no table of speeds", str(path), todo) from error


def _of_step(row: dict[str, Any], device: str) -> Rate | None:
    """The speed of a row such as ``B128 3x32x32 width 64``; None where it stands for no method."""
    batch, size, *net = row["shape"].split(" ")
    if "," in row["variant"] or net[0] != "width":
        return None  # settings that make a step dearer or cheaper than the default, or another net
    keys = {key: value for key, value in _defaults().items() if key in STEP_KEYS}
    keys |= {"method.name": row["variant"], "net.name": "preactresnet18", "net.width": int(net[1])}
    keys |= {"batch_size": int(batch[1:]), "precision": "fp32"}
    speed = 1000 * row["images"] / row["median_ms"]
    return Rate(device, keys, "", int(size.split("x")[-1]), speed, None)


def _defaults() -> dict[str, Any]:
    return dict(flatten(to_plain(RunConfig())))


def _costly(content: dict[str, Any]) -> dict[str, Any]:
    """The keys of a configuration that the time of a step depends on."""
    return {
        key: value
        for key, value in (_defaults() | dict(flatten(content))).items()
        if key in COSTLY or (key.startswith(("method.", "net.")) and key not in FREE)
    }


def cells(runs: Sequence[PlannedRun], sizes: dict[str, int]) -> list[Cell]:
    """The runs of a grid, those of all seeds and folds of a configuration together.

    Args:
        runs: Planned runs.
        sizes: Numbers of training images by data set, where they are not the official ones.

    Returns:
        The cells, in the order of the grid.

    Raises:
        UserError: If a run takes several devices, or the number of its images is not known.
    """
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for run in runs:
        counts[tuple(word for word in run.words if not word.startswith("seed="))] += 1
    return [_cell(words, count, sizes) for words, count in counts.items()]


def _cell(words: tuple[str, ...], count: int, sizes: dict[str, int]) -> Cell:
    config = resolve_method(compose_text(list(words))).config
    if config.world > 1:
        raise UserError(
            f"a run on {config.world} devices cannot be planned", "devices", "plan with devices=1"
        )
    data = config.data
    name = data.name or data.kind
    images, side = OFFICIAL.get(name, (0, None))
    images = sizes.get(name, images)
    if not images:
        raise UserError(
            f"the number of training images of {name} is not known",
            f"data={name}",
            f"give it as --images {name}=N",
        )
    images = min(round(images * data.train_fraction), data.limit or images) * data.repeats
    if config.select == "val":
        images = round(images * (1 - data.val_fraction))
    keys = _costly(to_plain(config))
    return Cell(
        keys, name, side if data.size is None else None, config.epochs, images, count, words
    )


def costs(planned: Sequence[Cell], rates: Sequence[Rate]) -> dict[str, list[Cost]]:
    """What every cell costs on each device for which all speeds are known.

    Args:
        planned: Cells of a grid.
        rates: Speeds.

    Returns:
        Costs by device.

    Raises:
        UserError: If no device knows the speed of every cell; it says how to measure one.
    """
    found: dict[str, list[Cost]] = {}
    lacking: dict[str, list[Cell]] = {}
    for device in dict.fromkeys(rate.device for rate in rates):
        own = [rate for rate in rates if rate.device == device]
        pairs = [(cell, _fitting(cell, own)) for cell in planned]
        lacking[device] = [cell for cell, rate in pairs if rate is None]
        if not lacking[device]:
            found[device] = [Cost(cell, rate) for cell, rate in pairs if rate is not None]
    if found:
        return found
    device = min(lacking, key=lambda name: len(lacking[name]))
    raise _unknown(lacking[device], device, [rate for rate in rates if rate.device == device])


def _fitting(cell: Cell, rates: Sequence[Rate]) -> Rate | None:
    """The speed of a cell; that of a run before that of steps, of its own data before others."""
    fit = [rate for rate in rates if _fits(cell, rate) and not rate.differences(cell.keys)]
    return min(fit, key=lambda rate: (not rate.data, rate.data != cell.data), default=None)


def _fits(cell: Cell, rate: Rate) -> bool:
    """Whether a speed is that of such images, and not of steps with other settings."""
    if not rate.data and any(word.startswith("method.") for word in cell.words):
        return False
    return rate.data == cell.data or (rate.side is not None and rate.side == cell.side)


def _unknown(lacking: Sequence[Cell], device: str, rates: Sequence[Rate]) -> UserError:
    cell = lacking[0]
    names = ", ".join(dict.fromkeys(each.keys["method.name"] for each in lacking))
    near = [
        rate.differences(cell.keys)
        for rate in rates
        if rate.keys["method.name"] == cell.keys["method.name"] and _fits(cell, rate)
    ]
    known = f"; known is one with {', '.join(min(near, key=len))}" if near else ""
    words = " ".join(word for word in cell.words if not word.startswith(("epochs=", "method=")))
    return UserError(
        f"the speed of {names} on {cell.keys['net.name']} with {cell.data} was not measured{known}",
        device,
        f"measure it by a short training: mixbench bench method={names.replace(' ', '')} {words} "
        "epochs=1 seeds=0 eval.suites=[] run.dir=runs/rates --jobs 1, and add --rates runs/rates",
    )


def finished_after(seconds: Sequence[float], devices: int) -> float:
    """Seconds until the last run is done, each on the device that is free first, long ones first.

    Args:
        seconds: Of each run.
        devices: How many compute at a time.

    Returns:
        Seconds.
    """
    free = [0.0] * min(devices, max(1, len(seconds)))
    for run in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + run)
    return max(free)


def devices_within(seconds: Sequence[float], limit: float) -> int | None:
    """Fewest devices that carry runs out within a time.

    Args:
        seconds: Of each run.
        limit: Seconds that there are.

    Returns:
        The number; None where a single run takes longer.
    """
    if max(seconds) > limit:
        return None
    least = math.ceil(sum(seconds) / limit)
    return next(n for n in range(least, len(seconds) + 1) if finished_after(seconds, n) <= limit)


def hours_text(found: Sequence[Cost], devices: Sequence[int], budget_s: float | None = None) -> str:
    """The hours of a grid on one kind of device, as text.

    Args:
        found: Cost of each cell.
        devices: Numbers of devices.
        budget_s: Seconds that there are, if the fewest devices are asked for.

    Returns:
        Lines of a table of methods, one of devices, and what both leave out.
    """
    rows = [("method", "data", "measured by", "images/s", "one run", "runs")]
    rows += [
        (
            cost.cell.keys["method.name"],
            cost.cell.data,
            cost.rate.source,
            f"{cost.rate.images_s:,.1f}",
            _long(cost.seconds),
            str(cost.cell.runs),
        )
        for cost in found
    ]
    every = [cost.seconds for cost in found for _ in range(cost.cell.runs)]
    times = [("devices", "hours", "days")]
    for count in devices:
        hours = finished_after(every, count) / 3600
        times.append((f"{count:,}", f"{hours:,.1f}", f"{hours / 24:,.1f}"))
    lines = [f"{counted(len(every), 'run')}; speeds were measured on: {found[0].rate.device}", ""]
    lines += [*_columns(rows, left=3), "", *_columns(times, left=0), ""]
    if budget_s is not None:
        fewest = devices_within(every, budget_s)
        told = f"at least {counted(fewest or 0, 'device')}"
        if fewest is None:
            told = f"not possible, as one run takes {_long(max(every))}"
        lines += [f"within {_long(budget_s)}: {told}", ""]
    lines += [
        "Hours are computed, not measured: images times epochs, divided by the speed. Each device",
        "is taken to be as fast as the measured one beside others, and no run to wait or to fail.",
    ]
    if any(cost.rate.other_s is None for cost in found):
        lines.append(
            "Steps were timed alone, each with the most work that it has in a run; start, tests,"
        )
        lines.append("suites and checkpoints come on top.")
    if any(cost.rate.other_s is not None for cost in found):
        lines.append("A run takes as long beside its training as the runs did that were measured.")
    return "\n".join(lines)


def _long(seconds: float) -> str:
    return f"{seconds / 86400:,.1f} d" if seconds > LONG_S else time_text(seconds)


def _columns(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of columns, the first ``left`` of them flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if place < left else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def parse_sizes(texts: Iterable[str]) -> dict[str, int]:
    """Numbers of images that a user gives, such as ``birds=5994``.

    Args:
        texts: One for each data set.

    Returns:
        Numbers by data set.

    Raises:
        UserError: If one is none.
    """
    sizes: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not name or not number.isdecimal() or not int(number):
            raise UserError(
                f"{text!r} is no number of images", "--images", "write --images birds=5994"
            )
        sizes[name] = int(number)
    return sizes


def parse_devices(text: str) -> list[int]:
    """Numbers of devices that a user lists, such as ``1,8,64``.

    Args:
        text: The list.

    Returns:
        The numbers.

    Raises:
        UserError: If one is no whole number from 1 on.
    """
    values = text.split(",")
    if not all(value.strip().isdecimal() and int(value) for value in values):
        raise UserError(f"{text!r} is no list of numbers", "--devices", "write --devices 1,8,64")
    return [int(value) for value in values]
