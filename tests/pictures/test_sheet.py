import pytest
import torch
from PIL import Image

from mixbench.errors import UserError
from mixbench.functional import Mixed
from mixbench.pictures.raster import LINE, MARGIN, raster
from mixbench.pictures.sheet import (
    CELL,
    LONGEST,
    Label,
    Panel,
    Sheet,
    as_sheets,
    enlarge,
    label_text,
    matrix_sheet,
    mixed_sheet,
    selected,
    under_title,
)

RED, BLUE = ((255, 0, 0), (0, 0, 255))


def plain(colour, size=(CELL, CELL)):
    return Image.new("RGB", size, colour)


def drawn(rows, notes=()):
    return raster([Sheet([(0, 0)], lambda *_: rows, notes)])


def test_panels_stand_in_rows_and_columns():
    wide = plain(BLUE, (2 * CELL, CELL))
    rows = [[Panel("a", plain(RED), ["text"]), Panel("b", wide)]] * 2
    picture = drawn(rows)
    height = CELL + LINE + MARGIN
    assert picture.size == (3 * CELL + 3 * MARGIN, MARGIN + LINE + 2 * height)
    for row in range(2):
        y = MARGIN + LINE + row * height + CELL // 2
        assert picture.getpixel((MARGIN + CELL // 2, y)) == RED
        assert picture.getpixel((2 * MARGIN + CELL + CELL, y)) == BLUE


def test_rows_may_have_different_panels():
    picture = drawn([[Panel("a", plain(RED))], [Panel("a", plain(RED)), Panel("b", plain(BLUE))]])
    assert picture.size[0] == 2 * CELL + 3 * MARGIN


def test_an_image_is_enlarged_with_square_pixels():
    image = torch.zeros(3, 4, 8)
    image[0, :, :4] = 2.0  # cut off at 1
    shown = enlarge(image, 64)
    assert shown.size == (64, 32)
    assert shown.getpixel((31, 16)) == RED
    assert shown.getpixel((32, 16)) == (0, 0, 0)


def test_an_image_that_is_too_large_is_averaged():
    chessboard = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    shown = enlarge(chessboard.expand(3, -1, -1).float(), 4)
    assert {grey for _, (grey, _, _) in shown.getcolors()} == {128}


def test_a_label_names_its_heaviest_classes():
    names = ["cat", "dog", "owl"]
    found = label_text(torch.tensor([0.3, 0.7, 0.0]), names)
    assert [(round(label.weight, 2), label.name) for label in found] == [(0.7, "dog"), (0.3, "cat")]
    assert label_text(torch.tensor([0.5, 0.3, 0.2]), names)[2:] == ["and 1 more"]
    assert label_text(torch.tensor([0.0, 1.0, 0.0]), names) == [Label(1.0, "dog")]
    unknown = float("nan")
    assert label_text(torch.tensor([unknown, 1.0, unknown]), names) == [Label(1.0, "dog")]


def test_names_of_classes_are_one_line_of_signs_that_can_be_shown():
    (label,) = label_text(torch.ones(1), ["a\nb\x1b[2J\u202e" + "z" * 10**6])
    assert label.name.isprintable()
    assert label.name.startswith("a b\\x1b[2J\\u202e")
    assert len(label.name) < 2 * LONGEST


def test_a_mixed_sheet_shows_the_partner_and_the_mixed_image():
    pixels = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    mixed = Mixed(pixels / 2, torch.eye(2), perm=torch.tensor([1, 0]))
    picture = raster([mixed_sheet(pixels, torch.eye(2), mixed, ["a", "b"])])
    y = MARGIN + LINE + CELL // 2
    columns = [MARGIN + CELL // 2 + column * (CELL + MARGIN) for column in range(3)]
    assert [picture.getpixel((x, y))[0] for x in columns] == [0, 255, 0]
    alone = mixed_sheet(pixels, torch.eye(2), mixed._replace(perm=None), ["a", "b"])
    assert raster([alone]).size[0] < picture.size[0]


def test_a_method_with_several_labels_is_shown_with_the_batch_s_own():
    pixels = torch.zeros(2, 3, 4, 4)
    mixed = Mixed(pixels, {"clean": torch.eye(2), "mixed": torch.eye(2)})
    row = mixed_sheet(pixels, torch.eye(2), mixed, ["a", "b"]).drawn()[1]
    assert [panel.lines for panel in row] == [[Label(1.0, "b")]] * 2


def test_a_sheet_of_a_batch_shows_its_first_images_beside_their_partners():
    greys = torch.arange(12) * 20 / 255
    pixels = greys[:, None, None, None].expand(-1, 3, 4, 4)
    perm = torch.arange(12).roll(5)
    mixed = Mixed(1 - pixels, torch.eye(12), torch.tensor([0.5]), perm)
    picture = raster([mixed_sheet(pixels, torch.eye(12), mixed, [str(n) for n in range(12)])])
    columns = [MARGIN + column * (CELL + MARGIN) + CELL // 2 for column in range(3)]
    step = CELL + LINE + MARGIN
    rows = [MARGIN + LINE + row * step + CELL // 2 for row in range(8)]
    assert picture.height == MARGIN + LINE + 8 * step
    for row, top in enumerate(rows):
        shown = [picture.getpixel((left, top))[0] for left in columns]
        assert shown == [20 * row, 20 * int(perm[row]), 255 - 20 * row]


def sheet_of(*titles, pairs=6, **settings):
    """A sheet whose panels are named after their columns and pairs."""
    places = [(own, (own + 1) % pairs) for own in range(pairs)]

    def rows(own, other):
        return [[Panel(title, plain(RED), [f"{title} {own} {other}"]) for title in titles]]

    return Sheet(places, rows, **settings)


def lines_of(sheet):
    return [[panel.lines[0] for panel in row] for row in sheet.drawn()]


def test_columns_are_chosen_by_their_titles_in_the_order_of_the_titles():
    (sheet,) = selected([sheet_of("image", "partner", "mixed")], ["mixed", "image"], 2)
    assert lines_of(sheet) == [["mixed 0 1", "image 0 1"], ["mixed 1 2", "image 1 2"]]


def test_a_column_belongs_to_all_rows_of_a_pair():
    rows = [
        [Panel("a", plain(RED)), Panel("b", plain(RED), ["upper"])],
        [Panel("", plain(RED)), Panel("", plain(RED), ["lower"])],
    ]
    (sheet,) = selected([Sheet([(0, 1)], lambda *_: rows)], ["b"])
    assert [[list(panel.lines) for panel in row] for row in sheet.drawn()] == [
        [["upper"]],
        [["lower"]],
    ]


def test_a_sheet_without_any_of_the_columns_is_left_out():
    sheets = [sheet_of("image", "mixed", title="whole"), sheet_of("image", "map")]
    assert [sheet.title for sheet in selected(sheets, ["map"])] == [""]
    assert len(selected(sheets, ["image"])) == 2


def test_unknown_and_repeated_columns_are_refused_with_the_list():
    sheets = [sheet_of("image", "mixed")]
    with pytest.raises(UserError, match="no column 'mask'") as refused:
        selected(sheets, ["mask"])
    assert "image, mixed" in str(refused.value)
    with pytest.raises(UserError, match="twice"):
        selected(sheets, ["image", "image"])
    with pytest.raises(UserError, match="has no columns"):
        selected(as_sheets(plain(RED)), ["image"])


@pytest.mark.parametrize("images", [0, -1, 7])
def test_more_pairs_than_the_batch_has_are_refused(images):
    with pytest.raises(UserError, match="between 1 and 6"):
        selected([sheet_of("image")], images=images)


def test_a_matrix_has_a_column_for_each_method_and_the_pairs_that_all_have():
    pixels, names = torch.zeros(6, 3, 4, 4), list("abcdef")
    some = sheet_of("image", "mixed")._replace(pairs=[(2, 3), (4, 5)], caveats=["note"])
    sheets = {"one": sheet_of("x", "y", notes=["of the map"]), "two": under_title([some], "T")[0]}
    matrix = matrix_sheet(pixels, torch.eye(6), names, sheets)
    rows = matrix.drawn()
    assert [panel.title for panel in rows[0]] == ["image", "partner", "one", "two"]
    assert [list(row[2].lines) for row in rows] == [["y 2 3"], ["y 4 5"]]
    assert [list(row[3].lines) for row in rows] == [["mixed 2 3"], ["mixed 4 5"]]
    assert rows[0][1].lines == [Label(1.0, "d")]
    assert (*matrix.notes, *matrix.caveats) == ("two: T", "two: note")


def test_a_finished_picture_becomes_a_sheet_and_nothing_else_does():
    picture = raster(as_sheets(plain(BLUE, (300, 40))))
    assert picture.size == (300 + 2 * MARGIN, 40 + 2 * MARGIN)
    with pytest.raises(TypeError, match="picture returned Tensor"):
        as_sheets(torch.zeros(3))  # pyright: ignore[reportArgumentType]
