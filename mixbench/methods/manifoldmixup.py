"""Manifold Mixup as a trainable method."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.base import pick_layers
from mixbench.config.settings import setting
from mixbench.methods.base import MIXES_LABELS, Method, register
from mixbench.methods.pictures.features import draw_features

LOSSES = ("ce", "bce_softmax")


class MixLayer(NamedTuple):
    """Record of a step: the layer whose features are mixed; 0 is the image."""

    layer: int


@register("manifoldmixup")
class ManifoldMixup(Method):
    r"""Interpolate the features of a random layer; see :func:`mixbench.functional.manifoldmixup`.

    Paper: Verma et al., "Manifold Mixup: Better Representations by Interpolating Hidden States",
    ICML 2019, arXiv:1806.05236. Official code: vikasverma1077/manifold_mixup.
    Formula: :math:`h = \lambda g_k(x_1) + (1 - \lambda) g_k(x_2)` at a layer :math:`k` drawn for
    the batch, the logits :math:`f_k(h)`, and :math:`y = \lambda y_1 + (1 - \lambda) y_2`.
    Deviations: soft cross-entropy by default; theirs is ``loss: bce_softmax``, the layers are too.
    Cost: 1.0, one copy of a layer's features.
    """

    @dataclass
    class Config(Method.Config):
        """Settings of Manifold Mixup."""

        alpha: float = setting(
            2.0, "Beta(alpha, alpha) of the weight", above=0, official="2.0, Tiny-ImageNet 0.2"
        )
        layers: list[int] = setting(
            [0, 1, 2], "layers to draw from; 0 is the image", official=[0, 1, 2]
        )
        loss: str = setting(
            "ce",
            "loss; the gradients of bce_softmax are K/2 to K times smaller",
            one_of=LOSSES,
            official="bce_softmax",
        )

        @property
        def requires(self) -> frozenset[str]:
            return frozenset({"stages"})  # to be cut between them

        @property
        def fidelity(self) -> str:
            """Official with the layers and the loss of the authors' code."""
            official = "official-verified" if self.loss == "bce_softmax" else "paper"
            return official if sorted(self.layers) == [0, 1, 2] else "variant"

    tasks = MIXES_LABELS

    @classmethod
    def tasks_with(cls, config: Any) -> frozenset[str]:
        """Only one label per image with ``bce_softmax``, whose targets sum to 1."""
        return cls.tasks if config.loss == "ce" else frozenset({"multiclass"})

    @property
    def replayable(self) -> bool:
        """The layer is in the record of the step."""
        return True

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.layers = pick_layers(net, self.config.layers, "method.layers")

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Draw what is not given of ``layer``, equal on all ranks, ``perm`` and ``lam``."""
        given = {key: value for key, value in decisions.items() if value is not None}
        layers = [given.pop("layer")] if "layer" in given else self.layers
        pick = torch.randint(len(layers), (), generator=self.shared_generator)
        drawn = {"perm": mf.draw_perm(len(x), self.generator)}
        drawn["lam"] = mf.draw_lam(1, self.config.alpha, self.generator)
        return mf.Mixed(x, targets, **drawn | given, aux=MixLayer(layers[int(pick)]))

    def predict(self, mixed: mf.Mixed) -> tuple[Tensor, mf.Mixed]:
        """Run the network up to the layer, mix features and labels, and run the rest."""
        if mixed.aux is None:  # a batch that is not mixed
            return super().predict(mixed)
        layer = mixed.aux.layer
        h = self.net.forward_stages(mixed.x, stop=layer)
        after = mf.manifoldmixup(h, mixed.targets, lam=mixed.lam, perm=mixed.perm)
        logits = self.net.head(self.net.forward_stages(after.x, start=layer))
        return logits, after._replace(aux=mixed.aux)

    def loss(self, logits: Tensor, mixed: mf.Mixed) -> Tensor:
        """Cross-entropy, or the loss of the authors' code, as ``method.loss`` says."""
        if self.config.loss == "ce":
            return self.task.criterion(logits, mixed.targets)
        return mf.softmax_binary_cross_entropy(logits, mixed.targets)

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also the layer; beside the loss of the same step, the loss by layer."""
        return super().diagnostics(mixed) | {"layer": mixed.targets.new_full((), mixed.aux.layer)}

    picture = draw_features
