"""The columns of tables: name, title, unit and direction of each score and cost.

A score is described here and nowhere else. Tables show the columns in this order. To add one, add a
line to :data:`COLUMNS`; of a suite, also name it in the suite's ``columns``.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mixbench.records.selection import CHOICE_COLUMNS, CHOICES

NONE = "\N{EN DASH}"  # no value, or one that is not finite


@dataclass(frozen=True)
class Column:
    """A score or a cost.

    Attributes:
        name: In records and tables.
        title: In words.
        unit: What it is counted in; empty for shares and other pure numbers.
        better: ``higher`` or ``lower``; empty where neither is.
        digits: Behind the decimal point.
        suite: The suite that finds it, for scores of the test itself ``calibration``; empty for
            costs and for scores that come from no suite.
        sampled: Whether the suite may look at another number of images in each run, so that scores
            of several numbers do not compare.
        kind: ``score``; ``cost``, which is compared by its ratio and kept in a field of the record
            of its own; or ``peek``, chosen on the test set and shown for comparison with papers.
        listed: Whether the leaderboard shows it among all columns; a comparison of two methods
            shows all but those that were chosen on the test set.
        label: Its name in print; the name itself where it is empty.
        shared: Name of the fact of its suite that scores must have in common to compare, such as
            the sets that it is a mean of; empty where scores of the same test images compare.
    """

    name: str
    title: str = ""
    unit: str = ""
    better: str = ""
    digits: int = 4
    suite: str = ""
    sampled: bool = False
    kind: str = "score"
    listed: bool = True
    label: str = ""
    shared: str = ""

    @property
    def percent(self) -> bool:
        """Whether it is a share in percent, which lies between 0 and 100."""
        return self.unit == "%"

    def text(self, value: float | None, sign: bool = False) -> str:
        """A value as tables show it.

        Args:
            value: The value, if there is one.
            sign: Whether a positive one gets a plus.

        Returns:
            The number, or a dash where there is none or it is not finite.
        """
        if value is None or not math.isfinite(value):
            return NONE
        return f"{value:{'+' * sign}.{self.digits}f}"

    def rank(self, value: float) -> float:
        """A key that sorts the best value to the front, and values that are not finite behind.

        Args:
            value: A value.

        Returns:
            A number, smaller for better values.
        """
        if not math.isfinite(value):
            return math.inf
        return value if self.better == "lower" else -value


def _percent(name: str, title: str, better: str = "higher", **more: str | bool) -> Column:
    return Column(name, title, "%", better, 2, **more)  # type: ignore[arg-type]


def _tested(name: str, title: str, *more: str | int, **told: bool | str) -> Column:
    return Column(name, title, *more, suite="calibration", **told)  # type: ignore[arg-type]


def _attack(name: str, title: str, label: str) -> Column:
    told = {"suite": "adversarial", "sampled": True, "label": f"{label}/255 error"}
    return _percent(name, f"error rate under {title}", "lower", **told)


def _answered(name: str, title: str, *more: str | int, **told: str | bool) -> Column:
    """Of test images that people have labelled."""
    told = {"suite": "human", "shared": "answers"} | told
    return Column(name, title, *more, **told)  # type: ignore[arg-type]


def _patches(name: str, title: str, suite: str) -> Column:
    return _percent(name, f"accuracy {title}", suite=suite)


def _corrupted(name: str, title: str, **more: str | bool) -> Column:
    told = {"suite": "corruption", "sampled": True} | more
    return _percent(name, f"error rate {title}", "lower", **told)


def _outside(name: str, title: str, better: str, score: str = "", listed: bool = False) -> Column:
    """Of test images against OOD sets, by one of four scores of an image."""
    by = {"": "the largest probability", "maxlogit": "the largest logit"}.get(score, score)
    name, title = f"{name}_{score}" if score else name, f"{title}, by {by}, mean of sets"
    return _percent(name, title, better, suite="ood", listed=listed, shared="sets")


def _found(name: str, title: str, listed: bool = True) -> Column:
    title = f"images whose object is found, {title}"
    return _percent(name, title, suite="wsol", listed=listed)


def _recovered(
    name: str, title: str, unit: str = "dB", better: str = "higher", listed: bool = True
) -> Column:
    """Of components that a search by the suite separation recovers."""
    told = {"suite": "separation", "sampled": True, "listed": listed}
    return Column(f"sep_{name}", title, unit, better, 4 if not unit else 2, **told)  # type: ignore[arg-type]


def _separable() -> Iterator[Column]:
    """Errors of recovered sources of mixed images, of all and by the weight of the source."""
    told = {"suite": "separability", "sampled": True, "shared": "demixer"}
    for end in ("", *(f"_{20 * place}" for place in range(5))):
        low = int(end[1:] or 0)
        by = f", of weights {low / 100:g} to {low / 100 + 0.2:g}" if end else ""
        title = f"squared error per pixel of recovered sources{by}"
        yield Column(
            f"separable_mse{end}",
            title,
            "",
            "lower",
            4,
            listed=not end,
            **told,  # type: ignore[arg-type]
        )
        title = f"recovered sources whose class is that of the true ones{by}"
        yield _percent(f"separable_top1{end}", title, listed=not end, **told)  # type: ignore[arg-type]


_OUTSIDE = (
    ("auroc", "AUROC of test images (positive) against OOD images", "higher"),
    ("aupr_in", "AUPR, test images positive", "higher"),
    ("aupr_out", "AUPR, OOD images positive", "higher"),
    ("fpr95", "OOD images accepted where 95 % of the test images (positive) are", "lower"),
    ("det_acc", "best detection accuracy, test and OOD images of equal weight", "higher"),
)


def _cost(name: str, title: str, unit: str, better: str = "lower", **more: int | bool) -> Column:
    return Column(name, title, unit, better, kind="cost", **more)  # type: ignore[arg-type]


def _separated(name: str, title: str, better: str = "higher", **more: str | bool) -> Column:
    return Column(name, title, "dB", better, 2, suite="calibration", **more)  # type: ignore[arg-type]


_SCORES = (
    _tested("top1", "top-1 accuracy", "%", "higher", 2, label="Top-1"),
    _tested("top5", "top-5 accuracy", "%", "higher", 2, label="Top-5"),
    _tested("map", "mean average precision", "%", "higher", 2, label="mAP"),
    _separated("psnr", "PSNR of first components of sums", label="PSNR"),
    _separated("psnr_gain", "PSNR beyond that of the trivial estimate", label="PSNR gain"),
    _separated("psnr_second", "PSNR of second components of sums"),
    _tested("ssim", "structural similarity of first components", "", "higher", label="SSIM"),
    _percent("top1_fixed", "accuracy of a fixed classifier on first components"),
    _percent("top1_observed", "the same on the trivial estimate", ""),
    _tested("residual", "squared error of sums per pixel", "", "lower", listed=False),
    _tested("swapped", "whether the second generator makes first components", listed=False),
    _tested("cf1", "F1 per class", "%", "higher", 2),
    _tested("of1", "F1 overall", "%", "higher", 2),
    _tested("nll", "negative log-likelihood", "nats", "lower", label="NLL"),
    _tested(
        "nll_cf",
        "nll after cross-fitted temperature scaling",
        "nats",
        "lower",
        label="NLL, scaled",
    ),
    _tested("ece", "expected calibration error", "", "lower", label="ECE"),
    _tested(
        "ece_cf",
        "ece after cross-fitted scaling",
        "",
        "lower",
        label="ECE, scaled",
    ),
    _tested("ece_ts", "ece after temperature scaling on the hold-out", "", "lower"),
    _tested("aece", "adaptive calibration error", "", "lower"),
    _tested("aece_cf", "aece after cross-fitted temperature scaling", "", "lower", listed=False),
    _tested("brier", "Brier score", "", "lower", label="Brier"),
    _tested("brier_cf", "Brier score after cross-fitted scaling", "", "lower", listed=False),
    _tested("bias", "mean confidence minus accuracy"),
    _tested("oe", "overconfidence error", "", "lower", listed=False),
    _tested("T", "temperature of the cross-fitted scaling", listed=False),
    _tested("aurc", "area under the risk-coverage curve", "", "lower", listed=False),
    _percent("top1_knn", "top-1 accuracy of the nearest training images"),
    _attack("fgsm_8", "FGSM, radius 8/255", "FGSM 8"),
    _attack("fgsm_4", "FGSM, radius 4/255", "FGSM 4"),
    _attack("pgd10_4", "10 steps of PGD, radius 4/255", "PGD-10 4"),
    _attack("pgd10_8", "10 steps of PGD, radius 8/255", "PGD-10 8"),
    _attack("pgd20_1", "20 steps of PGD, radius 1/255", "PGD-20 1"),
    _attack("pgd20_2", "20 steps of PGD, radius 2/255", "PGD-20 2"),
    _attack(
        "pgd20_4_puzzlemix",
        "20 steps of PGD as Puzzle Mix attacks, radius 4/255",
        "Puzzle Mix PGD 4",
    ),
    _attack("apgd_ce_4", "APGD by cross-entropy, radius 4/255", "APGD 4"),
    _attack("apgd_ce_8", "APGD by cross-entropy, radius 8/255", "APGD 8"),
    _attack("autoattack_1", "AutoAttack, radius 1/255", "AutoAttack 1"),
    _attack("autoattack_2", "AutoAttack, radius 2/255", "AutoAttack 2"),
    _attack("autoattack_4", "AutoAttack, radius 4/255", "AutoAttack 4"),
    _attack("autoattack_8", "AutoAttack, radius 8/255", "AutoAttack 8"),
    _attack("square_4", "Square, radius 4/255", "Square 4"),
    _attack("square_8", "Square, radius 8/255", "Square 8"),
    _percent(
        "sat_pct",
        "share of images whose cross-entropy has no gradient",
        "",
        suite="adversarial",
        sampled=True,
        listed=False,
    ),
    _patches("occ_auc", "while random patches disappear", "occlusion"),
    _patches("occ_salient_auc", "while salient patches disappear first", "salience"),
    _patches("occ_nonsalient_auc", "while salient patches disappear last", "salience"),
    _patches("shuffle_2", "after 2 x 2 patches change places", "shuffle"),
    _patches("shuffle_4", "after 4 x 4 patches change places", "shuffle"),
    _patches("shuffle_8", "after 8 x 8 patches change places", "shuffle"),
    _percent(
        "lin_gap",
        "distance of predictions from linear between two images",
        "lower",
        suite="linearity",
        sampled=True,
    ),
    _percent(
        "gaze_inconsistency",
        "distance of labels from the parts that people look at",
        "lower",
        suite="gaze",
    ),
    _percent(
        "two_class_hit",
        "mixed test images whose two classes are the two best guesses",
        suite="two_class",
        shared="judge",
    ),
    _answered(
        "ce_human", "cross-entropy to people's labels", "nats", "lower", label="CE to people"
    ),
    _answered("entropy_human", "entropy of people's labels, the least ce_human", "nats", ""),
    _answered("l1_human", "summed distance of probabilities from people's", "", "lower"),
    _answered("w1_human", "distance of sorted probabilities from people's", "", "lower"),
    _answered("entropy_corr", "correlation of entropies with people's", "", "higher"),
    _answered("worst_class", "top-1 accuracy of the worst class", "%", "higher", 2),
    _answered("rmsce_100", "RMS calibration error, bins of 100 images", "", "lower"),
    *(
        _answered(name, title, unit, "lower", digits, suite="human_attacks", sampled=True)
        for name, title, unit, digits in (
            ("fgsm_loss_human", "cross-entropy to people's labels, FGSM 4/255", "nats", 4),
            ("fgsm_err_human", "error rate under FGSM 4/255 against people's labels", "%", 2),
            ("pgd_loss_human", "cross-entropy to people's labels, PGD 4/255", "nats", 4),
        )
    ),
    _percent(
        "gaze_centre",
        "distance of labels from the centre, where people might look (control)",
        "",
        suite="gaze",
    ),
    *_separable(),
    _recovered("psnr", "PSNR of recovered first components"),
    _recovered("gain", "the same beyond that of the trivial estimate"),
    _recovered("ssim", "structural similarity of recovered first components", ""),
    _recovered("psnr_second", "PSNR of recovered second components"),
    _recovered(
        "ssim_second", "structural similarity of recovered second components", "", listed=False
    ),
    _recovered("top1", "accuracy of the judge on recovered first components", "%"),
    _recovered("top1_observed", "accuracy of the judge on observations", "%", ""),
    _recovered("top1_clean", "accuracy of the judge on true first components", "%", "", False),
    _recovered(
        "psnr_matched", "sep_psnr if each image were assigned by its truth", "dB", "", False
    ),
    _recovered("residual", "squared error per pixel of recovered sums", "", "lower", False),
    _corrupted("mean_ce", "under 15 published corruptions", label="Corruption error"),
    _percent(
        "mce",
        "error under corruptions relative to AlexNet's",
        "lower",
        suite="corruption",
        sampled=True,
        label="mCE",
    ),
    _percent(
        "rel_mce",
        "error that corruptions add, relative to AlexNet's",
        "lower",
        suite="corruption",
        sampled=True,
        label="Relative mCE",
    ),
    _corrupted(
        "mean_ce_c_gen",
        "under corruptions made here",
        label="Corruption error, made here",
        shared="sets",
    ),
    *(
        column
        for end, made in (("_c", "published"), ("_c_gen", "made here"))
        for column in (
            _corrupted(f"clean{end}", f"before corruptions, {made}", listed=False),
            *(
                _corrupted(f"{group}{end}", f"under corruptions by {by}, {made}", shared="sets")
                for group, by in (
                    ("noise", "noise"),
                    ("blur", "blur"),
                    ("weather", "weather"),
                    ("digital", "processing"),
                )
            ),
            Column(
                f"ece{end}",
                f"expected calibration error under corruptions, {made}",
                "",
                "lower",
                suite="corruption",
                sampled=True,
                shared="sets",
            ),
        )
    ),
    *(
        _outside(name, title, better, score, listed=not score and name in ("auroc", "fpr95"))
        for score in ("", "maxlogit", "energy", "entropy")
        for name, title, better in _OUTSIDE
    ),
    _found("max_box_acc", "largest contour at IoU 0.5, threshold chosen on these images", False),
    _found("max_box_acc_v2", "all contours, mean of IoU 0.3, 0.5, 0.7, threshold chosen on these"),
    _found("box_acc_val", "largest contour at IoU 0.5, threshold of the other half"),
    _found("top1_loc", "largest contour at IoU 0.5, and whose class is right"),
)
# Never ranked by.
_PEEKED = tuple(
    _percent(f"{score}_{name}", f"{title}, {CHOICES[choice][0]}", kind="peek")
    for score, title in (("top1", "top-1 accuracy"), ("map", "mean average precision"))
    for name, choice in CHOICE_COLUMNS.items()
)
_COSTS = (
    _cost("img_per_s", "training images per second", "images/s", "higher", digits=0),
    _cost("ms_step", "time of a training step", "ms", listed=False),
    _cost("peak_mem_gb", "largest memory in use", "GB", digits=2),
    _cost("gpu_hours", "time of all GPUs", "h", digits=3),
    _cost("wall_s", "time of the run", "s", digits=0),
    _cost("params", "parameters", "", "", listed=False),
    _cost("params_train", "parameters while training", "", "", listed=False),
    _cost("macs", "multiply-adds of an image", "", listed=False),
)
COLUMNS = {column.name: column for column in (*_SCORES, *_PEEKED, *_COSTS)}


def describe(name: str) -> Column:
    """The column of a score.

    Args:
        name: Name of a score or cost.

    Returns:
        Its column; a plain one for a score of another version or of a plug-in.
    """
    return COLUMNS.get(name) or Column(name)


def column_names(*kinds: str, unlisted: bool = False) -> tuple[str, ...]:
    """Names of columns in the order of tables.

    Args:
        kinds: Of :attr:`Column.kind`; all of them if none is given.
        unlisted: Whether to name those, too, that the leaderboard does not show.

    Returns:
        The names.
    """
    return tuple(
        column.name
        for column in COLUMNS.values()
        if (column.listed or unlisted) and (not kinds or column.kind in kinds)
    )


def sampled(shown: Iterable[str]) -> dict[str, list[str]]:
    """Scores that may be of another number of images in each run.

    Args:
        shown: Names of scores.

    Returns:
        Those among them, by the suite that finds them.
    """
    found: dict[str, list[str]] = {}
    for column in map(describe, shown):
        if column.sampled:
            found.setdefault(column.suite, []).append(column.name)
    return found
