"""Maps of TdAttenMix from a frozen network that is told what to look for, as the authors do."""

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixbench.data.augment.batches import to_float
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.methods.map_sources import MapSource
from mixbench.methods.tdattenmix.config import PUBLISHED
from mixbench.nn.absvit import AbSViT
from mixbench.nn.absvit_prior import choose_prior, wnid_rows
from mixbench.nn.saliency import resize_images
from mixbench.nn.teacher import UnregisteredModule
from mixbench.records.weights import read_weights

log = logging.getLogger("mixbench")

# As published AbSViTs were trained, for pixels in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AHEAD = 64  # images in a pass over the training set


class TopDownMaps(MapSource):
    """A frozen AbSViT that is told what to look for."""

    wanted: Tensor
    mean: Tensor
    std: Tensor
    net: UnregisteredModule

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        cfg, info = method.config, method.info
        net = load_absvit(cfg.absvit)
        rows = len(net.head.weight)
        self.prior = choose_prior(cfg.prior, rows, info.num_classes, info.class_ids)
        self.sigma, self.net = cfg.sigma, UnregisteredModule(net)
        table = {
            "head": lambda: net.head.weight,
            "wnid": lambda: net.head.weight[wnid_rows(info.class_ids)],
            "prompt": lambda: net.prompt[None],
            "prototype": lambda: torch.zeros(info.num_classes, net.head.in_features),
        }[self.prior]()
        # Prototypes go into the checkpoint: found once for a run. The others come with the file.
        learned = self.prior == "prototype"
        self.register_buffer("wanted", table.detach().clone(), persistent=learned)
        for name, values in (("mean", MEAN), ("std", STD)):
            value = torch.tensor(values)[:, None, None]
            self.register_buffer(name, value, persistent=False)

    def prepared(self, pixels: Tensor) -> Tensor:
        """Images as the network was trained with."""
        size = self.net.module.size
        return (resize_images(pixels, (size, size)) - self.mean) / self.std

    def forward(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Attention to each patch when the network looks for the label."""
        wanted = self.wanted if self.prior == "prompt" else self.wanted[y]
        return self.net(self.prepared(pixels), wanted, self.sigma).maps

    def wrap(self, train_set: Any) -> Any:
        """Find the prototypes, unless a checkpoint has brought them."""
        if self.prior == "prototype" and not self.wanted.any():
            self.wanted.copy_(self.prototypes(train_set, len(self.wanted)))
        return train_set

    def prototypes(self, train_set: Any, num_classes: int) -> Tensor:
        """Mean feature of each class.

        Args:
            train_set: The training images, which are passed through the network once.
            num_classes: Number of classes K.

        Returns:
            (K, D); zero for a class without images.
        """
        log.info("method.prior=prototype: one pass over %d images", len(train_set))
        device = self.wanted.device
        total, count = torch.zeros_like(self.wanted), torch.zeros(num_classes, 1, device=device)
        for rows in torch.arange(len(train_set)).split(AHEAD):
            batch = train_set[BatchIndex(rows, 0)]
            y = batch.labels.to(device)
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                x = self.prepared(to_float(batch.images.to(device)))
                total.index_add_(0, y, self.net.module.encode(x)[:, 0])
            count.index_add_(0, y, count.new_ones(len(y), 1))
        return total / count.clamp(min=1)


def load_absvit(given: str) -> AbSViT:
    """Read an AbSViT.

    Args:
        given: Value of ``method.absvit``.

    Returns:
        The network, of the size that its weights have.

    Raises:
        UserError: If it cannot be read as plain weights, or they are not those of an AbSViT.
    """
    path, key = Path(given), f"method.absvit={given}"
    # Training scripts save their arguments beside the weights; such a namespace is plain data.
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = read_weights(path, "method.absvit")
    try:
        return AbSViT.from_state(state)
    except (KeyError, RuntimeError, ValueError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[-1].strip()
        raise UserError(
            f"{path.name} holds no AbSViT: {why}", key, f"use a file of {PUBLISHED}"
        ) from error
