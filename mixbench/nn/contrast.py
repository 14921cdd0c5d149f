"""Parts of momentum contrast: the projector in front of the loss, and the queue of keys.

MoCo: He et al., CVPR 2020, arXiv:1911.05722; v2: Chen et al., 2020, arXiv:2003.04297; official code
facebookresearch/moco.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def projector(width: int, dim: int) -> nn.Sequential:
    """The two layers that MoCo v2 puts between features and loss.

    Args:
        width: Length of the features.
        dim: Length of the vectors that are compared.

    Returns:
        Linear layer, ReLU, linear layer.
    """
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))


class Queue(nn.Module):
    """The last keys of a run, the oldest of which new ones replace.

    Any number of keys may come at a time: the place where they go wraps around, and it is kept on
    the device, so that nothing waits. MoCo's own queue wants a size that batches divide.

    Args:
        dim: Length of a key.
        size: Number of keys.
    """

    keys: Tensor
    place: Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))
        self._waiting: Tensor | None = None

    def hold(self, keys: Tensor) -> None:
        """Hold keys (B, D) back until :meth:`enqueue`: a graph may still need those that are there.

        A second call replaces the first.
        """
        self._waiting = keys.detach()

    @torch.no_grad()
    def enqueue(self) -> None:
        """Put the keys that are held, those of all processes, in place of the oldest."""
        if self._waiting is None:
            return
        keys, self._waiting = gather_rows(self._waiting), None
        size = self.keys.shape[1]
        keys = keys[-size:]
        places = (self.place + torch.arange(len(keys), device=keys.device)) % size
        self.keys.index_copy_(1, places, keys.t().to(self.keys.dtype))
        self.place.copy_((self.place + len(keys)) % size)


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes that train together, in the order of their ranks.

    Args:
        x: (B, ...) rows of this process, as many as of every other.

    Returns:
        (world * B, ...); ``x`` itself where there is one process.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
