import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Generator, Tensor

import mixbench.functional as mf
from mixbench.functional.core import PARTNER_RULES, lerp_

LARGE = 100_000


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def make_batch(batch: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of unequal sides and loudness, with neighbours of different classes."""
    x = torch.randn(batch, 3, 8, 6, generator=seeded(seed))
    x = x * torch.linspace(0.5, 2, batch)[:, None, None, None]
    return x, torch.eye(3)[torch.arange(batch) % 3]


# What every operation promises.


class Operation(NamedTuple):
    """An operation, and the arguments that repeat a result of it."""

    call: Callable[..., mf.Mixed]
    decisions: Callable[[mf.Mixed], dict[str, Any]]


def weights(mixed: mf.Mixed) -> dict[str, Any]:
    return {"lam": mixed.lam, "perm": mixed.perm}


def moves(mixed: mf.Mixed) -> dict[str, Any]:
    return weights(mixed) | {"plan": mixed.aux.plan}


def boxes(mixed: mf.Mixed) -> dict[str, Any]:
    return {"box": mixed.aux, "perm": mixed.perm}


OPERATIONS = {
    "mixup": Operation(mf.mixup, weights),
    "mixup_per_sample": Operation(partial(mf.mixup, per_sample=True), weights),
    "mixup_fold": Operation(partial(mf.mixup, per_sample=True, fold=True), weights),
    "manifoldmixup": Operation(mf.manifoldmixup, weights),
    "cutmix": Operation(mf.cutmix, boxes),
    "cutmix_per_sample": Operation(partial(mf.cutmix, per_sample=True), boxes),
    "cutmix_minmax": Operation(partial(mf.cutmix, per_sample=True, minmax=(0.2, 0.8)), boxes),
    "bc": Operation(mf.bc, weights),
    "bc_plus": Operation(partial(mf.bc, plus=True), weights),
    "alignmix": Operation(partial(mf.alignmix, side=0, iters=5), moves),
    "alignmix_partner": Operation(partial(mf.alignmix, side=1, solver="scaled", iters=5), moves),
}
# The others move positions, even of an image that is paired with itself.
IN_PLACE = [name for name in OPERATIONS if not name.startswith("alignmix")]


@pytest.fixture(params=OPERATIONS)
def op(request: pytest.FixtureRequest) -> Operation:
    return OPERATIONS[request.param]


def assert_equal(mixed: mf.Mixed, expected: mf.Mixed) -> None:
    for value, wanted in zip(mixed, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_every_batch_size_gives_finite_images_and_targets_that_sum_to_one(op, batch):
    x, targets = make_batch(batch)
    for seed in range(10):
        mixed = op.call(x, targets, generator=seeded(seed))
        assert mixed.x.shape == x.shape
        assert mixed.x.isfinite().all()
        assert mixed.perm.shape == mixed.lam.shape == (batch,)
        assert ((mixed.lam >= 0) & (mixed.lam <= 1)).all()
        torch.testing.assert_close(mixed.targets.sum(1), torch.ones(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_batch_of_one_is_left_as_it_is(name):
    op = OPERATIONS[name]
    x, targets = make_batch(1)
    for seed in range(5):
        mixed = op.call(x, targets, generator=seeded(seed))
        torch.testing.assert_close(mixed.x, x, rtol=0, atol=0)
        torch.testing.assert_close(mixed.targets, targets, rtol=0, atol=0)


@pytest.mark.parametrize("name", IN_PLACE)
def test_rows_paired_with_themselves_are_left_as_they_are(name):
    op = OPERATIONS[name]
    x, targets = make_batch(4)
    decisions = op.decisions(op.call(x, targets, generator=seeded(1)))
    decisions["perm"] = torch.tensor([0, 2, 1, 3])
    mixed = op.call(x, targets, **decisions)
    torch.testing.assert_close(mixed.x[[0, 3]], x[[0, 3]], rtol=0, atol=0)
    torch.testing.assert_close(mixed.targets[[0, 3]], targets[[0, 3]], rtol=0, atol=0)


def test_equal_generators_give_equal_results_and_others_do_not(op):
    x, targets = make_batch()
    first, again, other = (op.call(x, targets, generator=seeded(seed)) for seed in (3, 3, 4))
    assert_equal(again, first)
    assert not torch.equal(other.x, first.x)


def test_draws_come_from_the_generator_alone(op):
    x, targets = make_batch()
    generator = seeded(0)
    before = torch.get_rng_state(), random.getstate(), generator.get_state()
    op.call(x, targets, generator=generator)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert not torch.equal(generator.get_state(), before[2])


def test_the_returned_decisions_repeat_the_result_and_draw_nothing(op):
    x, targets = make_batch()
    mixed = op.call(x, targets, generator=seeded(5))
    generator = seeded(6)
    before = generator.get_state()
    again = op.call(x, targets, **op.decisions(mixed), generator=generator)
    assert_equal(again, mixed)
    assert torch.equal(generator.get_state(), before)


def test_inputs_and_decisions_are_never_modified(op):
    x, targets = make_batch()
    decisions = op.decisions(op.call(x, targets, generator=seeded(1)))
    given = {"x": x, "targets": targets, **decisions}
    before = {key: value.clone() for key, value in given.items()}
    op.call(x, targets, **decisions)
    op.call(x, targets, generator=seeded(2))
    for key, value in given.items():
        assert torch.equal(value, before[key]), key


def test_permuting_the_batch_permutes_the_result(op):
    x, targets = make_batch()
    mixed = op.call(x, targets, generator=seeded(2))
    order = torch.tensor([2, 4, 0, 1, 3])
    decisions = {
        key: value[order] if len(value) == len(order) else value
        for key, value in op.decisions(mixed).items()
    }
    decisions["perm"] = order.argsort()[decisions["perm"]]
    again = op.call(x[order], targets[order], **decisions)
    torch.testing.assert_close(again.x, mixed.x[order], rtol=0, atol=0)
    torch.testing.assert_close(again.targets, mixed.targets[order], rtol=0, atol=0)


def test_images_in_any_memory_order_give_the_same_values(op):
    x, targets = make_batch()
    decisions = op.decisions(op.call(x, targets, generator=seeded(1)))
    expected = op.call(x, targets, **decisions)
    strided = torch.stack([x, -x], dim=-1)[..., 0]
    turned = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    for other in (strided, turned):
        assert not other.is_contiguous()
        assert_equal(op.call(other, targets, **decisions), expected)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_channels_last_is_kept_and_so_is_the_default_order(op, batch):
    x, targets = make_batch(batch)
    decisions = op.decisions(op.call(x, targets, generator=seeded(1)))
    plain = op.call(x, targets, **decisions)
    last = op.call(x.contiguous(memory_format=torch.channels_last), targets, **decisions)
    assert plain.x.is_contiguous()
    assert last.x.is_contiguous(memory_format=torch.channels_last)
    # Only sums over pixels, as the loudness of BC+, may depend on the order.
    torch.testing.assert_close(last.x, plain.x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_mixed_in_float32_and_rounded_once(op, dtype):
    x, targets = make_batch()
    x = x.to(dtype)
    decisions = op.decisions(op.call(x, targets, generator=seeded(1)))
    low = op.call(x, targets, **decisions)
    high = op.call(x.float(), targets, **decisions)
    assert low.x.dtype == dtype
    torch.testing.assert_close(low.x, high.x.to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(low.targets, high.targets, rtol=0, atol=0)


def test_autocast_changes_nothing(op):
    x, targets = make_batch()
    mixed = op.call(x, targets, generator=seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(op.call(x, targets, generator=seeded(1)), mixed)


def test_gradients_reach_both_images_of_a_pair(op):
    x, targets = make_batch()
    decisions = op.decisions(op.call(x, targets, generator=seeded(4)))
    decisions["perm"] = torch.tensor([1, 2, 0, 4, 3])
    x.requires_grad_()
    (grad,) = torch.autograd.grad(op.call(x, targets, **decisions).x[0].sum(), x)
    assert grad.isfinite().all()
    assert (grad[:2].flatten(1) != 0).any(1).all()
    assert not grad[2:].any()


def test_a_label_vector_of_another_length_is_refused_with_both_shapes(op):
    x, targets = make_batch()
    with pytest.raises(ValueError, match=r"\(5, 3, 8, 6\).*\(4, 3\)"):
        op.call(x, targets[:4])


def test_class_indices_are_refused_with_the_remedy(op):
    x, targets = make_batch()
    with pytest.raises(ValueError, match=r"\(5,\) torch.int64; .*one_hot"):
        op.call(x, targets.argmax(1))
    with pytest.raises(ValueError, match="one_hot"):
        op.call(x, targets.long())


@pytest.mark.parametrize("shape", [(0, 3, 8, 6), (5, 0, 8, 6), (5, 3, 0, 6), (5, 3, 8, 0)])
def test_empty_images_are_refused(op, shape):
    with pytest.raises(ValueError, match="empty"):
        op.call(torch.zeros(shape), make_batch(shape[0])[1] if shape[0] else torch.zeros(0, 3))


@pytest.mark.parametrize("value", [float("nan"), -0.5, 1.5])
@pytest.mark.parametrize("name", ["mixup", "manifoldmixup", "cutmix", "bc", "bc_plus"])
def test_weights_that_are_no_share_are_refused(name, value):
    x, targets = make_batch()
    with pytest.raises(ValueError, match="lam"):
        OPERATIONS[name].call(x, targets, lam=torch.full((5,), value), generator=seeded(0))


def test_given_decisions_are_applied_without_reading_a_tensor(op):
    x, targets = make_batch()
    decisions = op.decisions(op.call(x, targets, generator=seeded(1)))
    # Tensors of this device have no values: whatever reads one raises.
    on_meta = {key: value.to("meta") for key, value in decisions.items()}
    mixed = op.call(x.to("meta"), targets.to("meta"), **on_meta)
    assert mixed.x.shape == x.shape
    assert mixed.x.device.type == mixed.targets.device.type == "meta"


def test_drawing_for_a_batch_on_a_device_reads_nothing_back(op):
    x, targets = make_batch()
    mixed = op.call(x.to("meta"), targets.to("meta"), generator=seeded(1))
    assert mixed.x.device.type == mixed.lam.device.type == mixed.perm.device.type == "meta"


def test_importing_the_package_loads_torch_and_none_of_the_heavier_libraries():
    heavy = (
        "lightning lightning_fabric pytorch_lightning torchmetrics torchvision timm kornia "
        "omegaconf rich wandb scipy sklearn ot PIL pandas matplotlib yaml"
    )
    code = (
        "import sys, mixbench.functional\n"
        f"found = [name for name in {heavy.split()!r} if name in sys.modules]\n"
        "sys.exit(f'loaded: {found}' if found or 'torch' not in sys.modules else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# Draws.


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.2, 1.0, 2.0, 8.0, 240.0])
def test_weights_have_the_moments_of_the_beta_distribution(alpha):
    lam = mf.draw_lam(LARGE, alpha, seeded(0)).double()
    assert ((lam >= 0) & (lam <= 1)).all()
    square = (lam - 0.5).square()
    # Four standard errors of the two sample means.
    mean_error, variance_error = (4 * values.std() / LARGE**0.5 for values in (lam, square))
    assert abs(lam.mean() - 0.5) < mean_error
    assert abs(square.mean() - 1 / (4 * (2 * alpha + 1))) < max(variance_error, 1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_follow_the_beta_distribution(alpha):
    lam = mf.draw_lam(LARGE, alpha, seeded(1)).double()
    # The lower half alone: float32 is coarse near 1, where small alphas put much of the mass.
    low, law = lam[lam < 0.5].numpy(), stats.beta(alpha, alpha)
    assert stats.kstest(low, lambda share: 2 * law.cdf(share)).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-308, 1e-30, 1e-6, 1e6, 1e300])
def test_no_extreme_alpha_gives_a_weight_that_is_not_a_number(alpha):
    lam = mf.draw_lam(LARGE, alpha, seeded(0))
    assert not lam.isnan().any()
    assert abs(lam.mean() - 0.5) < 0.01


def test_alpha_zero_gives_plain_training():
    torch.testing.assert_close(mf.draw_lam(3, 0, seeded(0)), torch.ones(3), rtol=0, atol=0)


@pytest.mark.parametrize("alpha", [-1.0, -1e-9, float("nan"), float("inf")])
def test_a_bad_alpha_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be >= 0 and finite, got"):
        mf.draw_lam(1, alpha)


@pytest.mark.parametrize("rule", PARTNER_RULES)
@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_partners_of_every_rule_are_a_permutation(rule, batch):
    perm = mf.draw_perm(batch, seeded(batch), rule=rule)
    assert perm.dtype == torch.int64
    assert sorted(perm.tolist()) == list(range(batch))


def test_flip_pairs_the_ends_and_roll_the_one_before():
    assert mf.draw_perm(5, rule="flip").tolist() == [4, 3, 2, 1, 0]
    assert mf.draw_perm(5, rule="roll").tolist() == [4, 0, 1, 2, 3]


@pytest.mark.parametrize("batch", [2, 3, 4, 129])
def test_derange_never_pairs_a_row_with_itself(batch):
    rows = torch.arange(batch)
    for seed in range(200):
        assert (mf.draw_perm(batch, seeded(seed), rule="derange") != rows).all()


def test_random_partners_are_uniform_over_all_permutations():
    generator = seeded(0)
    draws = [tuple(mf.draw_perm(4, generator).tolist()) for _ in range(4800)]
    counts = [draws.count(order) for order in permutations(range(4))]
    assert sum(counts) == len(draws)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_derange_is_uniform_over_all_cycles():
    generator = seeded(0)
    draws = [tuple(mf.draw_perm(4, generator, rule="derange").tolist()) for _ in range(3000)]
    counts = [draws.count(order) for order in set(draws)]
    assert len(counts) == 6  # cycles through four rows: 3!
    assert stats.chisquare(counts).pvalue > 1e-3


def test_an_unknown_partner_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"random, flip, roll, derange, got 'shuffle'"):
        mf.draw_perm(4, rule="shuffle")


# Targets.


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothed_targets_are_those_of_the_smoothed_cross_entropy(smoothing):
    y, logits = torch.tensor([2, 0, 4]), torch.randn(3, 5, generator=seeded(0))
    targets = mf.one_hot(y, 5, smoothing=smoothing)
    torch.testing.assert_close(targets.sum(1), torch.ones(3), rtol=0, atol=1e-6)
    loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
    torch.testing.assert_close(mf.soft_cross_entropy(logits, targets), loss, rtol=1e-6, atol=1e-6)


def test_one_hot_takes_any_integer_type_and_gives_the_type_asked_for():
    expected = torch.tensor([[0, 1, 0], [1, 0, 0]], dtype=torch.float64)
    for dtype in (torch.uint8, torch.int32, torch.int64):
        targets = mf.one_hot(torch.tensor([1, 0], dtype=dtype), 3, dtype=torch.float64)
        torch.testing.assert_close(targets, expected, rtol=0, atol=0)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_outside_the_classes_are_refused_with_their_range(labels):
    with pytest.raises(ValueError, match=rf"\[0, 3\), got {min(labels)} to {max(labels)}"):
        mf.one_hot(torch.tensor(labels), 3)


@pytest.mark.parametrize("y", [torch.eye(2), torch.tensor([0.5]), torch.tensor([True])])
def test_targets_of_anything_but_class_indices_are_refused(y):
    with pytest.raises(ValueError, match=r"y must be class indices \(B,\), got"):
        mf.one_hot(y, 2)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan")])
def test_smoothing_outside_zero_to_one_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"smoothing must lie in \[0, 1\]"):
        mf.one_hot(torch.tensor([0]), 2, smoothing=smoothing)


def test_mixed_targets_weigh_the_first_label_by_lam():
    targets = torch.tensor([[1.0, 0, 1], [0, 1, 0]])  # the first row has two labels
    mixed = mf.mix_targets(targets, torch.tensor([1, 0]), torch.tensor([0.75, 0.5]))
    expected = torch.tensor([[0.75, 0.25, 0.75], [0.5, 0.5, 0.5]])
    torch.testing.assert_close(mixed, expected, rtol=0, atol=0)


def test_interpolation_is_exact_at_both_ends():
    start, end = torch.randn(2, 64, 1000, generator=seeded(0)).mul(1e3).unbind()
    weight = (torch.arange(64) % 2).float()
    expected = torch.where(weight[:, None] == 1, end, start)
    torch.testing.assert_close(lerp_(start.clone(), end, weight), expected, rtol=0, atol=0)


# Losses.


def test_soft_losses_of_a_mixture_are_the_mixture_of_two_losses():
    generator = seeded(0)
    logits = torch.randn(6, 4, generator=generator)
    y, partner = torch.randint(4, (2, 6), generator=generator)
    lam = 0.3
    targets = lam * mf.one_hot(y, 4) + (1 - lam) * mf.one_hot(partner, 4)
    pair = lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, partner)
    torch.testing.assert_close(mf.soft_cross_entropy(logits, targets), pair, rtol=1e-6, atol=1e-6)


def test_divergence_is_cross_entropy_less_the_entropy_of_the_targets():
    generator = seeded(1)
    logits = torch.randn(6, 4, generator=generator)
    targets = torch.rand(6, 4, generator=generator).softmax(1)
    entropy = -(targets * targets.log()).sum(1).mean()
    expected = mf.soft_cross_entropy(logits, targets) - entropy
    torch.testing.assert_close(mf.soft_kl(logits, targets), expected, rtol=1e-6, atol=1e-6)


def test_divergence_is_never_negative_and_zero_only_where_the_softmax_is_the_target():
    generator = seeded(2)
    logits = torch.randn(200, 5, generator=generator)
    targets = torch.randn(200, 5, generator=generator).softmax(1)
    rows = zip(logits[:, None], targets[:, None], strict=True)
    losses = torch.stack([mf.soft_kl(*row) for row in rows])
    assert (losses > 1e-4).all()
    same = mf.soft_kl(logits, logits.softmax(1))
    torch.testing.assert_close(same, torch.zeros(()), rtol=0, atol=1e-6)


def test_divergence_of_one_hot_targets_is_the_plain_loss_and_has_no_log_of_zero():
    logits, y = torch.randn(4, 3, generator=seeded(3)).requires_grad_(), torch.tensor([0, 2, 1, 1])
    loss = mf.soft_kl(logits, mf.one_hot(y, 3))
    torch.testing.assert_close(loss, F.cross_entropy(logits, y), rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad.isfinite().all()


def test_divergence_and_cross_entropy_have_the_same_gradient():
    generator = seeded(4)
    logits = torch.randn(6, 4, generator=generator).requires_grad_()
    targets = torch.rand(6, 4, generator=generator).softmax(1)
    (first,) = torch.autograd.grad(mf.soft_kl(logits, targets), logits)
    (second,) = torch.autograd.grad(mf.soft_cross_entropy(logits, targets), logits)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)


def test_binary_cross_entropy_takes_mixed_multi_hot_targets():
    generator = seeded(5)
    logits, targets = torch.randn(4, 6, generator=generator), torch.rand(4, 6, generator=generator)
    share = logits.sigmoid()
    expected = -(targets * share.log() + (1 - targets) * (1 - share).log()).mean()
    loss = mf.soft_binary_cross_entropy(logits, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["soft_cross_entropy", "soft_kl", "soft_binary_cross_entropy"])
def test_losses_are_computed_in_float32_whatever_the_precision_of_the_logits(name):
    loss = getattr(mf, name)
    generator = seeded(6)
    logits = (torch.randn(6, 4, generator=generator) * 20).bfloat16()
    targets = torch.rand(6, 4, generator=generator).softmax(1).bfloat16()
    expected = loss(logits.float(), targets.float())
    assert loss(logits, targets).dtype == torch.float32
    torch.testing.assert_close(loss(logits, targets), expected, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(logits, targets), expected, rtol=0, atol=0)


@pytest.mark.parametrize("operation", [mf.mixup, mf.cutmix])
@pytest.mark.parametrize(
    ("decisions", "match"),
    [
        ({"lam": torch.full((3,), 0.5)}, r"lam must hold 1 or 4 weights, got \(3,\)"),
        ({"perm": torch.tensor([1, 0])}, r"perm must hold 4 partners, got \(2,\)"),
    ],
)
def test_decisions_of_the_wrong_number_are_refused(operation, decisions, match):
    with pytest.raises(ValueError, match=match):
        operation(torch.rand(4, 3, 8, 8), torch.eye(4), **decisions)


def test_an_unknown_label_takes_no_part_in_the_loss_and_has_no_gradient():
    nan = float("nan")
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([[1.0, 0, nan, 0.3], [nan, nan, nan, nan], [0, 1, 1, nan]])
    known = ~targets.isnan()
    loss = mf.soft_binary_cross_entropy(logits, targets)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], targets[known])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[~known] == 0).all()
    assert (logits.grad[known] != 0).all()
    nothing = mf.soft_binary_cross_entropy(logits.detach(), torch.full_like(targets, nan))
    assert nothing == 0


def test_mixing_hands_an_unknown_label_on():
    targets = torch.tensor([[float("nan"), 1.0], [0.0, 0.0]])
    mixed = mf.mix_targets(targets, torch.tensor([1, 0]), torch.tensor([0.25]))
    assert mixed[:, 0].isnan().all()
    assert mixed[:, 1].tolist() == [0.25, 0.75]
