"""Operations as modules, as users of torchvision and timm expect them."""

import functools
import pickle

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import mixbench.functional as mf

K = 5
MODULES = {
    "mixup": mf.Mixup,
    "cutmix": mf.CutMix,
    "bc": mf.BC,
    "splicemix": mf.SpliceMix,
    "guidedmixup": mf.GuidedMixup,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(rows=8, size=16):
    generator = seeded(1)
    return torch.rand(rows, 3, size, size, generator=generator), torch.arange(rows) % K


def samples(rows=8):
    x, y = batch(rows)
    return list(zip(x, y.tolist(), strict=True))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_does_what_its_function_does(name):
    x, y = batch()
    module = MODULES[name](num_classes=K)
    mixed, targets = module(x, y, generator=seeded())
    generator = seeded()
    torch.rand((), generator=generator) if name != "bc" else None  # whether to mix at all
    expected = getattr(mf, name)(x, mf.one_hot(y, K), generator=generator)
    assert torch.equal(mixed, expected.x)
    assert torch.equal(targets, expected.targets)


@pytest.mark.parametrize("name", MODULES)
def test_it_collates_the_samples_of_a_loader(name):
    module = pickle.loads(pickle.dumps(MODULES[name](num_classes=K)))
    torch.manual_seed(3)
    loader = DataLoader(samples(), batch_size=8, collate_fn=module)
    base = next(iter(DataLoader(samples(), batch_size=8)))
    torch.manual_seed(3)
    x, targets = next(iter(loader))
    torch.manual_seed(3)
    torch.empty((), dtype=torch.int64).random_()  # the loader's own draw, for its workers
    expected = module(*base)
    assert torch.equal(x, expected[0])
    assert torch.equal(targets, expected[1])
    assert targets.shape == (len(x), K)


def test_two_workers_do_not_draw_alike():
    module = mf.Mixup(num_classes=4)
    same = [(torch.full((1, 2, 2), float(row)), row) for row in range(4)] * 2
    loader = DataLoader(same, batch_size=4, num_workers=2, collate_fn=module)
    (first, _), (second, _) = list(loader)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", MODULES)
def test_eval_mode_and_no_chance_leave_the_images_and_make_targets(name):
    x, y = batch()
    module = MODULES[name](num_classes=K)
    for quiet in (module.eval(), MODULES[name](num_classes=K, prob=0.0)):
        same, targets = quiet(x, y)
        assert torch.equal(same, x)
        assert torch.equal(targets, mf.one_hot(y, K))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_smoothing_comes_before_mixing(name):
    x, y = batch()
    _, targets = MODULES[name](num_classes=K, smoothing=0.1)(x, y, generator=seeded())
    assert targets.min().item() == pytest.approx(0.1 / K)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


@pytest.mark.parametrize("name", MODULES)
def test_two_label_heads_and_two_stacks_share_one_decision(name):
    x, y = batch()
    module = MODULES[name](num_classes={"fine": K, "coarse": 2})
    coarse = y % 2
    stacks, labels = module((x, 2 * x), {"fine": y, "coarse": coarse}, generator=seeded(4))
    alone, fine = MODULES[name](num_classes=K)(x, y, generator=seeded(4))
    assert isinstance(stacks, tuple)
    assert torch.equal(stacks[0], alone)
    torch.testing.assert_close(stacks[1], 2 * alone)
    assert torch.equal(labels["fine"], fine)
    # Class c of the coarse head is the sum of its classes in the fine one, or their largest.
    parts = torch.stack([fine[:, 0::2], torch.nn.functional.pad(fine[:, 1::2], (0, 1))], dim=1)
    summed = parts.amax(2) if name == "splicemix" else parts.sum(2)
    torch.testing.assert_close(labels["coarse"], summed)
    assert not torch.equal(stacks[0][:8], x) or len(alone) > 8


BY_ITSELF = {
    "fmix": {"per_sample": True},
    "gridmix": {},
    "resizemix": {"scope": (0.3, 0.5)},
    "smoothmix": {},
    "mixpro": {"cell": 4},
    "tokenmix": {"grid": (4, 4)},
}
BY_MAPS = {"attentivemix": {"top_k": 3}, "puzzlemix": {}, "smmix": {}, "snapmix": {}}


def brightness(x):
    return x.mean(1)


@pytest.mark.parametrize("name", BY_ITSELF | BY_MAPS)
def test_any_operation_is_a_module_that_does_what_its_function_does(name):
    x, y = batch()
    settings, operation = (BY_ITSELF | BY_MAPS)[name], getattr(mf, name)
    maps = brightness if name in BY_MAPS else None
    module = mf.OperationMix(operation, maps=maps, num_classes=K, smoothing=0.1, **settings)
    mixed, targets = pickle.loads(pickle.dumps(module))(x, y, generator=seeded())
    generator = seeded()
    torch.rand((), generator=generator)  # whether to mix at all
    given = [x, mf.one_hot(y, K, smoothing=0.1)] + ([brightness(x)] if maps else [])
    expected = operation(*given, **settings, generator=generator)
    assert torch.equal(mixed, expected.x)
    torch.testing.assert_close(targets, expected.targets)
    _, (fine, coarse) = module(x, (y, y % K), generator=seeded())
    torch.testing.assert_close(fine, targets)
    torch.testing.assert_close(coarse, targets)
    with pytest.raises(ValueError, match=f"{name} mixes one stack of images"):
        module((x, x), y)
    assert torch.equal(module.eval()(x, y)[0], x)


@functools.wraps(mf.saliencymix)
def wrapped(*args, **settings):
    return mf.saliencymix(*args, **settings)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("form", ["plain", "partial", "wrapped", "both"])
def test_the_maps_of_saliencymix_are_of_the_partners_that_are_pasted(per_sample, form):
    x, y = batch()
    seen = []
    operation = mf.saliencymix if form in ("plain", "partial") else wrapped
    settings = {"per_sample": per_sample, "partner": "roll"}
    if form in ("partial", "both"):
        operation, settings = functools.partial(operation, **settings), {}
    module = mf.OperationMix(
        operation, maps=lambda x: seen.append(x) or brightness(x), num_classes=K, **settings
    )
    mixed, _ = module(x, y, generator=seeded())
    rolled = x.roll(1, 0)
    assert torch.equal(seen[0], rolled if per_sample else rolled[:1])
    assert not torch.equal(mixed, x)


def test_videos_get_one_box_for_all_their_frames():
    video = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 8, 8)
    x, targets = mf.CutMix(num_classes=4)(video, torch.arange(4), generator=seeded(2))
    assert x.shape == video.shape
    assert (x == x[:, :1, :1]).all()
    shown = (x[:, 0, 0] == video[:, 0, 0]).float().mean((1, 2))
    torch.testing.assert_close(targets.diagonal(), shown)


SAMPLES = {"per_sample": True, "partner": "derange"}


@pytest.mark.parametrize(
    ("operation", "settings", "empty"),
    [
        (mf.mixup, SAMPLES, 0.0),
        (mf.cutmix, SAMPLES, 0.25),  # a side below 2 of 4 pixels has no half
        (mf.cutmix, SAMPLES | {"minmax": (0.3, 0.6)}, 0.0),
        (mf.bc, {}, 0.0),
        (mf.bc, {"plus": True}, 0.0),
    ],
)
def test_a_chance_for_each_row_leaves_the_others_as_they_are(operation, settings, empty):
    x = torch.arange(4000.0).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    targets = torch.eye(4).repeat(1000, 1)
    mixed = operation(x, targets, prob=0.25, generator=seeded(), **settings)
    same = (mixed.x == x).flatten(1).all(1)
    assert torch.equal(same & (mixed.lam == 1), mixed.lam == 1)
    assert torch.equal(mixed.targets[same], targets[same])
    unmixed = (mixed.lam == 1).float().mean().item()
    assert unmixed == pytest.approx(0.75 + 0.25 * empty, abs=0.03)


def test_one_chance_for_the_whole_batch_is_drawn_once():
    x, targets = torch.rand(6, 1, 4, 4), torch.eye(6)
    drawn = [mf.mixup(x, targets, prob=0.5, generator=seeded(seed)).lam for seed in range(40)]
    whole = sum(bool((lam == 1).all()) for lam in drawn)
    assert 8 < whole < 32
    assert all(bool((lam == 1).all()) or not bool((lam == 1).any()) for lam in drawn)


def test_torchvision_chooses_between_them():
    torch.manual_seed(0)
    choose = v2.RandomChoice([mf.Mixup(num_classes=K), mf.CutMix(num_classes=K)])
    x, targets = choose(*batch())
    assert x.shape == (8, 3, 16, 16)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


@pytest.mark.parametrize(
    ("module", "given", "match"),
    [
        (mf.Mixup(), lambda x, y: (x, y), "give num_classes"),
        (mf.Mixup(num_classes=3), lambda x, y: (x, torch.eye(8)), r"\(B, 3\), got \(8, 8\)"),
        (mf.Mixup(num_classes=3), lambda x, y: (x, y), r"labels must lie in \[0, 3\)"),
        (mf.CutMix(num_classes=K), lambda x, y: (x[0], y[:3]), r"\(B, ..., H, W\)"),
        (mf.CutMix(num_classes=K), lambda x, y: ((x, x[..., :8]), y), "one height and width"),
        (mf.CutMix(num_classes=(K, 2)), lambda x, y: (x, y), "one number for all"),
        (mf.Mixup(num_classes=K), lambda x, y: ((x * 255).byte(), y), "convert to float first"),
        (mf.Mixup(num_classes=K), lambda x, y: ([(x[0], "cat")],), "number the classes"),
        (
            mf.Mixup(num_classes=K),
            lambda x, y: (x.numpy(), y),
            "images must be a tensor, got ndarray",
        ),
        (mf.Mixup(num_classes=K), lambda x, y: ((), y), "nothing to mix"),
        (mf.Mixup(num_classes=K), lambda x, y: ([(x[0],), (x[1],)],), "list of samples"),
        (mf.Mixup(num_classes=K), lambda x, y: (x,), "expected images and labels"),
    ],
)
def test_what_cannot_be_mixed_is_refused_with_the_remedy(module, given, match):
    with pytest.raises(ValueError, match=match):
        module(*given(*batch()))


@pytest.mark.parametrize("name", ["mixup", "cutmix", "bc", "manifoldmixup"])
def test_decisions_of_one_call_go_into_the_next(name):
    x, y = batch()
    operation, targets = getattr(mf, name), mf.one_hot(y, K)
    first = operation(x, targets, generator=seeded())
    given = {"box": first.aux} if name == "cutmix" else {"lam": first.lam}
    again = operation(x, targets, perm=first.perm, **given)
    assert torch.equal(again.x, first.x)
    torch.testing.assert_close(again.targets, first.targets, rtol=0, atol=1e-7)


def test_decisions_of_alignmix_and_tdattenmix_go_into_the_next_call():
    h, targets = torch.rand(4, 3, 2, 2, generator=seeded()), torch.eye(4)
    first = mf.alignmix(h, targets, generator=seeded())
    again = mf.alignmix(
        h, targets, lam=first.lam, perm=first.perm, side=first.aux.side, plan=first.aux.plan
    )
    assert torch.equal(again.x, first.x)
    x, maps = torch.rand(4, 1, 8, 8), torch.rand(4, 4, 4)
    first = mf.tdattenmix(x, targets, maps, generator=seeded())
    places = {"side": first.aux.side, "target": first.aux.target, "source": first.aux.source}
    again = mf.tdattenmix(2 * x, targets, maps, perm=first.perm, **places)
    assert torch.equal(again.x, 2 * first.x)
    assert torch.equal(again.targets, first.targets)


@pytest.mark.parametrize("name", MODULES)
def test_images_that_are_no_tensors_are_refused_with_the_transform_that_makes_them(name):
    module = MODULES[name](num_classes=K)
    picture = Image.new("RGB", (16, 16))
    loader = DataLoader([(picture, row % K) for row in range(8)], 8, collate_fn=module)
    with pytest.raises(ValueError, match=r"\(Image, int\) .*transform.*ToTensor\(\)"):
        next(iter(loader))
    for quiet in (module, module.eval()):
        for images in (picture, [picture] * 8):
            with pytest.raises(ValueError, match=r"got Image; .*ToTensor\(\)"):
                quiet(images, torch.arange(8) % K)


def test_images_of_several_sizes_are_refused_with_both_sizes():
    mixed = [(torch.rand(3, 16, 8 + row), row) for row in range(4)]
    with pytest.raises(ValueError, match=r"\(3, 16, 8\) and \(3, 16, 9\); .* one size"):
        mf.CutMix(num_classes=K)(mixed)
