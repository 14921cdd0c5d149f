"""One try to finish a run: what it starts from, and how its end is recorded."""

import contextlib
import dataclasses
import json
import logging
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

from mixbench.backbones.base import StagedNet
from mixbench.config import yaml_files
from mixbench.config.compose import to_plain
from mixbench.config.overrides import flatten
from mixbench.config.schema import keys_not_in_identity
from mixbench.data.augment.epochs import BY_EPOCH
from mixbench.data.images import unused_line
from mixbench.data.loaders import MixData
from mixbench.distributed.process_group import ProcessGroup
from mixbench.distributed.signals import Stopped, StopSignals
from mixbench.errors import (
    InterruptedRunError,
    MixbenchError,
    PrintableFormatter,
    RunFailedError,
    UserError,
)
from mixbench.files import check_run_folder, open_log, remove_leftovers, write_text
from mixbench.leaderboard.costs import prior_hours
from mixbench.methods.base import Method
from mixbench.nn.optim import apply_settings
from mixbench.records.checkpoints import LAST, check_shapes, read_checkpoint, recovery_steps
from mixbench.records.identity import differences
from mixbench.records.lock import locked
from mixbench.records.marks import marks_of
from mixbench.records.predictions import PREDICTIONS, read_predictions
from mixbench.records.record import (
    Record,
    read_record,
    rename_damaged_record,
    write_record,
)
from mixbench.records.redaction import redact
from mixbench.records.weights import TESTED_PART
from mixbench.tracking.tensorboard import TensorBoardView
from mixbench.tracking.view import WandbView, group_of, wandb_logger
from mixbench.training.callbacks.checkpoint import Diverged
from mixbench.training.callbacks.progress import quiet_lightning
from mixbench.training.compile import compile_input, compile_stages, wants_compiled_input
from mixbench.training.facts import bit_exact, blended_hashes, kernel_choices
from mixbench.training.fit import Parts, fit_and_test, precision_context
from mixbench.training.job import Job, used_runs
from mixbench.training.sanity import chance, doubts

log = logging.getLogger("mixbench")
TRACEBACK, REPLAY = "traceback.txt", "diverged.json"
SPEED = ("img_per_s", "ms_step", "dataloader_wait_pct", "peak_mem_gb")
PICTURES = ("samples", "separated")  # that a view shows
RECORD_EVERY = 5.0  # seconds between notes of progress in the record
LONGEST_MESSAGE = 200  # characters of a message in a view
PATIENCE, HURRY = 30.0, 5.0  # seconds for W&B after a run that is done, and after one that is not


@dataclass
class Attempt:
    """One try to finish a run, by one of the processes that train together.

    Attributes:
        job: What is asked for.
        group: The processes.
        folder: Folder of the run.
        record: Its record, with the attempts before this one.
        method: The method around its network.
        data: The loaders.
        earlier: The record as the attempt before left it; for the leading process only.
        view: Where the run is shown beside its files; for the leading process only, and once it
            trains.
    """

    job: Job
    group: ProcessGroup
    folder: Path
    record: Record
    method: Method
    data: MixData
    earlier: Record | None = None
    view: WandbView | TensorBoardView | None = None

    def run(self, signals: StopSignals, allow_config_change: bool) -> Record:
        """Train from where the last attempt was saved, test, and record how it ended.

        Args:
            signals: What is asked from outside.
            allow_config_change: Go on with another configuration than the checkpoint's.

        Returns:
            The record of a run that is done.

        Raises:
            MixbenchError: If it did not get done.
        """
        leads = self.group.is_main
        if leads:
            check_run_folder(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if leads:
                stack.enter_context(locked(self.folder))
                stack.enter_context(_logged_to(self.folder / "log.txt"))
                remove_leftovers(self.folder)
                self._follow(rename_damaged_record(self.folder))
            if self.group.broadcast(self.record.status == "done"):
                log.info("%s was finished by another process meanwhile", self.folder.name)
                return read_record(self.folder)
            checkpoint = self._checkpoint(allow_config_change)
            self._begin(checkpoint)
            try:
                self._train(signals, checkpoint)
                self.record.status = "done" if _finite(self.record, self.method) else "diverged"
                if leads and self.record.status == "done":
                    self._mark(chance(read_predictions(self.folder / PREDICTIONS), self.job.task))
                if self.record.status == "diverged":
                    self.record.message = "weights or predictions are not finite"
            except Diverged as error:
                self.record.status, self.record.message = "diverged", str(error)
                self._keep_for_replay(error)
            except (KeyboardInterrupt, SystemExit, Stopped) as stop:
                self.record.status, self.record.message = "interrupted", "stopped from outside"
                raise self._named(
                    InterruptedRunError(
                        f"{self.folder.name} was interrupted"
                        + (f" by {signals.received}" if signals.received else ""),
                        str(self.folder),
                        f"give the same command again, or: mixbench resume {self.folder}",
                    )
                ) from stop
            except Exception as error:
                raise self._failed(error) from error
            finally:
                self._end()
        if self.record.status == "diverged":
            raise self._named(
                RunFailedError(
                    f"{self.folder.name} diverged: {self.record.message}",
                    str(self.folder),
                    "lower lr, or clip gradients (optim.clip)",
                )
            )
        return self.record

    def _follow(self, earlier: Record | None) -> None:
        """Continue the attempts of the record on disk, which no other process can change now."""
        record, self.earlier = self.record, earlier
        if earlier is None:
            return
        if earlier.status == "done":
            self.record = earlier
            return
        record.id, record.attempts = earlier.id, earlier.attempts
        record.config_changes = earlier.config_changes
        for key in SPEED:  # an attempt that only has to test measures none
            setattr(record, key, getattr(earlier, key))

    def _checkpoint(self, allow_config_change: bool) -> dict[str, Any] | None:
        """The last checkpoint, if there is one and it belongs to this configuration."""
        path = self.folder / LAST
        if not self.group.broadcast(path.exists()):
            if self.earlier is not None:
                changed = self._changed_since_start()
                self._accept(changed, self.folder, allow_config_change, {})
                log.info("%s has no checkpoint yet and starts from step 0", self.folder.name)
            return None
        checkpoint = read_checkpoint(path, recovery_steps(path))
        facts = checkpoint["mixbench"]
        accepted = self.record.config_changes
        # What no step of the checkpoint was trained under has changed nothing.
        self.record.config_changes = dict(facts.get("config_changes", accepted))
        changed = self._changed(facts)
        self._accept(changed, path, allow_config_change, accepted)
        if changed and (facts["epoch"], facts["batch"]) >= (self.job.config.epochs, 0):
            raise UserError(
                f"no step is left to train under the change: with epochs={self.job.config.epochs}, "
                f"{path.name} is trained",
                str(path),
                "undo the change, give more epochs, or start a new run",
            )
        self._check_optimizer(changed, path)
        try:
            configured = self.method.configure_optimizers()
            every = configured if isinstance(configured, list) else [configured]
            states, clocks = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
            for state, clock, each in zip(states, clocks, every, strict=True):
                apply_settings(state, clock, each)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"{path.name} does not hold the state of this run's optimiser"
            raise UserError(what, str(path), recovery_steps(path)) from error
        check_shapes(path, checkpoint["state_dict"], self.method.state_dict())
        name, step = self.folder.name, checkpoint["mixbench_step"]
        if facts["epoch"] == self.job.config.epochs:
            log.info("%s is trained and goes on with its test", name)
        else:
            log.info("%s goes on from step %d, in epoch %d", name, step, facts["epoch"] + 1)
        return checkpoint

    def _accept(
        self,
        changed: dict[str, list[Any]],
        place: Path,
        allow_config_change: bool,
        accepted: dict[str, list[Any]],
    ) -> None:
        """Refuse to go on under another configuration, or record that it is another.

        Args:
            changed: Old and new value by key.
            place: File or folder, for the message.
            allow_config_change: Whether any other configuration may be.
            accepted: Changes that an earlier attempt was allowed, as ``changed``.
        """
        known = all(
            key in accepted and accepted[key][1] == new for key, (_, new) in changed.items()
        )
        if not known and not allow_config_change:
            shown = "; ".join(f"{key}: {old} -> {new}" for key, (old, new) in changed.items())
            raise UserError(
                f"the configuration differs from that of the earlier attempt: {shown}",
                str(place),
                "undo the change, start a new run, or give --allow-config-change",
            )
        known = self.record.config_changes
        for key, (old, new) in changed.items():
            known[key] = [known[key][0] if key in known else old, new]
        if known:
            self._blend()

    def _check_optimizer(self, changed: dict[str, list[Any]], path: Path) -> None:
        """Refuse changes under which the state in a checkpoint is that of another optimiser."""
        average = changed.get("optim.ema", [0, 0])
        found = [key for key in ("optim.name", "optim.decay_all") if key in changed]
        found += ["optim.ema"] * ((average[0] is None) != (average[1] is None))
        if found:
            old, new = changed[found[0]]
            raise UserError(
                f"{path.name} holds the state of training with {found[0]}={old}, not {new}",
                str(path),
                "undo the change, or start a new run",
            )

    def _changed(self, facts: dict[str, Any]) -> dict[str, list[Any]]:
        """Values that decide a run and were others in an earlier attempt.

        Files that the run starts from count by their content, wherever they lie; an older version
        noted their names only.

        Args:
            facts: Configuration, files and data of that attempt, as its checkpoint holds them.

        Returns:
            Old and new value by key.
        """
        before, now = facts.get("inputs", {}), self.record.inputs
        hashed = {**before, **now} if "inputs" in facts else {}
        ignored = keys_not_in_identity() - {"seed"} | hashed.keys()
        changed = differences(facts["config"], redact(to_plain(self.job.config)), ignored)
        known, plain = dict(flatten(facts["config"])), dict(flatten(self.job.defaults))
        # An older version lacks keys of this one, and did what their defaults say.
        changed = {k: v for k, v in changed.items() if k in known or v[1] != plain.get(k)}
        for key in hashed:
            old, new = before.get(key, {}), now.get(key, {})
            if old.get("content") != new.get("content"):
                changed[key] = [_file_in_words(old), _file_in_words(new)]
        if facts["data"] != self.record.data_hash:
            changed["data (content)"] = [facts["data"], self.record.data_hash]
        return changed

    def _changed_since_start(self) -> dict[str, list[Any]]:
        """Values of :meth:`_changed` where no checkpoint was written yet."""
        earlier, path = self.earlier, self.folder / "config.yaml"
        assert earlier is not None
        same = (earlier.config_hash, earlier.seed) == (self.record.config_hash, self.record.seed)
        if same or not path.exists():
            return {}
        facts = {"config": yaml_files.read(path)[0], "data": earlier.data_hash}
        return self._changed(facts | ({"inputs": earlier.inputs} if earlier.row_hash else {}))

    def _blend(self) -> None:
        """Keep the run out of the rows of either configuration."""
        record = self.record
        for name, value in blended_hashes(vars(record), record.config_changes).items():
            setattr(record, name, value)

    def _begin(self, checkpoint: dict[str, Any] | None) -> None:
        record, attempts = self.record, self.record.attempts
        for earlier in attempts:
            if earlier.get("status") == "running":  # killed before it could say so
                earlier["status"] = "interrupted"
        method, context = self.method, precision_context(self.job.config, self.job.device)
        if self.job.config.trainer.compile:
            data = method.info
            method.to(self.job.device)
            rows = method.grown(self.data.batches.batch_size)  # another size is traced anew
            size = (rows, data.channels, data.height, data.width)
            x = method._layout(torch.zeros(size, device=self.job.device))
            nets = [n for n in method.modules() if n is method.net or isinstance(n, StagedNet)]
            record.compiled = all([compile_stages(net, x, context) for net in nets])
        if wants_compiled_input(method, self.job.device):
            method.to(self.job.device)
            rows, by_epoch = self.data.batches.batch_size, self.data.augment_by == BY_EPOCH
            record.compiled_input = compile_input(method, rows, context, by_epoch)
        record.engine = self.job.config.trainer.engine
        record.augment_by = self.data.augment_by
        machine = {
            "device": record.device,
            "devices": self.group.world,
            "threads": record.threads,
            "compiled": record.compiled,
            "compiled_input": record.compiled_input,
            "engine": record.engine,
            "augment_by": record.augment_by,
            "deterministic": self.job.device.type == "cpu" or self.job.config.trainer.deterministic,
            "torch": str(torch.__version__),
            "commit": record.commit,
        }
        machine |= kernel_choices(self.job.config.trainer, self.job.device)
        start = checkpoint["mixbench_step"] if checkpoint else 0
        attempts.append(
            {
                "number": len(attempts) + 1,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "status": "running",
                "from_step": start,
                "machine": machine,
            }
        )
        record.resumed_bit_exact = bit_exact(attempts, changed=bool(record.config_changes))
        self._started = self._noted = time.monotonic()
        if not self.group.is_main:
            return
        self._mark(doubts(self.job.config, len(self.data.splits.train)))
        text = OmegaConf.to_yaml(redact(to_plain(self.job.config)))
        write_text(self.folder / "config.yaml", text)
        write_record(self.folder, record)
        for name in (TRACEBACK, REPLAY):
            (self.folder / name).unlink(missing_ok=True)
        if record.label_noise is not None:
            share = 100 * record.label_noise
            log.info("data.labels changed %.2f %% of the training labels", share)
        if ":" in record.augment_by:
            log.warning("data.augment_by=epoch has no effect: %s", record.augment_by)
        for notice in record.notices:
            log.info("%s", notice)
        if record.unused:
            log.info("%s", unused_line(record.unused))

    def _mark(self, found: dict[str, str]) -> None:
        """Mark the run in tables, and say why."""
        self.record.marks += found
        for sentence in found.values():
            log.warning("%s", sentence)

    def _train(self, signals: StopSignals, checkpoint: dict[str, Any] | None) -> None:
        parts = Parts(self.job, self.folder, self.method, self.data, self.group)
        record, tested = self.record, self.method.tested
        facts = {
            "config": redact(to_plain(self.job.config)),
            "info": dataclasses.asdict(self.method.info),
            "id": record.id,
            "data": record.data_hash,
            "inputs": record.inputs,
            "config_changes": record.config_changes,
            TESTED_PART: next(
                (n for n, part in self.method.named_modules() if part is tested), "net"
            ),
        }
        with warnings.catch_warnings():
            quiet_lightning()
            if self.group.is_main:
                self.view = self._open_view()
            views: list[Logger] = [self.view] if self.view else []
            found = fit_and_test(parts, signals, checkpoint, facts, views, self._note)
        record.metrics |= found.metrics
        for suite, outcome in found.suites:
            suite.add_to_record(outcome, record.metrics, record.evaluations)
        record.cuda_graphs = found.cuda_graphs or record.cuda_graphs
        for key, value in found.speed.items():
            setattr(record, key, value)

    def _open_view(self) -> WandbView | TensorBoardView | None:
        """The view that ``logger`` asks for."""
        config, record = self.job.config, self.record
        if config.logger == "none":
            return None
        if config.logger == "tensorboard":
            first_step = record.attempts[-1]["from_step"]
            return TensorBoardView(self.folder, first_step, to_plain(config))
        return wandb_logger(
            self.folder,
            run_id=record.id,
            group=config.wandb.group or group_of(record),
            attempt=len(record.attempts),
            mode=config.wandb.mode,
            project=config.wandb.project,
            config=to_plain(config),
            tags=[record.method, record.data, record.net, record.recipe, *config.run.tags],
            notes=config.run.notes,
            job_type="train" if config.data.race_fold is None else "selection",
            test=config.wandb.test,
        )

    def _close_view(self) -> None:
        """Show how the run ended, which holds up no run that has to stop."""
        record = self.record
        if self.view is None:
            return
        done = record.status == "done"
        for name in PICTURES if done else ():
            if (self.folder / f"{name}.png").exists():
                self.view.log_image(name, [str(self.folder / f"{name}.png")])
        tested = self.job.config.wandb.test or not isinstance(self.view, WandbView)
        if done and not tested:
            self.view.summarize({"status": record.status})
            self.view.close(PATIENCE)
            return
        told = [*marks_of(record), *([] if done else [record.message[:LONGEST_MESSAGE]])]
        health = ", ".join(told) or "sound"
        others = {name: getattr(record, name) for name in ("wall_s", *SPEED)}
        self.view.summarize({"status": record.status, "health": health} | record.metrics | others)
        self.view.close(PATIENCE if done else HURRY)

    def _note(self, epoch: int, step: int) -> None:
        """Write the progress of training from time to time."""
        now = time.monotonic()
        attempt = self.record.attempts[-1]
        attempt |= {"epochs": epoch, "steps": step, "wall_s": now - self._started}
        if self.group.is_main and now - self._noted > RECORD_EVERY:
            self._noted = now
            with contextlib.suppress(OSError):
                write_record(self.folder, self.record)

    def _end(self) -> None:
        record, attempt = self.record, self.record.attempts[-1]
        attempt |= {"status": record.status, "wall_s": time.monotonic() - self._started}
        # Whether kernels can be launched, and images augmented ahead, is known for sure by now.
        attempt["machine"] |= kernel_choices(self.job.config.trainer, self.job.device)
        record.augment_by = attempt["machine"]["augment_by"] = self.data.augment_by
        record.resumed_bit_exact = bit_exact(record.attempts, changed=bool(record.config_changes))
        record.wall_s = sum(known.get("wall_s", 0.0) for known in record.attempts)
        if self.job.device.type == "cuda":
            judged = sum(facts["seconds"] for facts in record.evaluations.values())
            record.gpu_hours = (record.wall_s - judged) * record.device_count / 3600
        record.prior_hours |= prior_hours(record, used_runs(self.job.config))
        if record.gpu_hours is not None:
            record.gpu_hours += sum(record.prior_hours.values())
        if not self.group.is_main:
            return
        try:
            write_record(self.folder, record)
        except OSError as error:
            if record.status == "done":
                raise RunFailedError(
                    f"the record cannot be written: {error.strerror}",
                    str(self.folder),
                    "free some space and give the same command again",
                ) from error
            log.warning("the record cannot be written: %s", error.strerror)
        finally:
            self._close_view()

    def _failed(self, error: Exception) -> MixbenchError:
        record = self.record
        if isinstance(error, MixbenchError):
            record.status, record.message = "failed", error.what
            return self._named(error)
        record.status = "failed"
        record.message = f"{type(error).__name__}: {error}"
        where = self.folder / (TRACEBACK if self.group.is_main else f"rank{self.group.rank}.txt")
        with contextlib.suppress(OSError):
            write_text(where, traceback.format_exc())
        what = f"{self.folder.name} failed: {record.message.splitlines()[0]}"
        todo = "see the traceback there"
        if isinstance(error, torch.OutOfMemoryError):
            parts = 2 * self.job.config.optim.accumulate
            todo = f"use optim.accumulate={parts}, which keeps the batch whole, or precision=bf16"
        elif "DataLoader" in record.message:  # one of its processes died, or answers no more
            workers = self.job.config.data.workers
            todo = f"use fewer than data.workers={workers}, as each takes memory of its own"
        return self._named(RunFailedError(what, str(where), todo))

    def _named(self, error: MixbenchError) -> MixbenchError:
        """Name the run of an error, for the process that started several ranks."""
        error.folder = self.folder  # type: ignore[attr-defined]
        return error

    def _keep_for_replay(self, error: Diverged) -> None:
        """Write down the first bad batch: where it is, and what was decided for it."""
        if error.epoch is None or error.batch is None:
            return
        draw = self.data.batches.draw(error.epoch, error.batch)
        content: dict[str, Any] = {
            "seed": self.job.config.seed,
            "epoch": error.epoch,
            "batch": error.batch,
            "rank": self.group.rank,
            "world": self.group.world,
            "rows": draw.indices.tolist(),
        }
        try:  # with weights that are no longer finite some methods cannot decide again
            dataset = self.method.wrap_dataset(self.data.splits.train)
            method = self.method.cpu().train()
            method.reseed(error.epoch, error.batch)
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiled elsewhere
                mixed = method.mix_batch(dataset[draw])
            for key in ("lam", "perm"):
                value = getattr(mixed, key)
                content[key] = None if value is None else value.tolist()
        except Exception as cause:
            content["note"] = f"the batch cannot be mixed again: {cause}"
        name = REPLAY if self.group.is_main else f"rank{self.group.rank}-{REPLAY}"
        with contextlib.suppress(OSError):
            write_text(self.folder / name, json.dumps(content) + "\n")


def _file_in_words(file: dict[str, str]) -> str | None:
    return f"{file['name']} ({file['content']})" if file else None


def _finite(record: Record, method: Method) -> bool:
    weights = all(bool(torch.isfinite(p).all()) for p in method.parameters())
    nll = record.metrics.get("nll", 0.0)
    return weights and nll == nll and abs(nll) != float("inf")


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    file = open_log(path)
    handler = logging.StreamHandler(file)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(message)s"))
    handler.handleError = lambda record: None  # a full disk costs log lines, not the run
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        with contextlib.suppress(OSError):  # as above
            file.close()
