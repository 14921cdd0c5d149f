"""Classes stay apart, and labels whole, whatever the precision of the images and of autocast."""

import contextlib

import pytest
import torch

import mixbench.functional as mf

# bfloat16 has 8 bits: as numbers 256 and 257, and 1023 and 1024, are one.
CLASSES, Y = 1100, torch.tensor([256, 257, 1023, 1024])
NEXT, LAM = torch.tensor([1, 2, 3, 0]), torch.tensor([0.7])
MAPS = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))


def token_labels(x, targets):
    mixed = mf.token_cutmix(x, targets, patch=4, lam=LAM, perm=NEXT)
    tokens = mf.pasted_tokens(mixed.aux, (16, 16), (4, 4)).flatten(1).expand(4, -1)
    attn = torch.full((4, 2, 16, 16), 1 / 16, dtype=x.dtype)
    share = mf.propagate(tokens, attn).mean(dim=1)
    return mixed._replace(targets=mf.mix_targets(targets, NEXT, 1 - share))


MIXING = {
    "alignmix": lambda x, t: mf.alignmix(x, t, lam=LAM, perm=NEXT, side=1, iters=3),
    "bc": lambda x, t: mf.bc(x, t, lam=LAM, perm=NEXT),
    "bc plus": lambda x, t: mf.bc(x, t, plus=True, lam=LAM, perm=NEXT),
    "cutmix": lambda x, t: mf.cutmix(x, t, lam=LAM, perm=NEXT),
    "manifoldmixup": lambda x, t: mf.manifoldmixup(x, t, lam=LAM, perm=NEXT),
    "maskmix": lambda x, t: mf.maskmix(
        x, t, mask=MAPS.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None], lam=LAM, perm=NEXT
    ),
    "mixup": lambda x, t: mf.mixup(x, t, lam=LAM, perm=NEXT),
    "tdattenmix": lambda x, t: mf.tdattenmix(x, t, MAPS.to(x.dtype), side=3, perm=NEXT),
    "token_cutmix": token_labels,
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MIXING)
def test_labels_of_float32_keep_their_classes_and_weights(name, dtype, autocast):
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    targets = mf.one_hot(Y, CLASSES)
    low = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with low:
        mixed = MIXING[name](x, targets)
        loss = mf.soft_cross_entropy(x.flatten(1)[:, :1].expand(-1, CLASSES), mixed.targets)
    assert mixed.targets.dtype == torch.float32
    for row, own, other in zip(mixed.targets, Y, Y[NEXT], strict=True):
        assert row.nonzero()[:, 0].tolist() == sorted([own.item(), other.item()])
    torch.testing.assert_close(mixed.targets.sum(dim=1), torch.ones(4), rtol=0, atol=1e-6)
    weight = mixed.targets.gather(1, Y[:, None])[:, 0]
    exact = {"cutmix", "tdattenmix", "token_cutmix"}  # whose label follows what is pasted
    if name not in exact:
        torch.testing.assert_close(weight, LAM.expand(4), rtol=0, atol=1e-6)
    if name != "token_cutmix":
        torch.testing.assert_close(weight, mixed.lam.float().expand(4), rtol=0, atol=1e-6)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_partners_of_another_class_are_found_whatever_the_type_of_labels(dtype):
    targets = mf.one_hot(torch.tensor([256, 257, 256, 257]), CLASSES, dtype=dtype)
    for seed in range(8):
        perm = mf.draw_other_class(targets, torch.Generator().manual_seed(seed))
        assert (targets.argmax(1)[perm] != targets.argmax(1)).all()
    labels = torch.tensor([256, 257] * 10)
    first, second = mf.draw_other_class_pairs(labels, 50, torch.Generator().manual_seed(0))
    assert (labels[first] != labels[second]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_class_numbers_in_floats_are_refused(dtype):
    x = torch.rand(4, 3, 16, 16)
    with pytest.raises(ValueError, match="class indices"):
        mf.one_hot(Y.to(dtype), CLASSES)
    for name, mix in MIXING.items():
        with pytest.raises(ValueError, match="one_hot"):
            mix(x, Y.to(dtype))
        assert name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64])
def test_the_order_of_equal_windows_is_that_of_its_numbers_in_any_type_of_sums(dtype):
    sums, order = torch.ones(1, 2, 2, dtype=dtype), torch.tensor([[[0.9, 0.5], [0.4995, 0.7]]])
    assert mf.least_attended(sums, order).tolist() == [[1, 0]]
