"""A demixer whose generators can make some images exactly, for tests of suites that separate."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.evaluation.demixer import Demixer

SIDE = 12


class Half(nn.Module):
    """Images of three grey bars in one half, left or right, beside a white line; the rest is black.

    The line says how bright an image is, so that a weight and a scale are not the same.
    """

    image_shape = (1, SIDE, SIDE)
    latent = 3

    def __init__(self, right: bool) -> None:
        super().__init__()
        start = SIDE // 2 if right else 0
        bars, line = torch.zeros(self.latent, SIDE, SIDE), torch.zeros(SIDE, SIDE)
        for place, bar in enumerate(bars):
            bar[4 * place : 4 * place + 4, start + 1 : start + SIDE // 2] = 1
        line[:, start] = 1
        self.bars, self.line = (nn.Parameter(t, requires_grad=False) for t in (bars, line))
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        return (self.line + torch.einsum("nl,lhw->nhw", z, self.bars))[:, None]


def images(right: bool, count: int, seed: int = 0) -> Tensor:
    """Images (N, 1, H, W) that a generator can make, in [0, 1]."""
    random = torch.Generator().manual_seed(seed)
    return Half(right)(torch.rand(count, Half.latent, generator=random))


def settings(**changed):
    values = {"restarts": 2, "search_steps": 150, "search_lr": 0.05, "penalty": 0.0}
    return SimpleNamespace(**values | changed)


def demixer(first: bool = False, config: EvalConfig | None = None, **facts) -> Demixer:
    """Generators of both halves, the right one in front where ``first`` is true."""
    nets = [Half(first), Half(not first)]
    spans = ((0.0, 1.0), (0.0, 1.0))
    return Demixer(nets, [1.0, 1.0], spans, settings(), config=config or EvalConfig(), **facts)


def method(first: bool = False, count: int = 2):
    """What the suite separation sees of a demixing-GAN."""
    data = SimpleNamespace(weights=[1.0, 1.0], second="images", level=1)
    return SimpleNamespace(
        run=SimpleNamespace(data=data),
        config=settings(),
        info=DataInfo(2, SIDE, SIDE, channels=1),
        separated=None,
        frozen_generators=lambda: [Half(first), Half(not first)][:count],
        observe=lambda a, b: a + b,
        trivial=lambda y: y / 2,
        tested_picture=list,
    )
