"""P6: whole runs, from files on disk to a tested network that is saved, against what a user writes.

The plain loop is what one writes down first: a DataLoader, torchvision's transforms of single
images and its CutMix, the same network and optimiser, a test in the end. timm's ``train.py`` is a
file of its checkout; ``TIMM=path`` names one. A run of this package also checks its data, logs,
keeps checkpoints, and writes its record; imports are paid before. On a CPU a ResNet-18 of full
width takes most of the time, whoever trains it: there it is timed alone as well, and bounds a run.
"""

import contextlib
import gc
import io
import itertools
import multiprocessing
import os
import runpy
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixbench.config.schema import DataInfo, NetConfig
from mixbench.perf.benchmark import Benchmark, Case
from mixbench.perf.input import MEAN, PADDING, STD, cpu_seconds, pillow_steps, smooth_images
from mixbench.perf.peers import NOT_INSTALLED, Variant
from mixbench.perf.report import Limit, Rule
from mixbench.perf.timing import Budget

BASE, OURS, TIMM = "plain loop, torchvision", "mixbench run", "train.py of timm"
NETWORK = "its network alone"
CLASSES, RATE, MOMENTUM, DECAY = 10, 0.1, 0.9, 5e-4
FASTER = 1.2  # times that a run must be as fast as what a user writes
MORE = 1.2  # times that a run may take what its network takes alone, on a CPU
MOST_WORKERS = 8
SIDE = 32  # pixels of the smooth images


@dataclass(frozen=True)
class Whole(Case):
    """A short training with CutMix in every batch.

    Args:
        batch: Images per batch.
        title: Its text in the table.
        images: Training images of 32x32 pixels.
        tested: Test images.
        epochs: Number of epochs.
        width: Channels of the first stage of a PreActResNet-18.
        files: Images are PNG files in folders of classes, and the network is timm's ResNet-18;
            else they are one array.
    """

    images: int
    tested: int
    epochs: int
    width: int = 0
    files: bool = False

    @property
    def trained(self) -> int:
        """Images that training sees."""
        return self.epochs * self.images


CPU_RUN = Whole(128, "B128 3x32x32 width 16", 1024, 256, 2, width=16)
CPU_FILES = Whole(128, "B128 PNG 32x32 timm:resnet18", 1024, 256, 2, files=True)
TINY_RUN = Whole(16, "B16 3x32x32 width 4", 64, 32, 1, width=4)
CUDA_RUN = Whole(512, "B512 3x32x32 width 64", 25_600, 5120, 2, width=64)
CUDA_FILES = Whole(512, "B512 PNG 32x32 timm:resnet18", 25_600, 5120, 2, files=True)


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Images one by one with their labels, as torchvision's own data sets hand them out.

    Args:
        read: Gives the PIL image of a row.
        labels: Labels of the rows.
        transform: Maps an image to a tensor.
    """

    def __init__(
        self, read: Callable[[int], Any], labels: Sequence[int], transform: Callable[[Any], Tensor]
    ) -> None:
        self.read, self.labels, self.transform = read, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.read(row)), self.labels[row]


def time_of_run(name: str, case: Whole, device: torch.device) -> float:
    """Train, test and save once; the data are written before the clock starts.

    Args:
        name: One of the variants.
        case: What is trained.
        device: Where it computes.

    Returns:
        Seconds of a batch: on a CPU those that all its processes computed, else those that passed.

    Raises:
        ImportError: If a package of the variant is missing.
    """
    train = {BASE: plain_run, OURS: _own_run, TIMM: _timm_run, NETWORK: network_run}[name]
    clock = cpu_seconds if device.type == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory(prefix="mixbench-") as place:
        folder = Path(place)
        write_images(folder, case)
        multiprocessing.active_children()  # collects what ended before
        with _quiet():
            began = clock()
            train(folder, case, device)
            gc.collect()  # ends the workers of loaders
            multiprocessing.active_children()
            return (clock() - began) / case.trained * case.batch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what runs print off the terminal, and give their seeds back."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def write_images(folder: Path, case: Whole) -> None:
    """Write both sets of a case: ``train.npz`` and ``test.npz``, or ``train/`` and ``val/``.

    Args:
        folder: An empty one.
        case: How many images, and in what form.
    """
    images = smooth_images(case.images + case.tested)
    pixels = images.images.permute(0, 2, 3, 1).numpy()
    labels = images.labels.numpy()
    test = slice(case.images, None)
    for part, rows in (("train", slice(case.images)), ("val" if case.files else "test", test)):
        if not case.files:
            np.savez(folder / f"{part}.npz", images=pixels[rows], label=labels[rows])
            continue
        for label in range(CLASSES):
            (folder / part / str(label)).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(pixels[rows], labels[rows], strict=True)):
            Image.fromarray(image).save(folder / part / str(label) / f"{number}.png")


def plain_run(folder: Path, case: Whole, device: torch.device) -> float:
    """The training loop that one writes down first.

    Args:
        folder: As :func:`write_images` leaves it; the weights go there as ``last.pt``.
        case: What is trained.
        device: Where it computes.

    Returns:
        Test accuracy in percent.

    Raises:
        ImportError: If torchvision is missing.
    """
    from torchvision import transforms
    from torchvision.transforms import v2

    steps = pillow_steps("RandomCrop", size=SIDE, padding=PADDING)
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    workers = 0 if device.type == "cpu" else min(MOST_WORKERS, os.cpu_count() or 1)
    sets = [_read_set(folder, "train", case, steps), _read_set(folder, "val", case, plain)]
    keep: Any = {"num_workers": workers, "persistent_workers": workers > 0}
    keep["pin_memory"] = device.type != "cpu"
    train = DataLoader(sets[0], case.batch, shuffle=True, drop_last=True, **keep)
    test = DataLoader(sets[1], 4 * case.batch, **keep)
    cutmix = v2.CutMix(num_classes=CLASSES)
    net = _network(case).to(device)
    optimizer = _optimizer(net)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, case.epochs)
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu")
    for _ in range(case.epochs):
        net.train()
        for x, y in train:
            x, y = cutmix(x.to(device, non_blocking=True), y.to(device, non_blocking=True))
            with half:
                loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    net.eval()
    right = 0
    with torch.no_grad(), half:
        for x, y in test:
            right += int((net(x.to(device)).argmax(dim=1).cpu() == y).sum())
    torch.save(net.state_dict(), folder / "last.pt")
    return 100 * right / case.tested


def network_run(folder: Path, case: Whole, device: torch.device) -> float:
    """All steps and the test of a training on one batch that lies in memory, in float32.

    Args:
        folder: It is left as it is.
        case: What is trained.
        device: Where it computes.

    Returns:
        Loss of the last step.
    """
    del folder
    layout: Any = {"memory_format": torch.channels_last}  # that of our runs
    net = _network(case).to(device, **layout).train()
    optimizer = _optimizer(net)
    x = torch.randn(case.batch, 3, SIDE, SIDE).to(device, **layout)
    y = torch.arange(case.batch, device=device) % CLASSES
    loss = x.new_zeros(())
    for _ in range(case.trained // case.batch):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        for _ in range(case.tested // case.batch):
            net(x)
    return float(loss)


def _optimizer(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)


def _read_set(folder: Path, part: str, case: Whole, transform: Any) -> Dataset[Any]:
    if case.files:
        from torchvision.datasets import ImageFolder

        return ImageFolder(str(folder / part), transform)
    with np.load(folder / f"{'test' if part == 'val' else part}.npz") as file:
        pixels, labels = file["images"], file["label"].tolist()
    return LabelledImages(lambda row: Image.fromarray(pixels[row]), labels, transform)


def _network(case: Whole) -> Any:
    if case.files:
        import timm

        return timm.create_model("resnet18", num_classes=CLASSES)
    from mixbench.backbones.cifar import preactresnet18

    return preactresnet18(NetConfig(width=case.width), DataInfo(CLASSES, SIDE, SIDE))


def own_words(folder: Path, case: Whole, device: torch.device) -> str:
    """The same training as overrides.

    Args:
        folder: As :func:`write_images` leaves it.
        case: What is trained.
        device: Where it computes.

    Returns:
        Words of ``mixbench run``.
    """
    words = f"method=cutmix method.prob=1 epochs={case.epochs} batch_size={case.batch} lr={RATE} "
    words += f"optim.weight_decay={DECAY} eval.suites=[] logger=none wandb.mode=disabled "
    words += f"trainer.threads=1 run.dir={folder}/runs data.crop={PADDING} data.flip=true "
    if device.type == "cpu":
        words += "trainer.accelerator=cpu precision=fp32 "
    else:
        words += "trainer.accelerator=gpu precision=bf16 "
    if case.files:
        return f"{words}data=folder data.root={folder} data.size={SIDE} net=timm:resnet18"
    words += f"data=pack data.train={folder}/train.npz data.test={folder}/test.npz "
    return f"{words}net=preactresnet18 net.width={case.width}"


def _own_run(folder: Path, case: Whole, device: torch.device) -> None:
    from mixbench.config.compose import compose
    from mixbench.training.run import run

    run(compose(own_words(folder, case, device)))


def _timm_run(folder: Path, case: Whole, device: torch.device) -> None:
    words = f"--data-dir {folder} --model resnet18 --num-classes {CLASSES} "
    words += f"--input-size 3 {SIDE} {SIDE} -b {case.batch} --epochs {case.epochs} "
    words += f"--warmup-epochs 0 --opt momentum --lr {RATE} "
    words += f"--weight-decay {DECAY} --train-crop-mode rkrc --color-jitter 0 --smoothing 0 "
    words += f"--cutmix 1 --mixup 0 --crop-pct 1 --output {folder}/timm --device {device.type} "
    words += f"--val-interval {case.epochs} "
    if device.type == "cpu":
        words += "-j 1"
    else:
        words += f"-j {min(MOST_WORKERS, os.cpu_count() or 1)} --amp --amp-dtype bfloat16"
    before, sys.argv = sys.argv, ["train.py", *words.split()]
    try:
        runpy.run_path(str(_train_file()), run_name="__main__")
    finally:
        sys.argv = before


def _train_file() -> Path:
    return Path(os.environ["TIMM"]) / "train.py"


class RunBenchmark(Benchmark):
    """P6: whole runs in turn; on a CPU in images per CPU second, else per second."""

    part, base = "P6", BASE

    def cases(self, device: torch.device) -> tuple[Whole, ...]:
        runs = (CPU_RUN, CPU_FILES) if device.type == "cpu" else (CUDA_RUN, CUDA_FILES)
        return runs if os.environ.get("TIMM") else runs[:1]

    def small_case(self, device: torch.device) -> Whole:
        return TINY_RUN

    def own(self, case: Whole, device: torch.device, budget: Budget) -> list[Variant]:
        what = f"{case.trained:,} images, {case.tested:,} tested"
        notes = {BASE: what, OURS: f"{what}; checks, log, checkpoints and record included"}
        if device.type != "cpu":
            notes = {name: f"{note}; bf16" for name, note in notes.items()}
        missing = {BASE: _missing("torchvision"), OURS: _missing("lightning")}
        if case.files:
            missing = {name: why or _missing("timm") for name, why in missing.items()}
        variants = [
            Variant(
                name, None if why else partial(time_of_run, name, case, device), notes[name], why
            )
            for name, why in missing.items()
        ]
        variants.append(self._timm(case, device, what))
        if case.files and device.type == "cpu":
            why, note = _missing("timm"), f"{what}: forward, backward and update on one batch"
            call = None if why else partial(time_of_run, NETWORK, case, device)
            variants.append(Variant(NETWORK, call, note, why))
        return variants

    def _timm(self, case: Whole, device: torch.device, what: str) -> Variant:
        if not os.environ.get("TIMM"):
            return Variant(TIMM, skipped="TIMM=path not given")
        if not case.files:
            return Variant(TIMM, skipped="it has no such network; see the files")
        if not _train_file().is_file():
            return Variant(TIMM, skipped="no train.py in the TIMM folder")
        try:
            seconds = partial(time_of_run, TIMM, case, device)
            seconds()
        except (Exception, SystemExit) as error:  # another library must not end the run
            return Variant(TIMM, skipped=f"failed with {type(error).__name__}")
        return Variant(TIMM, seconds, f"{what}; a worker process reads the images")

    def inputs(self, case: Whole, device: torch.device) -> Callable[[int], tuple[Any, ...]]:
        return lambda number: ()

    def rounds(self, budget: Budget) -> int:
        return budget.run_rounds

    def timer(
        self, call: Callable[[int], Any], device: torch.device, budget: Budget
    ) -> Callable[[], float]:
        numbers = itertools.count()
        call(next(numbers))  # imports, and the first steps of a process
        return lambda: call(next(numbers))

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        if device.type != "cpu":
            return [
                Rule(self.part, str(CUDA_RUN), OURS, BASE, FASTER),
                Rule(self.part, str(CUDA_FILES), OURS, TIMM, FASTER),
            ]
        return [
            Rule(self.part, str(CPU_RUN), OURS, BASE, FASTER),
            Rule(self.part, str(CPU_FILES), OURS, NETWORK, 1 / MORE),
            Rule(self.part, str(CPU_FILES), OURS, TIMM, 1),
        ]


def _missing(package: str) -> str:
    try:
        __import__(package)
    except ImportError:
        return f"{package} is {NOT_INSTALLED}"
    return ""
