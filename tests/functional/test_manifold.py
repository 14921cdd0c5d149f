import math

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

import mixbench.functional as mf

NEXT = torch.tensor([1, 2, 3, 0])  # every row gets another one as partner


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


# The operation.


@pytest.mark.parametrize("shape", [(5,), (3, 8, 6), (7, 5)])
def test_features_of_any_shape_are_mixed_as_input_mixup_mixes_images(shape):
    h, targets = random(4, *shape), torch.eye(4)
    mixed = mf.manifoldmixup(h, targets, lam=torch.tensor([0.3]), perm=NEXT)
    torch.testing.assert_close(mixed.x, 0.3 * h + 0.7 * h[NEXT], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mixed.targets, 0.3 * targets + 0.7 * targets[NEXT])
    drawn = mf.manifoldmixup(h, targets, generator=seeded(1))
    expected = mf.mixup(h, targets, alpha=2.0, generator=seeded(1))
    for value, wanted in zip(drawn[:4], expected[:4], strict=True):
        torch.testing.assert_close(value, wanted, rtol=0, atol=0)


def test_one_weight_is_drawn_for_the_batch_from_beta_2_2():
    generator = seeded(0)
    drawn = [mf.manifoldmixup(random(2, 1), torch.eye(2), generator=generator) for _ in range(2000)]
    assert all(len(mixed.lam.unique()) == 1 for mixed in drawn)
    lam = torch.stack([mixed.lam[0] for mixed in drawn])
    assert abs(lam.mean() - 0.5) < 0.02  # four deviations of the mean
    assert abs(lam.var() - 0.05) < 0.006  # of Beta(2, 2); of Beta(1, 1) 0.083


def test_in_a_linear_network_every_layer_gives_the_same_logits():
    parts = [nn.Linear(6, 5), nn.Linear(5, 7), nn.Linear(7, 4)]
    x, lam = random(4, 6), torch.tensor([0.2, 0.9, 0.5, 0.0])
    found = []
    for layer in range(len(parts) + 1):
        h = nn.Sequential(*parts[:layer])(x)
        h = mf.manifoldmixup(h, torch.eye(4), lam=lam, perm=NEXT).x
        found.append(nn.Sequential(*parts[layer:])(h))
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("lam", "shares"), [(1.0, (1, 0)), (0.0, (0, 1)), (0.25, (0.25, 0.75))])
def test_the_gradient_is_divided_between_the_partners_by_their_weights(lam, shares):
    h = random(4, 3).requires_grad_()
    mixed = mf.manifoldmixup(h, torch.eye(4), lam=torch.tensor([lam]), perm=NEXT)
    (grad,) = torch.autograd.grad(mixed.x[0].sum(), h)
    expected = torch.zeros(4, 3)
    expected[0], expected[1] = shares
    torch.testing.assert_close(grad, expected, rtol=0, atol=0)


def test_weight_one_leaves_features_and_labels_to_the_bit():
    h, targets = random(4, 3, 2, 2), torch.eye(4)
    mixed = mf.manifoldmixup(h, targets, lam=torch.ones(1), perm=NEXT)
    assert torch.equal(mixed.x, h)
    assert torch.equal(mixed.targets, targets)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_autograd_records_no_write_into_a_view(layout):
    """Which costs four copies of a channels_last feature map on the way back."""
    h = random(4, 3, 8, 8).contiguous(memory_format=layout).requires_grad_()
    mixed = mf.manifoldmixup(h, torch.eye(4), lam=torch.tensor([0.3]), perm=NEXT)
    nodes, names = [mixed.x.grad_fn], set()
    while nodes:
        node = nodes.pop()
        names.add(node.name())
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
    assert {"LerpBackward1", "IndexSelectBackward0"} <= names
    assert "CopySlices" not in names


def test_features_in_any_memory_order_are_mixed_alike_and_stay_as_they_are():
    h, targets = random(4, 3, 6, 5), torch.eye(4)
    decisions = {"lam": torch.tensor([0.3, 0.9, 0.5, 0.0]), "perm": NEXT}
    expected = mf.manifoldmixup(h, targets, **decisions).x
    last = h.contiguous(memory_format=torch.channels_last)
    for other in (last, torch.stack([h, -h], dim=-1)[..., 0]):
        before = other.clone()
        assert torch.equal(mf.manifoldmixup(other, targets, **decisions).x, expected)
        assert torch.equal(other, before)
    mixed = mf.manifoldmixup(last, targets, **decisions).x
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("h", "targets", "settings", "match"),
    [
        (random(4, 3), torch.eye(3), {}, "must have the same batch size"),
        (random(4, 3), torch.arange(4), {}, r"one_hot\(y, K\)"),
        (torch.zeros(4, 3, dtype=torch.uint8), torch.eye(4), {}, "convert to float first"),
        (random(4, 3), torch.eye(4), {"alpha": -1.0}, "alpha must be >= 0"),
        (random(4, 3), torch.eye(4), {"alpha": float("nan")}, "alpha must be >= 0"),
        (random(4, 3), torch.eye(4), {"lam": torch.tensor([1.5])}, r"lam must lie in \[0, 1\]"),
        (random(4, 3), torch.eye(4), {"perm": torch.arange(3)}, "perm must hold 4 partners"),
    ],
    ids=["rows", "indices", "uint8", "alpha", "nan", "lam", "perm"],
)
def test_what_cannot_be_mixed_is_refused(h, targets, settings, match):
    with pytest.raises(ValueError, match=match):
        mf.manifoldmixup(h, targets, **settings)


# The loss of the official code.


def reference(logits: Tensor, targets: Tensor) -> Tensor:
    log_p, targets = logits.double().log_softmax(1), targets.double()
    return -(targets * log_p + (1 - targets) * torch.log1p(-log_p.exp())).mean()


def soft_labels(rows: int, classes: int) -> Tensor:
    return random(rows, classes, seed=7).softmax(1)


@pytest.mark.parametrize("classes", [2, 6, 1000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_value_and_gradient_are_those_of_the_softmax_s_binary_cross_entropy(classes, scale):
    logits = (scale * random(5, classes)).requires_grad_()
    targets = soft_labels(5, classes)
    loss = mf.softmax_binary_cross_entropy(logits, targets)
    expected = reference(logits, targets)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=0)
    # PyTorch's own loss has the same value; where p < 1e-12 it cuts the gradient off.
    official = F.binary_cross_entropy(logits.double().softmax(1), targets.double())
    torch.testing.assert_close(loss, official.float(), rtol=1e-5, atol=0)
    (grad,), (wanted,) = (torch.autograd.grad(value, logits) for value in (loss, expected))
    torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-8)


def test_a_probability_next_to_one_keeps_its_value_and_gradient():
    """At a gap of 30, 1 - p is 1e-13 and the float32 softmax is 1."""
    logits = torch.tensor([[30.0, 0.0, -1.0]]).requires_grad_()
    targets = torch.tensor([[0.5, 0.25, 0.25]])
    loss = mf.softmax_binary_cross_entropy(logits, targets)
    wide = logits.detach().double().requires_grad_()
    rest = torch.stack([wide[0, [1, 2]].logsumexp(0), wide[0, [0, 2]].logsumexp(0),
                        wide[0, [0, 1]].logsumexp(0)]) - wide.logsumexp(1)  # fmt: skip
    terms = targets.double() * wide.log_softmax(1) + (1 - targets.double()) * rest
    expected = -terms.mean()  # from the logits of the other classes, with no difference 1 - p
    torch.testing.assert_close(loss, expected.float(), rtol=1e-6, atol=0)
    (grad,), (wanted,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, wide)
    torch.testing.assert_close(grad, wanted.float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_logits_are_widened_first(dtype):
    logits, targets = (12 * random(6, 5)).to(dtype), soft_labels(6, 5)
    loss = mf.softmax_binary_cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, mf.softmax_binary_cross_entropy(logits.float(), targets))


@pytest.mark.parametrize("gap", [1e3, 1e4, 6e4])
def test_logarithms_end_at_minus_100_and_gradients_stay_finite(gap):
    logits = torch.tensor([[gap, -gap], [-gap, gap], [0.0, 0.0]]).requires_grad_()
    targets = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    loss = mf.softmax_binary_cross_entropy(logits, targets)
    torch.testing.assert_close(loss.detach(), torch.tensor((200 + 2 * math.log(2)) / 6))
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad.isfinite().all()


def test_a_loss_that_is_not_finite_stays_so():
    logits = torch.tensor([[float("nan"), 0.0]])
    assert mf.softmax_binary_cross_entropy(logits, torch.tensor([[1.0, 0.0]])).isnan()


@pytest.mark.parametrize("classes", [4, 10, 100])
def test_its_gradient_is_half_to_once_the_number_of_classes_smaller(classes):
    """Of an untrained network, whose logits are small: the trap of the specification."""
    logits = (0.1 * random(64, classes)).requires_grad_()
    targets = torch.eye(classes)[torch.arange(64) % classes]
    losses = mf.soft_cross_entropy, mf.softmax_binary_cross_entropy
    usual, official = (torch.autograd.grad(loss(logits, targets), logits)[0] for loss in losses)
    assert classes / 2 < usual.norm() / official.norm() < classes


def test_the_loss_is_one_graph_without_a_break(compiled):
    operation = compiled(mf.softmax_binary_cross_entropy)
    for seed in range(3):
        logits, targets = random(4, 5, seed=seed), soft_labels(4, 5)
        expected = mf.softmax_binary_cross_entropy(logits, targets)
        torch.testing.assert_close(operation.call(logits, targets), expected)
    assert operation.graphs == 1
