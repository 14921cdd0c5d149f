import io
import tarfile

import numpy as np
import pytest
import torch
from making import encoded, photograph
from paths import SHARED
from scipy import io as matlab

from mixbench.data.ood import CROP, NAMED_SETS, RESIZE, WAYS, find_ood, fitted_pixels, read_ood
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UnreadableImageError, UserError

SIZE = (32, 32)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path))
    return tmp_path


def pixels(count=5, height=32, width=32, channels=3, seed=0):
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def all_of(images):
    return images[BatchIndex(torch.arange(len(images)), 0)].images


def write_images(folder, count, height, width):
    folder.mkdir(parents=True)
    for row in range(count):
        (folder / f"{row}.png").write_bytes(photograph(row, height, width))


def test_svhn_is_read_as_it_is_distributed(place):
    x = pixels()
    content = {"X": x.transpose(1, 2, 3, 0), "y": np.full((5, 1), 10, dtype=np.uint8)}
    matlab.savemat(place / "test_32x32.mat", content, do_compression=True)
    images = read_ood("svhn", SIZE)
    assert (images.name, images.way, len(images)) == ("svhn", "", 5)
    assert np.array_equal(all_of(images).permute(0, 2, 3, 1), x)
    # At another size its name tells what was done.
    assert read_ood("svhn", (64, 64)).name == "svhn_resize"
    assert all_of(read_ood("svhn:crop", (16, 16))).shape == (5, 3, 16, 16)


def test_textures_are_read_from_their_folder(place):
    for name in ("banded", "zigzagged"):
        write_images(place / "dtd" / "images" / name, 2, 50, 40)
    (place / "dtd" / "images" / "banded" / ".directory").write_text("hidden")
    (place / "dtd" / "images" / "list.txt").write_text("banded/0.png")
    images = read_ood("textures", SIZE)
    assert (images.name, len(images), images.unused) == ("textures_resize", 4, 2)
    assert all_of(images).shape == (4, 3, 32, 32)


def test_the_folders_of_lsun_and_isun_keep_their_names(place):
    write_images(place / "LSUN" / "test", 3, 36, 36)
    write_images(place / "LSUN_resize" / "LSUN_resize", 2, 32, 32)
    write_images(place / "iSUN" / "iSUN_patches", 2, 32, 32)
    cropped, resized, plain = (read_ood(w, SIZE) for w in ("lsun_crop", "lsun_resize", "isun"))
    assert [s.name for s in (cropped, resized, plain)] == ["lsun_crop", "lsun_resize", "isun"]
    first = next(iter(sorted((place / "LSUN" / "test").iterdir())))
    expected = np.asarray(_open(first))[2:34, 2:34]
    assert np.array_equal(all_of(cropped)[0].permute(1, 2, 0), expected)
    with pytest.raises(UserError, match="lsun_crop must not be resized"):
        read_ood("lsun_crop:resize", SIZE)


def _open(path):
    from PIL import Image

    return Image.open(path).convert("RGB")


def test_an_archive_is_read_in_place(place):
    with tarfile.open(place / "iSUN.tar.gz", "w:gz") as archive:
        for row in range(3):
            raw = photograph(row, 32, 32)
            member = tarfile.TarInfo(f"iSUN/iSUN_patches/{row}.jpeg")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    assert len(read_ood("isun", SIZE)) == 3


@pytest.mark.parametrize("kind", ["npz", "jpeg", "npy", "grey"])
def test_arrays_are_read_as_they_are_stored(tmp_path, kind):
    x = pixels(3)
    path = tmp_path / f"My set-1.{'npy' if kind == 'npy' else 'npz'}"
    expected = x
    if kind == "npy":
        np.save(path, x)
    elif kind == "jpeg":
        files = [encoded(image) for image in x]
        blob = np.frombuffer(b"".join(files), dtype=np.uint8)
        np.savez(path, jpeg=blob, offsets=np.cumsum([0, *map(len, files)]))
    elif kind == "grey":
        np.savez(path, images=x[..., 0], labels=np.zeros(3))
        expected = np.repeat(x[..., :1], 3, axis=3)
    else:
        np.savez(path, images=x)
    images = read_ood(str(path), SIZE)
    assert images.name == "my_set_1"
    assert np.array_equal(all_of(images).permute(0, 2, 3, 1), expected)
    few = images.subset(torch.tensor([2, 0]))
    assert np.array_equal(all_of(few).permute(0, 2, 3, 1), expected[[2, 0]])


def test_resizing_and_cropping_are_two_things_with_two_names(tmp_path):
    path = tmp_path / "wide.npz"
    x = pixels(2, 64, 96)
    np.savez(path, images=x)
    resized, cropped = (read_ood(f"{path}:{way}", SIZE) for way in (RESIZE, CROP))
    assert (resized.name, cropped.name) == ("wide_resize", "wide_crop")
    assert np.array_equal(all_of(cropped).permute(0, 2, 3, 1), x[:, 16:48, 32:64])
    means = x[:, :, 16:80].mean(axis=(1, 2)), all_of(resized).float().mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(*means, atol=3)  # of the middle square
    assert set(WAYS) == {"", RESIZE, CROP}


def test_an_image_that_is_too_small_or_of_an_odd_size_is_refused():
    small = pixels(1, 20, 40)[0]
    with pytest.raises(ValueError, match="40x20 pixels, too small to be cropped"):
        fitted_pixels(small, SIZE, CROP)
    with pytest.raises(ValueError, match=r"of another size than the first.*PATH:resize"):
        fitted_pixels(small, SIZE, "")


@pytest.mark.parametrize("word", NAMED_SETS)
def test_what_is_not_there_is_told_with_what_to_put_where(place, word):
    with pytest.raises(UserError) as found:
        find_ood(word)
    assert NAMED_SETS[word].places[0] in found.value.todo
    assert str(place) in found.value.todo


def broken(folder, kind):
    path = folder / f"set.{kind.partition('-')[0]}"
    if kind == "mat-other":
        matlab.savemat(path, {"X": np.zeros((4, 4, 3, 2)), "y": np.zeros(2)})
    elif kind == "mat-hdf5":
        path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\0" * 500)
    elif kind == "mat-cut":
        matlab.savemat(path, {"X": pixels().transpose(1, 2, 3, 0)})
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "npz-float":
        np.savez(path, images=np.zeros((2, 32, 32, 3)))
    elif kind == "npz-objects":
        np.savez(path, images=np.array([{}], dtype=object))
    elif kind == "npz-none":
        np.savez(path, other=np.zeros(3))
    elif kind == "npz-ends":
        np.savez(path, jpeg=np.zeros(5, dtype=np.uint8), offsets=np.array([0, 9]))
    elif kind == "npz-empty":
        np.savez(path, images=np.zeros((0, 32, 32, 3), dtype=np.uint8))
    elif kind == "zip-no":
        path.write_bytes(b"PK but no archive")
    else:
        path = folder / "empty"
        path.mkdir()
        (path / "readme.txt").write_text("no image")
    return path


KINDS = ("mat-other", "mat-hdf5", "mat-cut", "npz-float", "npz-objects", "npz-none", "npz-ends")


@pytest.mark.parametrize("kind", [*KINDS, "npz-empty", "zip-no", "folder-empty"])
def test_files_that_are_no_images_are_refused_in_one_line(tmp_path, kind):
    path = broken(tmp_path, kind)
    with pytest.raises(UserError) as found:
        read_ood(str(path), SIZE)
    assert path.name in f"{found.value.where} {found.value.what}"
    assert "\n" not in found.value.what


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    write_images(tmp_path / "set", 30, 32, 32)
    (tmp_path / "set" / "12.png").write_bytes(photograph(1, 32, 32)[:200])
    images = read_ood(str(tmp_path / "set"), SIZE)
    with pytest.raises(UnreadableImageError, match=r"12\.png"):
        all_of(images)


PACKS = [SHARED / "data" / name for name in ("ood_textures500.npz", "ood_mnist500.npz")]


@pytest.mark.skipif(not PACKS[0].exists(), reason="needs the packs of textures and digits")
def test_the_packs_of_textures_and_digits_are_read():
    textures, digits = (read_ood(str(path), SIZE) for path in PACKS)
    assert [len(textures), len(digits)] == [500, 500]
    assert textures.name == "ood_textures500_resize"
    shown = digits[BatchIndex(torch.arange(4), 0)].images
    assert shown.shape == (4, 3, 32, 32)
    assert (shown[:, 0] == shown[:, 2]).all()
