"""The suite separability: how well the sources of mixed images can be told apart again.

Test images are mixed as the method mixes training images, and the demixer of a finished run
searches for both sources, with the weights of the mixture known: those of each pixel, where the
method gives them. A recovered source is compared with the true one pixel by pixel, and by what a
classifier says of both. Input Mixup with equal weights is the hard case; of a pasted box each pixel
has one source only, and the other's is left to what the demixer knows of such images.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch, Splits
from mixbench.errors import UserError
from mixbench.evaluation.demixer import Demixer, load_demixer
from mixbench.evaluation.gaze import GROUP
from mixbench.evaluation.per_image_random import keys
from mixbench.evaluation.suite import SUITE_BATCH, SUITE_SEED, Counts, Outcome, Suite
from mixbench.evaluation.two_class import TESTED, Judge
from mixbench.methods.evaluation import mix_for_evaluation

KEY = "eval.demixer"
SCORES = ("separable_mse", "separable_top1")
BINS = 5  # of the weight of a source, from 0 to 1
ENDINGS = tuple(f"{100 * place // BINS}" for place in range(BINS))  # smallest weight in percent
NORMAL_95 = 1.96  # of a standard normal variable, 95 % lie within
_ORDER = 2  # of the images, among the keys of the suite's seed
_UNEXPLAINED = 0.01  # largest share of a mixed image's contrast that its weights do not explain


class Separability(Suite):
    """Keeps weight, error and agreement of both sources of each mixed image."""

    columns = SCORES + tuple(f"{name}_{end}" for end in ENDINGS for name in SCORES)
    keys = (KEY,)
    reads = ("eval.judge", "eval.search", "eval.restarts", "eval.search_steps")
    needs = "compares two sources by one class each"
    needs_mask = "the weights of mixed pixels"

    def count(self, model: Any, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Images ``n``, those that were ``mixed``, and four values of both sources of each image.

        ``sources`` (B, 2, 4) are the weight, the squared error per pixel, that of the mixed image
        itself, and whether the judge sees the same class in the recovered and in the true source;
        NaN where an image was left unmixed.
        """
        demixer = self._demixer
        judge = model if self.config.judge is None else Judge(self.config.judge, info)
        found = [torch.empty(0, 2, 4)]
        found += [_separated(model, judge, demixer, batch) for batch in batches]
        sources = torch.cat(found)
        mixed = int((~sources[:, 0, 0].isnan()).sum())
        return {"n": len(sources), "mixed": mixed, "sources": sources}

    def score(self, counts: Mapping[str, Any]) -> dict[str, float]:
        """Mean error and agreement in percent, of all sources and by their weight."""
        if not counts["mixed"]:
            raise ValueError("no image was mixed")
        table = weight_table(counts["sources"])
        scores = {}
        for end, row in table.items():
            ending = f"_{end}" if end else ""
            scores[f"separable_mse{ending}"] = row["mse"]
            scores[f"separable_top1{ending}"] = row["top1"]
        return scores

    def facts(self, info: DataInfo, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Demixer, judge and search, and the table of errors by weight."""
        del info
        table = weight_table(counts["sources"])
        by_weight = {
            f"{int(end) / 100:g} to {int(end) / 100 + 1 / BINS:g}": {
                name: value if name == "sources" else round(value, 6) for name, value in row.items()
            }
            for end, row in table.items()
            if end
        }
        return {
            "demixer": self.config.demixer,
            "judge": self.config.judge or TESTED,
            "mixed": counts["mixed"],
            "by_weight": by_weight,
        } | self._demixer.told()

    def check(self) -> None:
        """Refuse to be carried out without a demixer."""
        if self.config.demixer is None:
            todo = f"give {KEY}=RUN, a finished run of demixgan or denoisegan"
            raise UserError(f"the suite {self.name} needs a demixer", KEY, todo)
        if self.config.encoder_steps:
            what = (
                "an encoder learns sums with fixed weights, and each mixed image has its own "
                "weights"
            )
            raise UserError(what, "eval.encoder_steps", "leave it out")
        _ = self._demixer

    def check_data(self, splits: Splits) -> None:
        """Refuse a demixer of other images, and a judge of other classes."""
        channels, *size = self._demixer.image_shape
        info, where = splits.info, f"{KEY}={self.config.demixer}"
        if [info.height, info.width] != size:
            raise UserError(
                f"the generators of the demixer make images of {size[0]}x{size[1]} pixels, those "
                f"of {info.name} "
                f"have {info.height}x{info.width}",
                where,
                "use a demixer of images of the same size, or another data.size",
            )
        shown = splits.test.sample()[:SUITE_BATCH]
        if channels == 1 and not bool((shown == shown[:, :1]).all()):
            todo = "use a demixer that was trained on such images"
            raise UserError(
                f"the demixer makes grey images, and {info.name} has colours", where, todo
            )
        if self.config.judge is not None:
            Judge(self.config.judge, splits.info)

    @property
    def limit(self) -> int | None:
        """``eval.adv_n`` images."""
        return self.config.subset_size

    @property
    def passes(self) -> int:
        """Those of the demixer, which are of another network."""
        return self._demixer.passes

    def divide(self, rows: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Neighbours in a random order, which become pairs."""
        del labels
        order = keys(SUITE_SEED, torch.tensor([_ORDER]), len(rows))[0].argsort(stable=True)
        return rows[order].split(SUITE_BATCH)

    def as_recorded(self, facts: Mapping[str, Any]) -> Suite | None:
        """With demixer, judge and search of the record; None if the demixer is lost."""
        judge = facts.get("judge")
        names = ("search", "restarts", "search_steps")
        suite = self._with(
            adv_n=facts.get("images"),
            demixer=self.config.demixer or facts.get("demixer"),
            judge=None if judge == TESTED else self.config.judge or judge,
            **{name: facts[name] for name in names if name in facts},
        )
        try:
            suite.check()
        except UserError:
            return None
        return suite

    def add_to_record(
        self, outcome: Outcome, metrics: dict[str, float], evaluations: dict[str, Any]
    ) -> list[str]:
        """Add an outcome; scores of weights that none of its sources has go."""
        for score in [name for name in metrics if name in self.columns]:
            if score not in outcome.scores:
                del metrics[score]
        return super().add_to_record(outcome, metrics, evaluations)

    def headline(self, scores: Iterable[str]) -> list[str]:
        """Error and agreement of all sources."""
        return [score for score in scores if score in SCORES]

    def varies(self, score: str) -> bool:
        """Rounding on another machine grows over the steps of a search."""
        return score in self.columns

    @cached_property
    def _demixer(self) -> Demixer:
        assert self.config.demixer is not None
        return load_demixer(self.config.demixer, KEY, self.config)


def weight_table(sources: Tensor) -> dict[str, dict[str, float]]:
    """Errors and agreement of all sources, under "", and of those in each bin of weights.

    Args:
        sources: (N, 2, 4) as :meth:`Separability.count` keeps them.

    Returns:
        Number of ``sources``, ``mse`` and ``mse_mixed`` per pixel and ``top1`` in percent, by the
        smallest weight in percent; no bin without a source. ``mse_95`` and ``top1_95`` are half
        the widths of normal 95 % intervals over images like these, whose two sources are no
        independent ones; left out where one image has them all.

    Example:
        >>> table = weight_table(torch.tensor([[[0.7, 0.1, 0.2, 1.0], [0.3, 0.3, 0.4, 0.0]]]))
        >>> list(table), table[""]["top1"]
        (['', '20', '60'], 50.0)
    """
    rows = sources.double().flatten(0, 1)
    known = ~rows[:, 0].isnan()
    rows, images = rows[known], torch.arange(len(sources)).repeat_interleave(2)[known]
    places = (rows[:, 0] * BINS + 1e-6).long().clamp(0, BINS - 1)  # 0.6 * 5 may be below 3
    chosen = {"": places >= 0} | {end: places == place for place, end in enumerate(ENDINGS)}
    table: dict[str, dict[str, float]] = {}
    for end, here in chosen.items():
        part = rows[here]
        if not len(part):
            continue
        table[end] = {
            "sources": len(part),
            "mse": float(part[:, 1].mean()),
            "mse_mixed": float(part[:, 2].mean()),
            "top1": 100 * float(part[:, 3].mean()),
        }
        if len(images[here].unique()) > 1:
            table[end]["mse_95"] = _half_width(part[:, 1], images[here])
            table[end]["top1_95"] = 100 * _half_width(part[:, 3], images[here])
    return table


def _half_width(values: Tensor, images: Tensor) -> float:
    """Half the width of the 95 % interval of a mean of values (N,), by the image (N,) of each."""
    off = torch.zeros(int(images.max()) + 1, dtype=values.dtype)
    off.index_add_(0, images, values - values.mean())
    return NORMAL_95 * float(off.square().sum().sqrt()) / len(values)


def _separated(model: Any, judge: Any, demixer: Demixer, batch: Batch) -> Tensor:
    """Values (B, 2, 4) of both sources of each image of a batch; NaN where nothing was mixed."""
    first = to_float(batch.images)
    second, own, other = torch.empty_like(first), torch.zeros_like(first), torch.zeros_like(first)
    known = torch.zeros(len(first), dtype=torch.bool)
    for start in range(0, len(first) - 1, GROUP):  # a last image alone has no partner
        part = slice(start, start + GROUP)
        images, labels = batch.images[part], batch.labels[part]
        perm = torch.arange(len(labels), device=labels.device).roll(1)
        key = SUITE_SEED, int(batch.ids[start])
        x, mixed = mix_for_evaluation(model, images, labels, perm, *key)
        shares = None if mixed.lam is None else model.pixel_weights(x, mixed)
        if shares is None or len(labels) < 2:  # this group was left as it is
            continue
        second[part] = first[part][perm]
        for target, share in zip((own, other), shares, strict=True):
            target[part] = share.to(first)[:, None]
        _check_sum(mixed.x[: len(labels)], own[part] * first[part] + other[part] * second[part])
        known[part] = True
    found = torch.full((len(first), 2, 4), torch.nan)
    if not known.any():
        return found
    rows = known.nonzero().flatten().to(first.device)
    first, second, own, other, ids = (t[rows] for t in (first, second, own, other, batch.ids))
    y = own * first + other * second
    recovered = _sources(demixer, y, (own, other), ids)
    values = []
    for source, estimate, share in zip((first, second), recovered, (own, other), strict=True):
        estimate = estimate.expand_as(source)
        errors = [(image - source).square().mean(dim=(1, 2, 3)) for image in (estimate, y)]
        with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
            same = judge(estimate.clamp(0, 1)).argmax(dim=1) == judge(source).argmax(dim=1)
        values.append(torch.stack([share.mean(dim=(1, 2, 3)), *errors, same.float()], dim=1))
    found[known] = torch.stack(values, dim=1).cpu()
    return found


def _sources(
    demixer: Demixer, y: Tensor, shares: tuple[Tensor, Tensor], ids: Tensor
) -> tuple[Tensor, ...]:
    """Recovered sources (B, c, H, W) of mixed images.

    Two generators of different images try both roles, and the smaller error decides for an image.
    """
    channels = demixer.image_shape[0]
    y, weights = y[:, :channels], [share[:, :channels] for share in shares]
    nets = demixer.image_generators
    found = demixer.separate(y, ids, weights, nets)
    if nets[0] is nets[1]:
        return found.components
    swapped = demixer.separate(y, ids, weights, nets[::-1])
    better = swapped.data_terms.amin(dim=1) < found.data_terms.amin(dim=1)
    better = better[:, None, None, None]
    pairs = zip(swapped.components, found.components, strict=True)
    return tuple(torch.where(better, one, two) for one, two in pairs)


def _check_sum(mixed: Tensor, y: Tensor) -> None:
    """Refuse mixed images that are no weighted sum, up to scale and offset of their channels.

    Raises:
        ValueError: If the weights do not explain them.
    """
    if mixed.shape != y.shape:
        raise ValueError(f"mixed images have the shape {tuple(mixed.shape)}, not {tuple(y.shape)}")
    a, b = (x.double().flatten(2) - x.double().mean(dim=(2, 3))[..., None] for x in (mixed, y))
    slope = (a * b).sum(dim=2) / b.square().sum(dim=2).clamp(min=1e-12)
    rest = (a - slope[..., None] * b).norm(dim=2)
    if bool((rest > _UNEXPLAINED * a.norm(dim=2) + 1e-4).any()):
        raise ValueError(
            "the mixed images are not the weighted sums of their sources, pixel by pixel, as the "
            "method "
            "moves or changes pixels"
        )
