"""Every key of every method changes what it is for, and the name of the run with it."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from several_labels import SeveralDigits
from small_nets import narrow_vit

from mixbench import compose
from mixbench.backbones import NETS
from mixbench.config.compose import to_plain
from mixbench.config.schema import DataInfo, RunConfig
from mixbench.config.settings import (
    Above,
    Below,
    OtherThan,
    conditions_of,
    default_of,
    info_of,
    type_of,
)
from mixbench.data import DATA
from mixbench.data.loaders import MixData
from mixbench.data.sampling import BatchIndex
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.nn.absvit import AbSViT
from mixbench.records.checkpoints import FACT_KEYS, FORMAT
from mixbench.records.identity import Identity
from mixbench.testing.samples import CLASSES, SIZE, fit, sample_splits
from mixbench.training.build import build
from mixbench.training.callbacks.probe import Probe
from mixbench.training.job import resolve

BASE = (
    "data=digits net.width=4 epochs=1 batch_size=12 lr=0.05 optim.schedule=cosine data.crop=2 "
    "trainer.accelerator=cpu wandb.mode=disabled"
)
VIT = "net=narrow_vit"
PASTES = f"{VIT} method.switch_prob=1"


def weights(method: Method) -> str:
    found = hashlib.sha256()
    for value in method.state_dict().values():
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()


def judged(method: Method) -> list[float]:
    """The classifier that is fitted to the features, and the votes of neighbours on them."""
    splits = sample_splits(method)
    probe = Probe(MixData(splits, method.run))
    probe.on_validation_epoch_start(cast(Any, None), method.eval())
    votes = method.extra_logits(splits.train.sample() / 255)["knn"]
    return [method.net.head.fc.weight.abs().sum().item(), votes.exp().square().sum().item()]


def fitted(method: Method) -> float:
    return judged(method)[0]


def votes(method: Method) -> float:
    return judged(method)[1]


def separated(method: Method) -> list[Any]:
    """Figures of test images that were separated; -1 where there is none."""
    batch = sample_splits(method).test[BatchIndex(torch.arange(24), 0)]
    return method.eval().validation_step(batch, 0)["logits"].nan_to_num(-1).tolist()


def in_loader(method: Method) -> bool:
    return method.config.own_dataset


def allowed(method: Method) -> bool:
    return not method.config.alone


def cut_by(method: Method) -> str:
    """Who solves the cut, which may come to the same end."""
    return method.config.solver


@dataclass
class Key:
    """Another value of a key, and the other words that it needs to matter."""

    other: str
    given: str = ""
    seen: Callable[[Any], Any] = weights


MIXER = {
    "alpha": Key("0.1"),
    "layer": Key("2"),
    "dropout": Key("0.5"),
    "upsampling": Key("bilinear"),
    "lam_margin": Key("0.5", "method.lam_margin=0"),
    "mask_adjust": Key("1"),
    "mask_loss": Key("L2+Variance", "method.mask_margin=0"),
    "mask_weight": Key("5", "method.mask_margin=0"),
    "mask_margin": Key("0", "method.alpha=100"),  # masks within the margin
    "mask_anneal": Key("cosine", "method.mask_margin=0"),
    "mixer_loss": Key("bce_eta"),
    "eta": Key("0.2", "method.mixer_loss=bce_eta"),
    "switch_off": Key("0"),
    "mixer_lr": Key("0.5"),
    "mixer_min_lr": Key("0.04"),
    "mixer_momentum": Key("0.1"),
    "ema": Key("0.5", "method.ema_warmup=false"),
    "ema_end": Key("0.9999", "method.ema_warmup=false method.ema_hold=0"),
    "ema_hold": Key("0.9", "method.ema_warmup=false"),
    "ema_warmup": Key("false"),
    "mixer_ckpt": Key("NAME.ckpt"),
    "mixer_bn": Key("running", "method.mixer_ckpt=NAME.ckpt"),
    "official_bugs": Key("true", "method.mask_adjust=1"),
}
CONTRAST = {
    "dim": Key("16"),
    "queue": Key("12"),
    "temperature": Key("0.5"),
    "ema": Key("0.5"),
    "bn_groups": Key("1"),
    "crop_area": Key("0.9"),
    "jitter": Key("0"),
    "grey": Key("1"),
    "blur": Key("1"),
    "knn_k": Key("1", seen=votes),
    "knn_temperature": Key("5", seen=votes),
    "probe_decay": Key("1", seen=fitted),
}
SEARCHED = "method.search_steps=3 method.tested=4 method.restarts=1"
PLAYING = {
    "preset": Key("robust"),
    "loss": Key("hinge"),
    "r1": Key("1"),
    "spectral": Key("true"),
    "ema": Key("0.5"),
    "diversity": Key("0.5"),
    "saturating": Key("true"),
    "d_act": Key("relu"),
    "d_width": Key("3"),
    "norm": Key("group"),
    "classifier": Key("erm.ckpt", SEARCHED, separated),
    "tested": Key("3", SEARCHED, separated),
    "restarts": Key("3", SEARCHED, separated),
    "search_steps": Key("9", SEARCHED, separated),
    "search_lr": Key("0.5", SEARCHED, separated),
    "penalty": Key("1", SEARCHED, separated),
}
PASTING = {
    "alpha": Key("0.1", PASTES),
    "prob": Key("0", PASTES),
    "per_sample": Key("true", PASTES),
    "partner": Key("roll", PASTES),
    "switch_prob": Key("0", f"{PASTES} method.mixup_alpha=0.8"),
}
MASKS = {
    "alpha": Key("0.1"),
    "prob": Key("0"),
    "per_sample": Key("true"),
    "partner": Key("roll"),
}
FOUND_MAPS = {
    "saliency": Key("input_grad", "method.prob=1"),
    "teacher_ckpt": Key("erm.ckpt"),
    "prob": Key("0"),
    "loss": Key("bce_softmax"),
}
SEVERAL = "data=several"  # labels per image
SPLICES = {
    "grids": Key("[2x2]", SEVERAL),
    "counts": Key("[1]", f"{SEVERAL} method.grids=[2x2]"),
    "mix_prob": Key("0", SEVERAL),
    "antialias": Key("true", SEVERAL),
    "shared_grid": Key("true", SEVERAL),
}
MAPS = "method.maps=a.npy method.switch_prob=1"
GUIDED = "method.absvit=absvit.pth method.switch_prob=1"
WINDOWS = TOKENS = "method.switch_prob=1"

JUDGED = "data.judgements=judged.npz"
SEARCH = "method.teacher_ckpt=erm.ckpt"
USE = "method.module=transformmix_search.ckpt"

KEYS = {
    "erm": {},
    "mixup": {
        "alpha": Key("0.1"),
        "prob": Key("0"),
        "per_sample": Key("true"),
        "partner": Key("roll"),
        "fold": Key("true"),
    },
    "mixup2": {"alpha": Key("0.1")},
    "augmix": {
        "severity": Key("9"),
        "width": Key("1"),
        "depth": Key("4"),
        "alpha": Key("0.1"),
        "all_ops": Key("true"),
        "jsd_weight": Key("0"),
        "no_jsd": Key("true"),
        "backend": Key("pil", seen=in_loader),
        "mixed": Key("true", seen=allowed),
    },
    "cutmix": {
        "alpha": Key("0.1"),
        "prob": Key("0"),
        "per_sample": Key("true"),
        "partner": Key("roll"),
        "box_rule": Key("inside"),
        "minmax": Key("[0.2,0.4]"),
    },
    "attentivemix": FOUND_MAPS
    | {
        "top_k": Key("9"),
        "grid": Key("3"),
        "alpha": Key("0.1", "method.top_k=0"),
        "per_sample": Key("true", "method.top_k=0"),
        "partner": Key("roll"),
    },
    "fmix": MASKS
    | {
        "decay": Key("1"),
        "max_soft": Key("0.3"),
        "spectrum": Key("official"),
    },
    "gridmix": MASKS
    | {
        "holes": Key("[3,3]"),
        "hole_aspect": Key("[0.5,0.5]"),
        "cut_area": Key("[0.2,0.2]"),
        "cut_aspect": Key("[1,1]"),
        "official": Key("true", "method.cut_area=[1,1] method.cut_aspect=[4,4]"),
    },
    "guidedmixup": FOUND_MAPS
    | {
        "teacher_ckpt": Key("erm.ckpt", "method.saliency=loss_grad method.prob=1"),
        "pairing": Key("random", "method.prob=1"),
        "part": Key("2", "method.prob=1"),
    },
    "puzzlemix": FOUND_MAPS
    | {key: MASKS[key] for key in ("alpha", "per_sample", "partner")}
    | {
        "blocks": Key("[2]", "method.blocks=[4]"),
        "labels": Key("2"),
        "beta": Key("10"),
        "gamma": Key("0"),
        "eta": Key("5"),
        "neigh": Key("1", "method.blocks=[4] method.gamma=1 method.beta=4"),
        "transport": Key("false"),
        "cell": Key("1"),
        "eps": Key("0"),
        "solver": Key("exact", seen=cut_by),
        "clean_lam": Key("1"),
        "adv_prob": Key("1"),
        "adv_eps": Key("2", "method.adv_prob=1"),
        "official": Key("true"),
    },
    "resizemix": MASKS
    | {
        "scope": Key("[0.2,0.3]"),
        "mode": Key("bilinear"),
    },
    "saliencymix": MASKS | {"saliency": Key("cam")},
    "snapmix": MASKS | {"saliency": Key("norm"), "same_label": Key("sum")},
    "smoothmix": {
        **{key: MASKS[key] for key in ("prob", "per_sample", "partner")},
        "spread": Key("[0.1,0.2]"),
        "official": Key("true"),
    },
    "bc": {"plus": Key("true"), "pairing": Key("dataset")},
    "manifoldmixup": {"alpha": Key("0.1"), "layers": Key("[1]"), "loss": Key("bce_softmax")},
    "alignmix": {
        "alpha": Key("0.1"),
        "layers": Key("[2]"),
        "layer_weights": Key("[0,1]", "method.layer_weights=[1,0]"),
        "sides": Key("[1]", "method.layers=[2]"),
        "eps": Key("1", "method.layers=[2]"),
        "iters": Key("2", "method.layers=[2]"),
        "solver": Key("scaled", "method.layers=[2] method.iters=3"),
        "stop": Key("official", "method.layers=[2]"),
        "cost_scale": Key("mean", "method.layers=[2]"),
        "finalize": Key("row", "method.layers=[2] method.iters=3"),
        "plan": Key("shuffled", "method.layers=[2]"),
        "post_align": Key("bn_relu", "net.final_norm=false"),
        "fast_path": Key("none", "net.final_norm=false method.layers=[-1]"),
        "ae": Key("true"),
        "ae_clean": Key("1", "method.ae=true method.ae_clean=0"),
        "ae_weight": Key("5", "method.ae=true"),
    },
    "automix": MIXER | {"lam_concat": Key("true")},
    "samix": MIXER | {"upsampling": Key("nearest"), "lam_k": Key("2")},
    "moco": CONTRAST,
    "mocosamix": CONTRAST
    | {name: MIXER[name] for name in ("alpha", "layer", "dropout", "lam_margin", "mixer_lr")}
    | {
        "lam_k": Key("2"),
        "upsampling": Key("nearest"),
        "mask_within": Key("0"),
        "mask_loss": Key("L2+Variance", "method.mask_margin=0 method.mask_weight=5"),
        "mask_weight": Key("5", "method.mask_margin=0"),
        "mask_margin": Key("0", "method.mask_weight=5 method.alpha=100"),
        "mask_anneal": Key("constant", "method.mask_margin=0 method.mask_weight=5"),
        "mixer_loss": Key("bce"),
        "aux_weight": Key("1"),
        "official_bugs": Key("true"),
    },
    "splicemix": SPLICES | {"labels": Key("mean", SEVERAL)},
    "splicemix_cl": SPLICES
    | {
        "cl_weight": Key("0", SEVERAL),
        "cl_detach": Key("false", SEVERAL),
        "kept_cells": Key("true", f"{SEVERAL} method.grids=[2x2-1]"),
    },
    "tdattenmix": {
        "attention": Key("random", WINDOWS),
        "absvit": Key("other.pth", GUIDED),
        "teacher_ckpt": Key("erm.ckpt", WINDOWS),
        "maps": Key("b.npy", MAPS),
        "prior": Key("prompt", GUIDED),
        "sigma": Key("0", GUIDED),
        "beta": Key("0", WINDOWS),
        "switch_prob": Key("1", "method.switch_prob=0"),
        "alpha": Key("0.1", "method.switch_prob=0"),
        "side": Key("2", WINDOWS),
        "min_ratio": Key("0.7", WINDOWS),
        "max_ratio": Key("0.3", WINDOWS),
        "label_ratio": Key("official", WINDOWS),
        "map_norm": Key("sum", WINDOWS),
        "dst_tie": Key("random", MAPS.replace("a.npy", "even.npy")),
        "partner": Key("roll"),
        "consistency": Key("0", WINDOWS),
        "tokens": Key("0", f"{WINDOWS} {VIT}"),
    },
    "tlalign": PASTING
    | {
        "mixup_alpha": Key("0.8", f"{VIT} method.switch_prob=0"),
        "box_rule": Key("inside", PASTES),
        "patch": Key("8", VIT),
        "residual": Key("0.9", VIT),
        "last": Key("1", VIT),
        "respect_drop_path": Key("true", f"{VIT} net.drop_path=0.9"),
    },
    "demixgan": PLAYING,
    "denoisegan": PLAYING | {"component": Key("noise.npz")},
    "transformmix_search": {
        "teacher_ckpt": Key("automix.ckpt", SEARCH),
        "saliency": Key("norm", SEARCH),
        "alpha": Key("0.1", SEARCH),
        "partner": Key("roll", SEARCH),
        "noise": Key("1", SEARCH),
        "stn": Key("false", SEARCH),
        "mpn": Key("false", SEARCH),
        "affine": Key("full", SEARCH),
        "stn_input": Key("image+saliency", SEARCH),
        "lam_input": Key("false", SEARCH),
        "symmetric": Key("false", SEARCH),
        "temperature": Key("1", SEARCH),
        "w_area": Key("0", SEARCH),
        "w_tv": Key("5", SEARCH),
        "w_bin": Key("5", SEARCH),
        "w_geo": Key("5", SEARCH),
        "w_keep": Key("0", SEARCH),
        "module_lr": Key("0.5", SEARCH),
    },
    "transformmix_recon": {
        "module": Key("other_search.ckpt", USE),
        "teacher_ckpt": Key("automix.ckpt", USE),
        "saliency": Key("norm", USE),
        "alpha": Key("0.1", USE),
        "partner": Key("roll", USE),
        "noise": Key("1", USE),
        "stn": Key("false", USE),
        "mpn": Key("false", USE),
        "label": Key("prior", USE),
        "prob": Key("0", USE),
        "cache": Key("true", USE, seen=in_loader),
    },
    "transmix": PASTING
    | {
        "mixup_alpha": Key("0", f"{VIT} method.switch_prob=0"),
        "box_rule": Key("inside", PASTES),
        "ratio": Key("0", PASTES),
    },
    "mixpro": {
        "alpha": Key("5", f"{VIT} method.prob=1"),
        "cell": Key("8", f"{VIT} method.prob=1"),
        "prob": Key("1", f"{VIT} method.prob=0"),
        "mixup_alpha": Key("0", f"{VIT} method.prob=0 method.switch_prob=0"),
        "cutmix_alpha": Key("0", f"{VIT} method.prob=0 method.switch_prob=1"),
        "switch_prob": Key("0", f"{VIT} method.prob=0 method.switch_prob=1"),
        "detach_progress": Key("false", f"{VIT} method.prob=1"),
        "area": Key("cells", f"{VIT} method.prob=1 method.cell=12"),
        "hard_labels": Key("false", f"{VIT} method.prob=1 optim.label_smoothing=0.1"),
        "per_sample": Key("true", f"{VIT} method.prob=1"),
        "partner": Key("roll", VIT),
    },
    "smmix": {
        "switch_prob": Key("1", f"{VIT} method.switch_prob=0"),
        "alpha": Key("0.1", f"{VIT} method.switch_prob=0"),
        "min_ratio": Key("0.7", PASTES),
        "max_ratio": Key("0.3", PASTES),
        "per_sample": Key("true", PASTES),
        "partner": Key("roll", VIT),
        "consistency": Key("0", PASTES),
        "tokens": Key("0", PASTES),
    },
    "tokenmix": {
        "alpha": Key("1", TOKENS),
        "extra": Key("5", TOKENS),
        "kind": Key("random", TOKENS),
        "switch_prob": Key("1", "method.switch_prob=0"),
        "mixup_alpha": Key("0.1", "method.switch_prob=0"),
        "saliency": Key("none", TOKENS),
        "teacher_ckpt": Key("erm.ckpt", TOKENS),
        "maps": Key("b.npy", f"{TOKENS} method.maps=a.npy"),
        "loss": Key("bce"),
        "per_sample": Key("true", TOKENS),
        "partner": Key("roll"),
        "official": Key("true", f"{TOKENS} optim.label_smoothing=0.1"),
    },
    "choice": {"members": Key("[mixup,erm]"), "probs": Key("[0,1]", "method.probs=[1,0]")},
    "hmix": {
        "members": Key("[cutmix]"),
        "probs": Key("[0,1]", "method.members=[mixup,cutmix] method.probs=[1,0]"),
        "source": Key("judged.npz"),
        "omega": Key("0"),
        "mode": Key("fixed", JUDGED),
        "rule": Key("mean", f"{JUDGED} method.mode=fixed"),
        "share": Key("0.5", f"{JUDGED} method.mode=fixed"),
    },
}
# Methods whose keys are tried in each run of the tests, those of the others in all tests.
CORE = {"mixup", "cutmix", "manifoldmixup", "bc", "alignmix", "samix", "tdattenmix", "splicemix"}

CASES = [
    pytest.param(method, key, marks=[pytest.mark.slow] * (method not in CORE))
    for method, keys in KEYS.items()
    for key in keys
]


def trained(config: RunConfig) -> tuple[Method, dict[str, Any]]:
    """A method after two steps, and its checkpoint."""
    job, stats = resolve(config), {"residual_mean": [0.0] * 3, "residual_std": [0.5] * 3}
    info = DataInfo(CLASSES, SIZE, SIZE, task=job.task.kind, **stats)  # pyright: ignore
    method, _ = build(
        job, sample_splits(cast(Any, SimpleNamespace(info=info, task=job.task, run=config)))
    )
    checkpoint = fit(method)._checkpoint_connector.dump_checkpoint()
    facts = {"format": FORMAT, "config": to_plain(config), "info": dataclasses.asdict(info)}
    return method, checkpoint | {"mixbench": dict.fromkeys(FACT_KEYS) | facts}


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits_once):
    """Trains a method once, in a folder with the files that the table names."""
    known: dict[str, tuple[Method, Identity]] = {}

    def once(words: str) -> tuple[Method, Identity]:
        if words not in known:
            config = compose(f"{BASE} {words}")
            known[words] = trained(config)[0], resolve(config).identity
        return known[words]

    root = tmp_path_factory.mktemp("methods")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setitem(NETS._objects, "narrow_vit", narrow_vit)
        patch.setitem(DATA._objects, "several", SeveralDigits)
        for name in ("a", "b"):
            np.save(f"{name}.npy", rng.random((24, 4, 4), dtype=np.float32))
        shape = (5, SIZE, SIZE, 3)
        np.savez("noise.npz", images=rng.integers(0, 256, shape, dtype=np.uint8))
        np.save("even.npy", np.ones((24, 4, 4), np.float32))
        whole = ("index1", "class1", "index2", "class2", "subject", "is_repeat")
        shares = {"true_lambda": [0.25], "inferred_lambda": [0.45], "confidence": [0.5]}
        judged = {key: np.zeros(1, np.int16) for key in whole}
        judged |= {key: np.array(value, np.float32) for key, value in shares.items()}
        np.savez("judged.npz", **{f"infer/{key}": value for key, value in judged.items()})
        for seed, name in enumerate(("absvit", "other")):
            torch.manual_seed(seed)
            net = AbSViT(64, 2, 1, 4, 3, 1000)
            for p in net.parameters():
                p.data += 0.2 * torch.randn_like(p)
            torch.save({"model": net.state_dict()}, f"{name}.pth")
        for name in ("erm", "automix", "samix"):
            config = compose(f"{BASE} method={name} seed=5")
            torch.save(trained(config)[1], f"{name}.ckpt")
        for seed, name in enumerate(("transformmix_search", "other_search")):
            config = compose(f"{BASE} method=transformmix_search {SEARCH} seed={seed}")
            torch.save(trained(config)[1], f"{name}.ckpt")
        yield once


def test_every_key_of_every_method_is_tried():
    own = {
        n: {item.name for item in dataclasses.fields(METHODS.get(n).Config)}
        for n in METHODS.names()
    }
    assert {name: set(keys) for name, keys in KEYS.items()} == own


@pytest.mark.filterwarnings("ignore:.* has no effect")
@pytest.mark.parametrize(("method", "key"), CASES)
def test_a_method_s_key_changes_what_it_is_for_and_the_name_of_the_run(made, method, key):
    case = KEYS[method][key]
    words = f"method={method} {case.given}".replace("NAME", method)
    other = f"{words} method.{key}={case.other}".replace("NAME", method)
    (first, ours), (second, theirs) = made(words), made(other)
    assert case.seen(first) != case.seen(second)
    assert ours.config_hash != theirs.config_hash
    assert ours.recipe_hash == theirs.recipe_hash
    assert ours.settings.get(key) != theirs.settings.get(key)


CONDITIONS = [(name, *c) for name in METHODS.table for c in conditions_of(METHODS.get(name).Config)]
# One key of each decider of the first methods is tried in each run of the tests.
TRIED = {(name, decider): key for name, key, decider, _ in reversed(CONDITIONS) if name in CORE}
IDLE = [
    pytest.param(*each, marks=[pytest.mark.slow] * (TRIED.get((each[0], each[2])) != each[1]))
    for each in CONDITIONS
]
# A value that switches keys off, where it is neither a bound nor the one that a class excludes.
OFF = {
    "ae": "false",
    "top_k": "6",
    "no_jsd": "true",
    "minmax": "[0.2,0.4]",
    "pairing": "random",
    "transport": "false",
    "mixer_ckpt": "NAME.ckpt",
    "mixer_loss": "soft_ce",
    "stn": "false",
    "mpn": "false",
}


def value_off(decider: str, values: Any) -> str:
    if isinstance(values, Above | Below):
        return f"{values.bound}"
    if isinstance(values, OtherThan):
        return "null" if values.value is None else str(values.value)
    return OFF[decider]


@pytest.mark.filterwarnings("ignore:.* has no effect")
@pytest.mark.parametrize(("method", "key", "decider", "values"), IDLE)
def test_a_key_that_is_said_to_have_no_effect_has_none(made, method, key, decider, values):
    case, off = KEYS[method][key], value_off(decider.removeprefix("method."), values)
    words = f"method={method} {case.given} {decider}={off}".replace("NAME", method)
    other = f"{words} method.{key}={case.other}".replace("NAME", method)
    assert weights(made(words)[0]) == weights(made(other)[0])
    with pytest.warns(UserWarning, match=f"method.{key} has no effect while {decider}="):
        compose(f"{BASE} {other}")


FILES = [
    (name, key)
    for name, keys in KEYS.items()
    for key, case in keys.items()
    if Path(case.other).suffix in (".npy", ".pth", ".ckpt")
]


@pytest.mark.parametrize(("method", "key"), FILES)
def test_a_file_that_a_method_uses_counts_by_its_content(made, method, key):
    case = KEYS[method][key]
    given = USE if method == "transformmix_recon" else ""  # which needs a module in any case
    path = Path(case.other.replace("NAME", method))
    copied = Path("copies") / path
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, copied)

    def named(place):
        words = f"{BASE} method={method} {given} method.{key}={place}"
        return resolve(compose(words)).identity.config_hash

    first = named(path)
    assert named(copied) == first
    with copied.open("ab") as file:
        file.write(b"more")
    assert named(copied) != first


BOUNDED = [
    (name, item.name, info)
    for name in METHODS.table
    for item in dataclasses.fields(METHODS.get(name).Config)
    if (info := info_of(item)).allowed and not info.options
]


@pytest.mark.parametrize(("name", "key", "info"), BOUNDED, ids=lambda value: str(value)[:30])
def test_every_method_refuses_values_beyond_the_range_that_info_prints(name, key, info):
    config = METHODS.get(name).Config
    (item,) = (item for item in dataclasses.fields(config) if item.name == key)
    value = float("inf")
    given = [value] if isinstance(default_of(item), list) or "list" in type_of(item) else value
    with pytest.raises(ValueError, match=f"method.{key} must (be|lie) "):
        config(**{key: given})
