"""The settings that MoCo and SAMix on it share."""

from dataclasses import dataclass

from mixbench.config.settings import Above, setting
from mixbench.functional.maskmix import MASK_LOSSES
from mixbench.methods.base import Method
from mixbench.nn.mixer import NO_RESCALE, UPSAMPLING
from mixbench.nn.schedules import ANNEALING

LOSSES = ("infonce", "bce")


@dataclass
class MoCoConfig(Method.Config):
    """Settings of views, momentum contrast, and of how the features are judged."""

    dim: int = setting(128, "length of the vectors that are compared", at_least=1)
    queue: int = setting(
        4096,
        "length of the queue of earlier keys, which are the negatives",
        at_least=1,
        official="65536 on ImageNet",
    )
    temperature: float = setting(0.1, "divisor of the cosines", above=0, official="0.2 on ImageNet")
    ema: float = setting(
        0.99,
        "share of itself that the momentum encoder keeps",
        within=(0, 1),
        official="0.999 on ImageNet",
    )
    bn_groups: int = setting(
        8, "parts of a batch that are normalised separately, as on as many devices", at_least=1
    )
    crop_area: float = setting(
        0.2, "smallest share of the image that a view shows", above=0, at_most=1
    )
    jitter: float = setting(0.8, "share of views whose colours are changed", within=(0, 1))
    grey: float = setting(0.2, "share of views without colours", within=(0, 1))
    blur: float = setting(
        0.0, "share of views that are blurred", within=(0, 1), official="0.5 on ImageNet"
    )
    knn_k: int = setting(200, "training images that vote on a test image", at_least=1)
    knn_temperature: float = setting(
        0.1, "divisor of their similarities; smaller: the nearest count more", above=0
    )
    probe_decay: float = setting(1e-3, "L2 weight of the linear evaluation", at_least=0)

    @property
    def requires(self) -> frozenset[str]:
        """A network whose stages and parts of the head can be called."""
        return frozenset({"stages"})


@dataclass
class MoCoSAMixConfig(MoCoConfig):
    """Settings of a mixer of views."""

    alpha: float = setting(2.0, "Beta(alpha, alpha) of both weights", above=0, official=2.0)
    layer: int = setting(3, "layer whose features the mixer sees")
    lam_k: float = setting(
        NO_RESCALE,
        "strength k of the rescaling of the weight; -1: no rescaling",
        within=(0, 10),
        also=NO_RESCALE,
    )
    dropout: float = setting(0.0, "dropout of the mixer's values", at_least=0, below=1)
    upsampling: str = setting("bilinear", "upsampling of the mask", one_of=UPSAMPLING)
    lam_margin: float = setting(
        0.08, "weights this near to 0 or 1 mix without the mixer", within=(0, 1)
    )
    mask_within: float = setting(
        0.1, "masks further from their weight are rescaled to it", within=(0, 1)
    )
    mask_loss: str = setting(
        "L1+Variance",
        "loss of the mask",
        one_of=MASK_LOSSES,
        only_when={"method.mask_weight": Above(0)},
    )
    mask_weight: float = setting(0.1, "weight of the mask loss", at_least=0)
    mask_margin: float = setting(
        0.1,
        "distance of a mask from its weight that costs nothing in the mask loss",
        at_least=0,
        only_when={"method.mask_weight": Above(0)},
    )
    mask_anneal: str = setting(
        "cosine", "course of mask_weight and aux_weight over the run", one_of=ANNEALING
    )
    mixer_loss: str = setting(
        "infonce",
        "infonce: among the keys of the queue; bce: of the two images alone",
        one_of=LOSSES,
    )
    aux_weight: float = setting(0.0, "weight of the other of the two losses", at_least=0)
    mixer_lr: float | None = setting(
        None, "the mixer's peak learning rate, else that of the recipe", above=0
    )
    official_bugs: bool = setting(
        False, "the mixer's masks are of other partners than its images", official=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer == 0:
            raise ValueError("method.layer=0 is the image; the mixer needs features, from 1 on")

    @property
    def fidelity(self) -> str:
        """Built from the released code; its authors released no run of it."""
        return "reconstruction"
