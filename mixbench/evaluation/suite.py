"""A suite judges a trained network by more than its test: its hooks, and the template around them.

A suite counts images, so that several processes can share the work and add up: batches of images
are the same for any number of processes, and so are the scores. Where counts do not suffice, it
keeps values per image, which are put in the order of the images. A suite of several parts, such as
one for each corruption, is resumed behind the last part that was finished. To add one, write a
class with ``count`` and ``score`` in a file of this folder, name it in
:data:`mixbench.config.names.SUITES`, and give each of its scores a line in
:mod:`mixbench.leaderboard.columns`.
"""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixbench.config.names import SUITES
from mixbench.config.schema import AUTO, SUBSET, DataInfo, EvalConfig
from mixbench.data.images import Batch, ImageSet, Splits
from mixbench.data.loaders import MixData
from mixbench.data.sampling import BatchIndex
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import UserError
from mixbench.evaluation.finished_parts import FinishedParts
from mixbench.evaluation.inference import on_device
from mixbench.evaluation.per_image_random import subset

log = logging.getLogger("mixbench")
SUITE_BATCH = 64  # images that a network sees together
SUITE_SEED = 0  # of subsets, random starts, patterns and partners: the same for every run
# Facts that scores side by side share.
SETTINGS = ("images", "of", "seed", "maps", "saliency", "sets", "map", "cam_class", "cam_resize")
SETTINGS += ("judge", "answers", "demixer", "search", "restarts", "search_steps")
SETTINGS += ("encoder_steps",)
Model = Callable[[Tensor], Tensor]  # pixels (B, C, H, W) in [0, 1] to logits (B, K), in eval mode
# Whole numbers, which are added up, and tensors (B, ...) of one value for each image.
Counts = dict[str, Any]
Show = Callable[[Any], Iterable[Batch]]
ONLY_PART = ""  # of a suite that looks at the test images once
_LOST, _SIZES = "not numbers", ("adv_n",)
# After training, suites of eval.adv_n=auto look at as many images as SHARE of its passes pays for,
# in steps of GRAIN, and at none if they would be fewer than SMALLEST.
SHARE, GRAIN, SMALLEST = 0.1, 16, 48
TRAINING = 3  # passes of a training image: a gradient by the weights and the layer below is two


@dataclass
class Outcome:
    """The result of a suite.

    Attributes:
        scores: By the names of a leaderboard row.
        facts: How it was carried out, for the record.
        warnings: Reasons not to believe it.
    """

    scores: dict[str, float]
    facts: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


class Suite(ABC):
    """Base of all suites.

    Args:
        config: The section ``eval`` of a configuration.

    Attributes:
        name: The name under which it was asked for.
        columns: Its scores that a table shows; others, such as complements, are kept in the record.
        keys: Keys of ``eval`` that ask for the suite where a user types them.
        reads: Other keys of ``eval`` that it reads; typed beside its name they ask for no other.
        tasks: Kinds of data that it can judge networks of.
        needs: Why not of others, in a few words that follow "it".
        needs_mask: What of a mask over pixels the method has to tell; empty if nothing.
        of_test: Whether its scores are found by the test itself, so that stored predictions suffice
            and ``count`` is never called.
    """

    name = ""
    columns: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    tasks = frozenset({"multiclass"})
    needs = "counts right classes"
    needs_mask = ""
    of_test = False

    def __init__(self, config: EvalConfig) -> None:
        self.config = config

    # Hooks: what a suite is.

    def count(self, model: Model, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Count over some batches; counts of several processes are added.

        Args:
            model: The network; a method where a run is judged.
            batches: Images of :meth:`batches`, where the network is; there may be none.
            info: Facts of the data.

        Returns:
            Whole numbers by name, among them ``n``, the number of images; tensors of one value or
            row for each image of the batches, in their order; the same names, trailing shapes and
            types for any batches.

        Raises:
            ValueError: If it cannot judge such images or such a network.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither count nor count_part")

    def parts(self, info: DataInfo) -> Sequence[str]:
        """Names of the parts of its work, each over a set of images."""
        del info
        return (ONLY_PART,)

    def images(self, part: str, splits: Splits) -> ImageSet:
        """The images that it looks at in a part, and whose labels :meth:`batches` gets."""
        del part
        return splits.test

    def count_part(
        self, part: str, model: Model, batches: Iterable[Batch], info: DataInfo
    ) -> Counts:
        """Count over some batches of a part, as :meth:`count` does for a suite of one part."""
        del part
        return self.count(model, batches, info)

    @abstractmethod
    def score(self, counts: Mapping[str, Any]) -> dict[str, float]:
        """The scores that follow from the counts of all images.

        Args:
            counts: Sums of the numbers, and tensors (N, ...) in the order of the images; by
                ``<part>/<name>`` where the suite has several parts.

        Returns:
            Values by the names of a leaderboard row.
        """

    def facts(self, info: DataInfo, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Settings and counts of how it was carried out, for the record."""
        del info, counts
        return {}

    def doubts(self, scores: Mapping[str, float], counts: Mapping[str, Any]) -> list[str]:
        """Reasons not to believe its scores, in sentences."""
        del scores, counts
        return []

    def check(self) -> None:
        """Refuse settings with which it cannot be carried out, before any data is read."""
        return  # most have none that can be wrong

    def check_data(self, splits: Splits) -> None:
        """Refuse data that its settings do not fit, before training."""
        del splits

    def refusal(self, info: DataInfo, method: Any = None) -> str:
        """The reason why it cannot judge networks of some data; empty if it can.

        Args:
            info: Facts of the data.
            method: The method that trained it; without it only the data is looked at.

        Returns:
            A few words.
        """
        if method is not None and not method.task.classifies:
            return f"it {self.needs}, and task={method.task.name} names none"
        if info.task not in self.tasks:
            return f"it {self.needs}, and {info.name} is {info.task}"
        if self.needs_mask and method is not None and method.no_mask_reason:
            name = method.run.method["name"]
            return f"{self.name} needs {self.needs_mask}; {name}: {method.no_mask_reason}"
        return ""

    @property
    def limit(self) -> int | None:
        """Largest number of images that it looks at; None for all test images."""
        return None

    @property
    def passes(self) -> int:
        """Forward passes for an image, at most, if their number may depend on the training's.

        A gradient by the pixels counts as one more. 0 for suites that look at the same images
        after any training.
        """
        return 0

    @property
    def maps(self) -> str | None:
        """Value of ``eval.gaze`` if its batches are to bring maps."""
        return None

    def divide(self, rows: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Rows (N,) of test images in batches; ``labels`` are those of all test images."""
        del labels
        return rows.split(SUITE_BATCH)

    # Hooks for records of the past.

    def as_recorded(self, facts: Mapping[str, Any]) -> "Suite | None":
        """The suite as a record says that it was carried out; None if that is not possible here."""
        return self._with(adv_n=facts.get("images", self.config.adv_n))

    def unverified(self, score: str, facts: Mapping[str, Any]) -> str:
        """The reason why a score of its own cannot be computed again; empty for other scores."""
        del score, facts
        return ""

    def varies(self, score: str) -> bool:
        """Whether a few images may be counted otherwise on another machine."""
        del score
        return False

    def replaced(self, earlier: Mapping[str, Any], outcome: Outcome) -> Iterable[str]:
        """Scores that an outcome under other settings replaces.

        Args:
            earlier: Facts of the suite in the record.
            outcome: The new result.

        Returns:
            Their names.
        """
        del earlier
        return self.headline(outcome.scores)

    # The template.

    def after_training(self, images: int) -> "Suite | None":
        """The suite at a cost that fits the training before it.

        How many images it looks at follows from the configuration and the size of the data alone,
        so that it is the same for all methods.

        Args:
            images: Training images that the network has seen, those of each epoch anew.

        Returns:
            This suite, where ``eval.adv_n`` is not left to it; one of as many images as SHARE of
            the training's passes pays for; or None if they are fewer than SMALLEST.
        """
        if self.config.adv_n != AUTO or not self.passes:
            return self
        paid = int(SHARE * TRAINING * images / self.passes) // GRAIN * GRAIN
        return self._with(adv_n=min(paid, SUBSET)) if paid >= SMALLEST else None

    def batches(self, labels: Tensor, group: ProcessGroup) -> list[BatchIndex]:
        """The images that it looks at; processes take turns.

        Args:
            labels: (N,) labels of the test images, by which some suites pair them.
            group: The processes.

        Returns:
            This process's batches; there may be none.

        Raises:
            UserError: If it needs images of two classes and there is one.
        """
        rows = subset(len(labels), self.limit, SUITE_SEED)
        try:
            parts = self.divide(rows, labels.cpu())
        except ValueError as error:
            raise self._unfit(error) from error
        return [BatchIndex(rows, 0) for rows in parts[group.rank :: group.world]]

    def run(
        self,
        method: Any,
        data: MixData,
        group: ProcessGroup,
        show: Show = iter,
        folder: Path | None = None,
    ) -> Outcome:
        """Judge a method by images that the processes share.

        Args:
            method: The method in eval mode, where it computes.
            data: The loaders.
            group: The processes, all of which call this.
            show: Passes on this process's batches, and shows how many of them are done.
            folder: Folder of the run, where parts that are finished are kept until all are.

        Returns:
            The same outcome everywhere.

        Raises:
            UserError: As :meth:`evaluate`.
        """

        def batches(part: str) -> Iterable[Batch]:
            images = self.images(part, data.splits)
            rows = self.batches(images.labels, group)
            return on_device(method, show(data.part_of(images, rows, self.maps)))

        parts = self.parts(method.info)
        kept = None
        if folder is not None and len(parts) > 1:
            # Files that settings name depend on the working directory.
            settings = f"{self.config!r} in {Path.cwd()}"
            kept = FinishedParts(folder, self.name, settings, method, group)
            if kept.counts:
                done = f"{len(kept.counts)} of {len(parts)} parts"
                log.info("%s goes on: %s were finished before", self.name, done)
        return self._judge(method, batches, method.info, group, kept)

    def evaluate(
        self, model: Model, batches: Iterable[Batch], info: DataInfo, group: ProcessGroup
    ) -> Outcome:
        """Judge a network by the images of :meth:`batches`, for suites of one part.

        Args:
            model: As for :meth:`count`.
            batches: As for :meth:`count`.
            info: Facts of the data.
            group: The processes, all of which call this.

        Returns:
            The same outcome everywhere.

        Raises:
            UserError: If the images are of a size that the suite cannot divide, or a file that it
                needs cannot be used.
        """
        return self._judge(model, lambda part: batches, info, group)

    def _judge(
        self,
        model: Model,
        batches: Callable[[str], Iterable[Batch]],
        info: DataInfo,
        group: ProcessGroup,
        kept: FinishedParts | None = None,
    ) -> Outcome:
        started = time.monotonic()
        parts = self.parts(info)
        counts: Counts = {}
        lost = 0
        try:
            for part in parts:
                found = kept.get(part) if kept is not None else None
                if found is None:
                    found = self._counted(part, model, batches(part), info, group)
                    if kept is not None:
                        kept.add(part, found)
                lost += found[_LOST]
                counts |= {
                    f"{part}/{name}" if part else name: value
                    for name, value in found.items()
                    if name != _LOST
                }
            scores = self.score(counts)
        except UserError:
            raise
        except ValueError as error:
            raise self._unfit(error) from error
        images = counts[f"{parts[0]}/n" if parts[0] else "n"]
        facts: dict[str, Any] = {"images": images, "of": info.test_size, "seed": SUITE_SEED}
        facts |= self.facts(info, counts)
        facts["seconds"] = round(time.monotonic() - started, 3)
        warnings = self.doubts(scores, counts)
        if lost:
            # A wrong answer would be counted, and a right one where the first class is true.
            scores = {k: value if k in _SIZES else math.nan for k, value in scores.items()}
            warnings = [f"the network gave {lost} outputs that are not numbers: no score"]
        if warnings:
            facts["warnings"] = warnings
        if kept is not None:
            kept.remove()
        return Outcome(scores, facts, warnings)

    def _counted(
        self,
        part: str,
        model: Model,
        batches: Iterable[Batch],
        info: DataInfo,
        group: ProcessGroup,
    ) -> Counts:
        """Counts of a part over the batches of all processes."""
        ids: list[Tensor] = []

        def noted() -> Iterator[Batch]:
            for batch in batches:
                ids.append(batch.ids.cpu())
                yield batch

        # Tests run in inference mode, in which nothing can be differentiated.
        with (
            torch.inference_mode(False),
            torch.compiler.set_stance("force_eager"),
            _count_lost(model) as lost,
        ):
            counts = self.count_part(part, model, noted(), info)
        counts |= {_LOST: sum(map(int, lost))}
        sums = {name: value for name, value in counts.items() if not isinstance(value, Tensor)}
        values = {k: value.detach().cpu() for k, value in counts.items() if k not in sums}
        sums = group.all_reduce_sum(sums)
        if values:
            values["ids"] = torch.cat(ids) if ids else torch.empty(0, dtype=torch.int64)
            gathered = group.all_gather(values)
            places = torch.cat([each["ids"] for each in gathered]).argsort(stable=True)
            values = {k: torch.cat([each[k] for each in gathered])[places] for k in values}
        return sums | values

    def add_to_record(
        self, outcome: Outcome, metrics: dict[str, float], evaluations: dict[str, Any]
    ) -> list[str]:
        """Add an outcome to a record.

        Scores that the suite has found under other settings are replaced, as columns of one record
        must tell of the same images.

        Args:
            outcome: The result.
            metrics: Scores of the record.
            evaluations: Facts of the record, by suite.

        Returns:
            Sentences on what is replaced.
        """
        earlier, told = evaluations.get(self.name, {}), []
        changed = changed_settings(earlier, outcome.facts)
        if changed:
            known = ", ".join(s for s in self.replaced(earlier, outcome) if s in metrics)
            if known:
                told.append(f"{self.name} replaces {known} of other settings ({changed})")
        metrics |= outcome.scores
        evaluations[self.name] = dict(outcome.facts)
        return told

    def headline(self, scores: Iterable[str]) -> list[str]:
        """Scores that are no complement or part of another one; all where no column is named."""
        return [score for score in scores if score in self.columns or not self.columns]

    def log_outcome(self, outcome: Outcome) -> None:
        """Log one line of results, and one for each doubt about them."""
        facts = outcome.facts
        scores = self.headline(outcome.scores)
        log.info(
            "%s on %d of %d images: %s (%.1f s)",
            self.name,
            facts["images"],
            facts["of"],
            "  ".join(f"{score} {outcome.scores[score]:.2f}" for score in scores),
            facts["seconds"],
        )
        for warning in outcome.warnings:
            log.warning("%s", warning)

    def _with(self, **changes: Any) -> "Suite":
        return load_suite(self.name, replace(self.config, **changes))

    def _unfit(self, error: ValueError) -> UserError:
        return UserError(f"{self.name}: {error}", "eval.suites", f"leave {self.name} out")


def load_suite(name: str, config: EvalConfig) -> Suite:
    """A suite by its name.

    Args:
        name: A name of :data:`mixbench.config.names.SUITES`.
        config: The section ``eval`` of a configuration.

    Returns:
        The suite.

    Raises:
        UserError: If the name is unknown or its module cannot be imported.
    """
    with SUITES.guarded(name, "cannot be built"):
        suite: Suite = SUITES.get(name)(config)
    suite.name = name
    return suite


def load_suites(config: EvalConfig, typed: Iterable[str] = ()) -> list[Suite]:
    """The suites that a configuration asks for.

    Args:
        config: The section ``eval`` of a configuration.
        typed: Dotted keys that a user has typed, which ask for the suites that read them.

    Returns:
        Those of ``eval.suites`` in their order, then those of the keys.

    Raises:
        UserError: As :func:`load_suite`.
    """
    names = list(config.suites)
    chosen = [SUITES.get(name) for name in names]
    typed = set(typed).difference(*(suite.reads for suite in chosen))
    if typed:
        names += [name for name in SUITES.table if typed & set(SUITES.get(name).keys)]
    return [load_suite(name, config) for name in dict.fromkeys(names)]


def changed_settings(earlier: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Settings that scores side by side have to share and do not, with both values."""
    changed = [key for key in SETTINGS if earlier and earlier.get(key) != facts.get(key)]
    return ", ".join(f"{key} {earlier.get(key)} -> {facts.get(key)}" for key in changed)


@contextmanager
def _count_lost(model: Model) -> Iterator[list[Tensor]]:
    """The number of outputs that are NaN, as a single count on the device; empty before any."""
    lost: list[Tensor] = []

    def count(module: nn.Module, args: Any, logits: Any) -> None:
        more = logits.detach().isnan().any(dim=1).sum()
        lost[:] = [lost[0] + more] if lost else [more]

    if not isinstance(model, nn.Module):
        yield lost
        return
    handle = model.register_forward_hook(count)
    try:
        yield lost
    finally:
        handle.remove()
