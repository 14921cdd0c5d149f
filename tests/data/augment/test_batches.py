import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from mixbench.data.augment.batches import (
    alternating_flips,
    crop_flip,
    draw_crop_flip,
    draw_erasing,
    erase,
    to_float,
)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def make_images(dtype: torch.dtype, batch: int = 6, height: int = 5, width: int = 8) -> Tensor:
    shape = batch, 3, height, width
    return torch.randint(1, 256, shape, generator=seeded(0)).to(dtype)


def crop_flip_by_hand(x: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """One pixel after the other: where it comes from before crop, padding and mirror."""
    batch, _, height, width = x.shape
    out = torch.zeros_like(x)
    for image in range(batch):
        for row in range(height):
            for col in range(width):
                source = [row, col]
                for axis in (0, 1):
                    source[axis] += int(offsets[image, axis]) - padding
                if not (0 <= source[0] < height and 0 <= source[1] < width):
                    continue
                if flips[image]:
                    source[1] = width - 1 - source[1]
                out[image, :, row, col] = x[image, :, source[0], source[1]]
    return out


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding", [0, 1, 4, 9])
@pytest.mark.parametrize(("height", "width"), [(5, 8), (8, 5), (1, 1)])
def test_windows_of_every_image_equal_pixel_by_pixel_copying(dtype, padding, height, width):
    x = make_images(dtype, height=height, width=width)
    before = x.clone()
    offsets, flips = draw_crop_flip(len(x), padding, True, seeded(padding))
    # Both corners of the padded image, mirrored and not.
    offsets[:2], offsets[2:4] = 0, 2 * padding
    flips[:4] = torch.tensor([False, True, False, True])
    result = crop_flip(x, offsets, flips, padding)
    expected = crop_flip_by_hand(x, offsets, flips, padding)
    assert result.dtype == dtype
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert torch.equal(x, before)


def test_the_middle_window_without_mirror_is_the_image():
    x = make_images(torch.uint8)
    offsets, flips = torch.full((6, 2), 3), torch.zeros(6, dtype=torch.bool)
    torch.testing.assert_close(crop_flip(x, offsets, flips, 3), x, rtol=0, atol=0)


def test_mirroring_twice_is_the_image():
    x = make_images(torch.float32)
    offsets, flips = torch.zeros(6, 2, dtype=torch.int64), torch.ones(6, dtype=torch.bool)
    once = crop_flip(x, offsets, flips, 0)
    torch.testing.assert_close(once, x.flip(3), rtol=0, atol=0)
    torch.testing.assert_close(crop_flip(once, offsets, flips, 0), x, rtol=0, atol=0)


def test_images_in_any_memory_order_give_the_same_windows():
    x = make_images(torch.float32)
    offsets, flips = draw_crop_flip(6, 2, True, seeded(0))
    expected = crop_flip(x, offsets, flips, 2)
    last = x.contiguous(memory_format=torch.channels_last)
    turned = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    for other in (last, turned):
        torch.testing.assert_close(crop_flip(other, offsets, flips, 2), expected, rtol=0, atol=0)


def test_windows_are_cut_without_reading_a_tensor():
    x = make_images(torch.uint8).to("meta")  # tensors of this device have no values to read
    result = crop_flip(x, *draw_crop_flip(6, 4, True, seeded(0)), 4)
    assert result.shape == x.shape
    assert result.device.type == "meta"


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_every_offset_is_equally_likely_and_none_lies_outside(padding):
    ways = 2 * padding + 1
    offsets, _ = draw_crop_flip(10_000, padding, True, seeded(1))
    assert offsets.shape == (10_000, 2)
    assert offsets.dtype == torch.int64
    counts = (offsets[:, 0] * ways + offsets[:, 1]).bincount(minlength=ways**2)
    assert len(counts) == ways**2
    assert padding == 0 or stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_half_of_the_images_are_mirrored_or_none():
    _, flips = draw_crop_flip(10_000, 4, True, seeded(2))
    assert flips.dtype == torch.bool
    assert abs(int(flips.sum()) - 5000) < 200  # four standard deviations
    assert not draw_crop_flip(10_000, 4, False, seeded(2))[1].any()


def test_draws_depend_on_the_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (draw_crop_flip(50, 4, True, seeded(seed)) for seed in (3, 3, 4))
    assert all(map(torch.equal, again, first))
    assert not any(map(torch.equal, other, first))
    assert torch.equal(torch.get_rng_state(), before)


def test_turning_mirrors_off_leaves_the_offsets_as_they_were():
    with_flips, without = (draw_crop_flip(50, 4, flip, seeded(5)) for flip in (True, False))
    assert torch.equal(with_flips[0], without[0])


def test_alternating_images_are_mirrored_in_every_other_epoch_from_a_start_of_their_own():
    ids = torch.arange(10_000)
    first, second, third = (alternating_flips(ids, 7, epoch) for epoch in range(3))
    assert first.dtype == torch.bool
    assert abs(int(first.sum()) - 5000) < 200  # four standard deviations
    assert torch.equal(second, ~first)
    assert torch.equal(third, first)
    agree = [
        first == alternating_flips(ids, 8, 0),
        first[1:] == first[:-1],
        first[2:] == first[:-2],
    ]
    assert all(abs(float(same.double().mean()) - 0.5) < 0.02 for same in agree)
    order = torch.randperm(len(ids), generator=seeded(0))
    assert torch.equal(alternating_flips(ids[order], 7, 0), first[order])


def test_pixels_become_shares_of_full_brightness():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    shares = to_float(pixels)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.flatten(), torch.arange(256) / 255, rtol=1e-7, atol=0)
    assert torch.equal(pixels.flatten(), torch.arange(256, dtype=torch.uint8))


def test_images_that_are_float_already_are_not_modified():
    pixels = torch.full((1, 1, 2, 2), 255.0)
    to_float(pixels)
    torch.testing.assert_close(pixels, torch.full((1, 1, 2, 2), 255.0), rtol=0, atol=0)


def test_parts_to_erase_keep_to_area_ratio_chance_and_image():
    height, width = 60, 90
    boxes = draw_erasing(20_000, 0.25, height, width, seeded(7))
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (boxes[:, :2] >= 0).all()
    assert boxes[:, 2:].amax(dim=0).tolist() == [height, width]  # the border can be reached
    erased = sides.prod(dim=1) > 0
    assert abs(erased.double().mean() - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5
    assert torch.equal(erased, (sides > 0).any(dim=1))
    rows, cols = sides[erased].double().unbind(1)
    share, ratio = rows * cols / (height * width), rows / cols
    assert 0.018 < share.min() < 0.025
    assert 0.32 < share.max() < 0.345
    assert ratio.min() > 0.27
    assert ratio.max() < 3.7
    # Small parts always fit, so that their ratio and place are as they were drawn.
    small = share < 0.06
    logs = ratio[small].log() / torch.tensor(10 / 3).log()
    assert stats.kstest(logs.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    place = boxes[erased][small, 0].double() / (height - rows[small])
    assert stats.kstest(place.numpy(), stats.uniform(0, 1).cdf).statistic < 0.04


def test_without_a_chance_nothing_is_erased_and_with_certainty_everything_is():
    assert not draw_erasing(100, 0.0, 32, 32, seeded(1)).any()
    boxes = draw_erasing(1000, 1.0, 32, 32, seeded(1))
    assert ((boxes[:, 2:] - boxes[:, :2]).prod(dim=1) > 0).all()


def test_noise_stands_in_the_part_and_nowhere_else():
    x = torch.full((3, 2, 50, 40), 9.0)
    boxes = torch.tensor([[5, 10, 45, 30], [0, 0, 0, 0], [0, 0, 50, 40]])
    erased = erase(x, boxes)
    inside = torch.zeros(3, 1, 50, 40, dtype=torch.bool)
    inside[0, :, 5:45, 10:30] = True
    inside[2] = True
    assert torch.equal(erased == 9.0, ~inside.expand_as(x))
    assert erased[2].mean().abs() < 0.1
    assert abs(erased[2].std() - 1) < 0.1
    assert (x == 9.0).all()
