"""Base of MoCo and SAMix on it: two views, a momentum encoder, and a queue of its keys."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.data.augment.batches import Augmentation, to_float
from mixbench.data.augment.views import ViewDraws, draw_view, make_view
from mixbench.data.images import Batch
from mixbench.methods.base import Method
from mixbench.methods.moco.config import MoCoConfig
from mixbench.methods.pictures.views import draw_views
from mixbench.nn.contrast import Queue, projector
from mixbench.nn.probe import knn_scores
from mixbench.nn.teacher import Teacher

CONTRAST = "contrast"  # term of the loss: the two views of an image
SMALLEST = 4  # images that are normalised together


class Encoded(NamedTuple):
    """Output of the momentum encoder for a view: unit ``keys`` (B, D), and ``h`` of a layer."""

    keys: Tensor
    h: Tensor


class Views(NamedTuple):
    """Record of a step: two views (B, C, H, W) of each image, and the keys (B, D) of the second."""

    query: Tensor
    key: Tensor
    keys: Tensor


class Bank(NamedTuple):
    """Unit features (N, D) of the training images, and their labels (N,)."""

    z: Tensor
    labels: Tensor


class ContrastiveMethod(Method):
    """Base of methods that learn by momentum contrast, without labels.

    The network's own classifier is not trained. Before an evaluation it is fitted to the features
    of the training images, which are then frozen (:func:`mixbench.nn.probe.linear_probe`), and so
    what is tested is the linear evaluation; ``top1_knn`` is the vote of the nearest training images
    on the same features. The targets that hooks are given go into pictures and nowhere else.

    Of the shuffled batch normalisation of MoCo: each batch is passed in ``bn_groups`` parts that
    are normalised apart, and the rows of keys are shuffled between them, so that the statistics of
    a part do not tell which key belongs to which query. That is how the authors do it on one
    device. Every device shuffles its own part of the batch: no image is exchanged, and what a step
    does to a batch does not depend on other processes. Batches of fewer than 8 images stay whole.
    """

    Config: Any = MoCoConfig
    tasks = frozenset({"ssl"})
    picture = draw_views

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        cfg = self.config
        net.head.fc.requires_grad_(False)
        self.projector = projector(net.head.fc.in_features, cfg.dim)
        self.teacher = Teacher(net, self.projector)
        self.queue = Queue(cfg.dim, cfg.queue)
        self.bank: Bank | None = None  # set before an evaluation, in no checkpoint

    def prepare(self, batch: Batch, drawn: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        """Normalise uint8 images as they are: the views are made by ``mix``."""
        del drawn
        targets = mf.one_hot(batch.labels, self.info.num_classes)
        return self._layout(self.normalize(to_float(batch.images))), targets

    def draw_views(self, x: Tensor) -> tuple[ViewDraws, ViewDraws]:
        """Decisions of both views of images (B, C, H, W)."""
        cfg, shape = self.config, (len(x), x.shape[2], x.shape[3])
        chances: Any = {
            "area": cfg.crop_area,
            "flip": 0.5 if self.run.data.flip else 0.0,
            "jitter": cfg.jitter,
            "grey": cfg.grey,
            "blur": cfg.blur,
            "generator": self.generator,
        }
        return draw_view(*shape, **chances), draw_view(*shape, **chances)

    def make_views(self, x: Tensor, draws: tuple[ViewDraws, ViewDraws] | None) -> list[Tensor]:
        """Both views of normalised images (B, C, H, W), normalised; drawn if not given."""
        pixels = self.to_pixels(x.float())
        draws = self.draw_views(x) if draws is None else draws
        views = (self.normalize(make_view(pixels, draw)).to(x.dtype) for draw in draws)
        return [self._layout(view) for view in views]

    def draw_order(self, batch: int) -> Tensor:
        """The order in which rows meet in the parts that are normalised apart."""
        return mf.draw_perm(batch, self.generator)

    def in_groups(
        self, encode: Callable[[Tensor], Any], x: Tensor, order: Tensor | None = None
    ) -> list[Tensor]:
        """Pass a batch in parts, and put what comes of it together in the order of the batch.

        Args:
            encode: From images to a tuple of tensors, a row for each.
            x: (B, ...) images.
            order: (B,) CPU permutation of the rows before they are divided; none if None.

        Returns:
            The tensors, with B rows.
        """
        groups = max(1, min(self.config.bn_groups, len(x) // SMALLEST))
        if groups == 1:
            return list(encode(x))
        rows = x if order is None else mf.take(x, order)
        parts = [encode(part) for part in rows.tensor_split(groups)]
        whole = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
        return whole if order is None else [mf.take(t, order.argsort()) for t in whole]

    @torch.no_grad()
    def encode(self, view: Tensor, order: Tensor, layer: int) -> Encoded:
        """Keys and features of a view by the momentum encoder, rows normalised in another order."""
        net: Any = self.teacher.net
        kind = next(net.parameters()).dtype

        def both(x: Tensor) -> tuple[Tensor, Tensor]:
            h = net.forward_stages(x, stop=layer)
            return self.teach(net.forward_stages(h, start=layer)), h

        return Encoded(*self.in_groups(both, view.to(kind), order))

    def teach(self, h: Tensor) -> Tensor:
        """Unit vectors (B, D) of last features by the momentum encoder."""
        return embed(self.teacher.net, self.teacher.mix_head, h)

    def query(self, view: Tensor) -> Tensor:
        """Unit vectors (B, D) of a view by the network that is trained."""
        net: Any = self.net
        (z,) = self.in_groups(lambda x: (embed(net, self.projector, net.forward_stages(x)),), view)
        return z

    def contrast(self, z: Tensor, keys: Tensor) -> Tensor:
        """The loss of MoCo; the keys wait for the queue until the gradient is done."""
        self.queue.hold(keys)
        return mf.info_nce(z, keys, self.queue.keys, self.config.temperature).mean()

    def on_after_backward(self) -> None:
        """Let the keys into the queue, which the graph of the loss held."""
        self.queue.enqueue()

    def after_step(self) -> None:
        """Let the momentum encoder follow, in front of the next step.

        MoCo does so when a step begins. The first time there is nothing to follow, and from then on
        it is the same; but here a checkpoint has it.
        """
        self.teacher.update(self.net, self.projector, self.config.ema)

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the network and of the projector."""
        return super().param_groups() + self.groups_of(self.projector)

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also the spread of the keys: 1 for a sphere that is filled, 0 for a collapse."""
        keys = mixed.aux.keys
        spread = keys.var(dim=0, correction=0).sum().sqrt()
        return super().diagnostics(mixed) | {"key_spread": spread}

    def features(self, x: Tensor) -> Tensor:
        """Pixels (B, C, H, W) in [0, 1] to the features (B, D) that are judged."""
        net: Any = self.net
        h = net.forward_stages(self._layout(self.normalize(x)))
        return net.head.pool(net.head.norm(h))

    @property
    def no_mask_reason(self) -> str:
        """No label is mixed that gaze could be compared with."""
        return "it has no labels to mix"

    def extra_logits(self, x: Tensor) -> dict[str, Tensor]:
        """The vote of the nearest training images, once their features are known."""
        if self.bank is None:
            return {}
        cfg = self.config
        form: Any = {"k": cfg.knn_k, "temperature": cfg.knn_temperature}
        return {"knn": knn_scores(self.features(x), *self.bank, self.info.num_classes, **form)}


def embed(net: Any, head: nn.Module, h: Tensor) -> Tensor:
    """Unit vectors (B, D) in float32 of last features of a network, behind another head."""
    return F.normalize(head(net.head.pool(net.head.norm(h))).float(), dim=1)
