import pytest
import torch

from mixbench.methods import METHODS
from mixbench.testing.samples import sample_batch, sample_method


@torch.no_grad()
def drawn(**settings):
    method = sample_method(METHODS.get("fmix"), **settings)
    x, targets = sample_batch()
    method.reseed(0, 0)
    mixed = method.mix(x, targets)
    (sheet,) = method.picture(x, targets, mixed)
    return mixed, sheet


@pytest.mark.parametrize("per_sample", [False, True])
def test_each_row_shows_the_mask_of_its_image_before_the_mixed_image(per_sample):
    mixed, sheet = drawn(per_sample=per_sample)
    for own, other in sheet.pairs:
        (row,) = sheet.rows(own, other)
        assert [panel.title for panel in row] == ["image", "partner", "mask", "mixed"]
        image, partner, mask, result = (panel.image for panel in row)
        torch.testing.assert_close(torch.where(mask == 1, image, partner), result)
        assert row[2].lines == [f"mean {mixed.aux.expand(6, -1, -1, -1)[own].mean():.2f}"]
    masks = [sheet.rows(*pair)[0][2].image for pair in sheet.pairs]
    assert all(torch.equal(mask, masks[0]) for mask in masks) is not per_sample


def test_a_batch_that_is_left_as_it_is_has_no_mask():
    mixed, sheet = drawn(prob=0.0)
    assert mixed.aux is None
    assert [panel.title for panel in sheet.rows(0, 0)[0]] == ["image", "mixed"]
