"""Suites after the test, as ``eval.suites`` asks for them."""

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.markup import escape
from rich.progress import track

from mixbench.data.loaders import MixData
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import counted
from mixbench.evaluation.suite import SHARE, SMALLEST, Outcome, Show, Suite

log = logging.getLogger("mixbench")


class Suites(Callback):
    """Judges the network once, by test images that the processes share.

    Args:
        suites: Judges of the network.
        data: The test images.
        group: The processes.
        folder: Folder of the run.
        seen: Training images that the network has seen, those of each epoch anew.

    Attributes:
        active: Whether the test that ends is that of the test set.
        outcomes: The suites that were carried out, with their results.
    """

    def __init__(
        self,
        suites: Sequence[Suite],
        data: MixData,
        group: ProcessGroup,
        folder: Path,
        seen: int,
    ) -> None:
        self.suites, self.data, self.group = suites, data, group
        self.folder, self.seen = folder, seen
        self.active = True
        self.outcomes: list[tuple[Suite, Outcome]] = []

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Carry out the suites and report ``test/*``."""
        module: Any = pl_module
        for suite in self.suites if self.active else ():
            if suite.of_test:
                continue
            if reason := suite.refusal(module.info, module):
                log.info("no %s suite: %s", suite.name, reason)
                continue
            judge = suite.after_training(self.seen)
            if judge is None:
                log.info("%s", self._left_out(suite))
                continue
            show = show_progress(judge, module.info.test_size) if self.group.is_main else iter
            outcome = judge.run(module, self.data, self.group, show, self.folder)
            self.outcomes.append((judge, outcome))
            judge.log_outcome(outcome)
            values = {key: torch.tensor(value) for key, value in outcome.scores.items()}
            module.report(values, split="test")

    def _left_out(self, suite: Suite) -> str:
        command = f"mixbench eval {shlex.quote(str(self.folder))} --suite {suite.name}"
        return (
            f"no {suite.name} suite: {SMALLEST} images would cost more than {100 * SHARE:.0f} % of "
            f"the training; judge the run with: {command}"
        )


def show_progress(suite: Suite, test_size: int) -> Show:
    """A bar of a suite's batches on a terminal; elsewhere one line at its start.

    Args:
        suite: The suite that is about to begin.
        test_size: Number of test images.

    Returns:
        What passes the batches on.
    """
    images = test_size if suite.limit is None else min(suite.limit, test_size)
    title = f"{suite.name} on {counted(images, 'image')}"
    if sys.stdout.isatty():
        return lambda batches: track(batches, escape(title), transient=True)
    log.info("%s ...", title)
    return iter
