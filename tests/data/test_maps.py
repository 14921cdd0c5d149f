import numpy as np
import pytest
import torch
from making import encoded, source, write_folder
from PIL import Image

from mixbench.config.compose import compose
from mixbench.data import DATA
from mixbench.data.augment.batches import Augmentation, crop_flip, draw_crop_flip
from mixbench.data.images import ResidentImages
from mixbench.data.maps import (
    MappedImages,
    check_count,
    crop_maps,
    move_maps,
    read_maps,
    read_test_maps,
)
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.training.build import build
from mixbench.training.job import resolve


def images(count=4):
    pixels = torch.arange(count)[:, None, None, None].expand(count, 3, 8, 8).to(torch.uint8)
    return ResidentImages(pixels, torch.arange(count))


def test_every_image_brings_its_own_map():
    maps = torch.arange(4.0)[:, None, None].expand(4, 2, 2)
    batch = MappedImages(images(), maps)[BatchIndex(torch.tensor([3, 1, 1]), 0)]
    assert torch.equal(batch.maps[:, 0, 0], batch.images[:, 0, 0, 0].float())
    assert images()[BatchIndex(torch.tensor([0]), 0)].maps is None


def test_maps_of_another_number_are_refused_with_the_keys_that_leave_images_out():
    with pytest.raises(UserError, match="3 maps for 4 training images") as caught:
        check_count(torch.ones(3, 2, 2), 4, "training", "method.maps=x")
    assert "data.limit" in caught.value.todo
    assert "select=val" in caught.value.todo


@pytest.mark.parametrize("flip", [True, False])
def test_maps_are_cropped_and_mirrored_exactly_as_their_images(flip):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand(16, 1, 8, 6, generator=generator)
    moves = draw_crop_flip(16, 2, flip, generator)
    assert len({tuple(row) for row in moves[0].tolist()}) > 1
    expected, drawn = crop_flip(pixels, *moves, 2), Augmentation(*moves)
    assert torch.equal(move_maps(pixels[:, 0], (8, 6), drawn, 2), expected[:, 0])
    coarse = move_maps(pixels[:, 0, ::2, ::2], (8, 6), drawn, 2)
    assert coarse.shape == (16, 8, 6)
    assert torch.equal(coarse == 0, expected[:, 0] == 0)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_maps_are_read_from_both_kinds_of_file(tmp_path, kind):
    maps, path = np.arange(8, dtype=np.uint8).reshape(2, 2, 2), tmp_path / f"maps.{kind}"
    np.save(path, maps) if kind == "npy" else np.savez(path, maps=maps)
    read = read_maps(path, "method.maps")
    assert read.dtype == torch.float32
    assert torch.equal(read, torch.from_numpy(maps).float())


def test_files_that_hold_no_maps_are_refused(tmp_path):
    path = tmp_path / "maps.npy"
    cases = {
        "does not exist": None,
        "not a file of maps": b"text",
        r"maps are \(4, 4\)": np.ones((4, 4)),
        "NaN, infinity or a negative": np.full((1, 2, 2), -1.0),
        "NaN, infinity": np.full((1, 2, 2), np.nan),
        "is not a file of maps: ": np.array([{}], dtype=object),
    }
    for message, content in cases.items():
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.save(path, content)
        with pytest.raises(UserError, match=message) as caught:
            read_maps(path, "method.maps")
        assert "(N, h, w)" in caught.value.todo
    np.savez(tmp_path / "maps.npz", other=np.ones((1, 2, 2)))
    with pytest.raises(UserError, match="not a file of maps"):
        read_maps(tmp_path / "maps.npz", "method.maps")


def grey(value, size=(5, 7)):
    return encoded(np.full(size, value, dtype=np.uint8))


def test_maps_in_a_folder_belong_to_images_by_the_names_of_their_files(tmp_path):
    splits = source("data=folder", f"data.root={write_folder(tmp_path / 'data')}", "data.size=8")
    splits = splits.load()
    maps = tmp_path / "maps"
    for label, name in enumerate(("ant", "bee")):  # 0.png and 1.png of both: the class tells
        (maps / name).mkdir(parents=True)
        (maps / name / "0.png").write_bytes(grey(10 + label))
        np.save(maps / name / "1.npy", np.full((3, 9), 20.0 + label))
    (maps / "readme.txt").write_text("no map")
    found = read_test_maps(str(maps), splits)
    assert found.shape == (4, 8, 8)
    assert found[:, 3, 5].tolist() == [10, 20, 11, 21]
    (maps / "bee" / "1.npy").unlink()
    with pytest.raises(UserError, match="test image 3 has no map") as caught:
        read_test_maps(str(maps), splits)
    assert caught.value.todo == "put it there as bee/1.npy or .png"


def test_maps_of_images_that_are_no_files_have_their_places_as_names(tmp_path):
    splits = source("data=digits", "data.limit=12").load()
    for row in range(12):
        (tmp_path / f"{row:03d}.png").write_bytes(grey(row))
    assert read_test_maps(str(tmp_path), splits)[:, 0, 0].tolist() == list(range(12))
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints/007.png").write_bytes(grey(99))
    for row in range(12):
        (tmp_path / f"{row:03d}.png").rename(tmp_path / f"{row}.png")
    assert read_test_maps(str(tmp_path), splits)[:, 0, 0].tolist() == list(range(12))


def test_two_maps_of_one_image_are_refused(tmp_path):
    splits = source("data=digits", "data.limit=12").load()
    for row in range(12):
        (tmp_path / f"{row}.png").write_bytes(grey(row))
    np.save(tmp_path / "7.npy", np.ones((4, 4)))
    with pytest.raises(UserError, match="one image has two maps") as caught:
        read_test_maps(str(tmp_path), splits)
    assert "7.npy" in caught.value.what


def test_maps_of_fractions_and_of_sixteen_bits_keep_their_values(tmp_path):
    splits = source("data=digits", "data.limit=2").load()
    Image.fromarray(np.full((8, 8), 0.25, np.float32)).save(tmp_path / "0.tiff")
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(tmp_path / "1.png")
    assert read_test_maps(str(tmp_path), splits)[:, 4, 4].tolist() == [0.25, 60_000]


def test_maps_in_a_folder_that_cannot_be_used_are_named(tmp_path):
    splits = source("data=digits", "data.limit=12").load()
    for row in range(12):
        np.save(tmp_path / f"{row}.npy", np.ones((4, 4)))
    bad = {
        "the map is": np.full((4, 4), -1.0),
        "the map is .2,": np.ones(2),
        "is not a map: ": np.array([{}], dtype=object),
    }
    for message, content in bad.items():
        np.save(tmp_path / "7.npy", content)
        with pytest.raises(UserError, match=message) as caught:
            read_test_maps(str(tmp_path), splits)
        assert caught.value.where.endswith("7.npy")
    (tmp_path / "7.npy").unlink()
    (tmp_path / "7.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"7.png is not a picture"):
        read_test_maps(str(tmp_path), splits)


def test_a_file_of_maps_has_one_for_every_test_image(tmp_path):
    splits = source("data=digits", "data.limit=12").load()
    np.save(tmp_path / "maps.npy", np.ones((13, 4, 4)))
    with pytest.raises(UserError, match="13 maps for 12 test images") as caught:
        read_test_maps(str(tmp_path / "maps.npy"), splits)
    assert "data.limit" in caught.value.todo
    assert "select" not in caught.value.todo


def hills(seed, height, width):
    """A smooth picture (height, width, 3), whose red channel is its map."""
    rng = np.random.default_rng(seed)
    rows, cols = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    waves = [np.sin(2 * np.pi * (a * rows + b * cols + c)) for a, b, c in rng.random((3, 3))]
    return (127.5 + 127.5 * np.stack(waves, axis=2)).round().astype(np.uint8)


@pytest.fixture
def hilly(tmp_path):
    """A folder of smooth pictures, and the red channels of its training images as maps."""
    maps = []
    for part, count in (("train", 8), ("val", 1)):
        for label, name in enumerate(("ant", "bee")):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for index in range(count):
                picture = hills(100 * label + index, 60 + 3 * index, 80 - 2 * index)
                (tmp_path / "data" / part / name / f"{index}.png").write_bytes(encoded(picture))
                if part == "train":
                    red = Image.fromarray(picture[:, :, 0]).resize((72, 72))
                    maps.append(np.asarray(red, dtype=np.float32))
    np.save(tmp_path / "maps.npy", np.stack(maps))
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("size", [24, 96])
def test_maps_follow_random_resized_crops_and_mirrors(hilly, workers, size):
    words = ["method=tdattenmix", "method.attention=gaze", f"method.maps={hilly / 'maps.npy'}"]
    words += ["method.switch_prob=1.0", "data=folder", f"data.root={hilly / 'data'}", "net.width=4"]
    words += [f"data.size={size}", "data.crop_area=0.1", f"data.workers={workers}", "batch_size=16"]
    words += [f"method.side={size}", f"data.repeats={3 - 2 * workers}"]
    config = compose(words)
    splits = DATA.get("folder")(config.data).load()
    method, data = build(resolve(config), splits)
    method.train()
    batch = next(iter(data.train_dataloader()))
    assert batch.crops.shape == (16, 4)
    assert (batch.crops[:, 2:] - batch.crops[:, :2]).amin() < 0.6
    method.reseed(0, 0)
    x, _ = method.prepare(batch)
    method.reseed(0, 0)
    seen = method.mix_batch(batch).aux.pasted.maps
    red = 255 * method.to_pixels(x)[:, 0]
    assert (seen - red).abs().max() < 8
    assert (seen - red).abs().mean() < 1.5
    # Without the crop, or the mirror, they would be another picture's.
    assert (seen.flip(2) - red).abs().mean() > 10
    whole = torch.from_numpy(np.load(hilly / "maps.npy"))[batch.ids]
    whole = torch.nn.functional.interpolate(whole[:, None], (size, size), mode="bilinear")[:, 0]
    assert (whole - red).abs().mean() > 10


def test_other_sets_bring_no_crops_and_evaluation_none():
    assert images()[BatchIndex(torch.tensor([0]), 0, crop_seed=5)].crops is None


def test_evaluation_shows_no_drawn_part(hilly):
    words = ["data=folder", f"data.root={hilly / 'data'}", "data.size=24", "data.crop_area=0.1"]
    splits = source(*words).load()
    assert splits.test[BatchIndex(torch.arange(2), 0)].crops is None
    assert splits.train[BatchIndex(torch.arange(2), 0, crop_seed=1)].crops is not None


def test_parts_of_fine_maps_are_means_of_what_they_cover():
    maps = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0))
    whole = crop_maps(maps, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), (3, 3))
    torch.testing.assert_close(whole, torch.nn.functional.avg_pool2d(maps, 4))
    part = crop_maps(maps, torch.tensor([[0.5, 0.25, 1.0, 0.75]]), (12, 12))
    scaled = torch.nn.functional.interpolate(maps[:, None, 6:, 3:9], (12, 12), mode="bilinear")[
        :, 0
    ]
    torch.testing.assert_close(part[:, 1:-1, 1:-1], scaled[:, 1:-1, 1:-1])
