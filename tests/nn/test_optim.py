import dataclasses
import math
import warnings

import pytest
import torch
from torch import nn
from torch.optim.sgd import sgd

import mixbench.nn.optim
from mixbench.config.schema import SCHEDULES, OptimConfig
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.nn.optim import build_optimizer, decay_groups, schedule, slower_backbone
from mixbench.testing.samples import sample_method


def factors(total=100, epochs=10, lr=0.1, min_lr=0.0, **settings):
    factor = schedule(OptimConfig(**settings), lr, min_lr, total, epochs)
    return [factor(step) for step in range(total + 1)]


def test_cosine_falls_from_one_to_the_floor():
    values = factors(schedule="cosine", min_lr=0.01)
    assert values[0] == 1
    assert values[50] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)
    assert values == sorted(values, reverse=True)


def test_steps_drop_at_the_milestones():
    values = factors(schedule="step", milestones=[0.5, 0.75], gamma=0.1)
    assert values[49] == 1
    assert values[50] == pytest.approx(0.1)
    assert values[74] == pytest.approx(0.1)
    assert values[75] == pytest.approx(0.01)


def test_the_authors_of_mixup_drop_the_rate_one_epoch_behind_their_milestones():
    """Their loop sets the rate after each epoch by the number of the epoch that has ended."""
    theirs, rate = [], 1.0
    for epoch in range(200):
        theirs.append(rate)
        rate = 0.1 ** ((epoch >= 100) + (epoch >= 150))
    assert [theirs.index(rate) for rate in (0.1, 0.1**2)] == [101, 151]
    steps = {"total": 200, "epochs": 200, "schedule": "step", "gamma": 0.1}
    ours = factors(**steps, milestones=[0.5, 0.75])[:200]
    assert [epoch for epoch in range(200) if ours[epoch] != pytest.approx(theirs[epoch])] == [
        100,
        150,
    ]
    assert factors(**steps, milestones=[0.505, 0.755])[:200] == pytest.approx(theirs)


def test_the_authors_of_saliencymix_do_so_too_as_they_tell_the_scheduler_the_epoch_that_ended():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [60, 120, 160], gamma=0.2)
    theirs = []
    for epoch in range(200):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings(action="ignore"):
            scheduler.step(epoch)
    assert [epoch for epoch in range(1, 200) if theirs[epoch] < theirs[epoch - 1]] == [61, 121, 161]
    steps = {"total": 200, "epochs": 200, "schedule": "step", "gamma": 0.2}
    kept = factors(**steps, milestones=[0.305, 0.605, 0.805])[:200]
    assert kept == pytest.approx(theirs)


def test_warm_up_rises_in_a_line_and_then_follows_the_schedule():
    values = factors(schedule="constant", warmup_epochs=2)
    assert values[:3] == pytest.approx([0.05, 0.1, 0.15])
    assert values[19] == values[20] == 1


def test_onecycle_rises_for_thirty_percent_and_ends_at_the_floor():
    values = factors(schedule="onecycle")
    assert values.index(max(values)) in (29, 30)
    assert values[29] == 1
    assert values[-1] == pytest.approx(0)
    assert factors(schedule="onecycle", warmup_epochs=1)[9] == 1


@pytest.mark.parametrize("name", ["cosine", "step", "onecycle", "constant"])
def test_every_factor_is_finite_even_for_a_single_step(name):
    for total in (1, 2, 3):
        values = factors(total=total, epochs=1, schedule=name, warmup_epochs=1.0)
        assert all(math.isfinite(v) and v >= 0 for v in values)


def test_biases_and_normalisation_are_spared_decay_unless_asked():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    module[2].bias.requires_grad_(False)
    groups = decay_groups(module, OptimConfig())
    assert [len(group["params"]) for group in groups] == [2, 3]
    assert groups[1]["weight_decay"] == 0
    whole = decay_groups(module, OptimConfig(decay_all=True))
    assert [len(group["params"]) for group in whole] == [5]


def test_groups_keep_their_own_values_and_take_the_rest_from_the_recipe():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    config = OptimConfig(weight_decay=1e-4, momentum=0.8)
    groups = [{"params": [a]}, {"params": [b], "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0}]
    sgd = build_optimizer(groups, config, lr=0.1)
    assert isinstance(sgd, torch.optim.SGD)
    first, second = sgd.param_groups
    assert (first["lr"], first["momentum"], first["weight_decay"]) == (0.1, 0.8, 1e-4)
    assert (second["lr"], second["momentum"], second["weight_decay"]) == (0.5, 0.0, 0.0)
    assert first["nesterov"] is True
    config = OptimConfig(name="adamw", weight_decay=0.05)
    adamw = build_optimizer([{"params": [a]}, {"params": [b], "momentum": 0.5}], config, lr=1e-3)
    assert isinstance(adamw, torch.optim.AdamW)
    assert [g["betas"] for g in adamw.param_groups] == [(0.9, 0.999), (0.5, 0.999)]


@pytest.mark.parametrize("settings", [{}, {"nesterov": False}, {"name": "adamw"}])
def test_updates_of_all_parameters_at_once_are_those_of_one_by_one_bit_by_bit(settings):
    config, made = OptimConfig(**settings), []
    for together in (True, False):
        generator = torch.Generator().manual_seed(0)
        sizes = ((4, 3, 5, 5), (17,), (8, 9))
        parameters = [nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]
        first = parameters[0]
        first.data = first.data.to(memory_format=torch.channels_last)
        groups = [{"params": [first]}, {"params": parameters[1:], "weight_decay": 0.0}]
        optimizer = build_optimizer(groups, config, 0.1)
        assert all(group["foreach"] is True for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["foreach"] = together
        for _ in range(3):  # gradients that are laid out otherwise than the first weight
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        made.append(parameters)
    assert all(map(torch.equal, *made))


@pytest.mark.parametrize("settings", [{}, {"nesterov": False}, {"momentum": 0.0}])
def test_weights_in_blocks_are_updated_as_by_pytorch_bit_by_bit(settings, monkeypatch):
    monkeypatch.setattr(mixbench.nn.optim, "BLOCK", 100)
    config, made = OptimConfig(**settings), []
    for ours in (True, False):
        generator = torch.Generator().manual_seed(0)
        sizes = ((5, 3, 5, 5), (), (17,), (8, 9), (41, 7), (3, 200), (2,))  # some larger than 100
        parameters = [nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]
        first = parameters[0]
        first.data = first.data.to(memory_format=torch.channels_last)
        groups = [{"params": parameters[:-1]}, {"params": parameters[-1:], "weight_decay": 0.0}]
        optimizer = build_optimizer(groups, config, 0.1)
        if not ours:
            kept = {"momentum", "nesterov", "weight_decay", "foreach"}
            defaults = {key: optimizer.defaults[key] for key in kept}
            optimizer = torch.optim.SGD(groups, 0.1, **defaults)

        def loss(parameters=parameters, generator=generator, optimizer=optimizer):
            optimizer.zero_grad()
            missing = int(torch.randint(len(parameters), (), generator=generator))
            shares = [
                (p * torch.randn(p.shape, generator=generator)).sum()
                for place, p in enumerate(parameters)
                if place != missing
            ]
            total = torch.stack(shares).sum()
            total.backward()
            return total.item()

        told = [optimizer.step(loss) for _ in range(4)]
        made.append((told, parameters, optimizer.state_dict()))
    (told, own, state), (expected, theirs, known) = made
    assert told == expected
    assert all(map(torch.equal, own, theirs))
    assert state["param_groups"] == known["param_groups"]
    assert state["state"].keys() == known["state"].keys()
    for key, value in known["state"].items():
        assert torch.equal(state["state"][key]["momentum_buffer"], value["momentum_buffer"])


def test_no_operation_of_an_update_takes_more_values_than_a_block(monkeypatch):
    taken = []

    def counted(parameters, *lists, **settings):
        taken.append(sum(parameter.numel() for parameter in parameters))
        return sgd(parameters, *lists, **settings)

    monkeypatch.setattr(mixbench.nn.optim, "BLOCK", 100)
    monkeypatch.setattr(mixbench.nn.optim, "sgd", counted)
    parameters = [nn.Parameter(torch.ones(size)) for size in ((30, 2, 10), (30,), (40,), (50,))]
    optimizer = build_optimizer([{"params": parameters}], OptimConfig(), 0.1)
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        taken.clear()
        optimizer.step()
    assert taken == [100] * 6 + [70, 50]


def test_the_backbone_learns_at_its_own_share_of_the_rate_and_ends_at_that_of_the_least():
    method = sample_method(METHODS.get("erm"), epochs=4)
    optim = OptimConfig(backbone_lr=0.1, min_lr=0.08, schedule="cosine")
    method.run = dataclasses.replace(method.run, lr=0.8, optim=optim)
    method.total_steps = 4
    parts = method.configure_optimizers()
    optimizer, scheduler = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    head = {id(p) for p in method.net.head.parameters()}
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(method.net.parameters()))
    assert {id(p) for p in optimizer.param_groups[0]["params"]} <= head  # whose rate is logged
    for rate in (0.8, None, None, None, 0.08):
        for group in optimizer.param_groups:
            own = {id(p) for p in group["params"]} <= head
            assert own or not {id(p) for p in group["params"]} & head
            first = optimizer.param_groups[0]["lr"]
            assert group["lr"] == pytest.approx(first if own else 0.1 * first)
        assert rate is None or optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        optimizer.step()
        scheduler.step()


def test_a_network_without_a_head_has_no_backbone():
    net = nn.Linear(3, 2)
    config = OptimConfig(backbone_lr=0.1)
    with pytest.raises(UserError, match="Linear has no head"):
        slower_backbone(decay_groups(net, config), net, config, 0.1)


# Eight steps in four epochs, two of them of warm-up, at lr 0.8; the last is where a ninth would be.
BY_HAND = {
    "constant": [0.4, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8],
    "step": [0.4, 0.8, 0.8, 0.8, 0.08, 0.08, 0.008, 0.008, 0.008],
    # 0.2 + 0.3 * (1 + cos(30 degrees * n)) for n = 0 ... 6
    "cosine": [0.4, 0.8, 0.8, 0.759808, 0.65, 0.5, 0.35, 0.240192, 0.2],
    "onecycle": [0.4, 0.8, 0.8, 0.759808, 0.65, 0.5, 0.35, 0.240192, 0.2],
}


def rates(steps, epochs, lr, **settings):
    """Learning rates of both groups of a run, as its own optimiser and schedule set them."""
    method = sample_method(METHODS.get("erm"), epochs=epochs)
    method.run = dataclasses.replace(method.run, lr=lr, optim=OptimConfig(**settings))
    method.total_steps = steps
    parts = method.configure_optimizers()
    optimizer, scheduler = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    assert parts["lr_scheduler"]["interval"] == "step"
    found = []
    for _ in range(steps + 1):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == second
        found.append(first)
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_of_every_step_is_that_computed_by_hand(name):
    found = rates(8, 4, 0.8, schedule=name, warmup_epochs=1, min_lr=0.2)
    assert found == pytest.approx(BY_HAND[name], abs=1e-6)


def test_without_warm_up_a_schedule_begins_at_its_peak_and_onecycle_rises_by_itself():
    plain = rates(4, 2, 0.8, schedule="cosine", min_lr=0.0)
    assert plain == pytest.approx([0.8, 0.682843, 0.4, 0.117157, 0.0], abs=1e-6)
    rising = rates(10, 2, 0.9, schedule="onecycle", min_lr=0.1)  # three steps up, seven down
    assert rising[:4] == pytest.approx([0.3, 0.6, 0.9, 0.9])
    assert rising[10] == pytest.approx(0.1)


def test_a_milestone_inside_the_warm_up_counts_once_the_ramp_is_over():
    found = rates(8, 4, 0.8, schedule="step", milestones=[0.125], warmup_epochs=1)
    assert found[:4] == pytest.approx([0.4, 0.8, 0.08, 0.08])
