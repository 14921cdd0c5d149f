"""The small vision transformers of golden files, whose weights bear timm's names."""

from typing import Any

from mixbench.backbones.vit import VisionTransformer


def golden_vit(case: Any) -> VisionTransformer:
    """The network of a case in training mode."""
    state = {name: case[f"{case.name}/w/{name}"] for name in case.file.cases[f"{case.name}/w"]}
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    dim, channels, patch, _ = state["patch_embed.proj.weight"].shape
    size = tuple(case["img"].shape[2:])
    classes = len(state["head.weight"])
    net = VisionTransformer(dim, depth, int(case["heads"]), patch, size, classes, channels)
    net.load_state_dict(net.own_names(state))
    return net.train()
