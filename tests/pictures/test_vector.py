import io
import re
import xml.etree.ElementTree as ET
import zlib

import pytest
import torch
from PIL import Image

from mixbench.errors import UserError
from mixbench.pictures import vector
from mixbench.pictures.sheet import Label, Panel, Sheet
from mixbench.pictures.vector import COLUMN, RESOLUTION, WIDE, magnify, write_vector

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<b>$x_1$ & \\frac{1}{2} ]]> "cat"'


def sheet_of(columns=3, name="cat", note="A note.", image=None):
    image = torch.rand(3, 8, 8) if image is None else image
    row = [Panel(f"column {n}", image, [Label(1.0, name)]) for n in range(columns)]
    return Sheet([(0, 1)], lambda *_: [row], [note])


def written(sheets, form="svg", scale=1.0):
    file = io.BytesIO()
    write_vector(sheets, file, form, scale)
    return file.getvalue()


def texts_of(svg):
    return ["".join(text.itertext()).strip() for text in ET.fromstring(svg).iter(f"{SVG}text")]


def width_of(svg):
    return float(ET.fromstring(svg).get("width").removesuffix("pt"))


def test_text_stays_text_and_every_image_is_there():
    svg = written([sheet_of()])
    shown = texts_of(svg)
    assert {"column 0", "column 2", "A note."} <= set(shown)
    assert sum(text.split() == ["1.00", "cat"] for text in shown) == 3
    assert len(list(ET.fromstring(svg).iter(f"{SVG}image"))) == 3


def test_letters_have_8_points_at_the_width_of_a_column():
    for columns, limit in ((1, COLUMN), (3, COLUMN), (5, WIDE), (9, WIDE)):
        svg = written([sheet_of(columns)])
        assert width_of(svg) <= limit
        assert set(re.findall(rb"font-size: ([0-9.]+)px|font: ([0-9.]+)px", svg)) == {(b"8", b"")}


def test_names_from_data_are_no_markup_and_no_formula():
    shown = texts_of(written([sheet_of(1, HOSTILE, HOSTILE)]))
    assert HOSTILE in " ".join(shown)  # of the note
    assert any("<b>$x_1" in text and text.startswith("1.00") for text in shown)
    assert written([sheet_of(1, HOSTILE)], "pdf").startswith(b"%PDF")


def test_a_scale_changes_the_whole_picture():
    once, twice = (written([sheet_of()], scale=scale) for scale in (1, 2))
    assert width_of(twice) == pytest.approx(2 * width_of(once))
    assert b"font-size: 16px" in twice


def test_equal_pictures_are_equal_files():
    sheet = sheet_of(image=torch.zeros(3, 4, 4))
    for form in ("svg", "pdf"):
        assert written([sheet], form) == written([sheet], form)


def test_small_images_are_magnified_with_equal_pixels_and_large_ones_left():
    shown = magnify(torch.rand(3, 28, 20, generator=torch.Generator().manual_seed(0)), RESOLUTION)
    assert shown.size == (180, 252)
    blocks = torch.tensor(list(shown.convert("L").tobytes())).view(28, 9, 20, 9)
    assert torch.equal(blocks, blocks[:, :1, :, :1].expand_as(blocks))
    assert magnify(torch.zeros(3, 400, 300), RESOLUTION).size == (300, 400)


def test_images_of_a_pdf_are_as_sharp_as_they_were_drawn():
    found = written([sheet_of(1)], "pdf")
    assert f"/Width {RESOLUTION}".encode() in found


def test_text_of_a_pdf_is_text():
    streams = re.findall(rb"stream\r?\n(.*?)endstream", written([sheet_of(1)], "pdf"), re.DOTALL)
    content = b"".join(zlib.decompress(s) for s in streams if s[:1] == b"x")
    assert b"BT" in content


def test_a_missing_matplotlib_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setattr(vector, "plot_font", lambda: "")
    with pytest.raises(UserError, match="matplotlib") as refused:
        written([sheet_of()])
    assert "mixbench[plots]" in str(refused.value)


def test_a_page_that_pdf_does_not_know_is_refused():
    tall = Sheet([(0, 1)], lambda *_: [[Panel("", Image.new("RGB", (128, 128 * 300)))]])
    with pytest.raises(UserError, match="14,400 points"):
        written([tall], "pdf")
    assert written([tall]).startswith(b"<?xml")
