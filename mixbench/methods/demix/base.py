"""Base of denoising-GAN and demixing-GAN: the two phases of a step, and the search at the test."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.config.schema import DataConfig
from mixbench.data.augment.batches import Augmentation, to_float
from mixbench.data.images import Batch
from mixbench.data.mixtures import second_span
from mixbench.data.sampling import OBSERVE, mix_seed
from mixbench.errors import UserError, counted
from mixbench.functional.latent_search import draw_starts, latent_search
from mixbench.methods.base import Method
from mixbench.methods.demix.config import DemixConfig
from mixbench.methods.pictures.components import draw_observations, draw_separated
from mixbench.metrics.images import psnr_of, ssim_of
from mixbench.nn.gan import AveragedGenerators, ImageDiscriminator, ImageGenerator
from mixbench.pictures.sheet import Sheet
from mixbench.records.weights import load_network
from mixbench.tasks.demixing import FIGURES

COLLAPSED = 0.02  # deviation over a batch, mean over pixels, below which images are all alike
SHOWN = 8  # separated test images of a picture
log = logging.getLogger("mixbench")


class Observed(NamedTuple):
    """Record of a step: both components (B, C, H, W) of the observations, and what was drawn.

    ``fresh`` (B, C, H, W) is another draw of the second component. ``latents`` (B, L) are one for
    each generator.
    """

    first: Tensor
    second: Tensor
    fresh: Tensor
    latents: tuple[Tensor, ...]


class Separated(NamedTuple):
    """Separated test images (B, C, H, W): observations, estimates by generator, the true parts."""

    y: Tensor
    parts: tuple[Tensor, ...]
    truth: tuple[Tensor, Tensor]


class DemixMethod(Method, ABC):
    """Base of methods that learn what was never seen alone.

    The generators and a discriminator take turns at each batch, each with an optimiser of its own.
    ``net`` holds the generators, one for each unknown component, of the size of the network that
    the run names. Pixels stay as they are: the first component lies in [0, 1], the second in the
    range of what is added, and no image is normalised, which would break the sum.

    Batch normalisation sees observed and made images apart. With several processes it has the
    statistics of all of them (SyncBN), which needs GPUs; ``method.norm=group`` needs neither.

    The test separates ``method.tested`` test images by a search for latent vectors, in float32.
    """

    Config: Any = DemixConfig
    tasks = frozenset({"demix"})
    files = ("classifier",)
    cost = 3.0
    find_unused_parameters = True  # each phase uses the parameters of one side only
    picture = draw_observations
    components = 2  # that are not known

    def __init__(self, net: ImageGenerator, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.automatic_optimization = False
        cfg, data = self.config, self.run.data
        self.net = self.build_generators(net, cfg.norm, data)
        width = max(1, net.width // 4) if cfg.d_width is None else cfg.d_width
        spectral = bool(cfg.chosen("spectral"))
        self.discriminator = ImageDiscriminator(
            net.image_shape, width, cfg.norm, cfg.d_act, spectral
        )
        if self.run.world > 1 and cfg.norm == "batch":
            self._synchronise()
        self.averages = AveragedGenerators(self.net) if cfg.chosen("ema") else None
        self.judge: Any = None if cfg.classifier is None else _Judge(cfg.classifier)
        self.watch = torch.zeros(self.components, 4)  # mean, variance, collapsed steps, all steps
        self.separated: Separated | None = None  # of the last evaluation, for a picture

    @classmethod
    def build_generators(cls, net: ImageGenerator, norm: str, data: DataConfig) -> nn.ModuleList:
        """New generators of the unknown components.

        Args:
            net: A generator of their size.
            norm: Value of ``method.norm``.
            data: What is observed, which gives the range of second components.
        """
        spans = ((0.0, 1.0), second_span(data))[: cls.components]
        return nn.ModuleList([net.like(norm, span) for span in spans])

    def _synchronise(self) -> None:
        if self.run.trainer.accelerator == "cpu" or not torch.cuda.is_available():
            raise UserError(
                "batch normalisation of several processes has shared statistics on GPUs only",
                "method.norm=batch",
                "use method.norm=group, which sees each image alone",
            )
        self.net = nn.SyncBatchNorm.convert_sync_batchnorm(self.net)
        self.discriminator = nn.SyncBatchNorm.convert_sync_batchnorm(self.discriminator)

    @property
    def generators(self) -> nn.ModuleList:
        """The generators that are trained, that of the first component in front."""
        return self.net

    def frozen_generators(self) -> list[nn.Module]:
        """Copies of the generators for a search: in eval mode, in float32, without gradients.

        They are the averages of the generators where there are such.
        """
        nets = self.net if self.averages is None else self.averages.nets
        return [copy.deepcopy(net).eval().requires_grad_(False).float() for net in nets]

    def observe(self, first: Tensor, second: Tensor) -> Tensor:
        """Observations (B, C, H, W) of two components, by their known weights."""
        data = self.run.data
        y = data.weights[0] * first + data.weights[1] * second
        return y.clamp(0, 1) if data.clip else y

    @abstractmethod
    def make(self, observed: Observed) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Made observations (B, C, H, W), with a graph to the generators, and their components."""

    @abstractmethod
    def trivial(self, y: Tensor) -> Tensor:
        """The estimate (B, C, H, W) of the first component that needs no model."""

    # Batches.

    def prepare(self, batch: Batch, drawn: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        """First components as float pixels, and their classes; nothing is augmented."""
        del drawn
        targets = self.task.targets(batch.labels, self.info.num_classes, self.run.optim)
        return self._layout(to_float(batch.images)), targets

    def mix_batch(self, batch: Batch) -> mf.Mixed:
        """Observations of a batch, with all that a step draws."""
        x, targets = self.prepare(batch)
        if batch.added is None:
            raise ValueError("observations need their second components, got images alone")
        second, fresh = batch.added[:, 0], self.draw_known(batch)
        latents = self.draw_latents(len(x))
        observed = Observed(x, second, fresh, latents)
        return mf.Mixed(self._layout(self.observe(x, second)), targets, aux=observed)

    def draw_known(self, batch: Batch) -> Tensor:
        """Second components (B, C, H, W) that are independent of the observations."""
        assert batch.added is not None
        return batch.added[:, -1]

    def draw_latents(self, rows: int) -> tuple[Tensor, ...]:
        """Latent vectors (rows, L) for each generator, uniform on [-1, 1]."""
        drawn = torch.rand(len(self.net), rows, self.net[0].latent, generator=self.generator)
        return tuple((2 * drawn - 1).to(self.device, non_blocking=True))

    # The step.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of the discriminator and one of the generators."""
        self.reseed(self.current_epoch, batch_idx)
        mixed = self.mix_batch(batch)
        optimizers: Any = self.optimizers()
        made, components = self.make(mixed.aux)
        terms = self._phase(optimizers[1], self.discriminator_loss(mixed.x, made.detach()))
        self.discriminator.requires_grad_(False)  # whose gradient nobody needs in this phase
        try:
            losses = self.generator_loss(made, components, mixed.aux.latents)
            terms |= self._phase(optimizers[0], losses)
        finally:
            self.discriminator.requires_grad_(True)
        for scheduler in self.lr_schedulers():  # type: ignore[union-attr]
            scheduler.step()  # type: ignore[call-arg]
        self.step += 1
        self.after_step()
        self._look(components)
        loss = sum(terms.values(), start=torch.zeros((), device=self.device))
        self.follow_loss(loss, terms, None, mixed, batch_idx, len(batch.ids))
        return loss

    def _phase(self, optimizer: Any, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """A step of one side; its terms without their graph."""
        optimizer.zero_grad()
        self.manual_backward(sum(terms.values()))  # type: ignore[arg-type]
        optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def discriminator_loss(self, y: Tensor, made: Tensor) -> dict[str, Tensor]:
        """Terms of the discriminator's loss; observed and made images pass it apart."""
        cfg = self.config
        weight = cfg.chosen("r1")
        y = y.detach().requires_grad_(bool(weight))
        real = self.discriminator(y)
        kind = cfg.chosen("loss")
        terms = {"d": mf.discriminator_loss(real, self.discriminator(made), kind)}
        if weight:
            terms["r1"] = weight / 2 * mf.r1_penalty(real, y)
        return terms

    def generator_loss(
        self, made: Tensor, components: Sequence[Tensor], latents: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Terms of the generators' loss."""
        cfg = self.config
        logits = self.discriminator(made)
        saturating = cfg.saturating
        terms = {"g": mf.generator_loss(logits, cfg.chosen("loss"), saturating=saturating)}
        if weight := cfg.chosen("diversity"):
            pairs = zip(latents, components, strict=True)
            penalties = [mf.diversity_penalty(z, part) for z, part in pairs]
            terms["diversity"] = weight * torch.stack(penalties).mean()
        return terms

    def after_step(self) -> None:
        """Let the averaged generators follow."""
        if self.averages is not None:
            self.averages.update(self.net, self.config.chosen("ema"))

    def configure_optimizers(self) -> Any:
        """One optimiser and schedule for the generators, and one for the discriminator."""
        return [self.optimizer_of(self.groups_of(net)) for net in (self.net, self.discriminator)]

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of both sides, for whoever asks for all of them."""
        return self.groups_of(self.net) + self.groups_of(self.discriminator)

    # What is watched.

    @torch.no_grad()
    def _look(self, components: Sequence[Tensor]) -> None:
        """Add a step to the means and variances of the components; nothing waits for it."""
        rows = []
        for part in components:
            part = part.detach().float()
            spread = part.std(dim=0, correction=0).mean()
            collapsed = (spread < COLLAPSED).float()
            rows.append(torch.stack([part.mean(), part.var(), collapsed, torch.ones_like(spread)]))
        self.watch = self.watch.to(self.device, non_blocking=True) + torch.stack(rows)

    def on_train_epoch_end(self) -> None:
        """Also report mean and variance of each component, and warn of a collapse.

        Of several processes each looks at its own part of the batches; the leading one's are shown.
        """
        super().on_train_epoch_end()
        means = self.watch[:, :2] / self.watch[:, 3:].clamp(min=1)
        values: dict[str, Tensor] = {}
        for place, (mean, variance) in enumerate(means, start=1):
            values |= {f"mean_{place}": mean, f"var_{place}": variance}
            values[f"collapsed_{place}"] = self.watch[place - 1, 2]
        self.report(values)
        for place, (_, _, collapsed, steps) in enumerate(self.watch.tolist(), start=1):
            if collapsed:
                log.warning(
                    "component %d collapsed in %d of %s of epoch %d: its images differ by less "
                    "than %g",
                    place,
                    collapsed,
                    counted(round(steps), "step"),
                    self.current_epoch + 1,
                    COLLAPSED,
                )
        self.watch = torch.zeros_like(self.watch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also keep what was seen of an epoch that is not over."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["mixbench_components"] = self.watch.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set it again."""
        super().on_load_checkpoint(checkpoint)
        self.watch = checkpoint["mixbench_components"]

    # Evaluation.

    def forward(self, x: Tensor) -> Tensor:
        """As many sums as ``x`` has rows, of the middle of the latent space: the cost of an image.

        An evaluation does not call it; it separates, see :meth:`separate`.
        """
        z = x.new_zeros(len(x), self.net[0].latent)
        return torch.stack([net(z) for net in self.net]).sum(dim=0)

    def separate(self, y: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        """Components (B, C, H, W) of observations, without their weights, by generator.

        Args:
            y: (B, C, H, W) observations.
            ids: (B,) numbers of the images, by which the search starts.

        Returns:
            One for each generator.
        """
        cfg, nets = self.config, self.frozen_generators()
        seeds = torch.tensor([mix_seed(OBSERVE, row) for row in ids.tolist()])
        found = latent_search(
            nets,  # type: ignore[arg-type]
            y,
            draw_starts(seeds, cfg.restarts, [net.latent for net in nets]),  # type: ignore[misc]
            weights=self.run.data.weights[: len(nets)],
            penalties=[cfg.penalty],
            steps=cfg.search_steps,
            lr=cfg.search_lr,
        )
        return found.components

    @property
    def test_passes(self) -> float:
        """Forward passes that the test of an image takes, on average over all test images."""
        cfg, size = self.config, max(1, self.info.test_size)
        share = 1.0 if cfg.tested is None else min(1.0, cfg.tested / size)
        return 3 * share * cfg.restarts * cfg.search_steps

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Figures of separated images, of those that are tested, in the place of logits."""
        rows = self._tested(batch)
        # The search needs gradients, which tensors of inference mode cannot have.
        with torch.inference_mode(False), torch.autocast(self.device.type, enabled=False):
            assert batch.added is not None
            first = to_float(batch.images.index_select(0, rows).clone())
            second = batch.added.index_select(0, rows)[:, 0].clone()
            labels, ids = batch.labels[rows].clone(), batch.ids[rows].clone()
            y = self.observe(first, second)
            parts = self.separate(y, ids) if len(rows) else ()
            truth = (first, second)
            figures, trivial = self._figures(y, parts, truth, labels)
        if batch_idx == 0:
            shown = tuple(part[:SHOWN] for part in parts)
            self.separated = Separated(y[:SHOWN], shown, (first[:SHOWN], second[:SHOWN]))
        return {"logits": figures, "y": trivial, "ids": ids, "extra": {}}

    test_step = validation_step

    def _tested(self, batch: Batch) -> Tensor:
        """Places in a batch of the separated images, as many of a hold-out as of a test."""
        size, most, ids = batch.set_size, self.config.tested, batch.ids
        if size is None or most is None or most >= size:
            return torch.arange(len(ids), device=ids.device)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(OBSERVE))
        return torch.isin(ids, order[:most].to(ids.device)).nonzero().flatten()

    @torch.no_grad()
    def _figures(
        self, y: Tensor, parts: Sequence[Tensor], truth: tuple[Tensor, Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rows (B, 9) of figures of the estimates, and the same of the trivial estimate."""
        lost = y.new_full((len(y), 1), torch.nan)
        weights = self.run.data.weights
        if not len(y):
            empty = y.new_empty(0, 2 * len(FIGURES) + 1)
            return empty, empty
        plain = self.trivial(y)
        plain = (plain, (y - weights[0] * plain) / weights[1])
        second = (y - weights[0] * parts[0]) / weights[1] if len(parts) == 1 else parts[1]
        rows = []
        for found in ((parts[0], second), plain):
            own = self._row(found, truth, labels)
            # With one generator there is nothing to swap.
            other = self._row(found[::-1], truth, labels) if len(parts) > 1 else own * torch.nan
            rows.append(torch.cat([own, other], dim=1))
        total = self.observe(parts[0], second if len(parts) > 1 else torch.zeros_like(second))
        residual = (y - total).square().mean(dim=(1, 2, 3))[:, None]
        return torch.cat([rows[0], residual], 1), torch.cat([rows[1], torch.zeros_like(lost)], 1)

    def _row(self, found: Sequence[Tensor], truth: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Figures (B, 4) of the first component, and the PSNR of the second."""
        lost = torch.full_like(labels, torch.nan, dtype=torch.float32)
        if self.run.data.second == "none":  # sums whose parts nobody knows
            return torch.stack([lost] * len(FIGURES), dim=1)
        hit = lost if self.judge is None else 100 * (self.judge(found[0]) == labels).float()
        own = [psnr_of(found[0], truth[0]), ssim_of(found[0], truth[0]), hit]
        return torch.stack([*own, psnr_of(found[1], truth[1])], dim=1)

    def tested_picture(self) -> Sequence[Sheet]:
        """Separated test images beside their true parts."""
        return draw_separated(self)


class _Judge:
    """The fixed network of a finished run, which names the class of images in one channel or more.

    It is no part of the method's own weights.
    """

    def __init__(self, given: str) -> None:
        self.net, self.info = load_network(given, "method.classifier")
        self.net.eval().requires_grad_(False)

    def __call__(self, x: Tensor) -> Tensor:
        """Class (B,) of each image (B, C, H, W)."""
        net, info = self.net.to(x.device), self.info
        mean, std = (x.new_tensor(value)[:, None, None] for value in (info.mean, info.std))
        return net((x.expand(-1, info.channels, -1, -1) - mean) / std).argmax(dim=1)
