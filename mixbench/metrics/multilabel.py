"""Scores of predictions with several labels per image."""

from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision

UNKNOWN = -1


def mean_average_precision(logits: Tensor, targets: Tensor) -> Tensor:
    """Average precision of each class, averaged over the classes that have a positive image.

    Average precision is the sum of precisions at each recall step, as VOC counts since 2010 but
    without its envelope; VOC 2007's own eleven points are coarser.

    Args:
        logits: (N, K) network output; only its order counts.
        targets: (N, K) 1 for present, 0 for absent, NaN for unknown, which is left out.

    Returns:
        Scalar in percent; NaN where no class has a positive image.
    """
    known = targets.nan_to_num(UNKNOWN).long()
    present = (known == 1).any(dim=0)
    if not present.any():
        return logits.new_tensor(float("nan"))
    picked = logits[:, present].float(), known[:, present]
    count = int(present.sum())
    if count == 1:  # torchmetrics wants two labels at least
        picked = tuple(value.expand(-1, 2) for value in picked)
    # Sigmoids of float32 logits tie beyond 17, so their ranks stand in for them.
    ranks = picked[0].argsort(dim=0).argsort(dim=0).double() / len(logits)
    values = multilabel_average_precision(
        ranks, picked[1], num_labels=max(count, 2), average="none", ignore_index=UNKNOWN
    )
    return 100 * values.mean()


def multilabel_scores(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """All scores by the names of a leaderboard row.

    Args:
        logits: (N, K) network output.
        targets: (N, K), as for :func:`mean_average_precision`.

    Returns:
        ``map`` in percent.
    """
    return {"map": float(mean_average_precision(logits, targets))}
