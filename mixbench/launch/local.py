"""Runs of a grid on this machine, each in a process of its own.

The processes are children of one fork server that has imported torch and Lightning and computed
nothing, so that start-up is paid once; this process itself never imports them.
"""

import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from mixbench.distributed.signals import reader_gone, stop_when_orphaned
from mixbench.distributed.spawn import set_safe_path
from mixbench.errors import MixbenchError, RunFailedError, UserError, explain, time_text
from mixbench.files import open_log
from mixbench.launch.identify import identify_runs
from mixbench.launch.machine import Machine, starting_order
from mixbench.launch.plan import PlannedRun
from mixbench.launch.state import GridProgress, GridState
from mixbench.leaderboard.headline import score_texts
from mixbench.records.lock import BusyRunError, LockWatch
from mixbench.records.record import Record, read_record
from mixbench.tracking.run import MODULES, set_wandb_defaults

Environment = tuple[dict[str, str], str]  # environment and working directory

# Modules of every run, and some that most runs import once they have started; those of W&B take
# longer where torch is there already.
PRELOADED = [*MODULES, "mixbench.training.run", "sklearn.model_selection"]
# Seconds for children after Ctrl-C: by themselves, once told again, and once killed.
OWN_S, GRACE_S, KILLED_S = 3.0, 90.0, 10.0
BUSY = -1  # code of a run that another process is at work on
LOCK_POLL_S = 1.0  # seconds between looks whether it still is
SHOW_S = 0.5  # seconds between states that are shown


@dataclass
class GridOutcome:
    """Exit codes by run id, of the runs of a grid that failed."""

    failures: dict[str, int]
    interrupted: bool = False

    def exit_code(self, total: int) -> int:
        """Exit code of the whole grid of ``total`` runs."""
        if self.interrupted:
            return 4
        codes = set(self.failures.values())
        if not codes:
            return 0
        return codes.pop() if len(self.failures) == total and len(codes) == 1 else 5


class LocalLauncher:
    """Prepares and carries out runs in forked processes.

    Args:
        print_line: Prints a line.
        strict: Refuse keys that have no effect.
        jobs: Most runs at a time; None for as many as the machine has places for.
        show: Shows the state of a grid at work; None where nobody looks.
        tell: How a run that is done is told, from its record and the seconds that it took.
    """

    def __init__(
        self,
        print_line: Callable[[str], None],
        *,
        strict: bool = False,
        jobs: int | None = None,
        show: Callable[[GridState], None] | None = None,
        tell: Callable[[Record, float | None], str] | None = None,
    ) -> None:
        self.print_line, self.strict, self.jobs, self.show = print_line, strict, jobs, show
        self.tell = tell or result_text
        self.context = multiprocessing.get_context("forkserver")
        set_wandb_defaults()  # read when it is imported
        self.context.set_forkserver_preload(PRELOADED)
        set_safe_path()
        self.machine = Machine(jobs=jobs)

    def prepare(self, runs: list[PlannedRun]) -> list[PlannedRun]:
        """Name the runs, find out which are done, and estimate the others' time.

        Args:
            runs: Planned runs.

        Returns:
            The same, filled in.

        Raises:
            UserError: If a method's own key is unknown or out of range, a method that was named
                cannot train the network or the data, or data is missing.
        """
        if any(run.seconds is None for run in runs):
            self.print_line("planning: reading the data and timing a few steps of each method")
        prepared, notes, self.machine = self.ask(_prepare, runs, self.strict)
        self.machine.jobs = self.jobs
        for note in notes:
            self.print_line(f"warning: {note}")
        return prepared

    def measure(
        self, runs: list[PlannedRun], copies: int, gpus: int = 0, logs: Path | None = None
    ) -> list[list[PlannedRun]]:
        """Estimate the time of runs several times beside each other, as they will be carried out.

        Args:
            runs: Planned runs.
            copies: Processes, each of which estimates all of them.
            gpus: GPUs of this machine that each process has for itself.
            logs: Not used: what goes wrong is told.

        Returns:
            The runs of each process, filled in; without those that cannot be trained.

        Raises:
            UserError: As :meth:`prepare`.
        """
        del logs
        self.print_line("planning: reading the data and timing a few steps of each method")

        def once(copy: int) -> list[PlannedRun]:
            own = range(copy * gpus, (copy + 1) * gpus) if gpus else None
            kept, notes, _ = self.ask(_prepare, runs, self.strict, gpus=own)
            told.update(dict.fromkeys(notes))
            return kept

        told: dict[str, None] = {}
        with ThreadPoolExecutor(copies) as pool:
            found = list(pool.map(once, range(copies)))
        for note in told:
            self.print_line(f"warning: {note}")
        return found

    def ask(
        self, function: Callable[..., Any], *values: Any, gpus: Sequence[int] | None = None
    ) -> Any:
        """The answer of a function in a process of its own, which may import torch.

        Args:
            function: One that has a name in its module.
            *values: Its arguments.
            gpus: The only GPUs that it sees; None for all.

        Returns:
            What it returns.

        Raises:
            MixbenchError: If it fails.
        """
        reader, writer = self.context.Pipe(duplex=False)
        process = self.context.Process(
            target=_answer_child, args=(_environment(), function, values, gpus, writer)
        )
        process.start()
        writer.close()
        try:
            answer = reader.recv()
        except EOFError:
            answer = MixbenchError("the planning process ended without a result")
        process.join()
        if isinstance(answer, MixbenchError):
            raise answer
        return answer

    def launch(self, runs: list[PlannedRun], folder: Path) -> GridOutcome:
        """Carry out the runs that are not done, as many at a time as the machine allows.

        Those that another process is at work on are waited for.

        Args:
            runs: Prepared runs.
            folder: Folder of all runs.

        Returns:
            What failed.
        """
        left = [run for run in runs if not run.done]
        waiting, machine = starting_order(left), self.machine
        grid = GridProgress(runs, folder, machine)
        active: dict[Connection, tuple[PlannedRun, Any, list[int]]] = {}
        outcome = GridOutcome({})
        elsewhere: list[tuple[PlannedRun, LockWatch]] = []
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no orphans
        try:
            while waiting or active or elsewhere:
                while (run := machine.next_run(waiting)) is not None:
                    waiting.remove(run)
                    gpus = machine.reserve(run)
                    grid.start(run)
                    reader, process = self._start(run, folder, machine.is_shared(run, left), gpus)
                    active[reader] = run, process, gpus
                assert active or elsewhere  # an empty machine has a place for any run
                if self.show is not None:
                    self.show(grid.state(waiting))
                for ready in wait(list(active), self._patience(bool(elsewhere))):
                    assert isinstance(ready, Connection)
                    run, process, gpus = active.pop(ready)
                    machine.release(run, gpus)
                    code, message = _receive(ready)
                    process.join()
                    if code == BUSY:
                        elsewhere.append((run, LockWatch(folder / run.id)))
                        grid.start(run, elsewhere=True)
                        self.print_line(f"{grid.place(run)}: {message}; waiting for it")
                        continue
                    seconds = grid.end(run, failed=code != 0)
                    if code:
                        outcome.failures[run.id] = code
                    else:
                        message = self.tell(read_record(folder / run.id), seconds)
                    self.print_line(f"{grid.place(run)}: {message}")
                for run, watch in [*elsewhere]:
                    watch.changes()
                    if watch.gone:
                        elsewhere.remove((run, watch))
                        waiting += [run] * self._is_left(run, folder, grid, outcome)
        except KeyboardInterrupt:
            outcome.interrupted = True
            self.print_line("interrupted: waiting for the running processes to stop")
            if self.show is not None:
                self.show(grid.state(stopping=True))
            _stop([process for _, process, _ in active.values()])
        return outcome

    def duration(self, runs: list[PlannedRun]) -> float:
        """Seconds that runs take by their estimates, as many at a time as the machine allows."""
        return self.machine.duration(starting_order(runs))

    def _start(
        self, run: PlannedRun, folder: Path, shared: bool, gpus: list[int]
    ) -> tuple[Connection, Any]:
        reader, writer = self.context.Pipe(duplex=False)
        log = folder / run.id / "log.txt"
        process = self.context.Process(
            target=_run_child, args=(_environment(), run.words, log, shared, gpus, writer)
        )
        process.start()
        writer.close()
        return reader, process

    def _patience(self, elsewhere: bool) -> float | None:
        """Seconds to wait for the end of a run before something else is to be looked at."""
        if self.show is not None:
            return SHOW_S
        return LOCK_POLL_S if elsewhere else None

    def _is_left(
        self, run: PlannedRun, folder: Path, grid: GridProgress, outcome: GridOutcome
    ) -> bool:
        """Tell whether a run that another process was at work on is still to be carried out."""
        place = grid.place(run)
        try:
            record = read_record(folder / run.id)
        except UserError:
            grid.leave(run)
            return True
        if record.status == "done":
            grid.end(run, failed=False)
            self.print_line(f"{place}: {self.tell(record, None)}, by another process")
            return False
        if record.status in ("failed", "diverged"):
            grid.end(run, failed=True)
            outcome.failures[run.id] = RunFailedError.exit_code
            self.print_line(f"{place}: {record.status} in another process: {record.message}")
            return False
        grid.leave(run)
        self.print_line(f"{place}: the other process is gone, going on with it")
        return True


def _stop(processes: list[Any]) -> None:
    """End children: a terminal has sent them Ctrl-C too, another sender may not have.

    They are told by SIGTERM, as a second Ctrl-C would keep them from saving.
    """
    steps = ((OWN_S, signal.SIGTERM), (GRACE_S, signal.SIGKILL), (KILLED_S, signal.SIGKILL))
    for patience, number in steps:
        deadline = time.monotonic() + patience
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)
    for process in processes:
        process.join()


def _receive(reader: Connection) -> tuple[int, str]:
    try:
        return reader.recv()
    except EOFError:
        return 3, "its process was killed; the log in its folder may say why"


def result_text(record: Record, seconds: float | None = None) -> str:
    """How a run ended: its status, its time, and the score that it is ranked by.

    Args:
        record: Its record.
        seconds: From the start of its process to the end, if known; the record's own time begins
            when the process has imported everything, and ends before the results are saved.

    Returns:
        A few words.
    """
    scores = list(score_texts(record.metrics))[:1]
    took = time_text(record.wall_s if seconds is None else seconds)
    return ", ".join([f"{record.status} in {took}", *scores])


def _environment() -> Environment:
    return dict(os.environ), os.getcwd()


def _enter(surroundings: Environment) -> None:
    """Stand where the parent stands now; the fork server stays where it was started."""
    environment, folder = surroundings
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)


def _answer_child(
    surroundings: Environment,
    function: Callable[..., Any],
    values: tuple[Any, ...],
    gpus: Sequence[int] | None,
    answer: Connection,
) -> None:
    stop_when_orphaned(reader_gone(answer.fileno()))
    try:
        _enter(surroundings)
        if gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = _visible(gpus)
        answer.send(function(*values))
    except BaseException as error:
        failure = explain(error)
        if type(failure) is MixbenchError:  # of a kind that nobody foresaw
            traceback.print_exc()
        answer.send(failure)


def _prepare(runs: list[PlannedRun], strict: bool) -> tuple[list[PlannedRun], list[str], Machine]:
    import torch

    kept, notes = identify_runs(runs, strict=strict, timed=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return kept, notes, Machine(cores or 1, torch.cuda.device_count())


def _run_child(
    surroundings: Environment,
    words: list[str],
    log: Path,
    shared: bool,
    gpus: list[int],
    answer: Connection,
) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the run has its own handler
    stop_when_orphaned(reader_gone(answer.fileno()))
    gc.freeze()  # or a look for garbage would go through all that the fork server has imported
    try:
        _enter(surroundings)
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(gpus)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open_log(log) as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
        from mixbench.config.compose import compose
        from mixbench.training.run import run

        run(compose(words), shared_cores=shared)
        answer.send((0, ""))
    except BusyRunError as error:
        answer.send((BUSY, error.what))
    except KeyboardInterrupt:
        answer.send((4, "interrupted"))
    except BaseException as error:
        failure = explain(error)
        if type(failure) is MixbenchError:
            traceback.print_exc()
        answer.send((failure.exit_code, str(failure)))


def _visible(gpus: Sequence[int]) -> str:
    """GPUs as the parent would number them, when it was itself given only some."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = listed.split(",") if listed else []
    return ",".join(names[number].strip() if names else str(number) for number in gpus)
