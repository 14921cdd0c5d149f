"""AugMix: mix an image with augmented versions of itself, and tie the predictions of its views.

Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty",
ICLR 2020, arXiv:1912.02781; official code google-research/augmix.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from mixbench.functional.draws import draw_lam
from mixbench.functional.image_ops import DEFAULT_OPS, OPERATIONS, apply_ops, op_values
from mixbench.functional.mixed import readable
from mixbench.native.library import call, serves

MAX_DEPTH = 3  # where it is drawn
SEVERITIES = (0.1, 10.0)
SMALLEST = 1e-7  # probability of the mean prediction


class Chains(NamedTuple):
    """Decisions that make N views, on the CPU.

    ``ops`` (N, width, steps) int64 are places in ``OPERATIONS``, -1 where a chain has ended;
    ``levels`` and ``signs`` of the same shape their strengths in [0, 10] and directions, 1 or -1.
    ``weights`` (N, width) are those of the chains, which sum to 1, and ``m`` (N,) is the share of
    all of them against the image.
    """

    ops: Tensor
    levels: Tensor
    signs: Tensor
    weights: Tensor
    m: Tensor


class ChainViews(NamedTuple):
    """Mixed views (N, C, H, W) of images, in [0, 1], and the decisions that made them."""

    x: Tensor
    chains: Chains


def draw_chains(
    count: int,
    *,
    severity: float = 3.0,
    width: int = 3,
    depth: int | None = None,
    alpha: float = 1.0,
    all_ops: bool = False,
    generator: Generator | None = None,
) -> Chains:
    """Draw all that makes views of images.

    Args:
        count: Number of views N.
        severity: Largest level of an operation, in [0.1, 10]; the smallest is 0.1.
        width: Chains of a view, >= 1.
        depth: Operations of a chain, >= 1; 1, 2 or 3 by chance if None.
        alpha: Parameter of the Dirichlet distribution of the chains' weights, and of the
            Beta(alpha, alpha) of their share, > 0.
        all_ops: Also use colour, contrast, brightness and sharpness, which robustness to common
            corruptions is tested with.
        generator: CPU random source.

    Returns:
        The decisions.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> chains = draw_chains(8, depth=2, generator=Generator().manual_seed(0))
        >>> chains.ops.shape, bool(chains.levels.max() <= 3)
        (torch.Size([8, 3, 2]), True)
    """
    low, high = SEVERITIES
    if not low <= severity <= high:
        raise ValueError(f"severity must lie in [{low}, {high}], got {severity}")
    if width < 1 or (depth is not None and depth < 1):
        raise ValueError(f"width and depth must be >= 1, got {width} and {depth}")
    steps = MAX_DEPTH if depth is None else depth
    shape = (count, width, steps)
    ops = torch.randint(len(OPERATIONS) if all_ops else DEFAULT_OPS, shape, generator=generator)
    levels = low + (severity - low) * torch.rand(shape, generator=generator)
    signs = 1 - 2 * torch.randint(2, shape, generator=generator)
    if depth is None:
        depths = torch.randint(1, MAX_DEPTH + 1, (count, width, 1), generator=generator)
        ops = torch.where(torch.arange(steps) < depths, ops, -1)
    weights = draw_weights(count, width, alpha, generator)
    return Chains(ops, levels, signs, weights, draw_lam(count, alpha, generator))


def draw_weights(
    count: int, width: int, alpha: float, generator: Generator | None = None
) -> Tensor:
    """Draw weights from a symmetric Dirichlet distribution.

    Args:
        count: Number of rows N.
        width: Weights of a row.
        alpha: Parameter of the distribution, > 0.
        generator: CPU random source.

    Returns:
        (N, width) float32; each row sums to 1.

    Raises:
        ValueError: If ``alpha`` is not positive and finite.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be > 0 and finite, got {alpha}")
    shape = torch.full((count, width), alpha + 1, dtype=torch.float64)
    uniform = torch.rand(count, width, dtype=torch.float64, generator=generator)
    # As in draw_lam: Gamma(a) has the law of Gamma(a + 1) * U^(1/a), and may underflow.
    gamma = torch._standard_gamma(shape, generator)  # pyright: ignore[reportPrivateImportUsage]
    return (gamma.log() + uniform.log() / alpha).softmax(dim=1).float()


def augmix(
    x: Tensor,
    *,
    chains: Chains | None = None,
    severity: float = 3.0,
    width: int = 3,
    depth: int | None = None,
    alpha: float = 1.0,
    all_ops: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Mix images with chains of operations on themselves.

    Args:
        x: (B, C, H, W) images of 1 or 3 channels, uint8 or floats in [0, 1], which are rounded to
            255 steps; cropped and mirrored already, and not normalised yet.
        chains: Decisions of N views, where N is a multiple of B; drawn, one view of each image, if
            None.
        severity: As for :func:`draw_chains`, like all that follows.
        width: Chains of a view.
        depth: Operations of a chain.
        alpha: Parameter of the weights.
        all_ops: Use all operations.
        generator: CPU random source.

    Returns:
        (N, C, H, W) float32 in [0, 1]; row n is a view of image n mod B.

    Raises:
        ValueError: If ``x`` are no such images, or the chains do not fit them.

    Example:
        >>> x = torch.rand(2, 3, 8, 8)
        >>> augmix(x, chains=draw_chains(4)).shape
        torch.Size([4, 3, 8, 8])
    """
    pixels = as_uint8(x)
    if chains is None:
        options = {"severity": severity, "width": width, "depth": depth, "alpha": alpha}
        chains = draw_chains(len(x), **options, all_ops=all_ops, generator=generator)
    made = chain_images(pixels, chains)
    return mix_chains(pixels, made, chains)


def as_uint8(x: Tensor) -> Tensor:
    """Images (B, C, H, W) as uint8, if they are uint8 or floats in [0, 1]; see :func:`augmix`."""
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.numel():
        raise ValueError(f"x must be images (B, 1 or 3, H, W), got {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise ValueError(f"x must be uint8, or floats in [0, 1], got {x.dtype}")
    if readable(x):
        low, high = (float(end) for end in x.aminmax())
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"x must be pixels in [0, 1], got {low:g} to {high:g}; the order is: crop and "
                "mirror, then augmix, and normalise last"
            )
    return (255 * x.float()).round().to(torch.uint8)


def chain_images(pixels: Tensor, chains: Chains) -> Tensor:
    """Pass images through the chains of their views.

    Args:
        pixels: (B, C, H, W) uint8.
        chains: Decisions of N views, where N is a multiple of B.

    Returns:
        (N, width, C, H, W) uint8 on the device of ``pixels``.

    Raises:
        ValueError: If the shapes of the chains do not fit.
    """
    check_chains(chains, len(pixels))
    count, width, steps = chains.ops.shape
    values = op_values(*chains[:3], *pixels.shape[2:])
    by_chain = (t.transpose(0, 1).reshape(-1, steps) for t in (chains.ops, values))
    made = apply_ops(pixels, *by_chain)  # all first chains, then all second ones
    return made.unflatten(0, (width, count)).transpose(0, 1)


def check_chains(chains: Chains, images: int) -> None:
    """Refuse decisions that do not fit together, or do not fit a number of images."""
    ops, levels, signs, weights, m = chains
    fits = ops.ndim == 3 and levels.shape == signs.shape == ops.shape
    if not fits or weights.shape != ops.shape[:2] or m.shape != ops.shape[:1] or len(m) % images:
        shapes = ", ".join(str(tuple(t.shape)) for t in chains)
        raise ValueError(
            f"chains must be (N, width, steps) three times, (N, width) and (N,) with N a multiple "
            f"of {images} images, got {shapes}"
        )


def mix_chains(pixels: Tensor, made: Tensor, chains: Chains) -> Tensor:
    """Mix images with what their chains made of them, in float32.

    Args:
        pixels: (B, C, H, W) uint8.
        made: (N, width, C, H, W) uint8, as :func:`chain_images` gives them.
        chains: Decisions of the N views.

    Returns:
        (N, C, H, W) float32 in [0, 1].
    """
    weights, m = (t.to(pixels.device, non_blocking=True) for t in (chains.weights, chains.m))
    shares, rest = weights * m[:, None] / 255, (1 - m) / 255
    mixed = _mixed_by_c(pixels, made, shares, rest)
    if mixed is not None:
        return mixed
    mixed = (pixels.float() * rest.view(-1, len(pixels), 1, 1, 1)).flatten(0, 1)
    for place in range(made.shape[1]):
        mixed.addcmul_(made[:, place], shares[:, place, None, None, None])
    return mixed


def _mixed_by_c(pixels: Tensor, made: Tensor, shares: Tensor, rest: Tensor) -> Tensor | None:
    """Mixed images; None where the C code is of no use."""
    fits = made.shape == (*shares.shape, *pixels.shape[1:]) and len(shares) == len(rest)
    fits = fits and pixels.numel() and len(rest) % len(pixels) == 0
    types = (pixels.dtype, made.dtype, shares.dtype, rest.dtype)
    bytes_by_floats = types == (torch.uint8, torch.uint8, torch.float32, torch.float32)
    if not fits or not bytes_by_floats or not (serves(pixels) and serves(made)):
        return None
    mixed = pixels.new_empty(made.shape[:1] + pixels.shape[1:], dtype=torch.float32)
    parts = (pixels.contiguous(), made.transpose(0, 1).contiguous(), rest, shares.contiguous())
    sizes = (len(pixels), *shares.shape, pixels[0].numel())
    return mixed if call("mix_chains", *parts, mixed, *sizes) else None


def jsd_loss(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence between the predictions for the views of each image.

    The mean over views of KL(p_v || M), M their mean clamped to [1e-7, 1]; gradients flow through
    both.

    Args:
        logits: (V, B, K) of V views.

    Returns:
        Scalar in [0, log V] nats, in float32, averaged over the images.

    Example:
        >>> agree, differ = torch.zeros(2, 1, 2), torch.tensor([[[99.0, 0]], [[0, 99.0]]])
        >>> jsd_loss(agree), jsd_loss(differ)  # the second is log 2
        (tensor(0.), tensor(0.6931))
    """
    log_probs = logits.float().log_softmax(dim=2).clamp(min=torch.finfo(torch.float32).min)
    mean = log_probs.logsumexp(dim=0) - math.log(len(logits))
    mean = mean.clamp(math.log(SMALLEST), 0)
    return (log_probs.exp() * (log_probs - mean)).sum(dim=2).mean()
