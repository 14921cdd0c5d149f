"""The few scores of a run that are shown when it ends."""

from collections.abc import Iterator, Mapping

from mixbench.leaderboard.columns import COLUMNS, describe

RANKED = ("top1", "map", "psnr")  # scores that rows are ranked by
BEHIND = (("nll",), ("ece_cf", "ece"))  # of each, the first that a run has
LAST = ("top5", "cf1")


def headline(metrics: Mapping[str, float]) -> list[str]:
    """Names of the scores that say most of a run.

    Args:
        metrics: Its scores by name.

    Returns:
        At most five: the one that it is ranked by, likelihood, calibration, one of robustness, and
        one more of accuracy.
    """
    robustness = tuple(
        column.name
        for column in COLUMNS.values()
        if column.listed and column.better and column.suite not in ("", "calibration")
    )
    choices = (RANKED, *BEHIND, robustness, LAST)
    found = (next((name for name in names if name in metrics), None) for names in choices)
    return [name for name in found if name is not None]


def score_texts(metrics: Mapping[str, float]) -> Iterator[str]:
    """The scores of :func:`headline`, each in words.

    Args:
        metrics: Scores of a run by name.

    Yields:
        Such as ``top1 95.20 %``.
    """
    for name in headline(metrics):
        column = describe(name)
        yield f"{name} {column.text(metrics[name])}{' %' * (column.unit == '%')}"
