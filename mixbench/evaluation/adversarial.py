"""Attacks within an L-infinity ball around the pixels of an image, untargeted.

``model`` maps pixels (B, C, H, W) in [0, 1] to logits (B, K) and normalises inside, in eval mode.
Each image is attacked by itself: neither its batch nor the device changes its start, and the loss
is summed, never averaged, so that no small gradient is divided away.

FGSM: Goodfellow et al., ICLR 2015, arXiv:1412.6572. PGD: Madry et al., ICLR 2018,
arXiv:1706.06083. Margin loss: Carlini and Wagner, S&P 2017, arXiv:1608.04644. APGD and AutoAttack:
Croce and Hein, ICML 2020, arXiv:2003.01690. Square: Andriushchenko et al., ECCV 2020,
arXiv:1912.00049.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.evaluation.autoattack import STANDARD, TARGETED, autoattack
from mixbench.evaluation.keys import uniform

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attack:
    """An attack with all its settings; sizes are in pixels of the scale [0, 1].

    Attributes:
        eps: Radius of the ball.
        alpha: Step; unused by ``apgd``, which chooses its own.
        steps: Number of steps.
        kind: ``fgsm``, ``pgd``, ``apgd``, or ``autoattack`` by the extra ``eval``.
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
    "apgd_ce_8": Attack(8 / 255, steps=100, kind="apgd", losses=("ce",)),
    "apgd_ce_4": Attack(4 / 255, steps=100, kind="apgd", losses=("ce",)),
    "autoattack_8": _autoattack(8 / 255),
    "autoattack_4": _autoattack(4 / 255),
    "autoattack_2": _autoattack(2 / 255),
    "autoattack_1": _autoattack(1 / 255),
    "square_8": _autoattack(8 / 255, ("square",)),
    "square_4": _autoattack(4 / 255, ("square",)),
}
DEFAULT = ("fgsm_8", "fgsm_4", "pgd20_1", "pgd20_2")
SQUARE_GAIN = 0.2  # points by which a black-box search may surpass gradients by chance


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
    """Cross-entropy of each image, (B,)."""
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
        y: (B,) class indices.
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
        y: (B,) class indices.
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


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 100,
    unit: Tensor | None = None,
    loss: str = "ce",
    rho: float = 0.75,
) -> Tensor:
    """PGD with momentum that halves its step, image by image, where it stops gaining.

    Args:
        model: Pixels to logits.
        x: (B, C, H, W) pixels in [0, 1].
        y: (B,) class indices.
        eps: Radius of the ball.
        steps: Number of steps.
        unit: (B, C, H, W) start in [-1, 1], in units of ``eps``; the image itself if None.
        loss: ``ce`` or ``margin``.
        rho: Share of the steps since the last check that must gain, or the step is halved.

    Returns:
        (B, C, H, W) pixels in [0, 1]: where the network was fooled on the way the first such
        point, else the point of the largest loss.
    """
    checks, momentum = _checks(steps), 0.75
    here = _start(x, unit, eps)
    value, gradient, wrong = _loss_and_gradient(model, here, y, loss)
    fooling, fooled = here, wrong
    best, best_x, best_gradient = value, here, gradient
    shape = (-1, *[1] * (x.ndim - 1))
    step = torch.full_like(value, 2 * eps)
    gains = torch.zeros_like(value)
    best_then, halved_then = best, torch.ones_like(fooled)  # no halving for want of change yet
    before, last = here, 0
    for number in range(1, steps + 1):
        jump = _projected(here + step.view(shape) * gradient.sign(), x, eps)
        if number > 1:
            jump = here + momentum * (jump - here) + (1 - momentum) * (here - before)
            jump = _projected(jump, x, eps)
        before, here = here, jump
        previous = value
        value, gradient, wrong = _loss_and_gradient(model, here, y, loss)
        fooling = torch.where((wrong & ~fooled).view(shape), here, fooling)
        fooled = fooled | wrong
        gains += (value > previous).to(gains)
        better = value > best
        best = torch.where(better, value, best)
        best_x = torch.where(better.view(shape), here, best_x)
        best_gradient = torch.where(better.view(shape), gradient, best_gradient)
        if number in checks:
            stalled = gains < rho * (number - last)
            stalled |= ~halved_then & (best <= best_then)
            step = torch.where(stalled, step / 2, step)
            here = torch.where(stalled.view(shape), best_x, here)
            gradient = torch.where(stalled.view(shape), best_gradient, gradient)
            value = torch.where(stalled, best, value)
            best_then, halved_then, last = best, stalled, number
            gains = torch.zeros_like(gains)
    return torch.where(fooled.view(shape), fooling, best_x)


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
    if attack.kind not in ("fgsm", "pgd", "apgd", "autoattack"):
        raise ValueError(
            f"kind of attack must be fgsm, pgd, apgd or autoattack, got {attack.kind!r}"
        )
    if not attack.eps > 0:
        raise ValueError(f"eps must be > 0, got {attack.eps}")
    if attack.kind == "autoattack":
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
        return Attacked(result, stage >= 0, saturated(_logits(model, x), y), stage)
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
        elif attack.kind == "pgd":
            moved = pgd(
                *inputs,
                eps=attack.eps,
                alpha=attack.alpha,
                steps=attack.steps,
                unit=start,
                loss=loss,
            )
        else:
            moved = apgd(*inputs, eps=attack.eps, steps=attack.steps, unit=start, loss=loss)
        # Judged as evaluation judges: the highest logit, equal ones by the lower class.
        result[left] = moved
        fooled[left] = _logits(model, moved).argmax(dim=1) != y[left]
    return Attacked(result, fooled, saturated(_logits(model, x), y))


def attack_scores(
    model: Model,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    names: Iterable[str] = DEFAULT,
    seed: int = 0,
) -> dict[str, float]:
    """Error rates under attack by the names of a leaderboard row.

    Args:
        model: Pixels to logits, in eval mode.
        batches: Pixels (B, C, H, W) in [0, 1], class indices (B,) and numbers (B,) of images.
        names: Names of :data:`ATTACKS`.
        seed: Seed of the random starts.

    Returns:
        In percent: ``<name>`` error rate, ``<name>_acc`` its complement, ``sat_pct`` the share of
        images whose cross-entropy has no gradient, and ``adv_n``, the number of images.

    Raises:
        ValueError: If a name is unknown or there is no image.
    """
    return attack_rates(attack_counts(model, batches, names, seed))


def attack_counts(
    model: Model,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    names: Iterable[str] = DEFAULT,
    seed: int = 0,
) -> dict[str, int]:
    """Numbers of images, which may be added up over parts of a set.

    Args:
        model: As for :func:`attack_scores`.
        batches: As for :func:`attack_scores`; there may be none.
        names: Names of :data:`ATTACKS`.
        seed: Seed of the random starts.

    Returns:
        ``n`` of all images, ``saturated`` of those without a gradient, and of those that each
        attack wins, by its name; those of ``autoattack`` also by ``<name>:<part>``, where a part
        is ``clean`` or one of its attacks and counts what it is the first to win.

    Raises:
        ValueError: If a name is unknown.
    """
    chosen = list(names)
    unknown = [name for name in chosen if name not in ATTACKS]
    if unknown:
        raise ValueError(f"unknown attack {unknown[0]!r}, choose of: {', '.join(ATTACKS)}")
    counts = {"n": 0, "saturated": 0} | dict.fromkeys(chosen, 0)
    counts |= {f"{name}:{part}": 0 for name in chosen for part in _parts(ATTACKS[name])}
    for x, y, ids in batches:
        counts["n"] += len(y)
        counts["saturated"] += int(saturated(_logits(model, x), y).sum())
        for name in chosen:
            found = run_attack(ATTACKS[name], model, x, y, ids, seed)
            counts[name] += int(found.fooled.sum())
            if found.stage is not None:
                for number, part in enumerate(_parts(ATTACKS[name])):
                    counts[f"{name}:{part}"] += int((found.stage == number).sum())
    return counts


def attack_stages(counts: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """How the error rate of each AutoAttack grows from one of its attacks to the next.

    Args:
        counts: Those of :func:`attack_counts` over the whole set.

    Returns:
        Error rates in percent by the name of the attack, before it as ``clean`` and after each of
        its parts; the last one is that of the column.
    """
    found: dict[str, dict[str, float]] = {}
    for name in counts:
        if parts := _parts(ATTACKS[name]) if name in ATTACKS else ():
            rates, wrong = found.setdefault(name, {}), 0
            for part in parts:
                wrong += counts[f"{name}:{part}"]
                rates[part] = 100 * wrong / counts["n"]
    return found


def attack_rates(counts: Mapping[str, int]) -> dict[str, float]:
    """Counts of :func:`attack_counts` as scores of :func:`attack_scores`.

    Args:
        counts: Those of the whole set.

    Returns:
        The scores.

    Raises:
        ValueError: If there is no image.
    """
    total = counts["n"]
    if not total:
        raise ValueError("no image to attack; give at least one batch")
    found = {"adv_n": float(total), "sat_pct": 100 * counts["saturated"] / total}
    for name, count in counts.items():
        if name in ATTACKS:
            found |= {name: 100 * count / total, f"{name}_acc": 100 - 100 * count / total}
    return found


def masking_warnings(
    errors: Mapping[str, float], stages: Mapping[str, Mapping[str, float]] | None = None
) -> list[str]:
    """Signs that an attack failed for want of gradients rather than met a robust network.

    Args:
        errors: Error rates in percent by the names of :data:`ATTACKS`.
        stages: As :func:`attack_stages` returns them.

    Returns:
        One sentence for each sign: many steps that do less than a single one of the same size, or
        a search without gradients that does more than PGD, or more than AutoAttack's own attacks
        by gradients (by 0.2 points or more, as the package itself warns).
    """
    signs = []
    for name, rates in (stages or {}).items():
        before = [rate for part, rate in rates.items() if part not in ("clean", "square")]
        if before and rates.get("square", 0.0) - before[-1] > SQUARE_GAIN:
            signs.append(
                f"{name}: its black-box search fools {rates['square'] - before[-1]:.1f} % of the "
                "images that its gradients do not: gradients are probably masked"
            )
    for name, error in errors.items():
        attack = ATTACKS.get(name)
        if attack is None or attack.kind == "fgsm" or attack.blind:
            continue
        level = f"{255 * attack.eps:g}"
        for other, finding in (("fgsm", "a single step"), ("square", "a black-box search")):
            rate = errors.get(f"{other}_{level}")
            if rate is not None and error < rate:
                signs.append(
                    f"{name} fails on {error:.1f} % of the images and {finding} of the same "
                    f"radius on {rate:.1f} %: gradients are probably masked"
                )
    return signs


def _parts(attack: Attack) -> tuple[str, ...]:
    """What the images that an AutoAttack wins are counted by."""
    return ("clean", *attack.losses) if attack.kind == "autoattack" else ()


def _logits(model: Model, x: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return model(x.float()).float()


def _loss_and_gradient(
    model: Model, x: Tensor, y: Tensor, loss: str
) -> tuple[Tensor, Tensor, Tensor]:
    if loss not in LOSSES:
        raise ValueError(f"loss of an attack must be one of {', '.join(LOSSES)}, got {loss!r}")
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        pixels = x.detach().float().requires_grad_()
        logits = model(pixels).float()
        values = LOSSES[loss](logits, y)
        (gradient,) = torch.autograd.grad(values.sum(), pixels)
    return values.detach(), gradient, logits.detach().argmax(dim=1) != y


def _start(x: Tensor, unit: Tensor | None, eps: float) -> Tensor:
    return x if unit is None else (x + eps * unit.to(x)).clamp(0, 1)


def _projected(moved: Tensor, x: Tensor, eps: float) -> Tensor:
    return (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)


def _checks(steps: int) -> set[int]:
    """Steps after which the size of the next ones is decided; they come ever more often."""
    places = [0.0, 0.22]
    while places[-1] < 1:
        places.append(places[-1] + max(places[-1] - places[-2] - 0.03, 0.06))
    # Rounded first: 0.22 + 0.19 must not come out a hair above 0.41.
    return {math.ceil(round(place * steps, 6)) for place in places[1:] if place <= 1}
