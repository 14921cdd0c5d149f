"""The search of TransformMix: a module learns against a frozen teacher."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.errors import UserError
from mixbench.methods.base import register
from mixbench.methods.transformmix.base import TransformMixMethod
from mixbench.methods.transformmix.config import TransformMixSearchConfig
from mixbench.metrics.classification import two_class_hits
from mixbench.nn.saliency_kinds import chosen_kind, find_maps
from mixbench.nn.transform_mixer import TransformMixer
from mixbench.records.checkpoints import check_shapes
from mixbench.records.weights import check_classes, load_network, weights_file


@register("transformmix_search")
class TransformMixSearch(TransformMixMethod):
    r"""Search a module that moves and masks pairs of images so that a trained network sees both.

    Paper: Cheung and Yeung, "TransformMix: Learning Transformation and Mixing Strategies from
    Data", arXiv:2403.12429. Official code: none was found. That two networks, one for
    transformations and one for masks, learn against a trained network and are then used as they
    are is from its text; their layers, losses and weights are a reconstruction.
    What is tested: the teacher, whose weights the network of the run takes and keeps, so that
    accuracy is the teacher's own. The suite ``two_class`` judges the module: how often the teacher,
    or another network that ``eval.judge`` names, finds both classes of a mixed test image. The
    module is for ``method=transformmix_recon method.module=RUN``.
    Formula: :math:`x = m \odot T_1(x_1) + (1 - m) \odot T_2(x_2)`; the module learns :math:`T` and
    :math:`m` so that the trained network finds both classes in :math:`x`.
    Deviations: nothing of it can be compared with code of the authors. On a GPU the gradient of
    sampling adds in no fixed order, so that a search is not repeated bit by bit.
    Cost: 1.3, one pass of the network for the maps and one with a gradient by the pixels.
    """

    cost = 1.3
    files = ("teacher_ckpt",)

    @dataclass
    class Config(TransformMixSearchConfig):
        """Settings of the search."""

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        cfg = self.config
        self.check_partners(cfg.partner)
        if cfg.teacher_ckpt is not None:
            self._load(cfg.teacher_ckpt)
        self.net.requires_grad_(False)
        where = f"method.teacher_ckpt={cfg.teacher_ckpt}" if cfg.teacher_ckpt else ""
        self.kind = chosen_kind(cfg.saliency, self.net, self.info.num_classes, where)
        self.module = TransformMixer(
            affine=cfg.affine,
            stn_input=cfg.stn_input,
            channels=self.info.channels,
            lam_input=cfg.lam_input,
            symmetric=cfg.symmetric,
            stn=cfg.stn,
            mpn=cfg.mpn,
            temperature=cfg.temperature,
        )
        if not any(True for _ in self.module.parameters()):
            raise UserError(
                "no module is left to be searched",
                "method.stn=false method.mpn=false",
                "keep one of them",
            )
        self.train(self.training)

    def _load(self, given: str) -> None:
        """Take the weights of the teacher, and the statistics that it normalises by."""
        teacher, info = load_network(given, "method.teacher_ckpt")
        state = teacher.state_dict()
        where = f"method.teacher_ckpt={given}"
        if self.run.net.weights is not None:
            todo = "leave net.weights out"
            raise UserError(
                "the network starts from the weights of the teacher, so net.weights has no effect",
                f"{where} net.weights",
                todo,
            )
        check_classes(info, self.info, where)
        check_shapes(weights_file(given, "method.teacher_ckpt"), state, self.net.state_dict())
        self.net.load_state_dict(state)
        for name in ("mean", "std"):
            getattr(self, name).copy_(torch.tensor(getattr(info, name))[:, None, None])

    @property
    def transform_mixer(self) -> TransformMixer:
        """The module that is searched."""
        return self.module

    def train(self, mode: bool = True) -> "TransformMixSearch":
        """Set the mode of the module; the teacher stays in eval mode."""
        super().train(mode)
        self.net.eval()
        return self

    def find_saliency(self, x: Tensor, y: Tensor) -> Tensor:
        """Maps of the teacher."""
        return find_maps(self.net, self.kind, x, y)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Transform and mask pairs, with a graph to the module; missing decisions are drawn.

        Labels have the weight that was drawn, which the mask is to follow. Decisions are those of
        :meth:`mix_pairs`, and ``saliency`` (B, h, w).
        """
        saliency = decisions.pop("saliency", None)
        return self.mix_pairs(x, targets, "prior", saliency, **decisions)

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Logits of the teacher, through which the module gets its gradient."""
        logits = self.net(mixed.x)
        return logits, mixed._replace(aux=mixed.aux._replace(logits=logits))

    def loss(self, logits: Any, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Cross-entropy of the teacher, and what keeps the module from fooling it."""
        cfg, step = self.config, mixed.aux
        mask, perm, asked = step.mask, cast(Tensor, mixed.perm), step.asked
        kept = mf.kept_saliency(mask, step.warped, step.saliency, perm)
        lost = asked * (1 - kept[0]) + (1 - asked) * (1 - kept[1])
        return {
            "ce": self.task.criterion(logits, mixed.targets),
            "area": cfg.w_area * (mask.mean(dim=(1, 2, 3)) - asked).square().mean(),
            "tv": cfg.w_tv * mf.total_variation(mask),
            "bin": cfg.w_bin * (mask * (1 - mask)).mean(),
            "geo": cfg.w_geo * step.numbers.square().sum(dim=1).mean(),
            "keep": cfg.w_keep * lost.mean(),
        }

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also how the teacher sees both classes: their probability, and whether they lead."""
        figures, step = super().diagnostics(mixed), mixed.aux
        if step.logits is None or mixed.perm is None:
            return figures
        first = step.own.argmax(dim=1)
        second = mf.take(first, mixed.perm)
        found = step.logits.float().softmax(dim=1)
        both = found.gather(1, torch.stack([first, second], dim=1)).mean(dim=1)
        hits = two_class_hits(step.logits, first, second).float()
        return figures | {"two_class_prob": both.mean(), "two_class_hit": 100 * hits.mean()}

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the module alone."""
        return self.groups_of(self.module, lr=self.config.module_lr)
