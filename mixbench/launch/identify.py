"""Ids of planned runs, in a process that may import torch: which are done, how long others take."""

from typing import Any

from mixbench.errors import UserError
from mixbench.launch.plan import PlannedRun
from mixbench.records.record import read_record


def identify_runs(
    runs: list[PlannedRun], strict: bool, *, timed: bool = False
) -> tuple[list[PlannedRun], list[str]]:
    """Name planned runs and find out which are done.

    The data of the others are read, and fetched where need be.

    Args:
        runs: Planned runs.
        strict: Refuse keys that have no effect.
        timed: Also estimate the time of runs and the devices that they take on this machine.

    Returns:
        The runs that can be trained, filled in, and warnings.

    Raises:
        UserError: If a method's own key is unknown or out of range, a method that was named cannot
            train the network or the data, or data is missing.
    """
    import torch

    from mixbench.config.compose import compose_text, resolve_method
    from mixbench.training.build import estimate_seconds
    from mixbench.training.job import incompatibility, resolve
    from mixbench.training.sanity import doubts

    torch.set_num_threads(1)
    notes: dict[str, None] = {}
    estimates: dict[str, float] = {}
    infos: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    kept: list[PlannedRun] = []
    for planned in runs:
        composed = resolve_method(compose_text(planned.words, strict=strict), strict=strict)
        config = composed.config
        if planned.optional and (reason := incompatibility(config)):
            notes[f"left out: {reason}"] = None
            continue
        job = resolve(config, sources.get(str(config.data)))
        kept.append(planned)
        notes |= dict.fromkeys(composed.notes)
        source = sources.setdefault(str(config.data), job.source)
        planned.id, planned.recipe_hash = job.identity.id, job.identity.recipe_hash
        try:
            planned.done = read_record(job.folder).status == "done"
        except UserError:
            planned.done = False
        if timed:
            on_gpu = job.device.type == "cuda"
            planned.gpus = config.devices if on_gpu else 0
            planned.cores = config.devices * config.trainer.threads
        if planned.done:
            continue
        key = f"{config.data} {config.select}"
        if key not in infos:
            infos[key] = source.load(holdout=config.select == "val").info
        planned.doubts = list(doubts(config, infos[key].train_size).values())
        if timed:
            row = job.identity.row_hash
            if row not in estimates:
                estimates[row] = estimate_seconds(job, infos[key])
            planned.seconds = estimates[row]
    return kept, list(notes)
