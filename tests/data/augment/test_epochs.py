"""An epoch that is augmented at once is the epoch that is augmented batch by batch."""

import dataclasses

import pytest
import torch

from mixbench.config.schema import DataConfig
from mixbench.data.augment.epochs import EpochImages
from mixbench.data.images import ResidentImages
from mixbench.data.loaders import MixData
from mixbench.data.sampling import KeyedBatches
from mixbench.methods import METHODS
from mixbench.testing.samples import sample_method, sample_splits

BYTES = 3 * 16 * 16  # of an image


class Watched(ResidentImages):
    """Notes the rows of each reading."""

    def __init__(self, whole):
        super().__init__(whole.images, whole.labels)
        self.read = []

    def __getitem__(self, draw):
        self.read.append(draw.indices.tolist())
        return super().__getitem__(draw)


def both(config, *, name="erm", rank=0, world=1, rows=24, seed=5):
    """A method, the stored images that are read, the same by epoch, and the sampler."""
    method = sample_method(METHODS.get(name))
    method.run = dataclasses.replace(method.run, data=config, seed=seed)
    method.rank = rank
    images = Watched(sample_splits(method).train)
    batches = KeyedBatches(24, 6, seed, rank, world, repeats=config.repeats)
    return method, images, EpochImages(images, batches, config, largest=rows * BYTES), batches


@pytest.mark.parametrize(
    ("name", "config", "rank", "world"),
    [
        ("erm", DataConfig(crop=2), 0, 1),
        ("cutmix", DataConfig(crop=3, flip_rule="alternating", erasing=0.5), 1, 2),
        ("augmix", DataConfig(crop=0), 0, 1),
        ("hmix", DataConfig(crop=1, flip=False, repeats=3), 0, 2),
    ],
)
def test_a_step_gets_the_same_batch_and_draws_the_same(name, config, rank, world):
    method, images, whole, batches = both(config, name=name, rank=rank, world=world, rows=10)
    assert method.takes_augmented
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        for number, draw in enumerate(batches):
            plain, found = images[draw], whole[draw]
            assert found.images.dtype == torch.uint8
            assert torch.equal(found.labels, plain.labels)
            assert torch.equal(found.ids, plain.ids)
            mixed, left = [], []
            for batch in (plain, found):
                method.reseed(epoch, number)
                mixed.append(method.mix_batch(batch))
                left.append(torch.rand((), generator=method.generator))
            assert torch.equal(mixed[0].x, mixed[1].x)
            assert mixed[0].x.stride() == mixed[1].x.stride()
            assert torch.equal(mixed[0].targets, mixed[1].targets)
            assert left[0] == left[1]


def test_images_are_read_in_parts_that_are_bounded_and_only_for_the_own_batches():
    _, images, whole, batches = both(DataConfig(), world=2, rows=7)  # of batches of three
    for draw in batches:
        whole[draw]
    wanted = [draw.indices.tolist() for draw in batches]
    assert images.read == [wanted[0] + wanted[1], wanted[2] + wanted[3]]


def test_a_run_that_goes_on_inside_an_epoch_augments_what_is_left_of_it():
    _, images, whole, batches = both(DataConfig())
    batches.start_at(2, 3)
    found = [whole[draw] for draw in batches]
    (read,) = images.read
    assert len(read) == 6
    expected = both(DataConfig())[2][batches.draw(2, 3)]
    assert torch.equal(found[0].images, expected.images)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("erm", {}, None),
        ("erm", {"workers": 1}, "data.workers"),
        ("erm", {"pad": "mean"}, "data.pad"),
        ("erm", {"jitter": 0.1}, "one by one"),
        ("demixgan", {}, "one by one"),
        ("moco", {}, "as they are stored"),
        ("bc", {"pairing": "dataset"}, "as they are stored"),
        ("augmix", {"backend": "pil"}, "as they are stored"),
        ("hmix", {"mode": "fixed"}, "as they are stored"),
    ],
)
def test_what_needs_stored_images_is_augmented_batch_by_batch_for_a_reason(name, changes, reason):
    keys = {item.name for item in dataclasses.fields(DataConfig)}
    data = {key: value for key, value in changes.items() if key in keys}
    method = sample_method(METHODS.get(name), **{k: changes[k] for k in changes.keys() - keys})
    method.run = dataclasses.replace(method.run, data=DataConfig(augment_by="epoch", **data))
    splits = sample_splits(method)
    method.use_data(splits)
    loaders = MixData(splits, method.run, method.wrap_dataset, 0, 1, method.takes_augmented)
    made = isinstance(loaders.train_dataloader().dataset, EpochImages)
    if reason is None:
        assert (loaders.augment_by, made) == ("epoch", True)
    else:
        assert loaders.augment_by.startswith("batch: ")
        assert reason in loaders.augment_by
        assert not made


@pytest.mark.parametrize("hook", ["training_step", "mix_batch", "prepare"])
@pytest.mark.parametrize("base", ["erm", "cutmix", "augmix", "hmix"])
def test_a_derived_method_that_makes_its_input_itself_gets_stored_images(base, hook):
    cls = METHODS.get(base)
    own = type("Own", (cls,), {hook: lambda self, *args: getattr(cls, hook)(self, *args)})
    told = type("Told", (own,), {hook: vars(own)[hook], "takes_augmented": own.takes_augmented})
    assert not sample_method(own).takes_augmented
    assert sample_method(told).takes_augmented


def test_a_view_of_the_training_set_that_a_method_does_not_tell_of_is_kept(caplog):
    method = sample_method(METHODS.get("erm"))
    method.run = dataclasses.replace(method.run, data=DataConfig(augment_by="epoch"))
    splits = sample_splits(method)
    changed = splits.train.subset(torch.arange(12))
    loaders = MixData(splits, method.run, lambda _: changed, takes_augmented=True)
    with caplog.at_level("WARNING", "mixbench"):
        assert loaders.train_dataloader().dataset is changed
    assert "data.augment_by=epoch has no effect: " in caplog.text
    assert loaders.augment_by == "batch: the method has a view of its own of the images"
