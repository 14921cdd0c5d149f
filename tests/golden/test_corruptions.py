"""The golden file of corruptions: every stored image, at the tolerances that the file states."""

import numpy as np
import pytest
import torch

from mixbench.evaluation.corruptions import blur, noise, weather
from mixbench.evaluation.corruptions.apply import CORRUPTIONS, corrupt
from mixbench.evaluation.corruptions.constants import SEVERITIES, corruption_table

GOLDEN = "corruptions"
NOT_COMPARED: dict[str, str] = {}


def planes(array: torch.Tensor) -> torch.Tensor:
    """Images (..., H, W, 3) with their channels in front."""
    return array.movedim(-1, -3)


def given_arrays(case, name: str, severity: int) -> dict[str, torch.Tensor]:
    """The recorded random arrays under the names of the parameters."""
    if name in ("gaussian_noise", "speckle_noise"):
        return {"z": planes(case["rand_z"])}
    if name == "shot_noise":
        return {"u": planes(case["rand_u"])}
    if name == "impulse_noise":
        return {"u": planes(case["rand_u"]), "salt": planes(case["rand_salt"])}
    if name == "glass_blur":
        return {"moves": case[f"rand_glass_s{severity}"]}
    if name == "motion_blur":
        return {"angle": case["rand_motion_angle"]}
    if name == "snow":
        return {"layer": case["rand_layer"], "angle": case["rand_snow_angle"]}
    if name == "spatter":
        return {"layer": case["rand_layer"]}
    if name == "fog":
        return {"plasma": case["rand_plasma"]}
    if name == "elastic_transform":
        return {"affine": case["rand_affine"], "field": case["rand_field"][None]}
    if name == "frost":
        blocks = torch.from_numpy(case.file.cases[""]["frost_blocks"])
        texture = blocks.repeat_interleave(6, 0).repeat_interleave(6, 1)
        start, size = case["rand_frost_start"], case["img"].shape[1:3]
        texture = weather.resize_texture(texture, corruption_table(*size).frost)
        which = torch.zeros(len(start), dtype=torch.int64)
        return {"ice": weather.crop_textures([texture], which, start, tuple(size))}
    return {}


def compare_levels(case, key: str, quantity: str, actual: torch.Tensor) -> None:
    """Compare grey levels by the three limits that the file states for a corruption."""
    stated = case.file.meta["tolerances"]
    limits = stated.get(quantity, stated["default_image"])
    expected = case[key]
    assert actual.shape == expected.shape, f"{case.name}/{key}: shape {tuple(actual.shape)}"
    apart = (actual.int() - expected.int()).abs()
    found = {
        "max_abs": int(apart.max()),
        "share_above_0": float((apart > 0).double().mean()),
        "share_above_1": float((apart > 1).double().mean()),
    }
    assert all(found[name] <= limits[name] for name in found), f"{case.name}/{key}: {found}"
    case.compared[key] = np.ones((), dtype=bool)


@pytest.mark.cases("case*")
def test_every_corruption_gives_the_recorded_images(case):
    images = planes(case["img"]).contiguous()
    rows, columns = case["keep_rows"], case["keep_cols"]
    severities = case["severity"].tolist()
    for key in (key for key in case.arrays if key.startswith("expect_")):
        name = key.removeprefix("expect_")
        if name not in CORRUPTIONS:
            continue
        found = [corrupt(images, name, s, arrays=given_arrays(case, name, s)) for s in severities]
        levels = torch.stack(found, dim=1)[..., rows, :][..., columns].movedim(2, -1)
        compare_levels(case, key, name, levels)
    table = corruption_table(*images.shape[2:])
    for severity in SEVERITIES:
        disk = blur.defocus_disk(*table.constants["defocus_blur"][severity - 1])
        case.compare(f"expect_disk_s{severity}", disk, "expect_disk_s*")
        factors = blur.zoom_factors(table.constants["zoom_blur"][severity - 1])
        key = f"expect_zoom_factors_s{severity}"
        case.compare(key, torch.from_numpy(factors), "expect_zoom_factors_s*")
    for key in (key for key in case.arrays if key.startswith("expect_plasma_s")):
        decay = table.constants["fog"][int(key.removeprefix("expect_plasma_s")) - 1][1]
        plasma = weather.plasma_map(case["rand_plasma"][:1], decay)[0]
        case.compare(key, plasma[: case[key].shape[0], : case[key].shape[1]], "expect_plasma_s*")
    if "rand_counts" in case:
        photons = (table.constants["shot_noise"][s - 1] for s in severities)
        u = planes(case["rand_u"])[None]
        counts = torch.cat([noise.photon_counts(images[:1], c, u) for c in photons])
        torch.testing.assert_close(counts, planes(case["rand_counts"]).long(), rtol=0, atol=0)


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
