"""Signs that training cannot work, before it starts, and that it has not, after its test."""

import torch

from mixbench.config.schema import RunConfig
from mixbench.errors import counted
from mixbench.metrics import mean_average_precision, topk
from mixbench.records.marks import CHANCE, LARGE_BATCH, MIN_STEPS, OVERLAP, STEPS, WARMUP
from mixbench.records.predictions import Predictions
from mixbench.tasks.base import Task

LEVEL = 0.05  # chance that a network that has learned nothing is not marked
SHUFFLES = round(1 / LEVEL) - 1  # the score and these are ranked: a test at that level


def doubts(config: RunConfig, train_size: int) -> dict[str, str]:
    """Reasons why training cannot work, or hardly can.

    Args:
        config: A composed configuration.
        train_size: Number of training images.

    Returns:
        A sentence by the mark that the run bears for it; empty if nothing speaks against it.
    """
    found: dict[str, str] = {}
    optim = config.optim
    if optim.warmup_epochs >= config.epochs:
        found[WARMUP] = (
            f"optim.warmup_epochs={optim.warmup_epochs:g} is not shorter than epochs="
            f"{config.epochs}: the learning rate rises to the end"
        )
    if config.data.allow_overlap:
        found[OVERLAP] = (
            "data.allow_overlap=true tests on images that people judged: a method that has trained "
            "on them scores too well"
        )
    if config.batch_size > train_size:
        found[LARGE_BATCH] = (
            f"batch_size={config.batch_size} is more than "
            f"{counted(train_size, 'training image')}: each epoch is a single step"
        )
    steps = config.epochs * max(1, train_size // config.batch_size)
    if steps < MIN_STEPS:
        found[STEPS] = (
            f"training takes {counted(steps, 'optimiser step')}, fewer than {MIN_STEPS}: use "
            "more epochs or a smaller batch_size"
        )
    return found


def chance(predictions: Predictions, task: Task) -> dict[str, str]:
    """Whether a tested network is no better than one that has learned nothing.

    Args:
        predictions: What it says of the test set.
        task: What it has learned.

    Returns:
        A sentence by its mark; empty if the network is better than chance, or names no class.
    """
    if not task.classifies:
        return {}
    logits, labels = predictions.logits, predictions.labels
    if labels.ndim == 2:
        return _chance_of_several(logits, labels)
    from scipy.stats import binom

    total, largest = len(labels), int(labels.bincount().max())
    hits = round(float(topk(logits, labels)) * total / 100)
    if binom.sf(hits - 1, total, largest / total) <= LEVEL:
        return {}
    return {
        CHANCE: (
            f"top1 of {100 * hits / total:.2f} is not above chance: the largest class alone has "
            f"{100 * largest / total:.2f} % of the {total} test images"
        )
    }


def _chance_of_several(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, str]:
    """The same of mean average precision, against labels that are dealt out anew."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(labels), generator=generator) for _ in range(SHUFFLES)]
    score = float(mean_average_precision(logits, labels))
    best = max(float(mean_average_precision(logits, labels[order])) for order in orders)
    if score > best:
        return {}
    return {
        CHANCE: f"map of {score:.2f} is not above chance: shuffled labels give up to {best:.2f}"
    }
