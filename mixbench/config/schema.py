"""The configuration of a run: its keys, types, defaults, ranges and meanings.

A method's own keys are the ``Config`` of its class.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from mixbench.config.names import CHOSEN_TASKS, SUITES
from mixbench.config.settings import Settings, info_of, setting, walk


@dataclass
class DataConfig(Settings):
    """Data to train and test on."""

    prefix = "data."

    kind: str = setting("digits", "registered data set, picked by `data=`")
    name: str = setting("", "shown name; empty: the kind, or the file's stem for pack and folder")
    root: str | None = setting(
        None, "folder or archive to read; else MIXBENCH_DATA, else download", identity=False
    )
    train: str | None = setting(None, "pack: file of the training images", identity=False)
    test: str | None = setting(None, "pack: file of the test images", identity=False)
    labels: str | None = setting(
        None, "other training labels, FILE.npz:SET; their content counts", identity=False
    )
    classes: str = setting(
        "both",
        "whose classes count; train: test images may lack some",
        one_of=("both", "train"),
        identity=False,
    )
    size: int | None = setting(None, "resize every image to this many pixels squared", at_least=1)
    resize: int | None = setting(
        None, "shorter side before the centre is cut to data.size; null: the same", at_least=1
    )
    crop_area: float | None = setting(
        None, "random resized crops of at least this share, read from files", above=0, at_most=1
    )
    fit: str = setting(
        "crop",
        "how images become square: the centre is cut out, or the image is squeezed",
        one_of=("crop", "squeeze"),
    )
    crop_scales: list[float] | None = setting(
        None,
        "multi-scale crops: sides as shares of the image squeezed to data.resize; read from files",
        above=0,
        at_most=1,
    )
    crop: int = setting(
        4,
        "random crop after padding by this many pixels; 0: no crop",
        at_least=0,
        only_when={
            "data.crop_area": (None,),
            "data.crop_scales": (None,),
            "task": ("supervised",),
        },
    )
    pad: str = setting(
        "black",
        "padding of the crop: black pixels, or the mean colour (0 normalised)",
        one_of=("black", "mean"),
        only_when={"data.crop": range(1, 1000)},
    )
    flip: bool = setting(True, "mirror half of the training images")
    auto_augment: str | None = setting(None, "policy in timm's words, such as rand-m9-mstd0.5-inc1")
    jitter: float = setting(
        0.0,
        "largest change of brightness, contrast and saturation, as a share",
        within=(0, 1),
    )
    lighting: float = setting(
        0.0, "shift along the principal colours of ImageNet, in their deviations", at_least=0
    )
    erasing: float = setting(
        0.0,
        "chance that a part of the normalised image becomes noise",
        within=(0, 1),
        only_when={"task": ("supervised",)},
    )
    repeats: int = setting(
        1, "times that an epoch shows an image, each augmented anew; the others wait", at_least=1
    )
    train_fraction: float = setting(
        1.0, "stratified share of the training set to use", above=0, at_most=1
    )
    limit: int | None = setting(
        None, "use at most this many training and as many test images", at_least=1
    )
    val_fraction: float = setting(
        0.1,
        "hold-out for select=val, at most 5,000 images",
        within=(0, 1),
        only_when={"select": ("val",)},
    )
    race_fold: str | None = setting(
        None,
        "fold of a race, NUMBER/OF from 0 on: held out of training and scored; no test image is",
    )
    on_corrupt: str = setting(
        "error", "unreadable image: error, or skip and count", one_of=("error", "skip")
    )
    workers: int = setting(
        0,
        "loader processes; data resident in memory needs none",
        at_least=0,
        identity=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None:
            if self.size is None:
                raise ValueError("data.resize needs data.size, the side that is cut out")
            if self.resize < self.size:
                raise ValueError(f"data.resize must be >= {self.size}, got {self.resize}")
        for key in ("crop_area", "crop_scales"):
            if getattr(self, key) is not None and self.size is None:
                raise ValueError(f"data.{key} needs data.size, the side of the crops in pixels")
        if self.fit == "squeeze" and self.size is None:
            raise ValueError("data.fit=squeeze needs data.size, the side in pixels")
        if self.crop_scales is not None:
            self._check_scales()
        elif self.fit == "squeeze" and self.resize is not None:
            raise ValueError("data.resize must be null with data.fit=squeeze, which cuts nothing")

        if self.race_fold is not None:
            found = re.fullmatch(r"(\d{1,3})/(\d{1,3})", self.race_fold)
            if not found or not 0 <= int(found[1]) < int(found[2]) or int(found[2]) < 2:
                raise ValueError(
                    f"data.race_fold must be NUMBER/OF, such as 0/5 for the first of five folds, "
                    f"got {self.race_fold}"
                )

    @property
    def fold_of_race(self) -> tuple[int, int]:
        """Number of the fold that a race holds out, from 0 on, and of all of them."""
        number, _, count = (self.race_fold or "0/1").partition("/")
        return int(number), int(count)

    def _check_scales(self) -> None:
        if not self.crop_scales:
            raise ValueError("data.crop_scales must name a scale, or be null")
        if self.crop_area is not None:
            raise ValueError("data.crop_area must be null beside data.crop_scales")
        if self.fit != "squeeze":
            raise ValueError("data.crop_scales needs data.fit=squeeze, as its images are squares")

    @property
    def random_crops(self) -> bool:
        """True if training sees a random crop of each file, which is read anew each time."""
        return self.crop_area is not None or self.crop_scales is not None

    @property
    def padding(self) -> int:
        """Pixels of padding before the crop; none where images are random crops already."""
        return 0 if self.random_crops else self.crop


# Channels of the first stage where the paper's are not 64.
WIDTHS = {"wrn16x8": 128, "wrn28x8": 128, "wrn40x2": 32}


@dataclass
class NetConfig(Settings):
    """The network that is trained; what is None is taken from its paper."""

    prefix = "net."

    name: str = setting("preactresnet18", "registered network, picked by `net=`")
    width: int | None = setting(
        None, "channels of the first stage of residual networks", at_least=1
    )
    final_norm: bool = setting(True, "last BN+ReLU of pre-activation nets")
    pool: str = setting(
        "avg",
        "what the classifier reads of the last map: its mean, or its maximum; of nets with maps",
        one_of=("avg", "max"),
    )
    patch: int | None = setting(None, "pixels along a side of a transformer's patch", at_least=1)
    window: int | None = setting(
        None, "patches along a side of a Swin window; else at most 7", at_least=1
    )
    drop_path: float = setting(
        0.0, "of transformers: chance that the last block drops a branch", at_least=0, below=1
    )
    stages: list[str] = setting([], "of timm: module paths, joined by +")
    weights: str | None = setting(None, "file, or folder of a finished run, to start from")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.width = self.first_width

    @property
    def first_width(self) -> int:
        """``width``, or that of the paper."""
        return WIDTHS.get(self.name, 64) if self.width is None else self.width


OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step", "onecycle", "constant")


@dataclass
class OptimConfig(Settings):
    """Optimiser and schedule; the peak learning rate is the top-level key ``lr``."""

    prefix = "optim."

    name: str = setting("sgd", "optimiser", one_of=OPTIMIZERS)
    momentum: float = setting(0.9, "SGD momentum, or AdamW's first beta", within=(0, 1))
    nesterov: bool = setting(True, "Nesterov momentum", only_when={"optim.name": ("sgd",)})
    weight_decay: float = setting(5e-4, "L2 weight of SGD, decoupled with AdamW", at_least=0)
    decay_all: bool = setting(False, "also decay biases and normalisation weights")
    schedule: str = setting("cosine", "learning rate over the run", one_of=SCHEDULES)
    milestones: list[float] = setting(
        [0.5, 0.75],
        "shares of the epochs",
        within=(0, 1),
        only_when={"optim.schedule": ("step",)},
    )
    gamma: float = setting(
        0.1, "factor at each milestone", above=0, only_when={"optim.schedule": ("step",)}
    )
    warmup_epochs: float = setting(
        0.0, "linear ramp from 0; onecycle: its rise, 0 = 30 % of the run", at_least=0
    )
    min_lr: float = setting(
        0.0,
        "where cosine and onecycle end",
        at_least=0,
        only_when={"optim.schedule": ("cosine", "onecycle")},
    )
    backbone_lr: float = setting(
        1.0, "factor of the learning rate of all but the network's classifier", above=0
    )
    clip: float | None = setting(None, "largest gradient norm", above=0)
    accumulate: int = setting(
        1, "micro-batches per optimiser step; batch_size stays the whole", at_least=1
    )
    label_smoothing: float = setting(
        0.0,
        "applied to the targets before mixing",
        within=(0, 1),
        only_when={"task": ("supervised",)},
    )
    ema: float | None = setting(
        None, "decay of averaged weights, which are then what is tested", above=0, below=1
    )


@dataclass
class TrainerConfig(Settings):
    """Use of the machine: device, threads, memory layout and checkpoints."""

    prefix = "trainer."

    accelerator: str = setting(
        "auto", "device of the run", one_of=("auto", "cpu", "gpu"), identity=False
    )
    threads: int = setting(
        1,
        "CPU threads of a run; results are bit-equal only at equal counts",
        at_least=1,
        identity=False,
    )
    log_every: int = setting(
        50,
        "steps between logged training values and checks of the loss",
        at_least=1,
        identity=False,
    )
    channels_last: bool = setting(True, "memory layout of images and convolutions")
    deterministic: bool = setting(
        False, "GPU kernels that add in a fixed order; slower", identity=False
    )
    compile: bool = setting(False, "compile each stage of the network for training", identity=False)
    ckpt_steps: int | None = setting(
        None,
        "also save every so many steps; each epoch is saved anyway",
        at_least=1,
        identity=False,
    )
    ckpt_required: bool = setting(
        True, "stop if a checkpoint cannot be written; false: go on", identity=False
    )
    timeout: float = setting(
        300.0, "seconds after which a silent process counts as dead", above=0, identity=False
    )


AUTO = "auto"
SUBSET = 512  # images that a costly suite looks at unless it is told otherwise


@dataclass
class EvalConfig(Settings):
    """Scores of a trained network beside its test; ``mixbench eval`` can add them later."""

    prefix = "eval."

    suites: list[str] = setting(["calibration", "adversarial"], "suites of scores", identity=False)
    attacks: list[str] = setting(
        ["fgsm_8", "pgd20_1"], "adversarial: names of attacks", identity=False
    )
    adv_n: int | str | None = setting(
        AUTO,
        "images of a fixed random subset to attack or pair; auto: at most 512, after training as "
        "many as a tenth of its passes pays for; null: all; of corruption auto is all, too",
        at_least=1,
        also=AUTO,
        identity=False,
    )
    saliency: str | None = setting(
        None, "salience: finished run that gives the maps; null: the network itself", identity=False
    )
    gaze: str | None = setting(
        None, "gaze: .npy or .npz of a map per test image, or a folder of maps", identity=False
    )
    judge: str | None = setting(
        None, "two_class: finished run that looks; null: the tested network itself", identity=False
    )
    corruptions: list[str] | None = setting(
        None, "corruption: names of corruptions; null: the 15 common ones", identity=False
    )
    corrupted: str | None = setting(
        None, "corruption: folder of published images; null: made here", identity=False
    )
    frost: str | None = setting(
        None, "corruption: folder of the official textures; null: made here", identity=False
    )

    ood: list[str] = setting(
        [], "ood: names or paths of other images; PATH:crop and PATH:resize say how", identity=False
    )
    wsol_resize: str = setting(
        "bicubic",
        "wsol: interpolation of the map",
        one_of=("bicubic", "bilinear"),
        identity=False,
    )
    wsol_class: str = setting(
        "true", "wsol: class of the map", one_of=("true", "predicted"), identity=False
    )

    def __post_init__(self) -> None:
        lists = {"suites": self.suites, "attacks": self.attacks}
        lists |= {"corruptions": self.corruptions or [], "ood": self.ood}
        for key, value in lists.items():
            if len(set(value)) < len(value):
                raise ValueError(f"eval.{key} names one twice: {', '.join(value)}")
        super().__post_init__()
        for suite in self.suites:
            SUITES.check(suite, "eval.suites")

    @property
    def subset_size(self) -> int | None:
        """``adv_n`` as a number of images; None for all of them."""
        return self.adv_n if isinstance(self.adv_n, int | None) else SUBSET


@dataclass
class RunSection(Settings):
    """Folder and names of a run."""

    prefix = "run."

    dir: str | None = setting(
        None, "folder of all runs; else MIXBENCH_RUNS, else runs/", identity=False
    )
    tags: list[str] = setting([], "tags of the run in W&B", identity=False)
    notes: str = setting("", "notes of the run in W&B", identity=False)


@dataclass
class WandbConfig(Settings):
    """The view of a run in W&B."""

    prefix = "wandb."

    mode: str | None = setting(
        None,
        "null: WANDB_MODE, else online with a key",
        one_of=("online", "offline", "disabled"),
        identity=False,
    )
    project: str = setting("mixbench", "project in W&B", identity=False)


SELECTIONS = ("last", "val")


@dataclass
class RunConfig(Settings):
    """Everything that decides a run."""

    method: dict[str, Any] = setting({"name": "erm"}, "name of the method, and its own keys")
    data: DataConfig = field(default_factory=DataConfig)
    net: NetConfig = field(default_factory=NetConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    run: RunSection = field(default_factory=RunSection)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    task: str = setting(
        "supervised",
        "ssl: labels serve only to judge the features afterwards",
        one_of=("supervised", *CHOSEN_TASKS),
    )
    recipe: str = setting("default", "picked by `recipe=`; its values count", identity=False)
    seed: int = setting(0, "of weights, order, augmentation and mixing", at_least=0, identity=False)
    epochs: int = setting(200, "passes through the training set", at_least=1)
    batch_size: int = setting(128, "over all devices and accumulated micro-batches", at_least=1)
    lr: float = setting(0.1, "peak learning rate", above=0)
    distill: str | None = setting(
        None, "finished run whose network is the teacher: its logits of the same mixed images"
    )
    distill_temperature: float = setting(4.0, "divides the logits of both", above=0)
    distill_labels: float = setting(
        0.0, "weight of the method's own loss beside the divergence from the teacher", at_least=0
    )
    precision: str = setting("fp32", "bf16 is automatic mixed precision", one_of=("fp32", "bf16"))
    devices: int = setting(1, "per machine, one process each", at_least=1, identity=False)
    num_nodes: int = setting(1, "machines", at_least=1, identity=False)
    select: str = setting(
        "last", "epoch that is tested: the last, or the best on the hold-out", one_of=SELECTIONS
    )
    logger: str = setting(
        "wandb",
        "view of a run beside its files",
        one_of=("wandb", "tensorboard", "none"),
        identity=False,
    )
    peek: bool = setting(
        False, "also log the test score of every epoch; nothing is chosen by it", identity=False
    )

    def __post_init__(self) -> None:
        if self.select in ("best_test", "median10"):
            raise ValueError(
                f"select={self.select} would choose on the test set; use last or val, "
                "and peek=true to see what it would give"
            )
        super().__post_init__()
        if self.peek and self.task != "supervised":
            raise ValueError("peek=true needs task=supervised: without labels there is no score")
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
    """Facts of the data that networks and methods need.

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


def conditions() -> list[tuple[str, str, Collection[Any]]]:
    """Keys that another key can switch off.

    Returns:
        The key, the key that decides, and the values of that for which the first has an effect.
    """
    return [
        (key, decider, values)
        for key, item in walk(RunConfig)
        for decider, values in (info_of(item).only_when or {}).items()
    ]


def keys_not_in_identity() -> set[str]:
    """Dotted keys that say how or where a run is carried out, and not what is computed."""
    return {key for key, item in walk(RunConfig) if not info_of(item).identity}
