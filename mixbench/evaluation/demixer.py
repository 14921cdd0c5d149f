"""A trained demixer: the generators of a finished run, and the search that separates by them."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.backbones.build import build_net
from mixbench.config.compose import compose_again, settings_of
from mixbench.config.names import METHODS
from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.mixtures import second_span
from mixbench.data.sampling import OBSERVE, mix_seed
from mixbench.errors import UserError
from mixbench.functional.latent_search import Recovered
from mixbench.nn.latent_encoder import fit_encoder
from mixbench.records.checkpoints import check_shapes, read_checkpoint
from mixbench.records.record import read_record
from mixbench.records.weights import trained_on, weights_file

AVERAGES, NETS = "averages.nets.", "net."  # names of generators in a checkpoint, the best first


@dataclasses.dataclass
class Demixer:
    """Frozen generators, the weights of their sum, and the settings of a search.

    Attributes:
        generators: One for each unknown component.
        weights: Of both components in the sums that they were trained on.
        spans: Smallest and largest value of both components.
        method: Settings of the method that trained them.
        both_images: Whether second components are images of the same kind as first ones.
        first: Which generator makes first components, as the test of the run has found.
        config: Reads ``search``, ``restarts``, ``search_steps`` and ``encoder_steps``.
    """

    generators: list[Any]
    weights: list[float]
    spans: tuple[tuple[float, float], tuple[float, float]]
    method: Any
    both_images: bool = False
    first: int = 0
    config: EvalConfig = dataclasses.field(default_factory=EvalConfig)

    @classmethod
    def of(cls, method: Any, config: EvalConfig) -> "Demixer":
        """The demixer that a method has become."""
        data = method.run.data
        spans = ((0.0, 1.0), second_span(data))
        nets = method.frozen_generators()
        return cls(nets, data.weights, spans, method.config, data.second == "images", 0, config)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that it separates."""
        return self.generators[0].image_shape

    @property
    def restarts(self) -> int:
        """Starting points of an image."""
        return self.config.restarts or self.method.restarts

    @property
    def steps(self) -> int:
        """Steps of a search from one starting point."""
        return self.config.search_steps or self.method.search_steps

    @property
    def passes(self) -> int:
        """Forward passes that an image takes, where a gradient counts as one more."""
        return 3 * self.restarts * self.steps

    @property
    def image_generators(self) -> list[Any]:
        """Two generators of images such as first components are, which may be the same."""
        if self.both_images and len(self.generators) > 1:
            return self.generators
        return [self.generators[self.first]] * 2

    def told(self) -> dict[str, Any]:
        """The settings of its search, for a record."""
        return {
            "search": self.config.search,
            "restarts": self.restarts,
            "search_steps": self.steps,
            "encoder_steps": self.config.encoder_steps,
        }

    def separate(
        self,
        y: Tensor,
        ids: Tensor,
        weights: Sequence[Tensor | float] | None = None,
        generators: Sequence[nn.Module] | None = None,
    ) -> Recovered:
        """Search for the components of observations.

        Args:
            y: (B, C, H, W) observations.
            ids: (B,) numbers of the images, from which alone starting points are drawn.
            weights: Known weights of the components; those of training if None.
            generators: The generator of each of them; its own if None.

        Returns:
            The components.
        """
        nets: list[Any] = self.generators if generators is None else list(generators)
        nets = [net.to(y.device) for net in nets]
        seeds = torch.tensor([mix_seed(OBSERVE, row) for row in ids.tolist()], dtype=torch.int64)
        starts = mf.draw_starts(seeds, self.restarts, [net.latent for net in nets])
        if self.config.encoder_steps and generators is None and weights is None:
            guesses = self._encoder.to(y.device)(y)
            pairs = zip(guesses, starts, strict=True)
            starts = [torch.cat([z[:, None], start[:, 1:].to(z)], 1) for z, start in pairs]
        rounds = 10
        return mf.latent_search(
            nets,
            y,
            starts,
            weights=self.weights[: len(nets)] if weights is None else weights,
            penalties=[self.method.penalty],
            mode=self.config.search,
            steps=self.steps,
            outer=rounds,
            inner=-(-self.steps // rounds),
            lr=self.method.search_lr,
        )

    def both(self, y: Tensor, components: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Both components; what is left of an observation is the second where one is known."""
        if len(components) > 1:
            return components[0], components[1]
        return components[0], (y - self.weights[0] * components[0]) / self.weights[1]

    @cached_property
    def _encoder(self) -> nn.Module:
        weights = self.weights[: len(self.generators)]
        return fit_encoder(self.generators, weights, self.config.encoder_steps)


def load_demixer(given: str, key: str, config: EvalConfig | None = None) -> Demixer:
    """The demixer of a finished run.

    Args:
        given: Folder of the run, or its checkpoint in it.
        key: Config key or argument that it is the value of.
        config: How it is to search.

    Returns:
        The demixer.

    Raises:
        UserError: If there is no such run, it is not finished or damaged, or it separates nothing.
    """
    path = weights_file(given, key)
    _, run = compose_again(path.with_name("config.yaml"))
    name = run.method["name"]
    cls: Any = METHODS.get(name)
    if not hasattr(cls, "build_generators"):
        raise UserError(
            f"the run is of the method {name}, which separates nothing",
            f"{key}={given}",
            "name a finished run of demixgan or denoisegan",
        )
    content = read_checkpoint(path)
    info: DataInfo = trained_on(path, content)[1]
    settings = settings_of(run)
    with torch.random.fork_rng(devices=[]):  # of weights that are replaced
        nets = cls.build_generators(build_net(run.net, info), settings.norm, run.data)
    state = content["state_dict"]
    prefix = AVERAGES if any(name.startswith(AVERAGES) for name in state) else NETS
    state = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    check_shapes(path, state, nets.state_dict())
    nets.load_state_dict(state)
    nets.eval().requires_grad_(False)
    spans = ((0.0, 1.0), second_span(run.data))
    return Demixer(
        list(nets),
        run.data.weights,
        spans,
        settings,
        run.data.second == "images",
        int(read_record(path.parent).metrics.get("swapped", 0)),
        config or EvalConfig(),
    )
