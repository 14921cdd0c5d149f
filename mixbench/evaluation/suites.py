"""Suites: what a trained network is judged by besides its test.

A suite counts images, so that several processes can share the work and add up: chunks of images are
the same for any number of processes, and so are the scores.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch
from mixbench.data.sampling import BatchIndex
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import UserError, near_match
from mixbench.evaluation import linearity, occlusion, patches
from mixbench.evaluation.adversarial import (
    ATTACKS,
    Model,
    attack_counts,
    attack_rates,
    attack_stages,
    masking_warnings,
)
from mixbench.evaluation.autoattack import FEWEST, PACKAGE, check_installed, targets
from mixbench.evaluation.gaze import gaze_counts, gaze_order, gaze_scores
from mixbench.evaluation.keys import subset

CHUNK = 64  # images that a network sees together
SEED = 0  # of subsets, random starts, patterns and partners: the same for every run
SETTINGS = ("images", "of", "seed", "maps", "saliency")  # facts that scores side by side share
UNIT = 1 << 40  # distances are added up as whole numbers of 1 / UNIT, so that no order matters
Counts = dict[str, int]


@dataclass
class Outcome:
    """What a suite has found.

    Attributes:
        scores: By the names of a leaderboard row.
        facts: How it was carried out, for the record.
        warnings: What speaks against believing it.
    """

    scores: dict[str, float]
    facts: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Suite:
    """How one suite counts, scores and describes itself."""

    count: Callable[[Model, Iterable[Batch], DataInfo, EvalConfig], Counts]
    scores: Callable[[Counts], dict[str, float]]
    facts: Callable[[EvalConfig, DataInfo, Counts], dict[str, Any]]
    doubts: Callable[[dict[str, float], Counts], list[str]] = lambda scores, counts: []
    limit: Callable[[EvalConfig], int | None] = lambda config: None
    chunks: Callable[[Tensor, Tensor], Sequence[Tensor]] = lambda rows, labels: rows.split(CHUNK)
    needs: str = "counts right classes"


def check_attacks(names: Iterable[str]) -> None:
    """Refuse attacks that there are not.

    Args:
        names: Value of ``eval.attacks``.

    Raises:
        UserError: If one is unknown, or needs a package that is not installed.
    """
    for name in names:
        if name not in ATTACKS:
            hint = near_match(name, ATTACKS)
            what = f"unknown attack {name!r}" + (f"; {hint}" if hint else "")
            raise UserError(what, "eval.attacks", f"choose of: {', '.join(ATTACKS)}")
        if ATTACKS[name].kind == "autoattack":
            check_installed(f"eval.attacks={name}")


def check_classes(names: Iterable[str], info: DataInfo) -> None:
    """Refuse attacks that aim at more classes than there are.

    Args:
        names: Value of ``eval.attacks``.
        info: Facts of the data.

    Raises:
        UserError: If there are too few classes for one.
    """
    for name in names:
        if ATTACKS[name].targeted and info.num_classes < FEWEST:
            raise UserError(
                f"{name} aims at wrong classes and needs {FEWEST} classes or more; "
                f"{info.name} has {info.num_classes}",
                "eval.attacks",
                "use square_8, apgd_ce_8 or pgd10_8, which aim at none",
            )


def unfit(name: str, info: DataInfo, method: Any = None) -> str:
    """Why a suite cannot judge networks of some data; empty if it can.

    Args:
        name: Name of the suite.
        info: Facts of the data.
        method: The method that trained it; without it only the data is looked at.

    Returns:
        A few words.
    """
    if name in _SUITES and info.task != "multiclass":
        return f"it {_SUITES[name].needs}, and {info.name} is {info.task}"
    if name == "gaze" and method is not None and method.no_mask_reason:
        return (
            f"gaze needs a mask over pixels; {method.run.method['name']}: {method.no_mask_reason}"
        )
    return ""


def draws(name: str, config: EvalConfig, labels: Tensor, group: ProcessGroup) -> list[BatchIndex]:
    """The images that a suite looks at, in chunks; processes take turns.

    Args:
        name: Name of the suite.
        config: Reads ``adv_n``.
        labels: (N,) labels of the test images, by which some suites pair them.
        group: The processes.

    Returns:
        This process's chunks; there may be none.

    Raises:
        UserError: If a suite needs images of two classes and there is one.
    """
    rows = subset(len(labels), _SUITES[name].limit(config), SEED)
    try:
        chunks = _SUITES[name].chunks(rows, labels.cpu())
    except ValueError as error:
        raise UserError(f"{name}: {error}", "eval.suites", f"leave {name} out") from error
    return [BatchIndex(rows, 0) for rows in chunks[group.rank :: group.world]]


def judge(
    name: str,
    model: Model,
    batches: Iterable[Batch],
    info: DataInfo,
    config: EvalConfig,
    group: ProcessGroup,
) -> Outcome:
    """Carry out a suite.

    Args:
        name: Name of the suite.
        model: Pixels (B, C, H, W) in [0, 1] to logits (B, K), in eval mode.
        batches: The images of :func:`draws`, where the network is.
        info: Facts of the data.
        config: Reads ``attacks`` and ``adv_n``.
        group: The processes, all of which call this.

    Returns:
        The same outcome everywhere.

    Raises:
        UserError: If the images are of a size that the suite cannot divide, or a file that it needs
            cannot be used.
    """
    suite, started = _SUITES[name], time.monotonic()
    try:
        # Tests run in inference mode, in which nothing can be differentiated.
        with (
            torch.inference_mode(False),
            torch.compiler.set_stance("force_eager"),
            _watched(model) as lost,
        ):
            counts = suite.count(model, batches, info, config)
        counts = group.all_reduce_sum(counts | {_LOST: sum(map(int, lost))})
        useless = counts.pop(_LOST)
        scores = suite.scores(counts)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{name}: {error}", "eval.suites", f"leave {name} out") from error
    facts: dict[str, Any] = {"images": counts["n"], "of": info.test_size, "seed": SEED}
    facts |= suite.facts(config, info, counts)
    facts["seconds"] = round(time.monotonic() - started, 3)
    warnings = suite.doubts(scores, counts)
    if useless:
        # A wrong answer would be counted, and a right one where the first class is the true one.
        scores = {key: value if key in _SIZES else math.nan for key, value in scores.items()}
        warnings = [f"the network gave {useless} outputs that are not numbers: no score"]
    if warnings:
        facts["warnings"] = warnings
    return Outcome(scores, facts, warnings)


def enter(
    name: str, outcome: Outcome, metrics: dict[str, float], evaluations: dict[str, Any]
) -> list[str]:
    """Add an outcome to a record.

    Attacks that were judged before on the same images stay beside the new ones. Scores that a suite
    has found under other settings are replaced, as columns of one record must tell of the same
    images.

    Args:
        name: Name of the suite.
        outcome: What it has found.
        metrics: Scores of the record.
        evaluations: Facts of the record, by suite.

    Returns:
        Sentences on what is replaced, and on what attacks say of each other.
    """
    facts, earlier, told = dict(outcome.facts), evaluations.get(name, {}), []
    attacks = [attack for attack in earlier.get("attacks", ()) if attack not in facts["attacks"]]
    changed = [key for key in SETTINGS if earlier and earlier.get(key) != facts.get(key)]
    if changed:
        scores = earlier.get("attacks") or filter(is_headline, outcome.scores)
        if replaced := ", ".join(score for score in scores if score in metrics):
            pairs = ", ".join(f"{key} {earlier.get(key)} -> {facts.get(key)}" for key in changed)
            told.append(f"{name} replaces {replaced} of other settings ({pairs})")
        for attack in attacks:
            metrics.pop(attack, None)
            metrics.pop(f"{attack}_acc", None)
    elif attacks:
        facts["attacks"] = attacks + facts["attacks"]
        known = {k: v for k, v in earlier.get("autoattack", {}).items() if k in attacks}
        if known:
            facts["autoattack"] = known | facts.get("autoattack", {})
    metrics |= outcome.scores
    if attacks and not changed:
        rates = {attack: metrics[attack] for attack in facts["attacks"] if attack in metrics}
        before = [*earlier.get("warnings", ()), *outcome.warnings]
        told += [sign for sign in masking_warnings(rates) if sign not in before]
        if warnings := list(dict.fromkeys([*before, *told])):
            facts["warnings"] = warnings
    evaluations[name] = facts
    return told


def is_headline(score: str) -> bool:
    """Whether a score is no complement or part of another one."""
    part = score.startswith("occ_") and not score.endswith("_auc")
    return not (part or score.endswith("_acc") or score == "adv_n")


def linearity_counts(
    model: Model, batches: Iterable[Batch], info: DataInfo, config: EvalConfig
) -> Counts:
    """Sums of gaps, by ``lin_<percent>`` in units of 2**-40, and the number of pairs ``n``.

    Args:
        model: As for :func:`judge`.
        batches: Images whose second half are the partners of the first, in its order.
        info: Unused.
        config: Unused.

    Returns:
        Counts.
    """
    del info, config
    names = [_between(lam) for lam in linearity.LAMS]
    counts = {"n": 0} | dict.fromkeys(names, 0)
    for batch in batches:
        pairs = len(batch.labels) // 2
        x = to_float(batch.images)
        sums = (linearity.linearity_gaps(model, x[:pairs], x[pairs:]) * UNIT).round().long().sum(0)
        counts["n"] += pairs
        for name, value in zip(names, sums.tolist(), strict=True):
            counts[name] += value
    return counts


def linearity_curve(counts: Mapping[str, int]) -> dict[float, float]:
    """Mean gap at each weight of the first image.

    Args:
        counts: Those of :func:`linearity_counts` over the whole set.

    Returns:
        Percent by lam.
    """
    return {lam: 100 * counts[_between(lam)] / (UNIT * counts["n"]) for lam in linearity.LAMS}


def _linearity_scores(counts: Counts) -> dict[str, float]:
    curve = linearity_curve(counts)
    return {"lin_gap": sum(curve.values()) / len(curve)}


def _linearity_facts(config: EvalConfig, info: DataInfo, counts: Counts) -> dict[str, Any]:
    del config, info
    curve = {f"{lam:g}": round(value, 6) for lam, value in linearity_curve(counts).items()}
    return {"pairs": counts["n"], "curve": curve}


def _pair_chunks(rows: Tensor, labels: Tensor) -> list[Tensor]:
    firsts = rows.split(CHUNK // 2)
    return [torch.cat([first, linearity.partners(labels, first, SEED)]) for first in firsts]


def _between(lam: float) -> str:
    return f"lin_{100 * lam:.0f}"


def _attacked(model: Model, batches: Iterable[Batch], info: DataInfo, config: EvalConfig) -> Counts:
    del info
    # Copies, as nothing that was made in inference mode can be differentiated.
    pixels = (
        (to_float(batch.images).clone(), batch.labels.clone(), batch.ids) for batch in batches
    )
    return attack_counts(model, pixels, config.attacks, SEED)


def _attack_facts(config: EvalConfig, info: DataInfo, counts: Counts) -> dict[str, Any]:
    """Which attacks were carried out, and of AutoAttack what each part of it has added."""
    facts: dict[str, Any] = {"attacks": list(config.attacks)}
    stages = attack_stages(counts)
    if stages:
        facts["autoattack"] = {
            name: {
                "errors": rates,
                "steps": ATTACKS[name].steps,
                "queries": ATTACKS[name].queries,
                "targets": targets(info.num_classes) if ATTACKS[name].targeted else 0,
                "package": f"{PACKAGE} {version(PACKAGE)}",
            }
            for name, rates in stages.items()
        }
    return facts


def _gaze_facts(config: EvalConfig, info: DataInfo, counts: Counts) -> dict[str, Any]:
    del info
    return {"maps": config.gaze, "pairs": counts["pairs"], "blank": counts["blank"]}


@contextmanager
def _watched(model: Model) -> Iterator[list[Tensor]]:
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


_LOST, _SIZES = "not numbers", ("adv_n",)
_OCCLUDED = {"ratios": list(occlusion.RATIOS), "fill": "mean colour"}
_SUITES = {
    "adversarial": _Suite(
        count=_attacked,
        scores=attack_rates,
        facts=_attack_facts,
        doubts=lambda scores, counts: masking_warnings(scores, attack_stages(counts)),
        limit=lambda config: config.adv_n,
    ),
    "occlusion": _Suite(
        count=lambda model, batches, info, config: patches.occluded(model, batches, info, SEED),
        scores=patches.occlusion_scores,
        facts=lambda *_: _OCCLUDED,
    ),
    "salience": _Suite(
        count=lambda model, batches, info, config: patches.occluded_by_salience(
            model, batches, info, patches.Looking(config.saliency, model, info)
        ),
        scores=patches.occlusion_scores,
        facts=lambda config, *_: _OCCLUDED | {"saliency": config.saliency or patches.OWN},
    ),
    "shuffle": _Suite(
        count=lambda model, batches, info, config: patches.shuffled(model, batches, info, SEED),
        scores=patches.shuffle_scores,
        facts=lambda *_: {},
    ),
    "linearity": _Suite(
        count=linearity_counts,
        scores=_linearity_scores,
        facts=_linearity_facts,
        limit=lambda config: config.adv_n,
        chunks=_pair_chunks,
        needs="pairs images of two classes",
    ),
    "gaze": _Suite(
        count=lambda model, batches, info, config: gaze_counts(model, batches, SEED),
        scores=gaze_scores,
        facts=_gaze_facts,
        chunks=lambda rows, labels: gaze_order(SEED, len(labels)).split(CHUNK),
        needs="compares weights of two classes",
    ),
}
COUNTED = tuple(_SUITES)  # suites that need the network, and no part of the test itself
