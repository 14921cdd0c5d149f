import copy

import pytest
import torch
from torch import nn

from mixbench.errors import UserError
from mixbench.nn.absvit import AbSViT, above_threshold, similarity
from mixbench.nn.absvit_prior import choose_prior, wnid_rows
from mixbench.nn.imagenet import WNIDS
from mixbench.nn.teacher import UnregisteredModule, frozen_eval

OTHERS = [f"n{number:08}" for number in range(1000)]


def small(**settings):
    """A network whose blocks do something; (2, 3, 8, 8) images fit it."""
    torch.manual_seed(0)
    net = AbSViT(
        **{"dim": 16, "depth": 2, "heads": 2, "patch": 4, "grid": 2} | settings, num_classes=5
    )
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return net.eval()


@torch.no_grad()
def test_values_alone_take_in_the_signal_with_their_bias():
    net, x = small(depth=1), torch.randn(2, 3, 8, 8)
    block, signal = net.blocks[0], torch.randn(2, 5, 16)
    h = net.patch_embed(x)
    h = torch.cat([net.cls_token.expand(2, -1, -1), h], dim=1) + net.pos_embed
    q, k, v = block.attn.qkv(block.norm1(h)).chunk(3, dim=2)
    v = v + block.attn.qkv(signal).chunk(3, dim=2)[2]
    heads = []
    for part in range(2):
        a, b, c = (t[..., 8 * part : 8 * part + 8] for t in (q, k, v))
        heads.append((a @ b.mT / 8**0.5).softmax(-1) @ c)
    h = h + block.attn.proj(torch.cat(heads, dim=2))
    h = net.norm(h + block.mlp(block.norm2(h)))
    torch.testing.assert_close(net.encode(x, [signal]), h, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_way_back_goes_on_without_sigma_from_the_last_block_to_the_first():
    net, z = small(), torch.randn(2, 5, 16)
    first, last = net.feedback(z, 0.5)
    back = net.decoders[1].linear(z)
    torch.testing.assert_close(last, 0.5 * net.decoders[1].linear2(back))
    back = net.decoders[0].linear(back)
    torch.testing.assert_close(first, 0.5 * net.decoders[0].linear2(back))


@torch.no_grad()
def test_without_a_way_back_the_second_pass_still_differs_by_the_bias():
    net, x = small(), torch.randn(2, 3, 8, 8)
    found = net(x, net.head.weight[:1], sigma=0.0)
    assert not torch.allclose(found.tokens, net.encode(x))
    for block in net.blocks:
        block.attn.qkv.bias.zero_()
    torch.testing.assert_close(net(x, net.head.weight[:1], sigma=0.0).tokens, net.encode(x))


def test_the_search_is_for_what_is_wanted_and_in_float32():
    net, x = small(), torch.randn(2, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        one, other = (net(x.bfloat16(), net.head.weight[[row] * 2]) for row in (0, 1))
    assert not torch.allclose(one.first, other.first)
    assert one.maps.dtype == torch.float32
    assert one.maps.shape == (2, 2, 2)
    with torch.no_grad():
        exact = net(x.bfloat16().float(), net.head.weight[[0, 0]])
    assert torch.equal(one.maps, exact.maps)


def test_what_stands_out_is_above_most_of_the_maximum_and_some_of_the_minimum():
    values = torch.tensor([[0.0, 0.5, 1.0, 0.8], [0.5, 0.5, 0.5, 0.5]])
    torch.testing.assert_close(
        above_threshold(values), torch.tensor([[0.0, 0.0, 0.3, 0.1], [0.0, 0.0, 0.0, 0.0]])
    )
    opposite = similarity(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]), torch.tensor([[2.0, 0.0]]))
    assert opposite.tolist() == [[1.0, 0.0]]


def test_size_and_heads_are_read_off_the_weights():
    net = AbSViT.from_state(AbSViT(128, 3, 2, 4, 3, 7).state_dict())
    assert (len(net.blocks), net.size, net.blocks[0].attn.heads) == (3, 12, 2)
    assert all(not p.is_meta for p in net.parameters())
    published = {
        "cls_token",
        "pos_embed",
        "prompt",
        "patch_embed.proj.weight",
        "norm.bias",
        "blocks.2.attn.qkv.bias",
        "blocks.0.mlp.fc1.weight",
        "decoders.2.linear.weight",
        "decoders.0.linear2.weight",
        "head.weight",
    }
    assert published <= set(net.state_dict())
    state = AbSViT(128, 3, 2, 4, 3, 7).state_dict()
    del state["decoders.1.linear.weight"]
    with pytest.raises(RuntimeError, match=r"decoders.1.linear.weight"):
        AbSViT.from_state(state)


# What stands aside.


def test_a_network_aside_moves_along_and_is_no_part_of_its_owner():
    owner = nn.Sequential(
        nn.Linear(2, 2), UnregisteredModule(nn.Sequential(nn.Linear(2, 3), nn.Dropout()))
    )
    assert len(list(owner.parameters())) == len(owner.state_dict()) == 2
    inner = owner[1].module
    owner.double().train()
    assert inner[0].weight.dtype == torch.float64
    assert not inner[1].training
    out = owner[1](torch.ones(1, 2, dtype=torch.float64, requires_grad=True))
    assert not out.requires_grad
    assert not any(p.requires_grad for p in inner.parameters())
    other = copy.deepcopy(owner)
    assert other[1].module[0].weight is not inner[0].weight


def test_looking_gives_each_module_its_own_mode_back():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    net.train()
    net[1][0].eval()  # frozen by hand
    before = net[0].running_mean.clone()
    with frozen_eval(net):
        assert not any(module.training for module in net.modules())
        assert not net(torch.ones(3, 2)).requires_grad
    with pytest.raises(RuntimeError), frozen_eval(net):
        net(torch.ones(3, 7))
    assert [m.training for m in net.modules()] == [True, True, True, False, True]
    assert torch.equal(net[0].running_mean, before)


# What to look for.


@pytest.mark.parametrize(
    ("wanted", "rows", "classes", "ids", "found"),
    [
        ("auto", 1000, 1000, WNIDS, "head"),
        ("auto", 1000, 2, WNIDS[3:5], "wnid"),
        ("auto", 1000, 1000, WNIDS[::-1], "wnid"),
        ("auto", 1000, 10, [], "prototype"),
        ("auto", 1000, 1000, [], "prototype"),
        ("auto", 1000, 2, ["n01440764", "n99999999"], "prototype"),
        ("auto", 10, 10, [], "prototype"),
        ("head", 1000, 1000, WNIDS, "head"),
        ("head", 1000, 1000, [], "head"),
        ("head", 10, 10, [], "head"),
        ("wnid", 1000, 3, WNIDS[:3], "wnid"),
        ("prompt", 1000, 10, [], "prompt"),
        ("prototype", 1000, 1000, WNIDS, "prototype"),
    ],
)
def test_the_prior_is_one_that_means_the_classes(wanted, rows, classes, ids, found):
    assert choose_prior(wanted, rows, classes, ids) == found


@pytest.mark.parametrize(
    ("wanted", "rows", "classes", "ids", "message"),
    [
        ("head", 1000, 10, [], "1000 rows .* other classes than the 10 of the data"),
        ("head", 1000, 200, WNIDS[:200], "other classes"),
        ("head", 1000, 1000, OTHERS, "other classes"),
        ("head", 1000, 1001, [], "other classes than the 1001"),
        ("wnid", 1000, 10, [], "has no WordNet ids"),
        ("wnid", 10, 2, WNIDS[:2], "10 rows and not ImageNet's 1000"),
        ("wnid", 1000, 2, ["n01440764", "n99999999"], "n99999999 is not a class of ImageNet"),
    ],
)
def test_a_prior_of_other_classes_is_refused(wanted, rows, classes, ids, message):
    with pytest.raises(UserError, match=message) as caught:
        choose_prior(wanted, rows, classes, ids)
    assert "method.prior=prototype" in caught.value.todo


def test_the_ids_are_those_of_imagenet_in_their_order():
    assert len(set(WNIDS)) == 1000
    assert list(WNIDS) == sorted(WNIDS)
    assert (WNIDS[0], WNIDS[7], WNIDS[999]) == ("n01440764", "n01514668", "n15075141")
    assert wnid_rows(["n15075141", "n01514668"]) == [999, 7]
