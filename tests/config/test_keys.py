"""Every key of a configuration does what it is for, and the identity of a run knows which do.

A key either counts, and then another value gives a run of another name whose weights, or what the
key is for, are others; or it is aside, and then name, weights and scores stay, and what it is for
is seen elsewhere.
"""

import contextlib
import dataclasses
import functools
import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from making import write_answers, write_flat, write_folder, write_hub, write_judged

import mixbench.training.attempt
import mixbench.training.fit
from mixbench import compose, run
from mixbench.config.overrides import flatten
from mixbench.config.schema import RunConfig, conditions, keys_not_in_identity
from mixbench.data import DATA
from mixbench.data.files.cache import prepare
from mixbench.data.sampling import BatchIndex
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import UserError
from mixbench.evaluation.suite import load_suite
from mixbench.methods.base import Method
from mixbench.records.checkpoints import read_checkpoint
from mixbench.records.curves import read_curves
from mixbench.records.identity import Identity
from mixbench.records.record import Record, runs_folder
from mixbench.training.build import build
from mixbench.training.fit import _strategy
from mixbench.training.job import resolve, training_device
from mixbench.training.reevaluate import evaluate_run

BASE = (
    "data=digits recipe=one data.limit=32 data.size=16 net.width=4 epochs=1 batch_size=8 lr=0.05 "
    "optim.schedule=constant eval.suites=[] wandb.mode=disabled trainer.accelerator=cpu"
)


@dataclass
class Outcome:
    """A short run, as far as it came, and what its parts were called with."""

    words: str
    folder: Path
    identity: Identity
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    record: Record | None = None

    @functools.cached_property
    def config(self) -> RunConfig:
        return compose(self.words)

    @functools.cached_property
    def state(self) -> dict[str, torch.Tensor]:
        return read_checkpoint(self.folder / "last.ckpt")["state_dict"]


def weights(outcome: Outcome) -> str:
    found = hashlib.sha256()
    for value in outcome.state.values():
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()


def predictions(outcome: Outcome) -> bytes:
    return (outcome.folder / "predictions.npz").read_bytes()


def layout(outcome: Outcome) -> tuple[int, ...]:
    return outcome.state["net.stages.0.1.conv1.weight"].stride()


def curve(outcome: Outcome) -> list[float]:
    rows, _ = read_curves(outcome.folder / "metrics.csv")
    return [row["step"] for row in rows if "train/loss" in row]


def refused(outcome: Outcome) -> bool:
    return outcome.record is None


def called(part: str, option: str) -> Callable[[Outcome], Any]:
    return lambda outcome: outcome.calls[part].get(option)


def recorded(name: str) -> Callable[[Outcome], Any]:
    return lambda outcome: getattr(outcome.record, name)


def scores(outcome: Outcome) -> dict[str, float]:
    return dict(outcome.record.metrics)  # pyright: ignore[reportOptionalMemberAccess]


def judge(outcome: Outcome) -> str:
    return outcome.record.evaluations["two_class"]["judge"]  # pyright: ignore


def shapes(outcome: Outcome) -> dict[str, tuple[int, ...]]:
    config = outcome.config
    net = build(resolve(config), DATA.get("digits")(config.data).load())[0].net
    return {name: tuple(value.shape) for name, value in net.named_parameters()}


def first_layer(outcome: Outcome) -> bytes:
    config = outcome.config
    net = build(resolve(config), DATA.get("digits")(config.data).load())[0].net
    return net.published(net.state_dict())["conv1.0.weight"].numpy().tobytes()


def loader_workers(outcome: Outcome) -> int:
    splits = DATA.get("digits")(outcome.config.data).load()
    return build(resolve(outcome.config), splits)[1].train_dataloader().num_workers


def place_with_gpu(outcome: Outcome) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        return training_device(outcome.config).type


def own_rows(outcome: Outcome) -> int:
    config = outcome.config
    splits = DATA.get("digits")(config.data).load()
    return build(resolve(config), splits, world=config.world)[1].batches.batch_size


def first_crops(outcome: Outcome) -> bytes:
    """Of a set that is prepared."""
    source = DATA.get("folder")(outcome.config.data)
    prepare(source)
    draw = BatchIndex(torch.arange(2), 0, crop_seed=1)
    return source.load().train[draw].images.numpy().tobytes()


def rare_class(outcome: Outcome) -> str:
    """Whether a test set is used that lacks a class."""
    with tempfile.TemporaryDirectory() as folder:
        for part, labels in (("train", [0, 1, 2]), ("test", [0, 1, 1])):
            images = np.full((3, 8, 8), len(part), np.uint8)
            np.savez(f"{folder}/{part}.npz", images=images, label=labels)
        files = {part: f"{folder}/{part}.npz" for part in ("train", "test")}
        config = dataclasses.replace(outcome.config.data, kind="pack", **files)
        try:
            return f"{len(DATA.get('pack')(config).load().test)} images"
        except UserError as error:
            return error.where


def patience(outcome: Outcome) -> float:
    """Of a strategy that two processes would share."""
    parts: Any = SimpleNamespace(
        job=SimpleNamespace(config=outcome.config), method=Method, group=ProcessGroup(0, 2)
    )
    return _strategy(parts)._timeout.total_seconds()


def no_corruption(outcome: Outcome) -> str:
    """Which key keeps the suite of corruptions from being carried out."""
    try:
        load_suite("corruption", outcome.config.eval).check()
    except UserError as error:
        return error.where
    return ""


def no_demixer(outcome: Outcome) -> str:
    """Which run keeps the suite of separability from being carried out."""
    with pytest.raises(UserError) as raised:
        load_suite("separability", outcome.config.eval).check()
    return str(raised.value)


def separated(outcome: Outcome) -> dict[str, float]:
    """Scores of the suite of separation, which costs too much for the run itself."""
    return evaluate_run(outcome.folder, [], ["separation"]).metrics


@dataclass
class Key:
    """Another value of a key as words, what else must be set, and where the difference is seen."""

    other: str
    given: str = ""
    seen: Callable[[Outcome], Any] = weights
    bit_equal: bool = True  # a key that is aside leaves weights and predictions alone
    carried_out: bool = True  # False: more than one process would be needed


ZOO = "data=folder data.root=zoo data.limit=8 batch_size=4 data.size=8 data.crop=0"
FLAT = ZOO.replace("zoo", "flat")
SMALL_VIT = "net=vit_tiny net.patch=16 data.limit=8 batch_size=4"
TIMM = "net=timm:resnet10t"
TIMM_STAGES = "[conv1+bn1+act1+maxpool,layer1+layer2,layer3+layer4]"
PACK = (
    "data=pack data.size=8 data.limit=8 batch_size=4 data.crop=0 data.train=a.npz data.test=b.npz"
)
BOXED = f"{PACK} eval.suites=[wsol]"
OBSERVED = ("data.second", "data.level", "data.first_classes", "data.second_classes")
OBSERVED += ("data.weights", "data.binary", "data.clip")
DEMIX = "method=demixgan data.size=16 method.tested=4 method.search_steps=2 method.restarts=1"
ATTACKED = "eval.suites=[adversarial] eval.attacks=[fgsm_8] eval.adv_n=8"
CORRUPTED = "eval.suites=[corruption] eval.corruptions=[contrast]"

COUNTED = {
    "method.name": Key("method=mixup"),
    "data.kind": Key("data=pack data.train=a.npz data.test=b.npz data.name=digits"),
    "data.name": Key("data.name=other", seen=recorded("data")),
    "data.fold": Key("data.fold=1", f"{FLAT} data.folds=2 data.fold=0"),
    "data.race_fold": Key("data.race_fold=0/5"),
    "data.size": Key("data.size=12"),
    "data.resize": Key("data.resize=12", ZOO),
    "data.crop_area": Key("data.crop_area=0.3", ZOO),
    "data.store": Key("data.store=12", f"{ZOO} data.crop_area=0.3", first_crops, carried_out=False),
    "data.fit": Key("data.fit=squeeze", ZOO),
    "data.crop_scales": Key("data.crop_scales=[0.5]", f"{ZOO} data.fit=squeeze"),
    "data.allow_overlap": Key(
        "data.allow_overlap=true", f"{PACK} data.judgements=seen.npz", predictions
    ),
    "data.crop": Key("data.crop=2"),
    "data.pad": Key("data.pad=mean"),
    "data.flip": Key("data.flip=true"),
    "data.flip_rule": Key("data.flip_rule=alternating", "data.flip=true"),
    "data.auto_augment": Key("data.auto_augment=rand-m9-mstd0.5-inc1"),
    "data.jitter": Key("data.jitter=0.4"),
    "data.lighting": Key("data.lighting=0.5"),
    "data.erasing": Key("data.erasing=1"),
    "data.repeats": Key("data.repeats=2"),
    "data.train_fraction": Key("data.train_fraction=0.01"),
    "data.limit": Key("data.limit=24"),
    "data.val_fraction": Key("data.val_fraction=0.5", "select=val"),
    "data.on_corrupt": Key("data.on_corrupt=skip", ZOO.replace("zoo", "torn"), refused),
    "data.second": Key("data.second=waves", DEMIX),
    "data.level": Key("data.level=2", DEMIX),
    "data.first_classes": Key("data.first_classes=[1,2]", DEMIX),
    "data.second_classes": Key("data.second_classes=[1]", f"{DEMIX} data.second=images"),
    "data.weights": Key("data.weights=[1,0.5]", DEMIX),
    "data.binary": Key("data.binary=true", DEMIX),
    "data.clip": Key("data.clip=true", DEMIX.replace("demixgan", "denoisegan")),
    "net.name": Key("net=resnet18 net.width=4"),
    "net.width": Key("net.width=5"),
    "net.final_norm": Key("net.final_norm=false"),
    "net.pool": Key("net.pool=max"),
    "net.patch": Key("net.patch=8", SMALL_VIT, shapes, carried_out=False),
    "net.window": Key("net.window=2", "data.size=32 net=swin_tiny", shapes, carried_out=False),
    "net.drop_path": Key("net.drop_path=0.5", SMALL_VIT),
    "net.latent": Key("net.latent=8", DEMIX),
    "net.stages": Key(f"net.stages={TIMM_STAGES}", TIMM, shapes, carried_out=False),
    "net.weights": Key("net.weights=start.pth"),
    "net.pretrained": Key("net.pretrained=true", TIMM, first_layer, carried_out=False),
    "optim.name": Key("optim.name=adamw"),
    "optim.momentum": Key("optim.momentum=0.5"),
    "optim.nesterov": Key("optim.nesterov=false"),
    "optim.weight_decay": Key("optim.weight_decay=0.1"),
    "optim.decay_all": Key("optim.decay_all=true", "optim.weight_decay=0.1"),
    "optim.schedule": Key("optim.schedule=cosine"),
    "optim.milestones": Key("optim.milestones=[0.25]", "optim.schedule=step"),
    "optim.gamma": Key("optim.gamma=0.5", "optim.schedule=step"),
    "optim.warmup_epochs": Key("optim.warmup_epochs=1"),
    "optim.min_lr": Key("optim.min_lr=0.04", "optim.schedule=cosine"),
    "optim.backbone_lr": Key("optim.backbone_lr=0.1"),
    "optim.clip": Key("optim.clip=0.01"),
    "optim.accumulate": Key("optim.accumulate=2"),
    "optim.label_smoothing": Key("optim.label_smoothing=0.5"),
    "optim.ema": Key("optim.ema=0.5"),
    "trainer.channels_last": Key("trainer.channels_last=false", "net.width=5", layout),
    "epochs": Key("epochs=2"),
    "batch_size": Key("batch_size=16"),
    "lr": Key("lr=0.1"),
    "distill": Key("distill=RUN"),
    "distill_temperature": Key("distill_temperature=1", "distill=RUN"),
    "distill_labels": Key("distill_labels=1", "distill=RUN"),
    "precision": Key("precision=bf16"),
    "select": Key("select=val"),
}

ASIDE = {
    "data.classes": Key("data.classes=train", seen=rare_class, carried_out=False),
    "data.augment_by": Key("data.augment_by=epoch", "data.flip=true", seen=recorded("augment_by")),
    "data.workers": Key("data.workers=1", seen=loader_workers),
    "trainer.accelerator": Key("trainer.accelerator=auto", seen=place_with_gpu),
    "trainer.threads": Key("trainer.threads=2", seen=called("torch", "threads"), bit_equal=False),
    "trainer.log_every": Key("trainer.log_every=2", seen=curve),
    "trainer.deterministic": Key(
        "trainer.deterministic=true", seen=called("Trainer", "deterministic")
    ),
    "trainer.engine": Key("trainer.engine=fast", seen=recorded("engine")),
    "trainer.cuda_graphs": Key(
        "trainer.cuda_graphs=true", "trainer.engine=fast", seen=recorded("cuda_graphs")
    ),
    "trainer.compile": Key("trainer.compile=true", seen=recorded("compiled")),
    "trainer.compile_input": Key("trainer.compile_input=always", seen=recorded("compiled_input")),
    "trainer.ckpt_steps": Key("trainer.ckpt_steps=1", seen=called("checkpoints", "saved")),
    "trainer.ckpt_required": Key(
        "trainer.ckpt_required=false", seen=called("checkpoints", "required")
    ),
    "trainer.timeout": Key("trainer.timeout=7", seen=patience),
    "eval.suites": Key("eval.suites=[occlusion]", seen=scores),
    "eval.attacks": Key("eval.attacks=[fgsm_4]", ATTACKED, seen=scores),
    "eval.adv_n": Key("eval.adv_n=16", ATTACKED, seen=scores),
    "eval.saliency": Key("eval.saliency=RUN", "eval.suites=[salience]", seen=scores),
    "eval.judge": Key("eval.judge=RUN", "method=cutmix eval.suites=[two_class]", seen=judge),
    "eval.gaze": Key(
        "eval.gaze=b.npy", "method=cutmix eval.suites=[gaze] eval.gaze=a.npy", seen=scores
    ),
    "eval.human": Key(
        "eval.human=b_answers.npz", "eval.suites=[human] eval.human=a_answers.npz", seen=scores
    ),
    "eval.corruptions": Key("eval.corruptions=[fog]", f"{CORRUPTED} eval.adv_n=8", seen=scores),
    "eval.corrupted": Key("eval.corrupted=gone", seen=no_corruption, carried_out=False),
    "eval.demixer": Key("eval.demixer=gone", seen=no_demixer, carried_out=False),
    "eval.search": Key("eval.search=alternating", DEMIX, seen=separated),
    "eval.restarts": Key("eval.restarts=2", DEMIX, seen=separated),
    "eval.search_steps": Key("eval.search_steps=3", DEMIX, seen=separated),
    "eval.encoder_steps": Key("eval.encoder_steps=1", DEMIX, seen=separated),
    "eval.frost": Key("eval.frost=gone", seen=no_corruption, carried_out=False),
    "eval.ood": Key("eval.ood=[uniform]", "eval.suites=[ood] eval.ood=[gaussian]", seen=scores),
    "eval.wsol_resize": Key("eval.wsol_resize=bilinear", BOXED, seen=scores),
    "eval.wsol_class": Key("eval.wsol_class=predicted", BOXED, seen=scores),
    "run.dir": Key("run.dir=elsewhere", seen=lambda outcome: outcome.folder.parent),
    "run.tags": Key("run.tags=[a]", seen=called("wandb_logger", "tags")),
    "run.notes": Key("run.notes=hello", seen=called("wandb_logger", "notes")),
    "logger": Key(
        "logger=tensorboard", seen=lambda outcome: (outcome.folder / "tensorboard").exists()
    ),
    "wandb.mode": Key("wandb.mode=offline", seen=called("wandb_logger", "mode")),
    "wandb.group": Key("wandb.group=other", seen=called("wandb_logger", "group")),
    "wandb.test": Key("wandb.test=false", seen=called("wandb_logger", "test")),
    "wandb.project": Key("wandb.project=other", seen=called("wandb_logger", "project")),
    "recipe": Key("recipe=two", seen=recorded("recipe")),
    "devices": Key("devices=2", seen=own_rows, carried_out=False),
    "num_nodes": Key("num_nodes=2", seen=own_rows, carried_out=False),
    "peek": Key("peek=true", seen=scores),
}

# Keys that are paths: where files lie is aside, their content counts. Words with one content, with
# the same elsewhere, and with another.
CONTENT = {
    "data.root": (ZOO, "data.root=same/zoo", "data.root=other/zoo"),
    "data.train": (PACK, "data.train=same/a.npz", "data.train=other/a.npz"),
    "data.test": (PACK, "data.test=same/b.npz", "data.test=other/b.npz"),
    # What is set aside makes other images of training and of the test.
    "data.test_fraction": (FLAT, "data.test_fraction=0.2", "data.test_fraction=0.5"),
    "data.folds": (f"{FLAT} data.folds=2 data.fold=0", "data.folds=2", "data.folds=3"),
    "data.labels": (
        f"{PACK} data.labels=people.npz:fair",
        "data.labels=same.npz:fair",
        "data.labels=other.npz:fair",
    ),
    "data.judgements": (
        f"{PACK} data.judgements=seen.npz",
        "data.judgements=same/seen.npz",
        "data.judgements=other/seen.npz",
    ),
}
SPECIAL = ("seed", "task", "auto")  # tested one by one
GROUPED = ("data.fold",)  # tells runs apart that make one row
# What makes the first key of a pair of schema.conditions idle, where BASE does not.
SWITCHED_OFF = {
    ("trainer.cuda_graphs", "trainer.engine"): "",
    ("optim.nesterov", "optim.name"): "optim.name=adamw",
    ("optim.milestones", "optim.schedule"): "",
    ("optim.gamma", "optim.schedule"): "",
    ("optim.min_lr", "optim.schedule"): "",
    ("data.val_fraction", "select"): "",
    ("data.pad", "data.crop"): "data.crop=0",
    ("data.crop", "data.crop_area"): f"{ZOO.replace(' data.crop=0', '')} data.crop_area=0.5",
    ("data.crop", "data.crop_scales"): (
        f"{ZOO.replace(' data.crop=0', '')} data.fit=squeeze data.crop_scales=[0.5]"
    ),
    ("data.crop", "task"): "method=moco",
    ("data.erasing", "task"): "method=moco",
    ("optim.label_smoothing", "task"): "method=moco",
    ("data.flip", "task"): DEMIX,
    ("data.augment_by", "data.pad"): "data.pad=mean",
    ("data.augment_by", "data.workers"): "data.workers=1",
    ("data.augment_by", "task"): "method=moco",
    ("data.flip_rule", "data.flip"): "",
    ("data.flip_rule", "task"): "method=moco data.flip=true",
    ("data.flip_rule", "data.repeats"): "data.flip=true data.repeats=2",
    ("data.level", "data.second"): f"{DEMIX} data.second=images",
    ("data.second_classes", "data.second"): DEMIX,
    ("net.latent", "net.name"): "",
    **{
        (f"data.{key}", "task"): ""
        for key in (
            "second",
            "level",
            "first_classes",
            "second_classes",
            "weights",
            "binary",
            "clip",
        )
    },
}


def write_pack(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    boxes = np.tile([1, 1, 5, 5], (8, 1))
    np.savez(path, images=images, label=np.arange(8) % 2, class_names=["a", "b"], bbox=boxes)


@pytest.fixture(scope="module")
def place(tmp_path_factory, digits_once):
    """A working directory with the files that the tables above name."""
    root = tmp_path_factory.mktemp("keys")
    for recipe in ("one", "two"):
        path = root / "experiments" / "recipe" / f"{recipe}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("epochs: 1\n")
    for name in ("zoo", "torn", "other/zoo"):
        write_folder(root / name, train=4, val=2)
    write_flat(root / "flat", {"ant": 9, "bee": 9})
    write_hub(root / "hub", "timm/resnet10t.c3_in1k", "resnet10t")
    shutil.copytree(root / "zoo", root / "same" / "zoo")
    (root / "torn" / "train" / "ant" / "0.png").write_bytes(b"torn")
    shutil.copy(
        root / "zoo" / "train" / "ant" / "1.png", root / "other" / "zoo" / "train" / "ant" / "0.png"
    )
    for name, seed in (("a.npz", 0), ("b.npz", 2)):
        for folder, more in (("", 0), ("same", 0), ("other", 1)):
            write_pack(root / folder / name, seed + more)
    labels = np.arange(8) % 2
    for name, fair in (("people", labels), ("same", labels), ("other", 1 - labels)):
        np.savez(root / f"{name}.npz", fair=fair)
    for folder, pair in (("", (0, 1)), ("same", (0, 1)), ("other", (2, 5))):
        write_judged(root / folder / "seen.npz", [pair], labels)
    for name, others in (("a", 5), ("b", 9)):
        known = DATA.get("digits")(compose("data=digits").data).load().test.labels
        write_answers(root / f"{name}_answers.npz", known, others=others)
    for name, seed in (("a.npy", 0), ("b.npy", 1)):
        np.save(root / name, np.random.default_rng(seed).random((32, 4, 4)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "hub"))
        patch.setenv("MIXBENCH_RUNS", str(root / "runs"))
        config = compose(f"{BASE} seed=7")
        splits = DATA.get("digits")(config.data).load()
        torch.save(build(resolve(config), splits)[0].net.state_dict(), root / "start.pth")
        yield root


@pytest.fixture(scope="module")
def observe(place):
    """Carries a run out once, in a folder of its own."""
    known: dict[tuple[str, bool], Outcome] = {}

    def once(words: str, carried_out: bool = True) -> Outcome:
        if "RUN" in words:
            words = words.replace("RUN", str(once("seed=3").folder))
        key = (words, carried_out)
        if key not in known:
            known[key] = carry_out(words, place / str(len(known)), carried_out)
        return known[key]

    return once


def carry_out(words: str, folder: Path, carried_out: bool) -> Outcome:
    full = f"{BASE} {words}" if "run.dir" in words else f"{BASE} run.dir={folder} {words}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a key that is idle on purpose
        config = compose(full)
    identity = resolve(config).identity
    outcome = Outcome(full, runs_folder(config.run.dir) / identity.id, identity)
    if carried_out:
        with pytest.MonkeyPatch.context() as patch:
            spy(patch, outcome.calls)
            with contextlib.suppress(UserError if "torn" in words else ()):
                outcome.record = run(config)
        torch.use_deterministic_algorithms(False)
    return outcome


def spy(patch: pytest.MonkeyPatch, calls: dict[str, dict[str, Any]]) -> None:
    """Note what the parts of a run are given; no view in W&B is opened, nothing compiled."""
    trainer = mixbench.training.fit.Trainer
    io = mixbench.training.fit.AtomicCheckpointIO
    save = io.save_checkpoint

    def noted(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls[name] = options
            return made(*args, **options)

        return call

    def saved(self: Any, checkpoint: Any, path: Any, **options: Any) -> None:
        seen = calls.setdefault("checkpoints", {"saved": []})
        seen["required"] = self.required
        seen["saved"].append((Path(path).name, checkpoint["mixbench_step"]))
        save(self, checkpoint, path, **options)

    patch.setattr(torch, "set_num_threads", lambda count: calls.update(torch={"threads": count}))
    patch.setattr(mixbench.training.fit, "Trainer", noted("Trainer", trainer))
    patch.setattr(
        mixbench.training.attempt, "wandb_logger", noted("wandb_logger", lambda *_, **__: None)
    )
    patch.setattr(mixbench.training.attempt, "compile_stages", lambda *_: True)
    patch.setattr(mixbench.training.attempt, "compile_input", lambda *_: True)
    patch.setattr(io, "save_checkpoint", saved)


def test_every_key_of_the_schema_stands_in_one_table():
    known = {key for key, _ in flatten(dataclasses.asdict(RunConfig()))}
    tables = [COUNTED, ASIDE, CONTENT, SPECIAL]
    listed = [key for table in tables for key in table]
    assert sorted(listed) == sorted(known)
    assert {*ASIDE, *CONTENT, "seed", "auto"} == keys_not_in_identity()


@pytest.mark.parametrize("key", COUNTED)
def test_a_key_that_counts_changes_the_run_and_its_name(observe, key):
    case = COUNTED[key]
    words = (case.given, f"{case.given} {case.other}".strip())
    first, second = (observe(given, case.carried_out) for given in words)
    assert case.seen(first) != case.seen(second)
    ours, theirs = first.identity, second.identity
    assert ours.config_hash != theirs.config_hash
    assert ours.id != theirs.id
    assert (ours.recipe_hash == theirs.recipe_hash) is (key in ("method.name", *GROUPED))
    assert (ours.family_hash == theirs.family_hash) is (key in ("method.name", "epochs", *GROUPED))
    assert (ours.row_hash == theirs.row_hash) is (key in GROUPED)


@pytest.mark.parametrize("key", ASIDE)
def test_a_key_that_is_aside_leaves_name_and_numbers_alone_and_still_does_its_work(observe, key):
    case = ASIDE[key]
    first = observe(case.given, case.carried_out)
    second = observe(f"{case.given} {case.other}".strip(), case.carried_out)
    assert case.seen(first) != case.seen(second)
    assert first.identity == second.identity
    if case.carried_out and case.bit_equal:
        assert weights(first) == weights(second)
        assert predictions(first) == predictions(second)


@pytest.mark.parametrize("key", CONTENT)
def test_the_content_of_files_counts_and_not_their_place(observe, key):
    given, same, other = CONTENT[key]
    first, moved, changed = observe(given), observe(f"{given} {same}"), observe(f"{given} {other}")
    assert moved.identity == first.identity
    assert (weights(moved), predictions(moved)) == (weights(first), predictions(first))
    assert changed.identity.config_hash != first.identity.config_hash
    assert changed.identity.recipe_hash != first.identity.recipe_hash
    assert predictions(changed) != predictions(first)


def test_accumulation_takes_as_many_steps_with_smaller_batches(observe):
    whole, parts = observe(""), observe("optim.accumulate=2")
    saved = [outcome.calls["checkpoints"]["saved"] for outcome in (whole, parts)]
    assert saved[0] == saved[1] == [("last.ckpt", 4)]
    assert own_rows(parts) == own_rows(whole) / 2 == 4


def test_seeds_of_one_configuration_share_its_hashes_and_no_weights(observe):
    first, second = observe("seed=3"), observe("seed=4")
    assert weights(first) != weights(second)
    assert first.identity.id != second.identity.id
    assert dataclasses.replace(first.identity, id=second.identity.id) == second.identity


def test_runs_with_and_without_labels_are_never_in_one_row():
    with_labels, without = (compose(f"data=digits method={name}") for name in ("erm", "moco"))
    assert (with_labels.task, without.task) == ("supervised", "ssl")
    hashes = [resolve(config).identity.recipe_hash for config in (with_labels, without)]
    assert hashes[0] != hashes[1]
    for words in ("method=erm task=ssl", "method=moco task=supervised"):
        with pytest.raises(UserError, match="trains with"):
            assert resolve(compose(f"data=digits {words}")).identity


@pytest.mark.parametrize(("key", "decider", "values"), conditions())
def test_a_key_that_is_said_to_have_no_effect_has_none(observe, key, decider, values):
    case = (COUNTED | ASIDE)[key]
    words = SWITCHED_OFF[key, decider]
    first, second = observe(words), observe(f"{words} {case.other}")
    assert weights(first) == weights(second)
    with pytest.warns(UserWarning, match=f"{key} has no effect while {decider}="):
        compose(f"{BASE} {words} {case.other}")
