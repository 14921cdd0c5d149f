"""Clean steps that also learn to reconstruct their images, which a method can take in."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.base import pick_layers
from mixbench.config.settings import setting
from mixbench.methods.base import Method
from mixbench.nn.decoder import Decoder

CLEAN = "clean"  # in the place of a layer: nothing is mixed


class DecodedImages(NamedTuple):
    """Record of a clean step: its decoded images (B, C, H, W)."""

    images: Tensor


class AutoencoderMethod(Method):
    """Base of a method that can train an autoencoder on clean steps; off by default.

    Our own experimental design, not the paper's: the authors of AlignMix released no code of their
    autoencoder, and say that the decoder sees clean features and the classifier no decoded image.
    Here the loss of a clean step is the cross-entropy plus the mean squared error of its decoded
    last features, in units of the normalised image; all other steps are the method's own.
    """

    @dataclass
    class Config(Method.Config):
        """Settings of the autoencoder."""

        ae: bool = setting(False, "our experiment: clean steps that reconstruct their images")
        ae_clean: float = setting(
            0.5,
            "with ae: share of the steps that are clean",
            within=(0, 1),
            only_when={"method.ae": (True,)},
        )
        ae_weight: float = setting(
            1.0,
            "with ae: weight of the mean squared error",
            at_least=0,
            only_when={"method.ae": (True,)},
        )

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        if self.config.ae:
            pick_layers(net, [-1], "method.ae")
        self.decoder = Decoder(net.channels) if self.config.ae else None

    def draw_clean(self) -> bool:
        """Draw whether a step is clean; without ``ae`` nothing is drawn."""
        return self.config.ae and self.switch.on(self.config.ae_clean)

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Logits of a clean batch, and its decoded images."""
        assert self.decoder is not None
        net: Any = self.net
        h = net.forward_stages(mixed.x)
        decoded = DecodedImages(self.decoder(h, mixed.x.shape[2:]))
        return net.head(h), mf.Mixed(mixed.x, mixed.targets, aux=decoded)

    def loss(self, logits: Any, mixed: mf.Mixed) -> Tensor | dict[str, Tensor]:
        """The cross-entropy, and the weighted error of reconstruction on clean steps."""
        loss: Any = super().loss(logits, mixed)
        if self.decoder is None:
            return loss
        if isinstance(mixed.aux, DecodedImages):
            error = F.mse_loss(mixed.aux.images.float(), mixed.x.float())
            return {"ce": loss, "reconstruction": self.config.ae_weight * error}
        # With a gradient for every parameter in every step, no process waits for one under DDP.
        return {"ce": loss + 0 * sum(p.sum() for p in self.decoder.parameters())}

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the network, and of the decoder."""
        groups = super().param_groups()
        return groups + (self.groups_of(self.decoder) if self.decoder else [])
