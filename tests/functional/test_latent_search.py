import pytest
import torch
from torch import Generator, Tensor, nn

import mixbench.functional as mf


class Linear(nn.Module):
    """A generator whose images are sums of fixed directions of norm 1."""

    def __init__(self, directions: Tensor, side: int) -> None:
        super().__init__()
        self.register_buffer("directions", directions)
        self.latent, self.side = len(directions), side

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.directions).view(-1, 1, self.side, self.side)


def convolutional(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(4, 18),
            nn.Unflatten(1, (2, 3, 3)),
            nn.BatchNorm2d(2),
            nn.ReLU(),
            nn.ConvTranspose2d(2, 1, 4, 2, 1),
            nn.Sigmoid(),
        )
    return net.eval().requires_grad_(False)


def planted(count=3, side=6, latent=5, seed=0):
    """Two linear generators of orthogonal ranges, and images of each."""
    random = Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(side * side, 2 * latent, generator=random)).Q.T
    generators = [Linear(part.contiguous(), side) for part in basis.split(latent)]
    generators = [each.eval() for each in generators]
    z = [2 * torch.rand(count, latent, generator=random) - 1 for _ in generators]
    return generators, [g(each) for g, each in zip(generators, z, strict=True)]


def starts(count, restarts=2, latents=(5, 5), first=0):
    return mf.draw_starts(torch.arange(first, first + count), restarts, latents)


def relative(found, true):
    return max(float((f - t).norm() / t.norm()) for f, t in zip(found, true, strict=True))


@pytest.mark.parametrize("mode", ["joint", "alternating"])
def test_planted_components_of_orthogonal_ranges_are_recovered(mode):
    generators, true = planted()
    found = mf.latent_search(generators, true[0] + true[1], starts(3), penalties=[0.0], mode=mode)
    assert relative(found.components, true) < 1e-3


def test_one_component_descends_on_what_the_other_leaves():
    generators, true = planted()
    overlapping = [generators[0], generators[0]]
    found = mf.latent_search(
        overlapping, true[0], starts(3), penalties=[0], mode="alternating", outer=2
    )
    error = (true[0] - found.components[0] - found.components[1]).square().sum((1, 2, 3))
    assert error.max() < 1e-4


def test_one_generator_denoises():
    generators, true = planted()
    found = mf.latent_search(generators[:1], true[0] + true[1], starts(3, 2, [5]), penalties=[0])
    assert relative(found.components, true[:1]) < 1e-3
    rest = true[1].square().sum((1, 2, 3))
    torch.testing.assert_close(found.data_terms, rest[:, None].expand(-1, 2), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "per", ["pixel", *(pytest.param(each, marks=pytest.mark.slow) for each in ("number", "image"))]
)
def test_known_weights_are_those_of_the_sum(per):
    generators, true = planted()
    lam = {
        "number": [0.7, 0.3],
        "image": [torch.tensor([0.7, 0.2, 0.5]), torch.tensor([0.3, 0.8, 0.5])],
        "pixel": [
            (0.2 + 0.6 * torch.rand(3, 1, 6, 6, generator=Generator().manual_seed(i)))
            for i in (1, 2)
        ],
    }[per]
    shaped = [torch.as_tensor(w).view(-1, 1, 1, 1) if per != "pixel" else w for w in lam]
    y = sum(w * image for w, image in zip(shaped, true, strict=True))
    found = mf.latent_search(generators, y, starts(3), weights=lam, penalties=[0], steps=2000)
    assert relative(found.components, true) < 1e-3


@pytest.mark.parametrize("measured", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_components_are_recovered_from_fewer_measurements_than_pixels(measured):
    generators, true = planted()
    matrix = torch.randn(24, 36, generator=Generator().manual_seed(3)) / 24**0.5
    y = true[0] + true[1]
    given = y.flatten(1) @ matrix.T if measured else y
    found = mf.latent_search(
        generators, given, starts(3), measurement=matrix, penalties=[0], steps=2000
    )
    assert relative(found.components, true) < 1e-3


def test_the_penalty_shrinks_the_latent_vector_as_a_ridge_does():
    generators, true = planted()
    y = true[0] + true[1]
    reduced = {"penalties": [0.5, 0.0], "steps": 1500}
    found = mf.latent_search(generators, y, starts(3), **reduced)
    z = true[0].flatten(1) @ generators[0].directions.T
    assert relative(found.latents[:1], [z / 1.5]) < 1e-3
    assert relative(found.components[1:], true[1:]) < 1e-3
    # Over 36 pixels and 5 latent numbers the same weight means another one.
    found = mf.latent_search(
        generators, y, starts(3), data_reduction="mean", penalty_reduction="mean", **reduced
    )
    assert relative(found.latents[:1], [z / (1 + 0.5 * 36 / 5)]) < 1e-3


def nonlinear(count=4):
    generators = [convolutional(seed) for seed in (0, 1)]
    z = starts(count, 1, (4, 4), first=50)
    return generators, sum(g(each[:, 0]) for g, each in zip(generators, z, strict=True))


def test_the_order_of_restarts_does_not_matter():
    generators, y = nonlinear()
    begin = starts(4, 5, (4, 4))
    order = torch.tensor([3, 0, 4, 1, 2])
    found = mf.latent_search(generators, y, begin, steps=60)
    other = mf.latent_search(generators, y, [each[:, order] for each in begin], steps=60)
    assert len(found.chosen.unique()) > 1
    torch.testing.assert_close(order[other.chosen], found.chosen)
    torch.testing.assert_close(other.data_terms, found.data_terms[:, order], rtol=0, atol=1e-4)
    torch.testing.assert_close(other.components, found.components, rtol=0, atol=1e-4)


def test_the_chosen_restart_has_the_smallest_error_and_made_the_components():
    generators, y = nonlinear()
    found = mf.latent_search(generators, y, starts(4, 5, (4, 4)), steps=60)
    torch.testing.assert_close(found.chosen, found.data_terms.argmin(1))
    error = (y - found.components[0] - found.components[1]).square().sum((1, 2, 3))
    torch.testing.assert_close(error, found.data_terms.amin(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("memory", [1, pytest.param(1 << 30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["joint", "alternating"])
def test_a_batch_gives_what_its_images_give_one_by_one(memory, mode):
    generators, y = nonlinear()
    settings = {"mode": mode, "steps": 60, "outer": 3, "inner": 10}
    found = mf.latent_search(generators, y, starts(4, 3, (4, 4)), memory=memory, **settings)
    for i in range(4):
        alone = mf.latent_search(
            generators, y[i : i + 1], starts(1, 3, (4, 4), first=i), **settings
        )
        for batch, single in zip(found.components, alone.components, strict=True):
            torch.testing.assert_close(batch[i], single[0], rtol=0, atol=1e-4)


def test_work_is_divided_into_equal_parts_by_memory():
    seen = []

    def noted(z):
        seen.append(len(z))
        return (z @ torch.eye(4)).view(-1, 1, 2, 2)

    y = torch.zeros(5, 1, 2, 2)
    mf.latent_search([noted], y, starts(5, 3, [4]), steps=2, memory=4 * 200)
    assert len(set(seen[2:-5])) == 1
    assert 1 < seen[2] < 15


def test_a_restart_that_diverges_is_not_chosen():
    def breaks(z):
        return (z / (z[:, :1] > 0)).view(-1, 1, 2, 2)

    begin = torch.tensor([[[-1.0] * 4, [1.0] * 4]])
    found = mf.latent_search([breaks], torch.ones(1, 1, 2, 2), [begin], steps=3)
    assert found.chosen.tolist() == [1]
    assert found.components[0].isfinite().all()


def test_precision_does_not_follow_autocast_or_the_mode_of_the_caller():
    generators, true = planted()
    y = true[0] + true[1]
    expected = mf.latent_search(generators, y, starts(3), steps=50)
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            found = mf.latent_search(generators, y * 1, starts(3), steps=50)
        assert matmul.fp32_precision == "bf16"  # what the search asks for is put back
    finally:
        matmul.fp32_precision = before
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_starting_points_depend_on_the_seed_of_an_image_alone():
    (several,), (one,) = (
        mf.draw_starts(torch.tensor(seeds), 4, [50]) for seeds in ([5, 9, 7], [9])
    )
    torch.testing.assert_close(several[1:2], one, rtol=0, atol=0)
    assert -1 <= several.min() < -0.97
    assert 0.97 < several.max() <= 1
    assert not torch.equal(several[0], several[1])
    assert not torch.equal(one[0, 0], one[0, 1])


def test_generators_that_are_not_frozen_are_refused():
    y = torch.zeros(2, 1, 6, 6)
    for change, message in (
        (lambda net: net[2].train(), r"generator 2 is in training mode.*eval\(\)"),
        (lambda net: net.requires_grad_(True), r"generator 2 is not frozen.*requires_grad_\(False"),
        (lambda net: net.bfloat16(), r"bfloat16.*float\(\)"),
    ):
        generators = [convolutional(0), convolutional(1)]
        change(generators[1])
        with pytest.raises(ValueError, match=message):
            mf.latent_search(generators, y, starts(2, 1, (4, 4)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": starts(2, 1, (4, 5))}, "generator 1 takes latent vectors of length 5"),
        ({"starts": starts(3)}, r"B = 2 observations, got \(3, 2, 5\)"),
        ({"starts": starts(2)[:1]}, "2 generators need as many starts, got 1"),
        ({"y": torch.zeros(2, 1, 8, 8)}, r"images \(1, 6, 6\), the observations are \(1, 8, 8\)"),
        ({"measurement": torch.zeros(4, 9)}, r"measurement must be \(m, 36\)"),
        ({"weights": [1.0]}, "2 generators need as many weights, got 1"),
        ({"weights": [torch.ones(3), 1.0]}, r"weights must be a number, \(2,\)"),
        ({"weights": [torch.ones(2, 1, 5, 5), 1.0]}, r"weights must be a number, \(2,\)"),
        ({"penalties": [-1.0]}, "penalties must be >= 0"),
        ({"lr": 0.0}, "lr must be > 0"),
        ({"steps": 0}, "steps must be > 0"),
        ({"mode": "both"}, "joint, alternating"),
        ({"data_reduction": "max"}, "sum or mean"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(changes, message):
    given = {"y": torch.zeros(2, 1, 6, 6), "starts": starts(2)} | changes
    with pytest.raises(ValueError, match=message):
        mf.latent_search(planted()[0], **given)


def test_a_search_without_starting_points_is_refused():
    for restarts, latents in ((0, [4]), (1, [])):
        with pytest.raises(ValueError, match="needs a starting point and a generator"):
            mf.draw_starts(torch.arange(2), restarts, latents)
