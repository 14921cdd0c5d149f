"""Search for the latent vectors whose images add up to an observation.

The test-time procedure of denoising-GAN and demixing-GAN (Soltani, Jain, Sambasivan,
arXiv:1902.04664, eq. 3 and 4; no official code). Step sizes, restarts and penalties are not stated
there; those here are ours.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

MODES = ("joint", "alternating")
MEMORY = 1 << 30  # bytes
_REDUCED = {"sum": Tensor.sum, "mean": Tensor.mean}

Images = Callable[[Tensor], Tensor]  # latent vectors (N, L) to images (N, C, H, W)


class Recovered(NamedTuple):
    """Components of observations, as the best restart of each found them.

    ``components`` are images (B, C, H, W) without their weights and ``latents`` (B, L) what they
    are made of, one of each for every generator. ``data_terms`` (B, R) are the errors of all
    restarts without penalties, and ``chosen`` (B,) the restart of the smallest one.
    """

    components: tuple[Tensor, ...]
    latents: tuple[Tensor, ...]
    data_terms: Tensor
    chosen: Tensor


def draw_starts(seeds: Tensor, restarts: int, latents: Sequence[int]) -> tuple[Tensor, ...]:
    """Draw starting points for each image from a uniform distribution over [-1, 1].

    Those of an image depend on its seed alone, not on the images beside it.

    Args:
        seeds: (B,) int64 seeds, such as numbers of the images.
        restarts: Starting points R of each image.
        latents: Length L of the latent vectors of each generator.

    Returns:
        (B, R, L) float32 starting points, on the CPU, for each generator.

    Raises:
        ValueError: If there is to be no starting point or no generator.

    Example:
        >>> first, second = draw_starts(torch.tensor([7, 8]), 3, [2, 5])
        >>> first.shape, second.shape
        (torch.Size([2, 3, 2]), torch.Size([2, 3, 5]))
    """
    if restarts < 1 or not latents:
        raise ValueError(
            "a search needs a starting point and a generator, "
            f"got restarts={restarts} and {len(latents)} generators"
        )
    generator = Generator()
    drawn = [torch.empty(0, restarts, sum(latents))]
    for seed in seeds.tolist():
        generator.manual_seed(seed)
        drawn.append(2 * torch.rand(1, restarts, sum(latents), generator=generator) - 1)
    return torch.cat(drawn).split(list(latents), dim=2)


def latent_search(
    generators: Sequence[Images],
    y: Tensor,
    starts: Sequence[Tensor],
    *,
    weights: Sequence[Tensor | float] | None = None,
    measurement: Tensor | None = None,
    penalties: Sequence[float] = (1e-3,),
    mode: str = "joint",
    steps: int = 500,
    outer: int = 10,
    inner: int = 50,
    lr: float = 0.05,
    data_reduction: str = "sum",
    penalty_reduction: str = "sum",
    memory: int = MEMORY,
) -> Recovered:
    """Separate observations into images of generators, by gradient descent on latent vectors.

    With residual ``r = y - sum_i w_i G_i(z_i)`` and measurement A, each restart of each image
    minimises ``|A r|^2 + sum_i penalty_i |z_i|^2``. All restarts of all images descend together
    and do not influence each other. Nothing waits for the device while they do.

    Args:
        generators: Maps G_i from latent vectors (N, L) to images (N, C, H, W). Those that are
            modules must be in eval mode and frozen. Where the class of one has a method
            ``folded``, what it returns makes the images.
        y: (B, C, H, W) observations; with ``measurement`` also (B, m), which are measured already.
        starts: (B, R, L) starting points for each generator, see :func:`draw_starts`.
        weights: Known weight of each component: a number, (B,) for each image, or
            (B or 1, C or 1, H or 1, W or 1) for each pixel; 1 if None.
        measurement: (m, C * H * W) matrix A of compressed sensing; the identity if None.
        penalties: Weight of the squares of each latent vector; one value holds for all.
        mode: ``joint`` descends on all latent vectors at once; ``alternating`` on one at a time,
            as the paper does.
        steps: Steps of ``joint``.
        outer: Rounds of ``alternating``.
        inner: Steps on each latent vector in a round of ``alternating``.
        lr: Step size of Adam.
        data_reduction: ``sum`` or ``mean`` of the squared error over pixels or measurements.
        penalty_reduction: ``sum`` or ``mean`` of the squares over a latent vector.
        memory: Bytes of activations to keep at a time, by which the work is divided.

    Returns:
        The components of each image, of the restart with the smallest data term; a restart that
        ended in NaN is chosen only if all did.

    Raises:
        ValueError: If a generator is in training mode, not frozen, or of less precision than
            float32; if shapes, numbers of generators or settings do not fit.

    Example:
        >>> ranges = torch.eye(4).split(2)  # of two linear generators
        >>> generators = [lambda z, r=r: (z @ r).view(-1, 1, 2, 2) for r in ranges]
        >>> y = torch.tensor([[[[0.5, -0.25], [0.75, 0.0]]]])
        >>> starts = draw_starts(torch.tensor([0]), 2, [2, 2])
        >>> found = latent_search(generators, y, starts, penalties=[0.0])
        >>> torch.allclose(found.latents[0], torch.tensor([[0.5, -0.25]]), atol=1e-3)
        True
    """
    count = len(generators)
    penalties = list(penalties) * (count if len(penalties) == 1 else 1)
    weights = [1.0] * count if weights is None else weights
    numbers = {"steps": steps, "outer": outer, "inner": inner, "lr": lr}
    _check_settings(mode, numbers, penalties, (data_reduction, penalty_reduction))
    for name, given in (("starts", starts), ("weights", weights), ("penalties", penalties)):
        if not count or len(given) != count:
            raise ValueError(f"{count} generators need as many {name}, got {len(given)}")
    _check_generators(generators)
    with _exact(y.device.type):
        generators = [_folded(generator) for generator in generators]
        y = y.detach().to(torch.promote_types(y.dtype, torch.float32)).clone()
        starts = [start.detach().to(y) for start in starts]
        _check_starts(generators, y, starts)
        shape, size = _measure_row(generators, starts)
        problem = _Problem(
            generators,
            _observed(y, measurement, shape),
            [_spread(weight, y, shape) for weight in weights],
            None if measurement is None else measurement.detach().to(y),
            penalties,
            _REDUCED[data_reduction],
            _REDUCED[penalty_reduction],
        )
        together = tuple(range(count))
        blocks = [(together, steps)]
        if mode == "alternating":
            blocks = [((one,), inner) for _ in range(outer) for one in together]
        restarts, rows = starts[0].shape[1], starts[0].shape[0] * starts[0].shape[1]
        # Equal parts, the last one filled up, so that a compiled generator sees one shape.
        parts = min(rows, -(-rows * size // memory))
        length = -(-rows // parts)
        found = []
        for part in range(parts):
            places = torch.arange(part * length, (part + 1) * length, device=y.device)
            places = places.clamp(max=rows - 1)
            begin = [start.flatten(0, 1)[places] for start in starts]
            found.append(problem.descend(begin, places // restarts, blocks, lr))
        *latents, terms = (torch.cat(each)[:rows] for each in zip(*found, strict=True))
        terms = terms.view(-1, restarts)
        chosen = terms.nan_to_num(nan=math.inf, posinf=math.inf).argmin(dim=1)
        places = torch.arange(len(chosen), device=y.device) * restarts + chosen
        latents = tuple(each[places] for each in latents)
        with torch.no_grad():
            components = tuple(
                torch.cat([generator(part) for part in each.split(length)])
                for generator, each in zip(generators, latents, strict=True)
            )
        return Recovered(components, latents, terms, chosen)


class _Problem(NamedTuple):
    """What is minimised, for observations (B, ...) and weights (B, ...) of each component."""

    generators: Sequence[Images]
    y: Tensor
    weights: Sequence[Tensor]
    measurement: Tensor | None
    penalties: Sequence[float]
    reduce_data: Callable[..., Tensor]
    reduce_penalty: Callable[..., Tensor]

    def descend(
        self,
        latents: list[Tensor],
        images: Tensor,
        blocks: list[tuple[tuple[int, ...], int]],
        lr: float,
    ) -> list[Tensor]:
        """Latent vectors (N, L) after a descent, and their data terms (N,).

        Args:
            latents: (N, L) of each generator, where the descent begins.
            images: (N,) rows of the observations.
            blocks: Generators that descend together, and their steps, one after the other.
            lr: Step size.
        """
        y, weights = self.y[images], [weight[images] for weight in self.weights]
        points = [each.clone().requires_grad_() for each in latents]
        optimisers = [torch.optim.Adam([point], lr) for point in points]

        def residual(whole: Tensor, which: Sequence[int]) -> Tensor:
            for i in which:
                image = self.generators[i](points[i]).to(y)
                if self.measurement is None:
                    whole = torch.addcmul(whole, weights[i], image, value=-1)
                else:
                    whole = whole - _measured(weights[i] * image, self.measurement)
            return whole

        def data(rest: Tensor) -> Tensor:
            return self.reduce_data(rest.flatten(1).square(), dim=1)

        for active, steps in blocks:
            with torch.no_grad():
                whole = residual(y, [i for i in range(len(points)) if i not in active])
            moved = [points[i] for i in active]
            for _ in range(steps):
                loss = data(residual(whole, active)).sum()
                for i in active:
                    loss = (
                        loss
                        + self.penalties[i] * self.reduce_penalty(points[i].square(), dim=1).sum()
                    )
                for point, grad in zip(moved, torch.autograd.grad(loss, moved), strict=True):
                    point.grad = grad
                for i in active:
                    optimisers[i].step()
        with torch.no_grad():
            terms = data(residual(y, range(len(points))))
        return [*(point.detach() for point in points), terms]


@contextmanager
def _exact(kind: str) -> Iterator[None]:
    """Gradients in full float32, whatever the caller's modes say.

    TF32 loses the small differences of data terms by which a restart is chosen, as bfloat16 does.
    """
    backends: Any = torch.backends
    places = backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul
    before = [place.fp32_precision for place in places]
    autocast = torch.amp.is_autocast_available(kind)
    try:
        for place in places:
            place.fp32_precision = "ieee"
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(kind, enabled=False) if autocast else nullcontext(),
        ):
            yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def _check_settings(
    mode: str, numbers: dict[str, float], penalties: Sequence[float], reductions: tuple[str, ...]
) -> None:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    for reduction in reductions:
        if reduction not in _REDUCED:
            raise ValueError(f"a reduction must be sum or mean, got {reduction!r}")
    for name, value in numbers.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be > 0 and finite, got {value}")
    for value in penalties:
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"penalties must be >= 0 and finite, got {value}")


def _check_generators(generators: Sequence[Images]) -> None:
    for number, generator in enumerate(generators, 1):
        if not isinstance(generator, nn.Module):
            continue
        if any(module.training for module in generator.modules()):
            raise ValueError(
                f"generator {number} is in training mode, in which batch normalisation lets images "
                "influence each other; call generator.eval() first"
            )
        for parameter in generator.parameters():
            if parameter.requires_grad:
                raise ValueError(
                    f"generator {number} is not frozen; call generator.requires_grad_(False) first"
                )
            if parameter.is_floating_point() and parameter.itemsize < 4:
                raise ValueError(
                    f"generator {number} has weights of {parameter.dtype}, which blur the choice "
                    "of a restart; call generator.float() first"
                )


def _folded(generator: Images) -> Images:
    """The form of a generator for many latent vectors; of the class, as a compiled one has none."""
    form = getattr(type(generator), "folded", None)
    return generator if form is None else form(generator)


def _check_starts(generators: Sequence[Images], y: Tensor, starts: Sequence[Tensor]) -> None:
    for number, (generator, start) in enumerate(zip(generators, starts, strict=True), 1):
        if start.ndim != 3 or not start.numel() or start.shape[:2] != (len(y), starts[0].shape[1]):
            raise ValueError(
                f"starts of generator {number} must be (B, R, L), the same R for all, with B = "
                f"{len(y)} observations, got {tuple(start.shape)}"
            )
        latent = getattr(generator, "latent", start.shape[2])
        if latent != start.shape[2]:
            raise ValueError(
                f"generator {number} takes latent vectors of length {latent}, its starts are of "
                f"length {start.shape[2]}"
            )


def _measure_row(generators: Sequence[Images], starts: Sequence[Tensor]) -> tuple[torch.Size, int]:
    """Shape of the images, and bytes that a row keeps for its gradient."""
    kept: list[int] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value.nbytes)
        return value

    totals, shapes = [], []
    for rows in (1, 2):  # the difference leaves weights out
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            for generator, start in zip(generators, starts, strict=True):
                shapes.append(generator(start[0, :1].repeat(rows, 1).requires_grad_()).shape[1:])
        totals.append(sum(kept))
    if len(set(shapes)) > 1 or len(shapes[0]) != 3:
        told = ", ".join(str(tuple(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"generators must make images (C, H, W) of one size, got {told}")
    # Beside them lie the observation, the weights, the residual and their gradients.
    return shapes[0], totals[1] - totals[0] + 8 * starts[0].itemsize * shapes[0].numel()


def _observed(y: Tensor, measurement: Tensor | None, shape: torch.Size) -> Tensor:
    """Observations as they are compared with images, measured where there is a matrix."""
    pixels = shape.numel()
    if measurement is not None:
        if measurement.ndim != 2 or measurement.shape[1] != pixels:
            raise ValueError(
                f"measurement must be (m, {pixels}) for images {tuple(shape)}, got "
                f"{tuple(measurement.shape)}"
            )
        if y.shape[1:] == measurement.shape[:1]:
            return y
    if y.shape[1:] != shape:
        raise ValueError(
            f"the generators make images {tuple(shape)}, the observations are "
            f"{tuple(y.shape[1:])}; resize the observations or use other generators"
        )
    return y if measurement is None else _measured(y, measurement.detach().to(y))


def _measured(images: Tensor, measurement: Tensor) -> Tensor:
    return images.flatten(1) @ measurement.T


def _spread(weight: Tensor | float, y: Tensor, shape: torch.Size) -> Tensor:
    """Weights as (B, C or 1, H or 1, W or 1), without a copy."""
    weight = torch.as_tensor(weight).detach().to(y)
    weight = weight.view(-1, 1, 1, 1) if weight.ndim < 2 else weight
    try:
        weight.expand(len(y), *shape)
        return weight.expand(len(y), -1, -1, -1)
    except RuntimeError:
        raise ValueError(
            f"weights must be a number, ({len(y)},) or fit {(len(y), *shape)}, got "
            f"{tuple(weight.shape)}"
        ) from None
