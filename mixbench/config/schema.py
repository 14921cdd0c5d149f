"""The configuration of a run: its keys, types, defaults, ranges and meanings.

A method's own keys are the ``Config`` of its class.
"""

import re
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from mixbench.config.names import CHOSEN_TASKS, SUITES
from mixbench.config.settings import Settings, conditions_of, info_of, setting, walk

SECONDS = ("lines", "waves", "images", "none")  # second components of observations
OBSERVED: dict[str, Container[Any]] = {"task": ("demix",)}  # keys of observations need it


@dataclass
class DataConfig(Settings):
    """Data to train and test on."""

    prefix = "data."

    kind: str = setting("digits", "name of the data set; `data=NAME` sets it")
    name: str = setting(
        "", "name that is shown; if empty, the kind, or for pack and folder the name of the file"
    )
    root: str | None = setting(
        None,
        "folder or archive to read; if null, MIXBENCH_DATA is searched, then it is downloaded",
        identity=False,
    )
    train: str | None = setting(None, "for pack: file of the training images", identity=False)
    test: str | None = setting(
        None,
        "for pack: file of the test images; folder: name of their folder, if several could be "
        "meant",
        identity=False,
    )
    test_fraction: float | None = setting(
        None,
        "without test images: share of each class of a folder (null: 0.2) or pack to set aside",
        above=0,
        below=1,
        identity=False,
    )
    folds: int | None = setting(
        None,
        "folder or pack without test images: parts to test in turn; bench carries out all",
        at_least=2,
        at_most=20,
        identity=False,
    )
    fold: int | None = setting(
        None, "the part that is tested, from 0 on; all parts make one row", at_least=0
    )
    labels: str | None = setting(
        None,
        "other labels for training, FILE.npz:SET; their content is part of the run's identity",
        identity=False,
    )
    judgements: str | None = setting(
        None,
        "judgements of people: .npz, .json or folder; judged test images are left out of the test",
        identity=False,
    )
    allow_overlap: bool = setting(
        False, "test on judged images all the same, though a method may have trained on them"
    )
    classes: str = setting(
        "both",
        "images whose classes are used: of both parts, or only of train (the test may lack some)",
        one_of=("both", "train"),
        identity=False,
    )
    size: int | None = setting(None, "resize every image to this many pixels squared", at_least=1)
    resize: int | None = setting(
        None,
        "shorter side of an image before the centre is cut to data.size; null: data.size itself",
        at_least=1,
    )
    crop_area: float | None = setting(
        None,
        "train on random resized crops of at least this share of the image; read from files",
        above=0,
        at_most=1,
    )
    store: int | None = setting(
        None,
        "with data.crop_area: shorter side in pixels of the images that `mixbench data prepare` "
        "keeps uncompressed, from which crops are cut; null: from the files",
        at_least=1,
    )
    fit: str = setting(
        "crop",
        "how images become square: the centre is cut out, or the image is squeezed",
        one_of=("crop", "squeeze"),
    )
    crop_scales: list[float] | None = setting(
        None,
        "train on crops with these sides, as shares of the image squeezed to data.resize; read "
        "from files",
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
        "what the crop is padded with: black pixels, or the mean colour (0 after normalisation)",
        one_of=("black", "mean"),
        only_when={"data.crop": range(1, 1000)},
    )
    flip: bool = setting(
        True,
        "mirror half of the training images",
        only_when={"task": ("supervised", "ssl")},
    )
    flip_rule: str = setting(
        "random",
        "which images an epoch mirrors: a random half, or alternating: each one in every other "
        "epoch, half of them in the first",
        one_of=("random", "alternating"),
        only_when={"data.flip": (True,), "task": ("supervised",), "data.repeats": (1,)},
    )
    augment_by: str = setting(
        "batch",
        "what is cropped and mirrored at once: a batch, or a whole epoch of images in memory, with "
        "the same numbers",
        one_of=("batch", "epoch"),
        only_when={"data.pad": ("black",), "data.workers": (0,), "task": ("supervised",)},
        identity=False,
    )
    auto_augment: str | None = setting(
        None, "policy of augmentation in timm's words, such as rand-m9-mstd0.5-inc1"
    )
    jitter: float = setting(
        0.0,
        "largest change of brightness, contrast and saturation, as a share",
        within=(0, 1),
    )
    lighting: float = setting(
        0.0,
        "shift along the principal components of the colours of ImageNet, in standard deviations",
        at_least=0,
    )
    erasing: float = setting(
        0.0,
        "chance that a part of an image becomes noise, after normalisation",
        within=(0, 1),
        only_when={"task": ("supervised",)},
    )
    repeats: int = setting(
        1,
        "times that an epoch shows an image, each time augmented anew; fewer images fit in",
        at_least=1,
    )
    train_fraction: float = setting(
        1.0, "stratified share of the training set to use", above=0, at_most=1
    )
    limit: int | None = setting(
        None, "largest number of training images, and of test images, to use", at_least=1
    )
    val_fraction: float = setting(
        0.1,
        "share of the training images that select=val holds out, at most 5,000 images",
        within=(0, 1),
        only_when={"select": ("val",)},
    )
    race_fold: str | None = setting(
        None,
        "fold of a race, NUMBER/OF from 0 on: held out of training, scored as the test set",
    )
    on_corrupt: str = setting(
        "error",
        "what an unreadable image causes: an error, or skip: it is left out and counted",
        one_of=("error", "skip"),
    )
    workers: int = setting(
        0,
        "processes that load images; data that lies in memory needs none",
        at_least=0,
        identity=False,
    )

    second: str = setting(
        "lines",
        "what is added to each image; none: the images are sums already",
        one_of=SECONDS,
        only_when=OBSERVED,
    )
    level: int = setting(
        1,
        "number of lines or waves that are added",
        at_least=0,
        only_when=OBSERVED | {"data.second": ("lines", "waves")},
    )
    first_classes: list[int] = setting(
        [], "classes of the images that are observed; empty: all", at_least=0, only_when=OBSERVED
    )
    second_classes: list[int] = setting(
        [],
        "classes of the images that are added; empty: all",
        at_least=0,
        only_when=OBSERVED | {"data.second": ("images",)},
    )
    weights: list[float] = setting(
        [1.0, 1.0], "known weights of image and second component", above=0, only_when=OBSERVED
    )
    binary: bool = setting(False, "make pixels black or white", only_when=OBSERVED)
    clip: bool = setting(False, "cut sums to [0, 1], for denoising only", only_when=OBSERVED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.allow_overlap and self.judgements is None:
            raise ValueError(
                "data.allow_overlap has no effect without data.judgements; leave it out, or give "
                "data.judgements=FILE"
            )
        if self.fold is not None and self.fold >= (self.folds or 0):
            known = "data.folds, their number" if self.folds is None else f"< {self.folds}"
            verb = "needs" if self.folds is None else "must be"
            raise ValueError(f"data.fold {verb} {known}")
        if len(self.weights) != 2:
            raise ValueError(f"data.weights must be two numbers, got {len(self.weights)}")
        if self.resize is not None:
            if self.size is None:
                raise ValueError(
                    "data.resize needs data.size, the side of the square that is cut out"
                )
            if self.resize < self.size:
                raise ValueError(f"data.resize must be >= {self.size}, got {self.resize}")
        if self.store is not None and self.crop_area is None:
            raise ValueError(
                "data.store needs data.crop_area: without random crops all images are decoded once"
            )
        side = self.resize or self.size  # what evaluation brings images to
        if self.store is not None and side is not None and self.store < side:
            raise ValueError(f"data.store must be >= {side}, got {self.store}")
        for key in ("crop_area", "crop_scales"):
            if getattr(self, key) is not None and self.size is None:
                raise ValueError(f"data.{key} needs data.size, the side of the crops in pixels")
        if self.fit == "squeeze" and self.size is None:
            raise ValueError("data.fit=squeeze needs data.size, the side of the images in pixels")
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
    def alternating(self) -> bool:
        """True if every image is mirrored in every other epoch; repeated images are random."""
        return self.flip and self.flip_rule == "alternating" and self.repeats == 1

    @property
    def padding(self) -> int:
        """Pixels of padding before the crop; none where images are random crops already."""
        return 0 if self.random_crops else self.crop


# Channels of the first stage where the paper's are not 64.
WIDTHS = {"wrn16x8": 128, "wrn28x8": 128, "wrn40x2": 32, "dcgan": 256}


@dataclass
class NetConfig(Settings):
    """The network that is trained; what is None is taken from its paper."""

    prefix = "net."

    name: str = setting("preactresnet18", "name of the network; `net=NAME` sets it")
    width: int | None = setting(
        None, "channels of the first stage of residual networks", at_least=1
    )
    final_norm: bool = setting(True, "keep the last BN+ReLU of pre-activation nets")
    pool: str = setting(
        "avg",
        "what the classifier reads of the last map: its mean, or its maximum; for nets with maps",
        one_of=("avg", "max"),
    )
    patch: int | None = setting(None, "pixels along a side of a transformer's patch", at_least=1)
    window: int | None = setting(
        None, "patches along a side of a Swin window; null: at most 7", at_least=1
    )
    drop_path: float = setting(
        0.0, "for transformers: chance that the last block drops a branch", at_least=0, below=1
    )
    latent: int = setting(
        100,
        "of generators: numbers that an image is made from",
        at_least=1,
        only_when={"net.name": ("dcgan",)},
    )
    stages: list[str] = setting([], "for networks of timm: module paths of each stage, joined by +")
    weights: str | None = setting(None, "file, or folder of a finished run, to start from")
    pretrained: bool = setting(
        False,
        "for networks of timm: start from the weights that their authors publish, whose content is "
        "part of the run's identity",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.width = self.first_width
        if self.pretrained and self.weights is not None:
            raise ValueError(
                "net.pretrained and net.weights name two sets of weights; leave one of them out"
            )
        if self.pretrained and not self.name.startswith("timm:"):
            raise ValueError(
                f"net.pretrained needs net=timm:NAME, got net={self.name}; give other weights as "
                "net.weights=FILE"
            )

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
    weight_decay: float = setting(
        5e-4, "L2 weight with SGD, decoupled weight decay with AdamW", at_least=0
    )
    decay_all: bool = setting(False, "also decay biases and normalisation weights")
    schedule: str = setting("cosine", "course of the learning rate over the run", one_of=SCHEDULES)
    milestones: list[float] = setting(
        [0.5, 0.75],
        "epochs at which the rate drops, as shares of all epochs",
        within=(0, 1),
        only_when={"optim.schedule": ("step",)},
    )
    gamma: float = setting(
        0.1, "factor at each milestone", above=0, only_when={"optim.schedule": ("step",)}
    )
    warmup_epochs: float = setting(
        0.0,
        "epochs of a linear rise from 0; for onecycle its rise, where 0 means 30 % of the run",
        at_least=0,
    )
    min_lr: float = setting(
        0.0,
        "learning rate at which cosine and onecycle end",
        at_least=0,
        only_when={"optim.schedule": ("cosine", "onecycle")},
    )
    backbone_lr: float = setting(
        1.0, "factor of the learning rate for all weights but the classifier's", above=0
    )
    clip: float | None = setting(
        None,
        "largest norm of the gradient, to which larger ones are scaled; null: no limit",
        above=0,
    )
    accumulate: int = setting(
        1, "micro-batches of an optimiser step; batch_size stays that of the whole step", at_least=1
    )
    label_smoothing: float = setting(
        0.0,
        "share of a label that goes to all classes, before mixing",
        within=(0, 1),
        only_when={"task": ("supervised",)},
    )
    ema: float | None = setting(
        None,
        "decay of an average of the weights, which is then tested; null: no average",
        above=0,
        below=1,
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
    channels_last: bool = setting(
        True, "store images and weights of convolutions with the channels last"
    )
    deterministic: bool = setting(
        False, "use GPU kernels that add in a fixed order, which are slower", identity=False
    )
    engine: str = setting(
        "lightning",
        "loop over the training batches: lightning, or fast, which trains the same weights with "
        "less time between steps",
        one_of=("lightning", "fast"),
        identity=False,
    )
    cuda_graphs: bool = setting(
        False,
        "with engine=fast, replay both passes of a step, clipping and the momenta of its update as "
        "CUDA graphs; what cannot be replayed runs as it is, and the record says why",
        only_when={"trainer.engine": ("fast",)},
        identity=False,
    )
    compile: bool = setting(False, "compile each stage of the network for training", identity=False)
    compile_input: str = setting(
        "auto",
        "compile what makes network input of stored pixels: crop, mirror, normalisation and, for "
        "erm, mixup and cutmix, mixing; auto: on a device, for runs of 20,000 steps or more",
        one_of=("auto", "always", "never"),
        identity=False,
    )
    ckpt_steps: int | None = setting(
        None,
        "steps between checkpoints, beside the one after each epoch; null: only that one",
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

    suites: list[str] = setting(
        ["calibration", "adversarial"],
        "suites that judge the network after training",
        identity=False,
    )
    attacks: list[str] = setting(
        ["fgsm_8", "pgd20_1"], "for adversarial: names of attacks", identity=False
    )
    adv_n: int | str | None = setting(
        AUTO,
        "number of test images, a fixed random subset, to attack or pair; auto: at most 512, fewer "
        "after a short training (a tenth of its passes), and all for corruption; null: all",
        at_least=1,
        also=AUTO,
        identity=False,
    )
    saliency: str | None = setting(
        None,
        "for salience: finished run that gives the maps; null: the network itself",
        identity=False,
    )
    gaze: str | None = setting(
        None, "for gaze: .npy or .npz of a map per test image, or a folder of maps", identity=False
    )
    human: str | None = setting(
        None,
        "human and human_attacks: people's answers for test images, as of CIFAR-10H or CIFAR-10S",
        identity=False,
    )
    judge: str | None = setting(
        None,
        "two_class, separability, separation: finished run that classifies; null: the tested "
        "network "
        "itself, or none where it does not classify",
        identity=False,
    )
    demixer: str | None = setting(
        None, "separability: finished run of demixgan or denoisegan that separates", identity=False
    )
    search: str = setting(
        "joint",
        "separability, separation: latent vectors that descend together; alternating: one by one",
        one_of=("joint", "alternating"),
        identity=False,
    )
    restarts: int | None = setting(
        None,
        "separability, separation: starting points; null: method.restarts of the demixer",
        at_least=1,
        identity=False,
    )
    search_steps: int | None = setting(
        None,
        "separability, separation: steps; null: method.search_steps of the demixer",
        at_least=1,
        identity=False,
    )
    encoder_steps: int = setting(
        0,
        "separability, separation: training steps of an encoder that gives one starting point",
        at_least=0,
        identity=False,
    )
    corruptions: list[str] | None = setting(
        None, "for corruption: names of corruptions; null: the 15 common ones", identity=False
    )
    corrupted: str | None = setting(
        None, "for corruption: folder of published images; null: made here", identity=False
    )
    frost: str | None = setting(
        None, "for corruption: folder of the official textures; null: made here", identity=False
    )

    ood: list[str] = setting(
        [],
        "for ood: names or paths of other images; PATH:crop and PATH:resize say how",
        identity=False,
    )
    wsol_resize: str = setting(
        "bicubic",
        "for wsol: interpolation of the map",
        one_of=("bicubic", "bilinear"),
        identity=False,
    )
    wsol_class: str = setting(
        "true", "for wsol: class of the map", one_of=("true", "predicted"), identity=False
    )

    def __post_init__(self) -> None:
        lists = {"suites": self.suites, "attacks": self.attacks}
        lists |= {"corruptions": self.corruptions or [], "ood": self.ood}
        for key, value in lists.items():
            if len(set(value)) < len(value):
                raise ValueError(f"eval.{key} names an entry twice: {', '.join(value)}")
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
        None, "folder of all runs; null: that of MIXBENCH_RUNS, or else runs/", identity=False
    )
    tags: list[str] = setting([], "tags of the run in W&B", identity=False)
    notes: str = setting("", "notes of the run in W&B", identity=False)


@dataclass
class WandbConfig(Settings):
    """The view of a run in W&B."""

    prefix = "wandb."

    mode: str | None = setting(
        None,
        "mode of W&B; if null, that of WANDB_MODE, or else online if there is an API key",
        one_of=("online", "offline", "disabled"),
        identity=False,
    )
    project: str = setting("mixbench", "project in W&B", identity=False)
    group: str | None = setting(
        None, "group of the run in W&B; if null, that of the runs of all seeds", identity=False
    )
    test: bool = setting(
        True,
        "show the scores of the test set; false where nobody may see them yet",
        identity=False,
    )


SELECTIONS = ("last", "val")
AUTO_KEYS = ("epochs", "batch_size", "lr")  # that the number of training images can decide


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
        "supervised, ssl: learn without labels, which only judge the features afterwards; demix: "
        "learn the components of sums of images",
        one_of=("supervised", *CHOSEN_TASKS),
    )
    recipe: str = setting(
        "default",
        "name of the recipe; `recipe=NAME` sets it, and its values decide the run",
        identity=False,
    )
    auto: list[str] = setting(
        [],
        "keys that the number of training images decides before a run starts",
        one_of=AUTO_KEYS,
        identity=False,
    )
    seed: int = setting(
        0, "seed of weights, order of images, augmentation and mixing", at_least=0, identity=False
    )
    epochs: int = setting(200, "passes through the training set", at_least=1)
    batch_size: int = setting(
        128, "images of an optimiser step, over all devices and micro-batches", at_least=1
    )
    lr: float = setting(0.1, "peak learning rate", above=0)
    distill: str | None = setting(
        None,
        "finished run whose network is the teacher; its logits of the same mixed images are "
        "learned",
    )
    distill_temperature: float = setting(
        4.0, "temperature that divides the logits of teacher and student", above=0
    )
    distill_labels: float = setting(
        0.0, "weight of the method's own loss beside the divergence from the teacher", at_least=0
    )
    precision: str = setting(
        "fp32",
        "fp32; bf16, which is automatic mixed precision; or auto: bf16 where the device computes "
        "in it and outputs are no images",
        one_of=("fp32", "bf16", AUTO),
    )
    devices: int = setting(
        1, "devices per machine, with one process each", at_least=1, identity=False
    )
    num_nodes: int = setting(1, "number of machines", at_least=1, identity=False)
    select: str = setting(
        "last", "epoch that is tested: the last, or the best on the hold-out", one_of=SELECTIONS
    )
    logger: str = setting(
        "wandb",
        "where a run is shown, beside its files",
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
                "and peek=true to log the test score of every epoch"
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
    division: str = ""  # how test images were set aside, with a hash of what stands where
    official: bool | None = None  # the files are the authors' own; None: not known
    label_noise: float | None = None  # share of training labels that data.labels changed
    notices: list[str] = field(default_factory=list)  # what a user should know, as sentences
    unused: dict[str, int] = field(default_factory=dict)  # what was left out, counted by reason
    shared_images: int | None = None  # test images that are training images too; None: not known

    @property
    def names(self) -> list[str]:
        """Class names; numbers where there are none."""
        return self.class_names or [str(index) for index in range(self.num_classes)]


def conditions() -> list[tuple[str, str, Container[Any]]]:
    """Keys that another key can switch off, those of methods apart.

    Returns:
        What :func:`mixbench.config.settings.conditions_of` finds.
    """
    return conditions_of(RunConfig)


def keys_not_in_identity() -> set[str]:
    """Dotted keys that say how or where a run is carried out, and not what is computed."""
    return {key for key, item in walk(RunConfig) if not info_of(item).identity}
