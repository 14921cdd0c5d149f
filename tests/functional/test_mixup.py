import pytest
import torch
from torch import Generator, Tensor, nn

import mixbench.functional as mf
from mixbench.methods.build import build_method

NEXT = torch.tensor([1, 2, 3, 0])  # every input gets another one as partner


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 8, 6, generator=seeded(0)), torch.eye(4)


@pytest.mark.parametrize("shape", [(5,), (3, 8, 6), (2, 4, 6, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_row_is_the_weighted_sum_of_itself_and_its_partner(shape, dtype):
    x = torch.randn(4, *shape, generator=seeded(1), dtype=dtype)
    lam = torch.tensor([0.25, 0.875, 0.4, 1e-4])
    mixed = mf.mixup(x, torch.eye(4), lam=lam, perm=NEXT)
    for row, weight in enumerate(lam.tolist()):
        partner = (row + 1) % 4
        expected = weight * x[row] + (1 - weight) * x[partner]
        torch.testing.assert_close(mixed.x[row], expected, rtol=1e-6, atol=1e-6)
        label = [0.0] * 4
        label[row], label[partner] = weight, 1 - weight
        torch.testing.assert_close(mixed.targets[row], torch.tensor(label), rtol=0, atol=1e-6)
    torch.testing.assert_close(mixed.lam, lam, rtol=0, atol=0)
    assert mixed.x.dtype == dtype


def test_weight_one_is_the_identity_to_the_bit(batch):
    x, targets = batch
    mixed = mf.mixup(x, targets, lam=torch.tensor([1.0]), perm=NEXT)
    torch.testing.assert_close(mixed.x, x, rtol=0, atol=0)
    torch.testing.assert_close(mixed.targets, targets, rtol=0, atol=0)


def test_weight_zero_is_the_partner_to_the_bit(batch):
    x, targets = batch
    mixed = mf.mixup(x, targets, lam=torch.tensor([0.0]), perm=NEXT)
    torch.testing.assert_close(mixed.x, x[NEXT], rtol=0, atol=0)
    torch.testing.assert_close(mixed.targets, targets[NEXT], rtol=0, atol=0)


def test_one_weight_for_all_rows_is_the_same_as_that_weight_per_row(batch):
    results = [
        mf.mixup(*batch, lam=torch.full(shape, 0.3), perm=NEXT) for shape in ((), (1,), (4,))
    ]
    for value, *others in zip(*(result[:4] for result in results), strict=True):
        for other in others:
            torch.testing.assert_close(other, value, rtol=0, atol=0)


def test_weights_are_drawn_once_per_batch_and_once_per_row_if_asked(batch):
    assert len(mf.mixup(*batch, generator=seeded(2)).lam.unique()) == 1
    assert len(mf.mixup(*batch, per_sample=True, generator=seeded(2)).lam.unique()) == 4


def test_a_shared_weight_preserves_the_mean_of_the_batch(batch):
    x, targets = batch
    for seed in range(5):
        mixed = mf.mixup(x, targets, generator=seeded(seed))
        torch.testing.assert_close(mixed.x.mean(0), x.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mixed.targets.mean(0), targets.mean(0), rtol=1e-5, atol=1e-6)


def test_folded_weights_let_the_first_image_dominate(batch):
    lam = torch.tensor([0.1, 0.5, 0.9, 0.0])
    folded = mf.mixup(*batch, lam=lam, perm=NEXT, fold=True)
    expected = mf.mixup(*batch, lam=torch.tensor([0.9, 0.5, 0.9, 1.0]), perm=NEXT)
    torch.testing.assert_close(folded.x, expected.x, rtol=0, atol=0)
    torch.testing.assert_close(folded.lam, expected.lam, rtol=0, atol=0)


@pytest.mark.parametrize("rule", ["random", "flip", "roll", "derange"])
def test_partners_follow_the_rule_asked_for(batch, rule):
    mixed = mf.mixup(*batch, partner=rule, generator=seeded(3))
    assert torch.equal(mixed.perm, mf.draw_perm(4, seeded(3), rule=rule))


def test_alpha_zero_is_plain_training(batch):
    mixed = mf.mixup(*batch, alpha=0, generator=seeded(0))
    torch.testing.assert_close(mixed.x, batch[0], rtol=0, atol=0)
    torch.testing.assert_close(mixed.targets, batch[1], rtol=0, atol=0)


def test_weights_that_underflow_give_one_of_the_two_images(batch):
    x, targets = batch
    for seed in range(20):
        mixed = mf.mixup(x, targets, alpha=1e-6, partner="roll", generator=seeded(seed))
        wanted = x if mixed.lam[0] == 1 else x.roll(1, 0)
        assert mixed.lam[0] in (0, 1)
        torch.testing.assert_close(mixed.x, wanted, rtol=0, atol=0)


def test_multi_hot_targets_are_mixed_linearly():
    x = torch.randn(2, 3, 4, 4, generator=seeded(0))
    targets = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 1]])
    mixed = mf.mixup(x, targets, lam=torch.tensor([0.75]), perm=torch.tensor([1, 0]))
    expected = torch.tensor([[0.75, 1, 0.25, 0.25], [0.25, 1, 0.75, 0.75]])
    torch.testing.assert_close(mixed.targets, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_faint_partner_is_not_lost_to_reduced_precision(dtype):
    x = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 1000.0)]).to(dtype)
    lam, swap = torch.tensor([0.9995]), torch.tensor([1, 0])
    # In bf16 the weight itself would round to 1.
    expected = torch.full((1, 2, 2), 0.5)
    mixed = mf.mixup(x, torch.eye(2), lam=lam, perm=swap)
    torch.testing.assert_close(mixed.x[0].float(), expected, rtol=torch.finfo(dtype).eps, atol=0)


def test_the_gradient_is_that_of_the_weighted_sum(batch):
    lam, perm = torch.tensor([0.25, 0.5, 0.0, 1.0]), torch.tensor([1, 0, 2, 0])
    x = batch[0].double().requires_grad_()
    targets = batch[1].double().requires_grad_()

    def mix(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mixed = mf.mixup(x, targets, lam=lam, perm=perm)
        return mixed.x, mixed.targets

    assert torch.autograd.gradcheck(mix, (x, targets), eps=1e-6, atol=1e-6, rtol=1e-6)


def test_new_decisions_neither_break_a_compiled_graph_nor_compile_it_again(compiled, batch):
    operation = compiled(mf.mixup)
    for seed in range(4):
        lam, perm = mf.draw_lam(1, 1.0, seeded(seed)), mf.draw_perm(4, seeded(seed))
        mixed = operation.call(*batch, lam=lam, perm=perm)
        expected = mf.mixup(*batch, lam=lam, perm=perm)
        torch.testing.assert_close(mixed.x, expected.x, rtol=0, atol=0)
    assert operation.graphs == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_images_are_refused_with_their_shape_and_the_remedy(batch, dtype):
    with pytest.raises(ValueError, match=r"\(4, 3, 8, 6\) is torch\.\w+; convert to float first"):
        mf.mixup(batch[0].to(dtype), batch[1])


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_a_bad_alpha_is_refused(batch, alpha):
    with pytest.raises(ValueError, match="alpha must be >= 0 and finite"):
        mf.mixup(*batch, alpha=alpha)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"alpha": 0.0}, "method.alpha"), ({"alpha": float("nan")}, "method.alpha")]
    + [({"prob": value}, "method.prob") for value in (-0.1, 1.1, float("nan"))]
    + [({"partner": "pair"}, "method.partner")],
)
def test_the_method_refuses_settings_out_of_range_by_their_key(settings, key):
    with pytest.raises(ValueError, match=rf"^{key} must"):
        build_method("mixup", nn.Identity(), **settings)
