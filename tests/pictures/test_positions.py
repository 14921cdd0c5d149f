import pytest
import torch
from PIL import Image

from mixbench.pictures.positions import (
    GAP,
    correspondence,
    heat,
    matched_colours,
    moved,
    position_colours,
    strongest_matches,
    tinted,
    with_box,
    with_grid,
)

GRID = (3, 4)
COUNT = 12


@pytest.fixture
def image():
    return torch.rand(3, 12, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def order():
    return torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))


def test_every_position_has_a_colour_of_its_own_and_neighbours_are_closest():
    colours = position_colours(GRID)
    gaps = torch.cdist(colours, colours) + 9 * torch.eye(COUNT)
    assert gaps.min() > 0.1
    for position, nearest in enumerate(gaps.argmin(dim=1).tolist()):
        here, there = divmod(position, GRID[1]), divmod(nearest, GRID[1])
        assert abs(here[0] - there[0]) + abs(here[1] - there[1]) == 1


def test_an_identity_plan_tints_both_sides_alike(image):
    colours = position_colours(GRID)
    matched = matched_colours(torch.eye(COUNT), colours)
    torch.testing.assert_close(matched, colours)
    assert torch.equal(tinted(image, matched, GRID), tinted(image, colours, GRID))


def test_a_matched_position_bears_the_colour_of_what_it_is_matched_to(order):
    colours = position_colours(GRID)
    plan = torch.eye(COUNT)[order]  # position i is found at order[i]
    torch.testing.assert_close(matched_colours(plan, colours)[order], colours)


def test_colours_are_weighed_by_the_plan_whatever_its_mass():
    plan = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    matched = matched_colours(plan, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(matched, torch.tensor([[0.75, 0.0, 0.25], [0.0, 0.0, 0.0]]))


def test_a_tint_fills_the_patch_of_its_position():
    colours = torch.zeros(COUNT, 3)
    colours[5] = 1.0  # second row, second column
    found = tinted(torch.zeros(3, 12, 8), colours, GRID, share=1.0)
    assert found[:, 4:8, 2:4].eq(1).all()
    assert found.sum() == 3 * 4 * 2


def test_a_permuted_plan_brings_the_patches_where_they_belong(image, order):
    patches = image.unfold(1, 4, 4).unfold(2, 2, 2).flatten(1, 2)  # (3, positions, 4, 2)
    found = moved(image, torch.eye(COUNT)[order], GRID)
    shown = found.unfold(1, 4, 4).unfold(2, 2, 2).flatten(1, 2)
    torch.testing.assert_close(shown, patches[:, order])
    torch.testing.assert_close(moved(image, torch.eye(COUNT), GRID), image)


def test_a_soft_plan_gives_means_whatever_the_sum_of_its_rows():
    image = torch.tensor([[[0.0, 0.8]]]).expand(3, 1, 2)
    found = moved(image, torch.tensor([[0.5, 1.5], [0.0, 0.1]]), (1, 2))
    torch.testing.assert_close(found[0], torch.tensor([[0.6, 0.8]]))


def test_a_map_that_does_not_divide_the_image_keeps_the_image_s_size(image):
    assert moved(image, torch.eye(25), (5, 5)).shape == image.shape
    assert tinted(image, position_colours((5, 5)), (5, 5)).shape == image.shape


def test_matches_are_the_strongest_with_their_share(order):
    plan = torch.eye(COUNT)[order] + 1.0 / COUNT
    for position, match, share in strongest_matches(plan, GRID, most=COUNT):
        assert match == order[position]
        assert share == pytest.approx((1 + 1 / COUNT) / 2)


@pytest.mark.parametrize(("grid", "count"), [((4, 4), 8), ((8, 8), 8), ((2, 3), 6), ((7, 7), 8)])
def test_a_selection_of_matches_is_spread_over_the_map(grid, count):
    positions = grid[0] * grid[1]
    chosen = [match[0] for match in strongest_matches(torch.eye(positions), grid, most=9)]
    assert len(chosen) == len(set(chosen)) == count
    rows = [position // grid[1] for position in chosen]
    columns = [position % grid[1] for position in chosen]
    for places, side in ((rows, grid[0]), (columns, grid[1])):
        assert min(places) < side / 3
        assert max(places) >= side * 0.5


def test_at_least_one_match_is_selected():
    assert len(strongest_matches(torch.eye(4), (2, 2), most=0)) == 1


def test_arrows_run_between_matched_positions(image):
    plan = torch.zeros(4, 4)
    plan[:, 3] = 1.0  # everything is found at the bottom right
    white = torch.ones(3, 16, 16)
    for cell in (64, 256):
        bare = correspondence(white, white, plan, (2, 2), cell=cell)
        assert bare.size == (2 * cell + round(GAP * cell), cell)
        crossed = dark_rows(bare, cell)
        assert len(crossed) > cell / 16
        assert min(crossed) > cell / 3.2  # on their way down
    even = correspondence(white, white, torch.eye(4), (2, 2), cell=64)
    crossed = dark_rows(even, 64)
    assert {y // 32 for y in crossed} == {0, 1}
    assert not {2, 32, 62} & set(crossed)


def dark_rows(picture, cell):
    """Rows of the gap's middle that an arrow crosses."""
    middle = cell + round(GAP * cell) // 2
    return [y for y in range(cell) if min(picture.getpixel((middle, y))[:3]) < 200]


def test_a_weaker_match_has_a_fainter_arrow():
    white = torch.ones(3, 8, 8)

    def darkness(share):
        plan = torch.tensor([[share, 1 - share], [1 - share, share]])
        picture = correspondence(white, white, plan, (1, 2), cell=64)
        middle = 64 + round(64 * GAP) // 2
        return sum(255 - min(picture.getpixel((middle, y))[:3]) for y in range(64))

    assert darkness(1.0) > darkness(0.6) > 0


def test_heat_rises_from_dark_to_pale():
    shown = heat(torch.linspace(0, 1, 9)[None])
    brightness = shown.mean(dim=0)[0]
    assert (brightness.diff() > 0).all()
    assert torch.equal(heat(torch.tensor([[-1.0, 2.0]])), heat(torch.tensor([[0.0, 1.0]])))


def test_a_grid_is_drawn_only_where_patches_can_be_told():
    black = Image.new("RGB", (64, 64))
    lines = with_grid(black, (2, 4))
    assert [x for x in range(64) if lines.getpixel((x, 5)) != (0, 0, 0)] == [16, 32, 48]
    assert [y for y in range(64) if lines.getpixel((5, y)) != (0, 0, 0)] == [32]
    assert with_grid(black, (32, 32)).getcolors() == [(64 * 64, (0, 0, 0))]
    assert black.getcolors() == [(64 * 64, (0, 0, 0))]
    large = with_grid(Image.new("RGB", (256, 256)), (1, 2))
    assert [x for x in range(256) if large.getpixel((x, 5)) != (0, 0, 0)] == [128, 129]


def test_the_outline_of_a_box_lies_on_its_border_and_an_empty_one_is_not_drawn():
    plain = Image.new("RGB", (80, 40), (255, 0, 0))
    shown = with_box(plain, [2, 1, 6, 7], (8, 16))  # five pixels of the picture for each
    white = [(x, y) for x in range(80) for y in range(40) if shown.getpixel((x, y)) == (255,) * 3]
    assert (min(x for x, _ in white), max(x for x, _ in white)) == (5, 34)
    assert (min(y for _, y in white), max(y for _, y in white)) == (10, 29)
    assert shown.getpixel((20, 20)) == (255, 0, 0)
    assert with_box(plain, [3, 3, 3, 9], (8, 16)).tobytes() == plain.tobytes()
