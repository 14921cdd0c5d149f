"""Suites after the test, as ``eval.suites`` asks for them."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mixbench.data.loaders import MixData
from mixbench.distributed.process_group import ProcessGroup
from mixbench.evaluation.suite import Outcome, Suite

log = logging.getLogger("mixbench")


class Suites(Callback):
    """Judges the network once, by test images that the processes share.

    Args:
        suites: Judges of the network.
        data: The test images.
        group: The processes.

    Attributes:
        active: Whether the test that ends is that of the test set.
        outcomes: The suites that were carried out, with their results.
    """

    def __init__(self, suites: Sequence[Suite], data: MixData, group: ProcessGroup) -> None:
        self.suites, self.data, self.group = suites, data, group
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
            outcome = suite.run(module, self.data, self.group)
            self.outcomes.append((suite, outcome))
            suite.log_outcome(outcome)
            values = {key: torch.tensor(value) for key, value in outcome.scores.items()}
            module.report(values, split="test")
