"""Corruptions of batches: what they draw, and that a batch changes nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from mixbench.config.names import COMMON_CORRUPTIONS, EXTRA_CORRUPTIONS
from mixbench.errors import UserError
from mixbench.evaluation.corruptions import blur, filters, noise, spatter, weather
from mixbench.evaluation.corruptions.apply import CORRUPTIONS, CorruptionDraws, corrupt
from mixbench.evaluation.corruptions.constants import (
    CORRUPTION_TABLES,
    SEVERITIES,
    corruption_table,
)
from mixbench.evaluation.corruptions.textures import OFFICIAL_TEXTURES, frost_textures, own_texture

TEXTURES = tuple(
    torch.randint(256, (40, 50, 3), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
    for n in range(5)
)


def photographs(count: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth colours with an edge and a flat part, as photographs have them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    images[:, :, : side // 3, : side // 3] = torch.rand(count, 3, 1, 1, generator=generator)
    return (255 * images).to(torch.uint8)


def test_the_table_holds_all_corruptions_and_severities():
    assert set(CORRUPTIONS) == {*COMMON_CORRUPTIONS, *EXTRA_CORRUPTIONS}
    assert len(COMMON_CORRUPTIONS) == 15
    for table in CORRUPTION_TABLES:
        assert {name: len(rows) for name, rows in table.constants.items()} == dict.fromkeys(
            CORRUPTIONS, 5
        )


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_the_same_in_any_batch(name):
    images, ids = photographs(7), torch.tensor([5, 900, 17, 3, 44, 2, 60])
    for severity in (2, 5):
        whole = corrupt(images, name, severity, ids=ids, textures=TEXTURES)
        turned = corrupt(images.flip(0), name, severity, ids=ids.flip(0), textures=TEXTURES)
        assert torch.equal(turned.flip(0), whole)
        single = [
            corrupt(images[i : i + 1], name, severity, ids=ids[i : i + 1], textures=TEXTURES)
            for i in range(7)
        ]
        assert torch.equal(torch.cat(single), whole)
        assert not torch.equal(whole, images)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "spatter"])
def test_what_is_drawn_belongs_to_seed_image_and_severity(name):
    image = photographs(1)
    images = image.expand(3, -1, -1, -1).contiguous()
    drawn = {
        "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow",
        "frost", "fog", "elastic_transform", "speckle_noise",
    }  # fmt: skip
    found = corrupt(images, name, 3, ids=torch.tensor([0, 1, 0]), textures=TEXTURES)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[0], found[1]) is (name not in drawn)
    other = corrupt(images, name, 3, seed=1, textures=TEXTURES)
    assert torch.equal(other[0], found[0]) is (name not in drawn)


def test_each_severity_and_corruption_draws_anew():
    def z(name: str, severity: int) -> torch.Tensor:
        draws = CorruptionDraws(0, torch.arange(4), name, severity, (8, 8))
        return CORRUPTIONS[name].draw(draws, 0.1, ())["z"]

    first = z("gaussian_noise", 1)
    assert torch.equal(first, z("gaussian_noise", 1))
    assert not torch.equal(first, z("gaussian_noise", 2))
    assert not torch.equal(first, z("speckle_noise", 1))


def test_random_numbers_have_their_distributions():
    draws = CorruptionDraws(0, torch.arange(4000), "snow", 1, (4, 4))
    z = draws.normal("z", 40)
    assert z.isfinite().all()
    assert abs(float(z.mean())) < 0.01
    assert abs(float(z.std()) - 1) < 0.01
    angle = CORRUPTIONS["snow"].draw(draws, None, ())["angle"]
    assert -135 <= float(angle.min()) < -134
    assert -46 < float(angle.max()) < -45
    moves = CORRUPTIONS["glass_blur"].draw(draws, (1.0, 2, 1), ())["moves"]
    assert moves.unique().tolist() == [-2, -1, 0, 1]


def test_photons_are_counted_by_poisson():
    image = torch.full((1, 3, 64, 64), 51, dtype=torch.uint8)
    u = CorruptionDraws(0, torch.arange(1), "shot_noise", 1, (64, 64)).uniform("u", 3, 64, 64)
    counts = noise.photon_counts(image, 60, u).double()  # a mean of 12
    assert abs(float(counts.mean()) - 12) < 0.15
    assert abs(float(counts.var()) - 12) < 0.6
    assert noise.photon_counts(torch.zeros_like(image), 60, u).max() == 0
    # The first counts, by their definition.
    at = torch.tensor([np.exp(-12) * 0.999, np.exp(-12) * 1.001, np.exp(-12) * 13.001])
    at = at.view(1, 1, 1, 3).expand(1, 3, 1, 3)
    image = torch.full((1, 3, 1, 3), 51, dtype=torch.uint8)
    assert noise.photon_counts(image, 60, at)[0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_pixels_behind_glass_take_the_value_of_the_moment(reach):
    generator = torch.Generator().manual_seed(reach)
    image = torch.randint(256, (1, 3, 20, 23), generator=generator, dtype=torch.uint8)
    moves = torch.randint(-reach, reach, (1, 2, 20, 23, 2), generator=generator)
    expected = image[0].clone()
    for round_ in range(2):
        for row in range(20 - reach, reach, -1):
            for column in range(23 - reach, reach, -1):
                right, down = moves[0, round_, row, column].tolist()
                expected[:, row, column] = expected[:, row + down, column + right].clone()
    found = blur.glass_blur(image, (0.01, reach, 2), moves).to(torch.uint8)
    assert torch.equal(found[0], expected)


def test_motion_goes_to_one_side():
    image = torch.zeros(1, 1, 21, 21, dtype=torch.uint8)
    image[..., 10, 10] = 255
    found = filters.motion_blur_of(image, 3, 100.0, torch.tensor([0.0]))[0, 0]
    assert found[10, 4:11].gt(30).all()
    assert found.sum() == found[10, 4:11].sum()
    down = filters.motion_blur_of(image, 3, 100.0, torch.tensor([90.0]))[0, 0]
    assert down[4:11, 10].gt(30).all()


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        (filters.edge, [0, 0, 0, 1, 2, 3, 3, 3]),
        (filters.symmetric, [1, 0, 0, 1, 2, 3, 3, 2]),
        (filters.mirrored, [2, 1, 0, 1, 2, 3, 2, 1]),
    ],
)
def test_borders(border, expected):
    assert border(torch.arange(-2, 6), 4).tolist() == expected


def test_flat_parts_stay_flat_under_blurs():
    image = torch.arange(0, 256, 5, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    for name in ("gaussian_blur", "zoom_blur", "glass_blur", "elastic_transform", "pixelate"):
        for severity in SEVERITIES:
            assert torch.equal(corrupt(image, name, severity), image), name


def test_plasma_is_a_mean_of_neighbours_without_changes():
    u = torch.full((1, 63), 0.5)
    u[0, 0] = 1.0  # the middle alone
    plasma = weather.plasma_map(u, 2.0)[0]
    assert plasma[4, 4] == 1
    assert plasma[0, 0] == 0
    assert plasma[4, 0] == plasma[0, 4] == 0.5


def test_edges_have_the_distance_of_the_nearest():
    edges = torch.rand(3, 17, 19, generator=torch.Generator().manual_seed(0)) < 0.02
    found = spatter.edge_distance(edges)
    row, column = torch.meshgrid(torch.arange(17), torch.arange(19), indexing="ij")
    for each, distances in zip(edges, found, strict=True):
        rows, columns = each.nonzero().T
        down, right = (row[..., None] - rows).abs(), (column[..., None] - columns).abs()
        far, near = torch.maximum(down, right).double(), torch.minimum(down, right).double()
        cost = torch.where(far >= 2 * near, far - 2 * near, 0) * 1.0
        cost += torch.where(far >= 2 * near, near, far - near) * 2.1969
        cost += torch.where(far >= 2 * near, 0, 2 * near - far) * 1.4
        expected = cost.amin(dim=2) if len(rows) else None
        if expected is not None:
            torch.testing.assert_close(distances, expected, rtol=0, atol=1e-3)
    assert edges.flatten(1).any(dim=1).all()


def test_canny_joins_weak_edges_to_strong_ones():
    levels = torch.zeros(2, 12, 12, dtype=torch.int64)
    levels[0, :, 6:] = 20  # a weak edge: a gradient of 80
    levels[1, :, 6:] = 20
    levels[1, 5:8, 6:] = 60  # strong in its middle
    weak, joined = spatter.canny_edges(levels)
    assert not weak.any()
    assert joined[:5, 5:7].any(dim=1).all()


@pytest.mark.parametrize(
    ("height", "width", "side"), [(28, 28, 32), (96, 128, 64), (300, 448, 224)]
)
def test_other_sizes_take_the_nearest_table(height, width, side):
    assert corruption_table(height, width).side == side
    images = photographs(2, height)[..., :1].expand(-1, -1, -1, width).contiguous()
    for name in CORRUPTIONS:
        textures = frost_textures(None, corruption_table(height, width).frost, max(height, width))
        if height == 28:
            assert corrupt(images, name, 5, textures=textures).shape == images.shape


def test_what_cannot_be_corrupted_is_refused():
    images = photographs(1)
    with pytest.raises(ValueError, match="at least 16 pixels"):
        corrupt(images[..., :15], "fog", 1)
    with pytest.raises(ValueError, match="unknown corruption 'fogg'"):
        corrupt(images, "fogg", 1)
    with pytest.raises(ValueError, match="1 to 5, got 0"):
        corrupt(images, "fog", 0)
    with pytest.raises(ValueError, match="3 channels"):
        corrupt(images[:, :1], "fog", 1)
    with pytest.raises(ValueError, match="needs textures"):
        corrupt(images, "frost", 1)


def test_our_textures_are_the_same_each_time_and_large_enough():
    found = frost_textures(None, 0.2, 32)
    assert torch.equal(own_texture.__wrapped__(0), own_texture(0))
    assert len(found) == 5
    assert not torch.equal(found[0], found[1])
    assert all(60 < float(texture.float().mean()) < 200 for texture in found)
    large = frost_textures(None, 0.2, 300)
    assert min(min(texture.shape[:2]) for texture in large) > 300


def test_official_textures_are_read_from_their_folder(tmp_path):
    with pytest.raises(UserError, match=r"the texture frost1\.png cannot be read") as raised:
        frost_textures(str(tmp_path), 1.0, 32)
    assert "frost5.jpg" in raised.value.todo
    for number, name in enumerate(OFFICIAL_TEXTURES):
        mode, colour = ("RGBA", (10 * number, 0, 0, 128)) if "png" in name else ("RGB", (200, 0, 0))
        Image.new(mode, (60, 50), colour).save(tmp_path / name)
    found = frost_textures(str(tmp_path), 1.0, 32)
    assert [texture.shape for texture in found] == [(50, 60, 3)] * 5
    assert [int(texture[0, 0, 0]) for texture in found[:3]] == [0, 10, 20]  # alpha is dropped
