import math

import numpy as np
import pytest
import torch
from torch import Generator

import mixbench.functional as mf

NEXT = torch.tensor([1, 2, 3, 0])


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def images(count, height, width, channels=3):
    """Images of whole levels with places of many sizes that stand out."""
    coarse = torch.rand(count, channels, 4, 5, generator=seeded(0))
    fine = torch.rand(count, channels, height, width, generator=seeded(1))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return ((0.7 * smooth + 0.3 * fine) * 255).round() / 255


def by_hand(image):
    """Map of one grey image (H, W) of whole levels in plain Python, pixel by pixel."""
    height, width = len(image), len(image[0])
    for _ in range(2):
        image = [[blurred(image, y, x) for x in range(width)] for y in range(height)]
    signs = []
    for sign in (1, -1):
        total = [[0] * width for _ in range(height)]
        for reach in (12, 24, 48, 28, 56, 112):
            for y in range(height):
                rows = image[max(y - reach + 1, 0) : y + reach + 1]
                for x in range(width):
                    around = [v for row in rows for v in row[max(x - reach + 1, 0) : x + reach + 1]]
                    mean = (sum(around) - image[y][x]) / (len(around) - 1)
                    total[y][x] += math.floor(max(sign * (image[y][x] - mean), 0))
        signs.append(torch.tensor(total, dtype=torch.float64))
    return sum((255 * total / total.max()).floor() for total in signs).float() / 255


def blurred(image, y, x):
    total = 0
    for i in (-1, 0, 1):
        row = image[mirrored(y + i, len(image))]
        for j in (-1, 0, 1):
            total += (2 - abs(i)) * (2 - abs(j)) * row[mirrored(x + j, len(row))]
    return math.floor(total / 16 + 0.5)


def mirrored(at, size):
    return min(abs(at), size - 1 - abs(size - 1 - abs(at)))


def test_the_fine_grained_map_is_that_of_its_neighbourhoods_one_by_one():
    image = images(2, 20, 27, channels=1)
    maps = mf.fine_grained_saliency(image)
    for levels, found in zip((image[:, 0] * 255).round().int().tolist(), maps, strict=True):
        torch.testing.assert_close(found, by_hand(levels))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (45, 20), (130, 150)])
def test_the_fine_grained_map_is_that_of_opencv(height, width):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "saliency"):
        pytest.skip("this OpenCV lacks the contrib modules")
    pixels = images(3, height, width)
    detector = cv2.saliency.StaticSaliencyFineGrained_create()
    for image, found in zip(pixels, mf.fine_grained_saliency(pixels), strict=True):
        rows = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        _, expected = detector.computeSaliency(np.ascontiguousarray(rows[:, :, ::-1]))
        assert torch.equal((found * 255).round(), torch.from_numpy(expected * 255).round())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (3, 2)])
def test_the_smallest_and_the_flattest_images_have_maps(height, width):
    for image in (torch.full((2, 3, height, width), 0.4), images(2, height, width)):
        found = mf.fine_grained_saliency(image)
        assert found.shape == (2, height, width)
        assert found.isfinite().all()
        assert (found >= 0).all()
    assert not mf.fine_grained_saliency(torch.full((1, 1, height, width), 0.4)).any()


def test_of_equal_levels_the_first_from_the_upper_left_is_the_peak():
    saliency = torch.zeros(2, 3, 5)
    saliency[0, 1, 3], saliency[0, 1, 4], saliency[0, 2, 0] = 0.8, 0.8 + 1e-4, 0.8
    rows, cols = mf.saliency_peak(saliency).unbind(1)
    torch.testing.assert_close(rows * 3, torch.tensor([1.5, 0.5]))
    torch.testing.assert_close(cols * 5, torch.tensor([3.5, 0.5]))


@pytest.mark.parametrize("per_sample", [False, True])
def test_boxes_lie_around_the_peak_of_what_is_pasted(per_sample):
    x, targets = torch.randn(4, 3, 16, 20, generator=seeded(0)), torch.eye(4)
    peaks = [(3, 4), (8, 12), (15, 0), (7, 19)] if per_sample else [(8, 12)]
    saliency = torch.zeros(len(peaks), 16, 20)
    for each, (row, col) in zip(saliency, peaks, strict=True):
        each[row, col] = 0.5
    for seed in range(5):
        lam = torch.rand(len(peaks), generator=seeded(seed))
        mixed = mf.saliencymix(x, targets, saliency, lam=lam, perm=NEXT)
        for share, (row, col), box in zip(lam.tolist(), peaks, mixed.aux.tolist(), strict=True):
            tall, wide = (int(size * math.sqrt(1 - share)) // 2 for size in (16, 20))
            low, high = (max(row - tall, 0), max(col - wide, 0)), (row + tall, col + wide)
            assert box == [*low, min(high[0], 16), min(high[1], 20)]
        visible = (mixed.x == x).float().mean((1, 2, 3))
        torch.testing.assert_close(mixed.lam, visible)
        torch.testing.assert_close(mixed.targets.diagonal(), visible)


def test_a_small_map_places_the_box_in_its_part_of_the_image():
    x, targets, saliency = torch.rand(2, 1, 32, 32), torch.eye(2), torch.zeros(1, 4, 4)
    saliency[0, 1, 3] = 1
    box = mf.saliencymix(x, targets, saliency, lam=torch.tensor([0.9375])).aux
    assert box.tolist() == [[8, 24, 16, 32]]


def test_maps_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"saliency must be 1 or 4 maps .* got \(3, 8, 8\)"):
        mf.saliencymix(torch.rand(4, 3, 8, 8), torch.eye(4), torch.rand(3, 8, 8))
