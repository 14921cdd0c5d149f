"""The corruption suite: errors under common corruptions, published or made here."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixbench.config.names import COMMON_CORRUPTIONS, CORRUPTION_GROUPS
from mixbench.config.schema import AUTO, DataInfo, EvalConfig
from mixbench.data.augment.batches import to_float
from mixbench.data.corrupted import CorruptedFiles, folder_of_corrupted, open_corrupted
from mixbench.data.images import Batch, ImageSet, Splits
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError, near_match
from mixbench.evaluation.corruptions.apply import CORRUPTIONS, corrupt
from mixbench.evaluation.corruptions.constants import (
    SEVERITIES,
    SMALLEST_SIDE,
    corruption_table,
)
from mixbench.evaluation.corruptions.textures import frost_textures
from mixbench.evaluation.suite import SUITE_SEED, Counts, Model, Outcome, Suite
from mixbench.metrics.calibration import confidence_and_hit, ece_of_confidence
from mixbench.metrics.corruption import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    group_means,
    mce,
    mean_ce,
    relative_mce,
)
from mixbench.pictures.sheet import Panel, Sheet

CLEAN = "clean"  # the part of the test images themselves
PUBLISHED, GENERATED = "_c", "_c_gen"  # ends of the names of scores
ENDS = (PUBLISHED, GENERATED)
OWN_ICE = "procedural, made by mixbench"
IMAGENET_CLASSES = 1000
GROUP_OF = {name: group for group, names in CORRUPTION_GROUPS.items() for name in names}


class CorruptionSuite(Suite):
    """Keeps the confidence of each image under each corruption and severity, and if it is right.

    Scores end in ``_c_gen`` where the images are made here, as they are not those of a published
    set: textures of frost and the codec of JPEG differ.
    """

    columns = ("mean_ce", "mce", "rel_mce", "mean_ce_c_gen")
    columns += tuple(name + end for end, name in product(ENDS, ("ece", CLEAN, *CORRUPTION_GROUPS)))
    keys = ("eval.corruptions", "eval.corrupted", "eval.frost")

    def __init__(self, config: EvalConfig) -> None:
        super().__init__(config)
        self._opened: CorruptedFiles | None = None
        self._classes = 0

    @property
    def names(self) -> list[str]:
        """Names of the corruptions; the 15 common ones if none is named."""
        found = self.config.corruptions
        return list(COMMON_CORRUPTIONS if found is None else found)

    def parts(self, info: DataInfo) -> Sequence[str]:
        """The test images, then each severity of each corruption as ``<corruption>/<severity>``."""
        self._classes = info.num_classes
        return (CLEAN, *(f"{c}/{s}" for c in self.names for s in SEVERITIES))

    def images(self, part: str, splits: Splits) -> ImageSet:
        """The test images, or published ones."""
        if part == CLEAN or self.config.corrupted is None:
            return splits.test
        name, severity = _named(part)
        return self._files(splits).images(name, severity)

    def count_part(
        self, part: str, model: Model, batches: Iterable[Batch], info: DataInfo
    ) -> Counts:
        """The number ``n`` of images, their ``confidence`` (N,) and whether each is a ``hit``."""
        sure, right = [torch.empty(0)], [torch.empty(0, dtype=torch.bool)]
        for batch in batches:
            x = to_float(self.seen(part, batch, info))
            with torch.no_grad():
                confidence, hit = confidence_and_hit(model(x), batch.labels)
            sure.append(confidence.float().cpu())
            right.append(hit.cpu())
        hits = torch.cat(right)
        return {"n": len(hits), "confidence": torch.cat(sure), "hit": hits}

    def score(self, counts: Mapping[str, Any]) -> dict[str, float]:
        """Errors in percent.

        With the end :data:`PUBLISHED` or :data:`GENERATED`: ``clean`` without corruption, a mean
        for each group, each severity (``severity_1``) and each corruption, and ``ece``, the mean
        calibration error. ``mean_ce`` is the mean over all corruptions, of published images only
        where all fifteen are there; ``mce`` and ``rel_mce`` are relative to AlexNet, for ImageNet.
        The four extra corruptions are part of no mean.
        """
        end = self._end
        errors = self._errors(counts)
        clean = _error(counts, CLEAN)
        common = [name for name in self.names if name in GROUP_OF]
        found: dict[str, float] = {}
        if common:
            table = torch.stack([errors[name] for name in common])
            whole = len(common) == len(COMMON_CORRUPTIONS)
            if end == GENERATED or whole:
                found["mean_ce" + (end if end == GENERATED else "")] = float(mean_ce(table))
            if end == PUBLISHED and whole and self._classes == IMAGENET_CLASSES:
                reference = 100 * torch.tensor([ALEXNET_ERRORS[n] for n in common]).double()
                found["mce"] = float(mce(table, reference))
                base = torch.tensor(100 * ALEXNET_CLEAN_ERROR)
                relative = relative_mce(table, torch.tensor(clean), reference, base)
                found["rel_mce"] = float(relative)
            gaps = [_gap(counts, f"{name}/{s}") for name in common for s in SEVERITIES]
            found[f"ece{end}"] = sum(gaps) / len(gaps)
            groups = group_means(table, [GROUP_OF[name] for name in common])
            found |= {f"{group}{end}": float(value) for group, value in groups.items()}
            for severity, value in zip(SEVERITIES, table.mean(dim=0).tolist(), strict=True):
                found[f"severity_{severity}{end}"] = value
        found[f"clean{end}"] = clean
        return found | {f"{name}{end}": float(errors[name].mean()) for name in errors}

    def facts(self, info: DataInfo, counts: Mapping[str, Any]) -> dict[str, Any]:
        """The source of the images, and the errors by severity."""
        found: dict[str, Any] = {"corruptions": list(self.names), "sets": self._averaged()}
        if self.config.corrupted is not None:
            found["source"] = "published files"
            found["corrupted"] = str(Path(self.config.corrupted).resolve())
        else:
            table = corruption_table(info.height, info.width)
            found["source"] = "made by mixbench"
            told = f"{table.name}, for images of {table.side} pixels"
            if (info.height, info.width) != (table.side, table.side):
                told += f", the nearest size to {info.height} x {info.width}"
            found["constants"] = told
            if "frost" in self.names:
                folder = self.config.frost
                found["textures"] = str(Path(folder).resolve()) if folder else OWN_ICE
        errors = self._errors(counts)
        rounded = {name: [round(e, 4) for e in row.tolist()] for name, row in errors.items()}
        found["errors"] = rounded
        return found

    def doubts(self, scores: Mapping[str, float], counts: Mapping[str, Any]) -> list[str]:
        """A mean over fewer than the fifteen corruptions."""
        del scores, counts
        lacking = [name for name in COMMON_CORRUPTIONS if name not in self.names]
        if not lacking:
            return []
        total = len(COMMON_CORRUPTIONS)
        told = f"{total - len(lacking)} of {total} corruptions"
        if len(lacking) == total:
            return [f"no mean, as none of the {total} common corruptions is there"]
        if self.config.corrupted is not None:
            return [f"no mean_ce, which is a mean over all: {told}, without {', '.join(lacking)}"]
        return [f"mean_ce_c_gen is a mean over {told}, without {', '.join(lacking)}"]

    @property
    def limit(self) -> int | None:
        """``eval.adv_n`` images where it is a number, else all of them."""
        given = self.config.adv_n
        return None if given == AUTO else self.config.subset_size

    def check(self) -> None:
        """Refuse names that are unknown, and textures that nothing would use."""
        names = self.names
        if not names:
            todo = f"name one, or leave {self.name} out of eval.suites"
            raise UserError(f"the suite {self.name} has no corruption", "eval.corruptions", todo)
        for name in names:
            if name not in CORRUPTIONS:
                hint = near_match(name, CORRUPTIONS)
                what = f"unknown corruption {name!r}" + (f"; {hint}" if hint else "")
                todo = f"choose one of: {', '.join(CORRUPTIONS)}"
                raise UserError(what, "eval.corruptions", todo)
        if self.config.corrupted is not None:
            folder_of_corrupted(self.config.corrupted)
        if self.config.frost is not None:
            if self.config.corrupted is not None or "frost" not in names:
                what = "eval.frost has no effect"
                why = "images of eval.corrupted" if self.config.corrupted else "no frost"
                raise UserError(f"{what} on {why}", "eval.frost", "leave it out")
            frost_textures(self.config.frost, 1.0, 1)

    def check_data(self, splits: Splits) -> None:
        """Refuse published images that are not those of the test set."""
        if self.config.corrupted is not None:
            self._files(splits).check(self.names)

    def refusal(self, info: DataInfo, method: Any = None) -> str:
        """Also images that are too small to be corrupted."""
        reason = super().refusal(info, method)
        side = min(info.height, info.width)
        if reason or self.config.corrupted is not None or side >= SMALLEST_SIDE:
            return reason
        return f"it corrupts images of {SMALLEST_SIDE} pixels or more, and {info.name} has {side}"

    def as_recorded(self, facts: Mapping[str, Any]) -> Suite | None:
        """With the corruptions of the record; None where published images or textures are gone."""
        folder = facts.get("corrupted")
        if folder is not None and not Path(folder).is_dir():
            folder = self.config.corrupted
            if folder is None:
                return None
        textures = facts.get("textures")
        frost = textures if textures and Path(textures).is_dir() else None
        if textures and frost is None and textures != OWN_ICE:
            return None
        return self._with(
            corruptions=list(facts.get("corruptions", self.names)),
            corrupted=folder,
            frost=frost,
            adv_n=facts.get("images", self.config.adv_n),
        )

    def unverified(self, score: str, facts: Mapping[str, Any]) -> str:
        """The reason why an error could not be found again."""
        if score not in _scores_of(facts):
            return ""
        return f"{facts.get('corrupted') or facts.get('textures')} is no longer there"

    def add_to_record(
        self, outcome: Outcome, metrics: dict[str, float], evaluations: dict[str, Any]
    ) -> list[str]:
        """Add an outcome in place of an earlier one, whose other scores leave the record."""
        earlier = evaluations.get(self.name, {})
        told = super().add_to_record(outcome, metrics, evaluations)
        gone = [n for n in _scores_of(earlier) if n not in outcome.scores and n in metrics]
        for name in gone:
            del metrics[name]
        shown = self.headline(gone)
        if shown:
            told.append(f"{self.name} removes {', '.join(shown)} of other corruptions or images")
        return told

    def _averaged(self) -> str:
        """The corruptions that means are taken over, in words that are equal if the images are."""
        common = [name for name in COMMON_CORRUPTIONS if name in self.names]
        whole = len(common) == len(COMMON_CORRUPTIONS)
        told = f"the {len(common)} common corruptions" if whole else ", ".join(common)
        if self.config.frost is not None and "frost" in common:
            told += f" with frost of {Path(self.config.frost).resolve().name}"
        return told

    @property
    def _end(self) -> str:
        return GENERATED if self.config.corrupted is None else PUBLISHED

    def _errors(self, counts: Mapping[str, Any]) -> dict[str, Tensor]:
        """Errors (5,) in percent by severity of each corruption."""
        return {
            name: torch.tensor(
                [_error(counts, f"{name}/{s}") for s in SEVERITIES], dtype=torch.float64
            )
            for name in self.names
        }

    def _files(self, splits: Splits) -> CorruptedFiles:
        """The published images of a test set, opened once."""
        if self._opened is None or self._opened.splits is not splits:
            assert self.config.corrupted is not None
            self._opened = open_corrupted(self.config.corrupted, splits)
        return self._opened

    def seen(self, part: str, batch: Batch, info: DataInfo) -> Tensor:
        """What a network sees of a batch of :meth:`images`.

        Args:
            part: One of :meth:`parts`.
            batch: Images (B, 3, H, W), corrupted already where they are published ones.
            info: Reads the size of the images.

        Returns:
            (B, 3, H, W) uint8.
        """
        if part == CLEAN or self.config.corrupted is not None:
            return batch.images
        name, severity = _named(part)
        table = corruption_table(info.height, info.width)
        textures: Sequence[Tensor] = ()
        if name == "frost":
            side = max(info.height, info.width)
            textures = frost_textures(self.config.frost, table.frost, side)
        return corrupt(
            batch.images,
            name,
            severity,
            seed=SUITE_SEED,
            ids=batch.ids,
            textures=textures,
            table=table,
        )


def corruption_sheet(suite: CorruptionSuite, splits: Splits, row: int = 0) -> Sheet:
    """A test image under each corruption, a row for each, and each severity.

    Args:
        suite: The corruptions, published or made here.
        splits: The data.
        row: Which test image.

    Returns:
        The sheet.
    """

    def image(part: str) -> Tensor:
        batch = suite.images(part, splits)[BatchIndex(torch.tensor([row]), 0)]
        return to_float(suite.seen(part, batch, splits.info))[0]

    names = suite.names

    def rows(own: int, other: int) -> list[list[Panel]]:
        del other
        name = names[own]
        panels = [Panel("image", image(CLEAN), [name.replace("_", " ")])]
        shown = [Panel(f"severity {s}", image(f"{name}/{s}")) for s in SEVERITIES]
        return [[*panels, *shown]]

    places = range(len(names))
    source = "published" if suite.config.corrupted is not None else "made by mixbench"
    title = f"Corruptions, {source}, of test image {row} of {splits.info.name}"
    return Sheet(list(zip(places, places, strict=True)), rows, title=title, most=len(names))


def _named(part: str) -> tuple[str, int]:
    name, _, severity = part.partition("/")
    return name, int(severity)


def _error(counts: Mapping[str, Any], part: str) -> float:
    return 100 * (1 - float(counts[f"{part}/hit"].double().mean()))


def _gap(counts: Mapping[str, Any], part: str) -> float:
    return float(ece_of_confidence(counts[f"{part}/confidence"].double(), counts[f"{part}/hit"]))


def _scores_of(facts: Mapping[str, Any]) -> list[str]:
    """Names of all scores that a record with these facts can have."""
    if not facts:
        return []
    end = PUBLISHED if facts.get("corrupted") else GENERATED
    whole = ("mean_ce", "mce", "rel_mce") if end == PUBLISHED else (f"mean_ce{end}",)
    names = ["ece", *CORRUPTION_GROUPS, *(f"severity_{s}" for s in SEVERITIES), CLEAN]
    return [*whole, *(f"{name}{end}" for name in [*names, *facts.get("corruptions", ())])]
