"""Small methods, images and runs on which the rules are checked."""

import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from mixbench.backbones.cifar import PreActResNet
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataConfig, DataInfo, OptimConfig, RunConfig, TrainerConfig
from mixbench.data.images import ResidentImages, Splits
from mixbench.data.judged import JudgedMixtures
from mixbench.data.loaders import MixData
from mixbench.functional import one_hot
from mixbench.methods.base import Method
from mixbench.nn.gan import ImageGenerator
from mixbench.training.build import with_safe_layout
from mixbench.training.callbacks.progress import quiet_lightning
from mixbench.training.fast_loop import FastTrainingLoop

CLASSES, SIZE, BATCH = 4, 16, 6


def sample_method(
    cls: type[Method],
    *,
    epochs: int = 1,
    image_size: tuple[int, int] = (SIZE, SIZE),
    **settings: Any,
) -> Method:
    """A method around a small network, for checks and tests.

    Args:
        cls: The method's class.
        epochs: Epochs of the run it is told of.
        image_size: Height and width in pixels of the images that its network is built for.
        **settings: Its own keys.

    Returns:
        The method in training mode; on images of several labels where it learns nothing else.
    """
    config = cls.Config(**settings)
    several = cls.tasks_with(config) == {"multilabel"}
    task = "multilabel" if several else "multiclass"
    generates = "latent" in config.requires
    info = DataInfo(
        CLASSES, *image_size, task=task, residual_mean=[0.0] * 3, residual_std=[1.0] * 3
    )
    run = RunConfig(
        method={"name": "checked"},
        data=DataConfig(crop=2),
        optim=OptimConfig(schedule="constant"),
        trainer=TrainerConfig(accelerator="cpu"),
        task="demix" if generates else "supervised",
        epochs=epochs,
        batch_size=BATCH,
        lr=0.05,
    )
    net = PreActResNet((1, 1, 1, 1), 4, CLASSES)
    if "attention" in config.requires:
        net = VisionTransformer(16, 4, 2, 4, image_size, CLASSES)
    if generates:
        net = ImageGenerator(8, (info.channels, *image_size), 8)
    run = with_safe_layout(run, net)
    return cls(net, info, config, run, total_steps=4 * epochs).train()


def sample_splits(method: Method) -> Splits:
    """Random images of every class, of several where the method learns from such, for checks.

    Args:
        method: The method that will see them.

    Returns:
        Training and test set of 24 images each.
    """
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (24, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(24) % CLASSES
    if method.info.task == "multilabel":
        labels = one_hot(labels, CLASSES).maximum(one_hot(labels.roll(5), CLASSES))
    train, test = (ResidentImages(images, labels) for _ in range(2))
    splits = Splits(train, test, method.info, judged=lambda: _judged(images))
    return method.task.view(splits, method.run)


def _judged(images: Tensor) -> JudgedMixtures:
    """Seven images that two people judged."""
    generator = torch.Generator().manual_seed(2)
    ratings, sure = torch.rand(2, 7, 2, generator=generator, dtype=torch.float64)
    first = torch.arange(7) % CLASSES
    lam = torch.full((7,), 0.5, dtype=torch.float64)
    return JudgedMixtures(images[:7], first, (first + 1) % CLASSES, lam, ratings, sure)


def fit(method: Method, *, engine: str = "lightning", **options: Any) -> Trainer:
    """Train a method for the epochs of its own configuration, quietly and without files.

    Args:
        method: The method.
        engine: Value of ``trainer.engine``.
        **options: Passed to the Trainer.

    Returns:
        The Trainer.
    """
    quiet_lightning()
    data = MixData(sample_splits(method), method.run, method.wrap_dataset)
    method.total_steps = method.run.epochs * data.steps_per_epoch
    trainer = Trainer(
        max_epochs=method.run.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **options,
    )
    if engine == "fast":
        trainer.fit_loop.epoch_loop = FastTrainingLoop(trainer)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(method, datamodule=data)
    return trainer


def sample_batch(rows: int = BATCH, height: int = SIZE, width: int = SIZE) -> tuple[Tensor, Tensor]:
    """A normalised random batch with one-hot targets.

    Args:
        rows: Batch size.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        Images and targets.
    """
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, 3, height, width, generator=generator)
    return x, one_hot(torch.arange(rows) % CLASSES, CLASSES)
