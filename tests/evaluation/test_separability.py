import planted
import pytest
import torch

from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.images import Batch, ResidentImages, Splits
from mixbench.errors import UserError
from mixbench.evaluation import separability
from mixbench.evaluation.separability import weight_table
from mixbench.evaluation.suite import load_suite
from mixbench.methods import METHODS
from mixbench.testing.samples import sample_method

INFO = DataInfo(2, planted.SIDE, planted.SIDE)


def suite(**settings):
    return load_suite("separability", EvalConfig(demixer="some run", **settings))


@pytest.fixture
def halves(monkeypatch):
    """Generators of left and right halves in place of a finished run."""

    def use(**facts):
        monkeypatch.setattr(
            separability,
            "load_demixer",
            lambda given, key, config: planted.demixer(config=config, both_images=True, **facts),
        )

    use()
    return use


def pairs(count=8):
    """Left and right halves in turn, so that partners differ; the side is the class."""
    images = torch.stack([planted.images(bool(i % 2), 1, seed=i)[0] for i in range(count)])
    images = (255 * images).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return Batch(images, torch.arange(count) % 2, torch.arange(count))


class SeesSides(torch.nn.Module):
    def forward(self, pixels):
        half = planted.SIDE // 2
        return torch.stack(
            [pixels[..., :half].mean((1, 2, 3)), pixels[..., half:].mean((1, 2, 3))], 1
        )


def counted(name, batch=None, **settings):
    method = sample_method(METHODS.get(name), **settings).eval()  # of four classes
    method.forward = SeesSides().forward
    return suite().count(method, [batch or pairs()], INFO)


def test_sources_of_a_mixture_are_recovered_in_both_roles(halves):
    counts = counted("mixup", alpha=5.0)
    assert counts["n"] == counts["mixed"] == 8
    weight, mse, plain, agree = counts["sources"].unbind(2)
    torch.testing.assert_close(weight.sum(1), torch.ones(8))
    assert mse.max() < 1e-4  # of bytes that are rounded
    assert plain.min() > 100 * mse.max()
    assert agree.all()
    scores = suite().score(counts)
    assert scores["separable_top1"] == 100.0
    assert scores["separable_mse"] == pytest.approx(float(mse.mean()))


def test_weights_of_pasted_pixels_are_those_of_each_pixel(halves):
    counts = counted("cutmix", minmax=[0.5, 0.6])
    weight, mse, plain, _ = counts["sources"].unbind(2)
    assert (weight[:, 0] != 0.5).any()
    # What lies below a box follows from the rest of an image; the rest of a box may not.
    assert mse[:, 0].max() < 1e-4
    assert mse[:, 1].median() < plain[:, 1].median()


def test_a_generator_of_all_images_plays_both_roles(monkeypatch):
    def load(given, key, config):
        found = planted.demixer(config=config)
        found.generators = [planted.Half(False)]
        return found

    monkeypatch.setattr(separability, "load_demixer", load)
    images = (255 * planted.images(False, 4)).round().to(torch.uint8).expand(-1, 3, -1, -1)
    batch = Batch(images.contiguous(), torch.arange(4) % 2, torch.arange(4))
    counts = counted("mixup", batch)
    # One generator cannot tell two of its images apart, but it makes their sum.
    assert counts["mixed"] == 4
    assert counts["sources"].isfinite().all()


def test_a_last_image_alone_is_left_out(halves):
    batch = pairs(17)
    counts = counted("mixup", batch)
    assert counts["n"] == 17
    assert counts["mixed"] == 16
    assert counts["sources"][16].isnan().all()


def test_means_are_those_of_all_sources_and_of_sources_by_their_weight():
    sources = torch.tensor(
        [
            [[0.7, 0.1, 0.2, 1.0], [0.3, 0.3, 0.4, 0.0]],
            [[1.0, 0.0, 0.0, 1.0], [0.0, 0.5, 0.6, 0.0]],
            [[float("nan")] * 4] * 2,
            [[0.6, 0.2, 0.1, 0.0], [0.4, 0.4, 0.1, 1.0]],
        ]
    )
    table = weight_table(sources)
    assert {end: row["sources"] for end, row in table.items()} == {
        "": 6, "0": 1, "20": 1, "40": 1, "60": 2, "80": 1
    }  # fmt: skip
    assert table[""]["mse"] == pytest.approx(0.25)
    assert table[""]["top1"] == pytest.approx(50.0)
    assert table["60"]["mse"] == pytest.approx(0.15)
    assert table["60"]["top1"] == pytest.approx(50.0)
    assert table["60"]["mse_mixed"] == pytest.approx(0.15)
    # Two images, each with one source: the error of a mean of two values.
    assert table["60"]["mse_95"] == pytest.approx(1.96 * (2 * 0.05**2) ** 0.5 / 2)
    assert table["60"]["top1_95"] == pytest.approx(100 * 1.96 * (2 * 0.5**2) ** 0.5 / 2)
    # Both sources of an image count together: 0.4, 0.5 and 0.6 of three images are off the mean.
    assert table[""]["mse_95"] == pytest.approx(1.96 * (0.1**2 + 0.1**2) ** 0.5 / 6)
    assert "mse_95" not in table["20"]


def test_scale_and_offset_of_a_mixture_do_not_matter_and_moved_pixels_are_refused():
    y = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    separability._check_sum(-2 * y + 0.5, y)
    for other in (y.roll(1, 3), y.square(), y + 0.1 * torch.rand(y.shape)):
        with pytest.raises(ValueError, match="moves or changes pixels"):
            separability._check_sum(other, y)


def test_methods_without_weights_of_pixels_are_refused():
    info = sample_method(METHODS.get("erm")).info
    for name in ("erm", "manifoldmixup", "alignmix", "transformmix_recon"):
        reason = suite().refusal(info, sample_method(METHODS.get(name)))
        assert "needs the weights of mixed pixels" in reason
    for name in ("mixup", "cutmix", "bc", "samix"):
        assert suite().refusal(info, sample_method(METHODS.get(name))) == ""


def test_a_method_that_shrinks_images_is_refused_by_what_it_mixes(halves):
    with pytest.raises(ValueError, match="moves or changes pixels"):
        counted("resizemix")


def test_bc_is_judged_by_its_weights_although_it_rescales(halves):
    counts = counted("bc")
    assert counts["mixed"] > 0


def splits(images):
    images = ResidentImages(images, torch.zeros(len(images), dtype=torch.int64))
    _, channels, height, width = images.images.shape
    return Splits(images, images, DataInfo(2, height, width, channels=channels, name="these"))


def test_a_demixer_of_other_images_is_refused(halves):
    grey = torch.zeros(2, 3, planted.SIDE, planted.SIDE, dtype=torch.uint8)
    suite().check_data(splits(grey))
    with pytest.raises(UserError, match="images of 12x12 pixels, those of these have 12x16"):
        suite().check_data(splits(torch.zeros(2, 3, 12, 16, dtype=torch.uint8)))
    colour = grey.clone()
    colour[:, 0] = 1
    with pytest.raises(UserError, match="makes grey images, and these has colours"):
        suite().check_data(splits(colour))


def test_a_demixer_is_needed_and_an_encoder_has_no_place(halves):
    with pytest.raises(UserError, match="needs a demixer"):
        load_suite("separability", EvalConfig()).check()
    with pytest.raises(UserError, match="each mixed image has its own"):
        suite(encoder_steps=5).check()
