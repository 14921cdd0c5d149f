import hashlib

import numpy as np
import pytest
import torch

import mixbench.functional as mf
from mixbench import compose, run
from mixbench.config.schema import DataConfig, DataInfo, RunConfig
from mixbench.data.datasets.digits import Digits
from mixbench.data.images import Batch
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.leaderboard.costs import hours
from mixbench.methods import METHODS
from mixbench.methods.transformmix.base import fitted_maps
from mixbench.nn.saliency_kinds import chosen_kind, find_maps
from mixbench.nn.transform_mixer import TransformMixer
from mixbench.pictures.raster import raster
from mixbench.records.checkpoints import FACT_KEYS, FORMAT, LAST
from mixbench.records.curves import read_curves
from mixbench.testing.samples import BATCH, SIZE, fit, sample_batch, sample_method, sample_splits
from mixbench.training.job import resolve

SEARCH, USE = METHODS.get("transformmix_search"), METHODS.get("transformmix_recon")
NEXT = torch.arange(BATCH).roll(1)
LAM = torch.linspace(0.1, 0.9, BATCH)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A teacher, a search against it, and the folder that both lie in."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["data=digits", "data.limit=128", "net.width=4", "epochs=1", "batch_size=32"]
    words += ["wandb.mode=disabled", f"run.dir={folder}", "data.size=16"]
    teacher = run(compose([*words, "method=erm", "eval.suites=[calibration]"]))
    given = f"method.teacher_ckpt={folder / teacher.id}"
    own = ["method=transformmix_search", "optim.name=adamw", "lr=0.01", "trainer.log_every=1"]
    search = run(compose([*words, *own, given, "eval.suites=[calibration,two_class]"]))
    return words, folder / teacher.id, folder / search.id, search


def digest(module):
    found = hashlib.sha256()
    for value in module.state_dict().values():
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()


def searching(**settings):
    torch.manual_seed(0)
    return sample_method(SEARCH, **settings)


def moving(method):
    """A method whose module does something."""
    torch.manual_seed(1)
    for parameter in method.transform_mixer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return method


def loss_of(method, batch, **decisions):
    logits, mixed = method.predict(method.mix(*batch, **decisions))
    return method.loss(logits, mixed), mixed


# The module as it starts, and the swap of a pair.


@pytest.mark.parametrize("cls", [SEARCH, USE])
def test_an_untrained_module_is_input_mixup_with_equal_weights(cls):
    x, targets = sample_batch()
    mixed = sample_method(cls).mix(x, targets, perm=NEXT, lam=LAM)
    torch.testing.assert_close(mixed.x, 0.5 * x + 0.5 * x[NEXT], rtol=0, atol=1e-5)
    area = mixed.aux.mask.mean((1, 2, 3))
    torch.testing.assert_close(area, torch.full((BATCH,), 0.5), rtol=0, atol=1e-5)


def test_a_pair_in_the_other_order_has_the_other_part_of_the_mask():
    method = moving(sample_method(USE))
    x, targets = sample_batch(2)
    swap = torch.tensor([1, 0])
    saliency = torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    lam = torch.tensor([0.3, 0.7])
    mixed = method.mix(x, targets, perm=swap, lam=lam, saliency=saliency)
    mask = mixed.aux.mask
    assert mask.std() > 1e-3
    torch.testing.assert_close(mask[1], 1 - mask[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(mixed.x[0], mixed.x[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(mixed.targets[0], mixed.targets[1], rtol=0, atol=1e-4)


# The search.


def test_a_search_step_changes_the_module_alone():
    method = searching()
    net, module = digest(method.net), digest(method.module)
    fit(method)
    assert digest(method.net) == net  # the statistics of its normalisation layers, too
    assert digest(method.module) != module
    assert not method.net.training
    assert {id(p) for g in method.param_groups() for p in g["params"]} == {
        id(p) for p in method.module.parameters()
    }


def test_the_terms_of_the_search_are_those_of_its_specification():
    weights = {"w_area": 2.0, "w_tv": 3.0, "w_bin": 5.0, "w_geo": 7.0, "w_keep": 11.0}
    method = moving(searching(**weights))
    batch = sample_batch()
    terms, mixed = loss_of(method, batch, perm=NEXT, lam=LAM)
    y = batch[1].argmax(1)
    log_p = method.net(mixed.x).log_softmax(1)
    rows = torch.arange(BATCH)
    ce = -(LAM * log_p[rows, y] + (1 - LAM) * log_p[rows, y[NEXT]]).mean()
    mask, step = mixed.aux.mask, mixed.aux
    area = (mask.mean((1, 2, 3)) - LAM).square().mean()
    rough = mask.diff(dim=2).abs().mean() + mask.diff(dim=3).abs().mean()
    whole = step.saliency.sum((1, 2))
    own = (mask[:, 0] * step.warped.own_saliency[:, 0]).sum((1, 2)) / whole
    other = ((1 - mask[:, 0]) * step.warped.partner_saliency[:, 0]).sum((1, 2)) / whole[NEXT]
    lost = LAM * (1 - own.clamp(max=1)) + (1 - LAM) * (1 - other.clamp(max=1))
    expected = {
        "ce": ce,
        "area": 2 * area,
        "tv": 3 * rough,
        "bin": 5 * (mask * (1 - mask)).mean(),
        "geo": 7 * step.numbers.square().sum(1).mean(),
        "keep": 11 * lost.mean(),
    }
    assert set(terms) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(terms[key], value, rtol=1e-4, atol=1e-6)


def test_each_term_has_a_gradient_for_the_module():
    method = moving(searching())
    for key in loss_of(method, sample_batch())[0]:
        method.zero_grad()
        loss_of(method, sample_batch(), perm=NEXT, lam=LAM)[0][key].backward()
        reached = [p for p in method.module.parameters() if p.grad is not None and p.grad.any()]
        assert reached, key
        assert not any(p.grad is not None for p in method.net.parameters())


@pytest.mark.slow
def test_a_search_overfits_a_batch():
    """The teacher sees more of both classes, and areas come near to the weights."""
    method = searching()
    torch.manual_seed(0)
    for parameter in method.net.parameters():  # a teacher with opinions
        parameter.data *= 1.5
    batch = sample_batch(8)
    given = {"perm": torch.arange(8).roll(1), "lam": torch.linspace(0.1, 0.9, 8)}
    optimizer = torch.optim.Adam(method.module.parameters(), lr=3e-3)

    def state():
        terms, mixed = loss_of(method, batch, **given)
        figures = method.diagnostics(mixed)
        return sum(terms.values()), figures["two_class_prob"], figures["area_error"]

    first = [value.item() for value in state()]
    for _ in range(200):
        optimizer.zero_grad()
        state()[0].backward()
        optimizer.step()
    last = [value.item() for value in state()]
    assert last[0] < 0.8 * first[0]
    assert last[1] > first[1]
    assert last[2] < 0.7 * first[2]


def test_what_is_tested_is_the_teacher_and_the_suite_judges_the_module(chain):
    _, teacher, place, search = chain
    saved = [torch.load(p / LAST, weights_only=True)["state_dict"] for p in (teacher, place)]
    for name, value in saved[0].items():
        if name.startswith("net."):
            assert torch.equal(value, saved[1][name])
    assert (search.status, search.fidelity) == ("done", "reconstruction")
    assert search.params_train - search.params == sum(
        p.numel() for p in TransformMixer().parameters()
    )
    assert "two_class_hit" in search.metrics
    rows, _ = read_curves(place / "metrics.csv")
    names = ("area_error", "two_class_hit", "two_class_prob", "loss_ce", "loss_keep", "loss_geo")
    assert {f"train/{name}" for name in names} <= set(rows[0])


def test_the_teacher_sees_images_normalised_as_it_was_trained(chain):
    words, teacher, _, _ = chain
    net = torch.load(teacher / LAST, weights_only=True)["mixbench"]["info"]
    config = compose([*words, "method=transformmix_search", f"method.teacher_ckpt={teacher}"])
    info = DataInfo(10, 16, 16, mean=[0.9] * 3, std=[0.1] * 3)
    job = resolve(config)
    from mixbench.backbones.build import build_net

    method = SEARCH(build_net(config.net, info), info, job.settings, config)
    torch.testing.assert_close(method.mean.flatten(), torch.tensor(net["mean"]))
    torch.testing.assert_close(method.std.flatten(), torch.tensor(net["std"]))


# The use.


def test_the_use_has_no_graph_and_keeps_nothing_of_the_module(chain):
    _, _, place, _ = chain
    method = sample_method(USE, module=str(place))
    mixed = method.mix(*sample_batch())
    assert not mixed.x.requires_grad
    assert not mixed.targets.requires_grad
    assert not [
        name for name in method.state_dict() if not name.startswith(("net.", "mean", "std"))
    ]
    before = digest(method.transform_mixer)
    fit(method)
    assert digest(method.transform_mixer) == before
    assert not method.transform_mixer.training


def test_a_module_of_small_images_mixes_larger_ones_of_other_classes(chain):
    _, _, place, _ = chain
    assert torch.load(place / LAST, weights_only=True)["mixbench"]["info"]["num_classes"] == 10
    method = sample_method(USE, module=str(place))  # of four classes
    assert method.teacher.kind == "norm"
    x, targets = sample_batch(4, 64, 64)
    mixed = method.mix(x, targets)
    assert mixed.x.shape == x.shape
    assert mixed.aux.saliency.shape == (4, 64, 64)
    assert mixed.aux.mask.isfinite().all()


def test_the_module_is_used_as_it_was_searched(chain):
    words, teacher, place, search = chain
    saved = torch.load(place / LAST, weights_only=True)["state_dict"]
    method = sample_method(USE, module=str(place))
    for name, value in method.transform_mixer.state_dict().items():
        assert torch.equal(value, saved[f"module.{name}"])
    record = run(compose([*words, "method=transformmix_recon", f"method.module={place}"]))
    assert (record.status, record.fidelity) == ("done", "reconstruction")
    assert set(record.inputs) == {"method.module"}
    # What it costs to get there is part of its cost.
    assert set(search.prior_hours) == {teacher.name}
    assert set(record.prior_hours) == {teacher.name, place.name}
    own = record.epochs * record.train_size / record.img_per_s / 3600
    assert hours(record) == pytest.approx(own + sum(record.prior_hours.values()))
    assert min(record.prior_hours.values()) > 0


def test_a_module_of_another_form_is_built_as_it_was_searched(tmp_path):
    form = {"affine": "full", "stn_input": "image+saliency", "symmetric": False, "temperature": 1.0}
    method = moving(searching(**form))
    saved = save(tmp_path, method, form)
    module = sample_method(USE, module=saved, saliency="spectral").transform_mixer
    assert (module.numbers, module.channels, module.symmetric, module.temperature) == (
        6,
        3,
        False,
        1.0,
    )
    saved = save(tmp_path, searching(mpn=False), {"mpn": False})
    with pytest.raises(UserError, match="the module has no mpn") as error:
        sample_method(USE, module=saved, saliency="spectral")
    assert "method.mpn=false" in str(error.value)
    sample_method(USE, module=saved, saliency="spectral", mpn=False)


def save(folder, method, form):
    """The checkpoint of a run that is not there."""
    facts = dict.fromkeys(FACT_KEYS) | {"format": FORMAT, "config": {"method": form}}
    content = {"state_dict": method.state_dict(), "mixbench": facts, "mixbench_step": 1}
    content |= {"optimizer_states": [], "lr_schedulers": [], "loops": {}}
    torch.save(content, folder / LAST)
    return str(folder / LAST)


def test_a_share_of_the_batches_stays_plain():
    method = sample_method(USE, prob=0.5)
    plain = 0
    x, targets = sample_batch()
    for place in range(100):
        method.reseed(0, place)
        mixed = method.mix(x, targets)
        plain += mixed.x is x
        assert (mixed.lam is None) == (mixed.x is x)
    assert 30 < plain < 70


@pytest.mark.parametrize("part", ["stn", "mpn"])
def test_an_ablation_switches_one_part_off(part):
    x, targets = sample_batch()
    given = {"perm": NEXT, "lam": LAM}
    method = moving(sample_method(USE, **{part: False}))
    mixed = method.mix(x, targets, **given)
    if part == "stn":
        assert not mixed.aux.numbers.any()
        torch.testing.assert_close(mixed.aux.warped.own, x, rtol=0, atol=1e-4)
        assert mixed.aux.mask.std() > 1e-3
    else:
        assert mixed.aux.numbers.any()
        inner = mixed.aux.mask[(mixed.aux.warped.own_valid + mixed.aux.warped.partner_valid) > 1.99]
        assert bool(((inner < 1e-4) | (inner > 1 - 1e-4)).all())  # a rectangle


def test_noise_moves_images_and_follows_the_generator():
    x, targets = sample_batch()
    method = sample_method(USE, noise=1.0)
    found = []
    for key in (0, 0, 1):
        method.reseed(0, key)
        found.append(method.mix(x, targets, perm=NEXT, lam=LAM).x)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert (found[0] - 0.5 * x - 0.5 * x[NEXT]).abs().max() > 0.1


# Maps.


def test_maps_are_those_of_the_teacher_for_the_images_as_they_are_cropped(chain):
    _, teacher, place, _ = chain
    info = DataInfo(10, 16, 16, mean=[0.4] * 3, std=[0.3] * 3)
    method = with_digits(info, module=str(place))
    assert method.teacher.kind == "cam"
    x, targets = sample_batch()
    targets = mf.one_hot(torch.arange(BATCH), 10)
    mixed = method.mix(x, targets)
    saved = torch.load(teacher / LAST, weights_only=True)["mixbench"]["info"]
    mean, std = (torch.tensor(saved[k])[:, None, None] for k in ("mean", "std"))
    net = method.teacher.teacher.module
    with torch.no_grad():
        h = net.forward_stages((method.to_pixels(x) - mean) / std)
        cam = torch.einsum("bchw,bc->bhw", net.head.norm(h), net.head.fc.weight[:BATCH]).relu()
    cam = torch.nn.functional.interpolate(cam[:, None], (SIZE, SIZE), mode="bilinear")[:, 0]
    torch.testing.assert_close(mixed.aux.saliency, mf.scaled_saliency(cam), rtol=1e-3, atol=1e-4)


def with_digits(info, **settings):
    from mixbench.backbones.cifar import PreActResNet

    config = RunConfig(data=DataConfig(crop=0, flip=False))
    net = PreActResNet((1, 1, 1, 1), 4, info.num_classes)
    return USE(net, info, USE.Config(**settings), config, total_steps=4).train()


def test_cached_maps_label_as_maps_of_the_moment_do(chain):
    words, _, place, _ = chain
    splits = Digits(compose(words).data).load()
    cached, online = (with_digits(splits.info, module=str(place), cache=c) for c in (True, False))
    for method in (cached, online):
        moving(method)
    wrapped = cached.wrap_dataset(splits.train)
    assert online.wrap_dataset(splits.train) is splits.train
    assert wrapped.maps.dtype == torch.uint8
    assert wrapped.maps.shape == (128, 8, 8)
    gaps, shares = [], []
    for key, rows in enumerate(torch.arange(128).split(32)):
        found = []
        for method, data in ((cached, wrapped), (online, splits.train)):
            method.reseed(0, key)
            found.append(method.mix_batch(data[BatchIndex(rows, 0)]).lam)
        gaps.append((found[0] - found[1]).abs())
        shares.append(found[1])
    gap, spread = torch.cat(gaps).mean(), torch.cat(shares).std()
    assert gap < min(0.02, 0.2 * spread)  # of the label's weight


def test_a_cached_map_is_at_the_place_that_its_image_shows():
    """A map that is the image itself stays so under every crop and mirror."""
    info = DataInfo(4, SIZE, SIZE)
    method = sample_method(USE)
    images = sample_splits(method).train.images
    maps = images[:BATCH, 0].float()
    batch = Batch(images[:BATCH], torch.arange(BATCH) % 4, torch.arange(BATCH), maps)
    method.reseed(0, 3)
    saliency = method.mix_batch(batch).aux.saliency
    method.reseed(0, 3)
    x, _ = method.prepare(batch)
    expected = mf.scaled_saliency(method.to_pixels(x)[:, 0])
    torch.testing.assert_close(saliency, expected, rtol=1e-4, atol=1e-4)
    del info


@pytest.mark.parametrize("kind", ["cam", "norm", "input_grad", "spectral"])
def test_every_kind_of_map_is_finite_and_leaves_the_network_as_it_was(kind):
    method = sample_method(SEARCH, saliency=kind)
    x, targets = sample_batch()
    method.net.train()
    before = digest(method.net)
    maps = find_maps(method.net, kind, x, targets.argmax(1))
    assert digest(method.net) == before
    assert method.net.training
    assert maps.ndim == 3
    assert not maps.requires_grad
    fitted = fitted_maps(maps, (SIZE, SIZE))
    assert fitted.isfinite().all()
    assert fitted.min() == 0
    assert fitted.max() == 1


def test_images_without_any_difference_give_maps_and_mixtures_that_are_finite():
    for kind in ("cam", "norm", "input_grad", "spectral"):
        method = moving(sample_method(USE, saliency=kind, label="saliency"))
        mixed = method.mix(torch.zeros(2, 3, SIZE, SIZE), mf.one_hot(torch.tensor([0, 1]), 4))
        assert mixed.x.isfinite().all()
        assert mixed.targets.isfinite().all()


def test_the_kind_of_map_follows_from_the_network_and_the_classes():
    net = sample_method(USE).net
    assert chosen_kind("auto", net, 4, "") == "cam"
    assert chosen_kind("auto", net, 5, "") == "norm"
    assert chosen_kind("norm", net, 4, "") == "norm"
    for kind in ("cam", "input_grad"):
        with pytest.raises(UserError, match="no such map of 5 classes: it knows 4 classes"):
            chosen_kind(kind, net, 5, "")
    with pytest.raises(UserError, match="no such map"):
        chosen_kind("attention", net, 4, "")


def test_as_many_classes_of_other_names_have_no_map_of_the_class(chain):
    _, _, place, _ = chain
    names = [f"thing {k}" for k in range(10)]
    info = DataInfo(10, 16, 16, class_names=names)
    assert with_digits(info, module=str(place)).teacher.kind == "norm"
    with pytest.raises(UserError, match="no such map of other classes: it knows 10 classes"):
        with_digits(info, module=str(place), saliency="cam")


# Bad input.


def test_a_run_without_the_file_that_it_needs_is_refused_before_any_data_is_read(tiny):
    with pytest.raises(UserError, match="searches against a trained network") as error:
        resolve(compose([*tiny, "method=transformmix_search"]))
    assert "method.teacher_ckpt=RUN" in str(error.value)
    with pytest.raises(UserError, match="a module that was searched before") as error:
        resolve(compose([*tiny, "method=transformmix_recon"]))
    assert "method=transformmix_search first" in str(error.value)
    member = ["method=choice", "method.members=[erm,transformmix_recon]"]
    with pytest.raises(UserError, match="none is given") as error:
        resolve(compose([*tiny, *member]))
    assert error.value.where == "method.transformmix_recon.module"


def test_a_teacher_that_cannot_be_one_is_refused(chain, tiny):
    words, teacher, place, _ = chain
    with pytest.raises(UserError, match="the teacher knows 10 classes, the data has 4"):
        sample_method(SEARCH, teacher_ckpt=str(teacher))
    with pytest.raises(UserError, match="does not fit the network"):
        run(compose([*words, "method=transformmix_search", "net.width=8",
                     f"method.teacher_ckpt={teacher}"]))  # fmt: skip
    with pytest.raises(UserError, match="holds no module of TransformMix") as error:
        sample_method(USE, module=str(teacher))
    assert "method=transformmix_search" in str(error.value)
    with pytest.raises(UserError, match="no such map of 4 classes: it knows 10 classes"):
        sample_method(USE, module=str(place), saliency="cam")
    with pytest.raises(UserError, match="no such file or folder"):
        sample_method(USE, module="nowhere")


def test_weights_beside_those_of_the_teacher_are_refused(chain):
    words, teacher, _, _ = chain
    own = ["method=transformmix_search", f"method.teacher_ckpt={teacher}"]
    with pytest.raises(UserError, match="starts from the weights of the teacher") as error:
        run(compose([*words, *own, f"net.weights={teacher}"]))
    assert "leave net.weights out" in str(error.value)


def test_a_search_of_nothing_is_refused():
    with pytest.raises(UserError, match="no module is left to be searched"):
        sample_method(SEARCH, stn=False, mpn=False)


def test_a_cache_is_refused_where_maps_cannot_follow(chain):
    _, _, place, _ = chain
    module = str(place)
    for data, key in (
        (DataConfig(crop_area=0.5, size=16), "data.crop_area"),
        (DataConfig(auto_augment="rand-m9"), "data.auto_augment"),
    ):
        net = sample_method(USE).net
        given = USE.Config(module=module, cache=True)
        with pytest.raises(UserError, match="follow only padded crops") as error:
            USE(net, DataInfo(4, SIZE, SIZE), given, RunConfig(data=data))
        assert key in error.value.where
    for settings in ({"cache": True}, {"module": module, "cache": True, "saliency": "spectral"}):
        with pytest.raises(UserError, match=r"maps"):
            sample_method(USE, **settings)


def test_one_image_alone_is_refused_by_the_run(chain):
    words, _, place, _ = chain
    own = ["method=transformmix_recon", f"method.module={place}", "batch_size=1"]
    with pytest.raises(UserError, match="batches of 1 image"):
        run(compose([*words, *own]))


# The picture.


@pytest.mark.parametrize("cls", [SEARCH, USE])
def test_the_picture_shows_pairs_transformations_mask_and_mixture(cls):
    method = moving(sample_method(cls))
    x, targets = sample_batch()
    with torch.no_grad():
        mixed = method.mix(x, targets, perm=NEXT, lam=LAM)
        (sheet,) = method.picture(x, targets, mixed)
    upper, lower = sheet.rows(2, 1)
    assert [panel.title for panel in upper] == [
        "image / partner", "saliency", "transformed", "mask / mixed",
    ]  # fmt: skip
    assert torch.equal(upper[3].image, mixed.aux.mask[2].expand(3, -1, -1))
    torch.testing.assert_close(lower[2].image, method.to_pixels(mixed.aux.warped.partner)[2])
    torch.testing.assert_close(lower[3].image, method.to_pixels(mixed.x)[2])
    assert np.asarray(raster([sheet])).std() > 0


def test_the_module_of_a_search_is_the_one_in_the_method():
    assert isinstance(searching().transform_mixer, TransformMixer)
