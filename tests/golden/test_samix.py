import pytest
import torch
from official_mixers import FLOAT, GRADIENT, both, official_mixer, one_step

import mixbench.functional as mf
from mixbench.functional.maskmix import MASK_LOSSES
from mixbench.nn.mixer import AutoMixer
from mixbench.nn.schedules import anneal, cosine_decay

GOLDEN = "samix"
NOT_COMPARED: dict[str, str] = {}
START = 0.999  # decay of the teacher in the first steps, a constant of the official runs
WEIGHT = 0.1  # of the mask loss before annealing, likewise


@pytest.mark.cases("block*")
def test_a_mixer_equals_the_authors_block_up_to_its_gradients(case):
    samix = "w_key.conv.weight" in case
    settings = {"rescale": float(case["lam_mul_k"])} if samix else {}
    mixer, names = official_mixer(case, **settings)
    mixer.train(bool(case["bn_train"]))
    h, x, perm, lam = case["feat"], case["x"], case["perm"], case["lam"].float()[None]
    batch, _, height, width = h.shape

    weight = mf.rescale_lam(lam, mixer.rescale) if mixer.rescale >= 0 else lam
    buffers = {name: value.clone() for name, value in mixer.named_buffers()}
    with torch.no_grad():
        shared = mixer.share(h)
        query, key, value = mixer.attend(shared.own, shared.partner[perm], weight.reshape(-1, 1, 1))
    mixer.load_state_dict(buffers, strict=False)
    attention = (query @ key.mT / query.shape[2] ** 0.5).softmax(dim=2)
    case.compare("expect_value", value[..., 0], FLOAT)
    case.compare("expect_attention", attention, FLOAT)

    factor = int(case["scale_factor"])
    assert x.shape[2:] == (factor * height, factor * width)
    mask = mixer(h, lam, perm, x.shape[2:])
    case.compare("expect_mask", both(mask.detach()), FLOAT)
    own = "L1" if isinstance(mixer, AutoMixer) else "L1+Variance"
    losses = {mode: mf.mask_loss(mask, lam, mode=mode) for mode in MASK_LOSSES}
    for mode, loss in losses.items():
        case.compare(f"expect_mask_loss_{mode.replace('+', '_')}", loss.detach(), FLOAT)
    case.compare("expect_mask_loss", losses[own].detach(), FLOAT)
    targets = torch.eye(batch)
    mixed = mf.maskmix(x, targets, mask=mask, lam=lam, perm=perm)
    case.compare("expect_mixed", mixed.x.detach(), FLOAT)

    (losses[own] + mixed.x.square().mean()).backward()
    found = dict([*mixer.named_parameters(), *mixer.named_buffers()])
    for name, ours in names.items():
        if f"expect_grad_{name}" in case:
            grad = found[ours].grad
            assert grad is not None
            shape = case[f"expect_grad_{name}"].shape
            case.compare(f"expect_grad_{name}", grad.reshape(shape), GRADIENT)
        if f"expect_after_{name}" in case:
            case.compare(f"expect_after_{name}", found[ours], FLOAT)


@pytest.mark.parametrize("bugs", [False, True])
@pytest.mark.cases("full*")
def test_a_step_equals_the_authors_from_masks_to_the_next_teacher(case, bugs):
    one_step(case, official_bugs=bugs)
    assert "expect_loss_total" in case.compared


@pytest.mark.cases("sched*")
def test_schedules_equal_the_authors(case):
    rows = [mf.rescale_lam(case["lam_grid"], float(k)) for k in case["k_grid"]]
    case.compare("expect_lam_rescaled", torch.stack(rows), "schedules")
    total, steps = int(case["T"]), case["iters"].tolist()
    for key in [key for key in case.arrays if key.startswith("expect_ema_")]:
        name = key.removeprefix("expect_ema_")
        end, hold = (float(case[f"ema_{part}_{name}"]) for part in ("end", "start_frac"))
        values = [cosine_decay(step, total, START, end, hold) for step in steps]
        case.compare(key, torch.tensor(values, dtype=torch.float64), "schedules")
    for key, rule in (("official", "official"), ("intended", "cosine")):
        weights = [WEIGHT * anneal(step, total, rule) for step in steps]
        weights = torch.tensor(weights, dtype=torch.float64)
        case.compare(f"expect_mask_weight_{key}", weights, "schedules")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
