"""A batch of real images on which methods and settings are looked at."""

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.base import pick_layers
from mixbench.config.compose import compose
from mixbench.config.names import METHODS
from mixbench.methods.alignmix.steps import EMBED, Place, forward_aligned
from mixbench.methods.base import Method
from mixbench.notebook.table import Table
from mixbench.pictures.raster import under_titles
from mixbench.training.job import incompatibility, resolve, task_of
from mixbench.training.preview import first_batch, picture

LAM = 0.5  # both images alike, where mixing changes most


class Scene:
    """The first training batch of a configuration, its data read once.

    Args:
        words: Overrides of data, network, batch size and seed; the method is named later.
        trained: Folder of a run with the same network whose last weights are used; the initial
            ones if None.

    Raises:
        UserError: If a name or key is unknown, or the data is missing.
    """

    def __init__(self, words: Sequence[str], trained: Path | None = None) -> None:
        self.words, self.trained = list(words), trained
        self.splits = resolve(compose(self.words)).read_data()

    def picture(self, *words: str) -> Image.Image:
        """Picture of the batch as a method mixes it.

        Args:
            *words: Overrides such as ``method=alignmix``, ``method.layers=[3]``.

        Returns:
            The picture of ``mixbench show``.
        """
        return picture(compose([*self.words, *words]), self.trained, self.splits)

    def gallery(self) -> Image.Image:
        """Pictures of the same images by every registered method that can mix them.

        Returns:
            The pictures of ``mixbench show`` under the names of the methods, with default settings.
        """
        configs = {name: compose([*self.words, f"method={name}"]) for name in METHODS.names()}
        mixing = {name: c for name, c in configs.items() if task_of(c).classifies}
        names = [name for name, config in mixing.items() if not incompatibility(config)]
        return under_titles({name: self.picture(f"method={name}") for name in names})

    @torch.no_grad()
    def plans(self, grid: Mapping[str, Sequence[Any]]) -> Table:
        """Figures of the plans that AlignMix finds on the batch, for all combinations of settings.

        The network normalises with the batch, as in training; its weights and statistics stay as
        they are. Partners are the same in all rows, no image is its own, and every weight is 0.5.

        Args:
            grid: Values of ``layer`` (a number, or ``embed``; the last one if it is not named),
                ``side`` (0 or 1), and of keys of the method such as ``eps`` and ``plan``.

        Returns:
            For each combination its settings, and

            - ``mean cost`` between two positions in the scale of the row, the unit of ``eps``;
            - ``row error`` and ``column error``, mean distance of the sums of the plan from 1;
            - ``entropy`` of its rows, from 0 (a hard matching) to 1 (spread evenly);
            - ``change of logits``: mean distance of the logits from those of a step that mixes at
              the same layer without moving positions, relative to their norm.

            ``embed`` has no plan; its logits are compared with the last layer.

        Raises:
            UserError: If a layer is not there.
            TypeError: If a setting is no key of the method.
            ValueError: If a setting is out of range.
        """
        config = compose([*self.words, "method=alignmix"])
        method, batch = first_batch(config, self.trained, self.splits)
        method.reseed(0, 0)
        x, targets = method.prepare(batch)
        perm = mf.draw_perm(len(x), method.generator, rule="derange")
        still: dict[Any, Tensor] = {}  # logits by layer without a plan
        rows = []
        for values in itertools.product(*grid.values()):
            row = dict(zip(grid, values, strict=True))
            own = {key: value for key, value in row.items() if key not in ("layer", "side")}
            layer, side = row.get("layer", -1), row.get("side", 0)
            (last,) = pick_layers(method.net, [-1 if layer == EMBED else layer], "layer")
            place = Place(layer if layer == EMBED else last, side)
            logits, plan = _step(method, x, targets, perm, place, own)
            if last not in still:
                unmoved = Place(last, side)
                still[last], _ = _step(method, x, targets, perm, unmoved, {"plan": "identity"})
            if layer != EMBED:
                h = copy.deepcopy(method.net).forward_stages(x, stop=last)
                scale = own.get("cost_scale", method.config.cost_scale)
                cost = mf.position_cost(h, mf.take(h, perm), scale=scale)
                row["mean cost"] = float(cost.mean())
            if plan is not None:
                found = (*mf.marginal_error(plan), mf.plan_entropy(plan))
                names = ("row error", "column error", "entropy")
                row |= {name: float(f.mean()) for name, f in zip(names, found, strict=True)}
            distance = (logits - still[last]).norm(dim=1) / still[last].norm(dim=1)
            rows.append(row | {"change of logits": float(distance.mean())})
        return Table(rows)


def _step(
    method: Method, x: Tensor, targets: Tensor, perm: Tensor, place: Place, own: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    method.reseed(0, 0)
    settings: Any = dataclasses.replace(method.config, fast_path="none", **own)
    step = mf.Mixed(x, targets, torch.tensor([LAM]), perm, place)
    logits, mixed = forward_aligned(copy.deepcopy(method.net), step, settings, method.generator)
    return logits, mixed.aux.plan
