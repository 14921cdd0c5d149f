"""A small network that has learned something, and images to attack it with."""

import torch
import torch.nn.functional as F
from torch import nn


def patterns(n, seed, *, classes, contrast):
    """Noisy images (n, 3, 8, 8), in each class but a fifth a brighter corner; classes; numbers."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    x = 0.5 + 0.1 * torch.randn(n, 3, 8, 8, generator=generator)
    for k in range(4):
        rows, columns = divmod(k, 2)
        x[y == k, :, 4 * rows : 4 * rows + 4, 4 * columns : 4 * columns + 4] += contrast
    return x.clamp(0, 1), y, torch.arange(n) + 50


def trained(x, y, *, classes, grid):
    """A convolutional network, trained for a moment, that pools to ``grid`` cells a side."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(grid), nn.Flatten(),
        nn.Linear(8 * grid * grid, classes),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()
