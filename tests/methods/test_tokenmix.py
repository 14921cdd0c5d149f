import numpy as np
import pytest
import torch

import mixbench.functional as mf
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataConfig, DataInfo, RunConfig
from mixbench.data.maps import move_maps
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.nn.saliency_kinds import find_maps
from mixbench.testing.samples import BATCH, SIZE, sample_batch, sample_method, sample_splits

CLS = METHODS.get("tokenmix")
FLIP = torch.arange(BATCH).flip(0)


def made(**settings):
    torch.manual_seed(0)
    return sample_method(CLS, switch_prob=1.0, **settings)


def attending(**settings):
    torch.manual_seed(1)
    net = VisionTransformer(16, 4, 2, 4, (SIZE, SIZE), 4)
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)
    config = CLS.Config(switch_prob=1.0, **settings)
    return CLS(net, DataInfo(4, SIZE, SIZE), config, RunConfig()).train()


@pytest.mark.parametrize("build", [made, attending])
def test_the_maps_are_those_of_the_network_from_one_pass_that_leaves_no_trace(build):
    method = build()
    x, targets = sample_batch()
    passes = []
    hook = method.net.stages[0].register_forward_hook(lambda *_: passes.append(method.net.training))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    mixed = method.mix(x, targets)
    hook.remove()
    assert passes == [False]
    assert all(module.training for module in method.net.modules())
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    kind = "attention" if build is attending else "cam"
    maps = find_maps(method.net, kind, x, targets.argmax(1))
    expected = mf.tokenmix(x, targets, maps, grid=(4, 4), mask=mixed.aux.mask)
    torch.testing.assert_close(mixed.aux, expected.aux)
    assert torch.equal(mixed.perm, FLIP)
    assert mixed.aux.mask.shape == (1, 4, 4)


def test_no_pass_is_made_for_labels_by_area_and_in_batches_that_are_mixed_whole():
    for method in (made(saliency="none"), sample_method(CLS, switch_prob=0.0)):
        passes = []
        method.net.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        mixed = method.mix(*sample_batch())
        assert not passes
        if mixed.aux is None:  # mixed whole
            weight = mixed.lam.expand(BATCH)[:, None]
            labels = weight * sample_batch()[1] + (1 - weight) * sample_batch()[1][FLIP]
            torch.testing.assert_close(mixed.targets, labels)
        else:
            torch.testing.assert_close(mixed.lam, mixed.aux.mask.mean((1, 2)).expand(BATCH))


def test_half_of_the_batches_are_pasted_by_default():
    method = sample_method(CLS, saliency="none")
    pasted = 0
    for place in range(200):
        method.reseed(0, place)
        pasted += method.mix(*sample_batch()).aux is not None
    assert 70 < pasted < 130


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_the_loss_weighs_labels_that_need_not_sum_to_one(loss):
    method = made(loss=loss)
    logits, mixed = method.predict(method.mix(*sample_batch()))
    own = (mixed.lam * mixed.aux.weight)[:, None]
    other = mixed.aux.weight[:, None] - own
    labels = own * sample_batch()[1] + other * sample_batch()[1][FLIP]
    assert (mixed.aux.weight - 1).abs().max() > 0.01
    if loss == "bce":
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    else:
        expected = -(labels * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(method.loss(logits, mixed), expected)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    score = rng.random((24, 3, 5, 5), dtype=np.float32)
    classes = rng.permuted(np.broadcast_to(np.arange(4), (24, 5, 5, 4)), axis=3)[..., :3]
    classes = np.ascontiguousarray(classes.transpose(0, 3, 1, 2))
    np.savez("best.npz", score=score, **{"class": classes})
    labels = np.arange(24)[:, None, None, None] % 4
    np.save("maps.npy", (score * (classes == labels)).max(1))
    return tmp_path


def test_best_scores_on_disk_are_the_maps_of_the_labels_moved_with_the_images(files):
    batches = {}
    for name in ("best.npz", "maps.npy"):
        method = made(maps=name, official=True)
        assert CLS.Config(maps=name, official=True, loss="bce").fidelity == "official-verified"
        assert CLS.Config(maps=name).fidelity == CLS.Config(official=True).fidelity == "variant"
        train = method.wrap_dataset(sample_splits(method).train)
        batch = train[BatchIndex(torch.arange(BATCH), 3)]
        method.reseed(0, 0)
        batches[name] = batch, method.mix_batch(batch)
    (batch, mixed), (plain, other) = batches.values()
    torch.testing.assert_close(batch.maps, plain.maps)
    torch.testing.assert_close(mixed.aux, other.aux)
    stored = np.load("maps.npy")[:BATCH]
    torch.testing.assert_close(batch.maps, torch.from_numpy(stored))
    assert method.no_mask_reason == "method.maps holds maps of the training images alone"
    method.run.data.flip = True
    method.reseed(0, 1)
    drawn = method.draw_augmentation(batch)
    assert 0 < drawn.flips.sum() < BATCH
    method.reseed(0, 1)
    mixed = method.mix_batch(batch)
    moved = move_maps(batch.maps, (SIZE, SIZE), drawn, method.run.data.padding)
    expected = mf.tokenmix(mixed.x, mixed.targets, moved, grid=(4, 4), mask=mixed.aux.mask)
    torch.testing.assert_close(mixed.aux.maps, expected.aux.maps)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"score": np.zeros((24, 3, 5))}, r"score is \(24, 3, 5\)"),
        ({"class": np.zeros((24, 3, 5, 5))}, r"class .* torch\.float64"),
        ({"score": -np.ones((24, 3, 5, 5))}, "negative"),
    ],
)
def test_files_of_other_scores_are_refused(files, change, text):
    with np.load("best.npz") as stored:
        np.savez("bad.npz", **{**stored, **change})
    with pytest.raises(UserError, match=text) as error:
        made(maps="bad.npz")
    assert error.value.where == "method.maps=bad.npz"


def test_maps_of_another_number_than_the_images_are_refused(files):
    with np.load("best.npz") as stored:
        np.savez("few.npz", **{key: value[:20] for key, value in stored.items()})
    method = made(maps="few.npz")
    with pytest.raises(UserError, match="20 maps for 24 training images"):
        method.wrap_dataset(sample_splits(method).train)


def test_maps_beside_a_policy_that_turns_images_are_refused(files):
    run = RunConfig(data=DataConfig(auto_augment="rand-m9-mstd0.5-inc1"))
    net = sample_method(CLS).net
    with pytest.raises(UserError, match="cannot follow an augmentation policy"):
        CLS(net, DataInfo(4, SIZE, SIZE), CLS.Config(maps="maps.npy"), run)


def test_kinds_that_need_a_file_or_a_network_with_them_are_refused():
    with pytest.raises(ValueError, match=r"saliency=file needs method\.maps=FILE"):
        CLS.Config(saliency="file")
    with pytest.raises(ValueError, match=r"saliency=teacher needs method\.teacher_ckpt=FILE"):
        CLS.Config(saliency="teacher")
    with pytest.raises(UserError, match="no such map of 4 classes"):
        attending(saliency="cam")
    run = RunConfig(batch_size=5)
    with pytest.raises(UserError, match="flip pairing needs an even batch, got B=5"):
        CLS(sample_method(CLS).net, DataInfo(4, SIZE, SIZE), CLS.Config(), run)


@torch.no_grad()
def test_the_picture_shows_both_maps_the_mask_and_the_weight():
    method = made()
    x, targets = sample_batch()
    mixed = method.mix(x, targets)
    (sheet,) = method.picture(x, targets, mixed)
    (row,) = sheet.rows(0, 5)
    titles = ["image", "map of the image", "partner", "map of the partner", "mask", "mixed"]
    assert [panel.title for panel in row] == titles
    assert row[-1].lines[-1] == f"weight {float(mixed.aux.weight[0]):.2f}"
    mask = row[4].image
    torch.testing.assert_close(torch.where(mask == 1, row[0].image, row[2].image), row[5].image)
    assert row[1].image(64).tobytes() != row[3].image(64).tobytes()


def test_the_estimate_counts_a_pass_in_half_of_the_batches():
    costs = {
        "auto": CLS.Config(),
        "none": CLS.Config(saliency="none"),
        "file": CLS.Config(maps="maps.npy"),
        "all": CLS.Config(switch_prob=1.0),
    }
    found = {key: round(CLS.step_cost(config), 6) for key, config in costs.items()}
    assert found == {"auto": 1.2, "none": 1.0, "file": 1.0, "all": 1.4}
