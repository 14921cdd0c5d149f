"""P1: the mixing step alone, ours and that of other libraries, soft targets included.

A form that shares one decision over the batch does less work than one that draws per sample, so
every variant says which it is. Peers are imported on use; one that is missing becomes a skipped
row.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

import mixbench.functional as mf
from mixbench.perf.benchmark import Benchmark
from mixbench.perf.loops import CELLS, MAPS, TOP, cell_maps, loops
from mixbench.perf.peers import NOT_INSTALLED, Variant, load_file, on_its_device
from mixbench.perf.report import Limit, Rule
from mixbench.perf.timing import Budget

Mix = Callable[[Tensor, Tensor], object]

BASE = "copy of the batch"
INPUTS = 4  # batches that alternate
SEED = 0
_BOTH = "returns both labels and the weight, no soft targets"
_COPIED = "in place: a fresh copy per call, its time included"


class Shape(NamedTuple):
    """A batch of square RGB images and the number of its classes."""

    batch: int
    size: int
    classes: int

    def __str__(self) -> str:
        return f"B{self.batch} 3x{self.size}x{self.size}"

    @property
    def bytes(self) -> int:
        """Size of the batch in float32."""
        return self.batch * 3 * self.size * self.size * 4


SHAPES = (Shape(128, 32, 10), Shape(128, 64, 100), Shape(32, 224, 100))


def own_variants(shape: Shape) -> list[Variant]:
    """Variants of this package, with targets made and decisions drawn in the call.

    Args:
        shape: The batch.

    Returns:
        Variants, the copy that ratios refer to first.
    """
    generator = Generator().manual_seed(SEED)

    def ours(operation: Callable[..., mf.Mixed], **options: Any) -> Mix:
        return lambda x, y: operation(
            x, mf.one_hot(y, shape.classes), generator=generator, **options
        )

    def salient(x: Tensor, y: Tensor) -> mf.Mixed:
        perm = mf.draw_perm(len(x), generator)
        maps = mf.fine_grained_saliency(mf.take(x, perm))
        targets = mf.one_hot(y, shape.classes)
        return mf.saliencymix(x, targets, maps, per_sample=True, perm=perm, generator=generator)

    return [
        Variant(BASE, lambda x, y: x.clone(), "plain training; images only, no targets"),
        Variant("mixup shared, mixbench", ours(mf.mixup), "one lam per batch"),
        Variant("mixup per sample, mixbench", ours(mf.mixup, per_sample=True), "one lam per image"),
        Variant("cutmix shared, mixbench", ours(mf.cutmix), "one box per batch"),
        Variant(
            "cutmix per sample, mixbench", ours(mf.cutmix, per_sample=True), "one box per image"
        ),
        Variant("bc per sample, mixbench", ours(mf.bc), "partners of another class"),
        Variant(
            "bc plus per sample, mixbench",
            ours(mf.bc, plus=True),
            "loudness included; the image mean is taken as removed before",
        ),
        Variant(
            "fmix per sample, mixbench", ours(mf.fmix, per_sample=True), "masks of all frequencies"
        ),
        Variant("saliencymix per sample, mixbench", salient, "map and box of each partner"),
        Variant(
            "attentivemix per sample, mixbench",
            lambda x, y: mf.attentivemix(
                x, mf.one_hot(y, shape.classes), cell_maps(x), top_k=TOP, generator=generator
            ),
            MAPS,
        ),
    ]


def _torchvision(shape: Shape) -> list[Variant]:
    names = "mixup shared, torchvision", "cutmix shared, torchvision"
    try:
        from torchvision.transforms import v2
    except ImportError:
        return [Variant(name, skipped=NOT_INSTALLED) for name in names]
    kinds = v2.MixUp(num_classes=shape.classes), v2.CutMix(num_classes=shape.classes)
    note = "partner: the image before"
    return [Variant(name, kind, note) for name, kind in zip(names, kinds, strict=True)]


def _timm(shape: Shape) -> list[Variant]:
    options = {"mixup": (1.0, 0.0), "cutmix": (0.0, 1.0)}
    cells = [(mode, kind) for mode in ("batch", "elem") for kind in options]
    forms = {"batch": "shared", "elem": "per sample"}
    names = [f"{kind} {forms[mode]}, timm {mode}" for mode, kind in cells]
    try:
        from timm.data.mixup import Mixup
    except ImportError:
        return [Variant(name, skipped=NOT_INSTALLED) for name in names]

    def in_place(mode: str, kind: str) -> Mix:
        mixup_alpha, cutmix_alpha = options[kind]
        mixer = Mixup(
            mixup_alpha=mixup_alpha,
            cutmix_alpha=cutmix_alpha,
            mode=mode,
            label_smoothing=0.0,
            num_classes=shape.classes,
        )
        return lambda x, y: mixer(x.clone(), y)

    note = f"{_COPIED}; partner: the flipped batch"
    return [Variant(name, in_place(*cell), note) for name, cell in zip(names, cells, strict=True)]


def _kornia(shape: Shape) -> list[Variant]:
    del shape
    names = "mixup per sample, kornia", "cutmix per sample, kornia"
    try:
        from kornia.augmentation import RandomCutMixV2, RandomMixUpV2
    except ImportError:
        return [Variant(name, skipped=NOT_INSTALLED) for name in names]
    keys: list[Any] = ["input", "class"]
    kinds = (
        RandomMixUpV2(p=1.0, data_keys=keys),
        RandomCutMixV2(p=1.0, data_keys=keys, use_correct_lambda=True),
    )
    note = "returns both class indices and the weight, no soft targets"
    return [Variant(name, kind, note) for name, kind in zip(names, kinds, strict=True)]


def _openmixup(shape: Shape) -> list[Variant]:
    """Its functions; those that decide once for a batch are called for each image."""

    def each_mask(module: Any, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        size = (shape.size, shape.size)
        drawn = [module.sample_mask(1.0, 3.0, size) for _ in range(len(x))]
        mask = torch.from_numpy(np.stack([mask for _, mask in drawn])).to(x)
        perm, lam = torch.randperm(len(x), device=x.device), torch.tensor([lam for lam, _ in drawn])
        return mask * x + (1 - mask) * x[perm], y, y[perm], lam

    def each_box(module: Any, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        perm = torch.randperm(len(x), device=x.device)
        other, second = x[perm], y[perm]
        found = [
            module.saliencymix(row[None], label[None], alpha=1.0, return_mask=True)
            for row, label in zip(other, second, strict=True)
        ]
        mask = torch.cat([shown for (_, shown), _ in found])
        lam = torch.tensor([float(labels[2]) for _, labels in found])
        return torch.where(mask > 0, other, x), y, second, lam

    def cells(module: Any, x: Tensor, y: Tensor) -> object:
        maps = cell_maps(x)[:, None]
        return module.attentivemix(x, y, features=maps, top_k=TOP, grid_scale=shape.size // CELLS)

    calls: dict[str, tuple[str, str, Callable[..., object]]] = {
        "mixup": ("shared", _BOTH, lambda m, x, y: m.mixup(x, y, alpha=1.0)),
        "cutmix": (
            "shared",
            f"{_COPIED}; {_BOTH}",
            lambda m, x, y: m.cutmix(x.clone(), y, alpha=1.0),
        ),
        "fmix": ("per sample", f"its mask of one image, called for each; {_BOTH}", each_mask),
        "saliencymix": ("per sample", f"all of it, called for each image; {_BOTH}", each_box),
        "attentivemix": ("per sample", f"{MAPS}; {_BOTH}", cells),
    }
    root = os.environ.get("OPENMIXUP")
    variants = []
    for kind, (form, note, call) in calls.items():
        name = f"{kind} {form}, OpenMixup"
        if not root:
            variants.append(Variant(name, skipped="OPENMIXUP=path not given"))
            continue
        try:
            module = load_openmixup(Path(root), kind)
        except FileNotFoundError:
            skipped = f"no openmixup/models/augments/{kind}.py in the OPENMIXUP folder"
            variants.append(Variant(name, skipped=skipped))
            continue
        except Exception as error:  # whatever a checkout of any age holds
            variants.append(Variant(name, skipped=f"failed with {type(error).__name__}"))
            continue
        variants.append(Variant(name, on_its_device(partial(call, module)), note))
    return variants


def load_openmixup(root: Path, kind: str) -> Any:
    """Read one augmentation of an OpenMixup checkout without installing OpenMixup.

    Args:
        root: The checkout.
        kind: Name of the file and of the function in it.

    Returns:
        The file as a module.

    Raises:
        FileNotFoundError: If the checkout has no such file.

    Note:
        Three things stand in for what the file expects: its own package, of which it imports a
        helper for several processes; NumPy's removed ``int``; and, where it is called on CPU
        batches, ``Tensor.cuda``, which it calls on every permutation.
    """
    path = root / "openmixup" / "models" / "augments" / f"{kind}.py"
    module = load_file(path, ("openmixup", "openmixup.models", "openmixup.models.utils"))
    module.np = _NumPyWithInt()
    return module


class _NumPyWithInt:
    int = int

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class MixBenchmark(Benchmark):
    """P1; to be no slower than 1.1 times the fastest peer is to be so against each of them."""

    part, base = "P1", BASE
    watched = SHAPES[:1]
    peers = (_torchvision, _timm, _kornia, _openmixup, loops)

    def cases(self, device: torch.device) -> tuple[Shape, ...]:
        return SHAPES

    def own(self, case: Shape, device: torch.device, budget: Budget) -> list[Variant]:
        return own_variants(case)

    def inputs(self, case: Shape, device: torch.device) -> Callable[[int], tuple[Tensor, Tensor]]:
        batches = _batches(case, device)
        return lambda number: batches[number % len(batches)]

    def traffic(self, case: Shape, variant: Variant) -> int:
        return (2 if variant.name == BASE else 3) * case.bytes

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        # Shapes of 224 pixels are reported only, as their noise is too large.
        small, middle = (str(shape) for shape in SHAPES[:2])
        per_sample = [
            Rule(
                self.part, small, f"{kind} per sample, mixbench", f"{kind} per sample, {peer}", 2.0
            )
            for kind in ("mixup", "cutmix")
            for peer in ("timm elem", "kornia")
        ]
        shared = [
            Rule(self.part, shape, f"{kind} shared, mixbench", f"{kind} shared, {peer}", 1 / 1.1)
            for shape in (small, middle)
            for kind in ("mixup", "cutmix")
            for peer in ("torchvision", "timm batch", "OpenMixup")
        ]
        image_by_image = [
            Rule(self.part, small, f"{kind} per sample, mixbench", f"{kind} per sample, {peer}", 1)
            for kind in ("fmix", "saliencymix", "attentivemix")
            for peer in ("OpenMixup", "loop")
        ]
        return [*per_sample, *shared, *image_by_image]


def _batches(shape: Shape, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    generator = Generator().manual_seed(SEED)
    size = (shape.batch, 3, shape.size, shape.size)
    return [
        (
            torch.randn(size, generator=generator).to(device),
            torch.randint(shape.classes, (shape.batch,), generator=generator).to(device),
        )
        for _ in range(INPUTS)
    ]
