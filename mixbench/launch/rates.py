"""Measured rates of training in images per second, and the hours that a grid of runs takes.

A rate holds for what it was measured with: method and settings, network, batch, precision, and
size of the images. No other rate stands in for one that is missing.
"""

import functools
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
from mixbench.config.auto import with_auto_values
from mixbench.config.compose import compose_text, resolve_method, to_plain
from mixbench.config.names import METHODS
from mixbench.config.overrides import flatten
from mixbench.config.schema import AUTO, RunConfig
from mixbench.data.images import HOLDOUT_LIMIT, PUBLISHED_SIZES
from mixbench.errors import UserError, counted, time_text
from mixbench.launch.plan import PlannedRun
from mixbench.leaderboard.rows import find_runs
from mixbench.records.record import Record, read_record

KNOWN_SIZES = PUBLISHED_SIZES | {"digits": (10, 32, 1_437)}
UNKNOWN = (0, None, 0)
# What the time of a step depends on; method.* and net.* too, but where the weights come from.
COSTLY = {"batch_size", "precision", "task", "distill", "data.size", "data.resize", "data.fit"}
COSTLY |= {"data.crop_area", "data.crop_scales", "data.store", "data.workers", "data.second"}
COSTLY |= {"data.augment_by", "data.auto_augment", "data.jitter", "data.lighting", "data.erasing"}
COSTLY |= {"optim.name", "optim.clip", "optim.accumulate", "optim.ema"}
COSTLY |= {"trainer.engine", "trainer.cuda_graphs", "trainer.compile", "trainer.compile_input"}
COSTLY |= {"trainer.channels_last", "trainer.deterministic"}
FREE = {"net.weights", "net.pretrained"}
STEPS = "steps"  # what a rate comes from that is none of a run
# What steps are timed without: their shape tells the size, and a last norm costs next to nothing.
NOT_OF_STEPS = {"data.size", "net.final_norm"}
LONG_S = 48 * 3600  # from which on times are told in days


@dataclass(frozen=True)
class Rate:
    """Training images per second, measured on one device.

    Attributes:
        device: Name of the device, with the threads of a CPU.
        keys: Values of the keys that it holds for.
        data: Data set of the runs; empty for steps, which are timed apart from any.
        side: Pixels of a side of the images; None where that is not known.
        images_s: Images per second; the median where several runs told it.
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
    """A cell and the rate at which its runs train."""

    cell: Cell
    rate: Rate

    @property
    def seconds(self) -> float:
        """Seconds of one run."""
        training = self.cell.images * self.cell.epochs / self.rate.images_s
        return training + (self.rate.other_s or 0.0)


def read_rates(paths: Iterable[Path]) -> list[Rate]:
    """Read the rates that finished runs and tables of steps tell.

    Args:
        paths: Folders of runs, and ``.json`` files of ``make perf``, whose whole steps (P4) count.

    Returns:
        One rate for each device and all that it depends on. Runs on several devices, and runs
        that shared their cores with others, are left out.

    Raises:
        UserError: If a path does not exist or holds nothing of the kind.
    """
    found: list[Rate] = []
    for path in paths:
        if path.is_file():
            rates = _of_table(path)
        elif path.suffix == ".json":
            raise UserError("there is no such file", str(path), "give the one that make perf wrote")
        else:
            rates = [rate for folder in find_runs([path]) if (rate := _of_run(folder))]
        if not rates:
            raise UserError(
                "no rate of training is told here",
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
    middle = statistics.median(rate.images_s for rate in rates)
    other = statistics.median(others) if others else None
    return Rate(first.device, first.keys, first.data, first.side, middle, other, len(rates))


def _of_run(folder: Path) -> Rate | None:
    record = read_record(folder)
    if record.status != "done" or not record.img_per_s or record.device_count != 1:
        return None
    if record.shared_cores:
        return None
    content, _ = yaml_files.read(folder / "config.yaml")
    keys = _costly(content)
    trained = record.epochs * record.train_size / record.img_per_s
    side = KNOWN_SIZES.get(record.data, UNKNOWN)[1] if keys.get("data.size") is None else None
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
        dry, rates = content.get("dry_run"), [_of_step(row, device) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        todo = "give the .json file that make perf wrote"
        raise UserError("this is no table of timed steps", str(path), todo) from error
    if dry:
        raise UserError(
            "a dry run tells no rates, as it times too little",
            str(path),
            "measure without --dry-run: python -m mixbench.perf --part P4",
        )
    return [rate for rate in rates if rate]


def _of_step(row: dict[str, Any], device: str) -> Rate | None:
    """The rate of a row such as ``B128 3x32x32 width 64``; None where it stands for no method."""
    batch, size, *net = row["shape"].split(" ")
    if row["variant"] not in METHODS.table or net[0] != "width":
        return None  # settings that make a step dearer or cheaper than the default, or another net
    keys = _step_keys(row["variant"]) | {"net.name": "preactresnet18", "net.width": int(net[1])}
    keys |= {"batch_size": int(batch[1:]), "precision": "fp32"}
    images_s = 1000 * row["images"] / row["median_ms"]
    return Rate(device, keys, "", int(size.split("x")[-1]), images_s, None)


@functools.cache
def _step_keys(method: str) -> dict[str, Any]:
    """What the steps of a method were timed with, where a row does not tell it: its defaults."""
    words = [f"method={method}", "data=cifar10"]  # which leaves the defaults of the network alone
    keys = _costly(to_plain(resolve_method(compose_text(words)).config))
    return {key: value for key, value in keys.items() if key not in NOT_OF_STEPS}


def _defaults() -> dict[str, Any]:
    return dict(flatten(to_plain(RunConfig())))


def _costly(content: dict[str, Any]) -> dict[str, Any]:
    """The keys of a configuration that the time of a step depends on."""
    return {
        key: value
        for key, value in (_defaults() | dict(flatten(content))).items()
        if key in COSTLY or (key.startswith(("method.", "net.")) and key not in FREE)
    }


def trainable(runs: Sequence[PlannedRun]) -> tuple[list[PlannedRun], list[str]]:
    """The runs of a grid without those that ``method=all`` stands for and that cannot train.

    Args:
        runs: Planned runs.

    Returns:
        The runs, and why others are left out.

    Raises:
        UserError: If a method that is asked for by its name cannot train the data or the network.
    """
    from mixbench.training.job import incompatibility

    reasons: dict[tuple[str, ...], str] = {}
    for run in runs:
        words = _unseeded(run)
        if words not in reasons:
            config = resolve_method(compose_text(list(words))).config
            reasons[words] = incompatibility(config)
            if reasons[words] and not run.optional:
                raise UserError(reasons[words], f"method={config.method['name']}", "leave it out")
    kept = [run for run in runs if not reasons[_unseeded(run)]]
    return kept, [f"left out: {reason}" for reason in dict.fromkeys(reasons.values()) if reason]


def _unseeded(run: PlannedRun) -> tuple[str, ...]:
    return tuple(word for word in run.words if not word.startswith("seed="))


def cells(runs: Sequence[PlannedRun], sizes: dict[str, int]) -> list[Cell]:
    """The runs of a grid, those of all seeds and folds of a configuration together.

    Args:
        runs: Planned runs.
        sizes: Numbers of training images by data set, where they are not the official ones.

    Returns:
        The cells, in the order of the grid.

    Raises:
        UserError: If a run takes several devices, its precision is left to the device, the number
            of its images is not known, or one is given of a data set that no run trains on.
    """
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for run in runs:
        counts[_unseeded(run)] += 1
    found = [_cell(words, count, sizes) for words, count in counts.items()]
    trained = sorted({cell.data for cell in found})
    for name in sizes:
        if name not in trained:
            raise UserError(
                f"no run trains on {name}", "--images", f"the data sets are: {', '.join(trained)}"
            )
    return found


def _cell(words: tuple[str, ...], count: int, sizes: dict[str, int]) -> Cell:
    config = resolve_method(compose_text(list(words))).config
    if config.world > 1:
        raise UserError(
            f"a run on {config.world} devices cannot be planned", "devices", "plan with devices=1"
        )
    if config.precision == AUTO:
        raise UserError(
            "precision=auto is another one on each device, and so is the rate",
            "precision",
            "give precision=fp32 or precision=bf16",
        )
    data = config.data
    name = data.name or data.kind
    _, side, images = KNOWN_SIZES.get(name, UNKNOWN)
    images = sizes.get(name, images)
    if not images:
        raise UserError(
            f"the number of training images of {name} is not known",
            f"data={name}",
            f"give it as --images {name}=N",
        )
    images = min(round(images * data.train_fraction), data.limit or images)
    if config.select == "val":
        images -= min(round(images * data.val_fraction), HOLDOUT_LIMIT)
    config, _ = with_auto_values(config, images)
    keys = _costly(to_plain(config))
    return Cell(
        keys, name, side if data.size is None else None, config.epochs, images, count, words
    )


def costs(planned: Sequence[Cell], rates: Sequence[Rate]) -> dict[str, list[Cost]]:
    """What every cell costs on each device for which all rates are known.

    Args:
        planned: Cells of a grid.
        rates: Rates.

    Returns:
        Costs by device.

    Raises:
        UserError: If no device knows the rate of every cell; it says how to measure one.
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
    """The rate of a cell; that of a run before that of steps, of its own data before others."""
    fit = [rate for rate in rates if _fits(cell, rate) and not rate.differences(cell.keys)]
    return min(fit, key=lambda rate: (not rate.data, rate.data != cell.data), default=None)


def _fits(cell: Cell, rate: Rate) -> bool:
    """Whether a rate is that of images as large."""
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
        f"the rate of {names} on {cell.keys['net.name']} with {cell.data} was not measured{known}",
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
        seconds = finished_after(every, count)
        hours, days = f"{seconds / 3600:,.1f}", f"{seconds / 86400:,.1f}"
        if seconds < 3600:  # of which a tenth of an hour tells little
            hours, days = time_text(seconds), ""
        times.append((f"{count:,}", hours, days))
    lines = [f"{counted(len(every), 'run')}; rates were measured on: {found[0].rate.device}", ""]
    lines += [*_columns(rows, left=3), "", *_columns(times, left=0), ""]
    if budget_s is not None:
        fewest = devices_within(every, budget_s)
        told = f"at least {counted(fewest or 0, 'device')}"
        if fewest is None:
            told = f"not possible, as one run takes {_long(max(every))}"
        lines += [f"within {_long(budget_s)}: {told}", ""]
    lines += [
        "Hours are computed, not measured: images times epochs, divided by the rate. Each device",
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
        The numbers, each once and the smallest first.

    Raises:
        UserError: If one is no whole number from 1 on.
    """
    values = text.split(",")
    if not all(value.strip().isdecimal() and int(value) for value in values):
        what = f"{text!r} is no list of numbers from 1 on"
        raise UserError(what, "--devices", "write --devices 1,8,64")
    return sorted({int(value) for value in values})
