import math

import pytest
import torch
from torch import Generator

import mixbench.functional as mf

NEXT = torch.tensor([1, 2, 3, 0])


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def noise(height, width, count=1, seed=0):
    return torch.randn(count, height, width // 2 + 1, 2, generator=seeded(seed))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 18), (9, 14)])
def test_a_full_image_is_the_sum_of_its_waves(height, width):
    drawn = noise(height, width)
    rows, cols = torch.arange(height).double()[:, None], torch.arange(width).double()
    total = torch.zeros(height, width, dtype=torch.float64)
    for v in range(height):
        for h in range(width // 2 + 1):
            real, imaginary = drawn[0, v, h].tolist()
            vertical = v / height - (v > (height - 1) // 2)
            frequency = max(math.hypot(vertical, h / width), 1 / max(height, width))
            angle = 2 * math.pi * (v * rows / height + h * cols / width)
            wave = (real * angle.cos() - imaginary * angle.sin()) / frequency**2.5
            # Waves whose conjugates are not stored count twice.
            total += wave * (1 if h in (0, width / 2) else 2)
    expected = (total - total.min()) / (total.max() - total.min())
    grey = mf.low_frequency_image(drawn, height, width, decay=2.5)
    torch.testing.assert_close(grey[0].double(), expected, rtol=0, atol=1e-5)


def test_only_the_full_spectrum_has_more_than_one_period_from_left_to_right():
    full, official = (
        mf.low_frequency_image(noise(32, 32, 8), 32, 32, spectrum=name)
        for name in ("full", "official")
    )
    for grey in (full, official):
        assert grey.amin((1, 2)).tolist() == [0] * 8
        torch.testing.assert_close(grey.amax((1, 2)), torch.ones(8))
    above = [torch.fft.rfft(grey, dim=2).abs()[..., 2:].sum() for grey in (full, official)]
    assert above[1] < 1e-3 * above[0]
    down = [torch.fft.fft(grey, dim=1).abs()[:, 2:-1].sum() for grey in (full, official)]
    assert min(down) > 1


def test_the_official_spectrum_reads_two_rows_of_the_draws():
    drawn = noise(16, 16)
    first = mf.low_frequency_image(drawn, 16, 16, spectrum="official")
    drawn[:, 2:] = 9
    assert torch.equal(mf.low_frequency_image(drawn, 16, 16, spectrum="official"), first)
    drawn[:, 1] = 9
    assert not torch.equal(mf.low_frequency_image(drawn, 16, 16, spectrum="official"), first)


@pytest.mark.parametrize("max_soft", [0.0, 0.2])
def test_a_mask_has_as_many_pixels_as_asked_for_and_the_brightest(max_soft):
    generator = seeded(0)
    grey = torch.rand(50, 7, 9, generator=generator)
    grey[:10] = grey[:10].mul(4).round() / 4  # many equal pixels
    lam = torch.rand(50, generator=generator)
    lam[:4] = torch.tensor([0.0, 1.0, 0.5, 1 / 63])
    up = torch.arange(50) % 2 == 0
    masks = mf.ranked_mask(grey, lam, up, max_soft=max_soft)
    for image, share, above, mask in zip(grey, lam.double().tolist(), up, masks, strict=True):
        ones = math.ceil(share * 63) if above else math.floor(share * 63)
        half = int(63 * min(max_soft, share, 1 - share))
        ranks = image.flatten().argsort(descending=True, stable=True)
        by_hand = torch.zeros(63)
        by_hand[ranks[: ones + half]] = 1
        by_hand[ranks[ones - half : ones + half]] = torch.linspace(1, 0, 2 * half)
        torch.testing.assert_close(mask.flatten(), by_hand, rtol=0, atol=1e-6)


def test_masks_of_one_batch_and_of_each_image():
    x, targets = torch.randn(4, 3, 12, 10, generator=seeded(0)), torch.eye(4)
    one = mf.fmix(x, targets, perm=NEXT, generator=seeded(1))
    each = mf.fmix(x, targets, perm=NEXT, per_sample=True, generator=seeded(1))
    assert one.aux.shape == (1, 1, 12, 10)
    assert each.aux.shape == (4, 1, 12, 10)
    assert one.lam.unique().numel() == 1
    assert each.lam.unique().numel() == 4
    for mixed in (one, each):
        torch.testing.assert_close(mixed.x, torch.where(mixed.aux == 1, x, x[NEXT]))
        kept = mixed.aux.mean((1, 2, 3)).expand(4)
        assert ((mixed.lam - kept).abs() <= 1 / 120).all()
        torch.testing.assert_close(mixed.targets.diagonal(), mixed.lam)


def test_a_higher_decay_gives_smoother_masks():
    x, targets = torch.zeros(64, 1, 32, 32), torch.eye(64)
    edges = []
    for decay in (0.0, 1.5, 3.0):
        mask = mf.fmix(x, targets, decay=decay, per_sample=True, generator=seeded(0)).aux
        edges.append(mask.diff(dim=2).abs().mean() + mask.diff(dim=3).abs().mean())
    assert edges[0] > 2 * edges[1] > 2 * edges[2]


@pytest.mark.parametrize("spectrum", ["full", "official"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 8), (8, 1), (2, 2), (5, 3)])
def test_the_smallest_images_have_masks(height, width, spectrum):
    x, targets = torch.randn(3, 2, height, width, generator=seeded(0)), torch.eye(3)
    for seed in range(5):
        mixed = mf.fmix(x, targets, spectrum=spectrum, generator=seeded(seed))
        assert mixed.x.isfinite().all()
        assert abs(mixed.aux.sum() - mixed.lam[0] * height * width) < 1


def test_noise_of_another_size_and_unknown_spectra_are_refused():
    with pytest.raises(ValueError, match=r"\(N, 8, 5 or 6, 2\) for .*8 x 8, got \(1, 7, 5, 2\)"):
        mf.low_frequency_image(torch.zeros(1, 7, 5, 2), 8, 8)
    with pytest.raises(ValueError, match=r"\(N, 2 or more, 5 or 6, 2\)"):
        mf.low_frequency_image(torch.zeros(1, 1, 5, 2), 8, 8, spectrum="official")
    with pytest.raises(ValueError, match="full, official, got 'half'"):
        mf.low_frequency_image(noise(8, 8), 8, 8, spectrum="half")
    with pytest.raises(ValueError, match=r"max_soft must lie in \[0, 0.5\], got 0.6"):
        mf.ranked_mask(torch.rand(1, 4, 4), torch.tensor([0.5]), torch.tensor([True]), max_soft=0.6)


def test_it_compiles_into_one_graph(compiled):
    x, targets = torch.randn(4, 3, 8, 8, generator=seeded(0)), torch.eye(4)
    decisions = {"lam": torch.tensor([0.3]), "round_up": torch.tensor([True]), "perm": NEXT}
    whole = compiled(lambda x, t, noise: mf.fmix(x, t, noise=noise, **decisions).x)
    for seed in range(3):
        drawn = noise(8, 8, seed=seed)
        torch.testing.assert_close(
            whole.call(x, targets, drawn), mf.fmix(x, targets, noise=drawn, **decisions).x
        )
    assert whole.graphs == 1
