"""Random decisions of mixing operations: weights, partners, and what a whole batch goes through."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

PARTNER_RULES = ("random", "flip", "roll", "derange")


def draw_lam(
    count: int, alpha: float, generator: Generator | None = None, *, prob: float = 1.0
) -> Tensor:
    """Draw mixing weights from Beta(alpha, alpha).

    Args:
        count: Number of weights.
        alpha: Shape parameter; 0 gives 1 everywhere, which is plain training.
        generator: Random source; the result lies on its device (CPU by default).
        prob: Chance of each weight to be drawn; otherwise it is 1, which mixes nothing.

    Returns:
        (count,) float32 in [0, 1].

    Raises:
        ValueError: If ``alpha`` is negative or not finite, or ``prob`` is no chance.

    Note:
        The public ``Beta`` takes no generator. The ratio of two Gamma draws is formed from their
        logarithms, as for alpha below about 0.01 the draws themselves underflow to 0/0.
    """
    if not (alpha >= 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be >= 0 and finite, got {alpha}")
    lam = _beta(count, alpha, generator)
    return lam if prob == 1 else torch.where(draw_chosen(count, prob, generator), lam, 1.0)


def draw_chosen(count: int, prob: float, generator: Generator | None = None) -> Tensor:
    """Draw which of several rows something happens to, each with the same chance.

    Args:
        count: Number of rows.
        prob: Chance, in [0, 1].
        generator: Random source; the result lies on its device (CPU by default).

    Returns:
        (count,) bool.

    Raises:
        ValueError: If ``prob`` is no chance.

    Example:
        >>> draw_chosen(2, 1.0), draw_chosen(2, 0.0)
        (tensor([True, True]), tensor([False, False]))
    """
    if not 0 <= prob <= 1:
        raise ValueError(f"prob must lie in [0, 1], got {prob}")
    device = generator.device if generator is not None else None
    return torch.rand(count, generator=generator, device=device) < prob


def _beta(count: int, alpha: float, generator: Generator | None) -> Tensor:
    device = generator.device if generator is not None else None
    if alpha == 0:
        return torch.ones(count, device=device)
    if alpha == 1:  # uniform
        return torch.rand(count, generator=generator, device=device)
    shape = torch.full((2, count), alpha + 1, dtype=torch.float64, device=device)
    uniform = torch.rand(2, count, dtype=torch.float64, generator=generator, device=device)
    # Gamma(a) has the law of Gamma(a + 1) * U^(1/a).
    gamma = torch._standard_gamma(shape, generator).log()  # pyright: ignore[reportPrivateImportUsage]
    tilt = (uniform[0].log() - uniform[1].log()) / alpha  # subtracted first: it may be infinite
    return torch.sigmoid(gamma[0] - gamma[1] + tilt).float()


def draw_uniform(generator: Generator | None, *size: int, ends: Sequence[float] = (0, 1)) -> Tensor:
    """Draw numbers between two ends, all equally likely.

    Args:
        generator: Random source; the result lies on its device (CPU if None).
        *size: Shape of the result.
        ends: Smallest and largest number.

    Returns:
        float32 numbers.
    """
    device, (low, high) = generator.device if generator is not None else None, ends
    return low + (high - low) * torch.rand(size, generator=generator, device=device)


def draw_perm(batch: int, generator: Generator | None = None, *, rule: str = "random") -> Tensor:
    """Draw the partner of every row of a batch.

    Args:
        batch: Batch size B.
        generator: Random source; the result lies on its device (CPU by default).
        rule: ``random`` permutation (fixed points allowed), ``flip`` (row i with B-1-i), ``roll``
            (row i with i-1), or ``derange`` (a random cycle, so that no row meets itself).

    Returns:
        (B,) int64 partner indices.

    Raises:
        ValueError: If ``rule`` is unknown.
    """
    device = generator.device if generator is not None else None
    rows = torch.arange(batch, device=device)
    if rule == "flip":
        return rows.flip(0)
    if rule == "roll":
        return rows.roll(1)
    if rule not in PARTNER_RULES:
        raise ValueError(f"partner rule must be one of {', '.join(PARTNER_RULES)}, got {rule!r}")
    order = torch.randperm(batch, generator=generator, device=device)
    return order if rule == "random" else torch.empty_like(order).scatter_(0, order, order.roll(1))


class Switch(NamedTuple):
    """Decisions about a whole batch: whether it is mixed, and by which of several ways.

    Results are numbers of the host, so that a training step can branch on them.
    """

    generator: Generator | None

    def on(self, probability: float) -> bool:
        """Draw whether something of this probability happens to the batch.

        Example:
            >>> Switch(Generator()).on(1.0), Switch(Generator()).on(0.0)
            (True, False)
        """
        return float(torch.rand((), generator=self.generator)) < probability

    def pick(self, shares: Sequence[float]) -> int:
        """Draw the place of one of several by their shares, which need not sum to 1.

        Example:
            >>> Switch(Generator()).pick([0.0, 2.0, 0.0])
            1
        """
        return int(torch.multinomial(torch.tensor(shares), 1, generator=self.generator))
