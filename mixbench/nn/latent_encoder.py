"""An encoder from sums of images to the latent vectors that they are made of.

It is trained on sums that generators make, whose latent vectors are known, and gives a search for
latent vectors a starting point.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

WIDTH, BATCH, RATE = 32, 64, 1e-3


class LatentEncoder(nn.Module):
    """Latent vectors of images: two convolutions and a linear layer.

    Args:
        image_shape: Channels, height and width in pixels; sides are multiples of 4.
        latents: Length L of the latent vector of each generator.
        width: Channels after the first convolution; after the second there are twice as many.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], latents: Sequence[int], width: int = WIDTH
    ) -> None:
        super().__init__()
        channels, height, columns = image_shape
        self.latents = list(latents)
        down: Any = {"kernel_size": 4, "stride": 2, "padding": 1}
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, **down),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, **down),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * (height // 4) * (columns // 4), sum(latents)),
            nn.Tanh(),
        )

    def forward(self, y: Tensor) -> tuple[Tensor, ...]:
        """Latent vectors (N, L) in [-1, 1] for each generator, of sums (N, C, H, W)."""
        return self.layers(y).split(self.latents, dim=1)


def fit_encoder(
    generators: Sequence[Any], weights: Sequence[float], steps: int, seed: int = 0
) -> LatentEncoder:
    """Train an encoder on sums that generators make of latent vectors from [-1, 1].

    Its loss is the squared error of the sum that its own latent vectors make, over pixels, and that
    of the latent vectors.

    Args:
        generators: Frozen generators of images of one shape, in eval mode.
        weights: Weight of each in the sum.
        steps: Training steps, of 64 sums each.
        seed: Seed of weights and sums; nothing else is random.

    Returns:
        The encoder, frozen and in eval mode, on the device of the generators.
    """
    device = next(generators[0].parameters()).device
    latents = [net.latent for net in generators]
    random = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = LatentEncoder(generators[0].image_shape, latents).to(device)
    optimiser = torch.optim.Adam(encoder.parameters(), RATE)

    def summed(vectors: Sequence[Tensor]) -> Tensor:
        parts = zip(weights, generators, vectors, strict=True)
        return torch.stack([weight * net(z) for weight, net, z in parts]).sum(dim=0)

    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for _ in range(steps):
            drawn = 2 * torch.rand(BATCH, sum(latents), generator=random) - 1
            z = drawn.to(device, non_blocking=True).split(latents, dim=1)
            with torch.no_grad():
                y = summed(z)
            found = encoder(y)
            loss = (summed(found) - y).square().sum() / BATCH
            loss = loss + (torch.cat(found, 1) - torch.cat(z, 1)).square().sum() / BATCH
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return encoder.eval().requires_grad_(False)
