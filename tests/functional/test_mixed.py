import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

import mixbench.functional as mf
from mixbench.functional.mixed import lerp_


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


def masks(mixed: mf.Mixed) -> dict[str, Any]:
    return weights(mixed) | {"mask": mixed.aux}


def snapped(x: Tensor, targets: Tensor, **options: Any) -> mf.Mixed:
    """SnapMix by maps that belong to the images."""
    return mf.snapmix(x, targets, x.float().sum(1).contiguous(), alpha=20.0, **options)


def parts(mixed: mf.Mixed) -> dict[str, Any]:
    return {"box": mixed.aux.box, "source": mixed.aux.source, "perm": mixed.perm}


def mapped_tokens(x: Tensor, targets: Tensor, **options: Any) -> mf.Mixed:
    """TokenMix by maps that belong to the images."""
    maps = x.float().abs().sum(1).contiguous()
    return mf.tokenmix(x, targets, maps, grid=(4, 3), partner="random", **options)


def token_masks(mixed: mf.Mixed) -> dict[str, Any]:
    return {"mask": mixed.aux.mask, "perm": mixed.perm}


def cells(mixed: mf.Mixed) -> dict[str, Any]:
    return {"mask": mixed.aux, "perm": mixed.perm}


def attended(x: Tensor, targets: Tensor, **options: Any) -> mf.Mixed:
    """SMMix by maps that belong to the images."""
    maps = x.float().abs().sum(1).contiguous()[:, ::2, ::2]
    return mf.smmix(x, targets, maps, high=0.9, partner="random", **options)


def windows(mixed: mf.Mixed) -> dict[str, Any]:
    return {"perm": mixed.perm, "side": mixed.aux.side}


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
    "fmix": Operation(mf.fmix, masks),
    "fmix_official": Operation(partial(mf.fmix, spectrum="official"), masks),
    "fmix_per_sample": Operation(partial(mf.fmix, per_sample=True, max_soft=0.2), masks),
    "gridmix": Operation(mf.gridmix, masks),
    "gridmix_per_sample": Operation(partial(mf.gridmix, per_sample=True, official=True), masks),
    "resizemix": Operation(mf.resizemix, boxes),
    "resizemix_per_sample": Operation(
        partial(mf.resizemix, per_sample=True, mode="bilinear"), boxes
    ),
    "snapmix": Operation(snapped, parts),
    "snapmix_per_sample": Operation(partial(snapped, per_sample=True), parts),
    "smmix_per_sample": Operation(partial(attended, per_sample=True), windows),
    "mixpro": Operation(partial(mf.mixpro, cell=3), cells),
    "mixpro_per_sample": Operation(
        partial(mf.mixpro, cell=2, per_sample=True, area="cells"), cells
    ),
    "tokenmix": Operation(partial(mapped_tokens, extra=2), token_masks),
    "tokenmix_per_sample": Operation(
        partial(mapped_tokens, alpha=1.0, kind="random", per_sample=True), token_masks
    ),
    "smoothmix": Operation(mf.smoothmix, masks),
    "smoothmix_per_sample": Operation(partial(mf.smoothmix, per_sample=True), masks),
    "alignmix": Operation(partial(mf.alignmix, side=0, iters=5), moves),
    "alignmix_partner": Operation(partial(mf.alignmix, side=1, solver="scaled", iters=5), moves),
}
# The others move positions, even of an image that is paired with itself.
MOVES = ("alignmix", "resizemix", "smmix", "snapmix")
IN_PLACE = [name for name in OPERATIONS if not name.startswith(MOVES)]


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
    decisions = op.decisions(op.call(x, targets, generator=seeded(8)))  # equal weights
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
@pytest.mark.parametrize("name", ["mixup", "manifoldmixup", "cutmix", "bc", "bc_plus", "fmix"])
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
        "torch._dynamo triton omegaconf rich wandb scipy sklearn ot PIL pandas matplotlib yaml"
    )
    code = (
        "import sys, mixbench.functional\n"
        f"found = [name for name in {heavy.split()!r} if name in sys.modules]\n"
        "sys.exit(f'loaded: {found}' if found or 'torch' not in sys.modules else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


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


def test_mixing_hands_an_unknown_label_on():
    targets = torch.tensor([[float("nan"), 1.0], [0.0, 0.0]])
    mixed = mf.mix_targets(targets, torch.tensor([1, 0]), torch.tensor([0.25]))
    assert mixed[:, 0].isnan().all()
    assert mixed[:, 1].tolist() == [0.25, 0.75]
