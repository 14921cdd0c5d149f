import pytest
import torch

from mixbench.evaluation import patches


def test_the_sets_of_larger_ratios_hold_the_smaller():
    order = patches.drop_orders(0, torch.arange(20), 8)
    gone = patches.dropped(order, patches.RATIOS)
    assert (gone[:, 1:] | ~gone[:, :-1]).all()
    assert gone.sum(dim=2).unique(dim=0).tolist() == [[0, 6, 13, 19, 26, 32, 38, 45, 51, 58]]
    assert gone[0, 1].nonzero()[:, 0].tolist() == sorted(order[0, :6].tolist())
    assert not torch.equal(gone[0], gone[1])


@pytest.mark.parametrize(
    ("side", "grid"), [(224, 14), (64, 8), (32, 8), (8, 8), (28, 7), (300, 12), (6, 6)]
)
def test_patches_divide_the_image(side, grid):
    assert patches.patch_grid(side) == grid


def test_images_that_no_grid_divides_are_refused():
    with pytest.raises(ValueError, match="resize"):
        patches.patch_grid(31)
    with pytest.raises(ValueError, match="does not divide images of 32 x 30"):
        patches.occlude(torch.zeros(1, 3, 32, 30), torch.zeros(1, 64), torch.zeros(3))
    with pytest.raises(ValueError, match="square"):
        patches.occlude(torch.zeros(1, 3, 32, 32), torch.zeros(1, 63), torch.zeros(3))
    with pytest.raises(ValueError, match="square"):
        patches.shuffle(torch.zeros(1, 3, 32, 32), torch.zeros(1, 8, dtype=torch.long))


def test_dropped_patches_get_the_colour_and_others_stay():
    x = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    gone = torch.zeros(2, 4, dtype=torch.bool)
    gone[0, 1] = gone[1, 2] = True  # top right of the first, bottom left of the second
    fill = torch.tensor([0.1, 0.2, 0.3])
    found = patches.occlude(x, gone, fill)
    expected = x.clone()
    expected[0, :, :4, 6:] = expected[1, :, 4:, :6] = fill[:, None, None]
    assert torch.equal(found, expected)
    assert not torch.equal(found, x)  # the input is left alone


def test_patches_move_whole():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    order = torch.tensor([[3, 0, 1, 2], [0, 1, 2, 3]])
    found = patches.shuffle(x, order)
    assert torch.equal(found[1], x[1])
    assert torch.equal(found[0, :, :2, :3], x[0, :, 2:, 3:])
    assert torch.equal(found[0, :, :2, 3:], x[0, :, :2, :3])
    assert torch.equal(found[0, :, 2:, :3], x[0, :, :2, 3:])
    assert torch.equal(found[0, :, 2:, 3:], x[0, :, 2:, :3])


def test_salient_patches_go_first_and_ties_to_the_lower_patch():
    saliency = torch.zeros(1, 4, 4)
    saliency[0, 3, 3], saliency[0, 0, 2] = 1, 2
    assert patches.salient_orders(saliency, 2).tolist() == [[1, 3, 0, 2]]
    assert patches.salient_orders(saliency, 2, lowest_first=True).tolist() == [[0, 2, 3, 1]]


def test_the_area_of_a_constant_curve_is_its_height():
    ratios = torch.tensor([0, 0.2, 0.9])
    assert patches.occlusion_auc(ratios, torch.full((3,), 70.0)) == pytest.approx(70)
    for bad in (ratios[:1], ratios.flip(0), torch.tensor([0.0, 0.0])):
        with pytest.raises(ValueError, match="ascend"):
            patches.occlusion_auc(bad, torch.zeros(len(bad)))
