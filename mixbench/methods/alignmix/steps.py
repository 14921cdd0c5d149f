"""Settings of AlignMix, and the forward pass that mixes within a network."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Generator, Tensor, nn

import mixbench.functional as mf
from mixbench.backbones.base import pick_layers
from mixbench.config.settings import setting
from mixbench.errors import UserError
from mixbench.functional.align import PLANS, check_finite
from mixbench.functional.sinkhorn import FINALIZE, OFFICIAL_STOP, SOLVERS
from mixbench.functional.transport import COST_SCALES
from mixbench.methods.alignmix.autoencoder import AutoencoderMethod

EMBED = "embed"  # the pooled vector, where nothing can be aligned


class Place(NamedTuple):
    """Record of a step: its layer and side, and the plan (B, r, r) once it was used."""

    layer: int | str
    side: int
    plan: Tensor | None = None


@dataclass
class AlignMixConfig(AutoencoderMethod.Config):
    """Settings of AlignMix."""

    alpha: float = setting(2.0, "Beta(alpha, alpha) of the weight", above=0, official=2.0)
    layers: list[Any] = setting(
        [0, -1],
        "layers to draw from; embed is the pooled vector behind the last layer",
        official=[0, -1],
    )
    layer_weights: list[float] | None = setting(None, "shares of the layers; null: equal")
    sides: list[int] = setting(
        [0, 1], "whose layout is kept: 0 that of the image, 1 that of its partner", official=[0, 1]
    )
    eps: float = setting(0.1, "entropic weight, in the unit of the cost", above=0, official=0.1)
    iters: int = setting(100, "Sinkhorn iterations", at_least=1, official="at most 100")
    solver: str = setting(
        "compat",
        "solver of the transport; scaled converges",
        one_of=SOLVERS,
        official="compat",
    )
    stop: str = setting(
        "fixed",
        "fixed: always iters iterations; official: stop early, as the authors do",
        one_of=("fixed", "official"),
        official="official",
    )
    cost_scale: str = setting("none", "divisor of the cost", one_of=COST_SCALES, official="none")
    finalize: str = setting(
        "none", "row: repair the rows of unconverged plans", one_of=FINALIZE, official="none"
    )
    plan: str = setting(
        "transport",
        "the plan, or a control: shuffled, identity, weights",
        one_of=PLANS,
        official="transport",
    )
    post_align: str = setting(
        "none",
        "bn_relu between mixing and pooling; needs net.final_norm=false",
        one_of=("none", "bn_relu"),
        official="none",
    )
    fast_path: str = setting(
        "auto",
        "auto: skip the transport where it changes nothing; none: never skip it",
        one_of=("auto", "none"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        cfg = self
        if cfg.stop == "official" and cfg.solver != "compat":
            raise ValueError("method.stop=official needs method.solver=compat")
        wrong = [layer for layer in cfg.layers if layer != EMBED and type(layer) is not int]
        if wrong or not cfg.layers or list(cfg.layers).count(EMBED) > 1:
            raise ValueError(
                f"method.layers must list whole numbers or {EMBED}, at least one and each once, "
                f"got {list(cfg.layers)}"
            )
        if list(cfg.sides) not in ([0], [1], [0, 1]):
            raise ValueError(f"method.sides must be [0], [1] or [0, 1], got {list(cfg.sides)}")
        weights = cfg.layer_weights
        if weights is not None and not (
            len(weights) == len(cfg.layers)
            and all(weight >= 0 for weight in weights)
            and 0 < sum(weights) < math.inf
        ):
            raise ValueError(
                f"method.layer_weights must give each of {len(cfg.layers)} layers a finite share "
                f">= 0, not all of them 0, got {list(weights)}"
            )

    @property
    def requires(self) -> frozenset[str]:
        """A network that can be cut, into maps where positions are aligned or images decoded."""
        cfg = self
        maps = cfg.ae or set(cfg.layers) - {0, EMBED}
        return frozenset({"stages", "maps"} if maps else {"stages"})

    @property
    def fidelity(self) -> str:
        """Official with the settings of the authors' code; what cannot matter may differ."""
        cfg = self
        plain = (cfg.solver, cfg.cost_scale, cfg.finalize, cfg.plan, cfg.post_align)
        same = plain == ("compat", "none", "none", "transport", "none")
        drawn = (list(cfg.layers), cfg.layer_weights, list(cfg.sides)) == ([0, -1], None, [0, 1])
        plain = same and drawn and cfg.iters == 100 and not cfg.ae
        return "official-verified" if plain else "variant"


def find_layers(net: Any, config: Any) -> list[int | str]:
    """Layers of this network, counted from the front, and the last norm if it is asked for.

    Args:
        net: The network; ``post_align`` gives its head a normalisation of its own.
        config: Settings of AlignMix.

    Returns:
        The layers to draw from.

    Raises:
        UserError: If a layer is not there, or the head normalises already.
    """
    numbers = [layer for layer in config.layers if layer != EMBED]
    # A network that cannot be cut is refused for `embed` alone, too.
    found = iter(pick_layers(net, numbers or [-1], "method.layers"))
    if config.post_align == "bn_relu":
        if not isinstance(net.head.norm, nn.Identity) or net.final_norm:
            raise UserError(
                "the network normalises its last features already",
                "method.post_align=bn_relu",
                "add net.final_norm=false",
            )
        channels = net.channels[-1]
        net.head.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    return [layer if layer == EMBED else next(found) for layer in config.layers]


def forward_aligned(
    net: Any, batch: mf.Mixed, config: Any, generator: Generator, *, check: bool = False
) -> tuple[Tensor, mf.Mixed]:
    """Run a network to a layer, align and mix there, and run the rest.

    Args:
        net: The network.
        batch: (B, C, H, W) normalised images, (B, K) labels, (1,) or (B,) weight of the own
            row, (B,) partners, and the :class:`Place`.
        config: Settings of AlignMix.
        generator: Random source of the controls.
        check: Read the values that are mixed, which waits for the device.

    Returns:
        Logits (B, K), and the mixed batch with the plan that was used.

    Raises:
        ValueError: If ``check`` is set and what is mixed holds NaN or infinity.
    """
    x, targets, lam, perm, place = batch
    last = len(net.stages)
    stop = last if place.layer == EMBED else int(place.layer)
    h = net.forward_stages(x, stop=stop)
    if place.layer == EMBED:
        h = net.head.pool(net.head.norm(h))
    if check:
        check_finite(h)
    if place.layer in (0, EMBED):
        mixed = mf.mixup(h, targets, lam=lam, perm=perm)
        rest = net.head.fc if place.layer == EMBED else net
        return rest(mixed.x), mixed._replace(aux=place)
    pooled = place.layer == last and isinstance(net.head.norm, nn.Identity)
    mixed = mf.alignmix(
        h,
        targets,
        lam=lam,
        perm=perm,
        side=place.side,
        plan=config.plan,
        only_mean=pooled and config.fast_path == "auto",
        generator=generator,
        eps=config.eps,
        iters=config.iters,
        solver=config.solver,
        stop=OFFICIAL_STOP if config.stop == "official" else None,
        cost_scale=config.cost_scale,
        finalize=config.finalize,
    )
    logits = net.head(net.forward_stages(mixed.x, start=stop))
    return logits, mixed._replace(aux=place._replace(plan=mixed.aux.plan))
