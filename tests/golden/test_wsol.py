import numpy as np
import pytest
import torch

from mixbench.metrics.localisation import (
    IOUS,
    MAP_SIDE,
    RESIZES,
    THRESHOLDS,
    best_ious,
    cut_boxes,
    heat_of,
    localisation_scores,
    normalised_maps,
    scaled_boxes,
)
from mixbench.nn.saliency import class_activation

GOLDEN = "wsol"
NOT_COMPARED: dict[str, str] = {}


@pytest.fixture(scope="module")
def judged():
    """Best agreements of each image by the name of its case, as all thresholds take seconds."""
    known = {}

    def of(case):
        if case.name not in known:
            truths, images = boxes_of(case).numpy(), case["gt_image"]
            known[case.name] = np.stack(
                [best_ious(heat, truths[images == row]) for row, heat in enumerate(heats(case))]
            )
        return torch.from_numpy(known[case.name])  # (N, 2, 1000)

    return of


def heats(case):
    return heat_of((case["map_k"].double() + 0.5) / 255)


def boxes_of(case):
    return scaled_boxes(case["gt_boxes"], case["image_size_wh"][case["gt_image"]])


@pytest.mark.cases(having="expect_cam_mean")
def test_maps_are_those_of_the_official_code(case):
    features, weights = case["features"], case["weights"]
    scores = class_activation(features, weights, case["labels"])
    mean = scores / features.shape[1]  # the official code takes a mean in place of a sum
    case.compare("expect_cam_mean", mean, "expect_cam_mean")
    keep = case["keep"]
    for resize in RESIZES:
        found = normalised_maps(scores, resize)[:, keep][:, :, keep]
        case.compare(f"expect_map_{resize}", found, "expect_map_*")
        constant = normalised_maps(torch.full((1, 7, 7), 3.0), resize)
        case.compare("expect_constant_map_sum", constant.sum().double(), "accuracies")


@pytest.mark.cases(having="map_k")
def test_boxes_and_accuracies_are_those_of_the_official_code(case, judged):
    assert case["map_k"].shape[1:] == (MAP_SIDE, MAP_SIDE)
    case.compare("expect_gt_resized", boxes_of(case))
    found = [
        [cut_boxes(heat, int(t * heat.max())) for t in THRESHOLDS[::100]] for heat in heats(case)
    ]
    largest = torch.tensor(np.array([[cut.largest for cut in cuts] for cuts in found]))
    case.compare("expect_box_single", largest)
    counts = torch.tensor([[len(cut.every) for cut in cuts] for cuts in found])
    case.compare("expect_box_count_multi", counts)

    ious, total = judged(case), len(case["map_k"])
    right = case["pred"] == case["labels"]
    passed = {}
    for number, mode in enumerate(("single", "multi")):
        case.compare(f"expect_best_iou_{mode}", ious[:, number, ::50], "expect_best_iou_*")
        passed[mode] = torch.stack([ious[:, number] >= limit for limit in IOUS])
        correct = passed[mode].sum(1)
        case.compare(f"expect_num_correct_{mode}", correct)
        case.compare(f"expect_acc_{mode}", 100 * correct.amax(1).double() / total, "accuracies")
    halves = torch.arange(total) % 2 == 0
    at_half = passed["single"][IOUS.index(0.5)]
    scores = localisation_scores(at_half, passed["multi"], right, halves)
    for ours, theirs in (
        ("max_box_acc", "maxboxacc"),
        ("max_box_acc_v2", "maxboxaccv2"),
        ("top1_loc", "top1_loc"),
        ("top1_loc_max", "top1_loc_max"),
    ):
        value = torch.tensor(scores[ours], dtype=torch.float64)
        case.compare(f"expect_{theirs}", value, "accuracies")
    case.compare("expect_threshold_index", at_half.sum(0).argmax())
    case.compare("expect_top1_cls", 100 * right.double().mean(), "accuracies")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
