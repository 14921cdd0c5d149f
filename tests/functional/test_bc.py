import pytest
import torch
from scipy import stats
from torch import Generator, Tensor, nn

import mixbench.functional as mf
from mixbench.config.schema import DataInfo
from mixbench.data.images import Batch
from mixbench.methods.build import build_method

NEXT = torch.tensor([1, 2, 3, 0])  # every input gets another one as partner
LABELS = torch.tensor([2, 0, 3, 0, 2, 2, 3])  # no image of class 1


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Four zero-mean images of unequal sides and loudness, and their classes."""
    x = torch.randn(4, 3, 8, 6, generator=seeded(0)) * torch.tensor([0.3, 1, 2, 5]).view(4, 1, 1, 1)
    return mf.subtract_image_mean(x), torch.eye(4)


def plus_by_hand(first: Tensor, partner: Tensor, r: Tensor) -> Tensor:
    """One pair of BC+ as the paper writes it."""
    g1, g2 = first.std(correction=0), partner.std(correction=0)
    p = 1 / (1 + g1 / g2 * (1 - r) / r)
    return (p * first + (1 - p) * partner) / (p**2 + (1 - p) ** 2).sqrt()


# Loudness.


def test_the_image_mean_is_removed_over_all_channels_and_pixels():
    x = torch.rand(3, 2, 8, 6, generator=seeded(0))
    centered = mf.subtract_image_mean(x)
    torch.testing.assert_close(centered.mean(dim=(1, 2, 3)), torch.zeros(3), rtol=0, atol=1e-6)
    offsets = (x - centered).flatten(1)
    torch.testing.assert_close(offsets, offsets[:, :1].expand_as(offsets), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loudness_is_the_population_deviation_over_the_whole_image_in_float32(batch, dtype):
    x = batch[0].to(dtype)
    loudness = mf.pixel_std(x)
    expected = torch.stack([(row - row.mean()).square().mean().sqrt() for row in x.double()])
    assert loudness.dtype == torch.float32
    torch.testing.assert_close(loudness.double(), expected, rtol=1e-5, atol=1e-6)


def test_equally_loud_images_are_weighed_by_the_ratio():
    ratio = torch.rand(100, generator=seeded(0))
    gain = torch.rand(100, generator=seeded(1)) + 0.1
    torch.testing.assert_close(mf.bc_plus_lam(ratio, gain, gain), ratio, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
def test_loudness_weighed_ratio_is_the_label_ratio_however_loud_an_image_is(batch, scale):
    x = batch[0].clone()
    x[0] *= scale
    ratio = torch.tensor([0.1, 0.5, 0.7, 0.95])
    gain = mf.pixel_std(x)
    p = mf.bc(x, batch[1], plus=True, lam=ratio, perm=NEXT).aux
    heard = p * gain / ((1 - p) * gain[NEXT])
    torch.testing.assert_close(heard, ratio / (1 - ratio), rtol=1e-4, atol=0)


def test_weights_at_the_ends_and_of_silent_images_are_defined():
    ratio = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.3, 0.3, 0.3])
    gain = torch.tensor([2.0, 2.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    other = torch.tensor([3.0, 3.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    expected = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.3, 1.0, 0.0])
    torch.testing.assert_close(mf.bc_plus_lam(ratio, gain, other), expected, rtol=0, atol=0)


# Mixing.


def test_bc_is_the_internal_division_of_every_pair(batch):
    x, targets = batch
    ratio = torch.tensor([0.25, 0.5, 0.9, 0.0])
    mixed = mf.bc(x, targets, lam=ratio, perm=NEXT)
    for row, r in enumerate(ratio.tolist()):
        expected = r * x[row] + (1 - r) * x[(row + 1) % 4]
        torch.testing.assert_close(mixed.x[row], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mixed.aux, ratio, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(3, 8, 6), (50,), (1, 400), (2, 3, 4, 5)])
def test_bc_plus_is_the_formula_of_the_paper_for_every_pair(shape):
    x = torch.randn(4, *shape, generator=seeded(1)) * torch.rand(4, generator=seeded(2)).view(
        4, *[1] * len(shape)
    )
    ratio = torch.tensor([0.25, 0.5, 0.9, 0.01])
    mixed = mf.bc(x, torch.eye(4), plus=True, lam=ratio, perm=NEXT)
    for row, r in enumerate(ratio):
        expected = plus_by_hand(x[row], x[(row + 1) % 4], r)
        torch.testing.assert_close(mixed.x[row], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("plus", [False, True])
def test_labels_tell_the_ratio_not_the_weight_of_the_image(batch, plus):
    ratio = torch.tensor([0.25, 0.5, 0.9, 0.0])
    mixed = mf.bc(*batch, plus=plus, lam=ratio, perm=NEXT)
    torch.testing.assert_close(mixed.lam, ratio, rtol=0, atol=0)
    expected = torch.diag(ratio) + torch.diag(1 - ratio)[NEXT.argsort()].T
    torch.testing.assert_close(mixed.targets, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("plus", [False, True])
def test_the_ends_of_the_ratio_return_one_image_to_the_bit(batch, plus):
    x, targets = batch
    ratio = torch.tensor([1.0, 0.0, 1.0, 0.0])
    mixed = mf.bc(x, targets, plus=plus, lam=ratio, perm=NEXT)
    first = ratio == 1
    wanted = torch.where(first[:, None, None, None], x, x[NEXT])
    torch.testing.assert_close(mixed.x, wanted, rtol=0, atol=0)
    torch.testing.assert_close(
        mixed.targets, torch.where(first[:, None], targets, targets[NEXT]), rtol=0, atol=0
    )


def test_bc_plus_keeps_the_energy_of_equally_loud_uncorrelated_images():
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, :2] = torch.tensor([1.0, -1.0]).repeat(4).view(2, 4)
    x[1, 0, 2:] = torch.tensor([1.0, -1.0]).repeat(4).view(2, 4)
    swap = torch.tensor([1, 0])
    for ratio in (0.1, 0.5, 0.8):
        mixed = mf.bc(x, torch.eye(2), plus=True, lam=torch.full((2,), ratio), perm=swap)
        torch.testing.assert_close(mf.pixel_std(mixed.x), mf.pixel_std(x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("plus", [False, True])
def test_inputs_beyond_the_partner_indices_serve_as_partners_only(batch, plus):
    x, targets = batch
    ratio = torch.tensor([0.3, 0.6])
    mixed = mf.bc(x, targets, plus=plus, lam=ratio, perm=torch.tensor([2, 3]))
    whole = mf.bc(x, targets, plus=plus, lam=ratio.repeat(2), perm=torch.tensor([2, 3, 0, 1]))
    for value, wanted in zip(mixed, whole, strict=True):
        torch.testing.assert_close(value, wanted[:2], rtol=0, atol=0)


def test_one_ratio_for_all_pairs_is_the_same_as_that_ratio_for_each(batch):
    for plus in (False, True):
        once, each = (
            mf.bc(*batch, plus=plus, lam=torch.full((count,), 0.3), perm=NEXT) for count in (1, 4)
        )
        for value, other in zip(once, each, strict=True):
            torch.testing.assert_close(other, value, rtol=0, atol=0)


def test_ratios_are_drawn_uniformly_per_pair():
    x, targets = torch.zeros(2000, 1), torch.eye(2).repeat(1000, 1)
    lam = mf.bc(x, targets, generator=seeded(0)).lam
    assert stats.kstest(lam.numpy(), "uniform").pvalue > 1e-3


def test_another_measure_of_loudness_may_be_given(batch):
    ratio = torch.tensor([0.3])

    def peak(x: Tensor) -> Tensor:
        return x.abs().flatten(1).amax(1)

    mixed = mf.bc(*batch, plus=True, lam=ratio, perm=NEXT, gain=peak)
    loud = peak(batch[0])
    torch.testing.assert_close(mixed.aux, mf.bc_plus_lam(ratio, loud, loud[NEXT]), rtol=0, atol=0)


def test_silent_images_give_neither_nan_nor_nan_gradients(batch):
    x = batch[0].clone()
    x[:2] = 0
    x.requires_grad_()
    ratio = torch.tensor([0.3, 0.0, 1.0, 0.5])
    mixed = mf.bc(x, batch[1], plus=True, lam=ratio, perm=torch.tensor([1, 2, 0, 1]))
    assert mixed.x.isfinite().all()
    (grad,) = torch.autograd.grad(mixed.x.sum(), x)
    assert grad.isfinite().all()


def test_the_gradient_of_bc_is_that_of_the_weighted_sum(batch):
    ratio, perm = torch.tensor([0.25, 0.5, 0.0, 1.0]), torch.tensor([1, 0, 2, 0])
    x = batch[0].double().requires_grad_()
    targets = batch[1].double()

    def mix(x: Tensor) -> Tensor:
        return mf.bc(x, targets, lam=ratio, perm=perm).x

    assert torch.autograd.gradcheck(mix, x, eps=1e-6, atol=1e-6, rtol=1e-6)


def test_the_gradient_of_bc_plus_goes_through_the_loudness(batch):
    x = batch[0].clone().requires_grad_()
    ratio = torch.tensor([0.25, 0.5, 0.9, 0.7])
    direction = torch.randn(x.shape, generator=seeded(7))
    mixed = mf.bc(x, batch[1], plus=True, lam=ratio, perm=NEXT).x
    (grad,) = torch.autograd.grad((mixed * direction).sum(), x)
    by_hand = torch.stack([plus_by_hand(x[row], x[(row + 1) % 4], ratio[row]) for row in range(4)])
    (expected,) = torch.autograd.grad((by_hand * direction).sum(), x)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plus", [False, True])
def test_new_decisions_neither_break_a_compiled_graph_nor_compile_it_again(compiled, batch, plus):
    operation = compiled(mf.bc)
    for seed in range(4):
        lam, perm = mf.draw_lam(4, 1.0, seeded(seed)), mf.draw_other_class(batch[1], seeded(seed))
        mixed = operation.call(*batch, plus=plus, lam=lam, perm=perm)
        expected = mf.bc(*batch, plus=plus, lam=lam, perm=perm)
        torch.testing.assert_close(mixed.x, expected.x, rtol=0, atol=0)
    assert operation.graphs == 1


# Pairs.


def test_partners_are_always_of_another_class():
    targets = mf.one_hot(torch.arange(24) % 5, 5, smoothing=0.1)
    y = targets.argmax(1)
    for seed in range(50):
        perm = mf.draw_other_class(targets, seeded(seed))
        assert (y[perm] != y).all()


def test_partners_are_uniform_over_the_other_classes():
    targets, generator = mf.one_hot(LABELS, 4), seeded(0)
    draws = torch.stack([mf.draw_other_class(targets, generator) for _ in range(3000)])
    for row, label in enumerate(LABELS):
        counts = draws[:, row].bincount(minlength=len(LABELS))
        assert not counts[label == LABELS].any()
        assert stats.chisquare(counts[label != LABELS].numpy()).pvalue > 1e-3


def test_a_row_without_another_class_is_paired_with_itself():
    targets = mf.one_hot(torch.tensor([1, 1, 1]), 3)
    for seed in range(20):
        assert mf.draw_other_class(targets, seeded(seed)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("plus", [False, True])
def test_a_batch_of_one_class_is_left_as_it_is(batch, plus):
    targets = mf.one_hot(torch.tensor([1, 1, 1, 1]), 3)
    mixed = mf.bc(batch[0], targets, plus=plus, generator=seeded(0))
    torch.testing.assert_close(mixed.x, batch[0], rtol=0, atol=0)
    torch.testing.assert_close(mixed.targets, targets, rtol=0, atol=0)


def test_pairs_of_a_data_set_are_uniform_over_ordered_pairs_of_different_classes():
    first, second = mf.draw_other_class_pairs(LABELS, 40_000, seeded(0))
    total = len(LABELS)
    counts = (first * total + second).bincount(minlength=total**2).view(total, total)
    allowed = LABELS[:, None] != LABELS
    assert not counts[~allowed].any()
    assert stats.chisquare(counts[allowed].numpy()).pvalue > 1e-3


def test_pairs_of_a_data_set_depend_on_the_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (
        mf.draw_other_class_pairs(LABELS, 50, seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(again, first)
    assert not torch.equal(other, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_pairs_of_a_data_set_of_one_class_are_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        mf.draw_other_class_pairs(torch.tensor([3, 3, 3]), 2, seeded(0))


# Bad input.


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_images_are_refused_with_their_shape_and_the_remedy(batch, dtype):
    with pytest.raises(ValueError, match=r"\(4, 3, 8, 6\) is torch\.\w+; convert to float first"):
        mf.bc(batch[0].to(dtype), batch[1])


@pytest.mark.parametrize("row", [[1.0, 1, 0, 0], [0, 0, 0, 0]])
def test_multi_label_targets_are_refused_with_the_remedy(batch, row):
    targets = batch[1].clone()
    targets[2] = torch.tensor(row)
    with pytest.raises(ValueError, match=r"single-label targets .* use SpliceMix"):
        mf.bc(batch[0], targets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_smoothed_targets_are_single_label_in_every_precision(batch, dtype, classes):
    targets = mf.one_hot(torch.tensor([0, 1, 2, 0]), classes, smoothing=0.1, dtype=dtype)
    mixed = mf.bc(batch[0], targets, generator=seeded(0))
    assert mixed.targets.shape == targets.shape


# The method.


def make_info(**constants: list[float]) -> DataInfo:
    return DataInfo(num_classes=4, height=8, width=6, **constants)


def test_bc_plus_normalizes_images_without_their_own_mean_also_in_eval_mode():
    mean, std = [0.02, 0.0, -0.02], [0.21, 0.2, 0.22]
    info = make_info(
        mean=[0.5, 0.4, 0.3], std=[0.3, 0.2, 0.1], residual_mean=mean, residual_std=std
    )
    x = torch.rand(4, 3, 8, 6, generator=seeded(0))
    own = x.mean(dim=(1, 2, 3), keepdim=True)
    shift, scale = (torch.tensor(value).view(3, 1, 1) for value in (mean, std))
    method = build_method("bc", nn.Identity(), info, plus=True)
    for training in (True, False):
        normal = method.train(training).normalize(x)
        torch.testing.assert_close(normal, (x - own - shift) / scale, rtol=1e-5, atol=1e-5)
    plain = build_method("bc", nn.Identity(), info).normalize(x)
    shift, scale = (torch.tensor(value).view(3, 1, 1) for value in (info.mean, info.std))
    torch.testing.assert_close(plain, (x - shift) / scale, rtol=1e-5, atol=1e-5)


def test_bc_plus_without_its_own_constants_is_refused():
    info = make_info(mean=[0.5, 0.4, 0.3], std=[0.3, 0.2, 0.1])
    with pytest.raises(ValueError, match=r"statistics without each image's mean.*data prepare"):
        build_method("bc", nn.Identity(), info, plus=True)


def test_the_method_trains_on_the_divergence(batch):
    method = build_method("bc", nn.Identity(), make_info())
    mixed = method.mix(*batch, lam=torch.tensor([0.3]), perm=NEXT)
    logits = torch.randn(4, 4, generator=seeded(0))
    loss = method.loss(logits, mixed)
    torch.testing.assert_close(loss, mf.soft_kl(logits, mixed.targets), rtol=0, atol=0)


def test_pairs_of_the_data_set_mix_the_first_half_with_the_second(batch):
    info = make_info(residual_mean=[0.0] * 3, residual_std=[1.0] * 3)
    method = build_method("bc", nn.Identity(), info, pairing="dataset", plus=True)
    method.reseed(0, 0)
    mixed = method.mix(*batch)
    assert mixed.perm.tolist() == [2, 3]
    expected = mf.bc(*batch, plus=True, lam=mixed.lam, perm=mixed.perm)
    torch.testing.assert_close(mixed.x, expected.x, rtol=0, atol=0)


@pytest.mark.parametrize("pairing", ["batch", "dataset"])
def test_an_evaluation_step_mixes_and_draws_nothing(batch, pairing):
    method = build_method("bc", nn.Flatten(), make_info(), pairing=pairing).eval()
    sources = method.generator, method.shared_generator
    before = torch.get_rng_state(), *(source.get_state() for source in sources)
    images = (255 * torch.rand(batch[0].shape, generator=torch.Generator().manual_seed(1))).byte()
    step = method.test_step(Batch(images, torch.arange(len(images)), torch.arange(len(images))), 0)
    expected = method.normalize(images.float() / 255).flatten(1)
    torch.testing.assert_close(step["logits"], expected)
    after = torch.get_rng_state(), *(source.get_state() for source in sources)
    assert all(map(torch.equal, after, before))


def test_an_unknown_pairing_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"method.pairing must be one of batch, dataset"):
        build_method("bc", nn.Identity(), make_info(), pairing="random")
