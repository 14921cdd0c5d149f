"""Ids and hashes of small runs of every kind, to hold two versions of the code against each other.

``python tests/reference/net.py FOLDER`` trains them below FOLDER and writes ``net.json`` there;
``python tests/reference/net.py --compare A B`` lists what differs between two such folders. Hashes
are equal only on one machine: both folders have to come from the same.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

TESTS = Path(__file__).resolve().parents[1]
DATA = TESTS.parents[1] / "shared" / "data"
BASE = "data=digits data.limit=96 net.width=4 epochs=2 batch_size=16 wandb.mode=disabled lr=0.05 "
BASE += "eval.suites=[calibration] "
VIT = "net=small_nets:narrow_vit data.crop=1 "
PLAIN = ["erm", "mixup", "mixup2", "cutmix", "manifoldmixup", "bc"]
PLAIN += ["alignmix", "samix", "automix", "choice"]
RUNS = {
    **{name: f"method={name}" for name in PLAIN},
    **{name: f"method={name} net.width=4" for name in ("moco", "mocosamix")},
    **{name: f"method={name} {VIT}" for name in ("tdattenmix", "tlalign", "transmix")},
    "tdattenmix_resnet": "method=tdattenmix",
    "alignmix_layers": "method=alignmix method.layers=[3] method.solver=scaled",
    "alignmix_embed": "method=alignmix method.layers=[embed]",
    "alignmix_shuffled": "method=alignmix method.plan=shuffled",
    "alignmix_ae": "method=alignmix method.ae=true method.ae_clean=1.0",
    "automix_concat": "method=automix method.lam_concat=true",
    "samix_k": "method=samix method.lam_k=0.25 method.mask_adjust=1.0 method.dropout=0.1",
    "samix_eta": "method=samix method.layer=1 method.mixer_loss=pair_eta method.ema_warmup=false",
    "samix_bce": "method=samix method.mixer_loss=bce_eta method.eta=0.5 "
    "method.mask_anneal=official",
    "moco_blur": "method=moco method.blur=1.0 method.jitter=1.0",
    "mocosamix_bugs": "method=mocosamix method.lam_k=0.25 method.dropout=0.1 "
    "method.official_bugs=true",
    "mocosamix_bce": "method=mocosamix method.mixer_loss=bce method.aux_weight=0.5 method.layer=1",
    "tdattenmix_official": "method=tdattenmix method.switch_prob=1.0 method.label_ratio=official "
    "method.map_norm=sum",
    "tdattenmix_random": f"method=tdattenmix {VIT} method.switch_prob=1.0 method.attention=random "
    "method.partner=derange",
    "tdattenmix_tie": f"method=tdattenmix {VIT} method.switch_prob=1.0 method.dst_tie=random "
    "method.min_ratio=0.0 method.max_ratio=1.0",
    "mixup_sample": "method=mixup method.per_sample=true method.partner=derange method.fold=true",
    "cutmix_sample": "method=cutmix method.per_sample=true method.minmax=[0.2,0.8]",
    "cutmix_inside": "method=cutmix method.box_rule=inside",
    "bc_plus": "method=bc method.plus=true",
    "manifold_layers": "method=manifoldmixup method.layers=[0,-1] method.loss=bce_softmax",
    "choice_tokens": f"method=choice method.members=[tlalign,transmix,tdattenmix] {VIT}",
    "select_val": "method=cutmix select=val peek=true data.val_fraction=0.2",
    "peek": "method=mixup peek=true seed=1",
    "ema": "method=mixup optim.ema=0.9",
    "accumulate": "method=mixup optim.accumulate=2",
    "bf16": "method=mixup precision=bf16",
    "adamw": "method=erm optim.name=adamw optim.schedule=step optim.clip=1.0 "
    "optim.label_smoothing=0.1 data.repeats=2 data.erasing=0.5",
    "ssl_val": "method=moco select=val data.val_fraction=0.2",
    "two_ranks": "method=mixup devices=2 seed=5",
    "two_ranks_samix": "method=samix devices=2 seed=5",
    "suites": "method=cutmix eval.suites=[calibration,adversarial,occlusion,salience,shuffle,"
    "linearity] eval.adv_n=24",
    "suites_vit": f"method=tdattenmix {VIT} eval.suites=[calibration,adversarial,occlusion,"
    "salience,shuffle,linearity] eval.adv_n=24",
    "gaze": "method=cutmix eval.suites=[gaze] eval.gaze=gaze.npy eval.adv_n=24 seed=2",
    "net_weights": "method=erm net.weights=runs/@erm",
    "voc": f"method=erm data=voc2007 data.root={DATA}/voc2012_sample.zip data.size=32 data.limit=64"
    " net.width=4 eval.suites=[calibration]",
}
FACTS = ("id", "config_hash", "recipe_hash", "data_hash", "status", "epochs", "select", "marks")
TIMES = {"ms_step", "img_per_s", "dataloader_wait_pct"}


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def of_tensors(state: dict) -> dict[str, str]:
    return {k: digest(v.contiguous().numpy().tobytes()) for k, v in sorted(state.items())}


def of_curves(path: Path) -> str:
    """Hash of the curves without what a clock tells."""
    lines = [line.split(",") for line in path.read_text().splitlines()]
    kept = [i for i, name in enumerate(lines[0]) if not any(word in name for word in TIMES)]
    return digest("\n".join(",".join(line[i] for i in kept) for line in lines).encode())


def of_run(folder: Path) -> dict:
    record = json.loads((folder / "record.json").read_text())
    found = {key: record.get(key) for key in FACTS} | {"metrics": record["metrics"]}
    judged = record["evaluations"].items()
    found["evaluations"] = {
        name: {k: v for k, v in facts.items() if k not in ("seconds", "device", "when")}
        for name, facts in judged
    }
    for name in ("last.ckpt", "best.ckpt"):
        if (folder / name).exists():
            state = torch.load(folder / name, weights_only=True)["state_dict"]
            found[name] = digest(json.dumps(of_tensors(state)).encode())
            found[f"{name} keys"] = digest(json.dumps(sorted(state)).encode())
    with np.load(folder / "predictions.npz") as stored:
        found["predictions"] = {k: digest(stored[k].tobytes()) for k in sorted(stored.files)}
    found["curves"] = of_curves(folder / "metrics.csv")
    return found


def interrupted(words: list[str], stop_at: int):
    """Train until a checkpoint of that epoch is written, stop as by a signal, and go on."""
    from mixbench import compose, run
    from mixbench.errors import InterruptedRunError
    from mixbench.methods.mixup import Mixup

    after = Mixup.after_step

    def stopping(self):
        after(self)
        if self.step == stop_at:
            os.kill(os.getpid(), 2)

    Mixup.after_step = stopping
    try:
        run(compose(words))
    except InterruptedRunError:
        pass
    finally:
        Mixup.after_step = after


def make(folder: Path, names: list[str]) -> None:
    sys.path.insert(0, str(TESTS))
    os.environ["PYTHONPATH"] = f"{TESTS.parent}:{TESTS}"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    np.save("gaze.npy", np.random.default_rng(0).random((96, 8, 8), dtype=np.float32))
    os.environ |= {"MIXBENCH_RUNS": "runs", "MIXBENCH_DATA": str(folder / "data")}
    import logging

    from mixbench import compose, run

    logging.getLogger("mixbench").setLevel(logging.ERROR)
    found = json.loads(Path("net.json").read_text()) if Path("net.json").exists() else {}
    for name, words in RUNS.items():
        if names and name not in names:
            continue
        if "voc2007" in words and not DATA.exists():
            continue
        full = (BASE + words).replace("runs/@erm", f"runs/{found.get('erm', {}).get('id')}")
        if "devices=2" in words:
            # A process of its own, as for a user: ranks are started by the command.
            done = subprocess.run(
                [sys.executable, "-m", "mixbench", "run", *full.split()], capture_output=True
            )
            assert done.returncode == 0, done.stderr.decode()
            ids = {p.name for p in Path("runs").iterdir()} - {f["id"] for f in found.values()}
            (run_id,) = [i for i in ids if i.endswith("s5")]
        else:
            run_id = run(compose(full)).id
        found[name] = of_run(Path("runs") / run_id)
        tell(name, run_id, found[name]["last.ckpt"])
        Path("net.json").write_text(json.dumps(found, indent=1))
    if not names or "resumed" in names:
        words = (BASE + "method=mixup seed=3 trainer.ckpt_steps=2").split()
        interrupted(words, 8)
        record = run(compose(words))
        assert len(record.attempts) == 2, record.attempts
        found["resumed"] = of_run(Path("runs") / record.id)
        shutil.rmtree(Path("runs") / record.id)
        found["unstopped"] = of_run(Path("runs") / run(compose(words)).id)
        same = found["resumed"]["last.ckpt"] == found["unstopped"]["last.ckpt"]
        assert same, "a resumed run has other weights"
        Path("net.json").write_text(json.dumps(found, indent=1))
    tell(len(found), "runs")


def compare(first: Path, second: Path) -> int:
    before, after = (json.loads((p / "net.json").read_text()) for p in (first, second))
    wrong = 0
    for name in sorted({*before, *after}):
        a, b = before.get(name), after.get(name)
        if a is None or b is None:
            tell(f"{name}: only in {second if a is None else first}")
            wrong += 1
            continue
        for key in sorted({*a, *b}):
            if a.get(key) != b.get(key):
                tell(f"{name}: {key}: {a.get(key)} != {b.get(key)}"[:400])
                wrong += 1
    tell(f"{len(before)} runs, {wrong} differences")
    return wrong


if __name__ == "__main__":
    if sys.argv[1] == "--compare":
        sys.exit(bool(compare(Path(sys.argv[2]), Path(sys.argv[3]))))
    make(Path(sys.argv[1]).resolve(), sys.argv[2:])
