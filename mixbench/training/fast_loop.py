"""The training batches of an epoch, without what Lightning's own loop costs for each of them.

The Trainer stays: set-up, epochs, evaluation, callbacks, devices and checkpoints are its own, and
so is the state of the loop, so that either loop goes on from a checkpoint of the other. Lightning
calls every hook for every batch, with a profiler and a search for logged values around it. Here a
hook is called only where the method or a callback has one, and then by the same part of Lightning.
"""

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

from mixbench.methods.lightning_hooks import LightningHooks
from mixbench.training.step_graphs import StepGraphs

BATCH = ("on_train_batch_start", "on_train_batch_end")
MOVES = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
BACKWARD = ("on_before_backward", "backward", "on_after_backward")
ZERO_GRAD = ("on_before_zero_grad", "optimizer_zero_grad")
STEP = ("configure_optimizers", "optimizer_step")
CLIPPING = ("on_before_optimizer_step", "configure_gradient_clipping")
LIMITS = attrgetter("gradient_clip_val", "gradient_clip_algorithm")


class FastTrainingLoop(_TrainingEpochLoop):
    """Takes the place of Lightning's loop over the batches of an epoch.

    Weights, calls of hooks, logged values and the checkpoint after each step are the same, bit for
    bit on a CPU. Two things pass through Lightning's own loop, whole: the first batch after a
    resume, and every batch of a method that has a hook of :data:`BATCH` itself. A method that takes
    its steps itself takes them by Lightning's wrappers of its optimisers, as there. With
    ``trainer.cuda_graphs`` both passes of a step, and the first part of its update, are replayed
    where they can be; everything around them stays.

    Args:
        trainer: The Trainer whose loop it becomes.
    """

    graphs: StepGraphs | None = None

    def on_run_start(self, data_fetcher: Any) -> None:
        """Find out what there is to call; once an epoch."""
        super().on_run_start(data_fetcher)
        data_fetcher._start_profiler = data_fetcher._stop_profiler = _nothing
        trainer = self.trainer
        module: Any = trainer.lightning_module
        strategy = trainer.strategy
        self._module, self._strategy = module, strategy
        self._parts = trainer.accumulate_grad_batches
        plugin = strategy.precision_plugin
        plain = type(plugin).convert_input is Precision.convert_input
        on_cpu = strategy.root_device.type == "cpu"
        self._moves = not (on_cpu and plain) or self._changed(*MOVES)
        self._whole = any(is_overridden(name, module) for name in BATCH)
        self._starts, self._ends = (_bound(trainer, name) for name in BATCH)
        self._counted = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        self._zero_grad = self._changed(*ZERO_GRAD)
        self._backward = self._changed(*BACKWARD)
        self._hooked = self._changed(*CLIPPING)
        self._plain_step = all(
            getattr(type(module), name) is getattr(LightningHooks, name) for name in STEP
        )
        self._plain_schedule = not self._changed("lr_scheduler_step") and all(
            (each.interval, each.frequency, each.reduce_on_plateau) == ("step", 1, False)
            for each in trainer.lr_scheduler_configs
        )
        self._known, self._logs = -1, False
        if self.graphs is None and module.run.trainer.cuda_graphs:
            ordinary = module.automatic_optimization and self._plain_step
            ordinary = ordinary and not (self._whole or self._zero_grad or self._backward)
            why = "" if ordinary else "the method or a callback has hooks around the passes"
            hooks = "the method or a callback has hooks in front of the update"
            optimizer = strategy.optimizers[0]
            clip = partial(module.clip_gradients, optimizer)  # leaves them without a threshold
            limits = partial(LIMITS, trainer)
            outside = hooks if self._hooked else ""
            self.graphs = StepGraphs(module, why, optimizer, clip, limits, outside)

    def advance(self, data_fetcher: Any) -> None:
        """Train on the batches up to the end of the epoch, or to where training is to stop."""
        if self.restarting or self._whole:
            super().advance(data_fetcher)
            return
        while True:
            steps = self._train_batch(data_fetcher)
            if self._num_ready_batches_reached() or self.trainer.should_stop:
                return
            if not self._plain_schedule:  # it may wait for a score, which Lightning looks at next
                return
            self._batches_that_stepped += steps

    def _train_batch(self, data_fetcher: Any) -> bool:
        """Train on the next batch; True if the optimiser stepped."""
        trainer, progress, results = self.trainer, self.batch_progress, self._results
        module, connector = self._module, trainer._logger_connector
        batch = self._next(data_fetcher)
        index = progress.current.ready
        progress.is_last_batch = data_fetcher.done
        if self._moves:
            batch = self._strategy.precision_plugin.convert_input(batch)
            batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
            batch = call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)
        progress.increment_ready()
        steps = not self._should_accumulate()
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size = batch, None
        self._call(self._starts, BATCH[0], trainer, module, batch, index)
        progress.increment_started()
        given = (batch, index) if self._counted else (batch,)
        if module.automatic_optimization:
            outputs = self._train(index, given, steps)
        else:
            outputs = self.manual_optimization.run(dict(enumerate(given)))  # type: ignore[arg-type]
        progress.increment_processed()
        if not self._plain_schedule:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        elif steps and module.automatic_optimization:
            self._schedule()
        self._call(self._ends, BATCH[1], trainer, module, outputs, batch, index)
        logged = self._has_logged()
        if logged:
            connector.on_batch_end()
        results.batch = None
        progress.increment_completed()
        if logged:
            connector.update_train_step_metrics()
        return steps

    def _next(self, data_fetcher: Any) -> Any:
        """The next batch, from the loader itself where Lightning knows how many there are."""
        if data_fetcher.length is None:
            batch, *_ = next(data_fetcher)
            return batch
        batch = next(data_fetcher.iterator._iterator.iterators[0])
        data_fetcher.fetched += 1
        data_fetcher.done = data_fetcher.fetched >= data_fetcher.length
        return batch

    def _train(self, index: int, given: tuple[Any, ...], steps: bool) -> dict[str, Any]:
        """Both passes of a micro-batch, and a step of the optimiser at the end of a batch."""
        strategy, own = self._strategy, self.automatic_optimization
        optimizer, outputs = strategy.optimizers[0], {}

        def passes() -> Tensor | None:
            loss = self._forward(given, outputs)
            if self.graphs is not None and self.graphs.replayed:
                self._count_cleared()
                return outputs.get("loss")
            if index % self._parts == 0:
                self._clear(index, optimizer)
            if loss is not None and self._backward:
                strategy.backward(loss, optimizer)
            elif loss is not None:
                loss.backward()
            return outputs.get("loss")

        if not steps:
            with _block_parallel_sync_behavior(strategy, block=True):
                passes()
        elif self._plain_step:
            counter, epoch = own.optim_progress.optimizer.step, self.trainer.current_epoch
            counter.increment_ready()
            passes()  # not by the optimiser: those of the recipes need them once
            update = None if self.graphs is None else self.graphs.update
            if update is None and (self._hooked or self.trainer.gradient_clip_val is not None):
                strategy.precision_plugin._after_closure(self._module, optimizer)
            self._module.optimizer_step(epoch, index, update or optimizer)
            counter.increment_completed()
        else:
            own._optimizer_step(index, passes)
        return outputs

    def _forward(self, given: tuple[Any, ...], outputs: dict[str, Any]) -> Tensor | None:
        """The loss that goes backward; ``outputs`` gets what callbacks are given."""
        step = [self._strategy.training_step]
        if self.graphs is None:
            (loss,) = self._call(step, "training_step", *given)
        else:
            vars(self._module)["passes"] = self.graphs  # not in steps of Lightning's own loop
            try:
                (loss,) = self._call(step, "training_step", *given)
            finally:
                del vars(self._module)["passes"]
        if self._parts == 1 and isinstance(loss, Tensor):
            outputs["loss"] = loss.detach()
            return loss
        if loss is None and self.trainer.world_size > 1:
            raise RuntimeError("training_step returned None, which several processes cannot skip")
        own = self.automatic_optimization.output_result_cls
        result = own.from_training_step_output(loss, self._parts)
        outputs |= {} if result.loss is None else result.asdict()
        return result.closure_loss

    def _call(self, functions: list[Callable[..., Any]], name: str, *args: Any) -> list[Any]:
        """Call what a hook consists of; ``self.log`` asks for its name."""
        module = vars(self._module)  # to set an attribute of a module takes longer than all else
        before, module["_current_fx_name"] = module["_current_fx_name"], name
        found = [function(*args) for function in functions]
        module["_current_fx_name"] = before
        return found

    def _clear(self, index: int, optimizer: Optimizer) -> None:
        """Clear the gradients in front of the first backward pass of a batch."""
        own = self.automatic_optimization
        if self._zero_grad:
            own._on_before_zero_grad(optimizer)
            own._optimizer_zero_grad(index, optimizer)
            return
        optimizer.zero_grad()
        self._count_cleared()

    def _count_cleared(self) -> None:
        counter = self.automatic_optimization.optim_progress.optimizer.zero_grad
        counter.increment_ready()
        counter.increment_started()
        counter.increment_completed()

    def _schedule(self) -> None:
        """Let the learning rates follow a step."""
        for each in self._strategy.lr_scheduler_configs:
            self.scheduler_progress.increment_ready()
            each.scheduler.step()  # type: ignore[call-arg]
            self.scheduler_progress.increment_completed()

    def _has_logged(self) -> bool:
        """Whether single batches have given something to ``self.log``."""
        if len(self._results) != self._known:
            self._known = len(self._results)
            self._logs = not all(key.startswith("on_train_epoch_end.") for key in self._results)
        return self._logs

    def _changed(self, *names: str) -> bool:
        """Whether the method, the data or a callback has one of these hooks."""
        trainer: Any = self.trainer
        owners = [trainer.lightning_module, trainer.datamodule, *trainer.callbacks]
        known = [(name, owner) for owner in owners for name in names if hasattr(owner, name)]
        return any(is_overridden(name, owner) for name, owner in known)


def _bound(trainer: Trainer, name: str) -> list[Callable[..., Any]]:
    """A hook of the callbacks that have it, in their order."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [getattr(each, name) for each in callbacks if is_overridden(name, each)]


def _nothing() -> None:
    return
