"""Suites after the test, as ``eval.suites`` asks for them."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mixbench.config.schema import EvalConfig
from mixbench.data.loaders import MixData
from mixbench.distributed.process_group import ProcessGroup
from mixbench.evaluation.suites import COUNTED, Outcome, draws, is_headline, judge, unfit

log = logging.getLogger("mixbench")


class Suites(Callback):
    """Judges the network once, by test images that the processes share.

    Args:
        config: Which suites, and how.
        data: The test images.
        group: The processes.

    Attributes:
        active: Whether the test that ends is that of the test set.
        outcomes: What was found, by suite.
    """

    def __init__(self, config: EvalConfig, data: MixData, group: ProcessGroup) -> None:
        self.config, self.data, self.group = config, data, group
        self.active = True
        self.outcomes: dict[str, Outcome] = {}

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Carry out the suites and report ``test/*``."""
        module: Any = pl_module
        for name in self.config.suites if self.active else ():
            if name not in COUNTED:  # calibration is part of the test
                continue
            if why := unfit(name, module.info, module):
                log.info("no %s suite: %s", name, why)
                continue
            rows = draws(name, self.config, self.data.splits.test.labels, self.group)
            images = self.data.test_part(rows, self.config.gaze if name == "gaze" else None)
            batches = map(trainer.strategy.batch_to_device, images)
            outcome = judge(name, module, batches, module.info, self.config, self.group)
            self.outcomes[name] = outcome
            say_outcome(name, outcome)
            values = {key: torch.tensor(value) for key, value in outcome.scores.items()}
            module.report(values, split="test")


def say_outcome(name: str, outcome: Outcome) -> None:
    """One line of results, and one for each doubt about them.

    Args:
        name: Name of the suite.
        outcome: What it has found.
    """
    facts = outcome.facts
    shown = [f"{key} {value:.2f}" for key, value in outcome.scores.items() if is_headline(key)]
    log.info(
        "%s on %d of %d images: %s (%.1f s)",
        name,
        facts["images"],
        facts["of"],
        "  ".join(shown),
        facts["seconds"],
    )
    for warning in outcome.warnings:
        log.warning("%s", warning)
