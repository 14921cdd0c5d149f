"""Denoising-GAN: learn images from sums with a component that is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixbench.data.files.arrays import read_arrays
from mixbench.data.images import Batch
from mixbench.errors import UserError
from mixbench.methods.base import register
from mixbench.methods.demix.base import DemixMethod, Observed
from mixbench.methods.demix.config import DenoiseGANConfig


@register("denoisegan")
class DenoiseGAN(DemixMethod):
    r"""Learn the images in noisy observations, where samples of the noise are at hand.

    The discriminator tells observations ``x + n`` from made ones ``G(z) + n'`` with noise ``n'``
    that is drawn anew, so that G has to make clean images. The trivial estimate at the test is the
    observation itself.

    Paper: Soltani, Jain, Sambasivan, "Learning Generative Models of Structured Signals from Their
    Superposition Using GANs with Application to Denoising and Demixing", arXiv:1902.04664.
    Official code: none was found. The text gives 55,000 sums of 28x28 pixels, batches of 64, 64
    epochs, 100 latent numbers in [-1, 1] and Adam; rates, widths, lines and waves are ours.
    Formula: :math:`\min_G \max_D E \log D(y) + E \log(1 - D(G(z) + n))`, and at the test
    :math:`\min_z |y - G(z)|^2 + \mu |z|^2` over the latent vector.
    Deviations: the loss of the generator does not saturate (``saturating``), and the discriminator
    has DCGAN's leaky units (``d_act``).
    Cost: 3, passes of two networks.
    """

    components = 1
    files = (*DemixMethod.files, "component")

    @dataclass
    class Config(DenoiseGANConfig):
        """Settings of denoising-GAN."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.check_component(self.run.data.second)
        given = self.config.component
        self.samples = None if given is None else _read_samples(given, self.net[0].image_shape)

    def draw_known(self, batch: Batch) -> Tensor:
        """Other draws of the known component: of the file, or of what the data adds."""
        if self.samples is None:
            return super().draw_known(batch)
        rows = torch.randint(len(self.samples), (len(batch.ids),), generator=self.generator)
        return self.samples[rows].to(batch.images.device, non_blocking=True)

    def make(self, observed: Observed) -> tuple[Tensor, Sequence[Tensor]]:  # type: ignore[override]
        """Made images with known noise on them."""
        image = self.net[0](observed.latents[0])
        return self.observe(image, observed.fresh), (image,)

    def trivial(self, y: Tensor) -> Tensor:
        """The observation, as if there were no noise in it."""
        return y / self.run.data.weights[0]


def _read_samples(given: str, shape: tuple[int, int, int]) -> Tensor:
    """Samples (N, C, H, W) float32 of a pack; bytes become pixels in [0, 1]."""
    where = f"method.component={given}"
    try:
        images = read_arrays(Path(given))["images"]
    except (OSError, ValueError, KeyError) as error:
        todo = "give an .npz with images (N, H, W[, C])"
        raise UserError(
            f"the samples of the known component cannot be read: {error}", where, todo
        ) from error
    found = torch.from_numpy(images.astype("float32")) / (255 if images.dtype == "uint8" else 1)
    found = found[:, None] if found.ndim == 3 else found.permute(0, 3, 1, 2)
    if found.shape[1:] != shape or not len(found):
        raise UserError(
            f"the samples are {tuple(images.shape)}, and the images have channels, height and "
            f"width {shape}",
            where,
            "give samples of the size of the images",
        )
    return found
