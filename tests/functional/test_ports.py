"""What other libraries compute under the name of a method, called as they are."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import AugMix

import mixbench.functional as mf
from mixbench.functional.image_ops import DEFAULT_OPS, OPERATIONS

COLOURS = {"Brightness", "Color", "Contrast", "Sharpness"}


def test_augmix_of_torchvision_has_all_operations_weaker_levels_and_whole_pixels():
    theirs = AugMix()
    space = theirs._augmentation_space(10, (32, 32))
    ours = mf.draw_chains(4000, generator=torch.Generator().manual_seed(0))
    assert len(space) == len(OPERATIONS) == 13
    assert space.keys() > COLOURS
    assert set(ours.ops.unique().tolist()) == set(range(-1, DEFAULT_OPS))
    assert 13 - len(COLOURS) == DEFAULT_OPS
    shears = space["ShearX"][0]
    assert float(shears[: theirs.severity].max() / shears.max()) == pytest.approx(2 / 9)
    assert float(ours.levels.max()) / 10 == pytest.approx(3 / 10, abs=1e-3)
    assert space["Color"][1]  # weaker and stronger; the authors' factor is 0.1 to 1.9 by its level
    pixels = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    assert theirs(pixels).dtype == torch.uint8
    assert mf.augmix(pixels[None]).dtype == torch.float32


def test_augmix_of_timm_has_all_operations_whole_pixels_and_smoothed_labels():
    pytest.importorskip("timm")
    from timm.data.auto_augment import augment_and_mix_transform
    from timm.loss import JsdCrossEntropy

    theirs = augment_and_mix_transform("augmix-m3-w3", {"translate_const": 10})
    names = {op.name.removesuffix("Increasing") for op in theirs.ops}
    assert len(names) == 13
    assert names > COLOURS
    view = theirs(Image.fromarray(np.zeros((8, 8, 3), np.uint8)))
    assert isinstance(view, Image.Image)

    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(3, 16, 5, generator=generator), torch.arange(16) % 5

    def ours(smoothing: float) -> torch.Tensor:
        targets = mf.one_hot(y, 5, smoothing=smoothing)
        return mf.soft_cross_entropy(logits[0], targets) + 12 * mf.jsd_loss(logits)

    flat, labels = logits.flatten(0, 1), y.repeat(3)
    torch.testing.assert_close(JsdCrossEntropy(smoothing=0.0)(flat, labels), ours(0.0))
    torch.testing.assert_close(JsdCrossEntropy()(flat, labels), ours(0.1))
    assert (ours(0.1) - ours(0.0)).abs() > 1e-2


@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
def test_timm_refuses_odd_batches_although_only_pairs_need_even_ones(mode):
    pytest.importorskip("timm")
    from timm.data import Mixup

    theirs = Mixup(mixup_alpha=1.0, mode=mode, num_classes=3)
    with pytest.raises(AssertionError, match="even"):
        theirs(torch.rand(3, 3, 8, 8), torch.arange(3))
    mixed = mf.mixup(torch.rand(3, 3, 8, 8), torch.eye(3), partner="flip")
    assert mixed.perm.tolist() == [2, 1, 0]
