"""AutoAttack and its parts: attacks one after another, each on images that withstood the others.

Croce and Hein, ICML 2020, arXiv:2003.01690 (Square: Andriushchenko et al., ECCV 2020,
arXiv:1912.00049); the attacks are those of the package ``pyautoattack``
(extra ``eval``) with the settings of its standard version: APGD by cross-entropy, APGD by the
targeted DLR loss, targeted FAB and Square, which sees no gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from mixbench.errors import UserError
from mixbench.evaluation.per_image_random import keys

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
TARGETED = ("apgd-t", "fab-t")
TARGETS = 9  # likeliest wrong classes that the targeted attacks aim at, one after another
FEWEST = 4  # classes: the targeted DLR loss divides by a difference to the fourth logit
PACKAGE = "pyautoattack"


def available() -> bool:
    """Whether the package is installed."""
    return find_spec(PACKAGE) is not None


def targets(classes: int) -> int:
    """Number of wrong classes that the targeted attacks aim at.

    Args:
        classes: Number of classes.

    Returns:
        9, or all wrong ones where there are fewer; the package itself would fail there.
    """
    return min(TARGETS, classes - 1)


def autoattack(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    *,
    eps: float,
    attacks: Sequence[str] = STANDARD,
    steps: int = 100,
    queries: int = 5000,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Attack a batch until an attack succeeds on each image or none is left.

    Random numbers come from ``seed`` and the first of ``ids``; the package draws them for a batch
    as a whole, so that other batches get others. The state of torch's generators stays as it was.

    Args:
        model: Pixels to logits, in eval mode. Gradients of a module's parameters are not touched.
        x: (B, C, H, W) pixels in [0, 1].
        y: (B,) class indices.
        ids: (B,) int64 numbers of the images.
        eps: Radius of the ball in pixels of the scale [0, 1].
        attacks: Names of :data:`STANDARD`, in their order.
        steps: Iterations of APGD and FAB.
        queries: Queries of Square.
        seed: Seed.

    Returns:
        (B, C, H, W) images in [0, 1], changed where an attack succeeded, and (B,) int64 which one
        it was: 0 where the network was wrong before, k after the k-th attack, -1 where none did.

    Raises:
        UserError: If the package is missing.
        ValueError: If an attack is unknown, or a targeted one meets fewer than four classes.
    """
    check_installed("eval.attacks")
    unknown = [name for name in attacks if name not in STANDARD]
    if unknown:
        raise ValueError(f"unknown attack {unknown[0]!r}, choose one of: {', '.join(STANDARD)}")

    def logits(pixels: Tensor) -> Tensor:
        return model(pixels.float()).float()

    on_gpu = [x.device] if x.device.type == "cuda" else []
    # The package multiplies matrices of its own, which autocast would round as well.
    wide = torch.autocast(x.device.type, enabled=False)
    with torch.random.fork_rng(on_gpu), _frozen(model), torch.no_grad(), wide:
        clean = logits(x)
        classes = clean.shape[1]
        if classes < FEWEST and set(attacks) & set(TARGETED):
            raise ValueError(f"targeted attacks need {FEWEST} classes or more, got {classes}")
        result, stage = x.clone(), torch.full_like(y, -1)
        stage[clean.argmax(dim=1) != y] = 0
        drawn = int(keys(seed, ids[:1].cpu(), 1)) % 2**31
        tools = _tools(logits, eps, steps, queries, targets(classes), drawn, x.device)
        for number, name in enumerate(attacks, start=1):
            left = (stage < 0).nonzero()[:, 0]
            if not len(left):
                break
            moved = tools[name]().perturb(x[left].clone(), y[left].clone())
            # Judged as evaluation judges: the highest logit, equal ones by the lower class.
            fooled = logits(moved).argmax(dim=1) != y[left]
            result[left[fooled]], stage[left[fooled]] = moved[fooled], number
    return result, stage


def check_installed(where: str) -> None:
    """Refuse to attack without the package.

    Args:
        where: What asks for it.

    Raises:
        UserError: If it is not installed.
    """
    if not available():
        todo = "pip install 'mixbench[eval]', or EXTRAS=eval in front of make"
        raise UserError(f"the attack needs the package {PACKAGE}", where, todo)


def _tools(
    logits: Callable[[Tensor], Tensor],
    eps: float,
    steps: int,
    queries: int,
    targets: int,
    seed: int,
    device: torch.device,
) -> dict[str, Callable[[], Any]]:
    """The attacks with the settings of the standard version, each made when it is needed."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    # Its default device is the CPU, and its default radius 0.3.
    shared: dict[str, Any] = {"norm": "Linf", "n_restarts": 1, "eps": eps, "seed": seed}
    shared |= {"device": device, "verbose": False}
    apgd = shared | {"n_iter": steps, "eot_iter": 1, "rho": 0.75, "logger": _Silence()}
    fab = shared | {"n_iter": steps, "targeted": True, "n_target_classes": targets}
    square = shared | {"n_queries": queries, "p_init": 0.8, "resc_schedule": False}
    return {
        "apgd-ce": lambda: APGDAttack(logits, loss="ce", **apgd),
        "apgd-t": lambda: APGDAttack_targeted(logits, n_target_classes=targets, **apgd),
        "fab-t": lambda: FABAttack_PT(logits, **fab),
        "square": lambda: SquareAttack(logits, **square),
    }


class _Silence:
    """In place of a logger: gradients of zero are counted as ``sat_pct``, once and not by batch."""

    def warning(self, message: str) -> None:
        """Drop the message."""


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Keep the gradient of an attack out of a module's parameters."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
