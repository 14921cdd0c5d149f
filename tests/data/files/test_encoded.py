import io
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from making import encoded, photograph, source, write_folder
from PIL import Image, ImageOps
from torchvision.transforms import RandomResizedCrop

import mixbench.data.loaders as data_module
from mixbench.config.compose import compose
from mixbench.config.schema import DataConfig
from mixbench.data.files.decode import crop_box, decode, decode_crop, size_of
from mixbench.data.files.encoded import FileImages, Part, read_part
from mixbench.data.images import ResidentImages, Stats
from mixbench.data.loaders import MixData
from mixbench.data.sampling import BatchIndex, KeyedBatches, OrderedBatches
from mixbench.errors import RunFailedError, UnreadableImageError, UserError
from mixbench.training.run import run

CROPS = ("data.size=16", "data.resize=20", "data.crop_area=0.2")


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "zoo")


def test_crops_depend_on_seed_epoch_and_image_and_not_on_batches(folder):
    images = source("data=folder", f"data.root={folder}", *CROPS).load().train
    assert isinstance(images, FileImages)

    def epoch(number, seed=3, size=4, world=1):
        found = {}
        for rank in range(world):
            batches = KeyedBatches(len(images), size, seed, rank, world)
            batches.set_epoch(number)
            for draw in batches:
                batch = images[draw]
                found |= dict(zip(batch.ids.tolist(), batch.images, strict=True))
        return found

    first = epoch(0)
    assert len(first) == 12
    for other in (epoch(0, size=6), epoch(0, size=4, world=2)):
        assert all(torch.equal(other[row], first[row]) for row in first)
    for other in (epoch(1), epoch(0, seed=4)):
        assert not any(torch.equal(other[row], first[row]) for row in first)


def test_an_image_that_an_epoch_repeats_is_cropped_and_changed_anew(folder):
    words = ["data=folder", f"data.root={folder}", *CROPS, "data.repeats=3", "batch_size=6"]
    for more in ([], ["data.jitter=0.8", "data.crop_area=1"]):
        splits = source(*words, *more).load()
        for batch in MixData(splits, compose([*words, *more])).train_dataloader():
            first, second = batch.ids[::3]
            assert batch.ids.tolist() == [first] * 3 + [second] * 3
            for views in batch.images.split(3):
                assert not any(torch.equal(views[n], views[m]) for n, m in ((0, 1), (0, 2), (1, 2)))


def test_evaluation_sees_the_centre_of_the_resized_image(folder):
    splits = source("data=folder", f"data.root={folder}", *CROPS).load()
    batch = splits.test[next(iter(OrderedBatches(4, 4)))]
    assert batch.images.shape == (4, 3, 16, 16)
    assert batch.images.dtype == torch.uint8
    assert batch.labels.tolist() == [0, 0, 1, 1]
    image = Image.open(folder / "val/ant/0.png")
    assert image.size == (36, 40)
    scaled = image.resize((20, 22), Image.Resampling.BILINEAR)
    expected = np.asarray(scaled.crop((2, 3, 18, 19)))
    assert np.array_equal(batch.images[0].permute(1, 2, 0).numpy(), expected)
    again = splits.train[BatchIndex(torch.tensor([0]), seed=9)].images
    assert torch.equal(again, splits.train[BatchIndex(torch.tensor([0]), seed=8)].images)


def test_a_crop_is_the_part_that_was_drawn():
    raw = photograph(5, 60, 50)
    left, top, right, bottom = crop_box((50, 60), 0.1, random.Random(7))
    image = Image.open(io.BytesIO(raw)).crop((left, top, right, bottom))
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    found, shares = decode_crop(raw, 16, 0.1, 7)
    assert np.array_equal(found, expected)
    assert shares == (top / 60, left / 50, bottom / 60, right / 50)


def test_drawn_parts_keep_to_area_ratio_and_image():
    for width, height in ((50, 60), (500, 20), (9, 300), (1, 1)):
        for seed in range(200):
            left, top, right, bottom = crop_box((width, height), 0.25, random.Random(seed))
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            if (width, height) == (50, 60):
                w, h = right - left, bottom - top
                assert w * h >= 0.25 * width * height - (w + h) / 2 - 1
                assert 3 / 4 - 0.05 < w / h < 4 / 3 + 0.05


def test_parts_are_drawn_as_torchvision_draws_them():
    torch.manual_seed(0)
    image = torch.zeros(3, 300, 500)
    draw = RandomResizedCrop.get_params
    theirs = [draw(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    ours = [crop_box((500, 300), 0.08, random.Random(seed)) for seed in range(3000)]
    ours = np.array([(top, left, b - top, r - left) for left, top, r, b in ours])
    for own, other in zip(ours.T, np.array(theirs).T, strict=True):
        spread = 4 * own.std() * np.sqrt(2 / 3000)  # four deviations of the difference
        assert abs(own.mean() - other.mean()) < spread
        assert abs(own.std() / other.std() - 1) < 0.06


def test_workers_give_the_batches_of_one_process(folder):
    words = ["data=folder", f"data.root={folder}", *CROPS, "batch_size=4"]
    splits = source(*words).load()
    one = MixData(splits, compose(words))
    two = MixData(splits, compose([*words, "data.workers=2"]))
    for batch, other in (
        *zip(one.train_dataloader(), two.train_dataloader(), strict=True),
        *zip(one.test_dataloader(), two.test_dataloader(), strict=True),
    ):
        assert batch.maps is other.maps is None
        assert all(torch.equal(a, b) for a, b in zip(batch[:3], other[:3], strict=True))


def test_a_subset_and_a_hold_out_keep_their_files(folder):
    words = ["data=folder", f"data.root={folder}", *CROPS, "data.val_fraction=0.5", "select=val"]
    splits = source(*words).load(holdout=True)
    assert (len(splits.train), len(splits.val)) == (6, 6)
    rows = torch.cat([splits.train.rows, splits.val.rows])
    assert rows.sort().values.tolist() == list(range(12))
    part = splits.val.subset(torch.tensor([5, 0]))
    draw = BatchIndex(torch.tensor([0, 1]), 0)
    assert torch.equal(part[draw].images, splits.val[BatchIndex(torch.tensor([5, 0]), 0)].images)
    assert torch.equal(part[draw].labels, splits.val.labels[[5, 0]])


def test_an_unreadable_file_is_named_when_it_is_met_or_left_out_and_counted(folder):
    (folder / "train/ant/3.png").write_bytes(b"<html>")
    words = ["data=folder", f"data.root={folder}", *CROPS]
    images = source(*words).read().train
    with pytest.raises(UnreadableImageError, match=r"image 3 cannot be read.*ant.3\.png"):
        images[BatchIndex(torch.arange(12), 0)]
    with pytest.raises(UserError, match=r"image 3 cannot be read.*ant.3\.png"):
        source(*words).load()
    splits = source(*words, "data.on_corrupt=skip").load()
    assert splits.info.skipped == 1
    assert len(splits.train) == 11
    assert splits.train[BatchIndex(torch.arange(11), 0)].labels.tolist() == [0] * 5 + [1] * 6


@pytest.fixture
def training(folder, tmp_path, monkeypatch):
    """Words of a run whose loader has workers, which read no file before it starts."""
    constants = Stats([0.5] * 3, [0.25] * 3)
    monkeypatch.setattr("mixbench.data.datasets.folder.Folder.constants", constants)
    return ["data=folder", f"data.root={folder}", *CROPS, "data.workers=2", "net.width=4",
            "epochs=1", "batch_size=4", f"run.dir={tmp_path / 'runs'}", "wandb.mode=disabled",
            "trainer.accelerator=cpu", "eval.suites=[]"]  # fmt: skip


def test_a_worker_that_meets_an_unreadable_file_ends_the_run_with_its_name(folder, training):
    (folder / "train/bee/1.png").write_bytes(b"")
    with pytest.raises(UnreadableImageError) as error:
        run(compose(training))
    what, where, todo = str(error.value).splitlines()
    assert what.startswith("image 7 cannot be read: ")
    assert "bee/1.png" in what
    assert where == "  where: data"
    assert "data.on_corrupt=skip" in todo
    assert error.value.exit_code == 3


def test_a_worker_that_dies_ends_each_run_of_a_process_at_once_and_with_a_hint(
    training, monkeypatch
):
    def die(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    run(compose(training))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # as Lightning leaves it after a first fit
    monkeypatch.setattr(FileImages, "_decode", die)
    monkeypatch.setattr(data_module, "WORKER_TIMEOUT", 40)
    begin = time.monotonic()
    with pytest.raises(RunFailedError, match=r"exited unexpectedly.*\n.*\n.*data\.workers=2"):
        run(compose([*training, "seed=1"]))
    assert time.monotonic() - begin < 40


def test_statistics_of_files_are_those_of_what_evaluation_sees(folder):
    info = source("data=folder", f"data.root={folder}", *CROPS).load().info
    assert (info.height, info.width) == (16, 16)
    assert all(abs(value - 0.5) < 0.05 for value in info.mean)
    assert info.residual_mean is not None


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["data.crop_area=0.2"], "needs data.size"),
        (["data.crop_area=0", "data.size=8"], "must lie in"),
        (["data.crop_area=1.5", "data.size=8"], "must lie in"),
        (["data.resize=20"], "needs data.size"),
        (["data.resize=20", "data.size=24"], "must be >= 24"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(words, match):
    with pytest.raises(UserError, match=match):
        compose(["data=digits", *words])


def test_stored_pixels_take_the_size_asked_for_too():
    splits = source("data=digits", "data.limit=20", "data.size=48").load()
    assert splits.train.shape == splits.test.shape == (3, 48, 48)
    assert isinstance(splits.train, ResidentImages)
    plain = source("data=digits", "data.limit=20").load().train.images
    for own, small in zip(splits.train.images, plain, strict=True):
        image = Image.fromarray(small.permute(1, 2, 0).numpy())
        expected = ImageOps.fit(image, (48, 48), Image.Resampling.BILINEAR)
        assert np.abs(own.permute(1, 2, 0).int().numpy() - np.asarray(expected)).max() <= 2


# One rule for every kind of image.


@pytest.mark.parametrize("size", [None, 8])
def test_every_mode_becomes_three_channels_of_bytes(size):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    grey = pixels[..., 0]
    files = [
        encoded(grey, "JPEG"),
        encoded(pixels, "JPEG", "CMYK"),
        encoded(np.dstack([pixels, grey])),
        encoded(grey.astype(np.uint16) * 257),
        encoded(pixels, "GIF", save_all=True, append_images=[Image.fromarray(255 - pixels)]),
        encoded(pixels, "PNG", "P"),
        encoded(grey > 99),
        encoded(np.dstack([grey, grey]), mode="LA"),
    ]
    for raw in files:
        found = decode(raw, size)
        assert found.dtype == np.uint8
        assert found.shape == ((12, 10, 3) if size is None else (8, 8, 3))
        assert decode_crop(raw, 8, 0.5, 1)[0].shape == (8, 8, 3)
        assert size_of(raw) == (10, 12)


def test_an_animation_is_its_first_frame():
    first, second = (np.full((6, 6, 3), level, np.uint8) for level in (40, 200))
    raw = encoded(first, "GIF", save_all=True, append_images=[Image.fromarray(second)])
    assert np.array_equal(decode(raw), first)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    transposed = pixels.swapaxes(0, 1)
    upright = {
        **{1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1]},
        **{5: transposed, 6: transposed[:, ::-1], 7: transposed[::-1, ::-1], 8: transposed[::-1]},
    }[orientation]
    assert np.array_equal(decode(file.getvalue()), upright)
    assert size_of(file.getvalue()) == upright.shape[1::-1]


def test_broken_files_are_an_oserror_whatever_they_are():
    whole = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
    for raw in (b"", whole[:100], whole[: len(whole) // 2], b"<html>404</html>", os.urandom(300)):
        with pytest.raises(OSError, match=r"\w"):
            decode(raw)
        with pytest.raises(OSError, match=r"\w"):
            decode_crop(raw, 8, 0.5, 0)


# Files of one colour each, numbered by label and by grey value.


@pytest.fixture
def numbered():
    """Twelve files; file i shows 10 * i, has label i and a box that begins at i."""
    files = [encoded(np.full((20, 20, 3), 10 * i, np.uint8)) for i in range(12)]
    boxes = torch.tensor([[[i, i, 0, 9, 9]] for i in range(12)], dtype=torch.float32)
    return Part([f"{i}.png" for i in range(12)], files.__getitem__, torch.arange(12), boxes)


@pytest.mark.parametrize("crop_area", [None, 0.5])
def test_subsets_of_subsets_hand_out_pixels_labels_and_boxes_of_one_file(numbered, crop_area):
    config = DataConfig(size=8, crop_area=crop_area)
    whole, skipped = read_part(numbered, config)
    assert (type(whole), skipped) == ((FileImages if crop_area else ResidentImages), {})
    images = whole.subset(torch.tensor([2, 4, 6, 8, 10])).subset(torch.tensor([3, 0, 4]))
    assert images.labels.tolist() == [8, 2, 10]
    assert images.boxes is not None
    assert images.boxes[:, 0, 0].tolist() == [8, 2, 10]
    for crop_seed in (None, 5):
        batch = images[BatchIndex(torch.tensor([2, 0]), 0, crop_seed)]
        assert batch.labels.tolist() == [10, 8]
        assert batch.images[:, 0, 0, 0].tolist() == [100, 80]
        assert batch.ids.tolist() == [2, 0]  # rows of the subset, as scores are filed by them


def test_other_labels_stay_with_their_images_in_subsets(numbered):
    config = DataConfig(size=8, crop_area=0.5)
    images = read_part(numbered, config)[0].with_labels(torch.arange(12) + 50)
    part = images.subset(torch.tensor([7, 1]))
    assert part.labels.tolist() == [57, 51]
    assert part[BatchIndex(torch.tensor([1]), 0)].labels.tolist() == [51]
    assert part[BatchIndex(torch.tensor([1]), 0)].images[0, 0, 0, 0] == 10


@pytest.mark.parametrize("crop_area", [None, 0.5])
def test_a_file_that_is_left_out_takes_its_label_and_box_along(numbered, crop_area):
    good = numbered.load
    numbered.load = lambda i: b"torn" if i in (0, 5) else good(i)
    config = DataConfig(size=8, crop_area=crop_area, on_corrupt="skip")
    images, bad = read_part(numbered, config)
    left = [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert [*bad] == [0, 5]
    assert "5.png" in bad[5]
    assert images.labels.tolist() == left
    assert images.boxes is not None
    assert images.boxes[:, 0, 0].tolist() == left
    batch = images[BatchIndex(torch.arange(10), 0)]
    assert (batch.images[:, 0, 0, 0] // 10).tolist() == batch.labels.tolist() == left


def test_the_crop_of_an_image_is_the_same_in_the_whole_set_and_in_a_subset(tmp_path):
    files = [photograph(seed) for seed in range(6)]
    part = Part([str(i) for i in range(6)], files.__getitem__, torch.arange(6))
    images = read_part(part, DataConfig(size=8, crop_area=0.1))[0]
    few = images.subset(torch.tensor([4, 1]))
    crops = images[BatchIndex(torch.tensor([4, 1]), 0, crop_seed=3)]
    again = few[BatchIndex(torch.tensor([0, 1]), 9, crop_seed=3)]
    assert torch.equal(crops.images, again.images)
    assert torch.equal(crops.crops, again.crops)  # pyright: ignore
