"""Figures of the transport plans of AlignMix under several settings, on the same batch."""

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.base import pick_layers
from mixbench.data.images import Batch
from mixbench.methods.alignmix.steps import EMBED, Place, forward_aligned
from mixbench.methods.base import Method

LAM = 0.5  # both images alike, where mixing changes most


@torch.no_grad()
def plan_rows(
    method: Method, batch: Batch, grid: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """Carry out a step of AlignMix with all combinations of settings and describe its plan.

    The network normalises with the batch, as in training; its weights and statistics stay as they
    are. Partners are the same in all rows, no image is its own, and every weight is 0.5.

    Args:
        method: AlignMix in training mode.
        batch: The images.
        grid: Values of ``layer``, ``side`` and keys of the method.

    Returns:
        For each combination, in the order of ``grid``: its settings, and

        - ``mean cost`` between two positions in the cost scale of the row, the unit of ``eps``;
        - ``row error`` and ``column error``, mean distance of the sums of the plan from 1;
        - ``entropy`` of its rows, from 0 (a hard matching) to 1 (spread evenly);
        - ``change of logits``: mean distance of the logits from those of a step that mixes at the
          same layer without moving positions, relative to their norm.

        ``embed`` has no plan; its logits are compared with the last layer.

    Raises:
        UserError: If a layer is not there.
        TypeError: If a setting is no key of the method.
        ValueError: If a setting is out of range.
    """
    method.reseed(0, 0)
    x, targets = method.prepare(batch)
    perm = mf.draw_perm(len(x), method.generator, rule="derange")
    still: dict[Any, Tensor] = {}  # logits by layer without a plan
    rows = []
    for values in itertools.product(*grid.values()):
        row = dict(zip(grid, values, strict=True))
        own = {key: value for key, value in row.items() if key not in ("layer", "side")}
        layer, side = row.get("layer", -1), row.get("side", 0)
        last = layer if layer != EMBED else -1
        (last,) = pick_layers(method.net, [last], "layer")
        place = Place(layer if layer == EMBED else last, side)
        logits, plan = _step(method, x, targets, perm, place, own)
        if last not in still:
            unmoved = Place(last, side)
            still[last], _ = _step(method, x, targets, perm, unmoved, {"plan": "identity"})
        figures: dict[str, Any] = {}
        if layer != EMBED:
            h = copy.deepcopy(method.net).forward_stages(x, stop=last)
            scale = own.get("cost_scale", method.config.cost_scale)
            figures["mean cost"] = float(mf.position_cost(h, mf.take(h, perm), scale=scale).mean())
        if plan is not None:
            found = (*mf.marginal_error(plan), mf.plan_entropy(plan))
            names = ("row error", "column error", "entropy")
            figures |= {name: float(f.mean()) for name, f in zip(names, found, strict=True)}
        distance = (logits - still[last]).norm(dim=1) / still[last].norm(dim=1)
        rows.append(row | figures | {"change of logits": float(distance.mean())})
    return rows


def _step(
    method: Method, x: Tensor, targets: Tensor, perm: Tensor, place: Place, own: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    method.reseed(0, 0)
    settings: Any = dataclasses.replace(method.config, fast_path="none", **own)
    net = copy.deepcopy(method.net)
    lam = torch.tensor([LAM])
    step = mf.Mixed(x, targets, lam, perm, place)
    logits, mixed = forward_aligned(net, step, settings, method.generator)
    return logits, mixed.aux.plan
