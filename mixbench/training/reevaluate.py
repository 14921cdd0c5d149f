"""Finished runs, judged again: more suites for a record, and proof that a record is true."""

import dataclasses
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixbench.config.compose import compose_again, to_plain
from mixbench.config.names import SUITES
from mixbench.config.schema import EvalConfig, RunConfig, keys_not_in_identity
from mixbench.data.loaders import MixData
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import MixbenchError, RunFailedError, UserError
from mixbench.evaluation.calibration import Calibration
from mixbench.evaluation.inference import infer
from mixbench.evaluation.suite import Outcome, Suite, load_suite, load_suites
from mixbench.files import check_run_folder
from mixbench.methods.base import Method
from mixbench.methods.moco.base import ContrastiveMethod
from mixbench.metrics import topk
from mixbench.records.checkpoints import BEST, LAST, check_shapes, read_checkpoint
from mixbench.records.curves import read_curves
from mixbench.records.identity import differences
from mixbench.records.lock import locked
from mixbench.records.predictions import (
    FULL_PRECISION_CLASSES,
    PREDICTIONS,
    Predictions,
    read_predictions,
    write_predictions,
)
from mixbench.records.record import RECORD_SCHEMA, Record, cpu_name, read_record, write_record
from mixbench.records.selection import CHOICE_COLUMNS, choice_columns, peek_curve
from mixbench.records.weights import tested_checkpoint
from mixbench.tasks.base import Task
from mixbench.tracking.tensorboard import EVENTS, TensorBoardView
from mixbench.tracking.view import group_of, has_view, show_evaluation
from mixbench.training.build import build
from mixbench.training.callbacks.probe import neighbours
from mixbench.training.callbacks.suites import show_progress
from mixbench.training.facts import MISSING, Mismatch, other_configuration, other_facts
from mixbench.training.job import Job, resolve, task_of
from mixbench.training.sanity import chance, doubts

log = logging.getLogger("mixbench")
EXACT, ROUNDED = 1e-6, 1e-3  # tolerance relative to the larger of the value and 1
Outputs = tuple[Tensor, Tensor, Tensor]  # logits (N, K), labels, ids
ORDERED = ("aurc", "augrc", "aece", "aece_cf", "aece_ts")  # schema 1 took ties as the files came
FLIPPED = 0.5  # percent of the images whose attack may end otherwise on another machine


class Verified(NamedTuple):
    """A record that comes out as it was written, as far as it could be computed again.

    Attributes:
        record: The record; ``verified`` is true, or ``partly`` if a score or a fact is left.
        compared: Names of the scores that were compared.
        left: Why each of the others was not, by its name.
    """

    record: Record
    compared: list[str]
    left: dict[str, str]


@dataclass
class Network:
    """A finished run's network, where it computes, with its data."""

    job: Job
    method: Method
    data: MixData

    def outputs(self, loader: Any) -> tuple[Outputs, dict[str, Tensor]]:
        """Logits, labels and ids of a loader, and logits of other heads by name, on the CPU."""
        found = infer(self.method, loader)
        logits, labels, ids = (values.cpu() for values in found.compute())
        return (logits, labels, ids), {k: v.cpu() for k, v in found.extra().items()}

    def outcome(self, suite: Suite, folder: Path | None = None) -> Outcome:
        """Carry out a suite; parts that are finished are kept in ``folder`` until all are."""
        show = show_progress(suite, self.method.info.test_size)
        outcome = suite.run(self.method, self.data, ProcessGroup(), show, folder)
        outcome.facts["device"] = _device_name(self.job.device)
        return outcome


def evaluate_run(
    folder: Path, overrides: Sequence[str] = (), suites: Sequence[str] | None = None
) -> Record:
    """Judge the network of a finished run, and add the scores to its record and to W&B.

    A run that has no view in W&B gets none.

    Args:
        folder: Folder of the run.
        overrides: Keys that change how it is judged, such as ``eval.adv_n=1000``, or where. Those
            that ask for a suite, such as ``eval.gaze``, add it.
        suites: Names of suites in place of ``eval.suites``.

    Returns:
        The record, as it is on disk now.

    Raises:
        UserError: If the run is not finished, its files cannot be read, an override would change
            what was trained, or a suite does not fit the data.
    """
    config = configured_again(folder, overrides, suites)
    asked = load_suites(config.eval, {word.partition("=")[0] for word in overrides})
    if not asked:
        todo = f"name one: mixbench eval {folder} --suite adversarial"
        raise UserError("no suite is asked for, as eval.suites is empty", str(folder), todo)
    for suite in asked:
        suite.check()
    counting = [suite for suite in asked if not suite.of_test]
    check_run_folder(folder)
    with locked(folder):
        checkpoint = tested_checkpoint(folder)
        record = read_record(folder)
        of_test = len(counting) < len(asked)
        lost = of_test and not (folder / PREDICTIONS).exists()
        network = rebuild(folder, checkpoint, config, record) if counting or lost else None
        if network is not None:
            _check_fit(folder, counting, network)
            if lost:
                write_predictions(folder / PREDICTIONS, _tested(network)[0])
        found: dict[str, float] = {}
        if of_test:
            found = task_scores(task_of(config), read_predictions(folder / PREDICTIONS))
            record.metrics |= found
            record.verified, record.unverified = None, {}  # of other scores
            record.schema = RECORD_SCHEMA
            write_record(folder, record)
        try:
            for suite in counting if network is not None else ():
                outcome = network.outcome(suite, folder)  # type: ignore[union-attr]
                suite.log_outcome(outcome)
                for line in suite.add_to_record(outcome, record.metrics, record.evaluations):
                    log.warning("%s", line)
                record.verified, record.unverified = None, {}
                write_record(folder, record)  # what is found stays, if a later suite is stopped
                found |= outcome.scores
        except MixbenchError:
            _show(folder, record, config, found)
            raise
        _show(folder, record, config, found)
    return record


def verify_run(folder: Path, overrides: Sequence[str] = ()) -> Verified:
    """Compute the record of a finished run again.

    What the run is, from its checkpoint, its configuration and its data; its scores from weights,
    predictions and curves. The result is written to the record as ``verified``.

    Args:
        folder: Folder of the run.
        overrides: Keys that change where it is computed.

    Returns:
        The record, the names of the scores that were compared, and why others were not.

    Raises:
        UserError: If the run is not finished or its files cannot be read.
        RunFailedError: If a score or a fact differs.
    """
    # The record says what was carried out, which need not be what was asked for first.
    config = configured_again(folder, overrides, [])
    config.eval = dataclasses.replace(config.eval, attacks=[])
    check_run_folder(folder)
    compared: list[str] = []
    left: dict[str, str] = {}
    with locked(folder):
        tested_checkpoint(folder)
        record = read_record(folder)
        saved = read_checkpoint(folder / LAST)["mixbench"]
        facts, scores, place = other_configuration(folder, saved), [], record.device
        remedy = f"restore {'config.yaml' if facts else 'what was changed'}"
        if not facts:  # else nothing could be built again
            checkpoint = folder / (BEST if config.select == "val" else LAST)
            true = dataclasses.replace(record, data_hash=saved["data"], select=config.select)
            network = rebuild(folder, checkpoint, config, true)
            facts, left = other_facts(record, saved, network.job, network.method)
            facts += _other_marks(folder, record, saved, network)
            compared, scores, lacking = _compare(folder, record, network, config.eval)
            left |= lacking | {n: _why_not(n, record) for n in record.metrics if n not in compared}
            place = _device_name(network.job.device)
        wrong = bool(facts or scores)
        record.verified = False if wrong else "partly" if left else True
        record.unverified = left
        write_record(folder, record)
    if wrong:
        where = "" if place == record.device else f" (recorded on {record.device}, now on {place})"
        raise RunFailedError(
            f"{folder.name} does not verify: {_told(facts, scores)}{where}",
            str(folder),
            f"its files were changed or mixed up: {remedy} as it was, or carry the run out anew",
        )
    return Verified(record, compared, left)


def _other_marks(
    folder: Path, record: Record, saved: dict[str, Any], network: Network
) -> list[Mismatch]:
    """Words of caution that the record lacks or has too many; older versions gave none."""
    if "inputs" not in saved:
        return []
    size = len(network.data.splits.train)
    found = doubts(network.data.config, size) | chance(
        read_predictions(folder / PREDICTIONS), network.job.task
    )
    if sorted(found) == sorted(record.marks):
        return []
    return [Mismatch("marks", record.marks, list(found), "its predictions and configuration")]


def _equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are the same; NaN, an object that VOC calls difficult, equals itself."""
    return first.shape == second.shape and torch.allclose(first, second, 0, 0, equal_nan=True)


def _told(facts: list[Mismatch], scores: list[Mismatch]) -> str:
    """All that is wrong: facts and the worst score in full, and the names of other scores."""
    told = [str(item) for item in facts]
    if scores:
        worst = max(scores, key=lambda item: _distance(item.recorded, item.found))
        others = dict.fromkeys(item.name for item in scores if item.name != worst.name)
        told.append(str(worst))
        told += [f"these differ, too: {', '.join(others)}"] if others else []
    return "; ".join(told)


def rebuild(folder: Path, checkpoint: Path, config: RunConfig, record: Record) -> Network:
    """The network that a run was tested with, in eval mode.

    Args:
        folder: Folder of the run.
        checkpoint: Its weights.
        config: Its configuration.
        record: Its record.

    Returns:
        The network.

    Raises:
        UserError: If the data are no longer those that it was trained on, or the weights do not
            fit.
    """
    job = resolve(config)
    if job.device.type == "cpu":
        torch.set_num_threads(config.trainer.threads)
    if job.source.identity() != record.data_hash:
        raise UserError(
            f"the data are not those that {folder.name} was trained on: "
            f"{record.data_hash} then, {job.source.identity()} now",
            "data.root",
            "give the same files",
        )
    method, data = build(job, job.read_data())
    state, wanted = read_checkpoint(checkpoint)["state_dict"], method.state_dict()
    check_shapes(checkpoint, state, wanted)
    method.load_state_dict(state)
    return Network(job, method.to(job.device).eval(), data)


def _show(folder: Path, record: Record, config: RunConfig, scores: dict[str, float]) -> None:
    """Send scores to the view that the run has."""
    if not scores:
        return
    rows = _curves(folder)
    place = rows[-1] if rows else {}
    if config.logger == "tensorboard" and (folder / EVENTS).is_dir():
        view = TensorBoardView(folder, 0, to_plain(config))
        values = {f"test/{name}": value for name, value in scores.items()}
        view.log_metrics(values, int(place.get("step", 0)))
        view.close()
        return
    if not has_view(folder):
        if config.logger == "wandb" and config.wandb.mode != "disabled":
            log.info("%s has no view in W&B: the scores are in the record only", folder.name)
        return
    line = show_evaluation(
        folder,
        run_id=record.id,
        group=config.wandb.group or group_of(record),
        mode=config.wandb.mode,
        project=config.wandb.project,
        scores=scores,
        facts=record.evaluations,
        place=place,
    )
    if line:
        log.info("%s", line)


def _compare(
    folder: Path, record: Record, network: Network, config: EvalConfig
) -> tuple[list[str], list[Mismatch], dict[str, str]]:
    """Names of scores that were compared, what differs, and why others could not be compared."""
    found, extra = _tested(network)
    stored = read_predictions(folder / PREDICTIONS)
    whole = stored.logits.shape[1] <= FULL_PRECISION_CLASSES
    tolerance = EXACT if whole else ROUNDED
    task = network.job.task
    tested = task_scores(task, found)
    sources = {
        "its weights": tested | extra | _holdout_scores(task, found),
        "its predictions": task_scores(task, stored) | _holdout_scores(task, stored),
        "its curves": _curve_scores(folder, record, task.monitor),
    }
    # What the record must hold; an older version knew fewer scores.
    needed = {task.monitor, *_logged_scores(folder)}
    for facts in record.evaluations.values():
        needed |= {*facts.get("attacks", ())}
    compared: dict[str, None] = {}
    wrong: list[Mismatch] = []
    lacking: dict[str, str] = {}

    def check(name: str, value: float, source: str, allowed: float, suite: str = "") -> None:
        known = record.metrics.get(name)
        if known is None:
            if name in needed:
                wrong.append(Mismatch(name, MISSING, value, source))
            else:
                remedy = f"; mixbench eval RUN --suite {suite}" if suite else ""
                lacking[name] = f"the record lacks it{remedy}"
            return
        differs = not _distance(known, value) <= allowed
        if differs and record.schema == 1 and name in ORDERED:
            return
        compared[name] = None
        if differs:
            wrong.append(Mismatch(name, known, value, source))

    for source, scores in sources.items():
        for name, value in scores.items():
            check(name, value, source, tolerance, Calibration.name if name in tested else "")
    wrong += [
        Mismatch(f"{name} of the test images", "others", "these", "its data")
        for name in ("labels", "ids")
        if not _equal(getattr(stored, name), getattr(found, name))
    ]
    for name, facts in record.evaluations.items():
        suite = _recorded_suite(name, config)
        suite = suite and suite.as_recorded(facts)
        if suite is None:
            continue
        again = network.outcome(suite)
        for key, value in again.scores.items():
            allowed = tolerance
            if suite.varies(key):
                points = max(FLIPPED, 100 / again.facts["images"])
                allowed = points / max(1.0, abs(record.metrics.get(key, 0.0))) + EXACT
            check(key, value, "its weights", allowed, name)
        wrong += [
            Mismatch(f"{key} of {name}", facts[key], value, "its data")
            for key, value in again.facts.items()
            if type(value) is int and facts.get(key, value) != value
        ]
    return list(compared), wrong, lacking


def _check_fit(folder: Path, suites: Iterable[Suite], network: Network) -> None:
    for suite in suites:
        if reason := suite.refusal(network.method.info, network.method):
            raise UserError(
                f"no {suite.name} suite for {folder.name}: {reason}",
                "--suite",
                f"leave {suite.name} out",
            )
        suite.check_data(network.data.splits)


def _recorded_suite(name: str, config: EvalConfig) -> Suite | None:
    """A suite that a record names; None for one of another version, and for code to import."""
    return load_suite(name, config) if name in SUITES.names() else None


def task_scores(task: Task, predictions: Predictions) -> dict[str, float]:
    """All scores that need nothing else than stored outputs, by the names of a leaderboard row."""
    holdout = predictions.holdout[:2] if predictions.holdout else None
    return task.scores(predictions.logits, predictions.labels, holdout)


def _holdout_scores(task: Task, predictions: Predictions) -> dict[str, float]:
    """The hold-out score by which the epoch was chosen."""
    if predictions.holdout is None:
        return {}
    logits, labels, _ = predictions.holdout
    return {f"val_{task.monitor}": float(task.peek_score(logits, labels))}


def _curve_scores(folder: Path, record: Record, score: str) -> dict[str, float]:
    """Scores of the choice of an epoch by the monitored score, from ``metrics.csv``."""
    rows = _curves(folder)
    found: dict[str, float] = {}
    curve = [row[key] for row in rows if (key := f"val/{score}") in row]
    if record.select == "val" and len(curve) == record.epochs:
        best = max(curve)
        found |= {f"val_{score}": best, "best_epoch": float(curve.index(best))}
    return found | choice_columns(peek_curve(rows, score, record.epochs) or [], score)


def _logged_scores(folder: Path) -> set[str]:
    """Scores that the run's own test has found."""
    names = {name for row in _curves(folder) for name in row if name.startswith("test/")}
    return {name.removeprefix("test/") for name in names}


def _curves(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.csv"
    return read_curves(path)[0] if path.exists() else []


def _why_not(name: str, record: Record) -> str:
    """The reason why a score was not computed again."""
    if name in ORDERED:
        return "several predictions are equally sure; mixbench eval RUN --suite calibration"
    for key in SUITES.table:
        facts = record.evaluations.get(key, {})
        if reason := load_suite(key, EvalConfig()).unverified(name, facts):
            return reason
    if any(name == f"{score}_{column}" for score in ("top1", "map") for column in CHOICE_COLUMNS):
        return "metrics.csv lacks the test score of an epoch (peek/top1)"
    if name == "best_epoch" or name.startswith("val_"):
        return "metrics.csv lacks the hold-out's score of an epoch, or there is no hold-out"
    return "this version does not know it"


def _tested(network: Network) -> tuple[Predictions, dict[str, float]]:
    """Outputs of the test set and the hold-out, and accuracies of other heads."""
    method = network.method
    if isinstance(method, ContrastiveMethod):
        method.bank = neighbours(method, network.data)
    main, extra = network.outputs(network.data.test_dataloader())
    holdout = None
    if network.data.splits.val is not None:
        holdout = network.outputs(network.data.val_dataloader())[0]
    scores = {f"top1_{name}": float(topk(logits, main[1])) for name, logits in extra.items()}
    return Predictions(*main, holdout, tuple(method.info.class_names)), scores


def configured_again(
    folder: Path, overrides: Sequence[str], suites: Sequence[str] | None
) -> RunConfig:
    """The configuration of a run with another way to judge it, or another place.

    Args:
        folder: Folder of the run.
        overrides: Keys that do not change what was trained, and names of code that is trusted.
        suites: Names of suites in place of ``eval.suites``.

    Returns:
        The configuration for one process, without the file that its weights once came from.

    Raises:
        UserError: If there is no run, or a key says what was trained.
    """
    path = folder / "config.yaml"
    read_record(folder)  # says that there is no run, rather than no configuration
    words = list(overrides) + ([f"eval.suites=[{','.join(suites)}]"] if suites is not None else [])
    before, config = compose_again(path, words)
    changed = differences(to_plain(before), to_plain(config), keys_not_in_identity() - {"seed"})
    if changed:
        raise UserError(
            f"{next(iter(changed))} says what is trained, and the run is finished",
            str(path),
            "give keys of eval, trainer.accelerator, trainer.threads or data.root",
        )
    return dataclasses.replace(
        config, devices=1, num_nodes=1, net=dataclasses.replace(config.net, weights=None)
    )


def _distance(a: Any, b: Any) -> float:
    if isinstance(a, str):
        return math.inf
    if math.isnan(a) and math.isnan(b):
        return 0.0
    return abs(a - b) / max(1.0, abs(a))


def _device_name(device: torch.device) -> str:
    return f"{cpu_name()} (CPU)" if device.type == "cpu" else torch.cuda.get_device_name()
