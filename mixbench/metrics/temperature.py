"""Temperature scaling that never scores a sample with a temperature that was fitted on it.

Guo et al., ICML 2017, arXiv:1706.04599; cross-fitted as Ashukha et al., ICLR 2020,
arXiv:2002.06470, ask for.
"""

import torch
from torch import Tensor

SMALLEST, LARGEST = 1e-2, 1e2  # bounds of a temperature
_STEPS, _TOLERANCE = 100, 1e-10
_ROWS = 8192  # logits that are held in float64 at a time


def fit_temperature(logits: Tensor, y: Tensor) -> Tensor:
    """The temperature T that minimises the negative log-likelihood of ``logits / T``.

    The loss is convex in 1/T, and its root is found by Newton steps inside a shrinking bracket:
    the same value on every call, without a learning rate.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        Scalar float64 in [0.01, 100]; 100 for a network that is worse than guessing. Without a
        single error the loss has no minimum, as every smaller T is better: 1, no scaling. NaN
        where a logit is NaN.

    Raises:
        ValueError: If there is no sample.
    """
    if not len(y):
        raise ValueError("a temperature needs at least one sample, got none; hold out some")
    if bool(logits.isnan().any()):
        return torch.full((), torch.nan, dtype=torch.float64, device=logits.device)
    if bool((logits.argmax(dim=1) == y).all()):
        return torch.ones((), dtype=torch.float64, device=logits.device)
    low, high = 1 / LARGEST, 1 / SMALLEST
    scale = 1.0
    for _ in range(_STEPS):
        slope, curvature = _derivatives(logits, y, scale)
        low, high = (scale, high) if slope < 0 else (low, scale)
        step = scale - slope / curvature if curvature > 0 else low
        if not low < step < high:
            step = (low * high) ** 0.5
        done = abs(step - scale) <= _TOLERANCE * scale or high / low - 1 <= _TOLERANCE
        scale = step
        if done:
            break
    return torch.tensor(1 / scale, dtype=torch.float64, device=logits.device)


def stratified_halves(y: Tensor, seed: int = 0) -> Tensor:
    """Divide samples into two halves with as equal a number of each class as possible.

    Args:
        y: (N,) class indices.
        seed: Seed of the draw; the result is the same on every device.

    Returns:
        (N,) bool, True for the second half.
    """
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    order = shuffled[y.cpu()[shuffled].argsort(stable=True)]
    second = torch.empty(len(y), dtype=torch.bool)
    second[order] = torch.arange(len(y)) % 2 == 1
    return second.to(y.device)


def cross_fit(logits: Tensor, y: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scale each half of the samples by the temperature of the other half.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        seed: Seed of the halves.

    Returns:
        (N, K) float32 scaled logits, and the (2,) float64 temperatures that the first and the
        second half were divided by.

    Raises:
        ValueError: If there are fewer than two samples.
    """
    second = stratified_halves(y, seed)
    pair = [fit_temperature(logits[part], y[part]) for part in (second, ~second)]
    used = torch.where(second, pair[1], pair[0])
    return (logits.double() / used[:, None]).float(), torch.stack(pair)


def _derivatives(logits: Tensor, y: Tensor, scale: float) -> tuple[float, float]:
    """First and second derivative of the mean loss of ``scale * logits`` by the scale."""
    slope = curvature = 0.0
    for part, labels in zip(logits.split(_ROWS), y.split(_ROWS), strict=True):
        z = part.double()
        probs = (scale * z).softmax(dim=1)
        mean = (probs * z).sum(dim=1, keepdim=True)
        slope += (mean - z.gather(1, labels[:, None])).sum().item()
        curvature += (probs * (z - mean).square()).sum().item()
    return slope / len(y), curvature / len(y)
