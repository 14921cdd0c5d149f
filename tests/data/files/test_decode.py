"""One rule from files to pixels: deep values, damage, and what counts as an image."""

import contextlib
import io
import re
import struct
import threading
import warnings

import numpy as np
import pytest
from making import encoded, source, twin
from PIL import Image

from mixbench.config.schema import DataConfig
from mixbench.data.files.decode import (
    THREADS,
    decode,
    decode_all,
    decode_crop,
    formats,
    grey_values,
    image_suffixes,
    in_threads,
    is_image,
    size_of,
)

RAMP = np.linspace(0, 1, 60).reshape(6, 10)


def tiff(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", **options)
    return file.getvalue()


def deep_png(pixels):
    """A 16-bit RGB file, which Pillow reads but does not write."""
    import zlib

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    )  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("raw", "top"),
    [
        (encoded((RAMP * 65535).round().astype(np.uint16)), 65535),
        (tiff((RAMP * 65535).round().astype(np.uint16)), 65535),
        (tiff((RAMP * 65535).round().astype(np.int32)), 65535),
        (tiff(RAMP.astype(np.float32)), 1),
    ],
)
def test_deep_values_keep_their_share_of_the_range(raw, top):
    expected = (RAMP * 255).round()
    found = decode(raw)
    assert np.abs(found[..., 0] - expected).max() <= 1  # 16-bit steps were rounded before
    assert found[0, 0].tolist() == [0, 0, 0]
    assert found[-1, -1].tolist() == [255, 255, 255]
    assert np.allclose(grey_values(raw), RAMP * top, atol=0.5 if top > 1 else 1e-6)


def test_a_tiff_of_twelve_bits_is_stretched_from_twelve_bits():
    values = np.array([[0, 4095, 2048, 1024]])
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2).tolist()
    )
    entries = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 0), (277, 1), (278, 1),
               (279, len(packed))]  # fmt: skip
    head = 8 + 2 + 12 * len(entries) + 4
    table = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, head if tag == 273 else value)
        for tag, value in entries
    )
    raw = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", 0) + packed
    assert decode(raw)[0, :, 0].tolist() == [0, 255, 128, 64]


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([[0, 70_000]], np.int32),
        np.array([[-1, 9]], np.int32),
        np.array([[0, 200]], np.float32),
        np.array([[-0.5, 0.5]], np.float32),
        np.array([[np.nan, 0.5]], np.float32),
        np.array([[np.inf, 0.5]], np.float32),
    ],
)
def test_values_out_of_range_are_refused_and_not_cut_off(pixels):
    with pytest.raises(OSError, match="values run from"):
        decode(tiff(pixels))


@pytest.mark.parametrize("deep", [encoded, lambda pixels: deep_png(np.stack([pixels] * 3, -1))])
def test_a_deep_set_that_is_almost_black_is_said(tmp_path, deep):
    def said(top, *more):
        for part in ("train", "val"):
            for name in ("x", "y"):
                folder = tmp_path / part / name
                folder.mkdir(parents=True, exist_ok=True)
                for row, raw in enumerate((deep((RAMP * top).round().astype(np.uint16)), *more)):
                    (folder / f"{row}.png").write_bytes(raw)
        words = ("data=folder", f"data.root={tmp_path}", "data.size=4")
        found = [source(*words, *kept).load().info.notices for kept in ((), ("data.crop_area=1",))]
        return [[n for n in notices if "also training" not in n] for notices in found]

    bright = encoded(np.full((6, 10), 250, np.uint8))
    for notices in said(4095, bright):
        (black, _) = [notice for notice in notices if "black" in notice]
        assert black.startswith("2 images")
        assert re.search(r"([56]\.\d) %", black)
    for notices in said(6900):
        assert not any("black" in notice for notice in notices)


def test_dark_images_of_eight_bits_are_not_taken_for_deep_ones(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.full((4, 8, 8), 9, np.uint8), label=[0, 1, 0, 1])
    path = tmp_path / "a.npz"
    test = twin(path, tmp_path)
    info = source("data=pack", f"data.train={path}", f"data.test={test}").load().info
    assert not any("black" in notice for notice in info.notices)


# FAULTS row 15.
@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "PNG"), ("L", "BMP"), ("LA", "PNG"), ("P", "GIF"), ("PA", "TIFF"), ("RGB", "WEBP"),
     ("RGBA", "PNG"), ("RGBX", "TIFF"), ("CMYK", "TIFF"), ("CMYK", "JPEG"), ("YCbCr", "TIFF"),
     ("LAB", "TIFF")],
)  # fmt: skip
def test_every_mode_shows_its_colours(mode, kind):
    colour = {"1": (255, 255, 255), "L": (90, 90, 90), "LA": (90, 90, 90)}.get(mode, (200, 60, 90))
    image = Image.new("RGB", (16, 16), colour)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    elif mode in ("P", "PA"):
        image = image.quantize(4).convert(mode)
    else:
        image = image.convert(mode)
    file = io.BytesIO()
    try:
        image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    except (OSError, KeyError):
        pytest.skip(f"Pillow does not write {mode} as {kind}")
    found = decode(file.getvalue())
    assert np.abs(found.astype(int) - colour).max() <= 4


def damaged_exif():
    """Files whose EXIF leads Pillow to errors of several kinds, each once."""
    file = io.BytesIO()
    image = Image.new("RGB", (8, 8), (9, 9, 9))
    exif = image.getexif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0
    image.save(file, "JPEG", exif=exif)
    whole = file.getvalue()
    start = whole.index(b"Exif\0\0") + 6
    rng = np.random.default_rng(0)
    for _ in range(300):
        raw = bytearray(whole)
        for place in rng.integers(start, start + 70, 4):
            raw[place] = rng.integers(256)
        yield bytes(raw)


def test_damaged_exif_is_an_oserror_or_harmless():
    refused = 0
    for raw in damaged_exif():
        for work in (decode, size_of, lambda raw: decode_crop(raw, 4, 0.5, 0)):
            try:
                work(raw)
            except OSError:
                refused += 1
    assert refused


@pytest.mark.parametrize(
    "error", [struct.error, TypeError, ValueError, SyntaxError, ZeroDivisionError, IndexError,
              KeyError, OverflowError, RuntimeError, AttributeError, MemoryError]
)  # fmt: skip
@pytest.mark.parametrize(
    "work", [decode, size_of, grey_values, lambda r: decode_crop(r, 4, 0.5, 0)]
)
def test_whatever_pillow_raises_means_an_unreadable_image(monkeypatch, error, work):
    def fail(*args, **options):
        raise error("as Pillow's plug-ins do")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match="as Pillow"):
        work(b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "TGA"])
def test_no_damage_of_a_file_is_anything_but_an_oserror(kind):
    rng = np.random.default_rng(1)
    whole = encoded(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), kind)
    for round_ in range(60):
        raw = bytearray(whole)
        for place in rng.integers(0, min(len(raw), 200), 5):
            raw[place] = rng.integers(256)
        content = bytes(raw[: len(raw) // 2] if round_ % 4 == 0 else raw)
        with contextlib.suppress(OSError):
            assert decode(content, 8).shape == (8, 8, 3)


def test_a_long_strip_is_not_resized_to_any_size():
    raw = encoded(np.zeros((2, 60_000), np.uint8))
    assert decode(raw, 8).shape == (8, 8, 3)
    with pytest.raises(OSError, match="bomb"):
        decode(raw, 224, 256)


def test_nothing_is_handed_to_another_program():
    assert "EPS" not in formats()
    raw = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with pytest.raises(OSError, match="not an image"):
        decode(raw)
    assert not is_image("x.eps")


def test_an_image_is_what_pillow_opens_here():
    for name in ("a.jfif", "a.JPEG", "b.Tiff", "c.avif", "d.jp2", "e.qoi", "f.jpe", "g.apng"):
        assert is_image(name) == (f".{name.split('.')[1].lower()}" in image_suffixes())
    for name in ("a.jfif", "a.JPEG", "b.Tiff", "f.jpe", "x/y.png"):
        assert is_image(name)
    for name in ("a.txt", "png", ".png", "a.png.part", "a.h5", "a.heic5", "a"):
        assert not is_image(name)


def test_a_deep_image_is_turned_and_fitted_as_others_are():
    values = (np.arange(24).reshape(4, 6) * 2600).astype(np.uint16)
    image = Image.fromarray(values)
    exif = image.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    expected = np.rot90((values / 257).round(), -1)
    assert np.array_equal(decode(file.getvalue())[..., 0], expected)
    assert decode(file.getvalue(), 4).shape == (4, 4, 3)


def test_decoding_in_threads_leaves_the_filters_of_warnings_alone():
    files = [encoded(RAMP.astype(np.uint8))] * 64
    before = list(warnings.filters)
    decode_all([str(row) for row in range(64)], lambda row: files[row], DataConfig())
    assert warnings.filters == before


def test_an_upright_image_in_rgb_is_decoded_without_a_copy(monkeypatch):
    pixels = np.arange(6 * 10 * 3, dtype=np.uint8).reshape(6, 10, 3)
    raw = encoded(pixels)

    def refused(*given, **settings):
        raise AssertionError("the image was copied")

    monkeypatch.setattr(Image.Image, "copy", refused)
    assert np.array_equal(decode(raw), pixels)


def test_few_images_keep_all_threads_busy_and_of_many_a_thread_takes_several_at_a_time():
    together = threading.Barrier(THREADS)
    assert sorted(in_threads(lambda row: together.wait(30), range(THREADS))) == [*range(THREADS)]
    found = list(in_threads(lambda row: (row, threading.get_ident()), range(3, 643)))
    assert [row for row, _ in found] == [*range(3, 643)]
    assert all(len({thread for _, thread in found[k : k + 16]}) == 1 for k in range(0, 640, 16))
