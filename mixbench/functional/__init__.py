"""Mixing operations for plain PyTorch: importing this package loads torch and nothing else.

Every operation takes the batch and its soft targets and returns a :class:`Mixed`. Any random
decision can be passed in; what is missing is drawn from ``generator``.
"""

from mixbench.functional.bc import (
    bc,
    bc_plus_lam,
    draw_other_class,
    draw_other_class_pairs,
    pixel_std,
    subtract_image_mean,
)
from mixbench.functional.core import (
    Mixed,
    check_batch,
    draw_lam,
    draw_perm,
    mix_targets,
    one_hot,
    soft_binary_cross_entropy,
    soft_cross_entropy,
    soft_kl,
    take,
)
from mixbench.functional.cutmix import cutmix, cutmix_box, cutmix_minmax_box, paste_box
from mixbench.functional.manifold import manifoldmixup, softmax_binary_cross_entropy
from mixbench.functional.mixup import mixup

__all__ = [
    "Mixed",
    "bc",
    "bc_plus_lam",
    "check_batch",
    "cutmix",
    "cutmix_box",
    "cutmix_minmax_box",
    "draw_lam",
    "draw_other_class",
    "draw_other_class_pairs",
    "draw_perm",
    "manifoldmixup",
    "mix_targets",
    "mixup",
    "one_hot",
    "paste_box",
    "pixel_std",
    "soft_binary_cross_entropy",
    "soft_cross_entropy",
    "soft_kl",
    "softmax_binary_cross_entropy",
    "subtract_image_mean",
    "take",
]
