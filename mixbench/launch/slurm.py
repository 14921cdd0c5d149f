"""Runs of a grid as one SLURM array job, submitted through submitit.

A run that SLURM takes the node from goes on from its last checkpoint: announced by the warning
signal, it saves and puts itself back into the queue; pre-empted outright, it saves within SLURM's
KillWait (30 s by default) and SLURM puts it back.

Tasks replace the batch script instead of being steps of ``srun``. When a job is requeued, SLURM
also tells ``srun`` to end, which kills its step at once, and nothing could be saved.
"""

import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixbench.distributed.spawn import set_safe_path
from mixbench.errors import MixbenchError, UserError
from mixbench.files import write_text
from mixbench.launch.identify import identify_runs
from mixbench.launch.local import GridOutcome, result_text
from mixbench.launch.plan import PlannedRun
from mixbench.launch.slurm_options import submitit_parameters
from mixbench.launch.slurm_task import SlurmTask, SlurmTiming
from mixbench.launch.state import GridProgress, GridState
from mixbench.records.record import Record, read_record

MAX_TIMEOUTS = 1000  # time limits that one run may use up
TASKS_FILE = "tasks.json"
SLURM = "--launcher slurm"


@dataclass
class _QueuedRun:
    """A run in the queue."""

    run: PlannedRun
    job: str  # as squeue names it: 12_3
    state: str = ""
    gone: float | None = None  # when it was first missing from the queue


class SlurmLauncher:
    """Prepares runs here and carries them out on the nodes of a cluster.

    Args:
        print_line: Prints a line.
        strict: Refuse keys that have no effect.
        options: As of :func:`mixbench.launch.slurm_options.read_options`.
        wait: Wait for the runs; else return after submitting them.
        show: Shows the state of a grid at work; None where nobody looks.
        tell: How a run that is done is told, from its record and the seconds that it took.

    Raises:
        UserError: If submitit or SLURM is missing.
    """

    poll_s = 10.0  # between two looks at the queue
    patience_s = 60.0  # for a result to show up after its task has left the queue
    cluster = "slurm"  # submitit's name for it

    def __init__(
        self,
        print_line: Callable[[str], None],
        *,
        strict: bool = False,
        options: dict[str, Any] | None = None,
        wait: bool = True,
        show: Callable[[GridState], None] | None = None,
        tell: Callable[[Record, float | None], str] | None = None,
    ) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise UserError(
                "the SLURM launcher needs submitit",
                SLURM,
                "make bench EXTRAS=cluster ..., or pip install 'mixbench[cluster]'",
            ) from error
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise UserError(
                "SLURM is not found: sbatch is not on the PATH",
                SLURM,
                "start it on a login node, or use --launcher local",
            )
        set_safe_path()
        self.print_line, self.strict, self.wait, self.show = print_line, strict, wait, show
        self.options, self.tell = options or {}, tell or result_text

    def prepare(self, runs: list[PlannedRun]) -> list[PlannedRun]:
        """Name the runs and find out which are done.

        The data are read, and fetched where need be, as nodes often have no network. Times are
        not estimated: this machine is not the one that trains.

        Args:
            runs: Planned runs.

        Returns:
            The same, filled in.

        Raises:
            UserError: If a method's own key is unknown or out of range, a method that was named
                cannot train the network or the data, or data is missing.
        """
        # In a process of its own, as this one does not import torch.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                prepared, notes = pool.submit(identify_runs, runs, strict=self.strict).result()
            except BrokenProcessPool as error:
                raise MixbenchError("the planning process ended without a result") from error
        for note in notes:
            self.print_line(f"warning: {note}")
        return prepared

    def duration(self, runs: list[PlannedRun]) -> float:
        """Not known, as this machine is not the one that trains."""
        return 0.0

    def measure(
        self, runs: list[PlannedRun], copies: int, gpus: int = 0, logs: Path | None = None
    ) -> list[list[PlannedRun]]:
        """Estimate the time of runs on the nodes, several times beside each other.

        Args:
            runs: Planned runs.
            copies: Tasks of the array, each of which estimates all of them.
            gpus: Not used: a task gets what its runs use.
            logs: Folder of all runs.

        Returns:
            The runs of each task, filled in; without those that cannot be trained.

        Raises:
            UserError: If the job is refused, or as :meth:`prepare`.
            MixbenchError: If a task leaves no result.
        """
        del gpus
        place = (logs or Path()).absolute() / "slurm"
        self.print_line("planning: the nodes read the data and time a few steps of each method")
        ids = self._submit(runs, place, SlurmTiming(self.strict), [runs] * copies)
        try:
            answers = [self._answer(place, job) for job in ids]
        except KeyboardInterrupt:
            self.print_line(f"interrupted; this ends the job: scancel {_jobs(ids)}")
            raise
        for note in dict.fromkeys(note for _, notes in answers for note in notes):
            self.print_line(f"warning: {note}")
        return [kept for kept, _ in answers]

    def _answer(self, logs: Path, job: str) -> Any:
        """Wait for what a task returns."""
        gone: float | None = None
        while (result := _read_result(logs, job)) is None:
            queue = self.queue()
            if queue is None or job in queue:
                gone = None
            elif gone is None:
                gone = time.monotonic()
            elif time.monotonic() - gone > self.patience_s:
                raise MixbenchError(
                    f"job {job} has left the queue without a result",
                    str(logs / f"{job}_0_log.out"),
                    "see its log, and give the same command again",
                )
            time.sleep(self.poll_s)
        code, answer = result
        if code:
            raise UserError(f"the time of runs cannot be known: {answer}", SLURM)
        return answer

    def launch(self, runs: list[PlannedRun], folder: Path) -> GridOutcome:
        """Submit the runs that are not done and not in the queue already, and wait for all.

        Args:
            runs: Prepared runs.
            folder: Folder of all runs; the nodes must see it under the same path.

        Returns:
            What failed. Ctrl-C ends the waiting only.

        Raises:
            UserError: If the jobs are refused.
        """
        logs = folder.absolute() / "slurm"
        if logs.is_symlink():
            raise UserError("the folder of the jobs is a link", str(logs), "remove it")
        known = _read_tasks(logs)
        queue = self.queue() or {}
        left = [run for run in runs if not run.done]
        waiting = [_QueuedRun(run, known[run.id]) for run in left if known.get(run.id) in queue]
        if waiting:
            ids = [task.job for task in waiting]
            self.print_line(f"{len(waiting)} in the queue already: {_jobs(ids)}")
        fresh = [run for run in left if known.get(run.id) not in queue]
        if fresh:
            ids = self._submit(
                fresh, logs, SlurmTask(), [[*run.words, *run.settled] for run in fresh]
            )
            waiting += [_QueuedRun(run, job) for run, job in zip(fresh, ids, strict=True)]
            jobs = {run: job for run, job in known.items() if job in queue}
            jobs |= {task.run.id: task.job for task in waiting}
            write_text(logs / TASKS_FILE, json.dumps(jobs, indent=1) + "\n")
        outcome = GridOutcome({})
        if not waiting:
            return outcome
        if not self.wait:
            self.print_line(
                f"see them with: squeue --me; their table with: mixbench leaderboard {folder}"
            )
            return outcome
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        try:
            self._wait(waiting, GridProgress(runs, folder), outcome)
        except KeyboardInterrupt:
            outcome.interrupted = True
            self.print_line(
                "interrupted: the jobs go on; the same command waits for them again, "
                f"and this ends them: scancel {_jobs([task.job for task in waiting])}"
            )
        return outcome

    def queue(self) -> dict[str, str] | None:
        """Jobs of this user in the queue.

        Returns:
            Job id (``12_3`` in an array) to state; None if SLURM does not answer now.
        """
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
        try:
            shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return None
        if shown.returncode:
            return None
        return dict(line.split(maxsplit=1) for line in shown.stdout.splitlines() if " " in line)

    def _submit(
        self, runs: list[PlannedRun], logs: Path, task: Callable[[Any], Any], values: list[Any]
    ) -> list[str]:
        """Submit an array that calls a task with each of some values, with what runs need."""
        import submitit
        from submitit.core.utils import FailedJobError

        parameters = submitit_parameters(self.options, runs)
        executor = submitit.AutoExecutor(
            logs,
            cluster=self.cluster,
            slurm_max_num_timeout=MAX_TIMEOUTS,
            slurm_python=f"exec {shlex.quote(sys.executable)}",
        )
        try:
            executor.update_parameters(**parameters)
            jobs = executor.map_array(task, values)
        except FailedJobError as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"SLURM refuses the job: {reason}", SLURM, "sinfo lists partitions and their limits"
            ) from error
        ids = [job.job_id for job in jobs]
        self.print_line(
            f"SLURM job {_jobs(ids)}, tasks: {len(ids)}, each with "
            f"{parameters['cpus_per_task']} CPU, {parameters.get('gpus_per_node', 0)} GPU, "
            f"{parameters['timeout_min']} min at a time; logs: {logs}"
        )
        return ids

    def _wait(self, waiting: list[_QueuedRun], grid: GridProgress, outcome: GridOutcome) -> None:
        while True:
            queue = self.queue()
            for task in list(waiting):
                code, message = self._look(task, queue, grid)
                if code is None:
                    continue
                waiting.remove(task)
                grid.end(task.run, failed=code != 0)
                if code:
                    outcome.failures[task.run.id] = code
                else:
                    message = self._result(grid.folder / task.run.id)
                self.print_line(f"{grid.place(task.run)}: {message}")
            if not waiting:
                return
            if self.show is not None:
                self.show(grid.state())
            time.sleep(self.poll_s)

    def _result(self, folder: Path) -> str:
        try:
            return self.tell(read_record(folder), None)
        except UserError as error:
            return f"done, and {error.what}"

    def _look(
        self, task: _QueuedRun, queue: dict[str, str] | None, grid: GridProgress
    ) -> tuple[int | None, str]:
        """Exit code and message of a task that has ended; no code for one that has not."""
        folder = grid.folder
        result = _read_result(folder.absolute() / "slurm", task.job)
        if result is not None:
            return result
        if queue is None:
            return None, ""
        state = queue.get(task.job)
        if state is not None:
            if (task.state, state) == ("RUNNING", "PENDING"):
                grid.leave(task.run)
                self.print_line(f"{grid.place(task.run)}: back in the queue")
            if (task.state, state) != ("RUNNING", "RUNNING") and state == "RUNNING":
                grid.start(task.run)
            if state in ("RUNNING", "PENDING"):
                task.state = state
            task.gone = None
            return None, ""
        if task.gone is None:
            task.gone = time.monotonic()
        if time.monotonic() - task.gone < self.patience_s:
            return None, ""
        with suppress(UserError):
            if read_record(folder / task.run.id).status == "done":
                return 0, ""
        log = folder / "slurm" / f"{task.job}_0_log.out"
        return 3, f"job {task.job} has left the queue without a result; see {log}"


def _read_tasks(logs: Path) -> dict[str, str]:
    """Jobs of earlier submissions, by run."""
    try:
        content = json.loads((logs / TASKS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_result(logs: Path, job: str) -> tuple[int, Any] | None:
    from submitit.core.utils import JobPaths, pickle_load

    os.listdir(logs)  # has a network file system look again
    try:
        kind, value = pickle_load(JobPaths(logs, job, 0).result_pickle)
    except FileNotFoundError:
        return None
    if kind == "success":
        return value
    lines = [line for line in str(value).splitlines() if line.strip()]
    return 3, lines[-1] if lines else "failed without a message"


def _jobs(ids: Iterable[str]) -> str:
    """Jobs that tasks belong to."""
    return " ".join(sorted({job.partition("_")[0] for job in ids}))
