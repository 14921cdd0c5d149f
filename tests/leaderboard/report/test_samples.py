import base64
import io

import pytest
from PIL import Image
from report_runs import write_samples

from mixbench.errors import UserError
from mixbench.leaderboard.report import samples
from mixbench.leaderboard.report.samples import embed_samples


def decoded(found):
    return Image.open(io.BytesIO(base64.b64decode(found.uri.partition(",")[2])))


def test_a_picture_of_few_colours_stays_sharp(tmp_path):
    Image.new("RGB", (200, 100), (255, 0, 0)).save(tmp_path / "samples.png")
    found = embed_samples(tmp_path, 20_000)
    assert found.uri.startswith("data:image/png;base64,")
    assert (found.width, found.height) == decoded(found).size == (200, 100)


@pytest.mark.parametrize("limit", [60_000, 15_000])
def test_a_large_picture_is_made_small_and_keeps_its_shape(tmp_path, limit):
    write_samples(tmp_path, 600, 400)
    found = embed_samples(tmp_path, limit)
    assert len(base64.b64decode(found.uri.partition(",")[2])) <= limit
    assert (found.width, found.height) == (400, 600)
    width, height = decoded(found).size
    assert width / height == pytest.approx(400 / 600, rel=0.02)


def test_a_missing_picture_is_told(tmp_path):
    with pytest.raises(UserError, match="has no picture"):
        embed_samples(tmp_path, 1000)


@pytest.mark.parametrize("content", [b"", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_no_picture_is_told(tmp_path, content):
    (tmp_path / "samples.png").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        embed_samples(tmp_path, 1000)


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_PIXELS", 100)
    write_samples(tmp_path, 20, 20)
    with pytest.raises(UserError, match="cannot be read"):
        embed_samples(tmp_path, 1000)
