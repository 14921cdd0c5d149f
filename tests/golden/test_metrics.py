import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from mixbench import metrics
from mixbench.evaluation.attacks import fgsm, input_gradient, pgd
from mixbench.metrics.corruption import mce, mean_ce, relative_mce
from mixbench.stats import bootstrap, dunnett

GOLDEN = "metrics"
_TIES = "torch-uncertainty sorts equal confidences in no fixed order; compared where none are equal"
NOT_COMPARED = {
    "corr/expect_*": "common corruptions belong to a later suite",
    "cal*/expect_aurc_tu": _TIES,
    "cal*/expect_augrc_tu": _TIES,
    "cal*/expect_ace15_tu": _TIES,
}
NORMS = {"ece": "l1", "rmsce": "l2", "mce": "max"}  # of torchmetrics, by the file's names
BINNED = {
    "ece": metrics.ece,
    "mce": metrics.maxce,
    "rmsce": metrics.rmsce,
    "oe": metrics.overconfidence_error,
    "ace": metrics.adaptive_ece,
    "cwece": metrics.classwise_ece,
    "sorted": metrics.ece_openmixup,
}


def scalar(value) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def untied(logits: Tensor, step: int) -> Tensor:
    """Certain rows told apart by their place, as the file's stable sorts kept them."""
    place = step * torch.arange(len(logits))[:, None] - 3000.0
    return torch.where(logits.isneginf(), place, logits)


def bins_of(case, name: str, ending: str = "") -> list[int]:
    """Numbers of bins under which the file holds a score."""
    found = (re.fullmatch(rf"expect_{name}(\d+){ending}", key) for key in case.arrays)
    return [int(match[1]) for match in found if match]


@pytest.mark.cases("cal*")
def test_calibration_follows_the_definitions(case):
    probs, y = case["probs"], case["labels"]
    logits = probs.log()  # the file's saturated rows are in the probabilities alone
    for name in ("ece", "mce", "oe", "ace", "cwece"):
        assert bins_of(case, name)
        for bins in bins_of(case, name):
            value = BINNED[name](untied(logits, -1), y, bins)
            case.compare(f"expect_{name}{bins}", scalar(value), "calibration")
    for bins in bins_of(case, "ece", "_sorted_legacy"):
        value = metrics.ece_openmixup(logits, y, bins)
        case.compare(f"expect_ece{bins}_sorted_legacy", scalar(value), "calibration")
    case.compare("expect_top1", scalar(metrics.topk(logits, y) / 100), "calibration")
    case.compare("expect_top5", scalar(metrics.topk(logits, y, 5) / 100), "calibration")
    case.compare("expect_aurc", scalar(metrics.aurc_mean(untied(logits, 1), y)), "calibration")
    for key in ("expect_brier", "expect_brier_tu"):
        case.compare(key, scalar(metrics.brier(logits, y)), "calibration")
    for bins in bins_of(case, "cwece", "_tu"):
        value = metrics.classwise_ece(logits, y, bins)
        case.compare(f"expect_cwece{bins}_tu", scalar(value), "calibration")

    confidence = metrics.calibration.confidence_and_hit(logits, y)[0]
    if len(confidence.unique()) == len(confidence):
        for bins in bins_of(case, "ace", "_tu"):
            value = metrics.adaptive_ece(logits, y, bins)
            case.compare(f"expect_ace{bins}_tu", scalar(value), "calibration")
        case.compare("expect_aurc_tu", scalar(metrics.aurc(logits, y)), "calibration")
        case.compare("expect_augrc_tu", scalar(metrics.augrc(logits, y)), "calibration")
    for name, norm in NORMS.items():
        for bins in bins_of(case, name, "_tm"):
            key = f"expect_{name}{bins}_tm"
            if (confidence < 1).all():
                case.compare(key, scalar(BINNED[name](logits, y, bins)), "calibration")
            else:  # torchmetrics opens an extra bin for a confidence of 1
                theirs = multiclass_calibration_error(probs, y, probs.shape[1], bins, norm)
                case.compare(key, scalar(theirs), "calibration")
                if name == "mce":
                    assert abs(theirs - metrics.maxce(logits, y, bins)) > 0.01
    if "expect_nll" in case:
        logits = case["logits"]
        temperature = metrics.fit_temperature(logits, y)
        scaled = logits / temperature
        case.compare("expect_nll", scalar(metrics.nll(logits, y)), "calibration")
        case.compare("expect_temperature", temperature, "temperature")
        case.compare("expect_nll_T", scalar(metrics.nll(scaled, y)), "calibration")
        for bins in bins_of(case, "ece", "_T"):
            value = metrics.ece(scaled, y, bins)
            case.compare(f"expect_ece{bins}_T", scalar(value), "calibration")


@pytest.mark.cases("ood")
def test_detection_follows_the_definitions(case):
    found = metrics.detection_scores(case["score_id"], case["score_ood"])
    names = {"fpr95_idpos": "fpr95", "fpr95_tu_idpos": "fpr95"}
    for key in case.arrays:
        if key.startswith("expect_"):
            name = key.removeprefix("expect_")
            case.compare(key, scalar(found[names.get(name, name)] / 100), "ood")


@pytest.mark.cases("mce")
def test_corruption_errors_follow_the_definitions(case):
    errors, reference = case["err"], case["baseline_err"]
    case.compare("expect_mean_ce", mean_ce(errors), "stats")
    case.compare("expect_mce", mce(errors, reference), "stats")
    relative = relative_mce(errors, case["clean_err"], reference, case["baseline_clean_err"])
    case.compare("expect_rel_mce", relative, "stats")


def linear(case, x: Tensor) -> Tensor:
    return F.linear(x.flatten(1), case["lin_w"], case["lin_b"])


def convolution(case, x: Tensor) -> Tensor:
    h = F.softplus(F.conv2d(x, case["conv_w"], case["conv_b"], padding=1))
    return F.linear(h.flatten(1), case["fc_w"], case["fc_b"])


@pytest.mark.cases("adv")
def test_attacks_equal_torchattacks(case):
    x, y = case["x"], case["y"]
    mean, std = (case[name][:, None, None] for name in ("mean", "std"))
    for name, net in (("lin", linear), ("conv", convolution)):

        def model(pixels, net=net):
            return net(case, (pixels - mean) / std)

        case.compare(f"expect_{name}_logits", model(x), "adv_logits_grad")
        gradient = input_gradient(model, x, y) / len(y)  # the file's is of the mean loss
        case.compare(f"expect_{name}_grad", gradient, "adv_logits_grad")
        for key in [key for key in case.arrays if key.startswith(f"expect_{name}_")]:
            if match := re.fullmatch(r"expect_\w+?_fgsm_(\d+)", key):
                eps = int(match[1]) / 255
                found = fgsm(model, x, y, eps=eps)
            elif match := re.fullmatch(r"expect_\w+?_pgd(rs)?_e(\d+)_a(\d+)_s(\d+)", key):
                eps, alpha, steps = (int(number) for number in match.groups()[1:])
                eps, alpha = eps / 255, alpha / 255
                unit = case["unit_delta0"] if match[1] else None
                found = pgd(model, x, y, eps=eps, alpha=alpha, steps=steps, unit=unit)
            else:
                continue
            case.compare_share(key, found, "adv_images")
            assert (found - x).abs().max() <= eps + 1e-6
            assert found.min() >= 0
            assert found.max() <= 1


@pytest.mark.cases("stats")
def test_statistics_follow_the_definitions(case):
    a, b = case["a"].tolist(), case["b"].tolist()
    test = bootstrap.paired_t(a, b)
    case.compare("expect_mean_diff", scalar(test.difference), "stats")
    case.compare("expect_sd_diff", scalar(test.sd), "stats")
    case.compare("expect_ci95_t", scalar([test.low, test.high]), "stats")
    case.compare("expect_p_ttest", scalar(test.p), "stats")
    flips = bootstrap.sign_flip([y - x for x, y in zip(a, b, strict=True)])
    case.compare("expect_p_signflip", scalar(flips), "stats")
    right = case["correct_a"].numpy(), case["correct_b"].numpy()
    case.compare("expect_mcnemar_exact_p", scalar(bootstrap.mcnemar(*right)), "stats")
    rows = case["boot_idx"].long().numpy()
    interval = bootstrap.bootstrap_images(*right, rows=rows)
    case.compare("expect_boot_ci95", scalar([interval.low, interval.high]), "stats")
    (raw,) = re.findall(r"\[.*\]", case.file.meta["keys"]["stats/expect_holm"])
    case.compare("expect_holm", scalar(dunnett.holm(json.loads(raw))), "stats")


@pytest.mark.cases("corr")
def test_corruptions_are_left_to_their_suite(case):
    assert case.compared == {}


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
