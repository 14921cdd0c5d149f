"""The settings that AutoMix and SAMix share."""

from dataclasses import dataclass

from mixbench.config.schema import at_least, in_unit_interval, one_of, positive
from mixbench.functional.maskmix import MASK_LOSSES
from mixbench.methods.base import Method
from mixbench.nn.mixer import UPSAMPLING
from mixbench.nn.schedules import ANNEALING

MIXER_LOSSES = ("soft_ce", "bce_eta", "pair_eta")
STATISTICS = ("batch", "running")


@dataclass
class Teaching(Method.Config):
    """Settings of the masks, the mixer's losses and the teacher."""

    alpha: float = 2.0  # Beta(alpha, alpha) of both weights; official: 2.0
    layer: int = 3  # whose features the mixer sees; official: behind the third of four stages
    dropout: float = 0.0  # of the mixer's values
    upsampling: str = "bilinear"  # of the mask: bilinear or nearest
    lam_margin: float = 0.08  # weights this near to 0 or 1 mix without the mixer
    mask_adjust: float = 0.0  # share of steps whose masks are rescaled to the weight
    mask_loss: str = "L1+Variance"  # or L1, L2+Variance, Sparsity
    mask_weight: float = 0.1  # of the mask loss
    mask_margin: float = 0.1  # of the mask loss: distance from the weight that costs nothing
    mask_anneal: str = "constant"  # of mask_weight: or cosine, or official, which is over soon
    mixer_loss: str = "soft_ce"  # official; with eta, and in no official run: bce_eta, pair_eta
    eta: float = 1.0  # weight of classes that are not in a mixed label; no effect on soft_ce
    switch_off: float = 1.0  # share of steps that train the mixer
    mixer_lr: float | None = None  # the mixer's peak learning rate, else that of the recipe
    mixer_min_lr: float | None = None  # where it ends
    mixer_momentum: float | None = None  # of its SGD, else that of the recipe
    ema: float = 0.999  # share of its weights that the teacher keeps in a step, at first
    ema_end: float = 0.999999  # the same in the end
    ema_hold: float = 0.1  # share of the run before it begins to grow
    ema_warmup: bool = True  # short memory at first, for short runs; official: false
    mixer_ckpt: str | None = None  # checkpoint of a run; its mixer and teacher are used as they are
    mixer_bn: str = "batch"  # of mixer_ckpt: statistics for normalisation (official), or running
    official_bugs: bool = False  # masks are adjusted to the mixer's weight, as the authors do

    def __post_init__(self) -> None:
        positive("method.alpha", self.alpha)
        shares = ("dropout", "lam_margin", "mask_adjust", "eta", "switch_off")
        for key in (*shares, "ema", "ema_end", "ema_hold"):
            in_unit_interval(f"method.{key}", getattr(self, key))
        for key in ("mask_weight", "mask_margin"):
            at_least(f"method.{key}", getattr(self, key), 0)
        if self.mixer_lr is not None:
            positive("method.mixer_lr", self.mixer_lr)
        if self.mixer_min_lr is not None:
            at_least("method.mixer_min_lr", self.mixer_min_lr, 0)
        if self.mixer_momentum is not None:
            in_unit_interval("method.mixer_momentum", self.mixer_momentum)
        one_of("method.upsampling", self.upsampling, UPSAMPLING)
        one_of("method.mask_loss", self.mask_loss, MASK_LOSSES)
        one_of("method.mask_anneal", self.mask_anneal, ANNEALING)
        one_of("method.mixer_loss", self.mixer_loss, MIXER_LOSSES)
        one_of("method.mixer_bn", self.mixer_bn, STATISTICS)
        if self.dropout == 1:
            raise ValueError("method.dropout must be < 1, got 1.0")
        if self.layer == 0:
            raise ValueError("method.layer=0 is the image; the mixer needs features, from 1 on")

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
