"""AugMix as a trainable method."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.data.augment.augmix import AugMixImages
from mixbench.data.augment.batches import Augmentation, to_float
from mixbench.data.images import Batch
from mixbench.errors import UserError
from mixbench.methods.base import Method, register
from mixbench.methods.pictures.chains import draw_chain_sheet

PILLOW, TENSOR = "pil", "tensor"


class AugMixStep(NamedTuple):
    """Record of a step: V mixed views of each image, the chains that made them, and all logits.

    ``views`` (V * B, C, H, W) are normalised, all first ones before all second ones. ``logits``
    (1 + V, B, K) are those of the clean images and of the views, after ``predict``.
    """

    views: Tensor
    chains: mf.Chains
    logits: Tensor | None = None


@register("augmix")
class AugMix(Method):
    r"""Mix images with augmented versions of themselves, and tie the predictions of the views.

    See :func:`mixbench.functional.augmix` and :func:`mixbench.functional.jsd_loss`.

    Paper: Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and
    Uncertainty", ICLR 2020, arXiv:1912.02781. Official code: google-research/augmix.
    The cross-entropy is that of the clean images alone; clean images and both views pass the
    network as one batch of three times the size, whose statistics they share. ``backend: tensor``
    makes the views of a whole batch on its device at a fraction of the time; ``pil`` is the
    authors' way, image by image in the loader. Both draw the same, and differ by at most 1/255 in
    few pixels, so that the quick one is the default.
    Formula: :math:`x' = m x + (1 - m) \sum_i w_i c_i(x)` of chains :math:`c_i` of operations,
    :math:`w \sim \mathrm{Dirichlet}(\alpha)` and :math:`m \sim \mathrm{Beta}(\alpha, \alpha)`; the
    loss is :math:`\mathrm{CE}(p, y) + 12 \, \mathrm{JS}(p, p', p'')` of the three predictions.
    Deviations: levels of a translation follow the sides of the image, where the authors' constant
    is 32 or 224 pixels; random numbers are keyed and not repeated by workers.
    Cost: 3.0, three images for each; 1.0 with ``no_jsd``; and the views.
    """

    @dataclass
    class Config(Method.Config):
        """Settings of the chains and of the loss."""

        severity: float = setting(
            3.0, "largest level of an operation", within=(0.1, 10), official="3, of ImageNet 1"
        )
        width: int = setting(3, "chains of a view", at_least=1, official=3)
        depth: int | None = setting(
            None, "operations of a chain; null: 1 to 3", at_least=1, official="1 to 3"
        )
        alpha: float = setting(
            1.0, "parameter of the weights, Dirichlet of chains and Beta of a view", above=0,
            official=1.0,
        )  # fmt: skip
        all_ops: bool = setting(
            False, "also operations that corruption test sets contain", official=False
        )
        jsd_weight: float = setting(
            12.0,
            "weight of the divergence of the views",
            at_least=0,
            official=12.0,
            only_when={"method.no_jsd": (False,)},
        )
        no_jsd: bool = setting(
            False, "train on one mixed view with its cross-entropy alone", official=False
        )
        backend: str = setting(
            TENSOR,
            "views by batches on the device, or by Pillow in the loader",
            one_of=(TENSOR, PILLOW),
            official=PILLOW,
        )
        mixed: bool = setting(False, "allow it beside mixing methods, as a member of choice")

        @property
        def fidelity(self) -> str:
            """Official in all settings; a row shows those that are not the default."""
            return "official-verified"

        @property
        def own_dataset(self) -> bool:
            """Images come with their views from Pillow."""
            return self.backend == PILLOW

        @property
        def alone(self) -> str:
            """Labels of a mixed batch do not fit the divergence of views."""
            if self.mixed:
                return ""
            return "is not combined with other methods unless its key mixed=true asks for it"

        @property
        def views(self) -> int:
            """Mixed views of an image."""
            return 1 if self.no_jsd else 2

    cost = 3.0
    picture = draw_chain_sheet

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        data, order = self.run.data, "views are made of stored pixels, cropped and mirrored"
        if data.erasing:
            todo = "remove it, or use another method"
            raise UserError(f"{order}, before any noise", f"data.erasing={data.erasing}", todo)
        if data.pad == "mean":
            raise UserError(f"{order}, before normalisation", "data.pad=mean", "use data.pad=black")

    @classmethod
    def step_cost(cls, config: Any) -> float:
        """One pass without the divergence."""
        return 1.0 if config.no_jsd else cls.cost

    def wrap_dataset(self, train_set: Any) -> Dataset[Any]:
        """The images with their views, where Pillow makes them."""
        cfg, run = self.config, self.run
        if cfg.backend == TENSOR:
            return train_set
        return AugMixImages(train_set, run.data, partial(chains_of, cfg), cfg.views, run.seed)

    @property
    def augments(self) -> bool:
        """What Pillow makes views of is cropped and mirrored in the loader."""
        return self.config.backend == TENSOR

    @property
    def takes_augmented(self) -> bool:
        """Views are made of whatever is cropped and mirrored."""
        return super().takes_augmented

    def prepare(self, batch: Batch, drawn: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        """Augment and normalise, or only normalise what came with its views."""
        if batch.views is None:
            return super().prepare(batch, drawn)
        targets = self.task.targets(batch.labels, self.info.num_classes, self.run.optim)
        return self._layout(self.normalize(to_float(batch.images))), targets

    def mix_batch(self, batch: Batch) -> mf.Mixed:
        """Also take views that came with the images."""
        return self.mix(*self.prepare(batch), views=batch.views)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Make views; images and targets stay. ``views`` or ``chains`` can be given."""
        views, chains = decisions.get("views"), decisions.get("chains")
        if views is None:
            if chains is None:
                chains = chains_of(self.config, self.config.views * len(x), self.generator)
            pixels = (255 * self.to_pixels(x.float())).round_().clamp_(0, 255).to(torch.uint8)
            views = mf.ChainViews(mf.augmix(pixels, chains=chains), chains)
        made = self._layout(self.normalize(views.x).to(x.dtype))
        return mf.Mixed(x, targets, aux=AugMixStep(made, views.chains))

    def predict(self, mixed: mf.Mixed) -> tuple[Tensor, mf.Mixed]:
        """Logits of the clean images, beside which the views pass; of the view without them."""
        step = mixed.aux
        if self.config.no_jsd:
            return self.net(step.views), mixed._replace(x=step.views)
        logits = self.net(self._layout(torch.cat([mixed.x, step.views])))
        by_view = logits.unflatten(0, (1 + self.config.views, len(mixed.x)))
        return by_view[0], mixed._replace(aux=step._replace(logits=by_view))

    def loss(self, logits: Tensor, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Cross-entropy of the clean images, and the divergence of all predictions."""
        terms = {"ce": self.task.criterion(logits, mixed.targets)}
        if not self.config.no_jsd:
            terms["jsd"] = self.config.jsd_weight * mf.jsd_loss(mixed.aux.logits)
        return terms

    @property
    def no_mask_reason(self) -> str:
        """There is no partner that gaze could choose between."""
        return "it mixes an image with itself alone"


def chains_of(config: AugMix.Config, count: int, generator: Generator) -> mf.Chains:
    """Draw the chains of ``count`` views as settings ask for them."""
    return mf.draw_chains(
        count,
        severity=config.severity,
        width=config.width,
        depth=config.depth,
        alpha=config.alpha,
        all_ops=config.all_ops,
        generator=generator,
    )
