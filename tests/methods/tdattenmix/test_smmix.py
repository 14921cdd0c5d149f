import pytest
import torch

import mixbench.functional as mf
from mixbench.backbones.attention import Capture
from mixbench.backbones.swin import Swin
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataInfo, RunConfig
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.testing.samples import sample_batch
from mixbench.training.requirements import check_pair

CLS = METHODS.get("smmix")
SIZE = (16, 24)
FLIP = torch.arange(6).flip(0)


def made(net=None, size=SIZE, **settings):
    torch.manual_seed(1)
    if net is None:
        net = VisionTransformer(16, 4, 2, 4, size, 4, drop_path=0.5)
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)
    settings = {"switch_prob": 1.0} | settings
    return CLS(net, DataInfo(4, *size), CLS.Config(**settings), RunConfig()).train()


@torch.no_grad()
def test_one_pass_over_the_clean_images_gives_maps_and_predictions_and_leaves_no_trace():
    method = made()
    net, passes = method.net, []
    x, targets = sample_batch(6, *SIZE)
    hook = net.stages[0].register_forward_hook(lambda *_: passes.append(net.training))
    net.stages[1].eval()  # a frozen part stays in its mode
    modes = [module.training for module in net.modules()]
    mixed = method.mix(x, targets, side=2)
    hook.remove()
    assert passes == [False]
    assert [module.training for module in net.modules()] == modes
    net.eval()
    capture = Capture({-1: "mean"})
    logits = net.head(net.forward_stages(x, capture=capture))
    patches = capture.attention[-1][:, 1:, 1:]
    maps = patches.mean(1).unflatten(1, (4, 6))
    torch.testing.assert_close(mixed.aux.pasted.maps, maps)
    # Not what the class token looks at, nor with its part.
    assert not torch.allclose(capture.attention[-1][:, :, 1:].mean(1).view_as(maps), maps)
    expected = mf.smmix(x, targets, maps, side=2, perm=FLIP)
    assert torch.equal(mixed.x, expected.x)
    mixture = mf.mix_targets(logits, FLIP, expected.lam)
    torch.testing.assert_close(mixed.aux.expected, mixture)


def test_the_loss_has_three_terms_that_their_weights_scale():
    x, targets = sample_batch(6, *SIZE)
    terms = []
    for settings in ({}, {"consistency": 3.0, "tokens": 0.5}):
        method = made(**settings)
        method.net.eval()
        mixed = method.mix(x, targets, side=2)
        logits, mixed = method.predict(mixed)
        terms.append(method.loss(logits, mixed))
    first, second = terms
    torch.testing.assert_close(second["consistency"], 3 * first["consistency"])
    torch.testing.assert_close(second["tokens"], first["tokens"] / 2)
    torch.testing.assert_close(second["ce"], first["ce"])
    kept = mixed.aux.pasted.kept.flatten(1)
    tokens = method.net.head.norm(method.net.forward_stages(mixed.x))[:, 1:]
    for part, region in zip((kept, ~kept), mixed.aux.regions, strict=True):
        mean = (tokens * part[..., None]).sum(1) / part.sum(1, keepdim=True)
        torch.testing.assert_close(region, method.token_head(mean), rtol=1e-4, atol=1e-5)


def test_half_of_the_batches_are_mixed_whole_without_the_other_losses():
    method, whole = made(switch_prob=CLS.Config().switch_prob), 0
    x, targets = sample_batch(6, *SIZE)
    for place in range(60):
        method.reseed(0, place)
        mixed = method.mix(x, targets)
        assert torch.equal(mixed.perm, FLIP)
        whole += mixed.aux is None
    assert 15 < whole < 45
    method = made(switch_prob=0.0)
    logits, mixed = method.predict(method.mix(x, targets))
    terms = method.loss(logits, mixed)
    torch.testing.assert_close(terms["ce"], mf.soft_cross_entropy(logits, mixed.targets))
    assert terms.get("consistency") is None
    assert terms["tokens"] == 0
    terms["tokens"].backward()  # so that no process waits for its gradient
    assert method.token_head.weight.grad is not None


def test_all_ranks_draw_one_side_and_each_image_its_own_where_asked_for():
    x, targets = sample_batch(6, *SIZE)
    sides = []
    for rank in (0, 1):
        method = made()
        method.rank = rank
        drawn = []
        for place in range(8):
            method.reseed(0, place)
            drawn.append(method.mix(x, targets).aux.pasted.side)
        sides.append(drawn)
    assert sides[0] == sides[1]
    assert len(set(sides[0])) > 1
    assert set(sides[0]) <= {1, 2, 3}  # of 4 cells
    each = made(per_sample=True).mix(x, targets).aux.pasted.side
    assert each.shape == (6,)
    assert made(per_sample=True).fidelity == "variant"
    assert made(switch_prob=0.5).fidelity == "official-verified"


@torch.no_grad()
def test_without_a_class_token_windows_lie_on_square_cells():
    net = Swin(8, (2, 2), (2, 4), 2, 4, (16, 32), 4)
    method = made(net, (16, 32))
    x, targets = sample_batch(6, 16, 32)
    mixed = method.mix(x, targets, side=2)
    assert mixed.aux.pasted.kept.shape == (6, 4, 8)
    net.eval()
    capture = Capture({-1: "received"})
    h = net.forward_stages(x, capture=capture)
    maps = capture.attention[-1].unflatten(1, tuple(h.shape[2:]))
    torch.testing.assert_close(mixed.aux.pasted.maps, mf.resize_maps(maps, (4, 8), "bilinear"))
    assert method.fidelity == "variant"
    assert method.token_head is None


def test_networks_without_attention_odd_batches_and_crossed_ratios_are_refused():
    with pytest.raises(UserError, match="method smmix needs attention, tokens") as error:
        check_pair("smmix", CLS.Config(), "resnet50")
    assert "deit_small" in error.value.todo
    net = VisionTransformer(16, 4, 2, 4, SIZE, 4)
    with pytest.raises(UserError, match="flip pairing needs an even batch, got B=5"):
        CLS(net, DataInfo(4, *SIZE), CLS.Config(), RunConfig(batch_size=5))
    with pytest.raises(ValueError, match=r"min_ratio=0.8 exceeds method.max_ratio"):
        CLS.Config(min_ratio=0.8)


@torch.no_grad()
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_picture_frames_the_windows_of_each_image(per_sample):
    method = made(per_sample=per_sample)
    x, targets = sample_batch(6, *SIZE)
    sides = torch.tensor([3, 1, 2, 1, 2, 3]) if per_sample else 2
    mixed = method.mix(x, targets, side=sides)
    (sheet,) = method.picture(x, targets, mixed)
    for own, other in sheet.pairs[:2]:
        (row,) = sheet.rows(own, other)
        titles = ["image", "map of the image", "partner", "map of the partner", "mixed"]
        assert [panel.title for panel in row] == titles
        side = 2 if not per_sample else int(sides[own])
        picture = row[1].image(240)  # 40 pixels a cell
        columns = [
            column
            for column in range(picture.width)
            if any(picture.getpixel((column, line)) == (0, 229, 255) for line in range(0, 160, 3))
        ]
        assert max(columns) - min(columns) + 1 == pytest.approx(40 * side, abs=3)
    whole = made(switch_prob=0.0)
    sheets = whole.picture(x, targets, whole.mix(x, targets))
    assert len(sheets) == 2


def test_the_estimate_counts_the_pass_over_the_clean_images():
    assert CLS.step_cost(CLS.Config()) == pytest.approx(1.2)
    assert CLS.step_cost(CLS.Config(switch_prob=0.0)) == 1.0
