import pytest
import torch
from small_nets import small_net

import mixbench.functional as mf
from mixbench.backbones.attention import Capture
from mixbench.backbones.swin import Swin
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataInfo, RunConfig
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.testing.samples import sample_batch
from mixbench.training.requirements import check_pair

CLS = METHODS.get("mixpro")
SIZE = (16, 24)
PERM = torch.tensor([4, 3, 5, 0, 1, 2])


def made(net=None, size=SIZE, **settings):
    torch.manual_seed(1)
    if net is None:
        net = VisionTransformer(16, 4, 2, 4, size, 4)
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)
    settings = {"prob": 1.0} | settings
    return CLS(net, DataInfo(4, *size), CLS.Config(**settings), RunConfig()).train()


@pytest.mark.parametrize("hard", [True, False])
@torch.no_grad()
def test_labels_follow_the_attention_of_the_mixed_forward_pass(hard):
    method = made(hard_labels=hard)
    x, _ = sample_batch(6, *SIZE)
    y = torch.arange(6) % 4
    own = mf.one_hot(y, 4, smoothing=0.2)
    mixed = method.mix(x, own, perm=PERM)
    area = mixed.aux.area
    torch.testing.assert_close(mixed.targets, mf.mix_targets(own, PERM, area))
    capture = Capture({-1: "class"})
    h = method.net.forward_stages(mixed.x, capture=capture)
    kept = mixed.aux.mask[:, :, :, None].expand(-1, -1, -1, 1)[..., 0]  # cells of one patch
    lam = mf.progressive_lam(
        capture.attention[-1][:, 1:], kept, area, mixed.targets, method.net.head(h)
    )
    logits, after = method.predict(mixed)
    torch.testing.assert_close(after.lam, lam)
    assert (lam - area).abs().max() > 0.005
    labels = mf.one_hot(y, 4) if hard else own
    torch.testing.assert_close(after.targets, mf.mix_targets(labels, PERM, lam))
    assert torch.equal(logits, method.net.head(h))


def test_the_gradient_through_the_weight_is_kept_where_asked_for():
    grads = []
    for detach in (True, False):
        method = made(detach_progress=detach)
        x, targets = sample_batch(6, *SIZE)
        mixed = method.mix(x, targets, perm=PERM, lam=torch.tensor([0.5]), order=order())
        logits, mixed = method.predict(mixed)
        assert mixed.targets.requires_grad is not detach
        assert not mixed.lam.requires_grad
        method.loss(logits, mixed).backward()
        grads.append(method.net.head.fc.weight.grad)
    assert not torch.allclose(*grads, rtol=1e-3, atol=1e-5)


def order():
    return torch.rand(6, 24, generator=torch.Generator().manual_seed(0)).argsort(1)


def test_the_other_batches_are_mixup_or_cutmix():
    x, targets = sample_batch(6, *SIZE)
    for settings, box in ({"switch_prob": 1.0}, True), ({"switch_prob": 0.0}, False):
        for others in ({}, {"cutmix_alpha" if box else "mixup_alpha": 1.0}):
            method = made(prob=0.0, **settings, **others)
            mixed = method.mix(x, targets)
            assert isinstance(mixed.aux, torch.Tensor) is box
            logits, after = method.predict(mixed)
            assert torch.equal(after.targets, mixed.targets)
            torch.testing.assert_close(
                method.loss(logits, after), mf.soft_cross_entropy(logits, mixed.targets)
            )
    assert made(prob=0.0, cutmix_alpha=0.0, switch_prob=1.0).mix(x, targets).aux is None
    assert made(prob=0.0, mixup_alpha=0.0, switch_prob=0.0).mix(x, targets).aux is not None
    plain = made(prob=0.0, mixup_alpha=0.0, cutmix_alpha=0.0).mix(x, targets)
    assert plain.x is x
    assert plain.lam is None


def test_half_of_the_batches_have_cells_and_the_others_are_halved():
    method, kinds = made(prob=CLS.Config().prob), []
    x, targets = sample_batch(6, *SIZE)
    for place in range(300):
        method.reseed(0, place)
        mixed = method.mix(x, targets)
        boxed = isinstance(mixed.aux, torch.Tensor)
        kinds.append("box" if boxed else "whole" if mixed.aux is None else "cells")
    assert 120 < kinds.count("cells") < 180
    assert 50 < kinds.count("box") < 100


@torch.no_grad()
def test_without_a_class_token_the_attention_that_tokens_receive_counts():
    net = Swin(8, (2, 2), (2, 4), 2, 4, (16, 32), 4)
    method = made(net, (16, 32))
    assert method.fidelity == "variant"
    x, targets = sample_batch(6, 16, 32)
    mixed = method.mix(x, targets, perm=PERM)
    _, after = method.predict(mixed)
    capture = Capture({-1: "received"})
    h = net.forward_stages(mixed.x, capture=capture)
    pixels = mf.cell_pixels(mixed.aux.mask, method.cell(x), (16, 32))
    kept = pixels.unflatten(2, (h.shape[2], -1)).unflatten(4, (h.shape[3], -1)).mean((3, 5))
    lam = mf.progressive_lam(
        capture.attention[-1], kept, mixed.aux.area, mixed.targets, net.head(h)
    )
    torch.testing.assert_close(after.lam, lam)


def test_the_fidelity_is_that_of_paper_code_or_neither():
    official = {"detach_progress": False, "area": "cells"}
    kinds = {
        "paper": [{}, {"cell": 8}],
        "official-verified": [official, official | {"cell": 8}],
        "variant": [{"area": "cells"}, {"per_sample": True}, official | {"partner": "flip"}],
    }
    for kind, several in kinds.items():
        for settings in several:
            assert made(**{"prob": 0.5} | settings).fidelity == kind, settings


def test_networks_without_attention_and_cells_that_cut_patches_are_refused():
    with pytest.raises(UserError, match="method mixpro needs attention") as error:
        check_pair("mixpro", CLS.Config(), "resnet50")
    assert "deit_small" in error.value.todo
    with pytest.raises(UserError, match="cells of 6 pixels are not whole patches") as error:
        made(cell=6)
    assert error.value.where == "method.cell=6"
    assert made(small_net("swin_tiny", patch=1), (32, 32), cell=7).config.cell == 7


@torch.no_grad()
def test_the_picture_shows_the_cells_and_where_the_class_looks():
    method = made()
    x, targets = sample_batch(6, *SIZE)
    mixed = method.mix(x, targets, perm=PERM, lam=torch.tensor([0.5]))
    (sheet,) = method.picture(x, targets, mixed)
    (row,) = sheet.rows(0, 4)
    titles = ["image", "partner", "mask", "attention of the class", "mixed"]
    assert [panel.title for panel in row] == titles
    mask = row[2].image
    torch.testing.assert_close(torch.where(mask == 1, row[0].image, row[1].image), row[4].image)
    _, after = method.predict(mixed)
    assert row[4].lines[0].weight == pytest.approx(float(after.targets[0].max()))
