"""The state of a grid at work: which runs go on, where each is, and the time that is left."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixbench.launch.machine import Machine
from mixbench.launch.plan import PlannedRun
from mixbench.records.progress import Progress, ProgressWatch

SCHEDULE_S = 5.0  # seconds between two schedules of what is left


@dataclass(frozen=True)
class ActiveRun:
    """A run at work.

    Attributes:
        number: Its place in the plan, from 1.
        id: Its id.
        progress: Its place; None while it starts.
        left_s: Seconds until it is done; None where nobody knows.
        elsewhere: Whether another process is at work on it.
    """

    number: int
    id: str
    progress: Progress | None = None
    left_s: float | None = None
    elsewhere: bool = False


@dataclass(frozen=True)
class GridState:
    """A grid at work.

    Attributes:
        total: Runs of the plan.
        done: Runs that are done.
        failed: Runs that ended otherwise.
        active: Runs at work.
        left_s: Seconds until the last run is done; None where nobody knows.
        stopping: Whether runs are waited for that were told to stop.
    """

    total: int
    done: int
    failed: int = 0
    active: tuple[ActiveRun, ...] = ()
    left_s: float | None = None
    stopping: bool = False


class _Follower:
    """A run at work, and the seconds that it takes in all by its estimate and by its own pace."""

    def __init__(self, run: PlannedRun, number: int, folder: Path, elsewhere: bool) -> None:
        self.run, self.number, self.elsewhere = run, number, elsewhere
        self.watch = ProgressWatch(folder / run.id, running=elsewhere)
        self.started = time.monotonic()
        self._trained: float | None = None  # when training was found to be over

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def look(self) -> ActiveRun:
        progress = self.watch.look()
        left = self._left(progress)
        return ActiveRun(self.number, self.run.id, progress, left, self.elsewhere)

    def _left(self, progress: Progress | None) -> float | None:
        if progress is not None and progress.phase != "training":
            self._trained = self._trained or time.monotonic()
            return max(0.0, self.run.after_s - (time.monotonic() - self._trained))
        if progress is not None and progress.left_s is not None:
            return progress.left_s + self.run.after_s
        if self.run.seconds is None or self.elsewhere:
            return None
        return max(0.0, self.run.seconds - self.elapsed)


class GridProgress:
    """Follows the runs of a grid.

    Estimates of runs that wait are corrected by how long the others take.

    Args:
        runs: All runs of the plan.
        folder: Folder of all runs.
        machine: The places for runs; None where they are not known, and no time is told for all.
    """

    def __init__(
        self, runs: Sequence[PlannedRun], folder: Path, machine: Machine | None = None
    ) -> None:
        self.folder, self.machine, self.total = folder, machine, len(runs)
        self.done, self.failed = sum(run.done for run in runs), 0
        self._numbers = {id(run): number for number, run in enumerate(runs, 1)}
        self._active: dict[int, _Follower] = {}
        self._took: list[tuple[float, float]] = []  # seconds and their estimate, of ended runs
        self._ends = 0.0  # when the last run is done, by the last schedule
        self._scheduled: float | None = None

    def place(self, run: PlannedRun) -> str:
        """The place of a run in the plan and its id, which begin a line about it."""
        return f"[{self._numbers[id(run)]}/{self.total}] {run.id}"

    def start(self, run: PlannedRun, *, elsewhere: bool = False) -> None:
        """Follow a run.

        Args:
            run: One that starts.
            elsewhere: Another process is at work on it.
        """
        number = self._numbers[id(run)]
        self._active[id(run)] = _Follower(run, number, self.folder, elsewhere)
        self._scheduled = None

    def leave(self, run: PlannedRun) -> None:
        """No longer follow a run that is still to be carried out.

        Args:
            run: One that was followed.
        """
        self._active.pop(id(run), None)
        self._scheduled = None

    def end(self, run: PlannedRun, *, failed: bool) -> float | None:
        """Count a run that has ended.

        Args:
            run: One that was followed.
            failed: Whether it is not done.

        Returns:
            Seconds since :meth:`start`; None if the run was not followed.
        """
        follower = self._active.get(id(run))
        seconds = None if follower is None else follower.elapsed
        if follower is not None and run.seconds and not failed and not follower.elsewhere:
            self._took.append((follower.elapsed, run.seconds))
        self.leave(run)
        self.failed += failed
        self.done += not failed
        return seconds

    def state(self, waiting: Sequence[PlannedRun] = (), *, stopping: bool = False) -> GridState:
        """The state of now.

        Args:
            waiting: Runs that have not started, in the order in which they will.
            stopping: Whether the active runs were told to stop.

        Returns:
            The state.
        """
        followers = list(self._active.values())
        active = tuple(follower.look() for follower in followers)
        left = None if stopping else self._left(followers, active, waiting)
        return GridState(self.total, self.done, self.failed, active, left, stopping)

    def _left(
        self,
        followers: Sequence[_Follower],
        active: Sequence[ActiveRun],
        waiting: Sequence[PlannedRun],
    ) -> float | None:
        """Seconds until the last run is done; a schedule of thousands of runs has its price."""
        now = time.monotonic()
        if self._scheduled is None or now - self._scheduled > SCHEDULE_S:
            seconds = self._schedule(followers, active, waiting)
            if seconds is None:
                return None
            self._ends, self._scheduled = now + seconds, now
        return max(0.0, self._ends - now)

    def _schedule(
        self,
        followers: Sequence[_Follower],
        active: Sequence[ActiveRun],
        waiting: Sequence[PlannedRun],
    ) -> float | None:
        unknown = any(run.seconds is None for run in waiting)
        if self.machine is None or unknown or any(each.left_s is None for each in active):
            return None
        pairs = list(zip(followers, active, strict=True))
        own = [(each.run, found.left_s or 0.0) for each, found in pairs if not each.elsewhere]
        others = [found.left_s or 0.0 for each, found in pairs if each.elsewhere]
        pace = self._pace(pairs)
        rest = [dataclasses.replace(run, seconds=pace * (run.seconds or 0.0)) for run in waiting]
        return max(self.machine.duration(rest, own), *others, 0.0)

    def _pace(self, pairs: Sequence[tuple[_Follower, ActiveRun]]) -> float:
        """Time that runs take relative to their estimates; 1 where none has come far enough."""
        took = list(self._took)
        for follower, found in pairs:
            timed = found.progress is not None and found.progress.left_s is not None
            if timed and follower.run.seconds and not follower.elsewhere:
                took.append((follower.elapsed + (found.left_s or 0.0), follower.run.seconds))
        return sum(real for real, _ in took) / sum(guess for _, guess in took) if took else 1.0
