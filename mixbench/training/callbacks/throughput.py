"""Speed of training, measured without slowing it: no synchronisation before the end."""

import resource
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

WARM_UP, MEASURED = 50, 200  # steps


class Throughput(Callback):
    """Median time of a training step after warm-up, and the share of it spent waiting for data.

    Short runs warm up for half of their steps.

    Args:
        total_batches: Training batches of the whole run.
        batch_size: Images per batch.
    """

    def __init__(self, total_batches: int, batch_size: int) -> None:
        self.warm_up = min(WARM_UP, total_batches // 2)
        self.batch_size = batch_size
        self._marks: list[Any] = []
        self._seen = 0
        self._ended = self._waited = self._spent = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock: evaluation and saving between two epochs are no wait for data."""
        self._ended = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the wait since the last batch."""
        now = time.perf_counter()
        if self._seen > self.warm_up:
            self._waited += now - self._ended

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Mark the end of a step, on the device's own clock if it has one."""
        now = time.perf_counter()
        if self._seen > self.warm_up:
            self._spent += now - self._ended
        self._ended = now
        self._seen += 1
        if self._seen == self.warm_up and pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        if self._seen >= self.warm_up and len(self._marks) <= MEASURED:
            if pl_module.device.type == "cuda":
                event = torch.cuda.Event(enable_timing=True)
                event.record()
                self._marks.append(event)
            else:
                self._marks.append(now)

    def results(self, device: torch.device) -> dict[str, float | None]:
        """Figures for the record.

        Args:
            device: Where training ran.

        Returns:
            ``ms_step``, ``img_per_s``, ``dataloader_wait_pct``, and ``peak_mem_gb``: allocated on
            a GPU, resident on a CPU. None where too few steps ran to tell.
        """
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        if device.type == "cuda":
            torch.cuda.synchronize()
            times = [first.elapsed_time(second) for first, second in pairs]
            memory = torch.cuda.max_memory_allocated() / 1e9
        else:
            times = [1e3 * (second - first) for first, second in pairs]
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        median = sorted(times)[len(times) // 2] if times else None
        return {
            "ms_step": median,
            "img_per_s": 1e3 * self.batch_size / median if median else None,
            "dataloader_wait_pct": 100 * self._waited / self._spent if self._spent else None,
            "peak_mem_gb": memory,
        }
