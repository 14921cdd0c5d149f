"""Demixing-GAN: learn two kinds of images from their sums alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mixbench.errors import UserError
from mixbench.methods.base import register
from mixbench.methods.demix.base import DemixMethod, Observed
from mixbench.methods.demix.config import DemixConfig


@register("demixgan")
class DemixGAN(DemixMethod):
    r"""Learn both components of sums, neither of which is ever seen alone.

    Two generators of equal build and without shared weights make images whose sum is to pass for
    an observation. Nothing but the structure of what they can make tells them apart, so that they
    may come out swapped: which is which is decided once for a model, never for an image. The
    trivial estimate at the test is half of the observation.

    Paper: Soltani, Jain, Sambasivan, "Learning Generative Models of Structured Signals from Their
    Superposition Using GANs with Application to Denoising and Demixing", arXiv:1902.04664.
    Official code: none was found. The text gives 55,000 sums of 28x28 pixels, batches of 64, 100
    latent numbers in [-1, 1] and Adam; rates, widths, lines and waves are ours.
    Formula: :math:`\min_G \max_D E \log D(y) + E \log(1 - D(G_1(z_1) + G_2(z_2)))`, and at the test
    :math:`\min_z |y - G_1(z_1) - G_2(z_2)|^2 + \mu (|z_1|^2 + |z_2|^2)` over both latent vectors.
    Deviations: as of denoisegan; the second generator's pixels have the range of what is added,
    which is negative, too, for waves.
    Cost: 3, passes of three networks.
    """

    @dataclass
    class Config(DemixConfig):
        """Settings of demixing-GAN."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.run.data.clip:
            raise UserError(
                "after a sum is cut to [0, 1], it is no longer the sum of two components",
                "data.clip=true",
                "leave it out, or use method=denoisegan",
            )

    def make(self, observed: Observed) -> tuple[Tensor, Sequence[Tensor]]:  # type: ignore[override]
        """Sums of two made images by the known weights."""
        parts = [net(z) for net, z in zip(self.net, observed.latents, strict=True)]
        return self.observe(*parts), parts

    def trivial(self, y: Tensor) -> Tensor:
        """The same share of the observation for both components."""
        return y / sum(self.run.data.weights)
