"""TdAttenMix as a trainable method."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.errors import UserError
from mixbench.methods.base import register
from mixbench.methods.pictures.windows import draw_windows
from mixbench.methods.tdattenmix.config import TdAttenMixConfig
from mixbench.methods.tdattenmix.consistency import ConsistencyMethod, WindowStep
from mixbench.nn.teacher import frozen_eval
from mixbench.registry import Registry

# Read one at a time, and imported only if asked for.
SOURCES = Registry(
    "attention",
    {
        "absvit": "mixbench.methods.tdattenmix.topdown:TopDownMaps",
        "file": "mixbench.methods.map_sources:FileMaps",
        "gaze": "mixbench.methods.map_sources:FileMaps",
        "random": "mixbench.methods.map_sources:RandomWindows",
        "self": "mixbench.methods.map_sources:OwnMaps",
        "teacher": "mixbench.methods.map_sources:TeacherMaps",
    },
)


@register("tdattenmix")
class TdAttenMix(ConsistencyMethod):
    r"""Paste the partner's most attended window over the least attended one.

    See :func:`mixbench.functional.tdattenmix`.

    Paper: Wang, Gu, Lu, "TdAttenMix: Top-Down Attention Guided Mixup", AAAI 2025,
    arXiv:2501.15409. Official code: morning12138/TdAttenMix. Half of the batches are mixed as
    Input Mixup does. Maps come from ``attention``: ``absvit``, the authors' frozen network, which
    looks for the label; ``self``, the trained network's own last attention or class activation
    map, as in SMMix (arXiv:2212.12977), a variant without any download and the default without a
    file; ``teacher``, the network of a finished run; ``gaze`` or ``file``, maps on disk; and
    ``random`` windows as a control.
    Formula: :math:`x = M \odot x_1 + (1 - M) \odot x_2`, and
    :math:`y = \lambda y_1 + (1 - \lambda) y_2` with
    :math:`\lambda = \beta \lambda_A + (1 - \beta) \lambda_a`, the area that is kept and its share
    of the attention.
    Deviations: the authors' label reads the partner's window in the map of the wrong image and
    sums over the batch (``label_ratio: official``; here each image by itself); partners are a
    random permutation (``partner: flip`` is theirs, for even batches); the attention network is
    told classes by WordNet id or by prototypes where the data is not ImageNet, theirs looks for
    ImageNet's class of the same number. Draws are keyed, not Python's; the network keeps the mode
    of its layers. The average of weights that the authors keep is never used by them.
    Cost: 1.3 in a batch with windows, 1.2 on average; ``absvit`` of size B adds about 42 G
    multiply-adds per image, ``teacher`` one pass of its network, maps on disk nothing.
    """

    cost = 1.2
    files = ("absvit", "teacher_ckpt", "maps")
    picture = draw_windows

    @dataclass
    class Config(TdAttenMixConfig):
        """Settings of TdAttenMix."""

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        cfg = self.config
        self.check_partners(cfg.partner)
        self.source = SOURCES.get(cfg.looks_with)(self)
        if cfg.side is not None:
            self._check_side()

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of cells: the patches of a transformer, else as ``side`` has it."""
        if self.token_head is None:
            return mf.window_grid(x.shape[2], x.shape[3], self.config.side)
        return cast(Any, self.net).grid(x)

    def _check_side(self) -> None:
        where = f"method.side={self.config.side}"
        if self.token_head is not None:
            what = "the grid of a transformer is that of its patches"
            raise UserError(what, where, "leave method.side out, or change net.patch")
        try:
            mf.window_grid(self.info.height, self.info.width, self.config.side)
        except ValueError as error:
            what, _, todo = str(error).partition("; ")
            raise UserError(what, where, todo) from error

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste windows into the batch, or mix it whole; missing decisions are drawn.

        ``side``, ``perm``, ``target``, ``source`` and ``order`` are those of
        :func:`mixbench.functional.tdattenmix`, ``maps`` (B, R, C) replace those of the source.
        """
        cfg, shared = self.config, self.shared_generator
        maps, side = decisions.pop("maps", None), decisions.pop("side", None)
        pair = {"partner": cfg.partner, "generator": self.generator}
        if side is None and not self.switch.on(cfg.switch_prob):
            given = {key: decisions[key] for key in ("lam", "perm") if key in decisions}
            return mf.mixup(x, targets, alpha=cfg.alpha, **pair, **given)
        size = self.grid(x)
        if side is None:
            side = mf.draw_window(min(size), cfg.min_ratio, cfg.max_ratio, shared)
        # In float32, as less would choose other windows.
        with torch.autocast(x.device.type, enabled=False), frozen_eval(self.net):
            wide, y = x.float(), targets.argmax(1)
            look = self.source.look
            logits, found = look(self, wide, y) if maps is None else (self.net(wide), maps)
            maps = mf.resize_maps(found, size, self.source.resize)
        windows = (size[0] - side + 1, size[1] - side + 1)
        decisions = self.source.places(len(x), windows, self.generator) | decisions
        if cfg.dst_tie == "random" and "order" not in decisions:
            decisions["order"] = torch.rand(len(x), *windows, generator=self.generator)
        rule = {"beta": cfg.beta, "ratio": cfg.label_ratio, "map_norm": cfg.map_norm}
        mixed = mf.tdattenmix(x, targets, maps, side=side, **rule, **pair, **decisions)
        expected = mf.mix_targets(logits.float(), cast(Tensor, mixed.perm), cast(Tensor, mixed.lam))
        return mixed._replace(aux=WindowStep(mixed.aux, targets, expected))

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """Pixels outside of the window, and the partner's window where it was cut out."""
        if mixed.aux is None:
            return mf.even_shares(cast(Tensor, mixed.lam))
        return mf.window_shares(mixed.aux.pasted, (x.shape[2], x.shape[3]))

    @property
    def no_mask_reason(self) -> str:
        """Reason of the source of maps, where it has none of test images."""
        return self.source.unfit_for_tests

    def wrap_dataset(self, train_set: Any) -> Dataset[Any]:
        """The training set as the source of maps wants to see it."""
        return self.source.wrap(train_set)
