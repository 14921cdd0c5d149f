import pytest
import torch

import mixbench.functional as mf
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.pictures.positions import with_box
from mixbench.pictures.windows import attention_over
from mixbench.testing.samples import sample_batch, sample_method

KINDS = ["fine_grained", "spectral", "cam", "norm", "input_grad"]
PERM = torch.tensor([4, 3, 5, 0, 1, 2])


def made(**settings):
    torch.manual_seed(0)
    return sample_method(METHODS.get("saliencymix"), **settings)


@pytest.mark.parametrize(("per_sample", "kind"), [(False, "fine_grained"), (True, "cam")])
def test_the_picture_frames_the_box_in_the_map_that_places_it(per_sample, kind):
    method = made(per_sample=per_sample, saliency=kind)
    x, targets = sample_batch()
    with torch.no_grad():
        mixed = method.mix(x, targets, perm=PERM)
        (sheet,) = method.picture(x, targets, mixed)
    (row,) = sheet.rows(1, int(PERM[1]))
    titles = ["image", "partner", "map that places the box", "mixed"]
    assert [panel.title for panel in row] == titles
    place = int(PERM[1 if per_sample else 0])
    maps = method.find_saliency(x, targets)
    box = mixed.aux.expand(6, -1)[1].tolist()
    seen = attention_over(method.to_pixels(x)[place], maps[place], 64)
    assert row[2].image(64).tobytes() == with_box(seen, box, (16, 16)).tobytes()
    assert bool(sheet.caveats) is (kind == "cam")


def marked():
    """A batch in which one place of each image stands out, another of each."""
    x, targets = torch.zeros(6, 3, 16, 16), torch.eye(4)[torch.arange(6) % 4]
    places = [(2, 3), (5, 12), (9, 9), (12, 2), (13, 13), (7, 6)]
    for image, (row, col) in zip(x, places, strict=True):
        image[:, row, col] = 3
    return x, targets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_boxes_follow_the_maps_of_the_partners(kind, per_sample):
    method = made(saliency=kind, per_sample=per_sample)
    x, targets = sample_batch()
    lam = torch.full((6 if per_sample else 1,), 0.75)
    mixed = method.mix(x, targets, lam=lam, perm=PERM)
    maps = method.find_saliency(x[PERM], targets[PERM])
    assert maps.min() >= 0
    centers = mf.saliency_peak(maps if per_sample else maps[:1])
    assert torch.equal(mixed.aux, mf.cutmix_box(lam, centers, 16, 16))
    again = mf.cutmix(x, targets, box=mixed.aux, perm=PERM)
    assert torch.equal(mixed.x, again.x)
    assert torch.equal(mixed.lam, again.lam)


def test_maps_are_those_of_the_pixels_and_not_of_the_normalised_images():
    method = made()
    method.mean.fill_(0.4)
    method.std.copy_(torch.tensor([0.2, 0.3, 0.4])[:, None, None])
    pixels = (torch.rand(6, 3, 16, 16) * 255).round() / 255
    x, expected = method.normalize(pixels), mf.fine_grained_saliency(pixels)
    assert torch.equal(method.find_saliency(x, torch.eye(6)), expected)
    assert not torch.equal(mf.fine_grained_saliency(x), expected)


def test_as_many_batches_are_mixed_as_asked_for():
    method, shown = made(prob=0.5), []
    method.find_saliency = lambda x, targets: (shown.append(len(x)), torch.zeros(1, 16, 16))[1]
    x, targets = sample_batch()
    mixed = 0
    for index in range(200):
        method.reseed(0, index)
        mixed += method.mix(x, targets).lam is not None
    assert abs(mixed - 100) < 29  # four standard deviations
    assert shown == [1] * mixed


def test_the_box_of_a_batch_is_that_of_the_first_partner_alone():
    method = made()
    x, targets = marked()
    first = method.mix(x, targets, lam=torch.tensor([0.75]), perm=PERM).aux
    others = x.clone()
    others[:4] = others[:4].flip(2)
    assert torch.equal(method.mix(others, targets, lam=torch.tensor([0.75]), perm=PERM).aux, first)
    others = x.clone()
    others[4] = others[4].roll(-6, 1)
    assert not torch.equal(
        method.mix(others, targets, lam=torch.tensor([0.75]), perm=PERM).aux, first
    )


@pytest.mark.parametrize("kind", ["cam", "input_grad"])
def test_a_map_of_the_network_leaves_no_trace(kind):
    method = made(saliency=kind, per_sample=True)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    modes = [module.training for module in method.modules()]
    mixed = method.mix(*sample_batch())
    assert not mixed.x.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert [module.training for module in method.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in method.net.parameters())


def test_a_map_that_the_network_does_not_give_is_refused_with_what_to_do():
    vit = made(saliency="attention")
    assert vit.config.requires == {"attention"}
    assert vit.find_saliency(*sample_batch()).shape == (6, 4, 4)
    config = vit.Config(saliency="cam")
    with pytest.raises(UserError, match="no such map of 4 classes") as error:
        METHODS.get("saliencymix")(vit.net, vit.info, config, vit.run)
    assert error.value.where == "method.saliency=cam"
