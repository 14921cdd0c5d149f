import copy

import pytest
import torch

import mixbench.methods.pictures.features as views
from mixbench.backbones.cifar import PreActResNet
from mixbench.backbones.vit import VisionTransformer
from mixbench.methods import METHODS
from mixbench.pictures.raster import raster
from mixbench.pictures.sheet import PAIRS, Sheet, as_sheets, label_text, mixed_sheet
from mixbench.testing.contract import RULES, rules_of
from mixbench.testing.samples import BATCH, CLASSES, sample_batch, sample_method

MIXING = [name for name in sorted(METHODS.table) if rules_of(METHODS.get(name)) is RULES]
NEXT = torch.arange(BATCH).roll(-1)
LAM = torch.tensor([0.75])


@pytest.fixture
def drawn(monkeypatch):
    """What was put on the sheet, instead of its pixels."""
    seen = {}

    def keep(*parts, **named):
        sheet = Sheet(*parts, **named)
        seen.update(rows=sheet.drawn(), notes=" ".join((*sheet.notes, *sheet.caveats)))
        return sheet

    def keep_mixed(pixels, targets, mixed, names, caveats=()):
        seen.update(pixels=pixels, mixed=mixed, notes=" ".join(caveats))
        return mixed_sheet(pixels, targets, mixed, names, caveats)

    monkeypatch.setattr(views, "Sheet", keep)
    monkeypatch.setattr(views, "mixed_sheet", keep_mixed)
    return seen


def method_of(name, **settings):
    torch.manual_seed(0)
    cls = METHODS.get(name)
    sample = sample_method(cls)
    net = PreActResNet((1, 1, 1), 8, CLASSES, final_norm=False)
    return cls(net, sample.info, cls.Config(**settings), sample.run).train()


@torch.no_grad()
def draw(method, layer, **decisions):
    x, targets = sample_batch()
    method.reseed(0, 0)
    mixed = method.mix(x, targets, layer=layer, lam=LAM, perm=NEXT, **decisions)
    return method.picture(x, targets, mixed), x, targets


def text_of(row):
    return " ".join(line for panel in row for line in panel.lines if isinstance(line, str))


@pytest.mark.parametrize("side", [0, 1])
def test_the_plan_of_the_step_moves_the_side_that_the_step_moves(drawn, side):
    method = method_of("alignmix", solver="scaled")
    _, x, targets = draw(method, 2, side=side)
    with torch.no_grad():
        method.reseed(0, 0)
        mixed = method.mix(x, targets, layer=2, side=side, lam=LAM, perm=NEXT)
        plan = method.predict(mixed)[1].aux.plan
    pixels = method.to_pixels(x)
    row = {panel.title: panel for panel in drawn["rows"][0]}
    weights, carried, kept = (plan[0], 1, 0) if side == 0 else (plan[0].t(), 0, 1)
    result = views.moved(pixels[carried], weights, (8, 8))
    torch.testing.assert_close(row["moved"].image, result)
    share = 0.75 if side == 0 else 0.25  # of the image whose layout is kept
    mixture = share * pixels[kept] + (1 - share) * result
    torch.testing.assert_close(row["mixture"].image, mixture)
    expected = label_text(0.75 * targets[0] + 0.25 * targets[1], method.info.names)
    assert list(row["mixture"].lines) == expected


def test_the_text_gives_layer_side_row_error_and_entropy(drawn):
    draw(method_of("alignmix", plan="identity"), 2, side=1)
    text = text_of(drawn["rows"][0])
    assert "layer 2, 8x8 positions, side 1" in text
    assert "row error 0.00, plan entropy 0.00" in text
    draw(method_of("alignmix", eps=1e4), 2, side=0)
    text = text_of(drawn["rows"][0])
    assert "plan entropy 1.00" in text


def test_a_plan_is_shown_although_the_step_skips_it(drawn):
    method = method_of("alignmix")
    draw(method, 3, side=0)
    image = drawn["rows"][0][3].image
    assert not torch.equal(image, method.to_pixels(sample_batch()[0])[1])
    assert "moving positions does not change the logits" in drawn["notes"]
    draw(method, 3, side=1)
    assert "only the row error of the plan can change the logits" in drawn["notes"]
    draw(method_of("alignmix", layers=[2]), 2, side=1)
    assert "pooling" not in drawn["notes"]


@pytest.mark.parametrize("layer", [0, "embed"])
def test_an_aligned_step_is_shown_whatever_the_batch_drew(drawn, layer):
    draw(method_of("alignmix", layers=[0, "embed", 2]), layer, side=0)
    assert len(drawn["rows"]) == PAIRS
    assert f"drew layer {layer}; the picture shows layer 2" in drawn["notes"]


def test_where_no_layer_aligns_that_is_said_and_what_is_mixed_is_shown(drawn):
    method = method_of("alignmix", layers=[0])
    _, x, _ = draw(method, 0, side=0)
    assert "None of method.layers aligns" in drawn["notes"]
    torch.testing.assert_close(drawn["mixed"].x[0], method.to_pixels(0.75 * x + 0.25 * x[NEXT])[0])
    draw(method_of("alignmix", layers=["embed"]), "embed", side=0)
    assert "vectors are mixed" in drawn["notes"]
    assert len(drawn["mixed"].x.unique()) == 1  # no image stands for the mixture
    assert drawn["mixed"].targets[0].max() == 0.75


@pytest.mark.parametrize("name", ["alignmix", "manifoldmixup"])
def test_a_picture_of_a_network_says_whether_it_is_trained(drawn, name):
    method = method_of(name)
    draw(method, 2)
    assert "Initial weights of the network; train first: mixbench run" in drawn["notes"]
    method.step = 1
    draw(method, 2)
    assert "nitial weights" not in drawn["notes"]
    method.step, method.run.net.weights = 0, "trained.pth"
    draw(method, 2)
    assert "nitial weights" not in drawn["notes"]


def test_mixed_features_are_not_passed_off_as_an_image(drawn):
    method = method_of("manifoldmixup", layers=[0, 2])
    _, x, _ = draw(method, 2)
    row = {panel.title: panel for panel in drawn["rows"][0]}
    assert "there is no mixed image" in drawn["notes"]
    assert "mixed" not in row
    features = copy.deepcopy(method.net).forward_stages(x, stop=2).detach()
    sizes = [h.square().mean(dim=0).sqrt() for h in features[:2]]
    mixed = (0.75 * features[0] + 0.25 * features[1]).square().mean(dim=0).sqrt()
    low, high = (f(torch.stack([*sizes, mixed])) for f in (torch.min, torch.max))
    shown = views.heat((mixed - low) / (high - low))
    torch.testing.assert_close(row["mixed features"].image, shown, rtol=0, atol=1e-5)
    draw(method, 0)
    assert "drew layer 0; the picture shows layer 2" in drawn["notes"]


def test_manifold_mixup_of_the_image_alone_shows_mixed_images(drawn):
    method = method_of("manifoldmixup", layers=[0])
    _, x, _ = draw(method, 0)
    torch.testing.assert_close(drawn["mixed"].x[0], method.to_pixels(0.75 * x + 0.25 * x[NEXT])[0])


def test_features_without_positions_have_no_map(drawn, monkeypatch):
    method = method_of("manifoldmixup", layers=[3])
    flat = torch.nn.Sequential(*method.net.stages[2], torch.nn.Flatten(2))
    method.net.stages[2] = flat
    draw(method, 3)
    assert "vectors are mixed" in drawn["notes"]


def test_a_row_that_meets_itself_is_shown_only_if_there_is_no_other(drawn):
    method = method_of("alignmix", layers=[2])
    x, targets = sample_batch()
    perm = torch.tensor([0, 2, 1, 3, 4, 5])
    with torch.no_grad():
        for partners, count in ((perm, 2), (torch.arange(BATCH), PAIRS)):
            method.picture(x, targets, method.mix(x, targets, lam=LAM, perm=partners))
            assert len(drawn["rows"]) == count


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("size", [(6, 16, 16), (2, 16, 24), (2, 8, 8)])
def test_every_method_can_be_drawn_and_drawing_leaves_no_trace(name, size):
    method = sample_method(METHODS.get(name))
    if "attention" in method.config.requires:  # a transformer is built for its images
        method.net = VisionTransformer(16, 4, 2, 4, size[1:], CLASSES)
    x, targets = sample_batch(*size)
    method.reseed(0, 0)
    mixed = method.mix(x, targets)
    kept = copy.deepcopy(method.state_dict()), x.clone(), targets.clone()
    modes = [module.training for module in method.modules()]
    with torch.no_grad():
        picture = method.picture(x, targets, mixed)
    assert raster(as_sheets(picture)).width > 200
    after = method.state_dict()
    assert all(torch.equal(after[key], value) for key, value in kept[0].items())
    assert [module.training for module in method.modules()] == modes
    assert torch.equal(x, kept[1])
    assert torch.equal(targets, kept[2])
