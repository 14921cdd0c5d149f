"""One run from configuration to record: the only place where all rooms meet."""

import dataclasses
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixbench.backbones import NETS
from mixbench.callbacks.checkpoint import BEST, AtomicCheckpointIO, KeepCheckpoints, load_weights
from mixbench.callbacks.curves import CurveLogger, wandb_logger
from mixbench.callbacks.progress import Bar, PlainProgress, quiet_lightning
from mixbench.callbacks.samples import Samples
from mixbench.callbacks.scores import Scores
from mixbench.callbacks.throughput import Throughput
from mixbench.config import method_settings, to_plain
from mixbench.data import DATA
from mixbench.data.images import Splits
from mixbench.data.keyed import INIT, mix_seed
from mixbench.data.module import MixData
from mixbench.errors import InterruptedRunError, MixbenchError, RunFailedError, UserError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.results.files import locked, write_text
from mixbench.results.identity import Identity, identify
from mixbench.results.record import (
    Record,
    cpu_name,
    earlier_record,
    environment,
    runs_folder,
    write_record,
)
from mixbench.schema import DataInfo, RunConfig, aside_keys

log = logging.getLogger("mixbench")
TRACEBACK = "traceback.txt"
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def run(config: RunConfig, *, shared_cores: bool = False) -> Record:
    """Carry out a run, or return the record of one that is done.

    Args:
        config: A configuration as :func:`mixbench.compose` returns it.
        shared_cores: Other runs use the machine at the same time; its speed is marked so.

    Returns:
        The record, as ``record.json`` in the run's folder holds it.

    Raises:
        UserError: If the configuration, the data or the machine do not fit; nothing was started.
        RunFailedError: If training fails or its weights are not finite.
        InterruptedRunError: If it was stopped from outside.
    """
    device = training_device(config)
    identity = identify_run(config)
    folder = runs_folder(config.run.dir) / identity.id
    earlier = earlier_record(folder)
    if earlier is not None and earlier.status == "done":
        log.info("%s is done already", identity.id)
        return earlier
    attempts = earlier.attempts if earlier is not None else []
    splits = DATA.get(config.data.kind)(config.data).load(holdout=config.select == "val")
    _check_fit(config, splits)
    method, data = build(config, splits)

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), _logged_to(folder / "log.txt"):
        attempts.append({"number": len(attempts) + 1, "started": _now(), "status": "running"})
        record = _new_record(config, identity, method, splits.info, device)
        record.shared_cores, record.attempts = shared_cores, attempts
        write_text(folder / "config.yaml", OmegaConf.to_yaml(to_plain(config)))
        write_record(folder, record)
        (folder / TRACEBACK).unlink(missing_ok=True)
        started = time.monotonic()
        try:
            _fit_and_test(config, folder, record, method, data, device)
            record.status = "done" if _finite(record, method) else "diverged"
            if record.status == "diverged":
                record.message = "weights or predictions are not finite"
        except (KeyboardInterrupt, SystemExit) as stop:
            record.status, record.message = "interrupted", "stopped from outside"
            raise InterruptedRunError(
                f"{record.id} was interrupted",
                str(folder),
                "give the same command again",
            ) from stop
        except Exception as error:
            record.status = "failed"
            record.message = f"{type(error).__name__}: {error}"
            (folder / TRACEBACK).write_text(traceback.format_exc())
            if isinstance(error, MixbenchError):
                raise
            raise RunFailedError(
                f"{record.id} failed: {record.message.splitlines()[0]}",
                str(folder / TRACEBACK),
                "see the traceback there",
            ) from error
        finally:
            record.wall_s = time.monotonic() - started
            if device.type == "cuda":
                record.gpu_hours = record.wall_s * record.device_count / 3600
            attempts[-1] |= {"status": record.status, "wall_s": record.wall_s}
            write_record(folder, record)
    if record.status == "diverged":
        raise RunFailedError(
            f"{record.id} diverged: {record.message}", str(folder), "lower lr, or clip gradients"
        )
    return record


def identify_run(config: RunConfig) -> Identity:
    """Id and hashes of a run.

    Args:
        config: A composed configuration.

    Returns:
        What :func:`mixbench.results.identity.identify` makes of it and of its data.
    """
    source = DATA.get(config.data.kind)(config.data)
    cls = METHODS.get(config.method["name"])
    defaults = to_plain(RunConfig(method=dataclasses.asdict(cls.Config())))
    return identify(to_plain(config), defaults, aside_keys(), source.name, source.fingerprint())


def build(config: RunConfig, splits: Splits) -> tuple[Method, MixData]:
    """The method around its network, and the loaders.

    Args:
        config: A composed configuration.
        splits: Its data.

    Returns:
        Both, with the same weights for equal seeds on any device.

    Raises:
        UserError: If the method cannot work with this network or task.
    """
    cls = METHODS.get(config.method["name"])
    settings = cls.Config(**method_settings(config))
    seed_everything(mix_seed(INIT, config.seed) % 2**32, verbose=False)
    net = NETS.get(config.net.name)(config.net, splits.info)
    missing = settings.requires - net.provides
    if missing or splits.info.task not in cls.tasks:
        raise UserError(
            f"method {config.method['name']} needs {', '.join(sorted(missing or cls.tasks))}",
            f"net={config.net.name}, {splits.info.task} data {splits.info.name}",
            f"networks here: {', '.join(NETS.names())}",
        )
    method = cls(net, splits.info, settings, config)
    data = MixData(splits, config, method.wrap_dataset)
    method.total_steps = config.epochs * data.steps_per_epoch
    if config.trainer.channels_last:
        method = method.to(memory_format=torch.channels_last)
    return method, data


def training_device(config: RunConfig) -> torch.device:
    """Where a run computes; never the CPU when a GPU was asked for.

    Args:
        config: Reads ``trainer.accelerator``.

    Returns:
        CPU or the current GPU.

    Raises:
        UserError: If a GPU is asked for and there is none.
    """
    wanted = config.trainer.accelerator
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "no GPU is present", "trainer.accelerator=gpu", "use trainer.accelerator=cpu"
        )
    return torch.device("cuda")


def estimate_seconds(config: RunConfig, info: DataInfo) -> float:
    """Time that a run will take, from a few training steps of its network.

    Args:
        config: A composed configuration.
        info: Facts of its data.

    Returns:
        Seconds of training, without start-up and evaluation.
    """
    cls = METHODS.get(config.method["name"])
    device = training_device(config)
    net = NETS.get(config.net.name)(config.net, info).to(device)
    x = torch.randn(config.batch_size, info.channels, info.height, info.width, device=device)
    y = torch.zeros(config.batch_size, dtype=torch.long, device=device)
    if config.trainer.channels_last:
        net, x = (
            net.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        nn.functional.cross_entropy(net(x), y).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    steps = config.epochs * max(1, info.train_size // config.batch_size)
    return cls.cost * best * steps


def _fit_and_test(
    config: RunConfig,
    folder: Path,
    record: Record,
    method: Method,
    data: MixData,
    device: torch.device,
) -> None:
    """Train, select, test once, and leave files and figures."""
    quiet_lightning()
    if device.type == "cpu":
        torch.set_num_threads(config.trainer.threads)
    facts = {"config": to_plain(config), "info": dataclasses.asdict(method.info), "id": record.id}
    monitor = "val/top1" if config.select == "val" else None
    scores, keeper = Scores(), KeepCheckpoints(folder, facts, monitor)
    speed = Throughput(config.epochs * len(data.batches), data.batches.batch_size)
    samples = Samples(folder / "samples.png")
    wandb = wandb_logger(
        folder,
        run_id=record.id,
        attempt=len(record.attempts),
        mode=config.wandb.mode,
        project=config.wandb.project,
        config=to_plain(config),
        tags=config.run.tags,
        notes=config.run.notes,
    )
    loggers: list[Logger] = [CurveLogger(folder / "metrics.csv"), *([wandb] if wandb else [])]
    try:
        trainer = _trainer(config, folder, device, loggers, [scores, speed, samples, keeper])
        with warnings.catch_warnings():
            quiet_lightning()
            trainer.fit(method, datamodule=data, weights_only=True)
            if monitor is not None:
                method.load_state_dict(load_weights(folder / BEST)["state_dict"])
                record.metrics |= {"val_top1": keeper.best, "best_epoch": keeper.best_epoch}
            trainer.test(method, datamodule=data, verbose=False, weights_only=True)
        if wandb:
            wandb.log_image("samples", [str(samples.path)])
    finally:
        if wandb:  # an open one would take in the next run of this process
            wandb.experiment.finish()
    scores.save(folder / "predictions.npz")
    tested = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
    record.metrics |= {key.removeprefix("test/"): value for key, value in tested.items()}
    for key, value in speed.results(device).items():
        setattr(record, key, value)


def _trainer(
    config: RunConfig,
    folder: Path,
    device: torch.device,
    loggers: list[Logger],
    callbacks: list[Callback],
) -> Trainer:
    on_terminal = sys.stdout.isatty()
    return Trainer(
        max_epochs=config.epochs,
        accelerator=device.type,
        devices=1,
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
        accumulate_grad_batches=config.optim.accumulate,
        gradient_clip_val=config.optim.clip,
        logger=loggers,
        log_every_n_steps=1,  # the method itself decides when it logs
        callbacks=[*callbacks, Bar() if on_terminal else PlainProgress()],
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if config.select == "val" else 0,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


def _new_record(
    config: RunConfig, identity: Identity, method: Method, info: DataInfo, device: torch.device
) -> Record:
    return Record(
        id=identity.id,
        method=config.method["name"],
        data=info.name,
        net=config.net.name,
        recipe=config.recipe,
        seed=config.seed,
        epochs=config.epochs,
        select=config.select,
        config_hash=identity.config_hash,
        recipe_hash=identity.recipe_hash,
        fidelity=method.config.fidelity,
        settings=identity.settings,
        device=f"{cpu_name()} (CPU)" if device.type == "cpu" else torch.cuda.get_device_name(),
        precision=config.precision,
        batch_size=config.batch_size,
        threads=config.trainer.threads,
        params=sum(p.numel() for p in method.net.parameters()),
        params_train=sum(p.numel() for p in method.parameters()),
        macs=_macs(method),
        train_size=info.train_size,
        test_size=info.test_size,
        skipped=info.skipped,
        **environment(),
    )


def _macs(method: Method) -> int:
    info = method.info
    counter = FlopCounterMode(display=False)
    training = method.training
    method.eval()
    with torch.no_grad(), counter:
        method(torch.zeros(1, info.channels, info.height, info.width))
    method.train(training)
    return counter.get_total_flops() // 2


def _finite(record: Record, method: Method) -> bool:
    weights = all(bool(torch.isfinite(p).all()) for p in method.parameters())
    nll = record.metrics.get("nll", 0.0)
    return weights and nll == nll and abs(nll) != float("inf")


def _check_fit(config: RunConfig, splits: Splits) -> None:
    info = splits.info
    present = int(splits.train.labels.unique().numel())
    if info.num_classes < 2 or present < 2:
        raise UserError(
            f"{info.name} has {present} class with training images",
            "data",
            "training needs at least two",
        )
    micro_batch = min(config.batch_size // config.optim.accumulate, info.train_size)
    if micro_batch < 2:
        raise UserError(
            f"batches of {micro_batch} image: batch normalisation needs at least 2",
            "batch_size",
            "use a larger batch_size, more images, or fewer optim.accumulate",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
