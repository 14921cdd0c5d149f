import dataclasses

import pytest
import torch

from mixbench import compose
from mixbench.config.schema import DataConfig, DataInfo
from mixbench.data.images import ResidentImages, Splits
from mixbench.data.loaders import MixData
from mixbench.data.mixtures import Observations, observe_splits, second_span
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.training.job import resolve

SIZE, COUNT, CLASSES = 12, 20, 4


def splits(colour=False):
    generator = torch.Generator().manual_seed(0)
    shape = (COUNT, 3 if colour else 1, SIZE, SIZE)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    images = images.expand(-1, 3, -1, -1).contiguous()
    labels = torch.arange(COUNT) % CLASSES
    info = DataInfo(CLASSES, SIZE, SIZE, name="made", train_size=COUNT, test_size=COUNT)
    part = ResidentImages(images, labels)
    return Splits(part, part, info, part)


def observed(colour=False, **keys):
    return observe_splits(splits(colour), DataConfig(**keys))


def batch_of(images, rows=range(COUNT), epoch=None):
    return images[BatchIndex(torch.tensor(list(rows)), 0, epoch)]


def drawn_lines(image):
    """Number of whole rows and columns."""
    return int((image == 1).all(dim=0).sum() + (image == 1).all(dim=1).sum())


@pytest.mark.parametrize("level", [1, 3, 5])
def test_exactly_as_many_lines_as_the_level_says(level):
    added = batch_of(observed(second="lines", level=level).train).added
    assert {drawn_lines(image[0]) for image in added[:, 0]} == {level}
    assert set(added.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("second", ["lines", "waves"])
def test_level_0_adds_nothing(second):
    assert batch_of(observed(second=second, level=0).train).added.abs().sum() == 0


def test_waves_have_both_signs_and_stay_in_their_span():
    added = batch_of(observed(second="waves", level=3).train).added
    low, high = second_span(DataConfig(second="waves", level=3))
    assert (low, high) == (-3.0, 3.0)
    assert low <= added.min() < -0.5
    assert 0.5 < added.max() <= high


@pytest.mark.parametrize("second", ["lines", "waves", "images"])
def test_a_component_belongs_to_its_image_in_any_batch_and_epoch(second):
    train = observed(second=second, level=2).train
    whole = batch_of(train, epoch=5).added[:, 0]
    few = batch_of(train, [7, 2], epoch=9).added[:, 0]
    assert torch.equal(few, whole[[7, 2]])
    assert torch.equal(batch_of(train, [7, 2]).added[:, 0], whole[[7, 2]])
    assert not torch.equal(whole[7], whole[2])


def test_training_gets_another_draw_that_differs_each_epoch_and_evaluation_none():
    train = observed(second="waves").train
    one, other, same = (batch_of(train, epoch=epoch).added for epoch in (3, 4, 3))
    assert torch.equal(one, same)
    assert not torch.equal(one[:, 1], one[:, 0])
    assert not torch.equal(one[:, 1], other[:, 1])
    assert torch.equal(one[:, 0], other[:, 0])
    assert batch_of(train).added.shape[1] == 1


def test_equal_rows_of_training_test_and_hold_out_have_other_components():
    parts = observed(second="waves")
    assert parts.val is not None
    train, test, val = (batch_of(p).added for p in (parts.train, parts.test, parts.val))
    assert not torch.equal(train, test)
    assert not torch.equal(train, val)
    assert not torch.equal(test, val)


@pytest.mark.parametrize("second", ["waves", "images"])
def test_worker_processes_change_nothing(second):
    found = []
    for workers in (0, 2):
        config = compose(
            f"method=demixgan data=digits data.second={second} batch_size=8 data.workers={workers}"
        )
        data = MixData(observed(second=second), config)
        found.append([batch.added for batch in data.train_dataloader()])
    assert len(found[0]) == 2
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_images_of_two_classes_are_added_to_each_other():
    parts = observed(second="images", first_classes=[1], second_classes=[2, 3])
    batch, plain = batch_of(parts.train, range(len(parts.train))), splits().train
    assert set(batch.labels.tolist()) == {1}
    assert len(parts.train) == parts.info.train_size == COUNT // CLASSES
    pool = plain.images[(plain.labels == 2) | (plain.labels == 3)][:, :1] / 255
    for image in batch.added[:, 0]:
        assert any(torch.equal(image, other) for other in pool)


def test_grey_images_have_one_channel_and_colours_stay():
    for colour, channels in ((False, 1), (True, 3)):
        parts = observed(colour=colour, second="lines")
        batch = batch_of(parts.train)
        assert batch.images.shape[1] == batch.added.shape[2] == channels
        assert parts.info.channels == parts.train.shape[0] == channels
        assert parts.info.mean == [0.0] * channels  # pixels keep their natural scale
        assert parts.info.std == [1.0] * channels


def test_black_and_white_pixels_are_those_above_the_middle():
    images = batch_of(observed(second="lines", binary=True).train).images
    expected = 255 * (splits().train.images[:, :1] >= 128)
    assert torch.equal(images, expected.to(torch.uint8))


def test_subsets_and_other_labels_keep_their_components():
    train = observed(second="waves").train
    labels = torch.zeros(COUNT, dtype=torch.int64)
    assert torch.equal(batch_of(train.with_labels(labels)).added, batch_of(train).added)
    assert len(train.subset(torch.tensor([3, 4]))) == 2
    assert isinstance(train.to(torch.device("cpu")), Observations)


def test_what_is_added_is_part_of_what_a_run_is_called():
    def hashes(words):
        identity = resolve(compose(f"method=demixgan data=digits {words}")).identity
        return identity.config_hash, identity.recipe_hash

    words = ("", "data.second=waves", "data.level=2", "data.weights=[1,2]", "data.binary=true")
    words += ("data.first_classes=[1]", "data.second=images data.second_classes=[2]")
    found = [hashes(each) for each in words]
    assert len(set(found)) == len(words)
    # Rows of one table share them, whichever of the two methods.
    assert len({recipe for _, recipe in found}) == len(words)
    other = resolve(compose("method=denoisegan data=digits")).identity.recipe_hash
    assert other == found[0][1]


@pytest.mark.parametrize(
    ("keys", "what", "where"),
    [
        ({"level": 25}, "24 rows and columns", "data.level=25"),
        ({"first_classes": [4]}, "has 4 classes, numbered from 0, and none is 4", "first_classes"),
        ({"second": "images", "second_classes": [9]}, "none is 9", "second_classes"),
    ],
)
def test_what_the_images_do_not_have_is_refused(keys, what, where):
    with pytest.raises(UserError, match=what) as error:
        observed(**keys)
    assert where in error.value.where


def test_a_class_without_an_image_is_refused():
    parts = splits()
    few = dataclasses.replace(parts, test=parts.test.subset(torch.tensor([0, 1])))
    with pytest.raises(UserError, match="no image of class 3"):
        observe_splits(few, DataConfig(first_classes=[3]))


def test_two_weights_are_needed_and_both_above_0():
    with pytest.raises(ValueError, match="two numbers, got 3"):
        DataConfig(weights=[1.0, 1.0, 1.0])
    with pytest.raises(UserError, match=r"data\.weights must be > 0"):
        compose("method=demixgan data=digits data.weights=[1,0]")
