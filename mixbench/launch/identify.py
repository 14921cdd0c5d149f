"""Ids of planned runs, in a process that may import torch: which are done, how long others take."""

import time
import warnings
from typing import TYPE_CHECKING, Any

from mixbench.errors import UserError, explain
from mixbench.launch.plan import PlannedRun
from mixbench.records.record import read_record

if TYPE_CHECKING:
    from mixbench.data.images import Splits
    from mixbench.training.estimate import Estimate
    from mixbench.training.job import Job

RELOAD_S = 10.0  # seconds of a first reading, which may fetch and decode, after which one is timed


def identify_runs(
    runs: list[PlannedRun], strict: bool, *, timed: bool = False
) -> tuple[list[PlannedRun], list[str]]:
    """Name planned runs and find out which are done.

    The data of the others are read, and fetched where need be, unless their time is known already.

    Args:
        runs: Planned runs.
        strict: Refuse keys that have no effect.
        timed: Also estimate the time of runs and the devices that they take on this machine.

    Returns:
        The runs that can be trained, filled in, and warnings.

    Raises:
        UserError: If a method's own key is unknown or out of range, a method that was named cannot
            train the network or the data, data is missing, or code of the user's own cannot be
            built.
    """
    import torch

    from mixbench.config.compose import compose_text, resolve_method
    from mixbench.training.job import incompatibility, resolve
    from mixbench.training.sanity import doubts

    torch.set_num_threads(1)
    notes: dict[str, None] = {}
    estimates: dict[str, Estimate] = {}
    sizes: dict[str, int] = {}  # training images by data
    loaded, load_s = "", 0.0
    splits: Any = None
    sources: dict[str, Any] = {}
    kept: list[PlannedRun] = []
    fresh: list[PlannedRun] = []  # those whose time is estimated here
    refused: UserError | None = None
    for planned in runs:
        composed = resolve_method(compose_text(planned.words, strict=strict), strict=strict)
        config = composed.config
        if planned.optional and (reason := incompatibility(config)):
            notes[f"left out: {reason}"] = None
            continue
        job = resolve(config, sources.get(str(config.data)))
        if config.precision != job.config.precision:  # another machine might decide otherwise
            planned.settled = [f"precision={job.config.precision}"]
        config, planned.choice = job.config, job.choice
        notes |= dict.fromkeys(composed.notes)
        sources.setdefault(str(config.data), job.source)
        planned.id, planned.recipe_hash = job.identity.id, job.identity.recipe_hash
        try:
            record = read_record(job.folder)
        except UserError:
            planned.done = False
        else:
            planned.done = record.status == "done"
            planned.unjudged = job.unjudged(record) if planned.done else []
            if planned.done and (late := " ".join(job.too_late(job.folder))):
                notes[f"these keys come too late for runs that are done: {late}"] = None
        if timed:
            on_gpu = job.device.type == "cuda"
            planned.gpus = config.devices if on_gpu else 0
            planned.cores = config.devices * config.trainer.threads
        if planned.done or planned.seconds is not None:
            kept.append(planned)
            continue
        key = f"{config.data} {config.select}"
        row = job.identity.row_hash
        unknown = timed and row not in estimates
        if key not in sizes or (unknown and key != loaded):
            splits, load_s = _load(job, timed)
            loaded, sizes[key] = key, splits.info.train_size
        planned.doubts = list(doubts(config, sizes[key]).values())
        if unknown:
            try:
                estimates[row] = _estimate(job, splits, load_s)
            except UserError as error:  # as the run itself would
                if not planned.optional:
                    raise
                notes[f"left out: {error.what} ({error.where})"], refused = None, error
                continue
        kept.append(planned)
        if timed:
            found = estimates[row]
            planned.seconds, planned.after_s = found.total_s or None, found.after_s
            fresh.append(planned)
            if found.failure:
                notes[f"a few steps of {job.name} were tried and failed: {found.failure}"] = None
    slower = _slowdown(list(estimates.values()))
    for planned in fresh:
        planned.seconds = planned.seconds and slower * planned.seconds
        planned.after_s *= slower
    if refused is not None and not kept:
        raise refused
    return kept, list(notes)


def _slowdown(estimates: "list[Estimate]") -> float:
    """How much longer everything takes because other programs are at work, of all that was timed.

    The same for all methods, as the load while one is timed says nothing of that method.
    """
    counted = sum(found.counted_s for found in estimates)
    return sum(found.elapsed_s for found in estimates) / counted if counted else 1.0


def _load(job: "Job", timed: bool) -> "tuple[Splits, float]":
    """The data of a run, and the seconds in which it is read once it is on disk and decoded."""
    started = time.monotonic()
    splits = job.read_data()
    if timed and time.monotonic() - started > RELOAD_S:
        started = time.monotonic()
        splits = job.read_data()
    return splits, time.monotonic() - started


def _estimate(job: "Job", splits: "Splits", load_s: float) -> "Estimate":
    """Time of a run; all 0 where it cannot be carried out."""
    from mixbench.training.estimate import Estimate, estimate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself will give them
        try:
            return estimate(job, splits, load_s)
        except UserError:
            raise
        except Exception as error:
            return Estimate(0.0, 0.0, 0.0, explain(error).what)
