from typing import Any

import pytest
import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataInfo, RunConfig
from mixbench.methods import METHODS
from mixbench.nn.absvit import AbSViT

GOLDEN = "tdattenmix"
NOT_COMPARED: dict[str, str] = {}
BETA = 0.5  # of area and attention, a constant of the official runs
SHOWN = 8  # tokens of the signal that the file keeps


def below(case: Any, group: str) -> dict[str, Tensor]:
    """Weights of a case, which a second slash sets apart as a group of their own."""
    return {name: torch.tensor(value) for name, value in case.file.cases.get(group, {}).items()}


def of(case: Any, key: str) -> Tensor:
    """An input of a case, or of the case whose inputs it uses."""
    return case[key] if key in case else case[f"case0/{key}"]


def grid(maps: Tensor, side: int) -> Tensor:
    return maps.unflatten(1, (side, side))


@pytest.mark.cases(having="expect_mask1")
@torch.no_grad()
def test_the_guided_map_equals_the_authors(case):
    weights = below(case, f"{case.name}/w") or below(case, "case0/w")
    net = AbSViT.from_state(weights, int(case["heads"])).eval()
    assert net.patch_embed.proj.kernel_size == (int(case["patch"]),) * 2
    x, y = of(case, "img"), of(case, "labels")
    wanted = net.head.weight[y] if int(case["use_label"]) else net.prompt[None]
    found = net(x, wanted, float(case["sigma"]))
    case.compare("expect_mask1", found.first)
    case.compare("expect_td_last", found.signal[:, :SHOWN])
    case.compare("expect_mask2", found.second)
    case.compare("expect_attn", found.maps.flatten(1))
    case.compare("expect_logits", net.head(found.tokens[:, 0]))


def compare_windows(case: Any, mixed: mf.Mixed, pasted: mf.Pasted, own: Tensor) -> None:
    """What every case of mixing holds."""
    case.compare("expect_img", mixed.x, "images")
    case.compare("expect_target", mixed.targets)
    case.compare("expect_target_target", own)
    case.compare("expect_source_target", own.flip(0))
    case.compare("expect_target_mask", pasted.kept.flatten(1).long(), "masks")
    case.compare("expect_source_mask", (~pasted.kept).flatten(1).long(), "masks")


@pytest.mark.cases(having="derived_lam2_sample")
def test_windows_and_labels_equal_the_authors(case):
    side, k, classes = (int(case[key]) for key in ("side", "k", "num_classes"))
    x, maps = (
        of(case, "img"),
        grid(case["attn"] if "attn" in case else case["case0/expect_attn"], side),
    )
    own = mf.one_hot(of(case, "labels"), classes, smoothing=float(case["smoothing"]))
    mixed = mf.tdattenmix(x, own, maps, side=k, ratio="official", partner="flip", beta=BETA)
    target, source, kept, *_ = mixed.aux
    compare_windows(case, mixed, mixed.aux, own)
    for name, places in (("dst", target), ("src", source)):
        for axis, values in zip(("row", "col"), places.unbind(1), strict=True):
            case.compare(f"expect_{name}_{axis}", values)
    area = kept.double().mean((1, 2))
    case.compare("expect_lam1", area[0])
    case.compare("expect_lam_official", mixed.lam[0].double())
    case.compare("expect_lam2_official", ((mixed.lam - BETA * area) / (1 - BETA))[0])
    both = mf.attention_mass(maps, kept, mixed.perm, source, k)
    whole = [mass.sum().double() for mass in both]
    case.compare("derived_lam2_batch", whole[0] / sum(whole))
    fixed = mf.tdattenmix(x, own, maps, side=k, partner="flip", beta=0.0)
    case.compare("derived_lam2_sample", fixed.lam)
    assert torch.equal(fixed.x, mixed.x)
    case.compare("expect_mixed_pred", mf.mix_targets(case["preds_unmixed"], mixed.perm, mixed.lam))


@pytest.mark.cases(having="expect_loss_vit")
def test_a_step_of_a_transformer_equals_the_authors_up_to_its_losses(case):
    weights = below(case, f"{case.name}/w")
    side, k, classes = (int(case[key]) for key in ("side", "k", "num_classes"))
    x, patch = case["img"], int(case["patch"])
    size, dim = (x.shape[2], x.shape[3]), weights["head.weight"].shape[1]
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    net = VisionTransformer(dim, depth, int(case["heads"]), patch, size, classes)
    net.load_state_dict(
        net.own_names({k: v for k, v in weights.items() if not k.startswith("token_head")})
    )
    cls = METHODS.get("tdattenmix")
    config = cls.Config(label_ratio="official", partner="flip", beta=BETA)
    method = cls(net, DataInfo(classes, *size), config, RunConfig()).train()
    for name in ("weight", "bias"):
        getattr(method.token_head, name).data = weights[f"token_head.{name}"]

    with torch.no_grad():
        case.compare("expect_pred_unmixed", net(x))
    own = mf.one_hot(case["labels"], classes, smoothing=float(case["smoothing"]))
    mixed = method.mix(x, own, maps=grid(case["attn"], side), side=k)
    seen = mixed.aux
    compare_windows(case, mixed, seen.pasted, own)
    area = 1 - k**2 / side**2
    case.compare("expect_lam2_official", ((mixed.lam[0].double() - BETA * area) / (1 - BETA)))
    case.compare("expect_mixed_pred", seen.expected)

    logits, mixed = method.predict(mixed)
    case.compare("expect_logits", logits.detach())
    for name, region in zip(("target", "source"), mixed.aux.regions, strict=True):
        case.compare(f"expect_{name}_logits", region.detach())
    terms = {key: term.detach() for key, term in method.loss(logits, mixed).items()}
    case.compare("expect_loss_cls", terms["ce"])
    case.compare("expect_loss_con", terms["consistency"])
    case.compare("expect_loss_fine", terms["tokens"])
    case.compare("expect_loss_vit", terms["ce"] + terms["consistency"] + terms["tokens"])
    case.compare("expect_loss_other", terms["ce"] + terms["consistency"])


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
