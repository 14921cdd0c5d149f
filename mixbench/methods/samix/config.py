"""The settings that AutoMix and SAMix share."""

from dataclasses import dataclass

from mixbench.config.settings import Above, OtherThan, setting
from mixbench.functional.maskmix import MASK_LOSSES
from mixbench.methods.base import Method
from mixbench.nn.mixer import UPSAMPLING
from mixbench.nn.schedules import ANNEALING

MIXER_LOSSES = ("soft_ce", "bce_eta", "pair_eta")
STATISTICS = ("batch", "running")
LEARNS = {"method.mixer_ckpt": (None,)}  # keys of a mixer that is trained need it
WEIGHED = LEARNS | {"method.mask_weight": Above(0)}


@dataclass
class SAMixConfig(Method.Config):
    """Settings of the masks, the mixer's losses and the teacher."""

    alpha: float = setting(2.0, "Beta(alpha, alpha) of both weights", above=0, official=2.0)
    layer: int = setting(
        3, "layer whose features the mixer sees", official="behind the third of four stages"
    )
    dropout: float = setting(0.0, "dropout of the mixer's values", at_least=0, below=1)
    upsampling: str = setting("bilinear", "upsampling of the mask", one_of=UPSAMPLING)
    lam_margin: float = setting(
        0.08, "weights this near to 0 or 1 mix without the mixer", within=(0, 1)
    )
    mask_adjust: float = setting(
        0.0, "share of steps whose masks are rescaled to the weight", within=(0, 1)
    )
    mask_loss: str = setting(
        "L1+Variance", "loss of the mask", one_of=MASK_LOSSES, only_when=WEIGHED
    )
    mask_weight: float = setting(0.1, "weight of the mask loss", at_least=0, only_when=LEARNS)
    mask_margin: float = setting(
        0.1,
        "distance of a mask from its weight that costs nothing in the mask loss",
        at_least=0,
        only_when=WEIGHED,
    )
    mask_anneal: str = setting(
        "constant",
        "how mask_weight changes over the run; official reaches its end early",
        one_of=ANNEALING,
        official="official",
        only_when=WEIGHED,
    )
    mixer_loss: str = setting(
        "soft_ce",
        "loss of the mixer; those with eta are in no official run",
        one_of=MIXER_LOSSES,
        official="soft_ce",
        only_when=LEARNS,
    )
    eta: float = setting(
        1.0,
        "weight of classes that are not in a mixed label; it has no effect with soft_ce",
        within=(0, 1),
        only_when=LEARNS | {"method.mixer_loss": ("bce_eta", "pair_eta")},
    )
    switch_off: float = setting(
        1.0, "share of steps that train the mixer", within=(0, 1), only_when=LEARNS
    )
    mixer_lr: float | None = setting(
        None, "the mixer's peak learning rate, else that of the recipe", above=0, only_when=LEARNS
    )
    mixer_min_lr: float | None = setting(
        None, "learning rate of the mixer at the end", at_least=0, only_when=LEARNS
    )
    mixer_momentum: float | None = setting(
        None,
        "momentum of the mixer's SGD, else that of the recipe",
        within=(0, 1),
        only_when=LEARNS,
    )
    ema: float = setting(
        0.999,
        "share of its weights that the teacher keeps in a step, at first",
        within=(0, 1),
        only_when=LEARNS,
    )
    ema_end: float = setting(
        0.999999,
        "share of its weights that the teacher keeps in a step, at the end",
        within=(0, 1),
        only_when=LEARNS,
    )
    ema_hold: float = setting(
        0.1,
        "share of the run before the teacher's share begins to grow",
        within=(0, 1),
        only_when=LEARNS,
    )
    ema_warmup: bool = setting(
        True,
        "short memory of the teacher at first, for short runs",
        official=False,
        only_when=LEARNS,
    )
    mixer_ckpt: str | None = setting(
        None, "checkpoint of a run; its mixer and teacher are used as they are"
    )
    mixer_bn: str = setting(
        "batch",
        "statistics by which the networks of mixer_ckpt normalise",
        one_of=STATISTICS,
        official="batch",
        only_when={"method.mixer_ckpt": OtherThan(None)},
    )
    official_bugs: bool = setting(
        False,
        "masks are adjusted to the mixer's weight, as the authors do",
        official=True,
        only_when={"method.mask_adjust": Above(0)},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer == 0:
            raise ValueError(
                "method.layer=0 is the image; the mixer needs features, of layer 1 or later"
            )

    @property
    def requires(self) -> frozenset[str]:
        """A network that can be cut between its stages."""
        return frozenset({"stages"})

    @property
    def fidelity(self) -> str:
        """Official without additions of ours, of which ``ema_warmup`` is on by default."""
        ours = self.ema_warmup or self.mixer_ckpt is not None or self.mask_anneal == "cosine"
        fixed = self.mask_adjust > 0 and not self.official_bugs
        return "variant" if ours or fixed or self.mixer_loss != "soft_ce" else "official-verified"
