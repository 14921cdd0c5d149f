"""Multi-scale crops, and images that are squeezed to squares."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from making import encoded, photograph, source, write_folder
from PIL import Image

from mixbench.config.compose import compose
from mixbench.data.files.cache import prepared_path
from mixbench.data.files.decode import decode, decode_multi_scale, multi_scale_box
from mixbench.data.files.encoded import FileImages
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError

SCALES = [1.0, 0.875, 0.75, 0.66, 0.5]
SQUEEZED = ("data.size=16", "data.fit=squeeze")
CROPS = (*SQUEEZED, "data.resize=20", "data.crop_scales=[1.0,0.75,0.5]")
SEEDS = range(4000)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "zoo")


@pytest.fixture(scope="module")
def boxes():
    """Parts of squares of 512 pixels."""
    return [multi_scale_box(512, SCALES, random.Random(seed)) for seed in SEEDS]


def test_sides_are_those_of_neighbouring_scales_each_pair_as_often(boxes):
    pairs = Counter((right - left, bottom - top) for left, top, right, bottom in boxes)
    sides = [512, 448, 384, 337, 256]
    expected = {(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 2}
    assert set(pairs) == expected
    assert len(expected) == 19
    share = len(boxes) / 19
    assert all(abs(count - share) < 5 * share**0.5 for count in pairs.values())


def test_parts_of_one_size_stand_in_thirteen_places_inside_of_the_image(boxes):
    small = [box for box in boxes if (box[2] - box[0], box[3] - box[1]) == (256, 256)]
    found = {(left, top) for left, top, _, _ in small}
    corners = {(x, y) for x in (0, 128, 256) for y in (0, 128, 256)}
    assert found == corners | {(x, y) for x in (64, 192) for y in (64, 192)}
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 512
        assert 0 <= top < bottom <= 512


@pytest.mark.parametrize(("side", "scales"), [(1, [0.5]), (3, [1.0]), (7, [0.1, 1.0])])
def test_a_part_of_a_tiny_image_has_a_pixel(side, scales):
    for seed in range(30):
        left, top, right, bottom = multi_scale_box(side, scales, random.Random(seed))
        assert 0 <= left < right <= side
        assert 0 <= top < bottom <= side


def test_a_crop_is_the_part_of_the_squeezed_image_that_was_drawn():
    raw, pixels = photograph(5, 60, 50), decode(photograph(5, 60, 50))
    whole = Image.fromarray(pixels).resize((20, 20), Image.Resampling.BILINEAR)
    for seed in range(8):
        box = multi_scale_box(20, SCALES, random.Random(seed))
        expected = whole.crop(box).resize((16, 16), Image.Resampling.BILINEAR)
        found, shares = decode_multi_scale(raw, 16, 20, SCALES, seed)
        assert np.array_equal(found, np.asarray(expected))
        left, top, right, bottom = (end / 20 for end in box)
        assert shares == (top, left, bottom, right)


def test_what_is_evaluated_is_the_whole_image(folder):
    left = np.zeros((20, 60, 3), np.uint8)
    left[:, :6] = 255  # at the border, which a cut to the centre would lose
    raw = encoded(left)
    assert decode(raw, 20, fit="squeeze").shape == (20, 20, 3)
    assert decode(raw, 20, fit="squeeze")[:, 0].min() > 200
    assert decode(raw, 20)[:, 0].max() == 0
    splits = source("data=folder", f"data.root={folder}", *CROPS).load()
    assert isinstance(splits.train, FileImages)
    batch = splits.test[BatchIndex(torch.arange(2), 0)]
    part = splits.test.part
    for row, image in enumerate(batch.images):
        expected = decode(part.load(row), 16, fit="squeeze")
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_crops_depend_on_seed_epoch_and_image_and_not_on_batches(folder):
    images = source("data=folder", f"data.root={folder}", *CROPS).load().train
    rows = torch.arange(12)
    whole = images[BatchIndex(rows, 0, 7)]
    for order in (rows.flip(0), rows[3:5]):
        part = images[BatchIndex(order, 1, 7)]
        assert torch.equal(part.images, whole.images[order])
        assert torch.equal(part.crops, whole.crops[order])
    assert not torch.equal(images[BatchIndex(rows, 0, 8)].images, whole.images)


def test_images_are_squeezed_too_where_they_are_decoded_once_or_stored_as_pixels(folder, tmp_path):
    splits = source("data=folder", f"data.root={folder}", *SQUEEZED).load()
    raw = (folder / "train" / "ant" / "0.png").read_bytes()
    expected = decode(raw, 16, fit="squeeze")
    found = splits.train[BatchIndex(torch.tensor([0]), 0)].images[0]
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)

    pixels = np.zeros((4, 8, 24, 3), np.uint8)
    pixels[:, :, :3] = 255
    for name, labels in (("a", np.arange(4) % 2), ("b", np.arange(1, 5) % 2)):
        np.savez(tmp_path / f"{name}.npz", images=pixels, label=labels)
    files = (f"data.train={tmp_path / 'a.npz'}", f"data.test={tmp_path / 'b.npz'}")
    for words, low, high in ((("data.size=8",), 0, 0), (("data.size=8", SQUEEZED[1]), 200, 255)):
        stored = source("data=pack", *files, *words).load().train
        first = stored[BatchIndex(torch.tensor([0]), 0)].images[0, :, :, 0]
        assert low <= first.min() <= first.max() <= high


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["data.crop_scales=[0.5]"], "data.crop_scales needs data.size"),
        (["data.crop_scales=[0.5]", "data.size=8"], "needs data.fit=squeeze"),
        (["data.fit=squeeze"], "data.fit=squeeze needs data.size"),
        ([*SQUEEZED, "data.crop_scales=[]"], "must name a scale"),
        ([*SQUEEZED, "data.crop_scales=[0.5,0]"], "data.crop_scales must lie in"),
        ([*SQUEEZED, "data.crop_scales=[1.5]"], "data.crop_scales must lie in"),
        ([*SQUEEZED, "data.crop_scales=[0.5]", "data.crop_area=0.5"], "crop_area must be null"),
        ([*SQUEEZED, "data.resize=20"], "resize must be null"),
        (["data.fit=stretch", "data.size=8"], "data.fit must be one of crop, squeeze"),
    ],
)
def test_crops_that_do_not_fit_together_are_refused(words, match):
    with pytest.raises(UserError, match=match):
        compose(["data=digits", *words])


def test_crops_that_stored_pixels_cannot_have_are_refused_or_said_to_be_idle():
    with pytest.raises(UserError, match="digits is stored as pixels") as error:
        source("data=digits", *CROPS).load()
    assert "data.crop_scales=" in error.value.where
    info = source("data=digits", "data.size=16", "data.crop_area=0.5").load().info
    (notice,) = [text for text in info.notices if "stay whole" in text]
    assert "data.crop_area=0.5" in notice


def test_a_prepared_set_of_other_squares_is_another_file(folder):
    words = ("data=folder", f"data.root={folder}", "data.size=16")
    plain, squeezed = (prepared_path(source(*words, *more)) for more in ((), SQUEEZED[1:]))
    assert plain != squeezed
