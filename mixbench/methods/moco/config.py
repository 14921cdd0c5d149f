"""The settings that MoCo and SAMix on it share."""

from dataclasses import dataclass

from mixbench.config.schema import at_least, in_unit_interval, one_of, positive
from mixbench.functional.maskmix import MASK_LOSSES
from mixbench.methods.base import Method
from mixbench.nn.mixer import NO_RESCALE, UPSAMPLING
from mixbench.nn.schedules import ANNEALING

LOSSES = ("infonce", "bce")


@dataclass
class Contrasting(Method.Config):
    """Settings of views, momentum contrast, and of how the features are judged."""

    dim: int = 128  # length of the vectors that are compared
    queue: int = 4096  # earlier keys to tell the own one from; official on ImageNet: 65536
    temperature: float = 0.1  # divisor of the cosines; official on ImageNet: 0.2
    ema: float = 0.99  # share of itself that the momentum encoder keeps; on ImageNet: 0.999
    bn_groups: int = 8  # parts of a batch that are normalised apart, as on so many devices
    crop_area: float = 0.2  # smallest share of the image that a view shows
    jitter: float = 0.8  # share of views whose colours are changed
    grey: float = 0.2  # share of views without colours
    blur: float = 0.0  # share of views that are blurred; official on ImageNet: 0.5
    knn_k: int = 200  # training images that vote on a test image
    knn_temperature: float = 0.1  # of their similarities; smaller: the nearest count more
    probe_decay: float = 1e-3  # L2 weight of the linear evaluation

    def __post_init__(self) -> None:
        for key in ("dim", "queue", "bn_groups", "knn_k"):
            at_least(f"method.{key}", getattr(self, key), 1)
        for key in ("temperature", "crop_area", "knn_temperature"):
            positive(f"method.{key}", getattr(self, key))
        for key in ("ema", "crop_area", "jitter", "grey", "blur"):
            in_unit_interval(f"method.{key}", getattr(self, key))
        at_least("method.probe_decay", self.probe_decay, 0)

    @property
    def requires(self) -> frozenset[str]:
        """A network whose stages and parts of the head can be called."""
        return frozenset({"stages"})


@dataclass
class ContrastMixing(Contrasting):
    """Settings of a mixer of views."""

    alpha: float = 2.0  # Beta(alpha, alpha) of both weights; official: 2.0
    layer: int = 3  # whose features the mixer sees
    lam_k: float = -1.0  # k of the weight's rescaling, 0 to 10; -1: none
    dropout: float = 0.0  # of the mixer's values
    upsampling: str = "bilinear"  # of the mask: bilinear or nearest
    lam_margin: float = 0.08  # weights this near to 0 or 1 mix without the mixer
    mask_within: float = 0.1  # masks further from their weight are rescaled to it
    mask_loss: str = "L1+Variance"  # or L1, L2+Variance, Sparsity
    mask_weight: float = 0.1  # of the mask loss
    mask_margin: float = 0.1  # of the mask loss: distance from the weight that costs nothing
    mask_anneal: str = "cosine"  # of mask_weight and aux_weight: or constant, official
    mixer_loss: str = "infonce"  # among the keys of the queue, or bce: of the two images alone
    aux_weight: float = 0.0  # of the other of the two losses
    mixer_lr: float | None = None  # the mixer's peak learning rate, else that of the recipe
    official_bugs: bool = False  # the mixer's masks are of other partners than its images

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("method.alpha", self.alpha)
        for key in ("dropout", "lam_margin", "mask_within"):
            in_unit_interval(f"method.{key}", getattr(self, key))
        for key in ("mask_weight", "mask_margin", "aux_weight"):
            at_least(f"method.{key}", getattr(self, key), 0)
        if self.mixer_lr is not None:
            positive("method.mixer_lr", self.mixer_lr)
        one_of("method.upsampling", self.upsampling, UPSAMPLING)
        one_of("method.mask_loss", self.mask_loss, MASK_LOSSES)
        one_of("method.mask_anneal", self.mask_anneal, ANNEALING)
        one_of("method.mixer_loss", self.mixer_loss, LOSSES)
        if self.lam_k != NO_RESCALE and not 0 <= self.lam_k <= 10:
            raise ValueError(f"method.lam_k must lie in [0, 10] or be -1, got {self.lam_k}")
        if self.dropout == 1:
            raise ValueError("method.dropout must be < 1, got 1.0")
        if self.layer == 0:
            raise ValueError("method.layer=0 is the image; the mixer needs features, from 1 on")

    @property
    def fidelity(self) -> str:
        """Built from the released code; its authors released no run of it."""
        return "reconstruction"
