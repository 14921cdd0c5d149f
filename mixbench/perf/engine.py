"""P5: the time that an engine takes between training steps, against a bare loop of the same steps.

All train the same method on the same batches, and end with the same weights. The bare loop is what
one writes down first, and runs where Lightning's would: in the same Trainer, as Python itself is
slower or faster by some percent with the depth of its calls. The engines also do what a run needs:
they call its callbacks and count for its checkpoints. A CUDA device tells, on a network of many
short kernels, what graphs of the passes save, and those that hold the update, too.
"""

import contextlib
import io
import itertools
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixbench.perf.benchmark import Benchmark, Case
from mixbench.perf.peers import NOT_INSTALLED, Variant
from mixbench.perf.report import Limit, Rule
from mixbench.perf.timing import Budget

BASE, FAST, LIGHTNING = "bare loop", "engine fast", "engine lightning"
PASSES, GRAPHS = "engine fast, graphs of passes alone", "engine fast, graphs of passes and update"
WORDS = "method=erm data=digits epochs=1 eval.suites=[] logger=none"
FIRST = 8  # steps that are not timed, in which graphs are recorded


@dataclass(frozen=True)
class Steps(Case):
    """Some training images, digits of 8x8 pixels; one linear layer learns them, or a network."""

    images: int
    net: str = ""


STEPS = Steps(8, "B8 3x8x8 linear", 1280)
NETWORK = Steps(16, "B16 3x8x8 preactresnet18 of width 16", 1280, "net.width=16")


def time_of_step(engine: str, case: Steps, device: torch.device) -> tuple[float, list[Tensor]]:
    """Train for one epoch, and time it from the end of the first steps to that of the last.

    Args:
        engine: One of the variants.
        case: Batch and number of images.
        device: Where it computes.

    Returns:
        Seconds of a step, on a CPU those of the process, and the weights in the end.

    Raises:
        ImportError: If Lightning is missing.
    """
    from mixbench.config.compose import compose
    from mixbench.distributed.process_group import ProcessGroup
    from mixbench.distributed.signals import StopSignals
    from mixbench.training.build import build
    from mixbench.training.callbacks.checkpoint import AtomicCheckpointIO, KeepCheckpoints
    from mixbench.training.callbacks.curves import CurveLogger
    from mixbench.training.callbacks.progress import quiet_lightning
    from mixbench.training.callbacks.throughput import Throughput
    from mixbench.training.fit import Parts, build_trainer
    from mixbench.training.job import resolve

    kind = "cpu" if device.type == "cpu" else "gpu"
    words = f"{WORDS} data.limit={case.images} batch_size={case.batch} trainer.accelerator={kind} "
    words += f"{case.net or 'net.width=4'} "
    words += "trainer.engine=" + ("lightning" if engine == LIGHTNING else "fast")
    words += " trainer.cuda_graphs=true" if engine in (PASSES, GRAPHS) else ""
    job = resolve(compose(words))
    splits = job.read_data()
    method, data = build(job, splits)
    info = splits.info
    if not case.net:
        layer = nn.Linear(info.channels * info.height * info.width, info.num_classes)
        method.net = nn.Sequential(nn.Flatten(), layer)
    marks: list[float] = []
    first = min(FIRST, len(data.batches) // 2)

    def mark() -> None:
        if device.type == "cuda" and len(marks) in (first, len(data.batches) - 1):
            torch.cuda.synchronize(device)
        marks.append(time.process_time() if device.type == "cpu" else time.perf_counter())

    method.after_step = mark
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mixbench-")))
        signals = stack.enter_context(StopSignals())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))  # no bar on a terminal
        stack.enter_context(warnings.catch_warnings())
        quiet_lightning()
        parts = Parts(job, folder, method, data, ProcessGroup())
        curves = CurveLogger(folder / "metrics.csv")
        keeper = KeepCheckpoints(folder, {}, signals, parts.group, curves)
        watch = _looking_at_gradients() if engine == PASSES else Throughput
        callbacks = [watch(len(data.batches), case.batch), keeper]
        trainer = build_trainer(parts, [curves], callbacks, AtomicCheckpointIO())
        if engine == BASE:
            trainer.fit_loop.epoch_loop = _bare_loop(trainer)
        trainer.fit(method, datamodule=data)
    seconds = (marks[-1] - marks[first]) / (len(marks) - 1 - first)
    return seconds, [value.detach().cpu() for value in method.net.state_dict().values()]


def _bare_loop(trainer: Any) -> Any:
    from mixbench.training.fast_loop import FastTrainingLoop

    class BareLoop(FastTrainingLoop):
        """The loop that one writes down first; it calls no callback and counts nothing."""

        def advance(self, data_fetcher: Any) -> None:
            """Train on all batches."""
            del data_fetcher
            trainer: Any = self.trainer
            method, loader = trainer.lightning_module, trainer.train_dataloader
            (optimizer,), (schedule,) = trainer.optimizers, trainer.lr_scheduler_configs
            for number, batch in enumerate(loader):
                batch = method.transfer_batch_to_device(batch, method.device, 0)
                loss = method.training_step(batch, number)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.scheduler.step()
                method.step += 1
                method.after_step()
            self.batch_progress.increment_by(len(loader), is_last_batch=True)

    return BareLoop(trainer)


def _looking_at_gradients() -> Any:
    from mixbench.training.callbacks.throughput import Throughput

    class LookingAtGradients(Throughput):
        """Has a hook in front of the update, which keeps the update out of graphs."""

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            """Look at nothing."""

    return LookingAtGradients


class EngineBenchmark(Benchmark):
    """P5: whole epochs in turn, of steps as short as they come."""

    part, base = "P5", BASE

    def cases(self, device: torch.device) -> tuple[Steps, ...]:
        return (NETWORK, STEPS) if device.type == "cuda" else (STEPS,)

    def own(self, case: Steps, device: torch.device, budget: Budget) -> list[Variant]:
        names = [BASE, FAST, LIGHTNING]
        names += [PASSES, GRAPHS] if device.type == "cuda" else []
        try:
            import mixbench.training.fast_loop as loop
        except ImportError:
            return [Variant(name, skipped=f"lightning is {NOT_INSTALLED}") for name in names]
        del loop
        note = f"{case.images // case.batch} steps"
        calls = {name: partial(time_of_step, name, case, device) for name in names}
        return [Variant(name, call, note) for name, call in calls.items()]

    def inputs(self, case: Steps, device: torch.device) -> Callable[[int], tuple[Any, ...]]:
        return lambda number: ()

    def timer(
        self, call: Callable[[int], Any], device: torch.device, budget: Budget
    ) -> Callable[[], float]:
        numbers = itertools.count()
        call(next(numbers))  # imports, and the first steps of a process
        return lambda: call(next(numbers))[0]

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        if device.type == "cuda":
            return []
        return [Rule(self.part, str(STEPS), FAST, BASE, 1 / 1.05)]
