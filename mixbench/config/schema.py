"""The configuration of a run: its keys, types, defaults and value checks.

Fields marked with :func:`not_in_identity` say how or where a run is carried out, not what is
computed. A method's own keys are the ``Config`` of its class.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any


def positive(key: str, value: float) -> None:
    """Require a finite value above 0.

    Args:
        key: Config key for the message.
        value: Its value.

    Raises:
        ValueError: Otherwise.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{key} must be > 0 and finite, got {value}")


def at_least(key: str, value: float, low: float) -> None:
    """Require a finite value of at least ``low``.

    Args:
        key: Config key for the message.
        value: Its value.
        low: Smallest value allowed.

    Raises:
        ValueError: Otherwise.
    """
    if not (math.isfinite(value) and value >= low):
        raise ValueError(f"{key} must be >= {low} and finite, got {value}")


def in_unit_interval(key: str, value: float) -> None:
    """Require a value in [0, 1].

    Args:
        key: Config key for the message.
        value: Its value.

    Raises:
        ValueError: Otherwise.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{key} must lie in [0, 1], got {value}")


def one_of(key: str, value: str, options: Iterable[str]) -> None:
    """Require one of several words.

    Args:
        key: Config key for the message.
        value: Its value.
        options: Words allowed.

    Raises:
        ValueError: Otherwise.
    """
    if value not in options:
        raise ValueError(f"{key} must be one of {', '.join(options)}, got {value!r}")


def not_in_identity(default: Any = None, **kwargs: Any) -> Any:
    """A dataclass field that takes no part in a run's identity.

    Args:
        default: Default of the field.
        **kwargs: Passed to :func:`dataclasses.field` in place of ``default``.

    Returns:
        The field.
    """
    if not kwargs:
        kwargs = {"default": default}
    return field(metadata={"identity": False}, **kwargs)


@dataclass
class DataConfig:
    """What to train and test on."""

    kind: str = "digits"  # registered data set, picked by `data=`
    name: str = ""  # shown name; empty: the kind, or the file's stem for pack and folder
    root: str | None = (
        not_in_identity()
    )  # folder or archive to read; else MIXBENCH_DATA, else download
    train: str | None = not_in_identity()  # pack: file of the training images
    test: str | None = not_in_identity()  # pack: file of the test images
    labels: str | None = (
        not_in_identity()
    )  # other training labels, FILE.npz:SET; their content counts
    classes: str = not_in_identity("both")  # whose classes count: train: test images may lack some
    size: int | None = None  # resize every image to this many pixels squared
    resize: int | None = None  # shorter side before the centre is cut to data.size; null: the same
    crop_area: float | None = None  # random resized crops of at least this share, read from files
    crop: int = 4  # random crop after padding by this many pixels; 0: no crop
    pad: str = "black"  # padding of the crop: black pixels, or the mean colour (0 normalised)
    flip: bool = True  # mirror half of the training images
    auto_augment: str | None = None  # policy in timm's words, such as rand-m9-mstd0.5-inc1
    jitter: float = 0.0  # largest change of brightness, contrast and saturation, as a share
    lighting: float = 0.0  # shift along the principal colours of ImageNet, in their deviations
    erasing: float = 0.0  # chance that a part of the normalised image becomes noise
    repeats: int = 1  # times that an epoch shows an image, each augmented anew; the others wait
    train_fraction: float = 1.0  # stratified share of the training set to use
    limit: int | None = None  # use at most this many training and as many test images
    val_fraction: float = 0.1  # hold-out for select=val, at most 5,000 images
    on_corrupt: str = "error"  # unreadable image: error, or skip and count
    workers: int = not_in_identity(0)  # loader processes; data resident in memory needs none

    def __post_init__(self) -> None:
        if self.size is not None:
            at_least("data.size", self.size, 1)
        if self.resize is not None:
            if self.size is None:
                raise ValueError("data.resize needs data.size, the side that is cut out")
            at_least("data.resize", self.resize, self.size)
        if self.crop_area is not None:
            in_unit_interval("data.crop_area", self.crop_area)
            positive("data.crop_area", self.crop_area)
            if self.size is None:
                raise ValueError("data.crop_area needs data.size, the side of the crops in pixels")
        at_least("data.crop", self.crop, 0)
        one_of("data.pad", self.pad, ("black", "mean"))
        in_unit_interval("data.jitter", self.jitter)
        in_unit_interval("data.erasing", self.erasing)
        at_least("data.lighting", self.lighting, 0)
        at_least("data.repeats", self.repeats, 1)
        in_unit_interval("data.train_fraction", self.train_fraction)
        positive("data.train_fraction", self.train_fraction)
        if self.limit is not None:
            at_least("data.limit", self.limit, 1)
        in_unit_interval("data.val_fraction", self.val_fraction)
        one_of("data.classes", self.classes, ("both", "train"))
        one_of("data.on_corrupt", self.on_corrupt, ("error", "skip"))
        at_least("data.workers", self.workers, 0)

    @property
    def padding(self) -> int:
        """Pixels of padding before the crop; none where images are random crops already."""
        return self.crop if self.crop_area is None else 0


# Channels of the first stage where the paper's are not 64.
WIDTHS = {"wrn16x8": 128, "wrn28x8": 128}


@dataclass
class NetConfig:
    """The network that is trained; what is None is taken from its paper."""

    name: str = "preactresnet18"  # registered network, picked by `net=`
    width: int | None = None  # channels of the first stage of residual networks
    final_norm: bool = True  # last BN+ReLU of pre-activation nets
    patch: int | None = None  # pixels along a side of a transformer's patch
    window: int | None = None  # patches along a side of a Swin window; else at most 7
    drop_path: float = 0.0  # of transformers: chance that the last block drops a branch
    stages: list[str] = field(default_factory=list)  # of timm: module paths, joined by +
    weights: str | None = None  # file, or folder of a finished run, to start from

    def __post_init__(self) -> None:
        for key in ("width", "patch", "window"):
            if getattr(self, key) is not None:
                at_least(f"net.{key}", getattr(self, key), 1)
        self.width = self.first_width
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"net.drop_path must lie in [0, 1), got {self.drop_path}")

    @property
    def first_width(self) -> int:
        """``width``, or that of the paper."""
        return WIDTHS.get(self.name, 64) if self.width is None else self.width


OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step", "onecycle", "constant")


@dataclass
class OptimConfig:
    """Optimiser and schedule; the peak learning rate is the top-level key ``lr``."""

    name: str = "sgd"
    momentum: float = 0.9  # SGD momentum, or AdamW's first beta
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_all: bool = False  # also decay biases and normalisation weights
    schedule: str = "cosine"
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])  # shares of the epochs
    gamma: float = 0.1  # factor at each milestone
    warmup_epochs: float = 0.0  # linear ramp from 0; onecycle: its rise, 0 = 30 % of the run
    min_lr: float = 0.0  # where cosine and onecycle end
    clip: float | None = None  # largest gradient norm
    accumulate: int = 1  # micro-batches per optimiser step; batch_size stays the whole
    label_smoothing: float = 0.0  # applied to the targets before mixing
    ema: float | None = None  # decay of averaged weights, which are then what is tested

    def __post_init__(self) -> None:
        one_of("optim.name", self.name, OPTIMIZERS)
        one_of("optim.schedule", self.schedule, SCHEDULES)
        in_unit_interval("optim.momentum", self.momentum)
        at_least("optim.weight_decay", self.weight_decay, 0)
        for milestone in self.milestones:
            in_unit_interval("optim.milestones", milestone)
        positive("optim.gamma", self.gamma)
        at_least("optim.warmup_epochs", self.warmup_epochs, 0)
        at_least("optim.min_lr", self.min_lr, 0)
        if self.clip is not None:
            positive("optim.clip", self.clip)
        at_least("optim.accumulate", self.accumulate, 1)
        in_unit_interval("optim.label_smoothing", self.label_smoothing)
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"optim.ema must lie between 0 and 1, got {self.ema}")


@dataclass
class TrainerConfig:
    """How the machine is used."""

    accelerator: str = not_in_identity("auto")  # auto, cpu or gpu
    threads: int = not_in_identity(
        1
    )  # CPU threads of a run; results are bit-equal only at equal counts
    log_every: int = not_in_identity(
        50
    )  # steps between logged training values and checks of the loss
    channels_last: bool = True  # memory layout of images and convolutions
    deterministic: bool = not_in_identity(False)  # GPU kernels that add in a fixed order; slower
    compile: bool = not_in_identity(False)  # compile each stage of the network for training
    ckpt_steps: int | None = (
        not_in_identity()
    )  # also save every so many steps; each epoch is saved anyway
    ckpt_required: bool = not_in_identity(
        True
    )  # stop if a checkpoint cannot be written; false: go on
    timeout: float = not_in_identity(300.0)  # seconds after which a silent process counts as dead

    def __post_init__(self) -> None:
        one_of("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu"))
        at_least("trainer.threads", self.threads, 1)
        at_least("trainer.log_every", self.log_every, 1)
        if self.ckpt_steps is not None:
            at_least("trainer.ckpt_steps", self.ckpt_steps, 1)
        positive("trainer.timeout", self.timeout)


SUITES = ("calibration", "adversarial", "occlusion", "salience", "shuffle", "linearity", "gaze")


@dataclass
class EvalConfig:
    """What a trained network is judged by after its test; ``mixbench eval`` can do it later."""

    suites: list[str] = not_in_identity(default_factory=lambda: ["calibration", "adversarial"])
    attacks: list[str] = not_in_identity(
        default_factory=lambda: ["fgsm_8", "pgd20_1"]
    )  # adversarial: names
    adv_n: int | None = not_in_identity(
        512
    )  # images of a fixed random subset to attack or pair; null: all
    saliency: str | None = (
        not_in_identity()
    )  # salience: finished run that looks; null: the network itself
    gaze: str | None = (
        not_in_identity()
    )  # gaze: .npy or .npz of a map per test image, or a folder of maps

    def __post_init__(self) -> None:
        for key, value in (("eval.suites", self.suites), ("eval.attacks", self.attacks)):
            if len(set(value)) < len(value):
                raise ValueError(f"{key} names one twice: {', '.join(value)}")
        for suite in self.suites:
            one_of("eval.suites", suite, SUITES)
        if "adversarial" in self.suites and not self.attacks:
            raise ValueError("eval.attacks is empty; name one, or leave adversarial out")
        if "gaze" in self.suites and self.gaze is None:
            raise ValueError("the gaze suite needs eval.gaze=FILE, one map per test image")
        if self.adv_n is not None:
            at_least("eval.adv_n", self.adv_n, 1)


@dataclass
class RunSection:
    """Where a run is kept and what it is called."""

    dir: str | None = not_in_identity()  # folder of all runs; else MIXBENCH_RUNS, else runs/
    tags: list[str] = not_in_identity(default_factory=list)
    notes: str = not_in_identity("")


@dataclass
class WandbConfig:
    """The view of a run in W&B."""

    mode: str | None = (
        not_in_identity()
    )  # online, offline or disabled; empty: WANDB_MODE, else online with a key
    project: str = not_in_identity("mixbench")

    def __post_init__(self) -> None:
        if self.mode is not None:
            one_of("wandb.mode", self.mode, ("online", "offline", "disabled"))


SELECTIONS = ("last", "val")
TASKS = ("supervised", "ssl")


@dataclass
class RunConfig:
    """Everything that decides a run."""

    method: dict[str, Any] = field(default_factory=lambda: {"name": "erm"})  # name and own keys
    data: DataConfig = field(default_factory=DataConfig)
    net: NetConfig = field(default_factory=NetConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    run: RunSection = field(default_factory=RunSection)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    task: str = "supervised"  # or ssl: labels serve only to judge the features afterwards
    recipe: str = not_in_identity("default")  # its values are what counts
    seed: int = not_in_identity(0)
    epochs: int = 200
    batch_size: int = 128  # over all devices and accumulated micro-batches
    lr: float = 0.1  # peak learning rate
    precision: str = "fp32"  # fp32, or bf16 for automatic mixed precision
    devices: int = not_in_identity(1)  # per machine, one process each
    num_nodes: int = not_in_identity(1)  # machines
    select: str = "last"  # epoch that is tested: the last, or the best on the hold-out
    peek: bool = not_in_identity(
        False
    )  # also log the test score of every epoch; nothing is chosen by it

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        at_least("epochs", self.epochs, 1)
        at_least("batch_size", self.batch_size, 1)
        positive("lr", self.lr)
        one_of("task", self.task, TASKS)
        if self.peek and self.task == "ssl":
            raise ValueError("peek=true needs task=supervised: without labels there is no score")
        one_of("precision", self.precision, ("fp32", "bf16"))
        if self.select in ("best_test", "median10"):
            raise ValueError(
                f"select={self.select} would choose on the test set; use last or val, "
                "and peek=true to see what it would give"
            )
        one_of("select", self.select, SELECTIONS)
        at_least("devices", self.devices, 1)
        at_least("num_nodes", self.num_nodes, 1)
        parts = self.optim.accumulate * self.world
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of optim.accumulate x devices x "
                f"num_nodes = {parts}"
            )

    @property
    def world(self) -> int:
        """Processes that train together."""
        return self.devices * self.num_nodes


@dataclass
class DataInfo:
    """What networks and methods need to know of the data.

    ``mean`` and ``std`` are per channel for pixels in [0, 1], over the training set. The
    ``residual`` pair is the same after each image's own scalar mean is removed, which BC+ uses.
    """

    num_classes: int
    height: int
    width: int
    channels: int = 3
    task: str = "multiclass"
    mean: list[float] = field(default_factory=lambda: [0.0] * 3)
    std: list[float] = field(default_factory=lambda: [1.0] * 3)
    residual_mean: list[float] | None = None
    residual_std: list[float] | None = None
    class_names: list[str] = field(default_factory=list)
    class_ids: list[str] = field(default_factory=list)  # WordNet ids of the classes, if it has any
    name: str = ""
    train_size: int = 0
    test_size: int = 0
    skipped: int = 0  # unreadable images left out
    skipped_test: int = 0  # of these, test images
    official: bool | None = None  # the files are the authors' own; None: not known
    label_noise: float | None = None  # share of training labels that data.labels changed
    notices: list[str] = field(default_factory=list)  # what a user should know, as sentences
    unused: dict[str, int] = field(default_factory=dict)  # what was left out, counted by reason
    shared_images: int | None = None  # test images that are training images too; None: not known

    @property
    def names(self) -> list[str]:
        """Class names; numbers where there are none."""
        return self.class_names or [str(index) for index in range(self.num_classes)]


# Keys that another key can switch off: (key, key that decides, its values for which the first
# key has an effect).
CONDITIONAL: Sequence[tuple[str, str, tuple[Any, ...]]] = (
    ("optim.nesterov", "optim.name", ("sgd",)),
    ("optim.milestones", "optim.schedule", ("step",)),
    ("optim.gamma", "optim.schedule", ("step",)),
    ("optim.min_lr", "optim.schedule", ("cosine", "onecycle")),
    ("data.val_fraction", "select", ("val",)),
    ("data.pad", "data.crop", tuple(range(1, 1000))),
    ("data.crop", "data.crop_area", (None,)),
    ("data.crop", "task", ("supervised",)),
    ("data.erasing", "task", ("supervised",)),
    ("optim.label_smoothing", "task", ("supervised",)),
)


def keys_not_in_identity(cls: Any = RunConfig, prefix: str = "") -> set[str]:
    """Dotted keys that take no part in a run's identity.

    Args:
        cls: A dataclass of this module.
        prefix: Path of the class in the configuration.

    Returns:
        The keys marked with :func:`not_in_identity`.
    """
    found: set[str] = set()
    for item in fields(cls):
        nested = item.default_factory
        if is_dataclass(nested):
            found |= keys_not_in_identity(nested, f"{prefix}{item.name}.")
        elif not item.metadata.get("identity", True):
            found.add(f"{prefix}{item.name}")
    return found
