import pytest
import torch
from small_nets import small_net

from mixbench.backbones import NETS
from mixbench.backbones.attention import Capture
from mixbench.backbones.swin import Swin, WindowAttention, join, split
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import UserError

TIMM = "swin_tiny_patch4_window7_224"


def tiny():
    """Grids of 8x16 and 4x8 tokens in windows of 4x4; the second stage has no rows to shift."""
    torch.manual_seed(1)
    net = Swin(8, (2, 2), (2, 4), 2, 4, (16, 32), 3)
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return net.eval()


def neighbours(attn):
    """Window by window, the places (row, column) that look at each other, part by part.

    Written from the paper's picture: windows are cut from the grid rolled up and left, and a
    window at the lower or right border holds parts that are no neighbours.
    """
    (rows, columns), (height, width), (down, right) = attn.grid, attn.window, attn.shift
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            places = []
            for row in range(top, top + height):
                for column in range(left, left + width):
                    wrapped = (row + down >= rows, column + right >= columns)
                    place = ((row + down) % rows, (column + right) % columns)
                    places.append((place, wrapped, (row - top, column - left)))
            yield places


def explicit_map(block, h):
    """(B, N, N) attention of a block over the whole grid, zero between windows, by loops."""
    attn = block.attn
    rows, columns = attn.grid
    parts = attn.qkv(block.norm1(h)).chunk(3, dim=-1)
    q, k, _ = (t.unflatten(3, (attn.heads, -1)) for t in parts)
    full = torch.zeros(len(h), attn.heads, rows * columns, rows * columns)
    for places in neighbours(attn):
        for (r, c), side, (y, x) in places:
            scores = []
            for (r2, c2), side2, (y2, x2) in places:
                offset = (y - y2 + attn.window[0] - 1) * (2 * attn.window[1] - 1)
                bias = attn.relative_position_bias_table[offset + x - x2 + attn.window[1] - 1]
                score = (q[:, r, c] * k[:, r2, c2]).sum(-1) / q.shape[-1] ** 0.5 + bias
                scores.append(score - 100 * (side != side2))
            for share, ((r2, c2), _, _) in zip(
                torch.stack(scores, -1).softmax(-1).unbind(-1), places, strict=True
            ):
                full[:, :, r * columns + c, r2 * columns + c2] = share
    return full.mean(1)


@torch.no_grad()
def explicit_maps(net, x):
    maps, h = [], x
    for stage in net.stages:
        h = stage.entry(h)
        for block in stage.blocks:
            maps.append(explicit_map(block, h))
            h, _, _ = block(h)
        h = h.permute(0, 3, 1, 2)
    return maps


@pytest.mark.parametrize(("size", "window"), [(64, 4), (32, 2)])
@torch.no_grad()
def test_weights_of_timm_give_its_logits_and_its_layers(size, window):
    import timm

    theirs = timm.create_model(TIMM, img_size=size, window_size=window, num_classes=7).eval()
    for p in theirs.parameters():
        p.add_(0.02 * torch.randn_like(p))
    net = small_net("swin_tiny", size, 7, window=window).eval()
    net.load_state_dict(net.own_names(theirs.state_dict()))
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(net(x), theirs(x), rtol=1e-5, atol=1e-5)
    h = theirs.patch_embed(x)
    for layer in range(1, 5):
        h = theirs.layers[layer - 1](h)
        ours = net.forward_stages(x, stop=layer)
        torch.testing.assert_close(ours.permute(0, 2, 3, 1), h, rtol=1e-5, atol=1e-5)


def test_published_weights_are_those_of_timm_and_of_the_size_of_the_paper():
    import timm

    with torch.device("meta"):
        theirs = timm.create_model(TIMM).state_dict()
        net = NETS.get("swin_tiny")(NetConfig(name="swin_tiny"), DataInfo(1000, 224, 224))
    published = net.published(net.state_dict())
    assert {n: v.shape for n, v in published.items()} == {n: v.shape for n, v in theirs.items()}
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == 28.3


@pytest.mark.parametrize(
    ("size", "patch", "window"), [(224, 4, 7), (64, 4, 4), (96, 4, 6), (32, 4, 4)]
)
def test_windows_are_the_largest_of_at_most_seven_that_divide_every_grid(size, patch, window):
    with torch.device("meta"):
        net = small_net("swin_tiny", size, patch=patch)
    first = net.stages[0].blocks[1].attn
    assert first.window == (window, window)
    assert first.shift == (window // 2, window // 2)


def test_a_grid_of_one_window_is_not_shifted():
    with torch.device("meta"):
        net = small_net("swin_tiny", 32)
    assert [stage.blocks[1].attn.grid for stage in net.stages] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    assert [stage.blocks[1].attn.shift for stage in net.stages[1:]] == [(0, 0)] * 3


# FAULTS row 17.
def test_sizes_that_do_not_fit_are_refused_with_the_keys_that_change_them():
    with pytest.raises(
        UserError, match="28x28 pixels are not a whole number of patches of 4x4"
    ) as error:
        small_net("swin_tiny", 28)
    assert error.value.todo == "use data.size=32"
    with pytest.raises(UserError, match="48x48") as error:
        small_net("swin_tiny", 48, patch=4)
    with pytest.raises(UserError, match="windows of 7x7 patches do not divide") as error:
        small_net("swin_tiny", 64, window=7)
    assert "net.window=1 or 2 or 4 or 8 or 16" in error.value.todo
    with pytest.raises(ValueError, match="built for images"):
        tiny()(torch.randn(1, 3, 16, 16))


def test_windows_come_apart_and_together():
    h = torch.arange(2 * 4 * 6.0).view(2, 4, 6)
    windows = split(h, (2, 3))
    assert windows.shape == (2, 4, 6)
    assert torch.equal(windows[1, 3].view(2, 3), h[1, 2:, 3:])
    assert torch.equal(join(windows, (2, 3), (4, 6)), h)
    deep = torch.randn(1, 4, 4, 5)
    assert torch.equal(join(split(deep, (2, 2)), (2, 2), (4, 4)), deep)


@torch.no_grad()
def test_recorded_attention_follows_windows_and_shifts():
    net, x = tiny(), torch.randn(2, 3, 16, 32)
    maps = explicit_maps(net, x)
    capture = Capture({0: "mean", 1: "received", -1: "received"})
    net.forward_stages(x, capture=capture)
    torch.testing.assert_close(capture.attention[1], maps[1].mean(1) * 128 / 16)
    torch.testing.assert_close(capture.attention[-1], maps[3].mean(1) * 32 / 16)
    first = capture.attention[0]
    assert first.shape == (2, 8, 16, 16)
    places = [r * 16 + c for r in range(4) for c in range(4, 8)]  # of the second window
    torch.testing.assert_close(first[:, 1], maps[0][:, places][:, :, places])


@torch.no_grad()
def test_the_carried_weight_follows_windows_shifts_and_merging():
    net, x = tiny(), torch.randn(2, 3, 16, 32)
    assert [b.attn.shift for s in net.stages for b in s.blocks] == [(0, 0), (2, 2), (0, 0), (0, 2)]
    maps = explicit_maps(net, x)
    mask = torch.zeros(2, 8, 16)
    mask[0, :3, :5] = mask[1, 5:, 7:] = 1
    w = mask
    for layer, attention in enumerate(maps):
        if layer == 2:
            w = w.view(2, 4, 2, 8, 2).mean((2, 4))
        flat = w.flatten(1)[..., None]
        w = ((attention @ flat + flat) / 2).view(w.shape)
    capture = Capture(weight=mask)
    net.forward_stages(x, capture=capture)
    torch.testing.assert_close(capture.weight, w)
    assert (w[0].mean() - mask[0].mean()).abs() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recording_changes_no_bit_of_the_output_and_of_the_gradients(dtype):
    net, x = tiny().train(), torch.randn(2, 3, 16, 32)
    results = []
    for capture in (None, Capture({0: "mean", 1: "received"}, weight=torch.rand(2, 8, 16))):
        net.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = net.head(net.forward_stages(x, capture=capture))
        logits.float().square().sum().backward()
        results.append([logits.detach(), *(p.grad.clone() for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    recorded = [*capture.attention.values(), capture.weight]
    assert {t.dtype for t in recorded} == {torch.float32}
    assert not any(t.requires_grad for t in recorded)


def test_there_is_no_class_token_to_record():
    with pytest.raises(ValueError, match="can be recorded as received, mean, got 'class'"):
        tiny().forward_stages(torch.randn(2, 3, 16, 32), capture=Capture({0: "class"}))


def test_every_layer_is_a_map_and_its_tokens_are_its_places():
    net = tiny()
    h = net.forward_stages(torch.randn(2, 3, 16, 32), stop=1)
    assert h.shape == (2, 8, 8, 16)
    assert h.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(net.tokens(h)[:, 17], h[:, :, 1, 1])
    assert net.head.norm(net.forward_stages(torch.randn(2, 3, 16, 32))).shape == (2, 16, 4, 8)
    assert (net.attention_layers, net.prefix, net.patch) == (4, 0, 2)


def test_attention_of_shifted_windows_stays_fused():
    attn = WindowAttention(8, 2, (8, 8), (4, 4), (2, 2)).eval()
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(q, k, v, attn_mask=None):
        calls.append((q.shape, k.shape, v.shape, attn_mask.shape))
        return real(q, k, v, attn_mask=attn_mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixbench.backbones.swin.F.scaled_dot_product_attention", watched)
        attn(torch.randn(3, 8, 8, 8), torch.rand(3, 8, 8), "")
    assert calls == [((3, 8, 16, 4), (3, 8, 16, 4), (3, 8, 16, 4), (1, 8, 16, 16))] * 2


@pytest.mark.slow
def test_stages_compile_without_a_break_with_and_without_a_record():
    net, x = tiny(), torch.randn(2, 3, 16, 32)
    plain, expected = net(x), Capture(weight=torch.rand(2, 8, 16))
    given = expected.weight
    net.forward_stages(x, capture=expected)
    torch._dynamo.reset()
    for stage in net.stages:
        stage.compile(backend="eager", fullgraph=True)
    capture = Capture({1: "received"}, weight=given)
    torch.testing.assert_close(net.head(net.forward_stages(x, capture=capture)), plain)
    torch.testing.assert_close(net(x), plain)
    torch.testing.assert_close(capture.weight, expected.weight)
