"""SLURM options of a grid: from words of the command line to submitit's parameters."""

import os
from collections.abc import Sequence
from typing import Any

from mixbench.config.compose import compose_text
from mixbench.errors import UserError, near_match
from mixbench.launch.plan import PlannedRun

WARNING_S = 90  # the warning signal comes this long before the time limit, or up to 60 s earlier
SHORTEST_MIN = 5  # of a time limit; the warning must not come before the run has begun
DEFAULT_MIN = 240
# Long names of sbatch options that the launcher sets itself.
LAUNCHER_OPTIONS = frozenset(
    ["array", "error", "ntasks-per-node", "open-mode", "output", "requeue", "signal", "time"]
)
COUNT_OPTIONS = ("time", "gpus_per_run", "cpus_per_run", "max_parallel")
OPTIONS = ("partition", *COUNT_OPTIONS, "mem", "account")


def read_options(words: Sequence[str], jobs: int | None = None) -> dict[str, Any]:
    """Read what the command line says about the cluster.

    Args:
        words: ``key=value`` with the keys ``partition``, ``time`` (minutes at a time; a longer run
            comes back into the queue), ``gpus_per_run``, ``cpus_per_run``, ``mem`` (as 16GB, of a
            run), ``account``, ``max_parallel`` (runs at a time), and ``extra.NAME`` for any other
            option of sbatch by its long name.
        jobs: Most runs at a time, another way to give ``max_parallel``.

    Returns:
        Options of :class:`mixbench.launch.slurm.SlurmLauncher`.

    Raises:
        UserError: On an unknown key or a bad value, or two numbers of runs at a time.
    """
    options: dict[str, Any] = {"extra": {}}
    for word in words:
        key, _, text = word.partition("=")
        where = f"SLURM option {word!r}"
        name = key.removeprefix("extra.")
        if not text:
            raise UserError(f"{key} has no value", where, "write key=value")
        if name != key:
            if name in LAUNCHER_OPTIONS:
                raise UserError(
                    f"the launcher sets the option {name} of sbatch itself", where, "leave it out"
                )
            options["extra"][name] = True if text == "true" else text
        elif key not in OPTIONS:
            hint = near_match(key, OPTIONS)
            todo = f"one of {', '.join(OPTIONS)}, or extra.{key} for an option of sbatch"
            raise UserError(f"unknown SLURM option {key!r}", where, hint or todo)
        elif key in COUNT_OPTIONS:
            low = {"time": SHORTEST_MIN, "gpus_per_run": 0}.get(key, 1)
            if not text.isdecimal() or int(text) < low:
                unit = " of minutes" if key == "time" else ""
                raise UserError(
                    f"{key} must be a whole number{unit}, at least {low}",
                    where,
                    f"write {key}={low}",
                )
            options[key] = int(text)
        else:
            options[key] = text
    known = options.setdefault("max_parallel", jobs) if jobs is not None else None
    if known != jobs:
        what = f"--jobs {jobs} and max_parallel={known} ask for two numbers of runs at a time"
        raise UserError(what, "SLURM option max_parallel", "give one of them")
    return options


def submitit_parameters(options: dict[str, Any], runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """Parameters for submitit's executor.

    Args:
        options: As of :func:`read_options`.
        runs: The runs of one array; each gets what the most demanding of them needs.

    Returns:
        Parameters of ``submitit.AutoExecutor``.

    Raises:
        UserError: If a run needs several machines.
    """
    configs = [compose_text(run.words).config for run in runs]
    if any(config.num_nodes > 1 for config in configs):
        raise UserError(
            "the SLURM launcher starts runs on one machine each",
            "num_nodes",
            "start such a run with srun or torchrun in a batch script of your own",
        )
    threads = max(
        config.devices * (config.trainer.threads + config.data.workers) for config in configs
    )
    gpus = max(config.devices if config.trainer.accelerator == "gpu" else 0 for config in configs)
    values = {
        "name": "mixbench",
        "timeout_min": options.get("time", DEFAULT_MIN),
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": options.get("cpus_per_run", threads),
        "gpus_per_node": options.get("gpus_per_run", gpus) or None,
        "stderr_to_stdout": True,
        "slurm_partition": options.get("partition"),
        "slurm_account": options.get("account"),
        "slurm_mem": options.get("mem"),
        "slurm_array_parallelism": options.get("max_parallel"),
        "slurm_use_srun": False,
        # B: to the batch script alone, which the task has replaced; its children hear from it.
        "slurm_additional_parameters": {
            **options.get("extra", {}),
            "requeue": True,
            "signal": f"B:{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}@{WARNING_S}",
        },
    }
    return {key: value for key, value in values.items() if value is not None}
