"""Operations on images as modules: in front of a network, or as a loader's ``collate_fn``.

They take and give what the transforms of torchvision and timm do, a batch and its labels, and draw
from torch's global source unless a generator is given, so that workers of a loader draw apart.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mixbench.functional.bc import bc
from mixbench.functional.cutmix import cutmix
from mixbench.functional.draws import Switch, draw_perm
from mixbench.functional.guidedmixup import guidedmixup
from mixbench.functional.mixed import Mixed, mix_targets, one_hot, take
from mixbench.functional.mixup import mixup
from mixbench.functional.saliencymix import saliencymix
from mixbench.functional.splicemix import splicemix

_TO_TENSOR = (
    "convert images in the transform of the data set, for example with "
    "torchvision.transforms.ToTensor()"
)


class InputMix(nn.Module, ABC):
    """Base of the modules: one decision mixes all stacks of images and all labels of a batch.

    In eval mode nothing is mixed, and labels become targets alone. As ``collate_fn`` it makes
    batches of a loader's samples.

    Args:
        num_classes: Number of classes K of labels that are class indices; for several labels that
            differ in it, a tuple or dict of the same form as theirs. None if labels are targets
            (B, K) already.
        smoothing: Label smoothing of class indices, in [0, 1].
        prob: Chance that a batch is mixed, with ``per_sample`` that of each row.
        per_sample: Draw for each row instead of once for the batch.
    """

    def __init__(
        self,
        *,
        num_classes: int | Sequence[int] | Mapping[Any, int] | None = None,
        smoothing: float = 0.0,
        prob: float = 1.0,
        per_sample: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        self.num_classes, self.smoothing = num_classes, smoothing
        self.prob, self.per_sample = prob, per_sample

    @abstractmethod
    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> Mixed:
        """Mix one stack of images with one tensor of targets (B, K); what is missing is drawn."""

    def decisions(self, mixed: Mixed) -> dict[str, Any]:
        """What decided a mixed batch, as :meth:`mix` takes it."""
        return {"lam": mixed.lam, "perm": mixed.perm}

    def labels(self, x: Tensor, targets: Tensor, mixed: Mixed) -> Tensor:
        """Other targets (B, K) of the images ``x`` as ``mixed`` mixed them."""
        del x
        assert mixed.perm is not None
        assert mixed.lam is not None
        return mix_targets(targets, mixed.perm, mixed.lam)

    def forward(self, x: Any, y: Any = None, *, generator: Generator | None = None) -> Any:
        """Mix a batch, or the samples that a loader collates to one.

        Args:
            x: (B, C, H, W) images, or a tuple or dict of several such stacks; or, without ``y``, a
                list of samples (image, label).
            y: (B,) class indices or (B, K) targets, or a tuple or dict of several such labels.
            generator: Random source; torch's global one if None.

        Returns:
            Mixed images and targets, each in the form that it came in.

        Raises:
            ValueError: If samples are not pairs or cannot be collated, such as images of Pillow,
                labels do not fit ``num_classes``, or as the operation does.
        """
        if y is None:
            x, y = _pair(x)
        stacks, targets = _parts(x), self._targets(_parts(y))
        if not stacks or not targets:
            raise ValueError(
                f"nothing to mix: {len(stacks)} stacks of images, {len(targets)} labels"
            )
        for images in stacks.values():
            if not isinstance(images, Tensor):
                raise ValueError(
                    f"images must be a tensor, got {type(images).__name__}; {_TO_TENSOR}"
                )
        if self.training and (self.per_sample or Switch(generator).on(self.prob)):
            (key, first), (name, own) = next(iter(stacks.items())), next(iter(targets.items()))
            mixed = self.mix(first, own, generator=generator)
            decisions = self.decisions(mixed)
            stacks = {
                other: mixed.x if other == key else self.mix(images, own, **decisions).x
                for other, images in stacks.items()
            }
            targets = {
                other: mixed.targets if other == name else self.labels(first, soft, mixed)
                for other, soft in targets.items()
            }
        return _whole(x, stacks), _whole(y, targets)

    def extra_repr(self) -> str:
        """The settings."""
        parts = vars(nn.Module())
        return ", ".join(
            f"{key}={value!r}" for key, value in vars(self).items() if key not in parts
        )

    def _targets(self, labels: dict[Any, Tensor]) -> dict[Any, Tensor]:
        """Soft labels of a floating type."""
        counts: Any = self.num_classes
        single = counts is None or isinstance(counts, int)
        known = dict.fromkeys(labels, counts) if single else _parts(counts)
        if set(known) != set(labels):
            raise ValueError(
                f"num_classes is of {list(known)} and the labels are {list(labels)}; give one "
                "number for all, or one for each label in the same form"
            )
        return {name: self._soft(label, known[name]) for name, label in labels.items()}

    def _soft(self, label: Tensor, count: int | None) -> Tensor:
        if not isinstance(label, Tensor):
            raise ValueError(
                f"labels must be a tensor, got {type(label).__name__}; number the classes from 0 "
                "and give torch.tensor(numbers)"
            )
        if label.ndim == 1 and count is None:
            raise ValueError("labels are class indices; give num_classes, or targets (B, K)")
        if label.ndim == 1:
            assert count is not None
            return one_hot(label, count, smoothing=self.smoothing)
        if label.ndim != 2 or label.shape[1] != (count or label.shape[1]):
            wanted = f"(B,) or (B, {count or 'K'})"
            raise ValueError(f"labels must be {wanted}, got {tuple(label.shape)}")
        return label if label.is_floating_point() else label.float()


class Mixup(InputMix):
    """Input Mixup; see :func:`mixbench.functional.mixup`.

    Args:
        alpha: Beta(alpha, alpha) of the weight.
        partner: How partners are drawn, see :func:`draw_perm`.
        fold: Let the first image dominate.
        num_classes: As of :class:`InputMix`.
        smoothing: As of :class:`InputMix`.
        prob: As of :class:`InputMix`.
        per_sample: Draw one weight per image; the paper draws one per batch.

    Example:
        >>> x, targets = Mixup(num_classes=10)(torch.rand(4, 3, 8, 8), torch.tensor([1, 2, 3, 4]))
        >>> x.shape, targets.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 10]))
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        partner: str = "random",
        fold: bool = False,
        num_classes: int | Sequence[int] | Mapping[Any, int] | None = None,
        smoothing: float = 0.0,
        prob: float = 1.0,
        per_sample: bool = False,
    ) -> None:
        super().__init__(
            num_classes=num_classes, smoothing=smoothing, prob=prob, per_sample=per_sample
        )
        self.alpha, self.partner, self.fold = alpha, partner, fold

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> Mixed:
        """Mix one stack of images."""
        return mixup(
            x,
            targets,
            alpha=self.alpha,
            per_sample=self.per_sample,
            prob=self.prob if self.per_sample else 1.0,
            partner=self.partner,
            fold=self.fold,
            **decisions,
        )


class CutMix(InputMix):
    """CutMix of images or videos; see :func:`mixbench.functional.cutmix`.

    Args:
        alpha: Beta(alpha, alpha) of the kept share.
        partner: How partners are drawn, see :func:`draw_perm`.
        box_rule: How the box is placed, see :func:`cutmix_box`.
        minmax: Smallest and largest side in place of ``alpha``, as fractions of the image.
        num_classes: As of :class:`InputMix`.
        smoothing: As of :class:`InputMix`.
        prob: As of :class:`InputMix`.
        per_sample: Draw one box per image; the paper draws one per batch.

    Example:
        >>> samples = [(torch.rand(3, 8, 8), label) for label in (0, 1, 2, 3)]
        >>> loader = torch.utils.data.DataLoader(samples, 4, collate_fn=CutMix(num_classes=10))
        >>> x, targets = next(iter(loader))
        >>> x.shape, targets.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 10]))
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        partner: str = "random",
        box_rule: str = "official",
        minmax: tuple[float, float] | None = None,
        num_classes: int | Sequence[int] | Mapping[Any, int] | None = None,
        smoothing: float = 0.0,
        prob: float = 1.0,
        per_sample: bool = False,
    ) -> None:
        super().__init__(
            num_classes=num_classes, smoothing=smoothing, prob=prob, per_sample=per_sample
        )
        self.alpha, self.partner = alpha, partner
        self.box_rule, self.minmax = box_rule, minmax

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> Mixed:
        """Mix one stack of images (B, ..., H, W)."""
        if x.ndim < 4:
            raise ValueError(f"CutMix needs images (B, ..., H, W), got {tuple(x.shape)}")
        if (size := decisions.pop("size", x.shape[-2:])) != x.shape[-2:]:
            raise ValueError(
                f"a box of images of {tuple(size)} pixels cannot be pasted into images of "
                f"{tuple(x.shape[-2:])}; bring all stacks to one height and width"
            )
        mixed = cutmix(
            x.flatten(1, -3),
            targets,
            alpha=self.alpha,
            per_sample=self.per_sample,
            prob=self.prob if self.per_sample else 1.0,
            partner=self.partner,
            box_rule=self.box_rule,
            minmax=self.minmax,
            **decisions,
        )
        return mixed._replace(x=mixed.x.view(x.shape))

    def decisions(self, mixed: Mixed) -> dict[str, Any]:
        """Box and partners, and the size of the images that the box is of."""
        return {"box": mixed.aux, "perm": mixed.perm, "size": mixed.x.shape[-2:]}


class BC(InputMix):
    """Between-class learning, one ratio per image; see :func:`mixbench.functional.bc`.

    Train on what it gives with :func:`mixbench.functional.soft_kl`.

    Args:
        plus: Use BC+, whose images are to have a mean of 0, see :func:`subtract_image_mean`.
        num_classes: As of :class:`InputMix`.
        prob: Chance of each image to be mixed.
    """

    def __init__(
        self,
        *,
        plus: bool = False,
        num_classes: int | Sequence[int] | Mapping[Any, int] | None = None,
        prob: float = 1.0,
    ) -> None:
        super().__init__(num_classes=num_classes, prob=prob, per_sample=True)
        self.plus = plus

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> Mixed:
        """Mix one stack of images."""
        return bc(x, targets, plus=self.plus, prob=self.prob, **decisions)


class GuidedMixup(InputMix):
    """GuidedMixup by the images' own saliency; see :func:`mixbench.functional.guidedmixup`.

    Args:
        pairing: ``greedy``, images that look at other places, or ``random``.
        part: Rows that are paired among themselves; None for the whole batch.
        num_classes: As of :class:`InputMix`.
        smoothing: As of :class:`InputMix`.
        prob: As of :class:`InputMix`; the authors' is 0.5.
    """

    def __init__(
        self,
        *,
        pairing: str = "greedy",
        part: int | None = None,
        num_classes: int | Sequence[int] | Mapping[Any, int] | None = None,
        smoothing: float = 0.0,
        prob: float = 1.0,
    ) -> None:
        super().__init__(num_classes=num_classes, smoothing=smoothing, prob=prob)
        self.pairing, self.part = pairing, part

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> Mixed:
        """Mix one stack of images."""
        return guidedmixup(x, targets, pairing=self.pairing, part=self.part, **decisions)

    def decisions(self, mixed: Mixed) -> dict[str, Any]:
        """Masks and partners."""
        return {"mask": mixed.aux, "perm": mixed.perm}


class OperationMix(InputMix):
    """Any operation on one stack of images and their labels, and on maps where it reads some.

    Several labels share its decisions. So that several stacks do, give them to the function, which
    takes every decision that it returns.

    Args:
        operation: Takes images (B, C, H, W), targets (B, K), maps (B, h, w) where ``maps`` is
            given, and ``generator``, and returns a :class:`Mixed`, as :func:`fmix`,
            :func:`gridmix`, :func:`resizemix`, :func:`smoothmix`, :func:`mixpro` or
            :func:`tokenmix` does. It may be a :class:`functools.partial` of a function, or a
            wrapper that :func:`functools.wraps` made.
        maps: From images to maps, such as the attention of a network; needed by
            :func:`attentivemix`, :func:`puzzlemix`, :func:`saliencymix`, :func:`smmix`,
            :func:`snapmix` and :func:`tdattenmix`. It is called without gradients.
        num_classes: As of :class:`InputMix`.
        smoothing: As of :class:`InputMix`.
        prob: As of :class:`InputMix`.
        **settings: Those of the operation.

    Example:
        >>> x, y = torch.rand(4, 3, 32, 32), torch.tensor([1, 2, 3, 4])
        >>> mix = OperationMix(saliencymix, maps=lambda x: x.mean(1), num_classes=10, alpha=0.5)
        >>> images, targets = mix(x, y)
        >>> images.shape, targets.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 10]))
    """

    def __init__(
        self,
        operation: Callable[..., Mixed],
        *,
        maps: Callable[[Tensor], Tensor] | None = None,
        num_classes: int | Sequence[int] | Mapping[Any, int] | None = None,
        smoothing: float = 0.0,
        prob: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, smoothing=smoothing, prob=prob)
        self.operation, self.maps, self.settings = operation, maps, settings

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> Mixed:
        """Mix one stack of images."""
        operation, bound = _unwrapped(self.operation)
        name = getattr(operation, "__name__", "the operation")
        if "first" in decisions:
            raise ValueError(
                f"{name} mixes one stack of images; give the others to the function, with the "
                "decisions that it returned for the first"
            )
        given = bound | self.settings | decisions
        if self.maps is None:
            return self.operation(x, targets, **given)
        seen = x
        if operation is saliencymix:  # its maps are of what is pasted
            rule = given.get("partner", "random")
            given["perm"] = draw_perm(len(x), given.get("generator"), rule=rule)
            seen = take(x, given["perm"] if given.get("per_sample") else given["perm"][:1])
        with torch.no_grad():
            maps = self.maps(seen)
        return self.operation(x, targets, maps, **given)

    def decisions(self, mixed: Mixed) -> dict[str, Any]:
        """The first stack as it was mixed; there may be no other."""
        return {"first": mixed}


class SpliceMix(InputMix):
    """SpliceMix, which appends grids of shrunken images; see :func:`mixbench.functional.splicemix`.

    Args:
        labels: ``union`` or ``mean``, the rule by which cells label an image.
        antialias: Smooth images before they are shrunk.
        num_classes: As of :class:`InputMix`.
        smoothing: As of :class:`InputMix`.
        prob: Chance that images are appended to a batch.
    """

    def __init__(
        self,
        *,
        labels: str = "union",
        antialias: bool = False,
        num_classes: int | Sequence[int] | Mapping[Any, int] | None = None,
        smoothing: float = 0.0,
        prob: float = 1.0,
    ) -> None:
        super().__init__(num_classes=num_classes, smoothing=smoothing, prob=prob)
        self.rule, self.antialias = labels, antialias

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> Mixed:
        """Append grids to one stack of images."""
        return splicemix(x, targets, labels=self.rule, antialias=self.antialias, **decisions)

    def decisions(self, mixed: Mixed) -> dict[str, Any]:
        """Grids, and what their cells show; no grid where the batch was too small."""
        spliced = mixed.aux
        if spliced is None:
            return {}
        return {
            "grids": spliced.grids,
            "counts": spliced.counts,
            "transposed": [False] * len(spliced.grids),  # they are as they were placed
            "sources": spliced.sources,
            "dropped": spliced.dropped,
        }

    def labels(self, x: Tensor, targets: Tensor, mixed: Mixed) -> Tensor:
        """Other targets of the same cells."""
        return self.mix(x, targets, **self.decisions(mixed)).targets


def _unwrapped(operation: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function below partials and wrappers, and the settings that partials give it."""
    settings: dict[str, Any] = {}
    while isinstance(operation, partial) or hasattr(operation, "__wrapped__"):
        if isinstance(operation, partial):
            operation, settings = operation.func, operation.keywords | settings
        else:
            operation = inspect.unwrap(operation, stop=lambda each: isinstance(each, partial))
    return operation, settings


def _pair(samples: Any) -> tuple[Any, Any]:
    """Images and labels: a pair of both, or samples that a loader hands over."""
    if isinstance(samples, list) and all(isinstance(each, list | tuple) for each in samples):
        samples = _collated(samples)
    if not isinstance(samples, list | tuple) or len(samples) != 2:
        raise ValueError(
            "expected images and labels, or a list of samples (image, label); put several stacks "
            "or labels into a tuple or dict of their own, as ((image, depth), label)"
        )
    return samples[0], samples[1]


def _collated(samples: list[Any]) -> Any:
    """Samples as a batch; torch's own errors do not say what to do."""
    try:
        return torch.utils.data.default_collate(samples)
    except TypeError as error:
        kinds = ", ".join(type(value).__name__ for value in samples[0])
        raise ValueError(f"samples ({kinds}) cannot become a batch; {_TO_TENSOR}") from error
    except RuntimeError as error:
        shapes = {tuple(each[0].shape): None for each in samples if hasattr(each[0], "shape")}
        if len(shapes) < 2:
            raise
        some = " and ".join(map(str, list(shapes)[:2]))
        raise ValueError(
            f"the images of a batch differ in shape: {some}; bring them to one size in the "
            "transform of the data set"
        ) from error


def _parts(value: Any) -> dict[Any, Any]:
    """Tensors or numbers by their names or places."""
    if isinstance(value, Mapping):
        return dict(value)
    return dict(enumerate(value)) if isinstance(value, list | tuple) else {"": value}


def _whole(like: Any, parts: dict[Any, Any]) -> Any:
    """The inverse of :func:`_parts`; several are a dict or a tuple."""
    if isinstance(like, Mapping):
        return parts
    return tuple(parts.values()) if isinstance(like, list | tuple) else parts[""]
