import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as official

from mixbench.data.augment.views import (
    STRENGTH,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    draw_boxes,
    draw_view,
    gaussian_blur,
    make_view,
    resized_crop,
)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 12, 20, generator=generator)
    x[0, :, :4] = 0.5  # grey, which has no hue
    x[1, 1] = x[1, 0]  # ties of the largest channel
    return x


def plain(x, **changes):
    """Decisions that leave images as they are."""
    batch, _, height, width = x.shape
    draws = draw_view(batch, height, width, area=1.0, flip=0, jitter=0, grey=0, blur=0)
    whole = torch.tensor([[0, 0, height, width]]).expand(batch, 4)
    return draws._replace(boxes=whole, **changes)


# Operations.


def test_a_crop_is_resized_as_torchvision_resizes_it_and_nothing_from_outside_gets_in(images):
    few = [[0, 0, 12, 20], [3, 5, 4, 7], [0, 19, 12, 1]]
    boxes = torch.tensor([*few, [11, 0, 1, 20], [2, 2, 9, 18], [6, 10, 6, 10]])
    found = resized_crop(images, boxes)
    for image, box, result in zip(images, boxes.tolist(), found, strict=True):
        expected = official.resized_crop(image, *box, size=[12, 20], antialias=False)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert not torch.equal(found[1], images[1])


def test_mirrored_images_are_mirrored_crops(images):
    boxes = torch.tensor([[1, 2, 8, 11]]).expand(6, 4)
    flips = torch.tensor([True, False] * 3)
    found, straight = resized_crop(images, boxes, flips), resized_crop(images, boxes)
    torch.testing.assert_close(found[::2], straight[::2].flip(3), rtol=0, atol=1e-5)
    assert torch.equal(found[1::2], straight[1::2])


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (adjust_brightness, official.adjust_brightness, 0.6, 1.4),
        (adjust_contrast, official.adjust_contrast, 0.6, 1.4),
        (adjust_saturation, official.adjust_saturation, 0.0, 1.4),
        (adjust_hue, official.adjust_hue, -0.5, 0.5),
    ],
)
def test_colours_change_as_torchvision_changes_them_with_a_factor_for_each_image(
    images, ours, theirs, low, high
):
    factors = torch.linspace(low, high, len(images))
    found = ours(images, factors)
    for image, factor, result in zip(images, factors.tolist(), found, strict=True):
        torch.testing.assert_close(result, theirs(image, factor), rtol=0, atol=2e-5)
    assert (found - images).abs().amax(dim=(1, 2, 3)).max() > 0.1


def test_blur_is_a_gaussian_whose_weights_sum_to_one(images):
    sigma = torch.tensor([0.1, 0.5, 0.8, 1.0, 1.5, 2.0])
    found = gaussian_blur(images, sigma)
    big = torch.rand(1, 3, 60, 50, generator=torch.Generator().manual_seed(1))
    for value in (0.5, 2.0):
        whole = gaussian_blur(big, torch.tensor([value]))
        expected = official.gaussian_blur(big, [27, 27], [value, value])
        inner = slice(13, -13)
        torch.testing.assert_close(
            whole[..., inner, inner], expected[..., inner, inner], rtol=0, atol=1e-5
        )
    torch.testing.assert_close(found[0], images[0])  # a tenth of a pixel reaches no neighbour
    flat = torch.full((2, 3, 12, 20), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, sigma[4:]), flat)
    assert found[5].std() < 0.5 * images[5].std()


# A whole view.


def test_each_image_gets_its_own_operations_in_its_own_order(images):
    order = torch.tensor([[3, 2, 1, 0]] * 3 + [[0, 1, 2, 3]] * 3)
    factors = torch.tensor([1.3, 0.7, 1.4, 0.08]).repeat(6, 1)
    factors[4] = torch.tensor([0.6, 1.4, 0.6, -0.1])
    draws = plain(
        images,
        jittered=torch.tensor([True, False, True, True, True, False]),
        order=order,
        factors=factors,
        grey=torch.tensor([False, False, False, True, False, False]),
        sigma=torch.tensor([0.0, 0.0, 1.2, 0.0, 0.0, 0.7]),
        flips=torch.tensor([False, True, False, False, True, False]),
    )
    found = make_view(images, draws)
    changes = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for row in range(6):
        x = images[row : row + 1]
        if draws.flips[row]:
            x = x.flip(3)
        if draws.jittered[row]:
            for number in order[row].tolist():
                x = changes[number](x, factors[row, number : number + 1])
        if draws.grey[row]:
            x = official.rgb_to_grayscale(x, num_output_channels=3)
        if draws.sigma[row]:
            x = gaussian_blur(x, draws.sigma[row : row + 1])
        torch.testing.assert_close(found[row], x[0], rtol=0, atol=2e-5)
    assert found.amin() >= 0
    assert found.amax() <= 1


def test_an_image_without_changes_stays_and_the_input_is_not_written_to(images):
    kept = images.clone()
    torch.testing.assert_close(make_view(images, plain(images)), images, rtol=0, atol=1e-5)
    make_view(images, draw_view(6, 12, 20, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(images, kept)


def test_grey_images_of_one_channel_have_no_colours_to_change(images):
    x = images[:, :1]
    all_on = {"jittered": torch.ones(6, dtype=torch.bool), "grey": torch.ones(6, dtype=torch.bool)}
    factors = torch.tensor([1.2, 1.1, 0.0, 0.3]).repeat(6, 1)
    order = torch.tensor([[2, 0, 3, 1]]).repeat(6, 1)
    found = make_view(x, plain(x, **all_on, factors=factors, order=order))
    expected = adjust_contrast(adjust_brightness(x, factors[:, 0]), factors[:, 1])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_values_outside_of_pixels_are_cut_off_and_half_precision_is_computed_in_full(images):
    found = make_view(3 * images - 1, plain(images))
    torch.testing.assert_close(found, (3 * images - 1).clamp(0, 1), rtol=0, atol=1e-4)
    assert make_view(images.bfloat16(), plain(images)).dtype == torch.float32


# Draws.


def test_crops_are_those_of_torchvision_in_law():
    height, width, count = 24, 32, 20_000
    boxes = draw_boxes(count, height, width, 0.2, torch.Generator().manual_seed(0)).double()
    top, left, tall, wide = boxes.unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (tall > 0) & (wide > 0)).all())
    assert bool(((top + tall <= height) & (left + wide <= width)).all())
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    crop = v2.RandomResizedCrop((8, 8), scale=(0.2, 1.0))
    keys = ("top", "left", "height", "width")
    drawn = [crop.make_params([image]) for _ in range(4_000)]
    theirs = torch.tensor([[float(one[key]) for key in keys] for one in drawn]).double()
    ours = torch.stack([top, left, tall, wide], dim=1)
    error = theirs.std(dim=0) * (1 / 4_000 + 1 / count) ** 0.5
    assert bool(((ours.mean(dim=0) - theirs.mean(dim=0)).abs() < 4.5 * error).all())
    torch.testing.assert_close(ours.std(dim=0), theirs.std(dim=0), rtol=0.05, atol=0)
    assert (tall * wide).min() / (height * width) > 0.17


def test_where_no_crop_fits_the_largest_of_an_allowed_shape_is_taken_in_the_middle():
    boxes = draw_boxes(50, 10, 100, 0.9, torch.Generator().manual_seed(0))
    assert boxes.tolist() == [[0, 43, 10, 13]] * 50
    assert draw_boxes(3, 100, 10, 0.9).tolist() == [[43, 0, 13, 10]] * 3


def test_shares_and_ranges_are_those_asked_for():
    count = 20_000
    draws = draw_view(count, 32, 32, generator=torch.Generator().manual_seed(0))
    areas = draws.boxes[:, 2:].prod(dim=1) / 32**2
    assert 0.17 < areas.min() < 0.23
    shares = {"flips": 0.5, "jittered": 0.8, "grey": 0.2}
    for name, share in shares.items():
        error = (share * (1 - share) / count) ** 0.5
        assert abs(getattr(draws, name).double().mean() - share) < 4 * error
    blur = draws.sigma > 0
    assert abs(blur.double().mean() - 0.5) < 4 * 0.5 / count**0.5
    sigma = draws.sigma[blur]
    assert 0.1 <= sigma.min() < 0.11
    assert 1.99 < sigma.max() <= 2.0
    pairs = torch.stack([draws.flips, draws.jittered, draws.grey, blur]).double().corrcoef()
    assert (pairs - torch.eye(4)).abs().max() < 5 / count**0.5
    centre = torch.tensor([1.0, 1.0, 1.0, 0.0])
    spread = torch.tensor(STRENGTH)
    assert bool(((draws.factors - centre).abs() <= spread + 1e-6).all())
    torch.testing.assert_close(draws.factors.mean(dim=0), centre, rtol=0, atol=0.02)
    torch.testing.assert_close(draws.factors.amax(dim=0), centre + spread, rtol=0, atol=1e-3)
    counts = F.one_hot(draws.order, 4).sum(dim=0)
    assert bool((F.one_hot(draws.order, 4).sum(dim=1) == 1).all())
    assert (counts / count - 0.25).abs().max() < 4 * math.sqrt(3 / 16 / count)


def test_nothing_is_drawn_from_the_global_generator():
    state = torch.random.get_rng_state()
    first, second = (
        draw_view(5, 8, 8, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
