import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from making import twin
from paths import SHARED
from PIL import Image

from mixbench.config.compose import compose
from mixbench.data import DATA
from mixbench.data.files.decode import decode
from mixbench.data.images import HOLDOUT_LIMIT, channel_stats, stratified
from mixbench.errors import UserError

IMAGES = SHARED / "data"


def source(*words):
    config = compose(list(words)).data
    return DATA.get(config.kind)(config)


def jpeg(array, mode=None, kind="JPEG", **options):
    image = Image.fromarray(array)
    if mode:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (24, 12, 10, 3), dtype=np.uint8)


def write_pack(path, images, labels, **extra):
    np.savez(path, images=images, label=np.asarray(labels), **extra)
    return str(path)


def write_jpeg_pack(path, blobs, labels):
    offsets = np.cumsum([0, *map(len, blobs)])
    blob = np.frombuffer(b"".join(blobs), np.uint8)
    np.savez(path, jpeg=blob, offsets=offsets, label=np.asarray(labels))
    return str(path)


def test_digits_are_1437_and_360_images_stratified_with_seed_0():
    splits = source("data=digits").load()
    assert tuple(splits.train.images.shape) == (1437, 3, 32, 32)
    assert tuple(splits.test.images.shape) == (360, 3, 32, 32)
    assert splits.train.images.dtype == torch.uint8
    parts = splits.train, splits.test
    shares = [part.labels.bincount(minlength=10) / len(part) for part in parts]
    assert (shares[0] - shares[1]).abs().max() < 0.003
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    _, test_rows = train_test_split(
        np.arange(1797), test_size=360, stratify=digits.target, random_state=0
    )
    test_rows = np.sort(test_rows)
    assert splits.test.labels.tolist() == digits.target[test_rows].tolist()
    small = splits.test.images[:, 0, ::4, ::4].numpy()
    assert np.abs(small - digits.images[test_rows] * 255 / 16).max() <= 0.5


def test_digits_can_be_told_apart_by_their_nearest_neighbour():
    splits = source("data=digits").load()
    train, test = (part.images.flatten(1).float() for part in (splits.train, splits.test))
    nearest = torch.cdist(test, train).argmin(1)
    assert (splits.train.labels[nearest] == splits.test.labels).float().mean() > 0.97


def test_channel_statistics_match_the_definition():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1500, 3, 5, 4), generator=generator, dtype=torch.uint8)
    images[:, 1] //= 3
    x = images.double() / 255
    mean, std = channel_stats(images)
    torch.testing.assert_close(torch.tensor(mean).double(), x.mean((0, 2, 3)), rtol=0, atol=1e-6)
    expected = x.std((0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(std).double(), expected, rtol=0, atol=1e-6)
    residual = x - x.mean((1, 2, 3), keepdim=True)
    mean, std = channel_stats(images, subtract_image_mean=True)
    torch.testing.assert_close(
        torch.tensor(mean).double(), residual.mean((0, 2, 3)), rtol=0, atol=1e-6
    )
    expected = residual.std((0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(std).double(), expected, rtol=0, atol=1e-6)


def test_a_constant_channel_can_be_divided_by():
    assert channel_stats(torch.full((4, 3, 2, 2), 7, dtype=torch.uint8))[1] == [1.0] * 3


def test_a_subset_keeps_the_class_shares_and_is_always_the_same():
    labels = torch.arange(1000) % 4
    rows = stratified(labels, 100)
    assert labels[rows].bincount().tolist() == [25] * 4
    assert torch.equal(rows, stratified(labels, 100))
    assert torch.equal(rows, rows.sort().values)
    assert torch.equal(stratified(labels, 1000), torch.arange(1000))


def test_a_subset_of_rare_classes_is_still_of_the_size_asked_for():
    assert len(stratified(torch.tensor([0, 0, 0, 1]), 2)) == 2


def test_the_hold_out_is_a_stratified_tenth_and_leaves_the_training_set():
    whole, divided = source("data=digits").load(), source("data=digits").load(holdout=True)
    assert whole.val is None
    assert divided.val is not None
    assert len(divided.val) == 144 <= HOLDOUT_LIMIT
    assert len(divided.train) + len(divided.val) == len(whole.train)
    assert divided.val.labels.bincount().min() >= 14
    kept = {image.numpy().tobytes() for image in divided.train.images}
    own = [image.numpy().tobytes() for image in divided.val.images]
    everything = [image.numpy().tobytes() for image in whole.train.images]
    assert sorted([*own, *(image.numpy().tobytes() for image in divided.train.images)]) == sorted(
        everything
    )
    assert len(kept & set(own)) <= len(everything) - len(set(everything))


def test_fraction_and_limit_make_smaller_sets():
    splits = source("data=digits", "data.train_fraction=0.5", "data.limit=300").load()
    assert (len(splits.train), len(splits.test)) == (300, 300)
    assert len(source("data=digits", "data.train_fraction=0.5").load().train) == 718


def test_a_pack_of_pixels_is_read_as_rgb(tmp_path, pixels):
    labels = np.arange(24) % 3
    train = write_pack(tmp_path / "mine.npz", pixels, labels, class_names=np.array(["a", "b", "c"]))
    grey = write_pack(
        tmp_path / "test.npz", pixels[..., 0], labels, class_names=np.array(["a", "b", "c"])
    )
    data = source("data=pack", f"data.train={train}", f"data.test={grey}")
    splits = data.load()
    assert data.name == splits.info.name == "mine"
    assert splits.info.class_names == ["a", "b", "c"]
    assert (splits.info.height, splits.info.width) == (12, 10)
    assert np.array_equal(splits.train.images.permute(0, 2, 3, 1).numpy(), pixels)
    assert np.array_equal(splits.test.images[:, 2].numpy(), pixels[..., 0])


def test_a_pack_of_jpegs_is_decoded_and_its_fingerprint_is_its_content(tmp_path, pixels):
    blobs = [jpeg(image, kind="PNG") for image in pixels]
    train = write_jpeg_pack(tmp_path / "a.npz", blobs, np.arange(24) % 3)
    data = source(
        "data=pack", f"data.train={train}", f"data.test={twin(train, tmp_path)}", "data.name=x"
    )
    assert np.array_equal(data.load().train.images.permute(0, 2, 3, 1).numpy(), pixels)
    again = tmp_path / "elsewhere.npz"
    again.write_bytes(Path(train).read_bytes())
    words = ["data=pack", f"data.train={again}", f"data.test={twin(train, tmp_path)}"]
    assert source(*words).fingerprint() == data.fingerprint()
    blobs[3] = blobs[4]
    write_jpeg_pack(again, blobs, np.arange(24) % 3)
    assert source(*words).fingerprint() != data.fingerprint()


# FAULTS row 14.
def test_unreadable_images_are_named_or_left_out_and_counted(tmp_path, pixels):
    blobs = [jpeg(image, kind="PNG") for image in pixels]
    blobs[5], blobs[7] = b"", b"<html>not found</html>"
    train = write_jpeg_pack(tmp_path / "a.npz", blobs, np.arange(24) % 3)
    words = ["data=pack", f"data.train={train}", f"data.test={twin(train, tmp_path)}"]
    with pytest.raises(UserError, match=r"2 of 24 images cannot be read: image 5") as error:
        source(*words).load()
    assert "image 7" in str(error.value)
    splits = source(*words, "data.on_corrupt=skip").load()
    assert len(splits.train) == 22
    assert splits.info.skipped == 4  # the test file holds the same
    assert splits.train.labels.tolist() == [n % 3 for n in range(24) if n not in (5, 7)]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"label": np.arange(4)}, "no train images with labels; found label"),
        ({"images": np.zeros((4, 2, 2, 3), np.float32), "label": np.arange(4)}, "must be uint8"),
        ({"images": np.zeros((4, 2, 2, 5), np.uint8), "label": np.arange(4)}, "5 channels"),
        ({"images": np.zeros((4, 2, 2, 3), np.uint8), "label": np.arange(3)}, "4 images but 3"),
        (
            {"images": np.zeros((0, 2, 2, 3), np.uint8), "label": np.arange(0)},
            "there are no labels",
        ),
        (
            {
                "images": np.zeros((4, 2, 2, 3), np.uint8),
                "label": np.arange(4),
                "class_names": np.array(["a"]),
            },
            "labels run from 0 to 3",
        ),
    ],
)
def test_a_pack_that_does_not_fit_together_is_refused(tmp_path, content, match):
    path = tmp_path / "bad.npz"
    np.savez(path, **content)
    with pytest.raises(UserError, match=match) as error:
        source("data=pack", f"data.train={path}", f"data.test={twin(path, tmp_path)}").load()
    assert "bad.npz" in str(error.value)


def test_a_file_that_is_no_pack_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"cannot be read as an \.npz pack"):
        source("data=pack", f"data.train={path}", f"data.test={twin(path, tmp_path)}").load()
    with pytest.raises(UserError, match="no such file"):
        source("data=pack", "data.train=missing.npz", f"data.test={path}").load()


def test_images_of_several_sizes_need_a_size(tmp_path):
    rng = np.random.default_rng(1)
    blobs = [jpeg(rng.integers(0, 256, (h, 8, 3), dtype=np.uint8)) for h in (8, 9, 20)]
    path = write_jpeg_pack(tmp_path / "a.npz", blobs, [0, 1, 0])
    words = ["data=pack", f"data.train={path}", f"data.test={twin(path, tmp_path)}"]
    with pytest.raises(UserError, match=r"3 sizes, from 8x8 to 8x20.*\n.*\n.*data.size"):
        source(*words).load()
    assert tuple(source(*words, "data.size=6").load().train.images.shape) == (3, 3, 6, 6)


def test_an_image_folder_is_read_by_sorted_class(tmp_path, pixels):
    for part, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("zebra", "ant")):
            folder = tmp_path / "zoo" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.png").write_bytes(jpeg(pixels[label * 4 + index], kind="PNG"))
            (folder / "notes.txt").write_text("no image")
    words = ("data=folder", f"data.root={tmp_path / 'zoo'}")
    data = source(*words)
    splits = data.load()
    assert data.name == "zoo"
    assert splits.info.class_names == ["ant", "zebra"]
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4
    assert np.array_equal(splits.train.images[0].permute(1, 2, 0).numpy(), pixels[4])
    before = data.fingerprint()
    (tmp_path / "zoo/train/ant/9.png").write_bytes(jpeg(pixels[20], kind="PNG"))
    assert source(*words).fingerprint() != before
    (tmp_path / "zoo/train/bee").mkdir()
    with pytest.raises(UserError, match="no image in bee"):
        source(*words).load()


# FAULTS row 15.
def test_one_rule_turns_every_mode_into_rgb(pixels):
    image = pixels[0]
    grey = image[..., 0]
    assert np.array_equal(decode(jpeg(grey, kind="PNG")), np.stack([grey] * 3, -1))
    assert decode(jpeg(image, "CMYK")).shape == (12, 10, 3)
    assert np.array_equal(decode(jpeg(np.dstack([image, grey]), kind="PNG")), image)
    wide = grey.astype(np.uint16) * 257
    assert np.array_equal(decode(jpeg(wide, kind="PNG"))[..., 0], grey)
    turned = Image.fromarray(image)
    exif = turned.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    assert np.array_equal(decode(file.getvalue()), np.rot90(image, -1))


def test_a_decompression_bomb_is_refused():
    def chunk(body):
        size, checksum = len(body) - 4, zlib.crc32(body)
        return size.to_bytes(4, "big") + body + checksum.to_bytes(4, "big")

    size = (20_000).to_bytes(4, "big") * 2
    header = chunk(b"IHDR" + size + b"\x08\x02\x00\x00\x00")
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT" + zlib.compress(b"")) + chunk(b"IEND")
    with pytest.raises(OSError, match="decompression bomb"):
        decode(png)


@pytest.mark.slow
@pytest.mark.skipif(not IMAGES.is_dir(), reason="the real image packs are not beside the checkout")
def test_the_cifar10_pack_holds_the_complete_test_split(tmp_path):
    path = IMAGES / "cifar10_test10k.npz"
    splits = source("data=pack", f"data.train={path}", f"data.test={twin(path, tmp_path)}").load()
    assert len(splits.test) == 10_000
    assert splits.test.labels.bincount().tolist() == [1000] * 10
    assert splits.info.class_names[3] == "cat"
    # Published statistics of the full training set; the test split is close to it.
    for value, published in zip(splits.info.mean, (0.4914, 0.4822, 0.4465), strict=True):
        assert abs(value - published) < 0.005
    with np.load(path) as archive:
        first = archive["jpeg"][archive["offsets"][17] : archive["offsets"][18]].tobytes()
    expected = np.asarray(Image.open(io.BytesIO(first)).convert("RGB"))
    assert np.array_equal(splits.test.images[17].permute(1, 2, 0).numpy(), expected)
