import pytest
import torch

from mixbench.evaluation import patches, per_image_random
from mixbench.metrics import gaze_inconsistency

GOLDEN = "occlusion"
NOT_COMPARED: dict[str, str] = {}


def rule(case):
    return int(case["seed"]), case["sample_index"], int(case["grid"])


@pytest.mark.cases("case*")
def test_patterns_follow_the_rule(case):
    seed, index, grid = rule(case)
    ratios = case["ratios"].tolist()
    first = per_image_random.keys(seed, index, 1)[:, 0].tolist()
    case.compare_words("expect_first_key_hex", [f"{value % (1 << 64):016x}" for value in first])
    order = patches.drop_orders(seed, index, grid)
    case.compare("expect_order", order, "orders")
    counts = [patches.drop_count(ratio, grid * grid) for ratio in ratios]
    case.compare("expect_n_dropped", torch.tensor(counts), "counts")
    gone = patches.dropped(order, ratios)
    case.compare("expect_dropped", gone.view(len(index), len(ratios), grid, grid), "masks")


@pytest.mark.cases("image")
def test_dropped_patches_have_the_mean_colour(case):
    pixels = case["img"].permute(0, 3, 1, 2).double() / 255
    mean, std = case["mean"], case["std"]
    pattern = {name: case[f"case0/{name}"] for name in ("seed", "sample_index", "grid", "ratios")}
    index = pattern["sample_index"][: len(pixels)]
    order = patches.drop_orders(int(pattern["seed"]), index, int(pattern["grid"]))
    ratio = pattern["ratios"][int(case["ratio_index"])].item()
    gone = patches.dropped(order, [ratio])[:, 0]
    occluded = patches.occlude(pixels, gone, mean)  # before normalisation, as attacks see images
    normalized = (occluded - mean[:, None, None]) / std[:, None, None]
    case.compare("expect_occluded", normalized, "expect_occluded")


@pytest.mark.cases("salient")
def test_salient_patches_come_first_or_last(case):
    saliency, grid = case["map6"], int(case["grid"])
    case.compare("expect_patch_sum6", patches.patch_sums(saliency, grid))
    for scaled in (saliency, saliency.double() / 8):  # ties stay ties
        case.compare("expect_order_salient", patches.salient_orders(scaled, grid))
        background = patches.salient_orders(scaled, grid, lowest_first=True)
        case.compare("expect_order_nonsalient", background)


@pytest.mark.cases("shuffle")
def test_patches_change_places(case):
    seed, index, grid = rule(case)
    order = per_image_random.orders(seed, index, grid * grid)
    case.compare("expect_order", order)
    moved = patches.shuffle(case["image/img"].permute(0, 3, 1, 2), order)
    case.compare("expect_shuffled", moved.permute(0, 2, 3, 1), "shuffled")


@pytest.mark.cases("curve*")
def test_the_area_is_the_trapezoids_over_their_range(case):
    accuracy = 100 * case["correct"].double().mean(dim=1)
    case.compare("expect_accuracy", accuracy, "expect_accuracy")
    area = patches.occlusion_auc(case["ratios"], accuracy)
    case.compare("expect_occ_auc", area, "expect_occ_auc")


@pytest.mark.cases("gaze*")
def test_gaze_is_compared_with_the_label(case):
    found = gaze_inconsistency(case["gaze_a"], case["gaze_b"], case["mask"], case["lam_label"])
    case.compare("expect_lam_gaze", found.lam_gaze, "expect_lam_gaze")
    case.compare("expect_blank", found.blank)
    case.compare("expect_n_blank", found.blank.sum())
    case.compare("expect_inconsistency", found.value, "expect_inconsistency")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
