import pytest
import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.data.augment.augmix import pillow_chains
from mixbench.errors import NATIVE
from mixbench.metrics.corruption import mce

GOLDEN = "augmix"
NOT_COMPARED = {
    "jsd*/expect_d*": "NaN in the official file where a probability is 0; other rows are compared"
}
INTERPOLATED = [mf.OPERATIONS.index(name) for name in ("rotate", "shear_x", "shear_y")]
BACKENDS = {"tensors": mf.chain_images, "Pillow": pillow_chains}


def images_of(case) -> Tensor:
    return case["image"].permute(2, 0, 1)[None].contiguous()


@pytest.fixture(params=["1", "0"], ids=["compiled", "torch"])
def native(request, monkeypatch):
    """Tensors pass by the C code, where it can be built, or by torch."""
    monkeypatch.setenv(NATIVE, request.param)


@pytest.mark.usefixtures("native")
@pytest.mark.cases("ops")
def test_both_backends_repeat_every_operation_of_the_authors(case):
    ops, levels, signs = (case[key][:, None, None] for key in ("op", "level", "sign"))
    rows = len(ops)
    chains = mf.Chains(ops, levels, signs, torch.ones(rows, 1), torch.ones(rows))
    expected = case["expect_image"].int()
    interpolated = torch.isin(case["op"], torch.tensor(INTERPOLATED))
    for made in BACKENDS.values():
        found = made(images_of(case), chains)[:, 0].permute(0, 2, 3, 1)
        case.compare("expect_image", found, rows=~interpolated)
        # The file rounds levels to float32, which alone moves a value past an integer here and
        # there.
        gap = (found.int() - expected)[interpolated].abs()
        assert gap.max() <= 1
        assert (gap > 0).float().mean() < 1e-3
        near = torch.where(interpolated[:, None, None, None], expected.to(torch.uint8), found)
        case.compare("expect_image", near, rows=interpolated)


@pytest.mark.usefixtures("native")
@pytest.mark.cases("case*")
def test_both_backends_repeat_the_mixed_images_of_the_authors(case):
    parts = (case[key][None] for key in ("ops", "levels", "signs", "ws", "m"))
    chains, pixels = mf.Chains(*parts), images_of(case)
    for name, made in BACKENDS.items():
        mixed = mf.mix_chains(pixels, made(pixels, chains), chains)[0]
        case.compare("expect_mixed", (mixed - 0.5) / 0.5, f"mixed by {name}")
    torch.testing.assert_close(mf.augmix(pixels, chains=chains)[0], mixed, rtol=0, atol=1.01 / 255)


@pytest.mark.cases("jsd*")
def test_the_loss_and_its_gradients_are_those_of_the_authors(case):
    keys = ("clean", "aug1", "aug2")
    views = [case[f"logits_{key}"].requires_grad_() for key in keys]
    targets = mf.one_hot(case["targets"], views[0].shape[1])
    ce = mf.soft_cross_entropy(views[0], targets)
    loss = ce + 12 * mf.jsd_loss(torch.stack(views))
    loss.backward()
    prefix = f"{case.name}/" if f"{case.name}/losses" in case.file.tolerances else ""
    case.compare("expect_ce", ce, f"{prefix}losses")
    case.compare("expect_loss", loss, f"{prefix}losses")
    for key, logits in zip(keys, views, strict=True):
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        known = case[f"expect_d{key}"].isfinite().all(1)
        case.compare(f"expect_d{key}", logits.grad, f"{prefix}gradients", rows=known)


@pytest.mark.cases("mce")
def test_corruption_errors_are_relative_to_those_of_alexnet(case):
    case.compare("expect_mce", mce(1 - case["accs"], case["alexnet_err"]), "mce")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
