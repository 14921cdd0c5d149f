"""The suite separation: what a demixer recovers of the components of test observations.

Every observation is separated by a search for latent vectors, as the paper does at the test, and
both estimates are compared with the components that were added. Which generator makes which
component is decided once for a model, by observations of the hold-out or, where there is none, of
the training set; ``sep_psnr_matched`` decides for each image, with knowledge that nobody has.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch, ImageSet, Splits
from mixbench.data.loaders import MixData
from mixbench.distributed.process_group import ProcessGroup
from mixbench.evaluation.demixer import Demixer
from mixbench.evaluation.per_image_random import subset
from mixbench.evaluation.suite import SUITE_SEED, Counts, Outcome, Show, Suite
from mixbench.evaluation.two_class import Judge
from mixbench.files import write_bytes
from mixbench.methods.demix.base import Separated
from mixbench.metrics.images import psnr_of, ssim_of
from mixbench.pictures.raster import raster
from mixbench.pictures.sheet import as_sheets

DECIDING, TESTED = "deciding", "test"  # parts
DECISION_IMAGES = 64  # observations that say which generator makes which component
PICTURE, DRAWN = "separation.png", 8  # images of the picture
# What is found of each image under an assignment of the generators.
FIGURES = ("psnr", "ssim", "psnr_second", "ssim_second")
HITS = ("top1", "top1_observed", "top1_clean")
NOBODY = "none"


class Separation(Suite):
    """Keeps figures of each image under both assignments, and whether the judge is right."""

    columns = tuple(f"sep_{name}" for name in (*FIGURES, "gain", *HITS, "psnr_matched", "residual"))
    keys = ("eval.encoder_steps",)
    reads = ("eval.judge", "eval.search", "eval.restarts", "eval.search_steps")
    needs = "separates sums"

    def __init__(self, config: EvalConfig) -> None:
        super().__init__(config)
        self._demixer: Demixer | None = None

    def refusal(self, info: DataInfo, method: Any = None) -> str:
        """Of methods that separate nothing, and of sums whose parts nobody knows."""
        del info
        if method is None:
            return ""
        if not hasattr(method, "frozen_generators"):
            return "it needs generators of components, which demixgan and denoisegan train"
        unknown = method.run.data.second == "none"
        return "it compares with the components of sums, which nobody knows here" * unknown

    def parts(self, info: DataInfo) -> Sequence[str]:
        """The images that decide on the assignment, and the test images."""
        del info
        return (DECIDING, TESTED)

    def images(self, part: str, splits: Splits) -> ImageSet:
        """Some of the hold-out, or of the training images, and the test images."""
        if part == TESTED:
            return splits.test
        images = splits.train if splits.val is None else splits.val
        return images.subset(subset(len(images), DECISION_IMAGES, SUITE_SEED))

    def count_part(self, part: str, model: Any, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Images ``n``, the ``micros`` of their searches, and values of each image.

        These are ``found`` (B, A, 4), the figures under each of A assignments, the ``trivial``
        PSNR, the ``residual`` per pixel, and ``hits`` (B, A + 2) of the judge: on the estimates of
        first components, on the observation and on the true component.
        """
        if part == DECIDING or self._demixer is None:  # else the encoder would be trained anew
            self._demixer = Demixer.of(model, self.config)
        demixer = self._demixer
        judge = None if self.config.judge is None else Judge(self.config.judge, info)
        assignments = len(demixer.generators)
        found = [torch.empty(0, assignments, len(FIGURES))]
        trivial, residual = [torch.empty(0)], [torch.empty(0)]
        hits = [torch.empty(0, assignments + 2, dtype=torch.bool)]
        micros = 0
        for batch in batches:
            assert batch.added is not None
            first, second = to_float(batch.images), batch.added[:, 0]
            y = model.observe(first, second)
            begun = time.perf_counter()
            recovered = demixer.separate(y, batch.ids)
            terms = recovered.data_terms.amin(dim=1).cpu()  # waits for the device
            micros += round(1e6 * (time.perf_counter() - begun))
            estimates = demixer.both(y, recovered.components)
            ways = [estimates, estimates[::-1]][:assignments]
            found.append(torch.stack([_figures(way, (first, second)) for way in ways], dim=1).cpu())
            trivial.append(psnr_of(model.trivial(y), first).cpu())
            residual.append(terms / y[0].numel())
            seen = [*(way[0] for way in ways), y / demixer.weights[0], first]
            if judge is not None:
                right = [_classes(judge, image) == batch.labels for image in seen]
                hits.append(torch.stack(right, dim=1).cpu())
            if part == TESTED and model.separated is None:
                shown = tuple(image[:DRAWN].cpu() for image in estimates)
                truth = (first[:DRAWN].cpu(), second[:DRAWN].cpu())
                model.separated = Separated(y[:DRAWN].cpu(), shown, truth)
        values = {"found": found, "trivial": trivial, "residual": residual}
        values |= {} if judge is None else {"hits": hits}
        counts: Counts = {name: torch.cat(parts) for name, parts in values.items()}
        return {"n": len(counts["found"]), "micros": micros} | counts

    def score(self, counts: Mapping[str, Any]) -> dict[str, float]:
        """Means over the test images, PSNR in dB and hits in percent."""
        way = _assignment(counts)
        found = counts[f"{TESTED}/found"].double()
        means = found[:, way].mean(dim=0).tolist()
        scores = {f"sep_{name}": value for name, value in zip(FIGURES, means, strict=True)}
        scores["sep_gain"] = means[0] - float(counts[f"{TESTED}/trivial"].double().mean())
        best = _paired(found).argmax(dim=1)
        matched = found[torch.arange(len(found)), best, 0]
        scores["sep_psnr_matched"] = float(matched.mean())
        scores["sep_residual"] = float(counts[f"{TESTED}/residual"].double().mean())
        if f"{TESTED}/hits" in counts:
            hits = 100 * counts[f"{TESTED}/hits"].double().mean(dim=0)
            shown = [hits[way], *hits[-2:]]
            scores |= {f"sep_{n}": float(hit) for n, hit in zip(HITS, shown, strict=True)}
        return {name: value for name, value in scores.items() if value == value}

    def facts(self, info: DataInfo, counts: Mapping[str, Any]) -> dict[str, Any]:
        """The assignment, the judge, and the time of a search."""
        del info
        return {
            "images": counts[f"{TESTED}/n"],
            "judge": self.config.judge or NOBODY,
            "first_component": f"generator {_assignment(counts) + 1}",
            "deciding": counts[f"{DECIDING}/n"],
            "ms_per_image": round(counts[f"{TESTED}/micros"] / 1e3 / counts[f"{TESTED}/n"], 3),
            "search": self.config.search,
            "restarts": self.config.restarts,
            "search_steps": self.config.search_steps,
            "encoder_steps": self.config.encoder_steps,
        }

    def run(
        self,
        method: Any,
        data: MixData,
        group: ProcessGroup,
        show: Show = iter,
        folder: Path | None = None,
    ) -> Outcome:
        """Judge, and draw the first test images with their components into the run's folder."""
        method.separated = None
        outcome = super().run(method, data, group, show, folder)
        sheets = method.tested_picture()
        if folder is not None and group.is_main and sheets:
            picture = raster(as_sheets(sheets))
            write_bytes(folder / PICTURE, lambda file: picture.save(file, "png"))
        return outcome

    def check_data(self, splits: Splits) -> None:
        """Refuse a judge of other classes."""
        if self.config.judge is not None:
            Judge(self.config.judge, splits.info)

    @property
    def limit(self) -> int | None:
        """``eval.adv_n`` images."""
        return self.config.subset_size

    @property
    def passes(self) -> int:
        """Those of a search by default settings; the demixer's own may differ."""
        return 3 * (self.config.restarts or 4) * (self.config.search_steps or 300)

    def add_to_record(
        self, outcome: Outcome, metrics: dict[str, float], evaluations: dict[str, Any]
    ) -> list[str]:
        """Add an outcome; without a judge there are no hits, also not those of an earlier one."""
        for score in self.columns:
            if score not in outcome.scores:
                metrics.pop(score, None)
        return super().add_to_record(outcome, metrics, evaluations)

    def as_recorded(self, facts: Mapping[str, Any]) -> Suite:
        """With the judge and the search of the record."""
        judge = facts.get("judge")
        names = ("search", "restarts", "search_steps", "encoder_steps")
        return self._with(
            adv_n=facts.get("images"),
            judge=None if judge == NOBODY else self.config.judge or judge,
            **{name: facts[name] for name in names if name in facts},
        )

    def varies(self, score: str) -> bool:
        """Rounding on another machine grows over the steps of a search."""
        return score.startswith("sep_")


def _figures(estimates: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """PSNR and SSIM of the first component and of the second (B, 4)."""
    pairs = zip(estimates, truth, strict=True)
    return torch.stack([of(x, true) for x, true in pairs for of in (psnr_of, ssim_of)], dim=1)


def _classes(judge: Judge, images: Tensor) -> Tensor:
    """Classes (B,) that a judge sees in images (B, C, H, W), cut to [0, 1]."""
    pixels = images.clamp(0, 1).expand(-1, len(judge.mean), -1, -1)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return judge(pixels).argmax(dim=1)


def _paired(found: Tensor) -> Tensor:
    """Mean PSNR of both components (B, A) under each assignment."""
    return found[:, :, [FIGURES.index("psnr"), FIGURES.index("psnr_second")]].mean(dim=2)


def _assignment(counts: Mapping[str, Any]) -> int:
    """0 where the first generator makes first components, else 1."""
    return int(_paired(counts[f"{DECIDING}/found"].double()).mean(dim=0).argmax())
