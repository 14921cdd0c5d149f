"""Checks that need several processes, carried out by all ranks of one group in turn.

Started by tests/distributed/test_process_group.py through torchrun; rank 0 writes what was found as
JSON.
"""

import dataclasses
import faulthandler
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from several_labels import SeveralDigits
from small_nets import narrow_vit
from torch import nn

import mixbench.training.fit
import mixbench.training.run
from mixbench import compose, run
from mixbench.backbones import NETS
from mixbench.backbones.base import Head, StagedNet
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data import DATA
from mixbench.data.images import Batch
from mixbench.distributed.process_group import ProcessGroup, init_process_group
from mixbench.errors import InterruptedRunError, RunFailedError
from mixbench.evaluation.suite import Suite
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.records.record import read_record
from mixbench.training.build import build
from mixbench.training.callbacks.checkpoint import AtomicCheckpointIO
from mixbench.training.job import resolve

WORDS = (
    "data=digits data.limit=96 data.size=16 net.width=4 epochs=2 batch_size=16 devices=2 "
    "wandb.mode=disabled eval.suites=[calibration]"
)


class PlainNet(StagedNet):
    """Without batch normalisation, so that how a batch is divided changes nothing."""

    def __init__(self, config, info) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(info.channels, 8, 3, stride=2), nn.Tanh()),
                nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.Tanh()),
            ]
        )
        self.channels = (info.channels, 8, 8)
        self.head = Head(8, info.num_classes)


def patches(config, info) -> VisionTransformer:
    """A small transformer."""
    size = (info.height, info.width)
    return VisionTransformer(16, 4, 2, 4, size, info.num_classes, info.channels)


def plain_training(config, rank=0, world=1, group=None):
    """Weights after training in float64 without augmentation."""
    NETS._objects["plain"] = PlainNet
    config = dataclasses.replace(config, net=dataclasses.replace(config.net, name="plain"))
    method = trained_in_float64(config, rank, world, group)
    return {name: value.double() for name, value in method.net.state_dict().items()}


def playing_training(config, rank=0, world=1, group=None):
    """Weights of generators and discriminator after training whose draws follow the images."""

    class FromImages(METHODS.get("demixgan")):
        def mix_batch(self, batch):
            mixed = super().mix_batch(batch)
            pixels = mixed.x.flatten(1)
            latent = self.net[0].latent
            latents = (pixels[:, :latent] - 0.5, 0.5 - pixels[:, -latent:])
            return mixed._replace(aux=mixed.aux._replace(latents=latents))

    original = METHODS.get("demixgan")
    METHODS._objects["demixgan"] = FromImages
    try:
        method = trained_in_float64(config, rank, world, group)
    finally:
        METHODS._objects["demixgan"] = original
    return {name: value.double() for name, value in method.named_parameters()}


def trained_in_float64(config, rank, world, group):
    job = resolve(config)
    method, data = build(job, job.read_data(), rank, world)
    mixbench.training.fit.PRECISIONS["fp32"] = "64-true"
    parts = mixbench.training.fit.Parts(
        job,
        Path("unused"),
        method,
        data,
        group or init_process_group(1, 60, False),
    )
    trainer = mixbench.training.fit.build_trainer(parts, [], [Checkpoint()], AtomicCheckpointIO())
    trainer.fit(method, datamodule=data)
    mixbench.training.fit.PRECISIONS["fp32"] = "32-true"
    return method


PLAYING = (
    "method=demixgan method.norm=group method.r1=0.1 data=digits data.limit=96 data.size=12 "
    "data.second=waves net.width=4 net.latent=6 epochs=2 batch_size=24 optim.name=sgd lr=0.05"
)
PLAIN = "data=digits data.limit=100 data.crop=0 data.flip=false epochs=2 batch_size=24 lr=0.05"


def same_everywhere(value) -> bool:
    """Whether all ranks hold the same plain value."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return all(other == found[0] for other in found)


def digest(method) -> list[float]:
    return [float(value.double().sum()) for value in method.state_dict().values()]


class Noted(Method):
    """Keeps the method of the last run for a look at it."""

    last: "Noted"

    def on_test_end(self):
        Noted.last = self


def planted(name, cls):
    METHODS._objects[name] = cls
    return f"method={name}"


# The checks; each returns facts by name, which rank 0 writes down.


def training(rank):
    """All ranks end with one set of weights; one record, one log, each sample counted once."""

    class Kept(Noted, METHODS.get("cutmix")):
        pass

    record = run(compose([*WORDS.split(), "optim.ema=0.9", planted("kept", Kept)]))
    weights = same_everywhere(digest(Noted.last))
    Noted.last.reseed(1, 3)
    shared = torch.rand(3, generator=Noted.last.shared_generator).tolist()
    own = torch.rand(3, generator=Noted.last.generator).tolist()
    folder = Path(os.environ["MIXBENCH_RUNS"]) / record.id
    return {
        "weights": weights,
        "shared": same_everywhere(shared),
        "own": same_everywhere(own),
        "record": same_everywhere(record.metrics),
        "status": record.status,
        "device_count": record.device_count,
        "rank": Noted.last.rank == rank,
        "log_lines": (folder / "log.txt").read_text().count("epoch 2/2"),
        "steps": Noted.last.step,
        "folder": str(folder),
    }


def places(rank):
    """Where a network is cut is drawn alike on all ranks, partners are each rank's own."""
    del rank
    facts = {}
    for name in ("manifoldmixup", "alignmix"):

        class Kept(Noted, METHODS.get(name)):
            drawn = ([], [])

            def predict(self, mixed):
                self.drawn[0].append(str(mixed.aux))
                self.drawn[1].append(mixed.perm.tolist())
                return super().predict(mixed)

        layers = "method.layers=[0,2,-1]"
        record = run(compose([*WORDS.split(), layers, planted(f"kept{name}", Kept)]))
        where, partners = Kept.drawn
        facts[name] = {
            "status": record.status,
            "weights": same_everywhere(digest(Noted.last)),
            "places": same_everywhere(where),
            "partners": same_everywhere(partners),
            "drawn": len(set(where)),
        }
    return facts


def validation(rank):
    """The hold-out is judged with one set of statistics of batch normalisation."""
    alike = []

    class Looks(Method):
        def on_validation_batch_start(self, batch, batch_idx, dataloader_idx=0):
            alike.append(same_everywhere(digest(self)))

    words = [*WORDS.split(), planted("looks", Looks), "select=val", "data.limit=120"]
    record = run(compose(words))
    return {"alike": alike, "status": record.status, "best": record.metrics["best_epoch"]}


def uneven(rank):
    """13 test images over two ranks, and 13 images of a hold-out."""
    found = {}
    for name, words in (("folder", "data.limit=13"), ("held", "data.limit=130 select=val")):
        record = run(compose([*WORDS.split(), *words.split(), "batch_size=8", "seed=3"]))
        found[name] = str(Path(os.environ["MIXBENCH_RUNS"]) / record.id)
    return found


def values(rank):
    """Values per image are put in the order of the images, whichever process saw them."""
    group, known = ProcessGroup(rank, 2), {}
    for images in (10, 1):  # of one image the second process sees none
        gathered = group.all_gather({"ids": torch.arange(images)[rank::2], "rank": rank})
        known[images] = [each["ids"].tolist() for each in gathered]
    suite = ValueSuite(EvalConfig())
    batches = suite.shared(group)
    counts = suite._counted("", torch.nn.Flatten(), batches, suite.info, group)
    return {"gathered": known, "means": counts["means"].tolist(), "n": counts["n"]}


class ValueSuite(Suite):
    """Keeps the mean of each image, whose rows come in no order."""

    info = DataInfo(num_classes=12, height=2, width=2)

    def shared(self, group):
        rows = torch.arange(10).flip(0).split(3)[group.rank :: group.world]
        images = [r.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2) for r in rows]
        return [Batch(x, torch.zeros(len(r)), r) for x, r in zip(images, rows, strict=True)]

    def count(self, model, batches, info):
        means = [model(batch.images.float()).mean(dim=1) for batch in batches]
        return {"n": sum(map(len, means)), "means": torch.cat(means)}

    def score(self, counts):
        return {}


def float64(rank):
    """Accumulation and devices only divide a step."""
    found = {}
    group = init_process_group(2, 60, False)
    for accumulate in (1, 2, 3):
        config = compose(f"{PLAIN} devices=2 optim.accumulate={accumulate}")
        weights = plain_training(config, rank, 2, group)
        found[str(accumulate)] = {name: value.tolist() for name, value in weights.items()}
    return found


def playing(rank):
    """Two networks in turns: devices only divide a step, and a whole run leaves one record."""
    group = init_process_group(2, 60, False)
    weights = playing_training(compose(f"{PLAYING} devices=2"), rank, 2, group)

    class Kept(Noted, METHODS.get("demixgan")):
        pass

    words = f"{PLAYING} devices=2 epochs=1 method.tested=5 method.search_steps=2 method.ema=0.9"
    words += " method.restarts=1 wandb.mode=disabled net=dcgan eval.suites=[]"
    record = run(compose([*words.replace("method=demixgan", "").split(), planted("kept", Kept)]))
    Noted.last.reseed(1, 3)
    return {
        "weights": {name: value.tolist() for name, value in weights.items()},
        "alike": same_everywhere({name: value.tolist() for name, value in weights.items()}),
        "run": same_everywhere([float(p.detach().sum()) for p in Noted.last.parameters()]),
        "own": same_everywhere(Noted.last.draw_latents(2)[0].tolist()),
        "status": record.status,
        "metrics": record.metrics,
        "same_metrics": same_everywhere(record.metrics),
    }


def suites(rank):
    """Processes share the images of a suite, and one of them may have none."""
    root = Path(os.environ["MIXBENCH_RUNS"])
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / f"{rank}.npy", np.random.default_rng(0).random((96, 8, 8)) ** 4)
    os.replace(root / f"{rank}.npy", root / "maps.npy")  # the same from both
    counts = np.random.default_rng(1).integers(1, 20, (1000, 10))
    np.savez(root / f"{rank}.npz", counts=counts)
    os.replace(root / f"{rank}.npz", root / "answers.npz")
    found = {}
    for images in (80, 20):  # two chunks, and one
        words = (
            "eval.suites=[adversarial,occlusion,salience,shuffle,linearity,gaze,corruption,ood,"
            "human,human_attacks] "
        )
        words += "method=cutmix eval.corruptions=[contrast,shot_noise] "
        words += f"eval.adv_n={images} seed={images} eval.gaze={root / 'maps.npy'} "
        words += f"eval.ood=[uniform,gaussian] eval.human={root / 'answers.npz'}"
        record = run(compose(f"{WORDS} {words}"))
        found[str(images)] = {
            "same": same_everywhere(record.metrics),
            "folder": str(Path(os.environ["MIXBENCH_RUNS"]) / record.id),
        }
    return found


def unused(rank):
    """A part that some steps leave out, the same on all ranks, never makes one wait."""

    class Skips(Method):
        find_unused_parameters = True

        def predict(self, mixed):
            if torch.rand((), generator=self.shared_generator) < 0.5:
                return self.net(mixed.x), mixed
            pooled = mixed.x.mean(dim=(2, 3))
            return pooled @ torch.ones(3, 10) * self.net.head.fc.bias, mixed

    record = run(compose([*WORDS.split(), planted("skips", Skips)]))
    return {"status": record.status}


def autoencoder(rank):
    """So is the decoder of AlignMix, and all ranks learn the same on clean and mixed steps."""
    cls = METHODS.get("alignmix")
    kinds = set()

    class Decodes(Noted, cls):
        def loss(self, logits, mixed):
            terms = super().loss(logits, mixed)
            kinds.add(tuple(terms))
            return terms

    record = run(compose([*WORDS.split(), planted("decodes", Decodes), "method.ae=true"]))
    return {
        "status": record.status,
        "weights": same_everywhere(digest(Noted.last)),
        "kinds": sorted(kinds),
    }


def teacher(rank):
    """So does the teacher of SAMix follow the network, whose masks are each rank's own."""
    cls = METHODS.get("samix")

    class Taught(Noted, cls):
        drawn = ([], [])

        def predict(self, mixed):
            self.drawn[0].append((mixed.lam.tolist(), mixed.perm.tolist()))
            self.drawn[1].append(mixed.aux.learn)
            return super().predict(mixed)

    words = [*WORDS.split(), planted("taught", Taught), "method.switch_off=0.5"]
    record = run(compose(words))
    decisions, learned = Taught.drawn
    parameters = [float(p.double().sum()) for p in Noted.last.teacher.parameters()]
    return {
        "status": record.status,
        "teacher": same_everywhere(parameters),
        "weights": same_everywhere(digest(Noted.last)),
        "decisions": same_everywhere(decisions),
        "learned": same_everywhere(learned),
        "kinds": sorted(set(learned)),
    }


def queue(rank):
    """Keys of all ranks enter the queue of each, and the linear evaluation is one."""

    class Queued(Noted, METHODS.get("mocosamix")):
        offered = ()

        def on_after_backward(self):
            Queued.offered += (self.queue._waiting.tolist(),)
            super().on_after_backward()

    words = "data.limit=90 epochs=1 method.queue=40 method.bn_groups=2 method.knn_k=5"
    record = run(compose([*WORDS.split(), planted("queued", Queued), *words.split()]))
    everyone = [None] * 2
    dist.all_gather_object(everyone, Queued.offered)
    newest = [keys for step in zip(*everyone, strict=True) for part in step for keys in part][-40:]
    place = int(Noted.last.queue.place)
    held = Noted.last.queue.keys.roll(-place, dims=1).t().tolist()
    parameters = [float(p.detach().double().sum()) for p in Noted.last.parameters()]
    return {
        "status": record.status,
        "steps": len(Queued.offered),
        "place": place,
        "held": held == newest,
        "alike": same_everywhere([held, place]),
        "own": same_everywhere(Queued.offered),
        "weights": same_everywhere(parameters),
        "bank": same_everywhere(Noted.last.bank.z.tolist()),
        "rows": len(Noted.last.bank.z),
        "metrics": sorted(record.metrics),
        "top1": record.metrics["top1"],
        "folder": str(Path(os.environ["MIXBENCH_RUNS"]) / record.id),
    }


def windows(rank):
    """Windows are of one size on all ranks, and their second head makes nobody wait."""
    cls = METHODS.get("tdattenmix")
    NETS._objects["patches"] = patches

    class Pastes(Noted, cls):
        drawn = ([], [])

        def predict(self, mixed):
            seen = mixed.aux
            self.drawn[0].append(0 if seen is None else int((~seen.pasted.kept[0]).sum()))
            self.drawn[1].append(mixed.perm.tolist())
            return super().predict(mixed)

    config = compose([*WORDS.split(), planted("pastes", Pastes)])
    config = dataclasses.replace(config, net=dataclasses.replace(config.net, name="patches"))
    record = run(config)
    sides, partners = Pastes.drawn
    return {
        "status": record.status,
        "weights": same_everywhere(digest(Noted.last)),
        "sides": same_everywhere(sides),
        "partners": same_everywhere(partners),
        "kinds": [0 in sides, len(set(sides) - {0}) > 1],
    }


def chosen(rank):
    """So does a choice: one member is drawn for all ranks, and nobody waits for the others."""
    del rank
    NETS._objects["narrow_vit"] = narrow_vit
    facts = {}
    for words in (
        "method.members=[cutmix,samix,alignmix] method.alignmix.ae=true",
        "method.members=[tlalign,transmix] net=narrow_vit epochs=1",
        "method.members=[fmix,gridmix,resizemix,smoothmix,saliencymix] seed=1 epochs=3",
        "method.members=[attentivemix,guidedmixup,puzzlemix] method.attentivemix.top_k=0 seed=2",
        "method.members=[snapmix,tokenmix,mixpro,smmix] method.snapmix.saliency=attention "
        "net=narrow_vit seed=1 epochs=2",
    ):

        class Kept(Noted, METHODS.get("choice")):
            drawn = ([], [])

            def predict(self, mixed):
                self.drawn[0].append(mixed.aux[0])
                logits, after = super().predict(mixed)
                self.drawn[1].append(None if after.lam is None else after.lam.tolist())
                return logits, after

        name = f"chosen{len(facts)}"
        record = run(compose([*WORDS.split(), *words.split(), planted(name, Kept)]))
        places, decisions = Kept.drawn
        parameters = [float(p.double().sum()) for p in Noted.last.parameters()]
        facts[name] = {
            "status": record.status,
            "members": same_everywhere(places),
            "kinds": sorted(set(places)),
            "decisions": same_everywhere(decisions),
            "weights": same_everywhere(parameters),
        }
    return facts


def splices(rank):
    """Grids are each rank's own unless asked, the images appended as many on all."""
    del rank
    DATA._objects["several"] = SeveralDigits
    facts = {}
    for words in (
        "method=splicemix",
        "method=splicemix method.shared_grid=true method.mix_prob=0.5",
        "method=splicemix_cl net.pool=max optim.accumulate=2",
    ):
        name = words.split()[0].partition("=")[2]

        class Kept(Noted, METHODS.get(name)):
            drawn = ([], [], [])

            def predict(self, mixed):
                made = mixed.aux
                self.drawn[0].append(len(mixed.x))
                self.drawn[1].append(str(made and made.grids))
                self.drawn[2].append(made and made.sources.tolist())
                return super().predict(mixed)

        key = f"splices{len(facts)}"
        others = [*words.split()[1:], "data=several", planted(key, Kept)]
        record = run(compose([*WORDS.split(), *others]))
        rows, grids, sources = Kept.drawn
        facts[key] = {
            "status": record.status,
            "weights": same_everywhere(digest(Noted.last)),
            "rows": sorted(set(rows)),
            "alike": same_everywhere(rows),
            "grids": same_everywhere(grids),
            "sources": same_everywhere(sources),
        }
    return facts


def stop(rank):
    """A signal to one rank ends all of them at the same step; they go on as if it had not come."""

    class Stops(Noted):
        asked = False

        def after_step(self):
            if self.step == 7 and rank == 1 and Stops.asked:
                Stops.asked = False
                os.kill(os.getpid(), signal.SIGTERM)

    words = [*WORDS.split(), planted("stops", Stops), "trainer.log_every=2"]
    root = Path(os.environ["MIXBENCH_RUNS"])
    whole = run(compose([*words, f"run.dir={root / 'whole'}"]))
    Stops.asked = True
    try:
        run(compose([*words, f"run.dir={root / 'stopped'}"]))
        code = 0
    except InterruptedRunError as error:
        code = error.exit_code
    Stops.asked = False
    dist.barrier()
    steps = read_record(root / "stopped" / whole.id).attempts[-1]["steps"]
    dist.barrier()
    again = run(compose([*words, f"run.dir={root / 'stopped'}"]))
    return {
        "code": code,
        "agreed": same_everywhere(code),
        "steps": steps,
        "exact": again.resumed_bit_exact,
        "whole": str(root / "whole"),
        "stopped": str(root / "stopped"),
    }


def engines(rank):
    """The fast loop trains all ranks as Lightning's does, whoever takes the steps."""
    del rank
    playing = PLAYING.replace("epochs=2", "epochs=1") + " devices=2 net=dcgan wandb.mode=disabled"
    playing += " eval.suites=[] method.tested=5 method.search_steps=2 method.restarts=1"
    facts = {}
    for name, words in (
        ("steps", f"{WORDS} method=cutmix optim.accumulate=2 optim.clip=0.1 optim.ema=0.9"),
        ("plays", playing),
    ):
        for engine in ("lightning", "fast"):
            place = Path(os.environ["MIXBENCH_RUNS"]) / name / engine
            run(compose([*words.split(), f"trainer.engine={engine}", f"run.dir={place}"]))
            facts[f"{name}, {engine}"] = str(place)
    return facts


def diverge(rank):
    """A loss that is not finite on one rank ends all of them, with the batch of that rank."""

    class Bad(Method):
        def loss(self, logits, mixed):
            value = super().loss(logits, mixed)
            return value * (float("nan") if self.rank == 1 and self.step == 3 else 1.0)

    words = [*WORDS.split(), planted("bad", Bad), "trainer.log_every=2", "epochs=20"]
    try:
        run(compose(words))
        message = ""
    except RunFailedError as error:
        message = error.what
    dist.barrier()
    (folder,) = Path(os.environ["MIXBENCH_RUNS"]).glob("bad-*")
    return {
        "message": message,
        "status": read_record(folder).status,
        "files": sorted(path.name for path in folder.glob("*diverged.json")),
        "replay": json.loads((folder / "rank1-diverged.json").read_text()),
    }


LIMIT = 180  # seconds for all of them
CHECKS = [
    training,
    places,
    validation,
    uneven,
    suites,
    values,
    float64,
    unused,
    autoencoder,
    teacher,
    queue,
    playing,
    windows,
    chosen,
    splices,
    stop,
    engines,
    diverge,
]


def main(place: Path) -> None:
    rank = int(os.environ["RANK"])
    faulthandler.dump_traceback_later(LIMIT - 20, exit=True)  # where a rank waits for another
    init_process_group(2, 40, False)
    mixbench.training.run.destroy_process_group = lambda: None  # the group serves all checks
    torch.set_num_threads(1)
    found = {}
    for check in CHECKS:
        folder = place / check.__name__
        os.environ["MIXBENCH_RUNS"] = str(folder)
        try:
            found[check.__name__] = check(rank)
        except BaseException:
            found[check.__name__] = {"error": traceback.format_exc()}
            (place / f"rank{rank}-{check.__name__}.txt").write_text(traceback.format_exc())
        if rank == 0:
            (place / "found.json").write_text(json.dumps(found))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
