"""Tasks of submitit, which pickles them here and calls them on a node."""

import os
import sys
import traceback
from typing import Any

from mixbench.errors import InterruptedRunError, MixbenchError, explain
from mixbench.launch.identify import identify_runs
from mixbench.launch.plan import PlannedRun


class SlurmTask:
    """One run as submitit pickles it, carried out in the process that calls it."""

    def __call__(self, words: list[str]) -> tuple[int, str]:
        """Carry out a run.

        Args:
            words: Its overrides.

        Returns:
            Exit code and message.

        Raises:
            SystemExit: If it was interrupted, so that submitit leaves no result: the queue knows
                whether the task comes back.
        """
        try:
            _run(words)
        except InterruptedRunError as error:
            sys.stdout.write(f"{error}\n")
            raise SystemExit(error.exit_code) from error
        except MixbenchError as error:
            sys.stdout.write(f"{error}\n")
            return error.exit_code, str(error)
        except Exception as error:
            traceback.print_exc()
            failure = explain(error)
            return failure.exit_code, str(failure)
        return 0, ""

    def checkpoint(self, words: list[str]) -> Any:
        """The same task again, for submitit to put into the queue, as the run itself is saved.

        Args:
            words: Overrides of the run.

        Returns:
            A ``submitit.helpers.DelayedSubmission``.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, words)


class SlurmTiming:
    """An estimate of the time of runs, made on the node that will carry out such runs.

    Args:
        strict: Refuse keys that have no effect.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict

    def __call__(self, runs: list[PlannedRun]) -> tuple[int, Any]:
        """Estimate.

        Args:
            runs: Planned runs.

        Returns:
            Exit code, and the runs filled in with notes, or a message.
        """
        try:
            return 0, identify_runs(runs, self.strict, timed=True)
        except Exception as error:
            if not isinstance(error, MixbenchError):
                traceback.print_exc()
            failure = explain(error)
            return failure.exit_code, str(failure)

    def checkpoint(self, runs: list[PlannedRun]) -> Any:
        """The same estimate again, for submitit to put into the queue.

        Args:
            runs: Planned runs.

        Returns:
            A ``submitit.helpers.DelayedSubmission``.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, runs)


def _run(words: list[str]) -> None:
    from mixbench.config.compose import compose
    from mixbench.training.job import training_device
    from mixbench.training.run import run

    config = compose(words)
    given = int(os.environ.get("SLURM_CPUS_ON_NODE", 0))
    shared = training_device(config).type == "cpu" and 0 < given < (os.cpu_count() or 1)
    run(config, shared_cores=shared)
