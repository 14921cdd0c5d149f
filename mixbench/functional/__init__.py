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
from mixbench.functional.splicemix import (
    Spliced,
    SpliceGrid,
    draw_splice_grid,
    draw_transposed,
    mark_dropped,
    parse_splice_grid,
    splice_cells,
    splice_consistency,
    splicemix,
)
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
    "Aligned",
    "Mixed",
    "Pasted",
    "SpliceGrid",
    "Spliced",
    "Transport",
    "adjust_mask",
    "align",
    "alignment_cancels",
    "alignmix",
    "attention_lam",
    "attention_mass",
    "bc",
    "bc_plus_lam",
    "blend",
    "box_shares",
    "check_batch",
    "cutmix",
    "cutmix_box",
    "cutmix_minmax_box",
    "draw_lam",
    "draw_other_class",
    "draw_other_class_pairs",
    "draw_perm",
    "draw_side",
    "draw_splice_grid",
    "draw_transposed",
    "draw_window",
    "eta_binary_cross_entropy",
    "even_shares",
    "info_nce",
    "join_windows",
    "least_attended",
    "manifoldmixup",
    "marginal_error",
    "mark_dropped",
    "mask_loss",
    "maskmix",
    "merge_weights",
    "mix_targets",
    "mixed_info_nce",
    "mixup",
    "most_attended",
    "one_hot",
    "pair_cross_entropy",
    "parse_splice_grid",
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
    "splice_cells",
    "splice_consistency",
    "splicemix",
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
