"""What every network offers to methods that act inside it."""

from typing import Any

from torch import Tensor, nn


class Head(nn.Module):
    """Classifier behind the last stage; each of its parts can be called alone.

    A class activation map is the relu of ``fc.weight`` applied to ``norm(h)``.

    Args:
        channels: Channels of the last stage.
        num_classes: Number of classes K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        self.pool: nn.Module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, h: Tensor) -> Tensor:
        """Map features (B, C, H, W) to logits (B, K)."""
        return self.fc(self.pool(self.norm(h)))


class StagedNet(nn.Module):
    """A network as a list of stages with a head.

    Layer 0 is the image, layer k the output of stage k - 1, and the last layer is what the head
    reads. Stage 0 holds the stem. Stages are functional: they keep nothing between calls, so that
    a forward can be cut anywhere and each stage compiled alone.

    Attributes:
        stages: The stages in order.
        head: Normalisation, pooling and classifier.
        channels: Channels of layer k, ``channels[0]`` being the image's.
        provides: What methods may require of it: ``stages``, and for transformers ``attention``
            and ``tokens``.
    """

    stages: nn.ModuleList
    head: Head
    channels: tuple[int, ...]
    provides: frozenset[str] = frozenset({"stages"})

    def forward_stages(
        self, h: Tensor, start: int = 0, stop: int | None = None, capture: Any = None
    ) -> Tensor:
        """Run the stages from layer ``start`` to layer ``stop``.

        Args:
            h: (B, C, H, W) features of layer ``start``; the normalised image for 0.
            start: Layer of ``h``.
            stop: Layer to return; None for the last one. Negative counts from the end.
            capture: Record of attention maps to fill, on networks that provide attention.

        Returns:
            Features of layer ``stop``.

        Raises:
            ValueError: If ``capture`` is asked of a network without attention, or the layers are
                not in order.
        """
        if capture is not None:
            raise ValueError(f"{type(self).__name__} has no attention to capture")
        last = len(self.stages)
        stop = last if stop is None else stop + (last + 1 if stop < 0 else 0)
        if not 0 <= start <= stop <= last:
            raise ValueError(f"layers must be 0 <= start <= stop <= {last}, got {start}, {stop}")
        for index in range(start, stop):
            h = self.stages[index](h)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, C, H, W) to logits (B, K)."""
        return self.head(self.forward_stages(x))
