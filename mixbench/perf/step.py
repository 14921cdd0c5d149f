"""P4: whole training steps, from stored pixels to updated weights, against plain training.

What a method costs is what its steps take longer than those of ``erm`` on the same network.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from mixbench.data.images import Batch
from mixbench.perf.input import smooth_images
from mixbench.perf.peers import NOT_INSTALLED
from mixbench.perf.report import Row, Rule
from mixbench.perf.timing import Budget, interleave, repeated
from mixbench.schema import DataConfig, DataInfo, NetConfig, RunConfig

PART, BASE = "P4", "erm"
CLASSES = 10
ALIGNED, SCALED = "alignmix, transport", "alignmix, transport, scaled"

# Methods with settings that let every step do the same work, the most that the method ever does.
STEPS: dict[str, tuple[str, dict[str, Any], str]] = {
    BASE: ("erm", {}, ""),
    "mixup": ("mixup", {}, ""),
    "cutmix": ("cutmix", {"prob": 1.0}, "every batch mixed"),
    "manifoldmixup": ("manifoldmixup", {"layers": [1]}, "at layer 1, the largest features"),
    "bc": ("bc", {}, ""),
    "mixup2": ("mixup2", {}, "two passes"),
    "automix": ("automix", {}, "two passes, two of the teacher, and the mixer"),
    "samix": ("samix", {}, "two passes, two of the teacher, and the mixer"),
    ALIGNED: (
        "alignmix",
        {"layers": [-1], "sides": [1], "fast_path": "none"},
        "by default one step in four; the others mix images or need no transport",
    ),
    SCALED: (
        "alignmix",
        {"layers": [-1], "sides": [1], "fast_path": "none", "solver": "scaled"},
        "every step solves a transport problem",
    ),
}


class Shape(NamedTuple):
    """Batch size, image size in pixels, and width of a PreActResNet-18."""

    batch: int
    size: int
    width: int

    def __str__(self) -> str:
        return f"B{self.batch} 3x{self.size}x{self.size} width {self.width}"


CPU_SHAPES = (Shape(16, 32, 64), Shape(16, 64, 16))
CUDA_SHAPES = (Shape(128, 32, 64), Shape(512, 32, 64), Shape(128, 64, 64))


def training_step(name: str, settings: dict[str, Any], shape: Shape, device: torch.device) -> Any:
    """A method on a network of its own, as a call that trains it for one step.

    Args:
        name: Registered name.
        settings: Its keys.
        shape: Batch and network.
        device: Where it computes.

    Returns:
        Takes a running number, which keys all random decisions of the step.

    Raises:
        ImportError: If Lightning is missing, of which methods are made.
    """
    from mixbench.backbones.cifar import preactresnet18
    from mixbench.methods.build import build_method

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        info = DataInfo(CLASSES, shape.size, shape.size)
        net = preactresnet18(NetConfig(width=shape.width, final_norm=False), info)
        run = RunConfig(data=DataConfig(crop=4, flip=True))
        method = build_method(name, net, info, run=run, **settings).to(device).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    small = smooth_images(shape.batch)
    scale = shape.size // small.images.shape[2]
    images = small.images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    rows = torch.arange(shape.batch)
    batch = Batch(*(part.to(device) for part in (images, small.labels, rows)))

    def step(number: int) -> object:
        method.reseed(0, number)
        logits, mixed = method.predict(method.mix(*method.prepare(batch)))
        terms: Any = method.loss(logits, mixed)
        loss: Any = sum(terms.values()) if isinstance(terms, dict) else terms
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        method.step += 1  # some methods look at values on the first step alone
        method.after_step()
        return loss.detach()

    return step


def measure(
    device: torch.device, budget: Budget, shapes: tuple[Shape, ...] | None = None
) -> list[Row]:
    """Time the steps of every method, in turn.

    Args:
        device: Where they compute.
        budget: How long to measure.
        shapes: Batches and networks; those of the device if None.

    Returns:
        Rows, skipped ones included; on a CUDA device with memory and kernel launches.
    """
    cuda = device.type == "cuda"
    rows = []
    for shape in shapes or (CUDA_SHAPES if cuda else CPU_SHAPES):
        try:
            steps = {
                title: training_step(name, settings, shape, device)
                for title, (name, settings, _) in STEPS.items()
            }
        except ImportError:
            rows += [
                Row(PART, str(shape), title, shape.batch, skipped=f"lightning is {NOT_INSTALLED}")
                for title in STEPS
            ]
            continue
        measures = {t: repeated(step, device, budget.round_s) for t, step in steps.items()}
        seconds = interleave(measures, budget.step_rounds)
        for title, (_, _, note) in STEPS.items():
            rounds = [1000 * value for value in seconds[title]]
            figures = _figures(steps[title]) if cuda else {}
            rows.append(
                Row(PART, str(shape), title, shape.batch, rounds, note=note, figures=figures)
            )
    return rows


def _figures(step: Callable[[int], object]) -> dict[str, float]:
    """What only a CUDA device can tell of a step."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step(0)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 1e6
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step(1)
        torch.cuda.synchronize()
    launches = sum(e.count for e in profile.key_averages() if "LaunchKernel" in e.key)
    return {"peak MB": peak, "launches": float(launches)}


def rules(device: torch.device) -> list[Rule]:
    """What steps may cost.

    Args:
        device: Where they were measured.

    Returns:
        Rules for the shapes with limits; the others are reported only.
    """
    if device.type == "cuda":
        limits = {"mixup": 1.02, "cutmix": 1.02, "manifoldmixup": 1.02, ALIGNED: 1.05}
        shapes = CUDA_SHAPES[:2]
    else:
        limits = {"manifoldmixup": 1.05, ALIGNED: 1.25, SCALED: 1.25}
        shapes = CPU_SHAPES[:1]
    return [
        Rule(PART, str(shape), title, BASE, 1 / limit)
        for shape in shapes
        for title, limit in limits.items()
    ]


def watched(device: torch.device) -> dict[str, Callable[[], object]]:
    """What must not make the host wait for a device.

    Args:
        device: A CUDA device.

    Returns:
        Steps by name; none without Lightning.
    """
    try:
        return {
            title: partial(training_step(name, settings, CUDA_SHAPES[0], device), 0)
            for title, (name, settings, _) in STEPS.items()
        }
    except ImportError:
        return {}
