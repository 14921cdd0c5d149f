import re
import warnings
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from mixbench.errors import UserError
from mixbench.leaderboard.plots.draw import draw
from mixbench.leaderboard.plots.export import save, svg
from mixbench.leaderboard.plots.style import COLUMN


@pytest.fixture
def figure(compared):
    return draw("forest", compared.board())


def words(root):
    """The text of each text element."""
    parts = root.iter("{http://www.w3.org/2000/svg}text")
    return {"".join(part.itertext()).strip() for part in parts}


def test_an_svg_holds_its_text_as_text(figure):
    root = ElementTree.fromstring(svg(figure))
    assert {"cutmix", "mixup"} <= words(root)


def test_names_with_markup_stay_text_in_an_svg(runs):
    name = 'id="x" <script>alert(1)</script> url(#x) $a$ & b'
    runs.seeds("erm", 90.0, 90.1)
    runs.seeds(name, 91.0, 91.1)
    text = svg(draw("leaderboard", runs.board(), width=20))
    root = ElementTree.fromstring(text)
    assert not [part for part in root.iter() if part.tag.endswith("script")]
    assert name in words(root)


def test_figures_of_one_page_share_no_id(compared):
    board = compared.board()
    pages = [svg(draw(kind, board)) for kind in ("forest", "leaderboard", "winmatrix")]
    ids = [re.findall(r'\bid="([^"]*)"', page) for page in pages]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not set(ids[one]) & set(ids[other])
    for page, known in zip(pages, ids, strict=True):
        assert len(known) == len(set(known))
        assert set(re.findall(r'(?:url\(#|href="#)([^")]*)', page)) <= set(known)


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_equal_figures_make_equal_files_without_a_date(compared, tmp_path, suffix):
    board = compared.board()
    for name in "ab":
        save(draw("leaderboard", board), tmp_path / f"{name}{suffix}")
    one, other = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert one == other
    assert b"Date" not in one


def test_a_picture_is_as_wide_as_a_column(figure, tmp_path):
    save(figure, tmp_path / "forest.PNG")
    with Image.open(tmp_path / "forest.PNG") as picture:
        assert picture.width == pytest.approx(300 * COLUMN, abs=1)


@pytest.mark.parametrize("name", ["forest", "forest.jpg", "none/forest.svg"])
def test_a_file_that_no_figure_is_written_to_is_refused(figure, tmp_path, name):
    with pytest.raises(UserError):
        save(figure, tmp_path / name)


def test_a_failed_write_leaves_the_old_file(figure, tmp_path, monkeypatch):
    path = tmp_path / "forest.svg"
    path.write_text("old")
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(figure, path)
    assert path.read_text() == "old"


def test_letters_that_the_font_lacks_are_said_once_and_kept_in_an_svg(runs, tmp_path):
    runs.add("erm", settings={"字体": "混合"})
    runs.add("erm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw("leaderboard", runs.board())
        assert "字体" in svg(figure)
    with pytest.warns(UserWarning, match="boxes") as told:
        save(figure, tmp_path / "erm.png")
    assert len(told) == 1
