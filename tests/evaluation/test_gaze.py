import pytest
import torch
from paths import SHARED

import mixbench.functional as mf
from mixbench.data.fixations import read_fixations
from mixbench.data.images import Batch
from mixbench.data.maps import MappedImages
from mixbench.data.sampling import BatchIndex
from mixbench.evaluation.gaze import GROUP, gaze_counts, gaze_order, gaze_scores
from mixbench.methods import METHODS
from mixbench.methods.evaluation import mix_for_evaluation
from mixbench.metrics import centre_gaussian, density_maps, gaze_inconsistency
from mixbench.testing.samples import SIZE, sample_method, sample_splits

CUB = SHARED / "data" / "cub_gha_fixations_first300.csv.gz"
MASKED = [name for name in METHODS.names() if not sample_method(METHODS.get(name)).no_mask_reason]

DRAWN = {"attentivemix": {"top_k": 0}}  # by default it draws nothing but the partners
UNDRAWN = {"guidedmixup"}  # they draw nothing but the partners


def made(name, **settings):
    return sample_method(METHODS.get(name), **settings).eval()


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    maps = torch.rand(count, SIZE, SIZE, generator=generator) ** 6
    return Batch(pixels, torch.arange(count) % 4, torch.arange(100, 100 + count), maps)


def parts(batch, size):
    places = range(0, len(batch.ids), size)
    return [Batch(*(t[start : start + size] for t in batch[:4])) for start in places]


def trial(method, batch, key=0):
    perm = torch.arange(len(batch.ids)).roll(1)
    return mix_for_evaluation(method, batch.images, batch.labels, perm, key)


def test_every_method_that_mixes_pixels_tells_which():
    assert set(MASKED) == {
        "attentivemix", "automix", "bc", "choice", "cutmix", "fmix", "gridmix", "guidedmixup",
        "hmix", "mixpro", "mixup", "mixup2", "puzzlemix", "resizemix", "saliencymix", "samix",
        "smmix", "smoothmix", "snapmix", "tdattenmix", "tlalign", "tokenmix", "transmix",
    }  # fmt: skip
    assert (
        made("mocosamix").no_mask_reason == made("moco").no_mask_reason == "it has no labels to mix"
    )
    for name in ("erm", "alignmix", "manifoldmixup"):
        assert made(name).no_mask_reason == "it does not mix pixels"


@pytest.mark.parametrize("name", MASKED)
def test_the_shares_make_the_mixed_image(name):
    batch = images(10)
    for key in range(6):
        method = made(name)
        x, mixed = trial(method, batch, key)
        own, partner = (
            share.expand(10, SIZE, SIZE)[:, None] for share in method.pixel_weights(x, mixed)
        )
        assert torch.equal(mixed.perm, torch.arange(10).roll(1))
        if name in ("tdattenmix", "smmix") and mixed.aux is not None:
            # The window moves: what is left of the image, and what all windows brought.
            torch.testing.assert_close(mixed.x * own, x * own)
            brought = (mixed.x * (1 - own)).sum((2, 3))
            torch.testing.assert_close(brought, (x[mixed.perm] * partner).sum((2, 3)))
            torch.testing.assert_close(partner.sum((2, 3)), (1 - own).sum((2, 3)))
        elif name == "puzzlemix":
            # Cells move: all that is shown of both, and of each what the label says.
            shown = (x * own + x[mixed.perm] * partner).sum((2, 3))
            torch.testing.assert_close(mixed.x.sum((2, 3)), shown)
            assert (own.mean((1, 2, 3)) <= mixed.lam + 1e-6).all()
        elif name == "resizemix":
            # The partner is all there, as small as the box.
            assert torch.equal(mixed.x * own, x * own)
            torch.testing.assert_close(partner.mean((2, 3)), 1 - own.mean((2, 3)))
            assert partner.unique().numel() == 1
        elif name == "snapmix":
            # A part of the partner is all there, as small as the box that it covers, or larger.
            assert torch.equal(mixed.x * own, x * own)
            areas = [(part > 0).float().sum((2, 3)) for part in (1 - own, partner)]
            smaller = torch.minimum(*areas)
            torch.testing.assert_close(partner.sum((2, 3)), smaller)
            bounds = (x[mixed.perm] * (partner > 0)).flatten(2).aminmax(dim=2)
            brought = (mixed.x * (1 - own)).flatten(2).aminmax(dim=2)
            assert (brought.min >= bounds.min.clamp(max=0) - 1e-5).all()
            assert (brought.max <= bounds.max.clamp(min=0) + 1e-5).all()
        else:
            torch.testing.assert_close(mixed.x, own * x + partner * x[mixed.perm])
            torch.testing.assert_close(own + partner, torch.ones_like(own))


def test_bc_plus_shows_images_by_loudness_and_not_by_label():
    batch = images(6)
    method = made("bc", plus=True)
    x, mixed = trial(method, batch)
    own, partner = method.pixel_weights(x, mixed)
    assert not torch.allclose(own.flatten(), mixed.lam)
    blend = own[:, None] * x + partner[:, None] * x[mixed.perm]
    scale = (own.square() + partner.square()).sqrt()[:, None]
    torch.testing.assert_close(mixed.x, blend / scale)


@pytest.mark.parametrize("name", MASKED)
def test_a_trial_is_drawn_from_its_key_and_leaves_no_trace(name):
    batch, method = images(8), made(name, **DRAWN.get(name, {}))
    list(method.modules())[-1].train()  # modes that differ, as of frozen layers
    modes = [module.training for module in method.modules()]
    before = {key: value.clone() for key, value in method.state_dict().items()}
    state = torch.random.get_rng_state()
    (_, first), (_, again), *others = (trial(method, batch, key) for key in (1, 1, 2, 3, 4, 5))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.lam, again.lam)
    drawn = torch.stack([other.lam.expand(8) for _, other in others])
    assert torch.equal(drawn, first.lam.expand(len(others), 8)) is (name in UNDRAWN)
    assert [module.training for module in method.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not first.x.requires_grad


@pytest.mark.parametrize("name", ["tlalign", "transmix"])
def test_the_label_is_the_one_that_the_network_decides(name):
    method = made(name, mixup_alpha=0.0)
    for p in method.net.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    batch = images(6)
    for key in range(4):
        x, mixed = trial(method, batch, key)
        area = mixed.aux.area
        own, _ = method.pixel_weights(x, mixed)
        torch.testing.assert_close(own.mean((1, 2)).expand(6), area)
        boxed = 0 < area[0] < 1
        assert bool(((mixed.lam - area).abs() > 1e-4).any()) is bool(boxed)
        own_labels = torch.eye(4)[batch.labels]
        labels = mf.mix_targets(own_labels, mixed.perm, mixed.lam)
        torch.testing.assert_close(mixed.targets, labels)


@pytest.mark.parametrize("name", ["cutmix", "tdattenmix", "transmix"])
def test_the_counts_are_the_measure_over_all_pairs(name):
    batch, method = images(2 * GROUP + 5), made(name)
    counts = gaze_counts(method, [batch], 3)
    values, middle, lams = [], [], []
    for part in parts(batch, GROUP):
        perm = torch.arange(len(part.ids)).roll(1)
        x, mixed = mix_for_evaluation(method, part.images, part.labels, perm, 3, int(part.ids[0]))
        shape = (len(perm), SIZE, SIZE)
        own, partner = (share.expand(shape) for share in method.pixel_weights(x, mixed))
        lam = mixed.lam.expand(len(perm))
        centre = centre_gaussian((SIZE, SIZE)).expand(shape)
        found = gaze_inconsistency(part.maps, part.maps[perm], own, lam, partner)
        control = gaze_inconsistency(centre, centre, own, lam, partner)
        values.append(found.value * len(perm))
        middle.append(control.value * len(perm))
        lams.append(lam)
    scores = gaze_scores(counts)
    n = len(batch.ids)
    assert counts["n"] == counts["pairs"] == n
    assert scores["gaze_inconsistency"] == pytest.approx(float(sum(values)) / n, abs=1e-6)
    assert scores["gaze_centre"] == pytest.approx(float(sum(middle)) / n, abs=1e-6)
    assert torch.cat(lams).unique().numel() > 2
    assert scores["gaze_inconsistency"] > 1
    assert scores["gaze_centre"] != scores["gaze_inconsistency"]


def test_a_window_brings_the_gaze_of_the_place_where_it_was_cut_out():
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    perm, maps = torch.tensor([1, 2, 3, 0]), x[:, 0, ::2, ::2]
    mixed = mf.tdattenmix(x, torch.eye(4), maps, side=2, perm=perm)
    own, partner = mf.window_shares(mixed.aux, (8, 8))
    kept = (own * x[:, 0]).sum((1, 2))
    torch.testing.assert_close((partner * x[perm, 0]).sum((1, 2)), mixed.x.sum((1, 2, 3)) - kept)
    assert not torch.equal(partner, 1 - own)
    assert partner.sum((1, 2)).tolist() == [16] * 4


def test_batches_and_processes_change_nothing():
    batch, method = images(5 * GROUP + 3), made("cutmix")
    whole = gaze_counts(method, [batch], 0)
    assert gaze_counts(method, parts(batch, GROUP), 0) == whole
    chunks = parts(batch, 2 * GROUP)
    shared = [gaze_counts(method, chunks[rank::2], 0) for rank in (0, 1)]
    assert {key: sum(part[key] for part in shared) for key in whole} == whole
    assert gaze_counts(method, [batch], 1)["distance"] != whole["distance"]


def test_the_order_is_random_and_complete():
    order = gaze_order(0, 500)
    assert torch.equal(order.sort().values, torch.arange(500))
    assert (order.roll(1) - order).abs().float().mean() > 100
    assert torch.equal(order, gaze_order(0, 500))


def test_an_image_that_is_left_over_has_no_partner():
    batch = images(GROUP + 1)
    counts = gaze_counts(made("cutmix"), [batch], 0)
    assert counts["n"] == GROUP
    assert gaze_counts(made("cutmix"), [images(1)], 0)["n"] == 0


def test_blank_pairs_are_counted_and_left_out():
    batch = images(GROUP)
    batch.maps[:] = 0
    batch.maps[0, 0, 0] = batch.maps[1, -1, -1] = 1
    counts = gaze_counts(made("mixup"), [batch], 0)
    assert counts["pairs"] + counts["blank"] == GROUP
    assert counts["pairs"] == 3  # (0, 15), (1, 0), (2, 1)
    batch.maps[:] = 0
    with pytest.raises(ValueError, match="none of 16 mixed images shows any gaze"):
        gaze_scores(gaze_counts(made("mixup"), [batch], 0))


class Sometimes(METHODS.get("cutmix")):
    def mix(self, x, targets, **decisions):
        if torch.rand((), generator=self.shared_generator) < 0.5:
            return mf.Mixed(x, targets)
        return super().mix(x, targets, **decisions)


def test_batches_that_a_method_leaves_alone_are_no_pairs():
    counts = gaze_counts(sample_method(Sometimes).eval(), [images(8 * GROUP)], 0)
    assert counts["pairs"] == counts["n"]
    assert 0 < counts["n"] < 8 * GROUP
    assert counts["n"] % GROUP == 0


def test_interpolation_agrees_with_its_label_and_gaze_at_the_centre_with_the_control():
    batch = images(2 * GROUP)
    assert gaze_scores(gaze_counts(made("mixup"), [batch], 0))["gaze_inconsistency"] < 1e-4
    middle = batch._replace(maps=centre_gaussian((SIZE, SIZE)).float().expand(32, -1, -1))
    scores = gaze_scores(gaze_counts(made("cutmix"), [middle], 0))
    assert scores["gaze_inconsistency"] == pytest.approx(scores["gaze_centre"], abs=1e-4)
    assert scores["gaze_centre"] > 1


def test_maps_of_any_size_are_brought_to_that_of_the_images():
    batch = images(2 * GROUP)
    smooth = torch.nn.functional.interpolate(batch.maps[:, None, ::4, ::4], (SIZE,) * 2)[:, 0]
    large = smooth.repeat_interleave(3, 1).repeat_interleave(3, 2)
    method = made("cutmix")
    found = [
        gaze_scores(gaze_counts(method, [batch._replace(maps=m)], 0))["gaze_inconsistency"]
        for m in (smooth, large)
    ]
    assert found[0] == pytest.approx(found[1], abs=0.5)


@pytest.mark.skipif(not CUB.exists(), reason="the fixations are not beside the checkout")
def test_fixations_of_birds_tell_methods_apart():
    fixations = list(read_fixations(CUB).values())[:96]
    maps = density_maps(fixations, (28, 28)).float()
    splits = sample_splits(made("cutmix"))
    rows = torch.arange(96) % len(splits.test)
    pixels = splits.test[BatchIndex(rows, 0)]
    batch = pixels._replace(ids=torch.arange(96), maps=maps)
    scores = {n: gaze_scores(gaze_counts(made(n), [batch], 0)) for n in ("mixup", "cutmix")}
    assert scores["mixup"]["gaze_inconsistency"] < 1e-4
    assert 2 < scores["cutmix"]["gaze_inconsistency"] < 40
    # People look at the bird, and not at the centre of whatever is shown.
    assert scores["cutmix"]["gaze_inconsistency"] > scores["cutmix"]["gaze_centre"] + 1


def test_a_set_brings_the_maps_of_its_rows():
    splits = sample_splits(made("cutmix"))
    maps = torch.arange(24.0)[:, None, None].expand(24, 4, 4)
    batch = MappedImages(splits.test, maps)[BatchIndex(torch.tensor([5, 2]), 0)]
    assert batch.maps[:, 0, 0].tolist() == [5, 2]
