"""The base class of networks, with stages that methods can act between."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mixbench.errors import UserError


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


def with_max_pool(net: Any, where: str = "net.pool=max") -> Any:
    """Let a network's classifier read the maximum of each channel in place of the mean.

    Args:
        net: A network; it is changed.
        where: Config key for the message.

    Returns:
        The network.

    Raises:
        UserError: If its last layer is no map, or weights stand between pooling and classifier.
    """
    head = getattr(net, "head", None)
    if not isinstance(head, Head) or "maps" not in getattr(net, "provides", ()):
        what = f"{type(net).__name__} has no feature maps whose maximum the classifier could read"
        raise UserError(what, where, "use net.pool=avg, or a convolutional network")
    if any(True for _ in head.pool.parameters()):
        what = (
            f"{type(net).__name__} has weights in its pooling layer, which max pooling would drop"
        )
        raise UserError(what, where, "use net.pool=avg, or another network")
    head.pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    return net


class StagedNet(nn.Module):
    """A network as a list of stages with a head.

    Layer 0 is the image, layer k the output of stage k - 1, and the last layer is what the head
    reads. Stage 0 holds the stem. Stages are functional: they keep nothing between calls, so that
    a forward can be cut anywhere and each stage compiled alone.

    Attributes:
        stages: The stages in order.
        head: Normalisation, pooling and classifier.
        channels: Channels of layer k, ``channels[0]`` being the image's.
        final_norm: Whether the last stage ends with normalisation and ReLU.
        provides: What methods may require of it: ``stages``, ``maps`` where every layer is
            (B, C, H, W), and for transformers ``attention`` and ``tokens``.
        renames: Beginnings of the names of weights, each with what timm or torchvision have in its
            place; empty for a network that they do not have.
        no_decay: Last parts of the names of weights that are never decayed.
    """

    stages: nn.ModuleList
    head: Head
    channels: tuple[int, ...]
    final_norm: bool = False
    provides: frozenset[str] = frozenset({"stages", "maps"})
    renames: tuple[tuple[str, str], ...] = ()
    no_decay: frozenset[str] = frozenset()

    def span(self, start: int, stop: int | None) -> tuple[int, int]:
        """Layers counted from the front.

        Args:
            start: First layer. Negative counts from the end.
            stop: Layer to reach; None for the last one. Negative counts from the end.

        Returns:
            Both as numbers from 0.

        Raises:
            ValueError: If they are not in order.
        """
        last = len(self.stages)
        stop = last if stop is None else stop
        start, stop = (layer + last + 1 if layer < 0 else layer for layer in (start, stop))
        if not 0 <= start <= stop <= last:
            raise ValueError(f"layers must be 0 <= start <= stop <= {last}, got {start}, {stop}")
        return start, stop

    def forward_stages(
        self, h: Tensor, start: int = 0, stop: int | None = None, capture: Any = None
    ) -> Tensor:
        """Run the stages from layer ``start`` to layer ``stop``.

        Args:
            h: Features of layer ``start``, (B, C, H, W) on networks that provide ``maps``; the
                normalised image (B, C, H, W) for 0.
            start: Layer of ``h``. Negative counts from the end.
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
        for index in range(*self.span(start, stop)):
            h = self.stages[index](h)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, C, H, W) to logits (B, K)."""
        return self.head(self.forward_stages(x))

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the names that timm or torchvision give them.

        Args:
            state: Weights under the names of this class.

        Returns:
            The same tensors under the other names.
        """
        return {_renamed(name, self.renames): value for name, value in state.items()}

    def own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the names of this class; the inverse of :meth:`published`.

        Args:
            state: Weights under the names of timm or torchvision.

        Returns:
            The same tensors under the other names; a name unknown to both stays as it is.
        """
        own = {_renamed(name, self.renames): name for name in self.state_dict()}
        return {own.get(name, name): value for name, value in state.items()}

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights that were trained on images of another size, made to fit.

        Args:
            state: Weights under the names of this class.

        Returns:
            The same with what depends on the size of images interpolated; what cannot be stays.
        """
        return dict(state)


def _renamed(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for beginning, instead in renames:
        if name.startswith(beginning):
            return instead + name[len(beginning) :]
    return name


def pick_layers(net: Any, layers: Sequence[int], key: str = "layers") -> list[int]:
    """Layers at which a network is to be cut, those counted from the end resolved.

    Args:
        net: A network.
        layers: Layer numbers; negative ones count from the end.
        key: Config key for the message.

    Returns:
        The same layers as numbers from 0.

    Raises:
        UserError: If the network has no stages, or a layer is not one of it, named twice, or
            none is named; the message lists the layers that there are.
    """
    if not hasattr(net, "forward_stages"):
        raise UserError(
            f"{key}: {type(net).__name__} cannot be cut at a layer",
            "net",
            "derive it from mixbench.backbones.base.StagedNet, whose forward_stages(h, start, "
            "stop) and head(h) are called",
        )
    last = len(net.stages)
    found = [layer + last + 1 if layer < 0 else layer for layer in layers]
    if not found or len(set(found)) < len(found) or not set(found) <= set(range(last + 1)):
        names = ", ".join(f"{k} (after stages.{k - 1})" for k in range(1, last + 1))
        raise UserError(
            f"{key} must name layers of 0 to {last}, at least one and each once, got "
            f"{list(layers)}",
            f"{type(net).__name__} with {last} stages",
            f"choose of 0 (the image), {names}; -1 is {last}",
        )
    return found
