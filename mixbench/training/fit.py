"""Training and testing by the Lightning Trainer, set up so that nothing depends on its defaults."""

import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from mixbench.config.schema import RunConfig
from mixbench.data.loaders import MixData
from mixbench.distributed.process_group import ProcessGroup
from mixbench.distributed.signals import StopSignals
from mixbench.evaluation.suite import Outcome, Suite
from mixbench.methods.base import Method
from mixbench.records.checkpoints import BEST, LAST, read_checkpoint
from mixbench.records.selection import choice_columns, peek_curve
from mixbench.training.callbacks.average import EMA
from mixbench.training.callbacks.buffers import OneSetOfBuffers
from mixbench.training.callbacks.checkpoint import AtomicCheckpointIO, KeepCheckpoints
from mixbench.training.callbacks.curves import CurveLogger
from mixbench.training.callbacks.peek import Peek
from mixbench.training.callbacks.probe import Probe, keep_classifier
from mixbench.training.callbacks.progress import Bar, PlainProgress, WriteProgress
from mixbench.training.callbacks.samples import Samples
from mixbench.training.callbacks.scores import Scores
from mixbench.training.callbacks.suites import Suites
from mixbench.training.callbacks.throughput import Throughput
from mixbench.training.fast_loop import FastTrainingLoop
from mixbench.training.job import Job

log = logging.getLogger("mixbench")
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


@dataclass
class Parts:
    """The parts of a run that is about to train."""

    job: Job
    folder: Path
    method: Method
    data: MixData
    group: ProcessGroup


@dataclass
class Results:
    """Figures of a run that was trained and tested.

    Attributes:
        metrics: Scores by their bare names, those of suites excepted.
        suites: Suites that were carried out, with their outcomes.
        speed: Fields of the record that tell of speed, as far as they were measured.
        cuda_graphs: That field of the record.
    """

    metrics: dict[str, float]
    suites: list[tuple[Suite, Outcome]]
    speed: dict[str, float]
    cuda_graphs: str | None = None


def precision_context(config: RunConfig, device: torch.device) -> Any:
    """The context in which training computes.

    Args:
        config: Reads ``precision``.
        device: Where it computes.

    Returns:
        Autocast to bfloat16, or nothing.
    """
    if config.precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def fit_and_test(
    parts: Parts,
    signals: StopSignals,
    checkpoint: dict[str, Any] | None,
    facts: dict[str, Any],
    views: list[Logger],
    note: Callable[[int, int], None],
) -> Results:
    """Train, select, test once, and leave files and figures.

    Args:
        parts: The run.
        signals: Requests from outside to stop.
        checkpoint: Where to go on, None for step 0.
        facts: What checkpoints say of the run, beside what goes on from them.
        views: Loggers beside that of ``metrics.csv``; the caller closes them.
        note: Called after each checkpoint with the epochs and steps done.

    Returns:
        Scores and speed.

    Raises:
        Stopped: If a signal ended training; a checkpoint is written.
        Diverged: If the loss is not finite.
    """
    job, folder, method, data = parts.job, parts.folder, parts.method, parts.data
    config, score, monitor = job.config, job.task.monitor, job.monitor
    curves = CurveLogger(folder / "metrics.csv")
    scores, samples = Scores(), Samples(folder / "samples.png")
    seen = config.epochs * len(data.splits.train)
    suites = Suites(job.suites, data, parts.group, folder, seen)
    speed = Throughput(
        config.epochs * len(data.batches), data.batches.batch_size * parts.group.world
    )
    keeper = KeepCheckpoints(
        folder,
        facts,
        signals,
        parts.group,
        curves,
        monitor=monitor,
        every=config.trainer.ckpt_steps,
        saved=note,
    )
    loggers: list[Logger] = [curves, *views] if parts.group.is_main else []
    callbacks: list[Callback] = [EMA(config.optim.ema)] if config.optim.ema is not None else []
    callbacks.append(OneSetOfBuffers(parts.group))
    callbacks += [Peek(around=list(callbacks))] if config.peek else []
    callbacks += [scores, speed, samples, suites, keeper]
    probed = job.task.classifies and not job.task.labelled
    if probed:  # in front of what is evaluated, with the buffers that are
        callbacks.insert(callbacks.index(scores), Probe(data))
    metrics: dict[str, float] = {}
    loaded = {folder / LAST: checkpoint} if checkpoint else {}
    trained = False
    if checkpoint is not None:
        place = checkpoint["mixbench"]
        curves.go_on_from(place["curves"])
        data.batches.start_at(place["epoch"], place["batch"])
        trained = place["epoch"] == config.epochs
    io = AtomicCheckpointIO(config.trainer.ckpt_required, loaded)
    trainer = build_trainer(parts, loggers, callbacks, io)
    if trained and checkpoint is not None:
        method.load_state_dict(checkpoint["state_dict"])
        method.step = checkpoint["mixbench_step"]
        keeper.load_state_dict(checkpoint["callbacks"][keeper.state_key])
    else:
        start = folder / LAST if checkpoint is not None else None
        trainer.fit(method, datamodule=data, ckpt_path=start, weights_only=True)
    if monitor is not None:
        method.load_state_dict(read_checkpoint(folder / BEST)["state_dict"])
        metrics |= {f"val_{score}": keeper.best, "best_epoch": keeper.best_epoch}
        suites.active = False
        with scores.on_holdout():  # under the weights that were chosen
            loader = data.val_dataloader()
            trainer.test(method, dataloaders=loader, verbose=False, weights_only=True)
        suites.active = True
    trainer.test(method, datamodule=data, verbose=False, weights_only=True)
    if probed and monitor is None and parts.group.is_main:
        keep_classifier(folder / LAST, method, io)  # with a monitor, each epoch's has its own
    if parts.group.is_main:
        scores.save(folder / "predictions.npz", method.info.class_names)
    tested = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
    metrics |= {key.removeprefix("test/"): value for key, value in tested.items()}
    if config.peek and parts.group.is_main:
        rows = [curves.rows[step] for step in sorted(curves.rows)]
        looked = peek_curve(rows, score, config.epochs)
        if looked is None:
            log.warning("peek: an earlier attempt did not look at the test set after each epoch")
        metrics |= choice_columns(looked or [], score)
    measured = speed.results(job.device).items()
    figures = {k: v for k, v in measured if v is not None}
    return Results(metrics, suites.outcomes, figures, _graphs(trainer, config))


def _graphs(trainer: Trainer, config: RunConfig) -> str | None:
    """What the record says of CUDA graphs; None where nothing was trained or none were wanted."""
    loop = trainer.fit_loop.epoch_loop
    if not config.trainer.cuda_graphs:
        return None
    if not isinstance(loop, FastTrainingLoop):
        return f"none: trainer.engine is {config.trainer.engine}"
    return None if loop.graphs is None else loop.graphs.outcome


def build_trainer(
    parts: Parts, loggers: list[Logger], callbacks: list[Callback], io: AtomicCheckpointIO
) -> Trainer:
    """The Trainer of a run, with the loop that ``trainer.engine`` names.

    Args:
        parts: The run.
        loggers: Where curves go.
        callbacks: Those beside progress; one of them keeps checkpoints.
        io: Writes and reads checkpoints.

    Returns:
        The Trainer.
    """
    config, world = parts.job.config, parts.group.world
    on_terminal = sys.stdout.isatty() and parts.group.is_main
    shown = Bar() if on_terminal else PlainProgress()
    trainer = Trainer(
        max_epochs=config.epochs,
        accelerator=parts.job.device.type,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=_strategy(parts),
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
        accumulate_grad_batches=config.optim.accumulate,
        deterministic=True if config.trainer.deterministic else None,
        gradient_clip_val=config.optim.clip,
        logger=loggers or False,
        log_every_n_steps=1,  # the method itself decides when it logs
        callbacks=[*callbacks, WriteProgress(parts.folder), shown],
        plugins=[io, _environment(world)],
        enable_checkpointing=True,  # by the callback that is given
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if config.select == "val" else 0,
        use_distributed_sampler=False,
        default_root_dir=parts.folder,
    )
    if config.trainer.engine == "fast":
        trainer.fit_loop.epoch_loop = FastTrainingLoop(trainer)
    if world > 1:
        # Lightning would ask rank 0 for its signals at every step and wait for the device; here
        # the processes agree through KeepCheckpoints.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def _strategy(parts: Parts) -> Any:
    if parts.group.world == 1:
        return "auto"
    return DDPStrategy(
        find_unused_parameters=parts.method.find_unused_parameters,
        gradient_as_bucket_view=True,
        timeout=timedelta(seconds=parts.job.config.trainer.timeout),
    )


def _environment(world: int) -> ClusterEnvironment:
    """The source of ranks, given explicitly: Lightning's guess would also set signal handlers."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False) if world > 1 else LightningEnvironment()
