"""The settings of TdAttenMix."""

from dataclasses import dataclass
from pathlib import Path

from mixbench.config.schema import at_least, in_unit_interval, one_of, positive
from mixbench.functional.core import PARTNER_RULES
from mixbench.functional.windows import MAP_NORMS, RATIOS
from mixbench.methods.base import Method
from mixbench.nn.absvit_prior import PRIORS

FILES = {"absvit": "absvit", "teacher": "teacher_ckpt", "file": "maps", "gaze": "maps"}
SOURCES = ("auto", "self", *FILES, "random")
PUBLISHED = "https://github.com/bfshi/AbSViT#model-zoo"
HINT = f"; get AbSViT-B from {PUBLISHED}, or leave it out: attention=self needs no file"
TIES = ("first", "random")


@dataclass
class Guiding(Method.Config):
    """Settings of the maps, the windows, the label and the losses."""

    attention: str = "auto"  # absvit, teacher or file if one is given, else self; gaze, random
    absvit: str | None = None  # weights of an AbSViT under their published names
    teacher_ckpt: str | None = None  # checkpoint, or folder, of a finished run that looks
    maps: str | None = None  # .npz or .npy of a map per training image, before it is cropped
    prior: str = "auto"  # of absvit, what to look for: head, wnid, prototype or prompt
    sigma: float = 1.0  # of absvit: weight of the way back; official: 1
    beta: float = 0.5  # weight of the area in the label, the rest is attention; official: 0.5
    switch_prob: float = 0.5  # share of batches with windows, the others are mixed whole
    alpha: float = 0.8  # Beta(alpha, alpha) of batches that are mixed whole; official: 0.8
    side: int | None = None  # cells along the grid; null: the patches, else 14, 16 or 8 by size
    min_ratio: float = 0.25  # smallest side of a window as a share of the grid
    max_ratio: float = 0.75  # the largest
    label_ratio: str = "fixed"  # attention of each image; official: one number with a wrong row
    map_norm: str = "none"  # sum: maps count alike in the label whatever their scale
    dst_tie: str = "first"  # of equally unattended windows: the first (official), or random
    partner: str = "random"  # random permutation, derange or roll; official: flip, even batches
    consistency: float = 1.0  # weight of the KL divergence from the mixed predictions
    tokens: float = 1.0  # of transformers: weight of the losses of kept and of pasted tokens

    def __post_init__(self) -> None:
        one_of("method.attention", self.attention, SOURCES)
        needed = FILES.get(self.attention)
        if needed and getattr(self, needed) is None:
            hint = HINT if needed == "absvit" else ""
            raise ValueError(f"method.attention={self.attention} needs method.{needed}=FILE{hint}")
        if self.absvit is not None and not Path(self.absvit).is_file():
            raise ValueError(f"method.absvit={self.absvit}: no such file{HINT}")
        one_of("method.prior", self.prior, PRIORS)
        one_of("method.label_ratio", self.label_ratio, RATIOS)
        one_of("method.map_norm", self.map_norm, MAP_NORMS)
        one_of("method.dst_tie", self.dst_tie, TIES)
        one_of("method.partner", self.partner, PARTNER_RULES)
        positive("method.alpha", self.alpha)
        for key in ("sigma", "consistency", "tokens"):
            at_least(f"method.{key}", getattr(self, key), 0)
        for key in ("beta", "switch_prob", "min_ratio", "max_ratio"):
            in_unit_interval(f"method.{key}", getattr(self, key))
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"method.min_ratio={self.min_ratio} exceeds max_ratio")
        at_least("method.side", 1 if self.side is None else self.side, 1)

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
