"""What a race has to know of its data and methods, read in a process that may import torch."""

import hashlib
import os
from dataclasses import dataclass, field, replace
from typing import Any

from mixbench.errors import UserError
from mixbench.race.budget import FEWEST_TESTED
from mixbench.race.scores import score_of_labels

LEAST_SHARE = 0.25  # of a set without test images that is set aside as one


@dataclass
class RaceFacts:
    """Facts of the data, the machine and the methods of a race.

    Attributes:
        data: Shown name of the data.
        data_hash: Content hash of the data.
        test_hash: Hash of the test images and labels.
        recipe_hash: Hash of the data, network and recipe.
        question: Hash of the network and recipe alone.
        score: What the race goes by, decided from the training labels.
        folds: Number of folds.
        fold_images: Images of the smallest fold.
        train_images: Training images.
        test_images: Test images.
        rarest_tested: Test images of the class that has fewest, of those that have any.
        places: Runs that this machine has room for at a time.
        gpus: GPUs of this machine that a run takes.
        refused: Why a method cannot be raced, by name, of those that nobody asked for.
        notes: Warnings about the configuration.
        division: How the test images were set aside, of data that have none of their own.
        set_aside: Overrides of all runs that set them aside, where nobody has said how.
    """

    data: str
    data_hash: str
    test_hash: str
    recipe_hash: str
    question: str
    score: str
    folds: int
    fold_images: int
    train_images: int
    test_images: int
    rarest_tested: int
    places: int
    gpus: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    division: str = ""
    set_aside: list[str] = field(default_factory=list)


def race_facts(
    words: list[str], others: dict[str, list[str]], optional: set[str], strict: bool
) -> RaceFacts:
    """Read the data of a race once, and count; of test images nothing but a hash is taken.

    Args:
        words: Overrides of plain training.
        others: Overrides of the other methods, by name.
        optional: Those of them that nobody asked for by name.
        strict: Refuse keys that have no effect.

    Returns:
        The facts.

    Raises:
        UserError: If the data or the configuration do not fit, or are too small.
    """
    import torch

    from mixbench.config.compose import compose_text, resolve_method, to_plain
    from mixbench.config.schema import keys_not_in_identity
    from mixbench.data.race_folds import choose_folds
    from mixbench.records.identity import identify
    from mixbench.training.job import incompatibility, resolve

    torch.set_num_threads(1)
    composed = resolve_method(compose_text(words, strict=strict), strict=strict)
    config = composed.config
    job = resolve(config)
    refused = {}
    for name, own in others.items():
        task = resolve_method(compose_text(own)).config.task
        if task != config.task:  # scores of two tasks are no scores of one kind
            refused[name] = f"its task is {task}, and that of plain training {config.task}"
        elif name in optional and (reason := incompatibility(compose_text(own).config)):
            refused[name] = reason
        if name in refused and name not in optional:
            raise UserError(
                f"{name} cannot be raced against plain training: {refused[name]}",
                f"method={name}",
                "leave it out; mixbench bench trains it",
            )
    set_aside: list[str] = []
    if job.source.division and (config.data.test_fraction, config.data.folds) == (None, None):
        set_aside = [f"data.test_fraction={_share_tested(job.source):g}"]
        job = resolve(resolve_method(compose_text([*words, *set_aside])).config)
    splits = job.read_data()
    labels = splits.train.labels
    folds = choose_folds(labels)
    question = identify(to_plain(config), job.defaults, keys_not_in_identity(), "", "")
    if job.device.type == "cuda":
        places = torch.cuda.device_count() // config.devices
    else:
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        places = cores // (config.devices * config.trainer.threads)
    return RaceFacts(
        data=splits.info.name,
        data_hash=job.identity.data_hash,
        test_hash=_test_hash(splits.test, job.identity.data_hash),
        recipe_hash=job.identity.recipe_hash,
        question=question.recipe_hash,
        score=score_of_labels(labels.numpy()),
        folds=folds.count,
        fold_images=folds.images,
        train_images=len(labels),
        test_images=len(splits.test),
        rarest_tested=_rarest(splits.test.labels),
        places=max(1, places),
        gpus=config.devices if job.device.type == "cuda" else 0,
        refused=refused,
        notes=composed.notes,
        division=job.source.division,
        set_aside=set_aside,
    )


def _share_tested(source: Any) -> float:
    """Share of a set without test images that is set aside to confirm what was chosen.

    A quarter, and so many that a gain can be claimed, if that leaves enough to choose on.
    """
    from mixbench.data.race_folds import FEWEST_IMAGES

    total = sum(len(part.labels) for part in source.parts()[:2])
    for percent in range(max(25, 100 * FEWEST_TESTED // total), 100):
        config = replace(source.config, test_fraction=percent / 100)
        train, test, _ = type(source)(config).parts()
        if len(train.labels) < 2 * FEWEST_IMAGES:
            break
        if len(test.labels) >= FEWEST_TESTED:
            return percent / 100
    return LEAST_SHARE


def _rarest(labels: Any) -> int:
    counts = (labels == 1).sum(dim=0) if labels.ndim > 1 else labels.bincount()
    return int(counts[counts > 0].min())


def _test_hash(test: Any, data_hash: str) -> str:
    """Hash of a test set; that of all data where its images stay files and are not read."""
    from mixbench.data.images import ResidentImages
    from mixbench.data.overlap import pixel_hashes

    found = hashlib.sha256(test.labels.contiguous().numpy().tobytes())
    if isinstance(test, ResidentImages):
        for digest in pixel_hashes(test):
            found.update(digest)
    else:
        found.update(data_hash.encode())
    return found.hexdigest()[:16]
