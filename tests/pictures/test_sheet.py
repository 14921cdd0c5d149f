import torch
from PIL import Image

from mixbench.functional import Mixed
from mixbench.pictures.sheet import (
    CELL,
    LINE,
    MARGIN,
    Panel,
    enlarge,
    label_text,
    mixed_sheet,
    sheet,
)

RED, BLUE = ((255, 0, 0), (0, 0, 255))


def plain(colour, size=(CELL, CELL)):
    return Image.new("RGB", size, colour)


def test_panels_stand_in_rows_and_columns():
    wide = plain(BLUE, (2 * CELL, CELL))
    rows = [[Panel("a", plain(RED), ["text"]), Panel("b", wide)]] * 2
    picture = sheet(rows)
    height = CELL + LINE + MARGIN
    assert picture.size == (3 * CELL + 3 * MARGIN, MARGIN + LINE + 2 * height)
    for row in range(2):
        y = MARGIN + LINE + row * height + CELL // 2
        assert picture.getpixel((MARGIN + CELL // 2, y)) == RED
        assert picture.getpixel((2 * MARGIN + CELL + CELL, y)) == BLUE


def test_rows_may_have_different_panels():
    picture = sheet([[Panel("a", plain(RED))], [Panel("a", plain(RED)), Panel("b", plain(BLUE))]])
    assert picture.size[0] == 2 * CELL + 3 * MARGIN


def test_long_text_is_cut_and_notes_are_broken_into_lines():
    short = sheet([[Panel("title", plain(RED), ["label"])]])
    long = sheet([[Panel("title " * 40, plain(RED), ["label " * 40])]])
    assert long.size == short.size
    noted = sheet([[Panel("title", plain(RED), ["label"])]], ["a note of several words " * 5])
    assert noted.size[0] == short.size[0]
    assert noted.size[1] - short.size[1] >= 5 * LINE
    below = noted.crop((0, short.size[1], *noted.size)).getcolors(1 << 16)
    assert below is not None
    assert len(below) > 1


def test_an_image_is_enlarged_with_square_pixels():
    image = torch.zeros(3, 4, 8)
    image[0, :, :4] = 2.0  # cut off at 1
    shown = enlarge(image, 64)
    assert shown.size == (64, 32)
    assert shown.getpixel((31, 16)) == RED
    assert shown.getpixel((32, 16)) == (0, 0, 0)


def test_a_label_names_its_heaviest_classes():
    names = ["cat", "dog", "owl"]
    assert label_text(torch.tensor([0.3, 0.7, 0.0]), names) == ["0.70  dog", "0.30  cat"]
    assert label_text(torch.tensor([0.0, 1.0, 0.0]), names) == ["1.00  dog"]


def test_a_mixed_sheet_shows_the_partner_and_the_mixed_image():
    pixels = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    mixed = Mixed(pixels / 2, torch.eye(2), perm=torch.tensor([1, 0]))
    picture = mixed_sheet(pixels, torch.eye(2), mixed, ["a", "b"])
    y = MARGIN + LINE + CELL // 2
    columns = [MARGIN + CELL // 2 + column * (CELL + MARGIN) for column in range(3)]
    assert [picture.getpixel((x, y))[0] for x in columns] == [0, 255, 0]
    plain_batch = mixed_sheet(pixels, torch.eye(2), mixed._replace(perm=None), ["a", "b"])
    assert plain_batch.size[0] < picture.size[0]


def test_a_method_with_several_labels_is_shown_with_the_batch_s_own():
    pixels = torch.zeros(2, 3, 4, 4)
    mixed = Mixed(pixels, {"clean": torch.eye(2), "mixed": torch.eye(2)})
    assert mixed_sheet(pixels, torch.eye(2), mixed, ["a", "b"]).size[1] > CELL


def test_a_sheet_of_a_batch_shows_its_first_images_beside_their_partners():
    greys = torch.arange(12) * 20 / 255
    pixels = greys[:, None, None, None].expand(-1, 3, 4, 4)
    perm = torch.arange(12).roll(5)
    mixed = Mixed(1 - pixels, torch.eye(12), torch.tensor([0.5]), perm)
    picture = mixed_sheet(pixels, torch.eye(12), mixed, [str(n) for n in range(12)])
    columns = [MARGIN + column * (CELL + MARGIN) + CELL // 2 for column in range(3)]
    step = CELL + LINE + MARGIN
    rows = [MARGIN + LINE + row * step + CELL // 2 for row in range(8)]
    assert picture.height == MARGIN + LINE + 8 * step
    for row, top in enumerate(rows):
        shown = [picture.getpixel((left, top))[0] for left in columns]
        assert shown == [20 * row, 20 * int(perm[row]), 255 - 20 * row]
