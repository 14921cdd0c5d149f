"""One run from configuration to record: the module that joins all packages."""

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf

from mixbench.config.compose import compose_again, to_plain
from mixbench.config.overrides import code_names, flatten
from mixbench.config.schema import RunConfig, keys_not_in_identity
from mixbench.distributed.process_group import (
    ProcessGroup,
    destroy_process_group,
    init_process_group,
    rank_of_environment,
)
from mixbench.distributed.signals import StopSignals
from mixbench.distributed.spawn import start_ranks, stop_with_launcher
from mixbench.errors import InterruptedRunError, UserError
from mixbench.records.identity import differences
from mixbench.records.record import (
    Record,
    earlier_record,
    read_record,
)
from mixbench.tracking.run import is_shown, service_ahead
from mixbench.tracking.tensorboard import check_tensorboard
from mixbench.training.attempt import Attempt
from mixbench.training.build import build
from mixbench.training.facts import new_record
from mixbench.training.job import Job, resolve
from mixbench.training.requirements import check_splits

log = logging.getLogger("mixbench")


def run(
    config: RunConfig,
    *,
    shared_cores: bool = False,
    folder: Path | None = None,
    allow_config_change: bool = False,
) -> Record:
    """Carry out a run, go on with one that was interrupted, or return the record of a finished one.

    Args:
        config: A configuration as :func:`mixbench.compose` returns it.
        shared_cores: Other runs use the machine at the same time; its speed is marked so.
        folder: Folder of the run; named after the configuration if None.
        allow_config_change: Go on with another configuration than the checkpoint's, and record it.

    Returns:
        The record, as ``record.json`` in the run's folder holds it.

    Raises:
        UserError: If the configuration, the data, the machine or an earlier checkpoint do not
            fit; nothing was started.
        RunFailedError: If training fails or its weights are not finite.
        InterruptedRunError: If it was stopped from outside; the same call goes on with it.
    """
    job = resolve(config)
    if job.choice and (rank_of_environment() or (0,))[0] == 0:
        log.info(job.choice)
    if config.logger == "tensorboard":
        check_tensorboard()
    on_gpu = job.device.type == "cuda"
    if config.world > 1 and rank_of_environment() is None:
        return _run_on_devices(job, shared_cores, folder, allow_config_change)
    with StopSignals() as signals:
        stop_with_launcher()
        group = init_process_group(config.world, config.trainer.timeout, on_gpu)
        try:
            attempt = _prepare(job, group, folder or job.folder)
            if isinstance(attempt, Record):
                destroy_process_group()
                return attempt
            attempt.record.shared_cores = shared_cores
            record = attempt.run(signals, allow_config_change)
            destroy_process_group()  # not after an error: another process may be gone
        except KeyboardInterrupt as stop:  # before there was anything to save
            if group.is_main:
                signals.requeue_job()
            raise InterruptedRunError("interrupted", todo="give the same command again") from stop
        except InterruptedRunError:
            if group.is_main:
                signals.requeue_job()
            raise
    return record


def resume(
    folder: Path, overrides: str | Sequence[str] = "", *, allow_config_change: bool = False
) -> Record:
    """Go on with a run from what its folder holds.

    Args:
        folder: Folder of the run.
        overrides: Keys to change; those that decide what is computed only if that is allowed.
        allow_config_change: Allow it, and record it.

    Returns:
        The record, as of :func:`run`.

    Raises:
        MixbenchError: As :func:`run`; UserError if the folder holds no run.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise UserError(
            "the folder holds no run that could be continued",
            str(folder),
            "name a folder below runs/",
        )
    before, config = compose_again(path, overrides)
    record = earlier_record(folder)
    if record is not None and record.status == "done":
        ignored = keys_not_in_identity() - {"seed"} | record.inputs.keys()
        changed = differences(to_plain(before), to_plain(config), ignored)
        if changed:
            raise UserError(
                f"{folder.name} is done, and {next(iter(changed))} would make it another run",
                str(folder),
                "start a new run with mixbench run",
            )
    return run(config, folder=folder, allow_config_change=allow_config_change)


def _run_on_devices(
    job: Job, shared_cores: bool, folder: Path | None, allow_config_change: bool
) -> Record:
    """Start one process per device, each of which calls :func:`run`."""
    config = job.config
    if config.num_nodes > 1:
        raise UserError(
            f"num_nodes={config.num_nodes}, and no other machine is known",
            "num_nodes",
            f"start it on each machine with torchrun --nnodes={config.num_nodes} "
            f"--nproc-per-node={config.devices} ... -m mixbench run ...",
        )
    with tempfile.TemporaryDirectory(prefix="mixbench-") as place:
        path = Path(place) / "config.yaml"
        plain = to_plain(config)
        path.write_text(OmegaConf.to_yaml(plain), encoding="utf-8")
        words = ["run", "--config", str(path), *code_names(flatten(plain)).values()]
        words += [f"run.dir={json.dumps(config.run.dir)}"] if config.run.dir else []
        words += ["--shared-cores"] * shared_cores
        words += ["--allow-config-change"] * allow_config_change
        words += ["--folder", str(folder)] if folder else []
        with StopSignals() as signals:
            try:
                start_ranks(words, config.devices)
            except InterruptedRunError as error:
                signals.install()  # the agent has set its own
                signals.received = error.signal or signals.received
                signals.requeue_job()
                raise
            except KeyboardInterrupt as stop:
                signals.requeue_job()
                todo = "give the same command again"
                raise InterruptedRunError("interrupted", todo=todo) from stop
    return read_record(folder or job.folder)


def _prepare(job: Job, group: ProcessGroup, folder: Path) -> "Attempt | Record":
    """Read and build everything, and write nothing until everything is known to fit."""
    if not group.is_main:
        log.setLevel(logging.ERROR)
    if job.device.type == "cpu":
        torch.set_num_threads(job.config.trainer.threads)
    earlier = earlier_record(folder) if group.is_main else None
    done = earlier is not None and earlier.status == "done"
    if group.broadcast(done):
        return _finished(job, earlier or read_record(folder), folder)
    with service_ahead(group.is_main and is_shown(job.config)):
        splits = job.read_data()
        check_splits(job.config, job.task, job.suites, splits)
        method, data = build(job, splits, group.rank, group.world)
        return Attempt(job, group, folder, new_record(job, method), method, data)


def _finished(job: Job, record: Record, folder: Path) -> Record:
    """The record of a run that is done already, with a warning if it is not what was asked for."""
    log.info("%s is done already", folder.name)
    if lacking := ",".join(job.unjudged(record)):
        todo = f"mixbench eval {folder} --suite {lacking}"
        log.warning("it was not judged by %s, which this adds: %s", lacking, todo)
    if late := " ".join(job.too_late(folder)):
        log.warning(
            "these keys come too late for a run that is done, whose record stays as it is: %s; "
            "mixbench eval %s --suite NAME reads those of eval",
            late,
            folder,
        )
    if record.config_changes:
        keys = ", ".join(record.config_changes)
        log.warning(
            "the configuration was changed during the run, so that no other run compares: %s",
            keys,
        )
    return record
