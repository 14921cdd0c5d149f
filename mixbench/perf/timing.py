"""Paired, interleaved timing.

The variants run in turn, A B C A B C ..., so that whatever else the machine does falls on all of
them alike, and ratios are taken between rounds of the same turn. On the CPU the seconds are those
that the process computed, not those that passed.
"""

import ctypes
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

MOST_REPEATED = 10_000  # rounds that a coarse clock may take for one tick
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Budget:
    """Length of a measurement.

    Args:
        rounds: Turns of the mixing variants.
        round_s: Least seconds of one variant in one turn; fast ones are repeated.
        input_rounds: Turns of the input paths, each one epoch.
        images: Images of that epoch.
        files: Files of that epoch, where images are read from files.
        plan_rounds: Turns of the transport solvers.
        step_rounds: Turns of whole training steps.
        run_rounds: Turns of whole runs.
    """

    rounds: int = 15
    round_s: float = 0.03
    input_rounds: int = 7
    images: int = 10_000
    files: int = 384
    plan_rounds: int = 5
    step_rounds: int = 7
    run_rounds: int = 3


_SHORT = {"images": 5_000, "files": 64, "plan_rounds": 3, "step_rounds": 3, "run_rounds": 2}
BRIEF = Budget(rounds=5, round_s=0.01, input_rounds=3, **_SHORT)  # where minutes count
_TINY = {"images": 256, "files": 2, "plan_rounds": 1, "step_rounds": 1, "run_rounds": 1}
LEAST = Budget(rounds=2, round_s=1e-4, input_rounds=1, **_TINY)  # to see that everything runs


@dataclass(frozen=True)
class Ratio:
    """Ratio of two medians, and the quartiles of the ratios turn by turn."""

    value: float
    low: float
    high: float


def quartiles(values: list[float]) -> tuple[float, float]:
    """Bounds of the middle half of some values.

    Args:
        values: At least one.

    Returns:
        Lower and upper quartile.
    """
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def ratio(upper: list[float], lower: list[float]) -> Ratio:
    """Compare two variants that ran in the same turns.

    Args:
        upper: Seconds of one variant, one value per turn.
        lower: Seconds of the other, from the same turns.

    Returns:
        Median of ``upper`` over median of ``lower``, with the spread of the paired ratios.

    Raises:
        ValueError: If the turns differ in number.
    """
    low, high = quartiles([a / b for a, b in zip(upper, lower, strict=True)])
    return Ratio(statistics.median(upper) / statistics.median(lower), low, high)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread and without the garbage collector, for the time of the block."""
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if collecting:
            gc.enable()


def keep_freed_memory() -> bool:
    """Let the C allocator keep freed memory, for the rest of the process.

    Whether a freed batch goes back to the system, to be paged in again by the next call, depends
    on everything allocated before, and made one and the same variant several times slower.

    Returns:
        Whether the allocator could be told; only that of glibc can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def repeated(
    call: Callable[[int], object], device: torch.device, round_s: float
) -> Callable[[], float]:
    """Warm a variant up and find how often it must run to fill a round.

    Args:
        call: The variant; it is given a running number, by which inputs alternate.
        device: Where it computes.
        round_s: Least seconds of a round.

    Returns:
        Measures one round and returns the seconds of one call.
    """
    numbers = itertools.count()
    _seconds(call, numbers, 2, device)  # first calls build tables and grow the heap
    repeats = 1
    while (taken := _seconds(call, numbers, repeats, device)) < round_s / 4:
        repeats *= 2
    repeats = max(1, math.ceil(repeats * round_s / taken))
    return lambda: _seconds(call, numbers, repeats, device) / repeats


def _seconds(
    call: Callable[[int], object], numbers: Iterator[int], repeats: int, device: torch.device
) -> float:
    turns = itertools.islice(numbers, repeats)
    if device.type != "cuda":
        begin = time.process_time()
        for number in turns:
            call(number)
        return time.process_time() - begin
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    start.record()
    for number in turns:
        call(number)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def interleave(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure all variants in turn.

    Args:
        measures: Each measures one round of its variant and returns seconds.
        rounds: Number of turns.

    Returns:
        Seconds by variant, one value per turn. None is 0: a round that is over between two ticks of
        a coarse clock is repeated, and the mean of its repetitions counts.

    Raises:
        RuntimeError: If the clock does not move.
    """
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            seconds[name].append(_ticked(name, measure))
    return seconds


def _ticked(name: str, measure: Callable[[], float]) -> float:
    """Seconds of a round, or the mean of as many as it takes for the clock to move."""
    total = 0.0
    for count in range(1, MOST_REPEATED + 1):
        total += measure()
        if total > 0:
            return total / count
    raise RuntimeError(f"{name}: the clock has not moved in {MOST_REPEATED:,} rounds")


def waits(calls: Mapping[str, Callable[[], object]]) -> list[str]:
    """Find variants that make the host wait for a CUDA device.

    Args:
        calls: Variants by name; each runs once before it is watched.

    Returns:
        Names of those that wait.
    """
    waiting = []
    for name, call in calls.items():
        call()
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        except RuntimeError:
            waiting.append(name)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return waiting
