"""Top-down signals for an ImageNet network that is shown images of another data set.

Its classifier knows the classes of ImageNet and no others: read by the labels of another data set,
it would look for something else in every image.
"""

from collections.abc import Sequence

from mixbench.errors import UserError
from mixbench.nn.imagenet import WNIDS

PRIORS = ("auto", "head", "wnid", "prototype", "prompt")
PRIOR_KEY = "method.prior"


def choose_prior(wanted: str, rows: int, num_classes: int, class_ids: Sequence[str]) -> str:
    """Settle what to look for, and refuse what would be wrong without a word.

    Args:
        wanted: ``head``: the classifier's row of the label; ``wnid``: its row of the label's
            WordNet id; ``prototype``: the mean feature of the class; ``prompt``: the learned
            vector that asks for no class; ``auto``: the first of head, wnid and prototype that
            is right.
        rows: Rows of the classifier.
        num_classes: Classes of the data set.
        class_ids: Their WordNet ids, where the data set has such.

    Returns:
        One of them other than ``auto``.

    Raises:
        UserError: If it is asked for rows that stand for other classes, or for ids that the data
            set does not have.

    Example:
        >>> choose_prior("auto", 1000, 10, ())
        'prototype'
    """
    imagenet = rows == len(WNIDS)
    same = imagenet and tuple(class_ids) == WNIDS
    known = imagenet and bool(class_ids) and set(class_ids) <= set(WNIDS)
    if wanted == "auto":
        return "head" if same else "wnid" if known else "prototype"
    if wanted == "head":
        # Of other sizes it was trained on some other set, perhaps on this one; 1,000 unnamed
        # classes may be ImageNet's.
        other = imagenet and class_ids and not same
        if rows != num_classes or other:
            raise UserError(
                f"the {rows} rows of the attention network's classifier stand for other classes "
                f"than the {num_classes} of the data",
                PRIOR_KEY,
                f"use {PRIOR_KEY}=wnid for a part of ImageNet, or else {PRIOR_KEY}=prototype or "
                f"{PRIOR_KEY}=prompt",
            )
    if wanted == "wnid" and not known:
        why = (
            f"the classifier has {rows} rows and not ImageNet's {len(WNIDS)}"
            if not imagenet
            else "the data set has no WordNet ids"
            if not class_ids
            else f"{sorted(set(class_ids) - set(WNIDS))[0]} is not a class of ImageNet"
        )
        raise UserError(
            why, f"{PRIOR_KEY}=wnid", f"use {PRIOR_KEY}=prototype or {PRIOR_KEY}=prompt"
        )
    return wanted


def wnid_rows(class_ids: Sequence[str]) -> list[int]:
    """Rows of a classifier of ImageNet.

    Args:
        class_ids: WordNet ids, all of them of ImageNet.

    Returns:
        Row of each.

    Example:
        >>> wnid_rows(["n01443537", "n01440764"])
        [1, 0]
    """
    index = {wnid: row for row, wnid in enumerate(WNIDS)}
    return [index[wnid] for wnid in class_ids]
