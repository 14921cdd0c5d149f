"""The runs of a race, as the launcher carries them out."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mixbench.errors import InterruptedRunError, RunFailedError, UserError
from mixbench.launch.local import LocalLauncher
from mixbench.launch.plan import PlannedRun
from mixbench.launch.slurm import SlurmLauncher
from mixbench.race.scores import fold_score, image_scores
from mixbench.race.state import FIRST_SEED, RaceState
from mixbench.race.view import view_words
from mixbench.records.checkpoints import LAST
from mixbench.records.predictions import PREDICTIONS
from mixbench.records.record import read_record

SELECTION = "selection"  # folder of the runs that choose, in that of the race
TRIES = 2  # of a run that crashes
TIMING_SEED = 999_999_937  # of runs that are timed and never carried out


class RaceRuns:
    """Carries out the runs of a race, each in a process of its own.

    Runs that choose lie below the race's own folder, where no leaderboard looks; those that
    confirm lie with all others.

    Args:
        state: The race.
        launcher: Carries out runs; it must tell no score.
        folder: Folder of all runs.
        view: Overrides that show runs in W&B; none where there is no view.
    """

    def __init__(
        self,
        state: RaceState,
        launcher: LocalLauncher | SlurmLauncher,
        folder: Path,
        view: Sequence[str] = (),
    ) -> None:
        self.state, self.launcher, self.folder = state, launcher, folder
        self.view = list(view)

    def select(self, runs: Sequence[tuple[str, int]]) -> list[tuple[str, float | None]]:
        """Train on all folds but one, and score the last epoch on that one."""
        folder = self.folder / self.state.id / SELECTION
        planned = [self._planned(name, block, folder, fold=True) for name, block in runs]
        done = self._carry_out(planned, folder)
        found: list[tuple[str, float | None]] = []
        for run in done:
            score = None
            if _status(folder / run.id) == "done":
                score = fold_score(folder / run.id / PREDICTIONS, self.state.score)
                (folder / run.id / LAST).unlink(missing_ok=True)  # nobody goes on from it
            found.append((run.id, score))
        return found

    def first_seed(self, names: Sequence[str]) -> int:
        """A seed of confirmation from which on no run of these methods lies in the folder."""
        planned = [self._planned(name, FIRST_SEED, self.folder) for name in names]
        used = [FIRST_SEED - 1]
        for run in self.launcher.prepare(planned):
            stem = run.id.removesuffix(str(FIRST_SEED))
            for path in self.folder.glob(f"{stem}*"):
                seed = path.name.removeprefix(stem)
                used += [int(seed)] if re.fullmatch(r"\d{1,18}", seed) else []
        return max(used) + 1

    def confirm(self, runs: Sequence[tuple[str, int]]) -> list[tuple[str, bool]]:
        """Train on the whole training set, without a word on the test score."""
        planned = [self._planned(name, seed, self.folder) for name, seed in runs]
        done = self._carry_out(planned, self.folder)
        return [(run.id, _status(self.folder / run.id) == "done") for run in done]

    def units(self, name: str, seeds: Sequence[int]) -> np.ndarray:
        """Read what a method's runs of confirmation score on each test image."""
        look = self.state.looks[-1]
        runs = look.runs[name][: len(seeds)]
        paths = [self.folder / run / PREDICTIONS for run in runs]
        return np.stack([image_scores(path, self.state.score) for path in paths])

    def _planned(self, name: str, seed: int, folder: Path, *, fold: bool = False) -> PlannedRun:
        words = run_words(self.state.arm_words[name], folder, seed)
        if fold:
            words += fold_words(seed % self.state.folds, self.state.folds)
        words += view_words(self.state, self.view, tested=not fold)
        return PlannedRun(words, seconds=self.state.costs[name] * self.state.plain_s)

    def _carry_out(self, planned: list[PlannedRun], folder: Path) -> list[PlannedRun]:
        """The runs with their ids, once each is done or has diverged."""
        prepared = self.launcher.prepare(planned)
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(TRIES):
            left = [run for run in prepared if _status(folder / run.id) not in ("done", "diverged")]
            if not left:
                return prepared
            if self.launcher.launch(left, folder).interrupted:
                raise InterruptedRunError(
                    "the race was interrupted",
                    str(self.folder / self.state.id),
                    "give the same command again to go on with it",
                )
        left = [run for run in prepared if _status(folder / run.id) not in ("done", "diverged")]
        if left:
            raise RunFailedError(
                f"{len(left)} of {len(prepared)} runs failed twice, as {left[0].id}",
                str(folder / left[0].id / "log.txt"),
                "mend what the log says, and give the same command again to go on with the race",
            )
        return prepared


def run_words(own: list[str], folder: Path, seed: int) -> list[str]:
    """Overrides of a run of a race.

    Args:
        own: Those of its method.
        folder: Where the run shall lie.
        seed: Its seed.
    """
    return [*own, f"run.dir={json.dumps(str(folder.absolute()))}", f"seed={seed}"]


def fold_words(number: int, count: int) -> list[str]:
    """Overrides of a run that holds a fold out, and is judged by nothing else."""
    return [f"data.race_fold={number}/{count}", "eval.suites=[]"]


def race_id(data: str, net: str, recipe_hash: str, arm_words: dict[str, list[str]]) -> str:
    """Name of a race: the same for the same data, network, recipe and methods.

    Args:
        data: Shown name of the data.
        net: Name of the network.
        recipe_hash: Of data, network and recipe.
        arm_words: Overrides of each method that was asked for.
    """
    text = json.dumps([recipe_hash, arm_words], sort_keys=True)
    words = [re.sub(r"[^A-Za-z0-9_.]+", "_", word).strip("._")[:60] or "x" for word in (data, net)]
    return "-".join(["race", *words, hashlib.sha256(text.encode()).hexdigest()[:8]])


def _status(folder: Path) -> str:
    """How a run ended; empty where there is none that can be read."""
    try:
        return read_record(folder).status
    except UserError:
        return ""
