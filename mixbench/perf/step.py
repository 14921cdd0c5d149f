"""P4: whole training steps, from stored pixels to updated weights, against plain training.

What a method costs is what its steps take longer than those of ``erm`` on the same network, and the
memory that they need.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mixbench.config.names import METHODS
from mixbench.config.schema import DataConfig, DataInfo, NetConfig, RunConfig
from mixbench.data.images import Batch
from mixbench.perf.benchmark import Benchmark
from mixbench.perf.input import smooth_images
from mixbench.perf.peers import NOT_INSTALLED, Variant
from mixbench.perf.report import Limit, Row, Rule
from mixbench.perf.timing import Budget
from mixbench.records.checkpoints import FACT_KEYS, FORMAT, LAST

BASE = "erm"
CLASSES = 10
ALIGNED, SCALED = "alignmix, transport", "alignmix, transport, scaled"
SAMIX, FROZEN = "samix", "samix, mixer of a checkpoint"
WRITTEN = "a checkpoint that is written for the measurement"
PEAK, SAVED = "peak MB", "saved MB"

# Methods with settings that let every step do the same work, the most that the method ever does, or
# with something to say of their steps.
STEPS: dict[str, tuple[str, dict[str, Any], str]] = {
    BASE: ("erm", {}, ""),
    "mixup": ("mixup", {}, ""),
    "cutmix": ("cutmix", {"prob": 1.0}, "every batch mixed"),
    "manifoldmixup": ("manifoldmixup", {"layers": [1]}, "at layer 1, the largest features"),
    "bc": ("bc", {}, ""),
    "choice": ("choice", {}, "mixup or cutmix"),
    "hmix": ("hmix", {}, "mixup"),
    "moco": ("moco", {}, "without labels: two views, one more pass without gradient"),
    "mocosamix": ("mocosamix", {}, "without labels: views mixed by a mask, and the mixer"),
    "mixup2": ("mixup2", {}, "two passes"),
    "augmix": ("augmix", {}, "three images for each, in one pass"),
    "automix": ("automix", {}, "two passes, two of the teacher, and the mixer"),
    SAMIX: ("samix", {}, "two passes, two of the teacher, and the mixer"),
    FROZEN: ("samix", {"mixer_ckpt": WRITTEN}, "two passes, one of the teacher up to the mixer"),
    "splicemix": ("splicemix", {}, "a quarter more images"),
    "splicemix_cl": ("splicemix_cl", {}, "a quarter more images, and their cells"),
    "transformmix_recon": (
        "transformmix_recon",
        {},
        "one more pass for the maps, and the module",
    ),
    "transformmix_search": (
        "transformmix_search",
        {},
        "the module alone learns, through a pass of the network; one more pass for the maps",
    ),
    "tdattenmix": (
        "tdattenmix",
        {"switch_prob": 1.0},
        "every batch with windows, one more pass; by default half of them",
    ),
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
# The same on a transformer. TransMix would interpolate every other batch.
VIT_STEPS: dict[str, tuple[str, dict[str, Any], str]] = {
    BASE: ("erm", {}, ""),
    "cutmix": ("cutmix", {"prob": 1.0}, "every batch mixed"),
    "transmix": ("transmix", {"mixup_alpha": 0.0}, "every batch pasted"),
    "tlalign": ("tlalign", {}, "every batch pasted"),
    "mixpro": ("mixpro", {"prob": 1.0}, "every batch mixed by cells"),
    "smmix": ("smmix", {"switch_prob": 1.0}, "every batch with windows, one more pass"),
}
GENERATORS = ("denoisegan", "demixgan")  # which plain training has no step to compare with
_SAID = {name for name, *_ in (*STEPS.values(), *VIT_STEPS.values())}
STEPS |= {name: (name, {}, "") for name in METHODS.table if name not in (*GENERATORS, *_SAID)}


class Shape(NamedTuple):
    """Batch size, image size in pixels, and width of a PreActResNet-18 or patch of a ViT-Tiny."""

    batch: int
    size: int
    width: int = 0
    patch: int = 0

    def __str__(self) -> str:
        net = f"ViT-Ti/{self.patch}" if self.patch else f"width {self.width}"
        return f"B{self.batch} 3x{self.size}x{self.size} {net}"

    @property
    def steps(self) -> dict[str, tuple[str, dict[str, Any], str]]:
        """Methods that are measured on its network."""
        return VIT_STEPS if self.patch else STEPS


CPU_VIT, CUDA_VIT = Shape(16, 64, patch=8), Shape(128, 224, patch=16)
CPU_SHAPES = (Shape(16, 32, 64), Shape(16, 32, 16), Shape(16, 64, 16), CPU_VIT)
CUDA_SHAPES = (Shape(128, 32, 64), Shape(512, 32, 64), Shape(128, 64, 64), CUDA_VIT)
ATTENDED = {"transmix": 1.1, "tlalign": 1.2}  # most that they may cost on it


def training_step(name: str, settings: dict[str, Any], shape: Shape, device: torch.device) -> Any:
    """A method on a network of its own, as a call that trains it for one step.

    Args:
        name: Registered name.
        settings: Its keys; ``mixer_ckpt: WRITTEN`` stands for a file that the same method without
            it leaves after a step, read as that of a run is.
        shape: Batch and network.
        device: Where it computes.

    Returns:
        Takes a running number, which keys all random decisions of the step.

    Raises:
        ImportError: If Lightning is missing, of which methods are made.
    """
    if settings.get("mixer_ckpt") != WRITTEN:
        return _as_call(_build(name, settings, shape), shape, device)
    own = {key: value for key, value in settings.items() if key != "mixer_ckpt"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LAST
        trained = _build(name, own, shape)
        _as_call(trained, shape, torch.device("cpu"))(0)
        facts = dict.fromkeys(FACT_KEYS) | {"format": FORMAT}
        content = {"state_dict": trained.state_dict(), "mixbench": facts, "mixbench_step": 1}
        content |= {"optimizer_states": [], "lr_schedulers": [], "loops": {}}
        torch.save(content, path)
        method = _build(name, own | {"mixer_ckpt": str(path)}, shape)
    return _as_call(method, shape, device)


def _build(name: str, settings: dict[str, Any], shape: Shape) -> Any:
    from mixbench.backbones.cifar import preactresnet18
    from mixbench.backbones.vit import vit_tiny
    from mixbench.methods.build import build_method

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        info = DataInfo(CLASSES, shape.size, shape.size)
        if shape.patch:
            net = vit_tiny(NetConfig(name="vit_tiny", patch=shape.patch), info)
        else:
            net = preactresnet18(NetConfig(width=shape.width, final_norm=False), info)
        run = RunConfig(data=DataConfig(crop=4, flip=True))
        return build_method(name, net, info, run=run, **settings)


def _as_call(method: Any, shape: Shape, device: torch.device) -> Callable[[int], torch.Tensor]:
    method = method.to(device).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    small = smooth_images(shape.batch)
    scale = shape.size // small.images.shape[2]
    images = small.images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    rows = torch.arange(shape.batch)
    batch = Batch(images.to(device), small.labels.to(device), rows.to(device))

    def step(number: int) -> torch.Tensor:
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


class StepBenchmark(Benchmark):
    """P4. Shapes without limits are reported only.

    A CUDA device tells the most memory that a step has at once, beyond what there is before it, and
    launches of kernels; the CPU, whose allocator keeps no count, what a step saves for its backward
    pass.
    """

    part, base = "P4", BASE
    watched = (CUDA_SHAPES[0], CUDA_VIT)

    def cases(self, device: torch.device) -> tuple[Shape, ...]:
        return CUDA_SHAPES if device.type == "cuda" else CPU_SHAPES

    def own(self, case: Shape, device: torch.device, budget: Budget) -> list[Variant]:
        try:
            return [
                Variant(title, training_step(name, settings, case, device), note)
                for title, (name, settings, note) in case.steps.items()
            ]
        except ImportError:
            skipped = f"lightning is {NOT_INSTALLED}"
            return [Variant(title, skipped=skipped) for title in case.steps]

    def rounds(self, budget: Budget) -> int:
        return budget.step_rounds

    def figures(
        self, case: Shape, variant: Variant, row: Row, device: torch.device
    ) -> dict[str, float]:
        step: Any = variant.call
        return _cuda_figures(step) if device.type == "cuda" else {SAVED: saved_mb(step)}

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        if device.type == "cuda":
            limits = {"mixup": 1.02, "cutmix": 1.02, "manifoldmixup": 1.02}
            limits |= {ALIGNED: 1.05, SAMIX: 3.0}
            asked = {**dict.fromkeys(CUDA_SHAPES[:2], limits), CUDA_VIT: ATTENDED}
        else:
            wide, narrow, large, _ = CPU_SHAPES
            asked = {wide: {"manifoldmixup": 1.05, ALIGNED: 1.25, SCALED: 1.25, "tdattenmix": 1.6}}
            # By arithmetic 2.25 with forward passes of a third of a step, and the mixer; what every
            # method does once a step, such as to crop, makes it less.
            asked |= {narrow: {SAMIX: 3.3, FROZEN: 2.2}, large: {SAMIX: 3.3}, CPU_VIT: ATTENDED}
        return [
            Rule(self.part, str(shape), title, BASE, 1 / limit)
            for shape, limits in asked.items()
            for title, limit in limits.items()
        ]


def saved_mb(step: Callable[[int], object]) -> float:
    """Memory that a step saves for its backward pass, weights included.

    The least that it needs at once beside gradients: all passes end before the first goes back.

    Args:
        step: A step, as :func:`training_step` makes it.

    Returns:
        Millions of bytes; memory that several tensors share counts once.
    """
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no place is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(0)
    return sum(storage.nbytes() for storage in kept.values()) / 1e6


def _cuda_figures(step: Callable[[int], object]) -> dict[str, float]:
    """Figures of a step that a CUDA device gives."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(0)
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 1e6
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step(1)
        torch.cuda.synchronize()
    launches = sum(e.count for e in profile.key_averages() if "LaunchKernel" in e.key)
    return {PEAK: peak, "launches": float(launches)}
