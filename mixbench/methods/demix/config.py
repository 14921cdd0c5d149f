"""The settings that denoising-GAN and demixing-GAN share."""

from dataclasses import dataclass

from mixbench.config.settings import setting
from mixbench.errors import UserError
from mixbench.functional.gan import GAN_LOSSES
from mixbench.methods.base import Method
from mixbench.nn.gan import ACTIVATIONS, NORMS

PRESET, PRESETS = "preset", ("paper", "robust")
# Values of keys that are left at null, or at the word above.
PLAIN = {"loss": "log", "r1": 0.0, "spectral": False, "ema": 0.0, "diversity": 0.0}
ROBUST = {"loss": "log", "r1": 1.0, "spectral": True, "ema": 0.999, "diversity": 0.1}


@dataclass
class DemixConfig(Method.Config):
    """Settings of two networks that play against each other, and of the search at the test."""

    preset: str = setting(
        "paper",
        "paper: as published; robust: with R1, spectral normalisation, averages and diversity",
        one_of=PRESETS,
    )
    loss: str = setting(
        PRESET, "loss of both networks; preset: that of method.preset", one_of=(PRESET, *GAN_LOSSES)
    )
    r1: float | None = setting(
        None, "weight of the gradient penalty on observed images; null: the preset's", at_least=0
    )
    spectral: bool | None = setting(
        None, "bound the discriminator's layers by their singular values; null: the preset's"
    )
    ema: float | None = setting(
        None,
        "decay of averaged generators, which are then tested; 0: none; null: the preset's",
        at_least=0,
        below=1,
    )
    diversity: float | None = setting(
        None, "weight of the penalty on generators that collapse; null: the preset's", at_least=0
    )
    saturating: bool = setting(
        False, "the min-max loss of the generator, which saturates", official="true in the text"
    )
    d_act: str = setting(
        "leaky", "activation of the discriminator", one_of=ACTIVATIONS, official="relu in the text"
    )
    d_width: int | None = setting(
        None, "channels of the discriminator; null: a quarter of net.width", at_least=1
    )
    norm: str = setting("batch", "normalisation of both networks", one_of=NORMS)
    classifier: str | None = setting(None, "finished run whose network judges the separated images")
    tested: int | None = setting(
        256, "test images that are separated, a fixed random subset; null: all", at_least=1
    )
    restarts: int = setting(4, "starting points of the search for each image", at_least=1)
    search_steps: int = setting(300, "steps of the search", at_least=1)
    search_lr: float = setting(0.05, "step size of the search", above=0)
    penalty: float = setting(
        1e-3, "weight of the squared latent vector beside the squared error, both sums", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.saturating and self.chosen("loss") != "log":
            raise ValueError("method.saturating needs method.loss=log, as hinge has one form only")

    def chosen(self, key: str) -> object:
        """Value of a key that the preset decides unless it is given."""
        given = getattr(self, key)
        of_preset = ROBUST if self.preset == "robust" else PLAIN
        return of_preset[key] if given in (None, PRESET) else given

    @property
    def requires(self) -> frozenset[str]:
        """A network that makes images of latent vectors."""
        return frozenset({"latent"})

    @property
    def fidelity(self) -> str:
        """No official code exists; what the text leaves open is ours."""
        return "reconstruction"

    @property
    def alone(self) -> str:
        """It mixes no images of a classifier."""
        return "it trains generators, and no network that judges images"


@dataclass
class DenoiseGANConfig(DemixConfig):
    """Also where samples of the known component come from."""

    component: str | None = setting(
        None, "pack of samples of the known component; null: those that data.second draws"
    )

    def check_component(self, second: str) -> None:
        """Refuse observations whose known component nobody has.

        Args:
            second: Value of ``data.second``.

        Raises:
            UserError: If there is neither a file nor a sampler.
        """
        if self.component is None and second == "none":
            raise UserError(
                "denoising-GAN needs samples or a sampler for the known component; use "
                "demixing-GAN if you have none",
                "data.second=none",
                "give method.component=FILE.npz, data.second=lines or waves, or method=demixgan",
            )
