"""Choices of the reported epoch that publications make, for comparison with their figures.

All but ``last`` look at the test set to choose, which flatters; what they give stands in columns of
its own and decides nothing.
"""

import statistics
from collections.abc import Callable, Sequence

CHOICES: dict[str, tuple[str, int | None, Callable[[Sequence[float]], float]]] = {
    "last": ("last epoch", 1, max),
    "best": ("best epoch on the test set", None, max),
    "best10": ("best of the last 10 epochs on the test set", 10, max),
    "median10": ("median of the last 10 epochs", 10, statistics.median),
    "median5": ("median of the last 5 epochs", 5, statistics.median),
}
CHOICE_COLUMNS = {
    "median10": "median10",
    "best_test": "best",
}  # column behind the score's name: choice


def choose_score(curve: Sequence[float], choice: str) -> float | None:
    """The score of a run by one of these choices.

    Args:
        curve: Test score after each epoch, all of them.
        choice: A key of :data:`CHOICES`.

    Returns:
        The score, or None where the run has fewer epochs than are looked at.
    """
    _, window, choose = CHOICES[choice]
    last = curve if window is None else curve[-window:]
    return choose(last) if last and len(last) >= (window or 1) else None


def choice_columns(curve: Sequence[float], score: str) -> dict[str, float]:
    """The columns of a record that compare with published figures.

    Args:
        curve: As for :func:`choose_score`.
        score: Name of the score, ``top1`` or ``map``.

    Returns:
        ``<score>_median10`` of runs with ten epochs or more, and ``<score>_best_test``.
    """
    found = {
        f"{score}_{name}": choose_score(curve, choice) for name, choice in CHOICE_COLUMNS.items()
    }
    return {name: value for name, value in found.items() if value is not None}


def peek_curve(rows: Sequence[dict[str, float]], score: str, epochs: int) -> list[float] | None:
    """The test score after each epoch, as a run with ``peek=true`` has logged it.

    Args:
        rows: Rows of ``metrics.csv``.
        score: Name of the score.
        epochs: Epochs of the run.

    Returns:
        One score per epoch, or None where an epoch has none.
    """
    key = f"peek/{score}"
    curve = [float(row[key]) for row in rows if row.get(key) not in (None, "")]
    return curve if len(curve) == epochs else None
