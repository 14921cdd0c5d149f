"""Base of SpliceMix and SpliceMix-CL: draws grids and appends the images that they make."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.errors import UserError, counted
from mixbench.functional.splicemix import APPENDED
from mixbench.methods.base import Method
from mixbench.methods.pictures.splices import draw_splices

log = logging.getLogger("mixbench")


class SplicingMethod(Method):
    """Base of both: the batch grows from B images to B + M."""

    @dataclass
    class Config(Method.Config):
        """Settings that both have."""

        grids: list[str] = setting(
            [],
            "grids such as 2x2, or 2x3-1 which drops a cell of six; none: one is drawn per batch",
            official="none",
        )
        counts: list[int] | None = setting(
            None,
            "mixed images of each grid; null: a quarter of the batch; 0: all images shown once",
            at_least=0,
            official="null",
        )
        mix_prob: float = setting(1.0, "share of batches mixed", within=(0, 1), official=1.0)
        antialias: bool = setting(False, "smooth images before they shrink", official=False)
        shared_grid: bool = setting(
            False,
            "the same grid on all processes, else each draws its own",
            official="the same, transposed on some",
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            try:
                self.layouts = [mf.parse_splice_grid(text) for text in self.grids]
            except ValueError as error:
                raise ValueError(f"method.grids: {error}") from None  # the cause is shown
            self._check_counts()

        def _check_counts(self) -> None:
            grids, counts = len(self.layouts), self.counts
            if counts is None and grids > 1:
                raise ValueError(f"method.counts must give each of {grids} grids its images")
            if counts is not None and len(counts) != grids:
                raise ValueError(
                    f"method.counts must give each grid of method.grids its images, got "
                    f"{len(counts)} for {grids or 'no'} grids"
                )
            if counts is not None and grids > 1 and 0 in counts:
                raise ValueError("method.counts must be above 0 where there are several grids")

        @property
        def fidelity(self) -> str:
            """Official as long as images shrink as the authors' do."""
            return "variant" if self.antialias else "official-verified"

    cost = 1.25
    labels = "union"
    picture = draw_splices
    _told = False

    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        side = min(self.info.height, self.info.width)  # rows and columns can change places
        for text, grid in zip(self.config.grids, self.config.layouts, strict=True):
            if max(grid.rows, grid.columns) > side:
                size = f"{self.info.height}x{self.info.width}"
                what = (
                    f"images of {size} pixels cannot be cells of the grid {text}, on its side too"
                )
                raise UserError(what, "method.grids", "use larger images or fewer cells")

    @classmethod
    def step_cost(cls, config: Any) -> float:
        """A quarter more images in the batches that are mixed."""
        return 1 + (cls.cost - 1) * config.mix_prob

    def grown(self, rows: int) -> int:
        """The batch and what is appended to it."""
        cfg = self.config
        if cfg.counts is None:
            return rows + rows // APPENDED
        pairs = zip(cfg.counts, cfg.layouts, strict=True)
        return rows + sum(count or rows // grid.cells for count, grid in pairs)

    @property
    def no_mask_reason(self) -> str:
        """It has no pairs."""
        return "it appends images to the batch and pairs none"

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Append mixed images, or with probability ``1 - mix_prob`` leave the batch.

        Decisions are those of :func:`mixbench.functional.splicemix`, or ``perm`` (B,), with which
        each image is spliced with its partner side by side, for pictures of pairs.
        """
        cfg = self.config
        used, perm = self.switch.on(cfg.mix_prob), decisions.pop("perm", None)
        if not decisions and perm is None and not used:
            return mf.Mixed(x, targets)
        if perm is not None:
            decisions = side_by_side(perm) | decisions
        source = self.shared_generator if cfg.shared_grid else self.generator
        if "grids" not in decisions:
            decisions["grids"] = cfg.layouts or [mf.draw_splice_grid(source)]
            decisions.setdefault("counts", cfg.counts)
        if "transposed" not in decisions:
            decisions["transposed"] = mf.draw_transposed(decisions["grids"], source)
        options = {"labels": self.labels, "antialias": cfg.antialias, "generator": self.generator}
        mixed = mf.splicemix(x, targets, **options, **decisions)
        if mixed.aux is None:
            self._tell(len(x))
        return mixed._replace(perm=perm)

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Share of appended images among all, and share of their cells that is kept."""
        spliced = self.spliced(mixed)
        if spliced is None:
            return {"appended": mixed.x.new_zeros(())}
        share = mixed.x.new_full((), spliced.images / len(mixed.x))
        return {"appended": share, "kept": 1 - spliced.dropped.float().mean()}

    def spliced(self, mixed: mf.Mixed) -> mf.Spliced | None:
        """Decisions of a batch; None where nothing is appended."""
        return mixed.aux

    def _tell(self, rows: int) -> None:
        """Say once that batches are too small."""
        if not self._told:
            self._told = True
            log.warning(
                "batches of %s a process are too small to append any, at one for %d, and are "
                "trained on as they are; use a larger batch_size, or method.grids with "
                "method.counts",
                counted(rows, "image"),
                APPENDED,
            )


def side_by_side(perm: Tensor) -> dict[str, Any]:
    """Decisions that splice each image with its partner.

    Args:
        perm: (B,) partners.

    Returns:
        Arguments of :func:`mixbench.functional.splicemix`.
    """
    sources = torch.stack([torch.arange(len(perm), device=perm.device), perm], dim=1).flatten()
    decisions = {"grids": [mf.SpliceGrid(1, 2)], "counts": [len(perm)], "transposed": [False]}
    return decisions | {
        "sources": sources,
        "dropped": torch.zeros_like(sources, dtype=torch.bool),
    }
