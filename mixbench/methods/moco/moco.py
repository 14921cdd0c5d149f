"""MoCo v2 as a trainable method."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.base import register
from mixbench.methods.moco.base import CONTRAST, ContrastiveMethod, Views
from mixbench.methods.moco.config import MoCoConfig


@register("moco")
class MoCo(ContrastiveMethod):
    r"""Learn features without labels: find the other view of an image among many.

    Paper: He et al., CVPR 2020, arXiv:1911.05722; v2: Chen et al., 2020, arXiv:2003.04297.
    Official code: facebookresearch/moco. The control of ``mocosamix``. What is tested: a linear
    classifier on the frozen features of the trained encoder, by L-BFGS on features of the training
    images without augmentation, standardised, with ``probe_decay``; the authors train one by SGD
    for 100 epochs of augmented images. ``top1_knn`` is the weighted vote of ``knn_k`` training
    images. The defaults are those of the authors' CIFAR-10 demonstration.
    Formula: :math:`-\log ( e^{q k / \tau} / ( e^{q k / \tau} + \sum_i e^{q k_i / \tau} ) )` of a
    view :math:`q`, the key :math:`k` of the other view of its image, and the keys :math:`k_i` of a
    queue.
    Deviations: rows are shuffled within each device and not between them; the Gaussian blur has no
    kernel size and the crop is bilinear without antialiasing, which differs only where images are
    made smaller.
    Cost: 1.5, a pass of the network, one of the momentum encoder, and the views.
    """

    @dataclass
    class Config(MoCoConfig):
        """Settings of MoCo v2."""

    cost = 1.5

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Make two views; nothing is mixed. ``views`` and ``order`` can be given."""
        query, key = self.make_views(x, decisions.get("views"))
        order = decisions.get("order")
        keys = self.encode(key, self.draw_order(len(x)) if order is None else order, 0).keys
        return mf.Mixed(query, targets, aux=Views(query, key, keys))

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Unit vectors of the first view."""
        return {CONTRAST: self.query(mixed.x)}, mixed

    def loss(self, logits: Any, mixed: mf.Mixed) -> Any:
        """The contrast between the key of the other view and those of the queue."""
        return {CONTRAST: self.contrast(logits[CONTRAST], mixed.aux.keys)}
