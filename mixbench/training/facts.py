"""The part of a record that follows from a run's configuration, data and network alone.

It is written when a run starts, and computed again to verify the record.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mixbench.config import yaml_files
from mixbench.config.overrides import flatten
from mixbench.config.schema import RunConfig, TrainerConfig, keys_not_in_identity
from mixbench.errors import UserError
from mixbench.functional.sinkhorn import launches_once
from mixbench.methods.base import Method
from mixbench.records.checkpoints import LAST
from mixbench.records.identity import Identity, InputFile, changed_hash, differences
from mixbench.records.record import Record, cpu_name, environment
from mixbench.training.build import multiply_adds
from mixbench.training.job import Job, input_files

HASHES = ("config_hash", "row_hash", "recipe_hash", "family_hash")
# What records of older versions lack, and the value that they are read with.
ADDED = {"row_hash": "", "family_hash": "", "params": 0, "params_train": 0, "macs": 0}
ADDED |= {"batch_size": 0, "division": "", "folds": None, "fold": None}
ADDED |= {"race_fold": None}
MISSING = "missing"  # what is recorded of a score that somebody has taken out
# What the data says of itself when it is read.
SEEN = ("notices", "unused", "shared_images", "skipped_test")
# Fields of a record by those of an attempt.
MACHINE = {"device": "device", "device_count": "devices", "threads": "threads"}
MACHINE |= {"compiled": "compiled", "compiled_input": "compiled_input"}
MACHINE |= {"engine": "engine", "augment_by": "augment_by", "commit": "commit"}
SAME_WEIGHTS = {"engine", "augment_by"}  # of these, what changes no weight


@dataclass
class Mismatch:
    """A score or a fact that does not come out as it was recorded."""

    name: str
    recorded: Any
    found: Any
    source: str  # what it was computed from

    def __str__(self) -> str:
        recorded, found = (
            f"{value:.8g}" if isinstance(value, float) else str(value)
            for value in (self.recorded, self.found)
        )
        known = MISSING if self.recorded is MISSING else f"recorded as {recorded}"
        return f"{self.name} is {known} and comes out as {found} from {self.source}"


def run_facts(job: Job, identity: Identity, method: Method) -> dict[str, Any]:
    """Facts of a run that can be computed at any time.

    Args:
        job: What is asked for.
        identity: Its id and hashes.
        method: The method around its network.

    Returns:
        Fields of :class:`mixbench.records.record.Record`.
    """
    info, config = method.info, job.config
    return {
        "id": identity.id,
        "method": job.name,
        "data": info.name,
        "net": config.net.name,
        "recipe": config.recipe,
        "seed": config.seed,
        "epochs": config.epochs,
        "select": config.select,
        "config_hash": identity.config_hash,
        "recipe_hash": identity.recipe_hash,
        "data_hash": identity.data_hash,
        "family_hash": identity.family_hash,
        "row_hash": identity.row_hash,
        "inputs": identity.inputs,
        "task": config.task,
        "fidelity": method.fidelity,
        "settings": identity.settings,
        "precision": config.precision,
        "batch_size": config.batch_size,
        "params": sum(p.numel() for p in method.net.parameters()),
        "params_train": sum(p.numel() for p in method.parameters()),
        "macs": multiply_adds(method),
        "train_size": info.train_size,
        "test_size": info.test_size,
        "division": info.division,
        "folds": config.data.folds,
        "fold": config.data.fold,
        "skipped": info.skipped,
        "official": info.official,
        "label_noise": info.label_noise,
        "race_fold": config.data.race_fold,
    } | {name: getattr(info, name) for name in SEEN}


def new_record(job: Job, method: Method) -> Record:
    """The record of a run before its first step.

    Args:
        job: What is asked for.
        method: The method around its network.

    Returns:
        The record, which is not written yet.
    """
    device = f"{cpu_name()} (CPU)" if job.device.type == "cpu" else torch.cuda.get_device_name()
    return Record(
        **run_facts(job, job.identity, method),
        device=device,
        device_count=job.config.world,
        threads=job.config.trainer.threads,
        **environment(),
    )


def blended_hashes(facts: dict[str, Any], changes: dict[str, Any]) -> dict[str, str]:
    """Hashes of a run whose configuration was changed during the run; no other run shares them.

    Args:
        facts: Hashes of the configuration that it was changed to, by field.
        changes: Old and new value by key.

    Returns:
        Other hashes by field.
    """
    return {name: changed_hash(facts[name], changes) for name in HASHES}


def bit_exact(attempts: list[dict[str, Any]], changed: bool) -> bool | None:
    """Whether all attempts since step 0 computed alike.

    GPU kernels that add in any order compute alike only by chance.

    Args:
        attempts: As the record lists them.
        changed: Whether the configuration was changed during the run.

    Returns:
        None where there was one only.
    """
    starts = [n for n, attempt in enumerate(attempts) if attempt.get("from_step", 0) == 0]
    if not starts:  # what came before is not known
        return False
    chain = attempts[starts[-1] :]
    if len(chain) == 1:
        return None
    first, *others = (_that_counts(known.get("machine")) for known in chain)
    alike = all(other == first for other in others)
    return alike and not changed and bool(first and first.get("deterministic"))


def kernel_choices(trainer: TrainerConfig, device: torch.device) -> dict[str, bool]:
    """Choices of kernels that weights may depend on, for the machine of an attempt.

    Args:
        trainer: How the run is carried out.
        device: Where it trains.

    Returns:
        Whether steps are replayed, and whether transport plans are solved in one launch. Nothing
        on a CPU, where there is no choice: attempts of older versions did not note any.
    """
    if device.type == "cpu":
        return {}
    graphs = trainer.cuda_graphs and trainer.engine == "fast"
    return {"cuda_graphs": graphs, "sinkhorn_in_one_launch": launches_once(device)}


def _that_counts(machine: dict[str, Any] | None) -> dict[str, Any] | None:
    """What weights may depend on, of the machine of an attempt."""
    if machine is None:
        return None
    return {key: value for key, value in machine.items() if key not in SAME_WEIGHTS}


def other_configuration(folder: Path, saved: dict[str, Any]) -> list[Mismatch]:
    """Keys in which ``config.yaml`` is not what the checkpoint was trained with.

    Keys that say how or where a run is carried out may differ, as the last attempt may only have
    tested. A key of a newer version is not in the checkpoint; its default is no difference, and
    another value makes another hash.

    Args:
        folder: Folder of the run.
        saved: What its last checkpoint says of the run.

    Returns:
        The keys with both values.

    Raises:
        UserError: If ``config.yaml`` cannot be read.
    """
    text, _ = yaml_files.read(folder / "config.yaml")
    known = dict(flatten(saved["config"]))
    # A file that a run starts from may lie elsewhere now; the record holds its content.
    ignored = keys_not_in_identity() - {"seed", "recipe"} | saved.get("inputs", {}).keys()
    changed = differences(saved["config"], text, ignored)
    return [
        Mismatch(f"{key} in config.yaml", written, value, LAST)
        for key, (value, written) in changed.items()
        if key in known
    ]


def other_facts(
    record: Record, saved: dict[str, Any], job: Job, method: Method
) -> tuple[list[Mismatch], dict[str, str]]:
    """Facts in a record that are not those of checkpoint, configuration, data and network.

    Args:
        record: The record.
        saved: What the run's last checkpoint says of it.
        job: The run as its configuration, which is the checkpoint's, asks for it.
        method: The method around its network, on its data.

    Returns:
        What differs, and why the rest could not be computed, by name.
    """
    changes = saved.get("config_changes", record.config_changes)
    left: dict[str, str] = {}
    named = "inputs" in saved  # an older version did not note the files
    files = saved["inputs"] if named else _files_of_before(saved["config"], job.config, left)
    inputs = {key: InputFile(**file) for key, file in files.items()}
    expected = run_facts(job, job.identify(inputs), method)
    expected |= {"config_changes": changes, "inputs": files if named else {}}
    for name in SEEN:  # what lies beside the images may change; an older version did not look
        recorded = getattr(record, name)
        if saved["info"].get(name, recorded) == recorded:
            expected[name] = recorded
    if changes:  # the id is that of the configuration at the start
        expected |= blended_hashes(expected, changes) | {"id": saved["id"]}
    wrong = []
    for name, value in expected.items():
        recorded = getattr(record, name)
        unknown = not named and name in ADDED and recorded == ADDED[name]
        if name not in left and not unknown and json.loads(json.dumps(value)) != recorded:
            wrong.append(Mismatch(name, recorded, value, "configuration, data and network"))
    trained = {"id": saved["id"], "data_hash": saved["data"], "epochs": saved["epoch"]}
    names = {item.name for item in wrong}
    wrong += [
        Mismatch(name, getattr(record, name), value, LAST)
        for name, value in trained.items()
        if name not in names and getattr(record, name) != value
    ]
    told = _told_by_attempts(record.attempts, bool(changes))
    wrong += [
        Mismatch(name, getattr(record, name), value, "its attempts")
        for name, value in told.items()
        if getattr(record, name) != value
    ]
    numbers = [attempt.get("number") for attempt in record.attempts]
    if numbers != (wanted := list(range(1, len(numbers) + 1))):
        wrong.append(Mismatch("numbers of attempts", numbers, wanted, "their order"))
    if not numbers or record.attempts[0].get("from_step", 0):
        left["attempts"] = "what came before those that are listed is not known"
    if record.resumed_bit_exact and "resumed_bit_exact" not in told:
        left["resumed_bit_exact"] = "not every attempt says on what machine it ran"
    return wrong, left


def _told_by_attempts(attempts: list[dict[str, Any]], changed: bool) -> dict[str, Any]:
    """Facts of the machine that attempts noted; older versions noted fewer."""
    machines = [attempt["machine"] for attempt in attempts if "machine" in attempt]
    if not attempts or len(machines) < len(attempts):
        return {}
    found = {name: machines[-1][key] for name, key in MACHINE.items() if key in machines[-1]}
    return found | {"resumed_bit_exact": bit_exact(attempts, changed)}


def _files_of_before(
    saved: dict[str, Any], config: RunConfig, left: dict[str, str]
) -> dict[str, dict[str, str]]:
    """Files that a run of an older version started from, which its id held as they are pooled."""
    net = dataclasses.replace(config.net, weights=saved["net"]["weights"])
    try:
        found = input_files(dataclasses.replace(config, net=net))
    except UserError as error:
        left |= dict.fromkeys(("id", *HASHES, "settings"), f"{error.where}: {error.what}")
        return {}
    # Checkpoints of other epochs, of runs without a record, and of mixers were named otherwise.
    other = [
        key
        for key, file in found.items()
        if key.endswith("mixer_ckpt")
        or ("/" in file.name and (file.pooled == file.content or "/" in file.pooled))
    ]
    if other:
        reason = f"{other[0]}: an older version named such a file in another way"
        left |= dict.fromkeys(("id", *HASHES, "settings"), reason)
        return {}
    return {
        key: {"name": file.name, "content": file.pooled, "pooled": file.pooled}
        for key, file in found.items()
    }
