"""The gain of one method over another on new seeds and new images, and what can be seen of it.

Both are trained with several seeds and tested on the same images. Seeds and images are random
effects: the variance of the difference of two means is that of the seeds, plus that of the images
without the part that both contain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ALPHA = 0.025  # chance of a wrong claim, on one side
POWER = 0.8  # chance to see the gain that counts as detectable
ASSUMED_SEED_SD = 0.3  # points: deviation over seeds before anything ran
ASSUMED_RUN = 0.05  # variance of being right, per image, between runs, before anything ran
ASSUMED_IMAGES = 0.025  # variance over images of the difference of two chances to be right
GROUPS = 20  # of images, for a score that is no mean over them
_LEAST = 1e-8  # of a variance in points squared, where nothing varies


@dataclass(frozen=True)
class GainInterval:
    """A difference of two methods, with its two-sided interval.

    Attributes:
        gain: Difference of the mean scores, in points.
        low: Lower end of the interval, in points.
        high: Upper end, in points.
        seeds: Variance of the gain over seeds, in points squared, as ``images`` and ``both``.
        images: Variance over images.
        both: The part of a run's luck with single images, which the other two each contain.
        df: Degrees of freedom of the sum.
    """

    gain: float
    low: float
    high: float
    seeds: float
    images: float
    both: float
    df: float

    @property
    def image_part(self) -> float:
        """Variance that remains with any number of seeds, in points squared."""
        return max(self.images - self.both, 0.0)

    @property
    def variance(self) -> float:
        """Variance of the gain on new seeds and new images, in points squared."""
        return max(self.seeds + self.image_part, _LEAST)


def gain_interval(method: np.ndarray, reference: np.ndarray, alpha: float = ALPHA) -> GainInterval:
    """Gain of a method over a reference on new seeds and new images.

    Args:
        method: (n, N) scores of n seeds on N units, of which a run's score is the mean: 1 for an
            image that is right and 0 for one that is not, or :func:`jackknife_values`.
        reference: The same of the reference.
        alpha: Chance that the true gain is below the interval, and that it is above.

    Returns:
        The interval, with degrees of freedom after Satterthwaite (Biometrics Bulletin, 1946).

    Raises:
        ValueError: If the tables differ in shape, or have fewer than two rows or columns.

    Example:
        >>> right = np.array([[1, 1, 0, 1], [1, 1, 1, 1]])
        >>> found = gain_interval(right, np.array([[1, 0, 0, 1], [1, 0, 1, 0]]))
        >>> found.gain
        37.5
    """
    if method.shape != reference.shape or method.ndim != 2 or min(method.shape) < 2:
        raise ValueError(
            f"expected two tables of equal shape, with two seeds and two images or more, got "
            f"{method.shape} and {reference.shape}"
        )
    n, units = method.shape
    one, other = 100.0 * method, 100.0 * reference
    gain = float(one.mean() - other.mean())
    seeds = float(one.mean(1).var(ddof=1) + other.mean(1).var(ddof=1)) / n
    images = float((one.mean(0) - other.mean(0)).var(ddof=1)) / units
    both = (_residual_square(one) + _residual_square(other)) / (n * units)
    variance, df = combined(seeds, max(images - both, 0.0), n, units)
    reach = upper_t(df, alpha) * math.sqrt(variance)
    return GainInterval(gain, gain - reach, gain + reach, seeds, images, both, df)


def combined(seeds: float, images: float, n: int, units: int) -> tuple[float, float]:
    """Variance of a gain from its two parts, and its degrees of freedom.

    Args:
        seeds: Variance over seeds, in points squared.
        images: Variance over images, without what is in ``seeds`` already.
        n: Seeds of each method.
        units: Images, or groups of them.

    Returns:
        The variance, and degrees of freedom.
    """
    variance = max(seeds + images, _LEAST)
    squares = seeds**2 / (2 * (n - 1)) + images**2 / (units - 1)
    return variance, variance**2 / max(squares, _LEAST**2)


def upper_t(df: float, alpha: float) -> float:
    """Value that Student's t exceeds with probability ``alpha``; ``df`` may be a fraction."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, alpha))


def detectable_gain(variance: float, df: float, alpha: float = ALPHA) -> float:
    """Smallest true gain that is claimed in four of five cases, approximately.

    Args:
        variance: Of an estimated gain, in points squared.
        df: Its degrees of freedom.
        alpha: Chance of a wrong claim.

    Returns:
        The gain in points.
    """
    return (upper_t(df, alpha) + upper_t(df, 1 - POWER)) * math.sqrt(variance)


def expected_gain(n: int, images: int, sd: float | None = None, alpha: float = ALPHA) -> float:
    """Detectable gain of a comparison that is not carried out yet.

    Args:
        n: Seeds of each of two methods.
        images: Test images.
        sd: Deviation of runs in points, where some ran; else an assumption.
        alpha: Chance of a wrong claim.

    Returns:
        The gain in points; infinite for fewer than two seeds.
    """
    if n < 2 or images < 2:
        return math.inf
    square = ASSUMED_SEED_SD**2 + 1e4 * ASSUMED_RUN / images if sd is None else sd**2
    variance, df = combined(2 * square / n, 1e4 * ASSUMED_IMAGES / images, n, images)
    return detectable_gain(variance, df, alpha)


def least_gain(per_image: float, images: int) -> float:
    """Gain in points below which no number of seeds shows one on so many test images.

    Args:
        per_image: Variance over images of the difference of two methods' chances to be right.
        images: Test images.
    """
    return 280 * math.sqrt(per_image / images)


def images_for(gain: float, per_image: float) -> int:
    """Test images on which enough seeds would show a gain.

    Args:
        gain: The gain in points.
        per_image: As of :func:`least_gain`.
    """
    return math.ceil(per_image * (280 / gain) ** 2)


def jackknife_values(score: Callable[[np.ndarray], float], groups: np.ndarray) -> np.ndarray:
    """Values of groups of images whose mean behaves as a score that is no mean over images.

    Args:
        score: Maps rows of images (M,) to their score, as a share.
        groups: (N,) group of each image, from 0 on.

    Returns:
        (G,) ``G * score - (G - 1) * score without the group``.
    """
    count = int(groups.max()) + 1
    whole = score(np.arange(len(groups)))
    rest = [score(np.flatnonzero(groups != group)) for group in range(count)]
    return count * whole - (count - 1) * np.array(rest)


def image_groups(key: np.ndarray, count: int = GROUPS, seed: int = 0) -> np.ndarray:
    """Groups of images that resemble each other in their classes.

    Args:
        key: (N,) int class by which images are dealt out.
        count: Number of groups.
        seed: Of the order within a class.

    Returns:
        (N,) int group of each image, from 0 on; sizes differ by one at most.
    """
    order = np.random.default_rng(seed).permutation(len(key))
    order = order[np.argsort(key[order], kind="stable")]
    groups = np.empty(len(key), dtype=int)
    groups[order] = np.arange(len(key)) % count
    return groups


def run_deviation(arms: np.ndarray, blocks: np.ndarray, scores: np.ndarray) -> tuple[float, int]:
    """Deviation of runs once what belongs to their method and to their block is taken out.

    Args:
        arms: (R,) int method of each run, from 0 on.
        blocks: (R,) int block of each run, from 0 on; a block is a seed with a hold-out.
        scores: (R,) scores in points.

    Returns:
        Residual deviation of the least-squares fit, NaN without degrees of freedom, and these.
    """
    design = np.concatenate([np.eye(arms.max() + 1)[arms], np.eye(blocks.max() + 1)[blocks]], 1)
    fit, _, rank, _ = np.linalg.lstsq(design, scores, rcond=None)
    df = len(scores) - int(rank)
    squares = float(((scores - design @ fit) ** 2).sum())
    return (math.sqrt(squares / df) if df else math.nan), df


def _residual_square(table: np.ndarray) -> float:
    """Mean square of a two-way table once rows and columns are taken out."""
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    return float((rest**2).sum()) / ((table.shape[0] - 1) * (table.shape[1] - 1))
