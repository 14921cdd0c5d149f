"""The places that a machine has for runs at a time: cores on the CPU, or GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mixbench.launch.plan import PlannedRun


@dataclass
class Machine:
    """Cores and GPUs, and which of them are free.

    A run on the CPU takes the cores of all its processes, one on GPUs the GPUs themselves. Runs
    start in the order in which they are given; those of the other kind may overtake one that has to
    wait.

    Attributes:
        cores: Cores of this machine that may be used.
        gpus: Number of GPUs.
        jobs: Most runs at a time; None for as many as have a place.
        active: Runs that have one now.
    """

    cores: int = 1
    gpus: int = 0
    jobs: int | None = None
    active: int = field(default=0, init=False)
    free_cores: int = field(init=False)
    free_gpus: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.free_cores, self.free_gpus = self.cores, list(range(self.gpus))

    def required(self, run: PlannedRun) -> int:
        """Cores or GPUs of a run; one that wants more than there are has the machine to itself."""
        return min(run.gpus, self.gpus) if run.gpus else min(run.cores, self.cores)

    def fits(self, run: PlannedRun) -> bool:
        """Tell whether a run may start now."""
        if self.jobs is not None and self.active >= self.jobs:
            return False
        return self.required(run) <= (len(self.free_gpus) if run.gpus else self.free_cores)

    def reserve(self, run: PlannedRun) -> list[int]:
        """Give a run its place.

        Args:
            run: A run that fits.

        Returns:
            Numbers of its GPUs; none of one on the CPU, which shall see none.
        """
        self.active += 1
        if not run.gpus:
            self.free_cores -= self.required(run)
            return []
        taken, self.free_gpus = (
            self.free_gpus[: self.required(run)],
            self.free_gpus[self.required(run) :],
        )
        return taken

    def release(self, run: PlannedRun, gpus: Sequence[int]) -> None:
        """Take back the place of a run that has ended.

        Args:
            run: The run.
            gpus: As :meth:`reserve` returned them.
        """
        self.active -= 1
        self.free_gpus = sorted([*self.free_gpus, *gpus])
        self.free_cores += 0 if run.gpus else self.required(run)

    def next_run(self, waiting: Sequence[PlannedRun]) -> PlannedRun | None:
        """The run that starts next.

        Args:
            waiting: Runs in the order in which they are to start.

        Returns:
            The first of either kind that fits; None while all have to wait.
        """
        firsts: dict[bool, PlannedRun] = {}
        for run in waiting:
            firsts.setdefault(run.gpus > 0, run)
        return next((run for run in firsts.values() if self.fits(run)), None)

    def is_shared(self, run: PlannedRun, others: Sequence[PlannedRun]) -> bool:
        """Tell whether other runs can be at work beside one on the CPU, which slows it down.

        Args:
            run: The run.
            others: All runs of the grid that are carried out.

        Returns:
            True if one of them fits beside it.
        """
        if run.gpus or self.jobs == 1:
            return False
        rest = self.cores - self.required(run)
        return any(
            other.gpus or self.required(other) <= rest for other in others if other is not run
        )

    def duration(
        self, runs: Sequence[PlannedRun], active: Sequence[tuple[PlannedRun, float]] = ()
    ) -> float:
        """Seconds that runs take.

        Args:
            runs: Those that wait, in the order in which they are to start, with estimates of their
                time.
            active: Those that have their place already, with the seconds that each still takes.

        Returns:
            Time until the last one ends.
        """
        machine, waiting, now = Machine(self.cores, self.gpus, self.jobs), list(runs), 0.0
        ends = [(seconds, run, machine.reserve(run)) for run, seconds in active]
        while waiting or ends:
            while (run := machine.next_run(waiting)) is not None:
                waiting.remove(run)
                ends.append((now + (run.seconds or 0.0), run, machine.reserve(run)))
            first = min(ends, key=lambda item: item[0])
            ends.remove(first)
            now = first[0]
            machine.release(first[1], first[2])
        return now


def starting_order(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Runs in the order in which they start: seed by seed as planned, the longest of each first.

    A long run that starts last would keep one place busy while all others are idle.

    Args:
        runs: Runs in the order of the plan, with estimates of their time.

    Returns:
        The same runs.
    """
    rounds: dict[tuple[str, ...], int] = {}
    for run in runs:
        rounds.setdefault(_round(run), len(rounds))
    return sorted(runs, key=lambda run: (rounds[_round(run)], -(run.seconds or 0.0)))


def _round(run: PlannedRun) -> tuple[str, ...]:
    """What runs share that are compared with each other: their seed, and their fold if any."""
    return tuple(word for word in run.words if word.startswith(("seed=", "data.fold=")))
