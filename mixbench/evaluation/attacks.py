"""Attacks on images within an L-infinity ball around the pixels of an image, untargeted.

``model`` maps pixels (B, C, H, W) in [0, 1] to logits (B, K) and normalises inside, in eval mode.
Each image is attacked by itself: neither its batch nor the device changes its start, and the loss
is summed, never averaged, so that no small gradient is divided away.

FGSM: Goodfellow et al., ICLR 2015, arXiv:1412.6572. PGD: Madry et al., ICLR 2018,
arXiv:1706.06083. Margin loss: Carlini and Wagner, S&P 2017, arXiv:1608.04644. APGD, Square and
AutoAttack are those of a package, see :mod:`mixbench.evaluation.autoattack`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.evaluation.autoattack import STANDARD, TARGETED, TARGETS, autoattack
from mixbench.evaluation.per_image_random import uniform

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attack:
    """An attack with all its settings; sizes are in pixels of the scale [0, 1].

    Attributes:
        eps: Radius of the ball.
        alpha: Step; unused by ``autoattack``, which chooses its own.
        steps: Number of steps.
        kind: ``fgsm``, ``pgd``, or ``autoattack`` by the package of the extra ``eval``.
        random_start: Start at a random point of the ball instead of at the image.
        losses: One attack for each, of ``ce`` and ``margin``, or for ``autoattack`` the names of
            its attacks; an image counts as lost if any of them succeeds.
        queries: Of Square, which ``autoattack`` may end with.
    """

    eps: float
    alpha: float = 0.0
    steps: int = 1
    kind: str = "pgd"
    random_start: bool = True
    losses: tuple[str, ...] = ("ce", "margin")
    queries: int = 5000

    @property
    def targeted(self) -> bool:
        """Whether it aims at wrong classes, of which it needs enough."""
        return any(loss in TARGETED for loss in self.losses)

    @property
    def packaged(self) -> bool:
        """Whether it needs the package of the extra ``eval``."""
        return self.kind == "autoattack"

    @property
    def passes(self) -> int:
        """Forward passes for an image that withstands it, where a gradient counts as two."""
        descent = 2 * self.steps + 1
        others = {"square": self.queries} | dict.fromkeys(TARGETED, TARGETS * descent)
        return sum(others.get(loss, descent) for loss in self.losses)

    @property
    def blind(self) -> bool:
        """Whether it sees no gradient."""
        return self.losses == ("square",)


def _fgsm(eps: float) -> Attack:
    return Attack(eps, eps, kind="fgsm", random_start=False, losses=("ce",))


def _autoattack(eps: float, losses: tuple[str, ...] = STANDARD) -> Attack:
    return Attack(eps, steps=100, kind="autoattack", losses=losses)


# Columns of error rates. Cross-entropy in float32 loses its gradient on networks that are sure of
# themselves, so that the columns of PGD also attack by the margin; the single-step columns and
# those that reproduce a paper's script do as the literature does.
ATTACKS: Mapping[str, Attack] = {
    "fgsm_8": _fgsm(8 / 255),
    "fgsm_4": _fgsm(4 / 255),
    "pgd10_4": Attack(4 / 255, 2 / 255, 10),
    "pgd10_8": Attack(8 / 255, 2 / 255, 10),
    "pgd20_1": Attack(1 / 255, 0.25 / 255, 20),
    "pgd20_2": Attack(2 / 255, 0.5 / 255, 20),
    "pgd20_4_puzzlemix": Attack(4 / 255, 2 / 255, 20, losses=("ce",)),
    "apgd_ce_8": _autoattack(8 / 255, ("apgd-ce",)),
    "apgd_ce_4": _autoattack(4 / 255, ("apgd-ce",)),
    "autoattack_8": _autoattack(8 / 255),
    "autoattack_4": _autoattack(4 / 255),
    "autoattack_2": _autoattack(2 / 255),
    "autoattack_1": _autoattack(1 / 255),
    "square_8": _autoattack(8 / 255, ("square",)),
    "square_4": _autoattack(4 / 255, ("square",)),
}


class Attacked(NamedTuple):
    """Result of an attack on a batch.

    Attributes:
        x: (B, C, H, W) images, for each the one that fooled the network, else the last loss's.
        fooled: (B,) bool, wrong after the attack, by any of its losses.
        saturated: (B,) bool, images whose cross-entropy has no gradient before the attack.
        stage: (B,) int64 of ``autoattack``: 0 where the network was wrong before, k where the k-th
            of its attacks was the first to succeed, -1 where none did.
    """

    x: Tensor
    fooled: Tensor
    saturated: Tensor
    stage: Tensor | None = None


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each image, (B,), to class indices (B,) or to probabilities (B, K)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus the right one, (B,): positive where the network is wrong.

    Unlike the cross-entropy it keeps its gradient however sure the network is.
    """
    right = logits.gather(1, y[:, None])
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    return wrong - right[:, 0]


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin}


def input_gradient(model: Model, x: Tensor, y: Tensor, loss: str = "ce") -> Tensor:
    """Gradient of the summed loss by the pixels.

    Args:
        model: Pixels to logits.
        x: (B, C, H, W) pixels in [0, 1].
        y: (B,) class indices; for ``ce`` also (B, K) probabilities.
        loss: ``ce`` or ``margin``.

    Returns:
        (B, C, H, W) gradient, in float32 without autocast.

    Raises:
        ValueError: If the loss is unknown.
    """
    return _loss_and_gradient(model, x, y, loss)[1]


def fgsm(model: Model, x: Tensor, y: Tensor, *, eps: float, loss: str = "ce") -> Tensor:
    """One step of size ``eps`` along the sign of the gradient.

    Args:
        model: Pixels to logits.
        x: (B, C, H, W) pixels in [0, 1].
        y: (B,) class indices; for ``ce`` also (B, K) probabilities.
        eps: Step in pixels of the scale [0, 1].
        loss: ``ce`` or ``margin``.

    Returns:
        (B, C, H, W) pixels in [0, 1].
    """
    return (x + eps * input_gradient(model, x, y, loss).sign()).clamp(0, 1)


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    alpha: float,
    steps: int,
    unit: Tensor | None = None,
    loss: str = "ce",
) -> Tensor:
    """Steps along the sign of the gradient, each projected to the ball and to [0, 1].

    Args:
        model: Pixels to logits.
        x: (B, C, H, W) pixels in [0, 1].
        y: (B,) class indices.
        eps: Radius of the ball.
        alpha: Size of a step.
        steps: Number of steps.
        unit: (B, C, H, W) start in [-1, 1], in units of ``eps``; the image itself if None.
        loss: ``ce`` or ``margin``.

    Returns:
        (B, C, H, W) pixels in [0, 1] after the last step.
    """
    moved = _start(x, unit, eps)
    for _ in range(steps):
        moved = moved + alpha * input_gradient(model, moved, y, loss).sign()
        moved = _projected(moved, x, eps)
    return moved


def pgd_losses(
    model: Model,
    x: Tensor,
    targets: Tensor,
    *,
    eps: float,
    alpha: float,
    steps: int,
    unit: Tensor | None = None,
) -> Tensor:
    """Cross-entropy along the steps of :func:`pgd`.

    Args:
        model: Pixels to logits.
        x: (B, C, H, W) pixels in [0, 1].
        targets: (B,) class indices, or (B, K) probabilities.
        eps: Radius of the ball.
        alpha: Size of a step.
        steps: Number of steps.
        unit: (B, C, H, W) start in [-1, 1], in units of ``eps``; the image itself if None.

    Returns:
        (B, steps + 1) losses in nats: at the start, and after each step.
    """
    moved, losses = _start(x, unit, eps), []
    for _ in range(steps):
        values, gradient = _loss_and_gradient(model, moved, targets, "ce")
        losses.append(values)
        moved = _projected(moved + alpha * gradient.sign(), x, eps)
    losses.append(cross_entropy(evaluation_logits(model, moved), targets))
    return torch.stack(losses, dim=1)


def saturated(logits: Tensor, y: Tensor) -> Tensor:
    """Images whose cross-entropy is exactly 0 in float32, so that it has no gradient.

    Args:
        logits: (B, K) network output.
        y: (B,) class indices.

    Returns:
        (B,) bool.
    """
    return cross_entropy(logits.float(), y) == 0


def run_attack(
    attack: Attack, model: Model, x: Tensor, y: Tensor, ids: Tensor, seed: int = 0
) -> Attacked:
    """Attack a batch.

    Args:
        attack: What to do.
        model: Pixels to logits.
        x: (B, C, H, W) pixels in [0, 1].
        y: (B,) class indices.
        ids: (B,) int64 numbers of the images, which key their random starts.
        seed: Seed of the starts.

    Returns:
        The images, and for each whether the network fails on it.

    Raises:
        ValueError: If the attack's kind or loss is unknown, ``eps`` is not > 0, or it aims at
            classes and there are too few.
        UserError: If the extra ``eval`` is not installed and the attack needs it.
    """
    if attack.kind not in ("fgsm", "pgd", "autoattack"):
        raise ValueError(f"kind of attack must be fgsm, pgd or autoattack, got {attack.kind!r}")
    if not attack.eps > 0:
        raise ValueError(f"eps must be > 0, got {attack.eps}")
    if attack.packaged:
        result, stage = autoattack(
            model,
            x,
            y,
            ids,
            eps=attack.eps,
            attacks=attack.losses,
            steps=attack.steps,
            queries=attack.queries,
            seed=seed,
        )
        return Attacked(result, stage >= 0, saturated(evaluation_logits(model, x), y), stage)
    unit = None
    if attack.random_start:
        unit = 2 * uniform(seed, ids.to(x.device), tuple(x.shape[1:])) - 1
    result, fooled = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    for loss in attack.losses:
        left = (~fooled).nonzero()[:, 0]  # a second loss need not win again
        if not len(left):
            break
        inputs = (model, x[left], y[left])
        start = None if unit is None else unit[left]
        if attack.kind == "fgsm":
            moved = fgsm(*inputs, eps=attack.eps, loss=loss)
        else:
            moved = pgd(
                *inputs,
                eps=attack.eps,
                alpha=attack.alpha,
                steps=attack.steps,
                unit=start,
                loss=loss,
            )
        # Judged as evaluation judges: the highest logit, equal ones by the lower class.
        result[left] = moved
        fooled[left] = evaluation_logits(model, moved).argmax(dim=1) != y[left]
    return Attacked(result, fooled, saturated(evaluation_logits(model, x), y))


def evaluation_logits(model: Model, x: Tensor) -> Tensor:
    """Logits (B, K) of pixels (B, C, H, W), in float32 without autocast."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return model(x.float()).float()


def _loss_and_gradient(model: Model, x: Tensor, y: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    if loss not in LOSSES:
        raise ValueError(f"loss of an attack must be one of {', '.join(LOSSES)}, got {loss!r}")
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        pixels = x.detach().float().requires_grad_()
        logits = model(pixels).float()
        values = LOSSES[loss](logits, y)
        (gradient,) = torch.autograd.grad(values.sum(), pixels)
    return values.detach(), gradient


def _start(x: Tensor, unit: Tensor | None, eps: float) -> Tensor:
    return x if unit is None else (x + eps * unit.to(x)).clamp(0, 1)


def _projected(moved: Tensor, x: Tensor, eps: float) -> Tensor:
    return (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
