"""Time that a run will take on this machine, from a few steps of its method on its data."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mixbench.data.augment.batches import to_float
from mixbench.data.augment.images import augment_images
from mixbench.data.images import Batch, Splits
from mixbench.data.loaders import EVAL_BATCH, MixData
from mixbench.data.sampling import BatchIndex
from mixbench.errors import explain
from mixbench.methods.base import Method
from mixbench.tracking.run import is_disabled
from mixbench.training.build import build
from mixbench.training.fit import precision_context
from mixbench.training.job import Job

# Seconds of a process that has imported everything, of W&B, and of saving, in a run of no length.
PROCESS_S, WANDB_S = 1.0, 1.5
FORWARD_S = 0.05  # seconds that tell the time of a forward pass
STEP_S = 0.4  # seconds that a timed step may take; larger batches are timed by a part of them
TIMED_S, TIMED_STEPS = 0.8, 8  # seconds and steps after which the pace of training is known
PART = 4  # images of the smallest part; a method may append one to so many and none to fewer
PASSES = 3  # forward passes that a training step is worth
SUITE_PASSES = 10  # the same of an image of a suite that does not say


@dataclass(frozen=True)
class Estimate:
    """Seconds of the parts of a run.

    On a CPU they are those of a run that has its core for itself, so that what other programs
    happen to take while one method is timed does not make it dearer than the others.

    Attributes:
        start_s: Until the first step.
        training_s: Of all epochs, with what is evaluated after each.
        after_s: Of the test and the suites.
        failure: Why the timed training steps failed; empty if they did not.
        elapsed_s: Time that passed while forward passes and steps were timed.
        counted_s: Part of it that they took themselves.
    """

    start_s: float
    training_s: float
    after_s: float
    failure: str = ""
    elapsed_s: float = 0.0
    counted_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Seconds of the whole run."""
        return self.start_s + self.training_s + self.after_s


class Stopwatch:
    """Seconds of calls, on one thread of a CPU those that the process itself was at work.

    Args:
        job: What is asked for, on its device and with its number of threads.
    """

    def __init__(self, job: Job) -> None:
        self.device = job.device
        self.own = job.device.type == "cpu" and job.config.trainer.threads == 1
        self.elapsed_s = self.counted_s = 0.0

    def time(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """The result of a call, and its seconds."""
        started, busy = time.monotonic(), time.process_time()
        result = call()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = time.monotonic() - started
        counted = min(elapsed, time.process_time() - busy) if self.own else elapsed
        self.elapsed_s += elapsed
        self.counted_s += counted
        return result, counted


def estimate(job: Job, splits: Splits, load_s: float = 0.0) -> Estimate:
    """Time that a run will take.

    Args:
        job: What is asked for.
        splits: Its data.
        load_s: Seconds that reading the data takes.

    Returns:
        The parts of that time.
    """
    config, started = job.config, time.monotonic()
    if job.device.type == "cpu":
        torch.set_num_threads(config.trainer.threads)
    method, data = build(job, splits, 0, config.world)
    method = method.to(job.device)
    load_s += time.monotonic() - started
    watch = Stopwatch(job)
    fetch_s, image_s = _image_seconds(watch, method, splits)
    whole_s = (fetch_s + image_s) / config.world
    tested = len(splits.test) * (fetch_s + method.test_passes * image_s) / config.world
    if job.task.classifies and not job.task.labelled:
        tested += len(splits.train) * whole_s
    held_out = tested * len(splits.val or ()) / max(1, len(splits.test))
    each = held_out + tested * config.peek
    step_s, failure = _step_seconds(watch, job, method, data, image_s)
    epoch = len(data.batches) * step_s
    start_s = PROCESS_S + load_s + WANDB_S * (not is_disabled(config.wandb.mode))
    after_s = tested + held_out + _suite_images(job, splits) * image_s
    training_s = config.epochs * (epoch + each)
    return Estimate(start_s, training_s, after_s, failure, watch.elapsed_s, watch.counted_s)


def _image_seconds(watch: Stopwatch, method: Method, splits: Splits) -> tuple[float, float]:
    """Seconds to fetch an image and of its forward pass, by as many as take long enough to tell."""
    images = splits.test
    method.eval()
    count, fetch, forward = 1, 0.0, 0.0
    with torch.no_grad():
        first = images[BatchIndex(torch.arange(1), 0)].images
        method(to_float(first.to(method.device)))  # pays for what a process does once
        while fetch + forward < FORWARD_S and count < min(len(images), EVAL_BATCH):
            count = min(4 * count, len(images), EVAL_BATCH)
            draw = BatchIndex(torch.arange(count), 0)
            batch, fetch = watch.time(functools.partial(images.__getitem__, draw))
            x = to_float(batch.images.to(method.device))
            _, forward = watch.time(functools.partial(method, x))
    return fetch / count, forward / count


def _step_seconds(
    watch: Stopwatch, job: Job, method: Method, data: MixData, image_s: float
) -> tuple[float, str]:
    """Seconds of the training step of a micro-batch; by the method's cost where it fails, and why.

    It need not fail in a run, whose method may have a training step of its own.
    """
    size = rows = data.batches.batch_size
    while rows >= 2 * PART and rows % 2 == 0 and PASSES * rows * image_s > STEP_S:
        rows //= 2
    try:
        return _timed_steps(watch, job, method, data, rows) * size / rows, ""
    except Exception as error:
        return PASSES * size * image_s * method.step_cost(method.config), explain(error).what


def _timed_steps(watch: Stopwatch, job: Job, method: Method, data: MixData, rows: int) -> float:
    """Mean seconds of training steps on ``rows`` images, which the method alone gets to see."""
    few = data.splits.train.subset(data.batches.draw(0, 0).indices[:rows])
    dataset = method.wrap_dataset(augment_images(few, job.config.data))
    optimizer = method.configure_optimizers()["optimizer"]
    method.train()
    seconds: list[float] = []
    fetched: list[float] = []
    for number in range(TIMED_STEPS + 1):
        draw = data.batches.draw(number // len(data.batches), number % len(data.batches))
        shown = None if draw.shown is None else draw.shown[:rows]
        draw = draw._replace(indices=torch.arange(rows), shown=shown)
        batch, fetch = watch.time(functools.partial(dataset.__getitem__, draw))
        _, step = watch.time(functools.partial(_step, job, method, optimizer, batch, number))
        fetched.append(fetch)
        seconds.append(step)
        if len(seconds) > 2 and sum(seconds) + sum(fetched) > TIMED_S:
            break
    compute, fetch = (sum(times[1:]) / len(times[1:]) for times in (seconds, fetched))
    workers = job.config.data.workers
    if method.device.type == "cpu" or not workers:
        return compute + fetch  # by the same cores, or by those of other runs
    return max(compute, fetch / workers)


def _step(job: Job, method: Method, optimizer: Any, batch: Batch, number: int) -> None:
    batch = method.transfer_batch_to_device(batch, method.device, 0)
    method.reseed(0, number)
    with precision_context(job.config, job.device):
        logits, mixed = method.predict(method.mix_batch(batch))
        terms: Any = method.loss(logits, mixed)
    loss: Any = sum(terms.values()) if isinstance(terms, dict) else terms
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    method.step += 1
    method.after_step()


def _suite_images(job: Job, splits: Splits) -> float:
    """Forward passes that the suites are worth, as a number of images."""
    seen = job.config.epochs * len(splits.train)
    total = 0
    for suite in job.suites:
        skipped = suite.of_test or suite.refusal(splits.info)
        judge = None if skipped else suite.after_training(seen)
        if judge is not None:
            images = min(judge.limit or len(splits.test), len(splits.test))
            total += images * (judge.passes or SUITE_PASSES)
    return total / job.config.world
