import pytest
import torch
import torch.nn.functional as F
from PIL import ImageChops
from small_nets import small_net

import mixbench.functional as mf
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.nn.saliency import class_activation
from mixbench.nn.saliency_kinds import find_maps
from mixbench.pictures.windows import attention_over
from mixbench.testing.samples import sample_batch, sample_method
from mixbench.training.requirements import check_pair

PERM = torch.tensor([4, 3, 5, 0, 1, 2])


def made(**settings):
    torch.manual_seed(0)
    return sample_method(METHODS.get("snapmix"), **settings)


@torch.no_grad()
def test_the_maps_are_those_of_the_label_of_each_image_from_one_pass_that_leaves_no_trace():
    method = made()
    x, targets = sample_batch()
    net, passes = method.net, []
    hook = net.stages[0].register_forward_hook(lambda *_: passes.append(net.training))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    mixed = method.mix(x, targets)
    hook.remove()
    assert passes == [False]
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    net.eval()
    h = net.head.norm(net.forward_stages(x))
    weight, bias = net.head.fc.weight, net.head.fc.bias
    for row, y in enumerate(targets.argmax(1)):
        logit_map = (weight[y, :, None, None] * h[row]).sum(0) + bias[y]
        torch.testing.assert_close(
            mixed.aux.maps[row], mf.percent_map(logit_map[None], (16, 16))[0]
        )


def test_a_class_map_keeps_its_sign_where_that_is_asked_for():
    method = made().eval()
    x, targets = sample_batch()
    y = targets.argmax(1)
    signed = find_maps(method.net, "cam", x, y, signed=True)
    assert signed.min() < 0
    assert torch.equal(find_maps(method.net, "cam", x, y), signed.relu())


def test_a_class_map_of_a_network_with_attention_is_no_attention():
    net = small_net("swin_tiny", patch=1).eval()
    x, y = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(2)
    maps = find_maps(net, "cam", x, y)
    with torch.no_grad():
        h = net.head.norm(net.forward_stages(x))
        expected = class_activation(h, net.head.fc.weight, y).relu()
    torch.testing.assert_close(maps, expected)
    assert not torch.allclose(find_maps(net, "attention", x, y), maps)


def test_the_loss_of_an_image_is_that_of_both_labels_with_weights_that_need_not_sum_to_one():
    method = made()
    x, targets = sample_batch()
    mixed = method.mix(x, targets, perm=PERM, lam=torch.tensor([0.6]))
    logits, mixed = method.predict(mixed)
    own = mixed.lam * mixed.aux.weight
    other = mixed.aux.weight - own
    y = targets.argmax(1)
    first, second = (F.cross_entropy(logits, each, reduction="none") for each in (y, y[PERM]))
    torch.testing.assert_close(method.loss(logits, mixed), (own * first + other * second).mean())
    assert not torch.allclose(mixed.aux.weight, torch.ones(6), atol=0.02)


def test_a_batch_that_is_not_mixed_has_the_plain_loss():
    method = made(prob=0.0)
    x, targets = sample_batch()
    mixed = method.mix(x, targets)
    logits, mixed = method.predict(mixed)
    torch.testing.assert_close(method.loss(logits, mixed), mf.soft_cross_entropy(logits, targets))
    assert mixed.x is x


def test_a_transformer_without_feature_maps_is_refused_with_those_that_fit():
    config = METHODS.get("snapmix").Config()
    with pytest.raises(UserError, match="method snapmix needs maps") as error:
        check_pair("snapmix", config, "vit_tiny")
    assert "resnet50" in error.value.todo
    check_pair("snapmix", METHODS.get("snapmix").Config(saliency="attention"), "vit_tiny")
    check_pair("snapmix", config, "swin_tiny")


def test_the_picture_frames_both_boxes_and_tells_the_weights():
    method = made()
    x, targets = sample_batch()
    mixed = method.mix(
        x, targets, perm=PERM, lam=torch.tensor([0.5]), source_lam=torch.tensor([0.4])
    )
    with torch.no_grad():
        (sheet,) = method.picture(x, targets, mixed)
    (row,) = sheet.rows(0, 4)
    titles = ["image", "map of the image", "partner", "map of the partner", "mixed"]
    assert [panel.title for panel in row] == titles
    own = float(mixed.lam[0] * mixed.aux.weight[0])
    words = [row[1].lines[0], row[3].lines[0]]
    assert words == [f"weight {own:.2f}", f"weight {float(mixed.aux.weight[0]) - own:.2f}"]
    for panel, place, box in ((row[1], 0, mixed.aux.box), (row[3], 4, mixed.aux.source)):
        plain = attention_over(method.to_pixels(x)[place], mixed.aux.maps[place], 160)
        seen = ImageChops.difference(panel.image(160), plain).getbbox()
        top, left, bottom, right = (10 * end for end in box[0].tolist())
        assert seen == pytest.approx((left, top, right, bottom), abs=3)


@pytest.mark.parametrize(
    ("settings", "cost"),
    [({}, 1.3), ({"saliency": "spectral"}, 1.0), ({"prob": 0.5}, 1.15)],
)
def test_the_estimate_counts_the_pass_of_the_maps(settings, cost):
    cls = METHODS.get("snapmix")
    assert cls.step_cost(cls.Config(**settings)) == pytest.approx(cost)
