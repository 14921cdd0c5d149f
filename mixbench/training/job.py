"""A run before it starts: all that follows from its configuration, checked once."""

import contextlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mixbench.backbones.adapters import pretrained_file
from mixbench.config import yaml_files
from mixbench.config.auto import with_auto_values
from mixbench.config.compose import method_defaults, settings_of, to_plain
from mixbench.config.names import DATA, METHODS
from mixbench.config.overrides import flatten
from mixbench.config.schema import AUTO, RunConfig, keys_not_in_identity
from mixbench.data.augment.images import operations
from mixbench.data.images import Splits
from mixbench.data.source import DataSource
from mixbench.errors import SWITCHES, UserError, switched_on
from mixbench.evaluation.suite import Suite, load_suites
from mixbench.methods.base import Method
from mixbench.records.identity import Identity, InputFile, identify, is_checkpoint
from mixbench.records.record import Record, read_record, runs_folder
from mixbench.records.weights import input_file, weights_file
from mixbench.tasks.base import Task, find_task
from mixbench.training.requirements import check_pair, check_pool, check_task

# What keys begin with that make no other run and yet change what is found of one; suites apart,
# which a finished run may lack.
FOUND = ("eval.", "peek", "run.tags", "run.notes")


@dataclass(frozen=True)
class Job:
    """A run that can be carried out, as far as that can be said without reading its data.

    Attributes:
        config: Its configuration.
        method: Class of its method.
        settings: The method's own settings, an instance of the class's ``Config``.
        task: What it learns.
        source: Its data, not read yet.
        suites: Judges of the trained network, as ``eval.suites`` asks for them.
        choice: A sentence on what the number of images and the device decided; empty where nothing
            was left to them.
    """

    config: RunConfig
    method: type[Method]
    settings: Any
    task: Task
    source: DataSource
    suites: tuple[Suite, ...]
    choice: str = ""

    @cached_property
    def device(self) -> torch.device:
        """The device that it computes on, on this machine.

        Raises:
            UserError: If a GPU is asked for and there is none.
        """
        return training_device(self.config)

    @cached_property
    def identity(self) -> Identity:
        """Id and hashes, for which the files of the data are hashed.

        Raises:
            UserError: If a file is missing.
        """
        return self.identify(input_files(self.config))

    def unjudged(self, record: Record) -> list[str]:
        """Names of the suites whose scores a finished run lacks."""
        counting = [suite.name for suite in self.suites if not suite.of_test]
        return [name for name in counting if name not in record.evaluations]

    def too_late(self, folder: Path) -> list[str]:
        """Keys of what a finished run was to find or to be called that it was carried out without.

        Keys of how or where a run is carried out have nothing to say to one that is done.

        Args:
            folder: Folder of the finished run.

        Returns:
            The keys with their values, as on the command line.
        """
        try:
            content, _ = yaml_files.read(folder / "config.yaml")
        except (UserError, OSError):
            return []
        before = dict(flatten(self.defaults)) | dict(flatten(content))
        asked = flatten(to_plain(self.config))
        return [
            f"{key}={value}"
            for key, value in asked
            if key.startswith(FOUND) and key != "eval.suites" and before.get(key) != value
        ]

    @property
    def defaults(self) -> dict[str, Any]:
        """Defaults of all keys as nested dicts, those of the method's own too."""
        return to_plain(RunConfig(method=method_defaults(self.config)))

    def identify(self, inputs: dict[str, InputFile]) -> Identity:
        """Id and hashes with other files to start from.

        Args:
            inputs: The files by dotted key.

        Returns:
            What :func:`mixbench.records.identity.identify` makes of them.
        """
        with DATA.guarded(self.config.data.kind, "cannot be read"):
            digest = self.source.identity()
        return identify(
            to_plain(self.config),
            self.defaults,
            keys_not_in_identity(),
            self.source.full_name,
            digest,
            inputs,
        )

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.config.method["name"]

    @property
    def folder(self) -> Path:
        """The folder of its files, unless another one is asked for."""
        return runs_folder(self.config.run.dir) / self.identity.id

    @property
    def monitor(self) -> str | None:
        """The score by which an epoch is chosen; None where the last one is tested."""
        return f"val/{self.task.monitor}" if self.config.select == "val" else None

    def read_data(self) -> Splits:
        """The images and labels, with a hold-out where an epoch is chosen by it.

        Raises:
            UserError: If files are missing, unreadable or do not fit together.
        """
        with DATA.guarded(self.config.data.kind, "cannot be read"):
            splits = self.source.load(holdout=self.config.select == "val")
        return self.task.view(splits, self.config)


def resolve(config: RunConfig, source: DataSource | None = None) -> Job:
    """Check all of a configuration that can be checked without data.

    Only what ``auto`` leaves to the number of training images needs these to be counted, and only
    ``precision=auto`` looks at the device.

    Args:
        config: A composed configuration.
        source: Its data, if other runs read it as well.

    Returns:
        The job.

    Raises:
        UserError: If the method cannot learn from such data or work with the network, an
            augmentation is not at hand, a suite cannot be carried out as it is set, or an
            environment variable that switches a part off is neither on nor off.
    """
    for name in SWITCHES:
        switched_on(name)
    settings = settings_of(config)
    task = _check_method(config, settings)
    task.refuse(config)
    operations(config.data)
    suites = tuple(load_suites(config.eval))
    for suite in suites:
        suite.check()
    method, kind = METHODS.get(config.method["name"]), DATA.get(config.data.kind)
    with DATA.guarded(config.data.kind, "cannot be built"):
        data = source or kind(config.data)
    _check_checkpoints(config, data)
    choices: list[str] = []
    if config.auto:
        images = data.trained_count(holdout=config.select == "val")
        config, choice = with_auto_values(config, images)
        choices.append(choice)
    if config.precision == AUTO:
        precision, why = _fitting_precision(task, training_device(config))
        config = replace(config, precision=precision)
        choices.append(f"precision=auto: {precision}, as {why}")
    return Job(config, method, settings, task, data, suites, "; ".join(choices))


def _fitting_precision(task: Task, device: torch.device) -> tuple[str, str]:
    """What ``precision=auto`` stands for, and why."""
    if not task.classifies:
        return "fp32", "bfloat16 would round images to steps as coarse as those of 8-bit pixels"
    name = "this GPU" if device.type == "cuda" else "the processor of this machine"
    if _computes_bf16(device):
        return "bf16", f"{name} computes in it"
    return "fp32", f"{name} does not compute in bfloat16"


def _computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16, and does not only imitate them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _check_checkpoints(config: RunConfig, data: DataSource) -> None:
    """Refuse a checkpoint that has been trained on images which this run is tested on."""
    for record in used_runs(config):
        if record.division and record.data == data.full_name and record.division != data.division:
            raise UserError(
                f"{record.id} was trained on images that this run is tested on: {record.division}, "
                f"and here {data.division or 'other test images'}",
                "the checkpoint of another run",
                "use the run of the same fold, or of the same division",
            )


def task_of(config: RunConfig) -> Task:
    """The task of a composed configuration, without a check of its method."""
    return find_task(config.task, DATA.get(config.data.kind).task)


def incompatibility(config: RunConfig) -> str:
    """The reason why a method cannot be trained with its network and data; empty if it can.

    Args:
        config: A composed configuration.

    Returns:
        The reason in one line.
    """
    try:
        _check_method(config, settings_of(config))
    except UserError as error:
        return f"{error.what} ({error.where})"
    return ""


def _check_method(config: RunConfig, settings: Any) -> Task:
    """The task of a run, if its method can learn it from such data and with the network."""
    name, data = config.method["name"], config.data.kind
    task = check_task(config, METHODS.get(name), settings, DATA.get(data).task, f"data={data}")
    settings.check_run(name, config.data)
    check_pair(name, settings, config.net.name)
    check_pool(config.net)
    return task


def input_files(config: RunConfig) -> dict[str, InputFile]:
    """Files of weights and maps that a run starts from or uses.

    A method's key that is not declared in ``files`` names one all the same where it names the
    checkpoint of a run.

    Args:
        config: A composed configuration.

    Returns:
        The files by dotted key.

    Raises:
        UserError: If there is no such file or finished run.
    """
    return {key: input_file(value, key) for key, value in _named_files(config).items()}


def used_runs(config: RunConfig) -> list[Record]:
    """Records of the runs whose checkpoints a run starts from or uses, as far as they are there.

    Args:
        config: A composed configuration.

    Returns:
        The records.
    """
    found = []
    for key, value in _named_files(config).items():
        with contextlib.suppress(UserError):
            path = weights_file(value, key)
            if is_checkpoint(str(path.absolute())):
                found.append(read_record(path.absolute().parent))
    return found


def _named_files(config: RunConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    if config.net.weights is not None:
        found["net.weights"] = config.net.weights
    if config.net.pretrained:
        found["net.pretrained"] = str(pretrained_file(config.net.name))
    if config.distill is not None:
        found["distill"] = config.distill
    own = config.method
    nested = {name: value for name, value in own.items() if isinstance(value, dict)}
    parts = {own["name"]: ("method", own)}
    parts |= {name: (f"method.{name}", value) for name, value in nested.items()}
    for name, (prefix, keys) in parts.items():
        declared = METHODS.get(name).files
        for key, value in keys.items():
            checkpoint = isinstance(value, str) and is_checkpoint(value)
            if value is not None and (key in declared or checkpoint):
                found[f"{prefix}.{key}"] = value
    return found


def training_device(config: RunConfig) -> torch.device:
    """The device that a run computes on; never the CPU when a GPU was asked for.

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
            "this machine has no usable GPU",
            "trainer.accelerator=gpu",
            "use trainer.accelerator=cpu",
        )
    present = torch.cuda.device_count()
    if config.devices > present:
        raise UserError(
            f"devices={config.devices} asks for more GPUs than the {present} of this machine",
            "devices",
            f"use devices={present}, or trainer.accelerator=cpu",
        )
    return torch.device("cuda")
