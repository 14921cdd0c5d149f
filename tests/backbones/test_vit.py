import pytest
import torch
from small_nets import small_net

from mixbench.backbones import NETS
from mixbench.backbones.attention import Capture, DropPath
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataInfo, NetConfig, OptimConfig
from mixbench.errors import UserError
from mixbench.nn.optim import decay_groups

NAMES = {name: f"{name}_patch16_224" for name in ("vit_tiny", "deit_tiny", "deit_small")}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def tiny(size=(8, 12), **settings):
    torch.manual_seed(1)
    net = VisionTransformer(16, 4, 2, 4, size, 3, **settings)
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)  # attention that is far from uniform
    return net.eval()


def explicit_maps(net, x):
    """Attention of every block, (B, T, T) as the mean over heads, by the definition."""
    maps = []
    h = net.stages[0].embed(x)
    for block in (block for stage in net.stages for block in stage.blocks):
        parts = block.attn.qkv(block.norm1(h)).chunk(3, dim=-1)
        q, k, _ = (t.unflatten(2, (block.attn.heads, -1)).transpose(1, 2) for t in parts)
        maps.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1))
        h, _, _ = block(h)
    return maps


@pytest.mark.parametrize(("name", "size", "patch"), [("vit_tiny", 32, 4), ("deit_small", 48, 16)])
@torch.no_grad()
def test_weights_of_timm_give_its_logits(name, size, patch):
    import timm

    theirs = timm.create_model(NAMES[name], img_size=size, patch_size=patch, num_classes=7).eval()
    for p in theirs.parameters():
        p.add_(0.02 * torch.randn_like(p))
    net = small_net(name, size, 7, patch=patch).eval()
    net.load_state_dict(net.own_names(theirs.state_dict()))
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(net(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        net.head.norm(net.forward_stages(x)), theirs.forward_features(x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "size"), [("vit_tiny", 5.7), ("deit_tiny", 5.7), ("deit_small", 22.1)]
)
def test_published_weights_are_those_of_timm_and_of_the_size_of_the_paper(name, size):
    import timm

    with torch.device("meta"):
        theirs = timm.create_model(NAMES[name]).state_dict()
        net = NETS.get(name)(NetConfig(name=name), DataInfo(1000, 224, 224))
    published = net.published(net.state_dict())
    assert {n: v.shape for n, v in published.items()} == {n: v.shape for n, v in theirs.items()}
    assert round(parameters(net) / 1e6, 1) == size


@torch.no_grad()
def test_stages_hold_a_quarter_of_the_blocks_and_layers_are_all_tokens():
    net = small_net("vit_tiny", patch=8)
    assert [len(stage.blocks) for stage in net.stages] == [3, 3, 3, 3]
    h = net.forward_stages(torch.randn(2, 3, 32, 32), stop=2)
    assert h.shape == (2, 17, 192)
    assert net.tokens(h).shape == (2, 16, 192)
    assert torch.equal(net.tokens(h), h[:, 1:])
    assert net.provides == {"stages", "attention", "tokens"}
    assert (net.attention_layers, net.prefix, net.patch) == (12, 1, 8)
    assert net.grid(torch.zeros(1, 3, 32, 32)) == (4, 4)


@pytest.mark.parametrize(("depth", "shares"), [(3, (1, 1, 1)), (4, (1,) * 4), (6, (1, 2, 1, 2))])
def test_any_number_of_blocks_keeps_the_names_of_timm(depth, shares):
    net = VisionTransformer(8, depth, 2, 4, (8, 8), 3)
    assert net.stage_layers == shares
    names = net.published(net.state_dict())
    assert {n.split(".")[1] for n in names if n.startswith("blocks.")} == set(
        map(str, range(depth))
    )


# FAULTS row 17.
def test_a_patch_that_does_not_divide_the_image_is_refused_with_both_sizes_and_the_keys():
    with pytest.raises(
        UserError, match="28x28 pixels are not a whole number of patches of 16x16"
    ) as e:
        small_net("vit_tiny", 28)
    assert e.value.where == "net=vit_tiny, net.patch"
    assert e.value.todo == "use net.patch=1 or 2 or 4 or 7 or 14 or 28, or data.size=32"
    assert small_net("vit_tiny", 28, patch=7).grid(torch.zeros(1, 3, 28, 28)) == (4, 4)


def test_images_of_another_size_than_it_was_built_for_are_refused():
    with pytest.raises(ValueError, match=r"built for images of \(8, 12\) pixels, got \(12, 8\)"):
        tiny()(torch.randn(1, 3, 12, 8))


@torch.no_grad()
def test_recorded_attention_is_the_mean_over_heads_of_the_softmax():
    net, x = tiny(), torch.randn(2, 3, 8, 12)
    maps = explicit_maps(net, x)
    assert (maps[2] - 1 / 7).abs().max() > 0.05  # nothing uniform would show a mistake
    capture = Capture({0: "mean", -1: "class", 2: "received"})
    net.forward_stages(x, capture=capture)
    assert capture.attention.keys() == {0, -1, 2}
    torch.testing.assert_close(capture.attention[0], maps[0])
    torch.testing.assert_close(capture.attention[-1], maps[3][:, 0])
    torch.testing.assert_close(capture.attention[2], maps[2].mean(1))


@torch.no_grad()
def test_the_carried_weight_is_the_label_recursion_of_tl_align():
    net, x = tiny(), torch.randn(2, 3, 8, 12)
    mask = torch.tensor([[[1.0, 0, 0], [0, 0, 0]], [[0, 1, 1], [0, 1, 1]]])
    lam = 1 - mask.mean((1, 2))
    own, partner = torch.eye(3)[[0, 1]], torch.eye(3)[[2, 0]]
    labels = torch.stack([lam, 1 - lam])  # of the class token
    tokens = torch.where(mask.flatten(1)[..., None] == 1, partner[:, None], own[:, None])
    first = labels[0][:, None] * own + labels[1][:, None] * partner
    labels = torch.cat([first[:, None], tokens], dim=1)
    for attention in explicit_maps(net, x):
        labels = (attention @ labels + labels) / 2
    capture = Capture(weight=mask)
    net.forward_stages(x, capture=capture)
    w = capture.weight
    assert w.shape == (2, 7)
    assert (w[:, 0] - (1 - lam)).abs().max() > 0.01
    torch.testing.assert_close(
        (1 - w)[..., None] * own[:, None] + w[..., None] * partner[:, None], labels
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recording_changes_no_bit_of_the_output_and_of_the_gradients(dtype):
    net, x = tiny(drop_path=0.3).train(), torch.randn(2, 3, 8, 12)
    results = []
    for capture in (
        None,
        Capture({0: "mean", 1: "class", 2: "received"}, weight=torch.rand(2, 2, 3)),
    ):
        net.zero_grad()
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            h = net.forward_stages(x, capture=capture)
            logits = net.head(h)
        logits.float().square().sum().backward()
        results.append([logits.detach(), *(p.grad.clone() for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    recorded = [*capture.attention.values(), capture.weight]
    assert {t.dtype for t in recorded} == {torch.float32}
    assert not any(t.requires_grad for t in recorded)


@torch.no_grad()
def test_a_weight_can_be_carried_in_parts():
    net, x = tiny(), torch.randn(2, 3, 8, 12)
    weight = torch.rand(2, 2, 3)
    whole, part = Capture(weight=weight), Capture(weight=weight)
    net.forward_stages(x, capture=whole)
    h = net.forward_stages(x, stop=2, capture=part)
    rest = Capture({-1: "class"}, weight=part.weight)
    net.forward_stages(h, start=2, capture=rest)
    assert torch.equal(rest.weight, whole.weight)
    assert rest.attention[-1].shape == (2, 7)
    same = Capture(weight=torch.full((2, 2, 3), 0.25))
    net.forward_stages(x, capture=same)
    torch.testing.assert_close(same.weight, torch.full((2, 7), 0.25))


@pytest.mark.parametrize(
    ("wanted", "part", "text"),
    [
        ({4: "class"}, {}, "attention layer 4 is not among those of this pass, 0 to 3 of 4"),
        ({3: "class"}, {"stop": 2}, "not among those of this pass, 0 to 1 of 4"),
        ({0: "classes"}, {}, "can be recorded as class, received, mean, got 'classes'"),
        ({3: "mean", -1: "class"}, {}, "is wanted twice"),
    ],
)
def test_what_cannot_be_recorded_is_refused(wanted, part, text):
    with pytest.raises(ValueError, match=text):
        tiny().forward_stages(torch.randn(2, 3, 8, 12), capture=Capture(wanted), **part)


def test_a_weight_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"weight must be \(2, 2, 3\), got \(2, 3, 2\)"):
        tiny().forward_stages(torch.randn(2, 3, 8, 12), capture=Capture(weight=torch.rand(2, 3, 2)))


def test_branches_are_dropped_for_whole_images_in_training_only():
    drop = DropPath(0.25)
    h = torch.ones(400, 3, 2)
    assert torch.equal(drop.eval()(h), h)
    dropped = drop.train()(h)
    assert all(image.unique().tolist() in ([0.0], [pytest.approx(4 / 3)]) for image in dropped)
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)
    rates = [b.drop.prob for s in tiny(drop_path=0.3).stages for b in s.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_positions_and_class_token_are_not_decayed():
    net = tiny()
    decayed, plain = decay_groups(net, OptimConfig())
    names = {id(p): name for name, p in net.named_parameters()}
    spared = {names[id(p)] for p in plain["params"]}
    assert {"stages.0.embed.cls_token", "stages.0.embed.pos_embed"} <= spared
    assert all(p.ndim == 1 or "embed." in names[id(p)] for p in plain["params"])
    assert "stages.0.embed.proj.weight" not in spared
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert len(decay_groups(net, OptimConfig(decay_all=True))) == 1


@pytest.mark.slow
def test_stages_compile_without_a_break_with_and_without_a_record():
    net, x = tiny(), torch.randn(2, 3, 8, 12)
    wanted = {0: "class", -1: "mean"}
    expected, plain = Capture(dict(wanted), weight=torch.rand(2, 2, 3)), net(x)
    given = expected.weight
    net.forward_stages(x, capture=expected)
    torch._dynamo.reset()
    for stage in net.stages:
        stage.compile(backend="eager", fullgraph=True)
    capture = Capture(dict(wanted), weight=given)
    torch.testing.assert_close(net.head(net.forward_stages(x, capture=capture)), plain)
    torch.testing.assert_close(net(x), plain)
    torch.testing.assert_close(capture.weight, expected.weight)
    torch.testing.assert_close(capture.attention[-1], expected.attention[-1])
