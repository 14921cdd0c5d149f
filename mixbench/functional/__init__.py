"""Mixing operations for plain PyTorch: importing this package loads torch and nothing else.

Every operation takes the batch and its soft targets and returns a :class:`Mixed`. Any random
decision can be passed in; what is missing is drawn from ``generator``.
"""

from mixbench.functional.align import (
    Aligned,
    align,
    alignment_cancels,
    alignmix,
    draw_side,
)
from mixbench.functional.augmix import (
    Chains,
    ChainViews,
    augmix,
    chain_images,
    draw_chains,
    draw_weights,
    jsd_loss,
    mix_chains,
)
from mixbench.functional.bc import (
    bc,
    bc_plus_lam,
    draw_other_class,
    draw_other_class_pairs,
    pixel_std,
    subtract_image_mean,
)
from mixbench.functional.contrastive import info_nce, mixed_info_nce, two_way_nce
from mixbench.functional.cutmix import (
    box_shares,
    cutmix,
    cutmix_box,
    cutmix_minmax_box,
    paste_box,
)
from mixbench.functional.draws import draw_lam, draw_perm
from mixbench.functional.image_ops import OPERATIONS, apply_ops, op_values
from mixbench.functional.losses import soft_binary_cross_entropy, soft_cross_entropy, soft_kl
from mixbench.functional.manifold import manifoldmixup, softmax_binary_cross_entropy
from mixbench.functional.maskmix import (
    adjust_mask,
    blend,
    eta_binary_cross_entropy,
    mask_loss,
    maskmix,
    pair_cross_entropy,
    rescale_lam,
)
from mixbench.functional.mixed import Mixed, check_batch, mix_targets, one_hot, take
from mixbench.functional.mixup import even_shares, mixup
from mixbench.functional.ratings import rated_lam
from mixbench.functional.sinkhorn import Transport, marginal_error, plan_entropy, sinkhorn
from mixbench.functional.token_labels import (
    attention_lam,
    join_windows,
    merge_weights,
    pasted_tokens,
    propagate,
    propagate_windows,
    split_windows,
    token_cutmix,
    token_weights,
)
from mixbench.functional.transport import position_cost, position_plan
from mixbench.functional.windows import (
    Pasted,
    attention_mass,
    draw_window,
    least_attended,
    most_attended,
    paste_window,
    resize_maps,
    tdattenmix,
    window_grid,
    window_mask,
    window_shares,
    window_sums,
)

__all__ = [
    "OPERATIONS",
    "Aligned",
    "ChainViews",
    "Chains",
    "Mixed",
    "Pasted",
    "Transport",
    "adjust_mask",
    "align",
    "alignment_cancels",
    "alignmix",
    "apply_ops",
    "attention_lam",
    "attention_mass",
    "augmix",
    "bc",
    "bc_plus_lam",
    "blend",
    "box_shares",
    "chain_images",
    "check_batch",
    "cutmix",
    "cutmix_box",
    "cutmix_minmax_box",
    "draw_chains",
    "draw_lam",
    "draw_other_class",
    "draw_other_class_pairs",
    "draw_perm",
    "draw_side",
    "draw_weights",
    "draw_window",
    "eta_binary_cross_entropy",
    "even_shares",
    "info_nce",
    "join_windows",
    "jsd_loss",
    "least_attended",
    "manifoldmixup",
    "marginal_error",
    "mask_loss",
    "maskmix",
    "merge_weights",
    "mix_chains",
    "mix_targets",
    "mixed_info_nce",
    "mixup",
    "most_attended",
    "one_hot",
    "op_values",
    "pair_cross_entropy",
    "paste_box",
    "paste_window",
    "pasted_tokens",
    "pixel_std",
    "plan_entropy",
    "position_cost",
    "position_plan",
    "propagate",
    "propagate_windows",
    "rated_lam",
    "rescale_lam",
    "resize_maps",
    "sinkhorn",
    "soft_binary_cross_entropy",
    "soft_cross_entropy",
    "soft_kl",
    "softmax_binary_cross_entropy",
    "split_windows",
    "subtract_image_mean",
    "take",
    "tdattenmix",
    "token_cutmix",
    "token_weights",
    "two_way_nce",
    "window_grid",
    "window_mask",
    "window_shares",
    "window_sums",
]
