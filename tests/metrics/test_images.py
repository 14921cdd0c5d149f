import math

import torch

from mixbench.metrics.images import BEST_PSNR, psnr_of, ssim_of


def images(seed, count=3, side=16):
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_that_of_each_image_by_its_formula():
    x, truth = images(0), images(1)
    for row, found in enumerate(psnr_of(x, truth).tolist()):
        error = float((x[row] - truth[row]).double().square().mean())
        assert abs(found + 10 * math.log10(error)) < 1e-3


def test_equal_images_have_the_best_psnr_and_ssim_and_both_fall_with_noise():
    x = images(0)
    assert psnr_of(x, x).tolist() == [BEST_PSNR] * 3
    torch.testing.assert_close(ssim_of(x, x), torch.ones(3))
    near, far = (x + share * (images(1) - 0.5) for share in (0.1, 0.5))
    for measure in (psnr_of, ssim_of):
        assert bool((measure(near, x) > measure(far, x)).all())


def test_an_image_counts_for_itself_alone():
    x, truth = images(0), images(1)
    for measure in (psnr_of, ssim_of):
        torch.testing.assert_close(measure(x, truth)[:1], measure(x[:1], truth[:1]))


def test_images_smaller_than_its_window_have_no_ssim():
    assert bool(ssim_of(images(0, side=8), images(1, side=8)).isnan().all())
