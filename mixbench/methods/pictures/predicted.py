"""The picture of methods that have none of their own."""

from typing import Any

import torch
from torch import Tensor

from mixbench.functional.mixed import Mixed
from mixbench.pictures.sheet import GREY, Sheet, mixed_sheet


def draw_mixed(
    method: Any, x: Tensor, targets: Tensor, mixed: Mixed, *, inside: bool
) -> list[Sheet]:
    """Pairs with their mixed images and labels.

    Args:
        method: The method.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` returned.
        inside: Whether the method has a ``predict`` of its own, which may mix.

    Returns:
        The sheet.
    """
    notes = []
    if inside and torch.equal(mixed.x, x):
        mixed, notes = after_predict(method, x, mixed)
    shown = mixed._replace(x=method.to_pixels(mixed.x))
    return [mixed_sheet(method.to_pixels(x), targets, shown, method.info.names, notes)]


def after_predict(method: Any, x: Tensor, mixed: Mixed) -> tuple[Mixed, list[str]]:
    """A batch as ``predict`` returns it, grey where its images are not mixed but features.

    Args:
        method: The method; what ``predict`` writes into its buffers stays there.
        x: (B, C, H, W) images before mixing, normalised.
        mixed: What ``mix`` made of them, its images unchanged.

    Returns:
        The batch to draw, and sentences about it.
    """
    with torch.compiler.set_stance("force_eager"):
        after: Mixed = method.predict(mixed)[1]
    if after.x.shape == x.shape and not torch.equal(after.x, x):
        return after, ["Mixed by predict, not by mix."]
    if after.x.shape == x.shape and mixed.perm is None and mixed.lam is None:
        return after, []  # nothing is mixed
    grey = method.normalize(torch.full_like(x, GREY))
    return after._replace(x=grey), ["There is no mixed image: the network mixes inside."]
