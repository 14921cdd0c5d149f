"""Changes of single training images: what they draw from, what they do, what is refused."""

import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mixbench.config.compose import compose
from mixbench.config.schema import DataConfig
from mixbench.data.augment.images import (
    COLOR_DEVIATIONS,
    COLOR_DIRECTIONS,
    AugmentedImages,
    augment_images,
    auto_augment,
    jitter,
    lighting,
)
from mixbench.data.images import ResidentImages
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.training.job import resolve

EVERYTHING = DataConfig(auto_augment="rand-m9-mstd0.5-inc1", jitter=0.4, lighting=0.1)


def some_images(count=6, size=24):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return ResidentImages(images, torch.arange(count))


def grey(level=128, size=8):
    return Image.fromarray(np.full((size, size, 3), level, dtype=np.uint8))


def test_images_depend_on_epoch_and_row_and_not_on_their_batch():
    images = AugmentedImages(some_images(), EVERYTHING)
    together = images[BatchIndex(torch.arange(6), 0, crop_seed=11)].images
    alone = [images[BatchIndex(torch.tensor([row]), 9, crop_seed=11)].images[0] for row in (4, 1)]
    assert torch.equal(together[4], alone[0])
    assert torch.equal(together[1], alone[1])
    later = images[BatchIndex(torch.arange(6), 0, crop_seed=12)].images
    assert (together != later).flatten(1).any(dim=1).sum() >= 5
    assert together.dtype == torch.uint8
    assert together.shape == (6, 3, 24, 24)


def test_global_sources_neither_decide_nor_notice():
    images = AugmentedImages(some_images(), EVERYTHING)
    draw = BatchIndex(torch.arange(6), 0, crop_seed=5)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = images[draw].images
    after = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert after == (random.random(), np.random.rand())  # noqa: NPY002
    assert torch.equal(first, images[draw].images)


def test_evaluation_and_statistics_see_the_images_as_they_are():
    plain = some_images()
    images = AugmentedImages(plain, EVERYTHING)
    assert torch.equal(images[BatchIndex(torch.arange(6), 0)].images, plain.images)
    assert torch.equal(images.sample(), plain.images)
    assert images.shape == (3, 24, 24)


def test_labels_and_rows_stay_with_their_images():
    images = AugmentedImages(some_images(), DataConfig(jitter=0.5))
    batch = images[BatchIndex(torch.tensor([3, 0]), 0, crop_seed=1)]
    assert batch.labels.tolist() == [3, 0]
    assert batch.ids.tolist() == [3, 0]
    assert images.subset(torch.tensor([5, 2])).labels.tolist() == [5, 2]


def test_a_set_of_which_nothing_is_asked_is_the_same_set():
    plain = some_images()
    assert augment_images(plain, DataConfig()) is plain
    assert isinstance(augment_images(plain, DataConfig(lighting=0.1)), AugmentedImages)


def test_jitter_of_a_grey_image_is_its_brightness_alone():
    levels = []
    for seed in range(2000):
        image = np.asarray(jitter(grey(100), 0.4, random.Random(seed)))
        assert (image == image[0, 0, 0]).all()
        levels.append(int(image[0, 0, 0]))
    assert min(levels) in (60, 61)
    assert max(levels) in (139, 140)
    assert np.mean(levels) == pytest.approx(100, abs=2)
    assert np.std(levels) == pytest.approx(40 / 3**0.5, abs=1.5)


def test_jitter_of_nothing_is_the_image():
    image = Image.fromarray(some_images().images[0].permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(jitter(image, 0.0, random.Random(0))), np.asarray(image))


@pytest.mark.parametrize(("channel", "seen"), [(0, "colour"), (1, "contrast")])
def test_jitter_changes_contrast_and_colour_too(channel, seen):
    pixels = np.full((8, 8, 3), 100, dtype=np.uint8)
    if seen == "colour":
        pixels[..., channel] = 160  # the distance to the other channels is the saturation
        spread = lambda image: np.ptp(image.astype(int), axis=2).mean()  # noqa: E731
    else:
        pixels[:4] = 140
        spread = lambda image: np.ptp(image.astype(int)[..., channel])  # noqa: E731
    image = Image.fromarray(pixels)
    seeds = range(300)
    found = {round(spread(np.asarray(jitter(image, 0.4, random.Random(s))))) for s in seeds}
    own = round(spread(pixels))
    assert min(found) < 0.6 * own  # brightness alone reaches 0.6
    assert max(found) > 1.4 * own


def test_lighting_shifts_all_pixels_alike_along_the_principal_colours():
    shifts = []
    for seed in range(4000):
        image = np.asarray(lighting(grey(), 0.5, random.Random(seed))).astype(float)
        assert (image == image[0, 0]).all()
        shifts.append((image[0, 0] - 128) / 255)
    directions, spread = np.array(COLOR_DIRECTIONS), 0.5 * np.array(COLOR_DEVIATIONS)
    assert np.cov(np.array(shifts).T) == pytest.approx(
        directions @ np.diag(spread**2) @ directions.T, abs=3e-4
    )
    assert directions.T @ directions == pytest.approx(np.eye(3), abs=2e-3)


def test_the_policy_is_the_one_that_was_named():
    image = Image.fromarray(some_images(size=32).images[0].permute(1, 2, 0).numpy())
    weak, strong = auto_augment("rand-m2-n1"), auto_augment("rand-m9-n4")
    changes = []
    for operate in (weak, strong):
        made = [np.asarray(operate(image, random.Random(seed))).astype(float) for seed in range(40)]
        changes.append(np.mean([np.abs(m - np.asarray(image)).mean() for m in made]))
    assert changes[0] < changes[1]


@pytest.mark.parametrize("words", ["rand-m10-n3-inc1", "rand-m1-n3", "original", "augmix-m1"])
def test_policies_run_at_every_strength(words):
    operate = auto_augment(words)
    for seed in range(60):  # posterize, one of 15 operations, is among them
        assert operate(grey(size=16), random.Random(seed)).size == (16, 16)


@pytest.mark.parametrize("words", ["nonsense", "rand-q7-zz", "augmix-bad1"])
def test_a_policy_that_nobody_knows_is_refused_before_data_is_read(words):
    config = compose(["method=erm", "data=cifar10", "data.root=nowhere"])
    config.data.auto_augment = words
    with pytest.raises(UserError, match="knows no such policy"):
        resolve(config)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(UserError, match="timm is not installed") as caught:
        auto_augment("rand-m9")
    assert "mixbench[timm]" in caught.value.todo


def test_equal_images_of_a_batch_are_changed_apart_and_not_as_they_are_cropped(monkeypatch):
    pixels = some_images(1).images.expand(5, -1, -1, -1)
    images = AugmentedImages(ResidentImages(pixels, torch.arange(5)), DataConfig(jitter=0.8))
    changed = images[BatchIndex(torch.arange(5), 0, crop_seed=11)].images
    assert len({image.numpy().tobytes() for image in changed}) == 5
    seeds = []
    monkeypatch.setattr(images, "_change", lambda image, seed: seeds.append(seed) or image)
    draw = BatchIndex(torch.tensor([3, 0, 3]), 0, crop_seed=11)
    assert torch.equal(images[draw].labels, draw.indices)
    assert seeds[0] == seeds[2] != seeds[1]  # by the image's own row
    assert not set(seeds) & set(draw.image_seeds([3, 0]))  # of the crops


def test_a_subset_is_changed_by_the_same_configuration():
    images = AugmentedImages(some_images(), DataConfig(lighting=5.0))
    part = images.subset(torch.tensor([4, 2]))
    assert part.labels.tolist() == [4, 2]
    plain = part[BatchIndex(torch.arange(2), 0)].images
    assert torch.equal(plain, some_images().images[[4, 2]])
    assert not torch.equal(part[BatchIndex(torch.arange(2), 0, crop_seed=1)].images, plain)
