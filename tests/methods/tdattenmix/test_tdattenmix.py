import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from making import twin
from paths import SHARED
from small_nets import small_net

import mixbench.functional as mf
from mixbench import build_method, compose, run
from mixbench.backbones.attention import Capture
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataConfig, DataInfo, OptimConfig, RunConfig
from mixbench.data import DATA
from mixbench.data.images import Batch
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.nn.absvit import AbSViT
from mixbench.nn.imagenet import WNIDS
from mixbench.pictures.raster import raster
from mixbench.pictures.sheet import as_sheets
from mixbench.records.checkpoints import LAST
from mixbench.testing.samples import BATCH, SIZE, fit, sample_batch, sample_method, sample_splits
from mixbench.training.build import build
from mixbench.training.callbacks.samples import draw_batch
from mixbench.training.job import resolve

CLS = METHODS.get("tdattenmix")
FLIP = torch.arange(BATCH).flip(0)
SAMPLE = SHARED / "data" / "imagenet_sample64_224.npz"


def around(net, info=None, run=None, **settings):
    """The method around a network, with windows in every batch, training."""
    info = info or DataInfo(4, SIZE, SIZE)
    settings = {"switch_prob": 1.0} | settings
    method = CLS(net, info, CLS.Config(**settings), run or RunConfig(), total_steps=4)
    method.reseed(0, 0)
    return method.train()


def convolving(**settings):
    torch.manual_seed(0)
    return around(small_net("preactresnet18", SIZE), **settings)


def attending(drop_path=0.0, **settings):
    """Around a transformer whose attention is far from uniform; 4 x 4 patches."""
    torch.manual_seed(1)
    net = VisionTransformer(16, 4, 2, 4, (SIZE, SIZE), 4, drop_path=drop_path)
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return around(net, **settings)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """A file as the authors of AbSViT publish theirs, of a small network with random weights."""
    torch.manual_seed(0)
    net = AbSViT(64, 2, 1, 4, 3, 1000)
    for p in net.parameters():
        p.data += 0.2 * torch.randn_like(p)
    path = tmp_path_factory.mktemp("absvit") / "absvit.pth"
    torch.save({"model": net.state_dict(), "args": argparse.Namespace(lr=0.1), "epoch": 3}, path)
    return str(path)


def grid_maps(rows=BATCH, cells=4, seed=0):
    return torch.rand(rows, cells, cells, generator=torch.Generator().manual_seed(seed))


# Where the maps come from.


def test_the_own_map_of_a_convolutional_network_is_the_activation_map_of_the_label():
    method = convolving(side=8)
    x, targets = sample_batch()
    mixed = method.mix(x, targets, side=2, perm=FLIP)
    net = method.net.eval()
    with torch.no_grad():
        h = net.forward_stages(x)
        weight = net.head.fc.weight[targets.argmax(1)]
        cam = (h * weight[:, :, None, None]).sum(1).relu()
    expected = mf.resize_maps(cam, (8, 8), "bilinear")
    torch.testing.assert_close(mixed.aux.pasted.maps, expected, rtol=1e-5, atol=1e-6)
    assert cam.max() > 0


def test_the_own_map_of_a_transformer_is_how_much_its_patches_are_attended_to():
    method = attending()
    x, targets = sample_batch()
    mixed = method.mix(x, targets, side=2, perm=FLIP)
    capture = Capture({-1: "mean"})
    with torch.no_grad():
        method.net.eval().forward_stages(x, capture=capture)
    received = capture.attention[-1].mean(1)[:, 1:].reshape(BATCH, 4, 4)
    torch.testing.assert_close(mixed.aux.pasted.maps, received, rtol=1e-6, atol=1e-8)


def test_one_look_finds_maps_and_predictions_and_leaves_no_trace_in_the_network():
    method = attending(drop_path=0.5)
    for net_method in (convolving(), method):
        frozen = next(iter(net_method.net.modules()))
        list(net_method.net.modules())[3].eval()
        modes = [m.training for m in net_method.net.modules()]
        state = {k: v.clone() for k, v in net_method.net.state_dict().items()}
        passes = []
        net_method.net.stages[0].register_forward_hook(lambda *_, seen=passes: seen.append(1))
        mixed = net_method.mix(*sample_batch())
        assert passes == [1]
        assert [m.training for m in frozen.modules()] == modes
        assert all(torch.equal(v, state[k]) for k, v in net_method.net.state_dict().items())
        assert not mixed.aux.expected.requires_grad


@pytest.mark.parametrize("make", [convolving, attending])
def test_automatic_mixed_precision_changes_no_window_and_no_label(make):
    x, targets = sample_batch()
    wide = make().mix(x, targets, side=2, perm=FLIP)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = make().mix(x, targets, side=2, perm=FLIP)
    assert torch.equal(wide.x, narrow.x)
    assert torch.equal(wide.lam, narrow.lam)
    assert torch.equal(wide.aux.expected, narrow.aux.expected)


def test_automatic_mixed_precision_changes_no_window_of_absvit(guide):
    x, targets = sample_batch()
    method = sample_method(CLS, absvit=guide)
    method.source.wanted.copy_(torch.randn(method.source.wanted.shape))  # prototypes
    wide = method.mix(x, targets, side=2, perm=FLIP)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = method.mix(x, targets, side=2, perm=FLIP)
    assert torch.equal(wide.aux.pasted.maps, narrow.aux.pasted.maps)
    assert torch.equal(wide.x, narrow.x)
    assert torch.equal(wide.lam, narrow.lam)
    assert wide.aux.pasted.maps.any()


def test_absvit_looks_for_the_class_of_each_image(guide):
    info = DataInfo(
        3,
        SIZE,
        SIZE,
        class_ids=[WNIDS[row] for row in (4, 400, 900)],
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )
    method = around(small_net("preactresnet18", SIZE, 3), info, absvit=guide, sigma=0.7)
    x, targets = torch.randn(6, 3, SIZE, SIZE), torch.eye(3)[[0, 1, 2, 2, 1, 0]]
    mixed = method.mix(x, targets, side=2, perm=FLIP)
    source = method.source
    assert source.prior == "wnid"
    net = AbSViT.from_state(torch.load(guide, weights_only=False)["model"])
    pixels = torch.nn.functional.interpolate(
        0.25 * x + 0.5, (12, 12), mode="bilinear", antialias=True
    )
    mean, std = (
        torch.tensor(t)[:, None, None] for t in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    wanted = net.head.weight[torch.tensor([4, 400, 900, 900, 400, 4])]
    with torch.no_grad():
        found = net((pixels - mean) / std, wanted, 0.7).maps
    expected = mf.resize_maps(found, (4, 4))
    torch.testing.assert_close(mixed.aux.pasted.maps, expected, rtol=1e-4, atol=1e-6)
    assert expected.max() > 0


def test_priors_pick_their_rows_and_a_prompt_needs_no_class(guide):
    many = DataInfo(1000, SIZE, SIZE, class_ids=list(WNIDS))
    net = small_net("preactresnet18", SIZE, 1000)
    method = around(net, many, absvit=guide)
    assert not [name for name in method.state_dict() if name.startswith("source.")]
    head = method.source
    assert head.prior == "head"
    assert torch.equal(head.wanted, head.net.module.head.weight)
    prompt = around(net, many, absvit=guide, prior="prompt").source
    x = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(prompt(x, torch.tensor([0, 1])), prompt(x, torch.tensor([5, 6])))
    assert torch.equal(prompt.wanted[0], prompt.net.module.prompt)
    with pytest.raises(UserError, match="other classes"):
        around(net, DataInfo(10, SIZE, SIZE), absvit=guide, prior="head")


def test_prototypes_are_the_mean_features_of_the_classes_and_found_once(guide):
    method = sample_method(CLS, absvit=guide, switch_prob=1.0)
    train = sample_splits(method).train
    assert method.source.prior == "prototype"
    assert "source.wanted" in method.state_dict()
    method.wrap_dataset(train)
    source = method.source
    with torch.no_grad():
        features = source.net.module.encode(source.prepared(train.images / 255))[:, 0]
    for y in range(4):
        expected = features[train.labels == y].mean(0)
        torch.testing.assert_close(source.wanted[y], expected, rtol=1e-4, atol=1e-5)
    found = source.wanted.clone()
    method.wrap_dataset(train.subset(torch.arange(3)))
    assert torch.equal(source.wanted, found)


def test_the_attention_network_is_no_part_of_what_is_trained_or_saved(guide):
    method = sample_method(CLS, absvit=guide, switch_prob=1.0)
    assert not [name for name in method.state_dict() if name.startswith("source.net")]
    weights = [p.clone() for p in method.source.net.module.parameters()]
    fit(method)
    now = list(method.source.net.module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, now, strict=True))
    assert all(p.grad is None for p in now)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": torch.ones(2)}}, "holds no AbSViT: no 'patch_embed"),
        ({"model": {"a": 1}}, "not a state dict"),
        ({"model": object}, "more than tensors and plain values"),
        (b"text", "damaged|more than tensors"),
    ],
)
def test_other_files_are_no_absvit(tmp_path, content, message):
    path = tmp_path / "other.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=message):
        sample_method(CLS, absvit=str(path))


def test_a_missing_file_is_named_with_where_to_get_it():
    with pytest.raises(ValueError, match=r"absvit=none.pth: no such file; get AbSViT-B .*self"):
        CLS.Config(absvit="none.pth")
    with pytest.raises(ValueError, match=r"needs method.absvit=FILE; get AbSViT-B from https://"):
        CLS.Config(attention="absvit")
    for name, key in (("gaze", "maps"), ("file", "maps"), ("teacher", "teacher_ckpt")):
        with pytest.raises(ValueError, match=f"needs method.{key}=FILE$"):
            CLS.Config(attention=name)


def test_random_windows_lie_anywhere_and_weigh_by_area():
    method = convolving(attention="random")
    x, targets = (part.repeat(60, *[1] * (part.ndim - 1)) for part in sample_batch())
    mixed = method.mix(x, targets, side=2)
    places = torch.cat([mixed.aux.pasted.target, mixed.aux.pasted.source])
    assert places.min() == 0
    assert places.max() == 2
    assert len({tuple(place) for place in places.tolist()}) == 9
    assert not torch.equal(mixed.aux.pasted.target, mixed.aux.pasted.source)
    torch.testing.assert_close(mixed.lam, torch.full((len(x),), 0.75))


def test_maps_on_disk_follow_their_images_through_crops_and_mirrors(tmp_path):
    method = sample_method(CLS)
    images = sample_splits(method).train
    maps = images.images[:, 0].float()  # a map that shows what was cropped
    np.save(tmp_path / "maps.npy", maps.numpy())
    config = RunConfig(data=DataConfig(crop=2))
    info = DataInfo(4, SIZE, SIZE)
    method = around(
        small_net("preactresnet18", SIZE), info, config, side=SIZE, maps=str(tmp_path / "maps.npy")
    )
    batch = method.wrap_dataset(images)[BatchIndex(torch.arange(8), 0)]
    method.reseed(0, 3)
    mixed = method.mix_batch(batch)
    method.reseed(0, 3)
    x, _ = method.prepare(batch)
    torch.testing.assert_close(mixed.aux.pasted.maps, 255 * x[:, 0])
    with pytest.raises(UserError, match="the batch has no attention maps"):
        method.mix(x, torch.eye(4)[[0, 1] * 4])
    draw_batch(method, batch)
    other = RunConfig(data=DataConfig(auto_augment="rand-m9"))
    with pytest.raises(UserError, match="maps cannot follow an augmentation policy") as caught:
        around(method.net, info, other, maps=str(tmp_path / "maps.npy"))
    assert caught.value.where == "data.auto_augment"


def test_maps_shorten_no_other_part_of_a_step(tmp_path):
    """The same crops, partners and sides are drawn with maps as without."""
    method = sample_method(CLS, switch_prob=1.0)
    images = sample_splits(method).train
    np.save(tmp_path / "maps.npy", np.ones((24, 2, 2), dtype=np.float32))
    mapped = sample_method(CLS, switch_prob=1.0, maps=str(tmp_path / "maps.npy"))
    drawn = []
    for each in (method, mapped):
        each.reseed(2, 1)
        drawn.append(each.mix_batch(each.wrap_dataset(images)[BatchIndex(torch.arange(6), 0)]))
    assert torch.equal(drawn[0].perm, drawn[1].perm)
    assert torch.equal(drawn[0].aux.pasted.kept.sum(), drawn[1].aux.pasted.kept.sum())


@pytest.fixture
def trained(runs, tiny):
    """The checkpoint of a finished run."""
    record = run(compose([*tiny, "method=erm", "net.width=8"]))
    return runs / record.id / LAST


def test_a_teacher_is_the_network_of_a_finished_run(trained, tiny):
    words = [*tiny, "method=tdattenmix", "method.switch_prob=1.0"]
    config = compose([*words, f"method.teacher_ckpt={trained}"])
    splits = DATA.get("digits")(config.data).load()
    method, _ = build(resolve(config), splits)
    saved = torch.load(trained, weights_only=True)["state_dict"]
    inner = method.source.saliency.teacher.module
    assert all(torch.equal(inner.state_dict()[k], saved[f"net.{k}"]) for k in inner.state_dict())
    assert not [name for name in method.state_dict() if "teacher" in name]

    method.train()
    images = splits.train.images[:8]
    x, y = method.normalize(images / 255), splits.train.labels[:8]
    mixed = method.mix(x, mf.one_hot(y, 10), side=3)
    with torch.no_grad():
        h = inner.forward_stages(x)
        cam = torch.einsum("bchw,bc->bhw", h, inner.head.fc.weight[y]).relu()
    expected = mf.resize_maps(cam, (4, 4), "bilinear")
    torch.testing.assert_close(mixed.aux.pasted.maps, expected, rtol=1e-4, atol=1e-5)
    assert not inner.training
    torch.testing.assert_close(method.source(images / 255, y), cam, rtol=1e-4, atol=1e-5)

    record = run(compose([*words, f"method.teacher_ckpt={trained.parent}"]))  # its folder
    assert (record.status, record.fidelity) == ("done", "variant")
    # Another path to the same run is the same configuration.
    assert resolve(config).identity.config_hash == record.config_hash


def test_files_count_by_content_and_not_by_name(guide, tmp_path, tiny):
    words = [*tiny, "method=tdattenmix"]
    copied = tmp_path / "renamed.pth"
    copied.write_bytes(Path(guide).read_bytes())
    hashes = {
        resolve(compose([*words, f"method.absvit={path}"])).identity.config_hash
        for path in (guide, copied)
    }
    assert len(hashes) == 1
    copied.write_bytes(copied.read_bytes() + b"\0")
    other = resolve(compose([*words, f"method.absvit={copied}"])).identity.config_hash
    assert other not in hashes
    with pytest.raises(UserError, match="no such file or folder: gone") as caught:
        assert resolve(compose([*words, "method.teacher_ckpt=gone"])).identity
    assert caught.value.where == "method.teacher_ckpt"


def test_a_teacher_of_other_classes_is_refused(trained):
    with pytest.raises(UserError, match="knows 10 classes, the data has 4"):
        sample_method(CLS, teacher_ckpt=str(trained))


def test_the_source_follows_from_the_file_that_is_given():
    def source(**given):
        return CLS.Config(**given).looks_with

    assert source() == "self"
    assert source(teacher_ckpt="x") == "teacher"
    assert source(maps="x") == "file"
    assert source(maps="x", attention="gaze") == "gaze"
    assert source(maps="x", attention="random") == "random"


def test_only_the_authors_own_choices_are_called_official(guide):
    def fidelity(**changed):
        given = {"absvit": guide, "prior": "head", "label_ratio": "official", "partner": "flip"}
        return CLS.Config(**given | changed).fidelity

    assert fidelity() == "official-verified"
    for changed in (
        {"absvit": None},
        {"prior": "auto"},
        {"label_ratio": "fixed"},
        {"partner": "random"},
        {"map_norm": "sum"},
        {"dst_tie": "random"},
        {"attention": "self"},
    ):
        assert fidelity(**changed) == "variant", changed


def test_a_network_without_maps_is_refused_for_its_own_map_alone():
    class Plain(torch.nn.Linear):
        provides = frozenset({"stages"})

    with pytest.raises(UserError, match="neither feature maps nor attention") as caught:
        around(Plain(2, 2))
    assert "method.attention=absvit" in caught.value.todo
    assert CLS.Config().requires == {"stages"}
    assert CLS.Config(attention="random").requires == frozenset()


# What is mixed.


def test_half_of_the_batches_have_windows_and_the_others_are_mixed_whole():
    method = convolving(switch_prob=0.5)
    x, targets = sample_batch()
    kinds, sides = [], set()
    for step in range(200):
        method.reseed(0, step)
        mixed = method.mix(x, targets)
        kinds.append(mixed.aux is not None)
        if mixed.aux is None:
            expected = mf.mixup(x, targets, lam=mixed.lam[:1], perm=mixed.perm)
            torch.testing.assert_close(mixed.x, expected.x)
        else:
            sides.add(int((~mixed.aux.pasted.kept[0]).sum()))
    assert abs(sum(kinds) - 100) < 29  # four standard deviations
    assert sides == {1, 4, 9}


def test_the_share_and_the_sides_asked_for_are_drawn():
    x, targets = sample_batch()
    never = convolving(switch_prob=0.0)
    assert all(never.mix(x, targets).aux is None for _ in range(10))
    large = convolving(min_ratio=0.75, max_ratio=1.0)
    seen = {int((~large.mix(x, targets).aux.pasted.kept[0]).sum()) for _ in range(20)}
    assert seen == {9, 16}


def test_ranks_draw_windows_of_one_size_and_partners_of_their_own():
    methods = [convolving(), convolving()]
    methods[1].rank = 1
    x, targets = sample_batch(12)
    for step in range(8):
        mixed = []
        for method in methods:
            method.reseed(0, step)
            mixed.append(method.mix(x, targets))
        first, second = (m.aux.pasted.kept[0].sum() for m in mixed)
        assert first == second
    assert not torch.equal(mixed[0].perm, mixed[1].perm)


def test_weight_of_the_area_and_kind_of_label_reach_the_label():
    x, targets = sample_batch()
    given = {"maps": grid_maps(), "side": 2, "perm": FLIP}
    lam = {}
    for settings in ({"beta": 0.25}, {"label_ratio": "official"}, {"map_norm": "sum"}):
        mixed = convolving(**settings).mix(x, targets, **given)
        ratio = settings.get("label_ratio", "fixed")
        expected = mf.tdattenmix(
            x,
            targets,
            grid_maps(),
            side=2,
            perm=FLIP,
            beta=settings.get("beta", 0.5),
            ratio=ratio,
            map_norm=settings.get("map_norm", "none"),
        )
        torch.testing.assert_close(mixed.lam, expected.lam)
        lam[str(settings)] = mixed.lam
    assert len({tuple(value.tolist()) for value in lam.values()}) == 3


def test_random_ties_are_drawn_for_every_image():
    x, targets = sample_batch()
    mixed = convolving(dst_tie="random").mix(x, targets, maps=torch.zeros(BATCH, 4, 4), side=1)
    assert len({tuple(place) for place in mixed.aux.pasted.target.tolist()}) > 2
    mixed = convolving().mix(x, targets, maps=torch.zeros(BATCH, 4, 4), side=1)
    assert not mixed.aux.pasted.target.any()


def test_partners_follow_their_rule_in_both_kinds_of_batches():
    x, targets = sample_batch()
    for prob in (0.0, 1.0):
        mixed = convolving(partner="flip", switch_prob=prob).mix(x, targets)
        assert torch.equal(mixed.perm, FLIP)


def test_flipped_pairs_of_odd_batches_are_refused_before_training():
    with pytest.raises(UserError, match="flip pairing needs an even batch, got B=33") as caught:
        convolving(partner="flip", run=RunConfig(batch_size=33))
    assert "method.partner=random" in caught.value.todo
    halves = RunConfig(batch_size=66, optim=OptimConfig(accumulate=2))
    with pytest.raises(UserError, match="got B=33"):
        convolving(partner="flip", run=halves)


def test_sides_of_the_grid_that_do_not_fit_are_refused_before_training():
    with pytest.raises(UserError, match="5 cells do not divide images of 16x16") as caught:
        convolving(side=5)
    assert "use a side of 1 or 2 or 4 or 8 or 16" in caught.value.todo
    with pytest.raises(UserError, match="grid of a transformer") as caught:
        attending(side=4)
    assert "net.patch" in caught.value.todo


@pytest.mark.parametrize(
    "bad",
    [
        {"attention": "saliency"},
        {"prior": "label"},
        {"label_ratio": "area"},
        {"map_norm": "max"},
        {"dst_tie": "last"},
        {"partner": "next"},
        {"alpha": 0.0},
        {"sigma": -1.0},
        {"beta": 1.5},
        {"switch_prob": float("nan")},
        {"min_ratio": 0.8},
        {"max_ratio": 2.0},
        {"side": 0},
        {"consistency": -1.0},
        {"tokens": float("inf")},
    ],
)
def test_settings_out_of_range_are_refused_by_their_key(bad):
    with pytest.raises(ValueError, match=f"method.{next(iter(bad))}"):
        CLS.Config(**bad)


# What is learned.


def test_a_transformer_learns_from_labels_clean_predictions_and_the_tokens_of_both_parts():
    method = attending(consistency=0.5, tokens=2.0, partner="flip")
    x, targets = sample_batch()
    maps = grid_maps()
    mixed = method.mix(x, targets, maps=maps, side=2)
    logits, done = method.predict(mixed)
    terms = method.loss(logits, done)

    net = method.net
    with torch.no_grad():
        clean = net.eval()(x)
        net.train()
        h = net.forward_stages(mixed.x)
        tokens = net.head.norm(h)[:, 1:]
        kept = mixed.aux.pasted.kept.flatten(1)
        fine = 0.0
        for mask, own in ((kept, targets), (~kept, targets.flip(0))):
            means = torch.stack([t[m].mean(0) for t, m in zip(tokens, mask, strict=True)])
            fine += mf.soft_cross_entropy(method.token_head(means), own) / 2
        lam = mixed.lam[:, None]
        expected = (lam * clean + (1 - lam) * clean.flip(0)).softmax(1)
        agree = (expected * (expected.log() - logits.log_softmax(1))).sum(1).mean()
    assert torch.equal(logits, net(mixed.x))
    torch.testing.assert_close(terms["ce"], mf.soft_cross_entropy(logits, mixed.targets))
    torch.testing.assert_close(terms["consistency"].detach(), 0.5 * agree)
    torch.testing.assert_close(terms["tokens"].detach(), 2.0 * fine)
    assert set(terms) == {"ce", "consistency", "tokens"}


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_every_parameter_of_a_transformer_gets_a_gradient_in_every_kind_of_batch(prob):
    method = attending(switch_prob=prob)
    logits, mixed = method.predict(method.mix(*sample_batch()))
    terms = method.loss(logits, mixed)
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in method.parameters())
    if prob == 0:
        assert terms["tokens"] == 0
        assert not method.token_head.weight.grad.any()
    else:
        assert method.token_head.weight.grad.any()
    groups = method.param_groups()
    assert sum(len(g["params"]) for g in groups) == len(list(method.parameters()))


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_a_convolutional_network_has_no_head_for_tokens(prob):
    method = convolving(switch_prob=prob)
    assert method.token_head is None
    logits, mixed = method.predict(method.mix(*sample_batch()))
    assert set(method.loss(logits, mixed)) == ({"ce", "consistency"} if prob else {"ce"})


def test_a_window_of_the_whole_image_has_no_kept_tokens_and_a_finite_loss():
    method = attending(min_ratio=1.0, max_ratio=1.0)
    logits, mixed = method.predict(method.mix(*sample_batch()))
    assert not mixed.aux.pasted.kept.any()
    assert sum(method.loss(logits, mixed).values()).isfinite()


def test_what_is_tested_is_the_plain_network():
    method = attending()
    pixels = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(method.eval()(pixels), method.net(method.normalize(pixels)))


@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny", "resnet18", "wrn16x8"])
def test_networks_of_every_kind_take_a_step(name):
    net = small_net(
        name,
        32,
        **({"patch": 2} if name == "swin_tiny" else {"patch": 8} if name == "vit_tiny" else {}),
    )
    method = around(net, DataInfo(4, 32, 32))
    x = torch.randn(3, 3, 32, 32)
    mixed = method.mix(x, torch.eye(4)[:3])
    assert mixed.aux.pasted.maps.max() > 0
    assert mixed.aux.pasted.maps.std() > 0
    logits, mixed = method.predict(mixed)
    sum(method.loss(logits, mixed).values()).backward()
    assert (method.token_head is not None) == (name == "vit_tiny")


# Whole runs, and pictures.


def test_a_run_goes_on_with_the_prototypes_that_it_found(runs, tiny, guide, monkeypatch):
    words = [*tiny, "method=tdattenmix", f"method.absvit={guide}", "epochs=2", "data.limit=64"]
    passes = []

    class Counts(CLS):
        def wrap_dataset(self, train_set):
            before = self.source.wanted.clone()
            found = super().wrap_dataset(train_set)
            passes.append(not torch.equal(before, self.source.wanted))
            return found

        def training_step(self, batch, batch_idx):
            if self.current_epoch == 1 and len(passes) == 1:
                raise RuntimeError("planted")
            return super().training_step(batch, batch_idx)

    monkeypatch.setitem(METHODS._objects, "tdattenmix", Counts)
    config = compose(words)
    with pytest.raises(Exception, match="planted"):
        run(config)
    record = run(config)
    assert (record.status, record.fidelity) == ("done", "variant")
    assert passes == [True, False]
    saved = torch.load(runs / record.id / LAST, weights_only=True)["state_dict"]
    assert saved["source.wanted"].any()
    assert not [name for name in saved if name.startswith("source.net")]


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_the_picture_shows_maps_and_windows_in_both_kinds_of_batches(prob):
    method = convolving(switch_prob=prob, run=RunConfig(data=DataConfig(crop=2)))
    images = sample_splits(method).train[BatchIndex(torch.arange(6), 0)]
    states = [p.clone() for p in method.parameters()]
    picture = draw_batch(method, images)
    colours = {colour for _, colour in picture.getcolors(1 << 24)}
    assert (0, 229, 255) in colours  # the window that is covered
    assert torch.equal(
        torch.cat([p.flatten() for p in states]),
        torch.cat([p.flatten() for p in method.parameters()]),
    )
    plain = Method.picture(
        method, *method.prepare(images), mf.Mixed(*method.prepare(images), perm=FLIP)
    )
    assert picture.width > raster(as_sheets(plain)).width


def photographs(folder):
    """Two of ImageNet's photographs with their labels; noise where they are not at hand."""
    if not SAMPLE.exists():
        return torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8), torch.tensor([7, 900])
    test = str(twin(SAMPLE, folder))
    pack = DATA.get("pack")(DataConfig(kind="pack", train=str(SAMPLE), test=test))
    return pack.load().test[BatchIndex(torch.tensor([3, 40]), 0)][:2]


def test_photographs_pass_a_step_with_deit_and_an_absvit_in_the_published_layout(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "absvit_tiny.pth"
    torch.save({"model": AbSViT(192, 12, 3, 16, 14, 1000).state_dict()}, path)
    info = DataInfo(
        1000, 224, 224, class_ids=list(WNIDS), mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    method = build_method(
        "tdattenmix",
        "deit_small",
        info,
        absvit=str(path),
        switch_prob=1.0,
        label_ratio="official",
        partner="flip",
        prior="head",
    ).train()
    images, labels = photographs(tmp_path)
    assert images.shape == (2, 3, 224, 224)
    x, targets = method.prepare(Batch(images, labels, torch.arange(2)))
    logits, mixed = method.predict(method.mix(x, targets))
    terms = method.loss(logits, mixed)
    assert set(terms) == {"ce", "consistency", "tokens"}
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())
    assert method.config.fidelity == "official-verified"
