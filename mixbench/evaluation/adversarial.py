"""The adversarial suite: error rates under the attacks that ``eval.attacks`` names."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from torch import Tensor

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch, Splits
from mixbench.errors import UserError, near_match
from mixbench.evaluation.attacks import ATTACKS, Attack, evaluation_logits, run_attack, saturated
from mixbench.evaluation.autoattack import FEWEST, PACKAGE, available, check_installed, targets
from mixbench.evaluation.suite import SUITE_SEED, Counts, Model, Outcome, Suite, changed_settings

DEFAULT = ("fgsm_8", "fgsm_4", "pgd20_1", "pgd20_2")
SQUARE_GAIN = 0.2  # points by which a black-box search may surpass gradients by chance


class Adversarial(Suite):
    """Counts images that each attack wins."""

    columns = (*ATTACKS, "sat_pct")
    keys = ("eval.attacks",)

    def count(self, model: Model, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """See :func:`attack_counts`."""
        del info
        # Copies, as nothing that was made in inference mode can be differentiated.
        pixels = (
            (to_float(batch.images).clone(), batch.labels.clone(), batch.ids) for batch in batches
        )
        return attack_counts(model, pixels, self.config.attacks, SUITE_SEED)

    def score(self, counts: Mapping[str, int]) -> dict[str, float]:
        """See :func:`attack_rates`."""
        return attack_rates(counts)

    def facts(self, info: DataInfo, counts: Mapping[str, int]) -> dict[str, Any]:
        """The attacks, and of those of the package what each part of them has added."""
        facts: dict[str, Any] = {"attacks": list(self.config.attacks)}
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

    def doubts(self, scores: Mapping[str, float], counts: Mapping[str, int]) -> list[str]:
        """Signs of masked gradients."""
        return masking_warnings(scores, attack_stages(counts))

    @property
    def limit(self) -> int | None:
        """``eval.adv_n`` images."""
        return self.config.subset_size

    @property
    def passes(self) -> int:
        """Those of the attacks, and one more for each and for all, which look for saturation."""
        return 1 + sum(ATTACKS[name].passes + 1 for name in self.config.attacks)

    def check(self) -> None:
        """Refuse attacks that are unknown, or need a package that is not installed."""
        if not self.config.attacks:
            todo = f"name one, or leave {self.name} out of eval.suites"
            raise UserError(f"the suite {self.name} has no attack", "eval.attacks", todo)
        for name in self.config.attacks:
            if name not in ATTACKS:
                hint = near_match(name, ATTACKS)
                what = f"unknown attack {name!r}" + (f"; {hint}" if hint else "")
                raise UserError(what, "eval.attacks", f"choose one of: {', '.join(ATTACKS)}")
            if ATTACKS[name].packaged:
                check_installed(f"eval.attacks={name}")

    def check_data(self, splits: Splits) -> None:
        """Refuse attacks that aim at more classes than there are."""
        info = splits.info
        for name in self.config.attacks:
            if ATTACKS[name].targeted and info.num_classes < FEWEST:
                raise UserError(
                    f"{name} aims at wrong classes and needs {FEWEST} classes or more; "
                    f"{info.name} has {info.num_classes}",
                    "eval.attacks",
                    "use square_8, apgd_ce_8 or pgd10_8, which aim at none",
                )

    def add_to_record(
        self, outcome: Outcome, metrics: dict[str, float], evaluations: dict[str, Any]
    ) -> list[str]:
        """Add an outcome; attacks that were judged before on the same images stay beside it.

        Args:
            outcome: The result.
            metrics: Scores of the record.
            evaluations: Facts of the record, by suite.

        Returns:
            Sentences on what is replaced, and on what attacks say of each other.
        """
        earlier, facts = evaluations.get(self.name, {}), dict(outcome.facts)
        others = [name for name in earlier.get("attacks", ()) if name not in facts["attacks"]]
        told = super().add_to_record(outcome, metrics, evaluations)
        if changed_settings(earlier, facts):
            for name in others:
                metrics.pop(name, None)
                metrics.pop(f"{name}_acc", None)
            return told
        if not others:
            return told
        facts["attacks"] = others + facts["attacks"]
        known = {k: v for k, v in earlier.get("autoattack", {}).items() if k in others}
        if known:
            facts["autoattack"] = known | facts.get("autoattack", {})
        rates = {name: metrics[name] for name in facts["attacks"] if name in metrics}
        before = [*earlier.get("warnings", ()), *outcome.warnings]
        told += [sign for sign in masking_warnings(rates) if sign not in before]
        if warnings := list(dict.fromkeys([*before, *told])):
            facts["warnings"] = warnings
        evaluations[self.name] = facts
        return told

    def replaced(self, earlier: Mapping[str, Any], outcome: Outcome) -> Iterable[str]:
        """The attacks of the record."""
        return earlier.get("attacks") or super().replaced(earlier, outcome)

    def as_recorded(self, facts: Mapping[str, Any]) -> Suite | None:
        """With the attacks of the record that can be carried out here, on as many images."""
        attacks = [name for name in facts.get("attacks", ()) if self._repeatable(name, facts)]
        if not attacks and facts.get("attacks"):
            return None
        return self._with(attacks=attacks, adv_n=facts.get("images", self.config.adv_n))

    def unverified(self, score: str, facts: Mapping[str, Any]) -> str:
        """The reason why an attack was not carried out again."""
        attack = score.removesuffix("_acc")
        if attack in ATTACKS and attack not in facts.get("attacks", ()):
            return "the record does not say how it was carried out"
        if attack not in (*ATTACKS, "sat_pct", "adv_n"):
            return ""
        if available():
            return "an older version attacked by an implementation of its own"
        return f"{PACKAGE} is not installed"

    def varies(self, score: str) -> bool:
        """The sign of a tiny gradient may turn with the order in which a machine adds."""
        return score.removesuffix("_acc") in ATTACKS

    def _repeatable(self, attack: str, facts: Mapping[str, Any]) -> bool:
        if attack not in ATTACKS:
            return False
        own = ATTACKS[attack].packaged and attack not in facts.get("autoattack", ())
        return not own and (available() or not ATTACKS[attack].packaged)


def attack_scores(
    model: Model,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    names: Iterable[str] = DEFAULT,
    seed: int = 0,
) -> dict[str, float]:
    """Error rates under attack by the names of a leaderboard row.

    Args:
        model: Pixels to logits, in eval mode.
        batches: Pixels (B, C, H, W) in [0, 1], class indices (B,) and numbers (B,) of images.
        names: Names of :data:`ATTACKS`.
        seed: Seed of the random starts.

    Returns:
        In percent: ``<name>`` error rate, ``<name>_acc`` its complement, ``sat_pct`` the share of
        images whose cross-entropy has no gradient, and ``adv_n``, the number of images.

    Raises:
        ValueError: If a name is unknown or there is no image.
    """
    return attack_rates(attack_counts(model, batches, names, seed))


def attack_counts(
    model: Model,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    names: Iterable[str] = DEFAULT,
    seed: int = 0,
) -> dict[str, int]:
    """Numbers of images, which may be added up over parts of a set.

    Args:
        model: As for :func:`attack_scores`.
        batches: As for :func:`attack_scores`; there may be none.
        names: Names of :data:`ATTACKS`.
        seed: Seed of the random starts.

    Returns:
        ``n`` of all images, ``saturated`` of those without a gradient, and of those that each
        attack wins, by its name; those of ``autoattack`` also by ``<name>:<part>``, where a part
        is ``clean`` or one of its attacks and counts what it is the first to win.

    Raises:
        ValueError: If a name is unknown.
    """
    chosen = list(names)
    unknown = [name for name in chosen if name not in ATTACKS]
    if unknown:
        raise ValueError(f"unknown attack {unknown[0]!r}, choose one of: {', '.join(ATTACKS)}")
    counts = {"n": 0, "saturated": 0} | dict.fromkeys(chosen, 0)
    counts |= {f"{name}:{part}": 0 for name in chosen for part in _parts(ATTACKS[name])}
    for x, y, ids in batches:
        counts["n"] += len(y)
        counts["saturated"] += int(saturated(evaluation_logits(model, x), y).sum())
        for name in chosen:
            found = run_attack(ATTACKS[name], model, x, y, ids, seed)
            counts[name] += int(found.fooled.sum())
            if found.stage is not None:
                for number, part in enumerate(_parts(ATTACKS[name])):
                    counts[f"{name}:{part}"] += int((found.stage == number).sum())
    return counts


def attack_stages(counts: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Error rates of each AutoAttack as they grow from one of its attacks to the next.

    Args:
        counts: Those of :func:`attack_counts` over the whole set.

    Returns:
        Error rates in percent by the name of the attack, before it as ``clean`` and after each of
        its parts; the last one is that of the column.
    """
    found: dict[str, dict[str, float]] = {}
    for name in counts:
        if parts := _parts(ATTACKS[name]) if name in ATTACKS else ():
            rates, wrong = found.setdefault(name, {}), 0
            for part in parts:
                wrong += counts[f"{name}:{part}"]
                rates[part] = 100 * wrong / counts["n"]
    return found


def attack_rates(counts: Mapping[str, int]) -> dict[str, float]:
    """Counts of :func:`attack_counts` as scores of :func:`attack_scores`.

    Args:
        counts: Those of the whole set.

    Returns:
        The scores.

    Raises:
        ValueError: If there is no image.
    """
    total = counts["n"]
    if not total:
        raise ValueError("no image to attack; give at least one batch")
    found = {"adv_n": float(total), "sat_pct": 100 * counts["saturated"] / total}
    for name, count in counts.items():
        if name in ATTACKS:
            found |= {name: 100 * count / total, f"{name}_acc": 100 - 100 * count / total}
    return found


def masking_warnings(
    errors: Mapping[str, float], stages: Mapping[str, Mapping[str, float]] | None = None
) -> list[str]:
    """Signs that an attack failed for want of gradients rather than met a robust network.

    Args:
        errors: Error rates in percent by the names of :data:`ATTACKS`.
        stages: As :func:`attack_stages` returns them.

    Returns:
        One sentence for each sign: many steps that do less than a single one of the same size, or
        a search without gradients that does more than PGD, or more than AutoAttack's own attacks
        by gradients (by 0.2 points or more, as the package itself warns).
    """
    signs = []
    for name, rates in (stages or {}).items():
        before = [rate for part, rate in rates.items() if part not in ("clean", "square")]
        if before and rates.get("square", 0.0) - before[-1] > SQUARE_GAIN:
            signs.append(
                f"{name}: its black-box search fools {rates['square'] - before[-1]:.1f} % of the "
                "images that its gradients do not: gradients are probably masked"
            )
    for name, error in errors.items():
        attack = ATTACKS.get(name)
        if attack is None or attack.kind == "fgsm" or attack.blind:
            continue
        level = f"{255 * attack.eps:g}"
        for other, finding in (("fgsm", "a single step"), ("square", "a black-box search")):
            rate = errors.get(f"{other}_{level}")
            if rate is not None and error < rate:
                signs.append(
                    f"{name} fails on {error:.1f} % of the images and {finding} of the same "
                    f"radius on {rate:.1f} %: gradients are probably masked"
                )
    return signs


def _parts(attack: Attack) -> tuple[str, ...]:
    """Stages by which the images that an AutoAttack wins are counted."""
    return ("clean", *attack.losses) if attack.packaged else ()
