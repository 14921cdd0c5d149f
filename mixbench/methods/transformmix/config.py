"""The settings of TransformMix: of the module's search, and of its use."""

from dataclasses import dataclass

from mixbench.config.schema import DataConfig
from mixbench.config.settings import setting
from mixbench.errors import UserError
from mixbench.functional.draws import PARTNER_RULES
from mixbench.functional.transformmix import AFFINES, LABEL_RULES
from mixbench.methods.base import SOME_MIXED, Method
from mixbench.nn.transform_mixer import STN_INPUTS

SALIENCY = ("auto", "cam", "attention", "norm", "input_grad", "spectral")


TRANSFORMS = {"method.stn": (True,)}  # conditions of keys
MASKS = {"method.mpn": (True,)}


@dataclass
class TransformMixConfig(Method.Config):
    """Settings of pairs and of their maps, which search and use share."""

    teacher_ckpt: str | None = setting(
        None, "checkpoint, or folder, of a finished run whose network gives the maps"
    )
    saliency: str = setting(
        "auto",
        "maps: of the class, attention, norm of the features, gradient of the pixels, or spectrum; "
        "auto: attention of a transformer, else cam of its own classes, else norm",
        one_of=SALIENCY,
    )
    alpha: float = setting(1.0, "Beta(alpha, alpha) of each pair's weight", above=0)
    partner: str = setting("derange", "rule that pairs images", one_of=PARTNER_RULES)
    noise: float = setting(
        0.0, "deviation of normal noise on the numbers of the transformations", at_least=0
    )
    stn: bool = setting(True, "transform images; false: they stay where they are")
    mpn: bool = setting(True, "predict masks; false: a rectangle of the partner, by the weight")

    @property
    def fidelity(self) -> str:
        """No official code was found, and the text does not give losses and layers."""
        return "reconstruction"


@dataclass
class TransformMixSearchConfig(TransformMixConfig):
    """Settings of the module that is searched, and of its losses."""

    affine: str = setting(
        "similarity",
        "scale, turn and shift, or six free numbers",
        one_of=tuple(AFFINES),
        only_when=TRANSFORMS,
    )
    stn_input: str = setting(
        "saliency",
        "input of the network for transformations",
        one_of=STN_INPUTS,
        only_when=TRANSFORMS,
    )
    lam_input: bool = setting(
        True,
        "give the weight to the network for masks as an input",
        only_when=MASKS,
    )
    symmetric: bool = setting(True, "swapping a pair gives the complement of its mask")
    temperature: float = setting(0.5, "temperature of the mask's sigmoid", above=0, only_when=MASKS)
    w_area: float = setting(
        1.0, "weight of the loss that keeps the mean of the mask at the mixing weight", at_least=0
    )
    w_tv: float = setting(0.1, "weight of the mask's total variation", at_least=0)
    w_bin: float = setting(0.05, "weight of the mask's distance from 0 and 1", at_least=0)
    w_geo: float = setting(
        0.01, "weight of the transformations' size", at_least=0, only_when=TRANSFORMS
    )
    w_keep: float = setting(0.5, "weight of the saliency that is lost", at_least=0)
    module_lr: float | None = setting(
        None, "peak learning rate of the module; null: that of the recipe", above=0
    )

    def check_run(self, name: str, data: DataConfig) -> None:
        """Refuse to search without a teacher."""
        del data
        if self.teacher_ckpt is None:
            raise UserError(
                f"{name} searches against a trained network, and none is given",
                "method.teacher_ckpt",
                "give method.teacher_ckpt=RUN, such as the folder of a run of method=erm on the "
                "same data",
            )

    @property
    def requires(self) -> frozenset[str]:
        """The network of the run is the teacher, which shows its features."""
        return frozenset({"stages"})

    @property
    def alone(self) -> str:
        """It does not train the network."""
        return "trains its module alone, and no network"


@dataclass
class TransformMixReconConfig(TransformMixConfig):
    """Settings of the use of a module."""

    only_when, unconditional = SOME_MIXED, ("module",)  # without which no run starts

    module: str | None = setting(
        None, "checkpoint, or folder, of a finished run of transformmix_search"
    )
    label: str = setting("area", "rule of the first label's weight", one_of=LABEL_RULES)
    prob: float = setting(1.0, "share of batches mixed, the others stay plain", within=(0, 1))
    cache: bool = setting(
        False, "compute the maps once, before cropping, and crop them with the images"
    )

    def check_run(self, name: str, data: DataConfig) -> None:
        """Refuse to mix with a module that nobody has searched."""
        del data
        if self.module is None:
            raise UserError(
                f"{name} mixes with a module that was searched before, and none is given",
                "method.module",
                "run method=transformmix_search first, then give method.module=RUN",
            )

    @property
    def own_dataset(self) -> bool:
        """Cached maps come with the images."""
        return self.cache

    @property
    def requires(self) -> frozenset[str]:
        """A network that shows its features, where nothing else gives maps."""
        other = (self.module, self.teacher_ckpt) != (None, None) or self.saliency == "spectral"
        return frozenset() if other else frozenset({"stages"})
