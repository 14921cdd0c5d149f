import pytest
import torch

from mixbench.nn.transform_mixer import TransformMixer


def module(seed=0, **settings):
    """A module whose last layers are not zero any more."""
    torch.manual_seed(seed)
    made = TransformMixer(**settings)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.eval()


def maps(rows=3, height=32, width=32, channels=1):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, rows, channels, height, width, generator=generator)


LAM = torch.tensor([0.1, 0.5, 0.8])


def test_it_starts_without_any_transformation_and_with_even_masks():
    made = TransformMixer()
    first, second = maps()
    assert not made.transformations(first, second).any()
    assert torch.equal(made.mask(first, second, LAM), torch.full((3, 1, 32, 32), 0.5))


def test_it_has_the_number_of_parameters_of_its_specification():
    assert sum(p.numel() for p in TransformMixer().parameters()) == pytest.approx(97_000, rel=0.01)


def test_in_the_other_order_each_image_goes_the_same_way_and_has_the_other_part():
    made = module()
    first, second = maps()
    own, partner = made.transformations(first, second).chunk(2)
    assert own.abs().min() > 1e-4
    torch.testing.assert_close(
        made.transformations(second, first), torch.cat([partner, own]), rtol=0, atol=2e-5
    )
    mask = made.mask(first, second, LAM)
    torch.testing.assert_close(made.mask(second, first, 1 - LAM), 1 - mask, rtol=0, atol=2e-5)
    assert mask.std() > 1e-3


def test_without_symmetry_the_order_matters():
    made = module(symmetric=False)
    first, second = maps()
    own, partner = made.transformations(first, second).chunk(2)
    other = made.transformations(second, first)
    assert (other - torch.cat([partner, own])).abs().max() > 1e-3
    gap = made.mask(second, first, 1 - LAM) - (1 - made.mask(first, second, LAM))
    assert gap.abs().max() > 1e-3


@pytest.mark.parametrize("told", [True, False])
def test_the_mask_depends_on_the_weight_only_where_it_is_told(told):
    made = module(lam_input=told)
    first, second = maps()
    same = torch.equal(made.mask(first, second, LAM), made.mask(first, second, 1 - LAM))
    assert same != told


@pytest.mark.parametrize("size", [(64, 64), (8, 8), (28, 28), (24, 40), (30, 33), (1, 3)])
def test_it_reads_images_of_any_size(size):
    first, second = maps(3, *size)
    made = module()
    mask = made.mask(first, second, LAM)
    assert mask.shape == (3, 1, *size)
    assert mask.isfinite().all()
    assert made.transformations(first, second).shape == (6, 4)


def test_a_large_image_has_the_transformations_of_its_small_copy():
    made, (first, second) = module(), maps()
    large = (each.repeat_interleave(2, 2).repeat_interleave(2, 3) for each in (first, second))
    torch.testing.assert_close(
        made.transformations(*large), made.transformations(first, second), rtol=1e-4, atol=1e-6
    )


def test_a_sharper_sigmoid_has_masks_further_from_one_half():
    first, second = maps()
    soft, sharp = (module(temperature=t).mask(first, second, LAM) for t in (1.0, 0.5))
    torch.testing.assert_close(sharp.logit(), 2 * soft.logit(), rtol=1e-3, atol=1e-4)


def test_it_computes_in_single_precision_under_autocast():
    made, (first, second) = module(), maps()
    with torch.autocast("cpu", torch.bfloat16):
        found = made.mask(first, second, LAM), made.transformations(first, second)
    assert torch.equal(found[0], made.mask(first, second, LAM))
    assert torch.equal(found[1], made.transformations(first, second))


def test_parts_that_are_left_out_have_no_parameters():
    assert not list(TransformMixer(stn=False, mpn=False).parameters())
    first, second = maps()
    assert not TransformMixer(stn=False).transformations(first, second).any()
    with pytest.raises(ValueError, match="affine='free'"):
        TransformMixer(affine="free")


def test_six_numbers_and_the_images_are_options():
    made = module(affine="full", stn_input="image+saliency", channels=3)
    first, second = maps(channels=4)
    assert made.transformations(first, second).shape == (6, 6)
