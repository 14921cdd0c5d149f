"""One run as a task of submitit, which pickles it here and calls it on a node."""

import os
import sys
import traceback
from typing import Any

from mixbench.errors import InterruptedRunError, MixbenchError, explain


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


def _run(words: list[str]) -> None:
    from mixbench.config.compose import compose
    from mixbench.training.job import training_device
    from mixbench.training.run import run

    config = compose(words)
    given = int(os.environ.get("SLURM_CPUS_ON_NODE", 0))
    shared = training_device(config).type == "cpu" and 0 < given < (os.cpu_count() or 1)
    run(config, shared_cores=shared)
