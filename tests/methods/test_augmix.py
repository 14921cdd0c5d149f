import dataclasses
import pickle

import pytest
import torch

import mixbench.functional as mf
from mixbench import compose
from mixbench.config.names import DATA, METHODS
from mixbench.data.images import Batch, ResidentImages
from mixbench.data.loaders import MixData
from mixbench.data.sampling import BatchIndex, KeyedBatches
from mixbench.errors import UserError
from mixbench.methods.augmix import AugMix
from mixbench.perf.input import smooth_images
from mixbench.testing.samples import BATCH, sample_batch, sample_method, sample_splits
from mixbench.training.callbacks.samples import show_batch
from mixbench.training.job import resolve

CHANGE = 1.01 / 255  # of a value that float32 moves past an integer


def made(**settings):
    return sample_method(AugMix, **settings)


def with_data(method, **settings):
    run = dataclasses.replace(method.run, data=dataclasses.replace(method.run.data, **settings))
    return AugMix(method.net, method.info, method.config, run).train()


def step(method, batch, epoch=0, index=0):
    method.reseed(epoch, index)
    return method.mix_batch(batch)


def pair(splits, epoch=1, index=2, **settings):
    """The step of either backend on the same batch of a run."""
    found = []
    for backend in ("tensor", "pil"):
        method = with_data(made(backend=backend, **settings), flip=True)
        batches = KeyedBatches(len(splits.train), BATCH, method.run.seed)
        batch = method.wrap_dataset(splits.train)[batches.draw(epoch, index)]
        found.append(step(method, batch, epoch, index))
    return found


@pytest.mark.parametrize(
    "settings", [{}, {"severity": 10.0, "all_ops": True}, {"no_jsd": True, "width": 1, "depth": 4}]
)
@pytest.mark.parametrize("smooth", [True, False])
def test_both_backends_make_the_same_views_of_the_same_crops(settings, smooth):
    splits = sample_splits(made())
    if smooth:
        splits.train = ResidentImages(smooth_images(24).images, splits.train.labels)
    tensor, pillow = pair(splits, **settings)
    torch.testing.assert_close(tensor.x, pillow.x)
    for one, other in zip(tensor.aux.chains, pillow.aux.chains, strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(tensor.aux.views, pillow.aux.views, rtol=0, atol=CHANGE)
    assert ((tensor.aux.views - pillow.aux.views).abs() > 1e-5).float().mean() < 1e-3
    assert not torch.equal(tensor.aux.views[:BATCH], tensor.x)


def test_grey_images_have_views_of_either_backend():
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (24, 1, 16, 16), generator=generator, dtype=torch.uint8)
    splits = sample_splits(made())
    splits.train = ResidentImages(images, splits.train.labels)
    pixels, chains = images[:4], mf.draw_chains(8, all_ops=True, generator=generator)
    from mixbench.data.augment.augmix import pillow_chains

    gap = mf.chain_images(pixels, chains).int() - pillow_chains(pixels, chains).int()
    assert gap.abs().max() <= 1


def test_crops_are_those_of_other_methods_and_views_follow_epoch_batch_and_rank():
    splits = sample_splits(made())
    batch = splits.train[BatchIndex(torch.arange(BATCH), 3)]
    method, plain = made(), sample_method(METHODS.get("erm"))
    for each in (method, plain):
        each.reseed(3, 4)
    assert torch.equal(method.prepare(batch)[0], plain.prepare(batch)[0])
    same, again = step(method, batch, 1, 1), step(made(), batch, 1, 1)
    assert torch.equal(same.aux.views, again.aux.views)
    other = made()
    other.rank = 1
    for mixed in (step(method, batch, 1, 2), step(method, batch, 2, 1), step(other, batch, 1, 1)):
        assert not torch.equal(mixed.aux.chains.m, same.aux.chains.m)


def test_views_of_pillow_do_not_depend_on_the_process_or_on_where_training_goes_on():
    method = made(backend="pil")
    splits = sample_splits(method)
    dataset = pickle.loads(pickle.dumps(method.wrap_dataset(splits.train)))

    def views(rank=0, start=0, wrap=method.wrap_dataset):
        data = MixData(splits, method.run, wrap, rank, 2)
        data.batches.start_at(0, start)
        return [batch.views.x for batch in data.train_dataloader()]

    whole = views()
    assert torch.equal(torch.stack(views(start=2)), torch.stack(whole[2:]))
    assert torch.equal(torch.stack(views(wrap=lambda _: dataset)), torch.stack(whole))
    assert not torch.equal(whole[0], views(rank=1)[0])


def test_images_of_either_backend_alternate_alike():
    tensor, pillow = made(), made(backend="pil")
    seen = []
    for method in (tensor, pillow):
        method = with_data(method, crop=2, flip_rule="alternating")
        data = MixData(sample_splits(method), method.run, method.wrap_dataset)
        data.batches.set_epoch(1)
        batch = next(iter(data.train_dataloader()))
        method.reseed(1, 0)
        seen.append(method.prepare(batch)[0])
    assert torch.equal(*seen)


def test_the_network_sees_all_views_in_one_pass_and_the_loss_has_both_terms():
    method = made(jsd_weight=5.0)
    seen = []
    method.net.register_forward_hook(lambda net, given, out: seen.append((given[0], out)))
    x, targets = sample_batch()
    logits, mixed = method.predict(method.mix(x, targets))
    ((given, out),) = seen
    assert torch.equal(given, torch.cat([x, mixed.aux.views]))
    assert torch.equal(logits, out[:BATCH])
    terms = method.loss(logits, mixed)
    torch.testing.assert_close(terms["ce"], mf.soft_cross_entropy(out[:BATCH], targets))
    torch.testing.assert_close(terms["jsd"], 5 * mf.jsd_loss(out.view(3, BATCH, -1)))
    assert terms["jsd"] > 0


def test_the_views_of_an_image_stand_at_its_own_place():
    x, targets = sample_batch()
    method = made()
    chains = mf.draw_chains(2 * BATCH)._replace(m=torch.zeros(2 * BATCH))
    pixels = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    mixed = method.mix(pixels, targets, chains=chains)
    torch.testing.assert_close(mixed.aux.views, pixels.repeat(2, 1, 1, 1))
    method.eval()  # equal images of equal statistics
    logits, mixed = method.predict(mixed)
    torch.testing.assert_close(
        method.loss(logits, mixed)["jsd"], torch.zeros(()), atol=1e-5, rtol=0
    )


def test_without_the_divergence_one_view_is_all_that_the_network_sees():
    method = made(no_jsd=True)
    x, targets = sample_batch()
    logits, mixed = method.predict(method.mix(x, targets))
    assert mixed.aux.views.shape == mixed.x.shape == x.shape
    assert not torch.equal(mixed.x, x)
    assert set(method.loss(logits, mixed)) == {"ce"}
    assert AugMix.step_cost(method.config) < AugMix.step_cost(AugMix.Config())


def test_views_are_normalised_as_the_images_are():
    method = made()
    method.mean.fill_(0.4)
    method.std.fill_(0.2)
    batch = sample_splits(method).train[BatchIndex(torch.arange(BATCH), 3)]
    mixed = step(method, batch)
    views = method.to_pixels(mixed.aux.views)
    assert views.min() >= -1e-5
    assert views.max() <= 1 + 1e-5
    pixels = (255 * method.to_pixels(mixed.x)).round().to(torch.uint8)
    torch.testing.assert_close(mf.augmix(pixels, chains=mixed.aux.chains), views)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("severity", 0.05, r"method.severity must lie in \[0.1, 10\], got 0.05"),
        ("severity", 10.5, "must lie"),
        ("width", 0, "method.width must be >= 1"),
        ("depth", 0, "method.depth must be >= 1"),
        ("alpha", 0.0, "method.alpha must be > 0"),
        ("jsd_weight", -1.0, "method.jsd_weight must be >= 0"),
        ("backend", "gpu", "method.backend must be one of tensor, pil"),
    ],
)
def test_settings_out_of_range_are_refused(key, value, text):
    with pytest.raises(ValueError, match=text):
        AugMix.Config(**{key: value})


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"erasing": 0.25}, r"data\.erasing=0.25"), ({"pad": "mean"}, r"data\.pad=mean")],
)
def test_what_would_come_between_crop_and_views_is_refused(settings, text):
    with pytest.raises(UserError, match=rf"(?s)stored pixels.*{text}"):
        with_data(made(), **settings)


def test_images_of_several_labels_are_refused():
    with pytest.raises(UserError, match="augmix needs multiclass data"):
        resolve(compose("method=augmix data=voc2007 data.root=missing"))


def test_a_choice_has_it_as_a_member_only_where_that_is_asked_for():
    words = "method=choice method.members=[augmix,mixup] data=digits"
    with pytest.raises(UserError, match=r"(?s)augmix is not combined.*mixed=true.*leave it out"):
        resolve(compose(words))
    with pytest.raises(UserError, match="augmix is not combined"):
        sample_method(METHODS.get("choice"), members=["augmix", "mixup"])
    resolve(compose(f"{words} method.augmix.mixed=true"))
    with pytest.raises(UserError, match="augmix needs another training set"):
        resolve(compose(f"{words} method.augmix.mixed=true method.augmix.backend=pil"))


def test_as_a_member_it_makes_its_own_batches_and_leaves_those_of_others_alone():
    choice = METHODS.get("choice")
    config = {"members": ["augmix", "mixup"], "settings": {"augmix": {"mixed": True}}}
    method = sample_method(choice, **config)
    x, targets = sample_batch()
    for place, terms in ((0, {"ce", "jsd"}), (1, None)):
        logits, mixed = method.predict(method.mix(x, targets, member=place))
        loss = method.loss(logits, mixed)
        assert (set(loss) if isinstance(loss, dict) else None) == terms


@pytest.mark.parametrize("backend", ["tensor", "pil"])
def test_the_picture_has_a_row_for_each_view_with_its_chains_in_words(backend):
    method = with_data(made(backend=backend, depth=2), flip=True)
    images = method.wrap_dataset(sample_splits(method).train)
    draw = KeyedBatches(24, BATCH, method.run.seed).draw(0, 0)
    (sheet,) = show_batch(method, images[draw])
    rows = sheet.rows(*sheet.pairs[1])
    titles = ["image", "chain 1", "chain 2", "chain 3", "mixed view"]
    assert [[panel.title for panel in row] for row in rows] == [titles, titles]
    mixed = step(method, images[draw])
    chains = mixed.aux.chains
    for view, row in zip((1, 1 + BATCH), rows, strict=True):
        for chain, panel in enumerate(row[1:4]):
            weight, *steps = panel.lines
            assert weight == f"weight {chains.weights[view, chain]:.2f}"
            names = [mf.OPERATIONS[place] for place in chains.ops[view, chain]]
            assert [text.split()[0] for text in steps] == names
        sums = sum(w * panel.image for w, panel in zip(chains.weights[view], row[1:4], strict=True))
        expected = row[0].image.lerp(sums, chains.m[view])
        torch.testing.assert_close(row[-1].image, expected, rtol=0, atol=CHANGE)


def test_a_batch_that_came_without_views_gets_them_from_the_device():
    method = made(backend="pil")
    images = sample_splits(method).train[BatchIndex(torch.arange(BATCH), 3)]
    assert isinstance(images, Batch)
    assert step(method, images).aux.views.shape == (2 * BATCH, 3, 16, 16)


def test_every_data_set_of_single_labels_can_be_asked_for(tiny):
    assert DATA.get("digits").task == "multiclass"
    assert resolve(compose([*tiny, "method=augmix"])).task.name == "multiclass"
