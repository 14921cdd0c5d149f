"""The settings of TdAttenMix."""

from dataclasses import dataclass
from pathlib import Path

from mixbench.config.settings import Above, Below, OtherThan, setting
from mixbench.functional.draws import PARTNER_RULES
from mixbench.functional.windows import MAP_NORMS, RATIOS
from mixbench.methods.base import Method
from mixbench.nn.absvit_prior import PRIORS

FILES = {"absvit": "absvit", "teacher": "teacher_ckpt", "file": "maps", "gaze": "maps"}
SOURCES = ("auto", "self", *FILES, "random")
PUBLISHED = "https://github.com/bfshi/AbSViT#model-zoo"
HINT = f"; get AbSViT-B from {PUBLISHED}, or leave it out: attention=self needs no file"
TIES = ("first", "random")
WINDOWS = {"method.switch_prob": Above(0)}  # keys of windows need some
WHOLE = {"method.switch_prob": Below(1)}


@dataclass
class TdAttenMixConfig(Method.Config):
    """Settings of the maps, the windows, the label and the losses."""

    attention: str = setting(
        "auto",
        "source of the maps; auto: absvit, teacher or file if one is given, else self",
        one_of=SOURCES,
        official="absvit",
    )
    absvit: str | None = setting(None, "weights of an AbSViT under their published names")
    teacher_ckpt: str | None = setting(
        None, "checkpoint, or folder, of a finished run whose network gives attention"
    )
    maps: str | None = setting(
        None, ".npz or .npy of a map per training image, before it is cropped"
    )
    prior: str = setting(
        "auto",
        "with absvit: what to look for",
        one_of=PRIORS,
        official="head",
        only_when={"method.absvit": OtherThan(None)},
    )
    sigma: float = setting(
        1.0,
        "with absvit: weight of the feedback",
        at_least=0,
        official=1,
        only_when={"method.absvit": OtherThan(None)},
    )
    beta: float = setting(
        0.5,
        "weight of the area in the label, the rest is attention",
        within=(0, 1),
        official=0.5,
        only_when=WINDOWS,
    )
    switch_prob: float = setting(
        0.5, "share of batches with windows, the others are mixed whole", within=(0, 1)
    )
    alpha: float = setting(
        0.8,
        "Beta(alpha, alpha) of batches that are mixed whole",
        above=0,
        official=0.8,
        only_when=WHOLE,
    )
    side: int | None = setting(
        None,
        "cells along the grid; null: the patches, else 14, 16 or 8 by size",
        at_least=1,
        only_when=WINDOWS,
    )
    min_ratio: float = setting(
        0.25, "smallest side of a window as a share of the grid", within=(0, 1), only_when=WINDOWS
    )
    max_ratio: float = setting(
        0.75, "largest side of a window as a share of the grid", within=(0, 1), only_when=WINDOWS
    )
    label_ratio: str = setting(
        "fixed",
        "attention of each image, or official: one number with a wrong row",
        one_of=RATIOS,
        official="official",
        only_when=WINDOWS,
    )
    map_norm: str = setting(
        "none",
        "sum: maps count alike in the label whatever their scale",
        one_of=MAP_NORMS,
        official="none",
        only_when=WINDOWS,
    )
    dst_tie: str = setting(
        "first",
        "which window of several with equally low attention",
        one_of=TIES,
        official="first",
        only_when=WINDOWS,
    )
    partner: str = setting(
        "random",
        "rule that pairs images; flip needs even batches",
        one_of=PARTNER_RULES,
        official="flip",
    )
    consistency: float = setting(
        1.0, "weight of the KL divergence from the mixed predictions", at_least=0, only_when=WINDOWS
    )
    tokens: float = setting(
        1.0,
        "on transformers: weight of the losses of kept and of pasted tokens",
        at_least=0,
        only_when=WINDOWS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = FILES.get(self.attention)
        if needed and getattr(self, needed) is None:
            hint = HINT if needed == "absvit" else ""
            raise ValueError(f"method.attention={self.attention} needs method.{needed}=FILE{hint}")
        if self.absvit is not None and not Path(self.absvit).is_file():
            raise ValueError(f"method.absvit={self.absvit}: no such file{HINT}")
        if self.min_ratio > self.max_ratio:
            raise ValueError(
                f"method.min_ratio={self.min_ratio} exceeds method.max_ratio={self.max_ratio}"
            )

    @property
    def looks_with(self) -> str:
        """The source of maps, ``auto`` resolved."""
        given = [name for name, key in FILES.items() if getattr(self, key) is not None]
        return self.attention if self.attention != "auto" else (*given, "self")[0]

    @property
    def own_dataset(self) -> bool:
        """Maps on disk come with the images."""
        return self.looks_with in ("file", "gaze")

    @property
    def requires(self) -> frozenset[str]:
        """A network that can be cut before its head, where its own map is used."""
        return frozenset({"stages"} if self.looks_with == "self" else ())

    @property
    def fidelity(self) -> str:
        """Official with AbSViT, its own classes, and the authors' label and pairs."""
        theirs = (self.label_ratio, self.partner, self.map_norm, self.dst_tie)
        exact = theirs == ("official", "flip", "none", "first") and self.looks_with == "absvit"
        return "official-verified" if exact and self.prior == "head" else "variant"
