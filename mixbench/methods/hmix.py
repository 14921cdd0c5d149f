"""Labels of what people see in a mixed image, for any mixing method that weighs two labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.config.schema import DataConfig
from mixbench.config.settings import setting
from mixbench.data.augment.batches import Augmentation
from mixbench.data.hmix import read_hmix
from mixbench.data.images import Batch, Splits
from mixbench.data.judged import (
    FINEST,
    JUDGED_RULES,
    JudgedBatches,
    JudgedMixtures,
    LabelTable,
    label_table,
)
from mixbench.errors import UserError
from mixbench.methods.base import register
from mixbench.methods.choice.choice import Choice
from mixbench.pictures.sheet import Sheet, under_title
from mixbench.stats.label_map import fit_label_map

# The map that `fit_label_map` finds in the 4,788 judgements of H-Mix that are no repeats.
KNOTS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
RATED = (0.0, 0.153, 0.2268, 0.5, 0.7732, 0.847, 1.0)
CONFIDENCE = (0.7886, 0.7886, 0.7219, 0.6275, 0.7219, 0.7886, 0.7886)
ONLINE, FIXED = "online", "fixed"
ERM = "erm"  # leaves batches as they are, beside members that mix


@register("hmix")
class HMix(Choice):
    r"""Mix by any method, and label by what people see in such mixtures.

    Paper: Collins et al., "Human-in-the-Loop Mixup", UAI 2023, arXiv:2211.01202. Data:
    cambridge-mlg/hill-mixup.
    People see the weaker image of a mixture as stronger than it is, and are less sure the more
    equal both are. The weight of each label follows a map fitted to their judgements: by isotonic
    regression, the same whichever image is called the first; ``omega`` of what their confidence
    lacks goes to all classes in equal parts. Images are mixed by ``members``, one of which is
    drawn for each batch, with keys ``method.<member>.<key>``. Without ``source`` the map is that of
    H-Mix.
    ``mode=fixed`` trains on the judged images themselves, those of ``data.judgements``: in each
    batch they take the places of a share of the others, which stay as they are, and each bears the
    label that ``rule`` makes of its ratings: ``linear``, the weight of its pixels, ``mean``,
    ``median``, ``conf_weighted``, ``shrink_half``, ``smooth_uniform``, or ``per_annotator``, the
    rating of one person, drawn anew each time. ``published_weighted`` is the published field, which
    draws towards the second image. Of labels of all classes, as of CIFAR-10S, ``rule`` is
    ``linear``, ``mean`` or ``per_annotator``.
    Formula: :math:`y = (1 - u) (g y_1 + (1 - g) y_2) + u / K` with the weight :math:`g(\lambda)`
    that people see, and :math:`u = \omega (1 - c(\lambda))` of their confidence :math:`c`.
    Deviations: the authors' training code was never released; the map and the smoothing are ours.
    People judged sums of two images, and a map for CutMix or others extrapolates from them. They
    named one class of each, so that there are no such labels where an image has several.
    Cost: that of the members.
    """

    files = ("source",)

    @dataclass
    class Config(Choice.Config):
        """Settings of the labels, and the methods that mix."""

        members: list[str] = setting(["mixup"], "methods that mix, one for each batch")
        source: str | None = setting(
            None,
            "judgements: folder h_mix of the release or of an exported study, or an .npz; null: "
            "the map of H-Mix",
        )
        omega: float = setting(
            0.5, "weight of the uniform label where nobody is sure", within=(0, 1)
        )
        mode: str = setting(
            ONLINE,
            "online: members mix, and a map of judgements labels; fixed: judged images in batches",
            one_of=(ONLINE, FIXED),
        )
        rule: str = setting(
            "smooth_uniform", "fixed: from ratings of an image to its label", one_of=JUDGED_RULES
        )
        share: float = setting(
            0.2, "fixed: share of judged images in each batch", at_least=1 / FINEST, at_most=1
        )

        def __post_init__(self, settings: dict[str, Any] | None) -> None:
            if self.mode == FIXED:
                self._leave_others()
            super().__post_init__(settings)
            if self.mode == FIXED:
                return
            if set(self.members) == {ERM}:
                raise ValueError(f"method.members must name methods that mix, got {self.members}")
            plain = {"rule": "smooth_uniform", "share": 0.2}
            for key, value in plain.items():
                if getattr(self, key) != value:
                    raise ValueError(f"method.{key} needs method.mode=fixed, which reads it")

        def _leave_others(self) -> None:
            """Let no member mix the images that nobody has judged."""
            if list(self.members) not in (["mixup"], [ERM]) or self.probs is not None:
                raise ValueError(
                    f"method.members={list(self.members)} mix with method.mode=online; fixed "
                    "leaves images as they are that nobody has judged"
                )
            if self.source is not None:
                raise ValueError(
                    "method.source is the map of method.mode=online; fixed takes data.judgements"
                )
            if self.omega != 0.5 and self.rule != "smooth_uniform":
                raise ValueError("method.omega needs method.rule=smooth_uniform, which smooths")
            self.members = [ERM]

        @property
        def own_dataset(self) -> bool:
            """Judged images come with the others."""
            return self.mode == FIXED

        def check_run(self, name: str, data: DataConfig) -> None:
            """Refuse to train on judged images when none are named."""
            super().check_run(name, data)
            if self.mode == FIXED and data.judgements is None:
                raise UserError(
                    f"{name} trains on judged images, and none are named",
                    "method.mode=fixed",
                    "give data.judgements=FILE, such as hmix.npz or a folder of mixbench elicit "
                    "export",
                )

    tasks = frozenset({"multiclass"})

    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        source = self.config.source
        arrays = (KNOTS, RATED, CONFIDENCE) if source is None else read_label_map(Path(source))
        for name, values in zip(("knots", "rated", "confidence"), arrays, strict=True):
            self.register_buffer(name, torch.as_tensor(values).float(), persistent=False)
        self.judged: tuple[JudgedMixtures, LabelTable] | None = None

    def use_data(self, splits: Splits) -> None:
        """Take the judged images and their labels."""
        cfg = self.config
        if cfg.mode != FIXED or splits.judged is None:
            return
        judged = splits.judged()
        smoothing = self.run.optim.label_smoothing
        classes = self.info.num_classes
        table = label_table(judged, classes, rule=cfg.rule, omega=cfg.omega, smoothing=smoothing)
        self.judged = judged, table

    def wrap_dataset(self, train_set: Dataset[Any]) -> Dataset[Any]:
        """The training set, with judged images in its batches by ``mode=fixed``."""
        train_set = super().wrap_dataset(train_set)
        if self.config.mode != FIXED:
            return train_set
        if self.judged is None:
            raise UserError(
                "the judged images have not been read",
                "method.mode=fixed",
                "call use_data with the splits of the data first",
            )
        return JudgedBatches(train_set, *self.judged, self.config.share, self.run.seed)

    @property
    def takes_augmented(self) -> bool:
        """Judged images alone are labelled in ``prepare``."""
        return super().takes_augmented

    def prepare(self, batch: Batch, drawn: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        """As for other methods, and judged images bear people's labels."""
        x, targets = super().prepare(batch, drawn)
        if batch.soft is None:
            return x, targets
        return x, torch.where(batch.soft.isnan(), targets, batch.soft.to(targets))

    def picture(self, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> Sequence[Sheet] | Image.Image:
        """The picture of the member that was drawn, or judged images among the others."""
        if self.config.mode != FIXED:
            return super().picture(x, targets, mixed)
        member, own = self._member(mixed)
        title = "Images that people judged bear the labels of these people; nothing is mixed."
        return under_title(member.picture(x, targets, own), title)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Let a member mix, and keep the labels before."""
        mixed = super().mix(x, targets, **decisions)
        return mixed._replace(aux=mixed.aux._replace(labels=targets))

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Logits of the member; both labels are weighed as people would, whatever it has mixed."""
        logits, after = super().predict(mixed)
        unmixed = after.perm is None and after.lam is None and mixed.aux.aux is None
        if unmixed:
            return logits, after  # a batch that its method has left as it is
        if not isinstance(after.targets, Tensor) or after.lam is None or after.perm is None:
            name = self.config.members[mixed.aux.member]
            raise UserError(
                f"{name} does not label an image by one weight of two labels",
                f"method.members={list(self.config.members)}",
                "choose members such as mixup, cutmix or manifoldmixup",
            )
        targets = mixed.aux.labels
        lam = after.lam.to(targets.device, targets.dtype, non_blocking=True)
        seen = mf.LabelMap(*(getattr(self, name) for name in ("knots", "rated", "confidence")))
        labels = mf.mix_targets(targets, after.perm, seen.lam(lam))
        labels = mf.smooth_label(labels, seen.sureness(lam), omega=self.config.omega)
        return logits, after._replace(targets=labels)


def read_label_map(path: Path) -> tuple[Any, Any, Any]:
    """Knots, rated weights and confidence of the judgements of a file.

    Args:
        path: As for :func:`mixbench.data.hmix.read_hmix`.

    Returns:
        Arrays (M,) of :func:`mixbench.stats.label_map.fit_label_map`; a person's second judgement
        of an image does not count.

    Raises:
        UserError: If nobody judged a weight.
    """
    infer = read_hmix(path).infer
    if infer is None or bool(infer.repeated.all()):
        raise UserError(
            "the file holds no judgements of weights",
            str(path),
            "give the file of the task infer as well",
        )
    once = ~infer.repeated
    return fit_label_map(
        *(each[once].numpy() for each in (infer.true, infer.rated, infer.confidence))
    )
