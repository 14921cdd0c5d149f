"""The interface of the sources of attention maps, and random windows as a control.

A source takes the method and a normalised batch, and returns the predictions of the trained network
with maps of the images. It leaves no trace in the network.
"""

from typing import Any

import torch
from torch import Generator, Tensor, nn


class AttentionMaps(nn.Module):
    """Base of the sources; its own maps are even.

    Args:
        method: The method, with its network and settings.
    """

    resize = "area"  # how its maps are brought to the grid
    unfit_for_tests = ""  # why it has no maps of test images

    def __init__(self, method: Any) -> None:
        super().__init__()
        del method

    def forward(self, method: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of the method's network for ``x`` (B, C, H, W), and maps (B, R, C)."""
        return method.net(x), self.maps(method.to_pixels(x), y)

    def maps(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Maps (B, R, C) of images (B, C, H, W) in [0, 1] with labels (B,)."""
        del y
        return pixels.new_ones(len(pixels), 1, 1)

    def places(self, batch: int, windows: tuple[int, int], generator: Generator) -> dict[str, Any]:
        """Windows that are drawn instead of searched, as keys of ``mf.tdattenmix``."""
        del batch, windows, generator
        return {}

    def wrap(self, method: Any, train_set: Any) -> Any:
        """The training set as this source wants to see it, once before training."""
        del method
        return train_set


class RandomWindows(AttentionMaps):
    """Windows anywhere, as a control; the label is their area."""

    def places(self, batch: int, windows: tuple[int, int], generator: Generator) -> dict[str, Any]:
        """Draw both windows of every image."""
        draw = torch.rand(2, batch, 2, dtype=torch.float64, generator=generator)
        target, source = (draw * torch.tensor(windows)).long()
        return {"target": target, "source": source}
