"""Both parts of an update against the optimiser itself."""

import copy

import killing
import pytest
import torch
from torch import nn

from mixbench.config.schema import OptimConfig
from mixbench.nn.optim import build_optimizer, decay_groups
from mixbench.nn.update import Update, is_divisible
from mixbench.testing.device import HostWaitError, pretended_device, to_pretended


def prepared(recipe):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    return net, build_optimizer(decay_groups(net, recipe), recipe, 0.1)


def give_gradients(net, step):
    for number, weight in enumerate(net.parameters()):
        weight.grad = None
        if step == 0 or (number + step) % 3:  # later steps leave some weights out
            weight.grad = torch.randn_like(weight)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "sgd"},
        {"name": "sgd", "nesterov": False},
        {"name": "sgd", "weight_decay": 0.0},
        {"name": "sgd", "momentum": 0.0},
        {"name": "adamw"},
        {"name": "adamw", "weight_decay": 0.0},
    ],
    ids=str,
)
def test_both_parts_leave_what_the_optimiser_leaves(settings):
    recipe, found = OptimConfig(**{"weight_decay": 0.1} | settings), []
    for divided in (False, True):
        net, optimizer = prepared(recipe)
        assert is_divisible(optimizer)
        for step in range(6):
            for group in optimizer.param_groups:
                group["lr"] = 0.3 / (step + 3)
            give_gradients(net, step)
            if divided and step:
                update = Update(optimizer)
                update.follow_gradients()
                update.step()
            else:
                optimizer.step()
        gradients = [weight.grad for weight in net.parameters()]
        found.append(copy.deepcopy((net.state_dict(), optimizer.state_dict(), gradients)))
    assert killing.differences(*found) == []


def test_the_weights_wait_for_the_second_part():
    net, optimizer = prepared(OptimConfig())
    give_gradients(net, 0)
    optimizer.step()
    before = copy.deepcopy(net.state_dict())
    update = Update(optimizer)
    update.follow_gradients()
    assert killing.differences(before, net.state_dict()) == []


def test_an_optimiser_with_other_operations_is_not_divided():
    weights = [nn.Parameter(torch.zeros(2))]
    others = [
        torch.optim.SGD(weights, lr=0.1, momentum=0.9, dampening=0.5, foreach=True),
        torch.optim.SGD(weights, lr=0.1, maximize=True, foreach=True),
        torch.optim.AdamW(weights, amsgrad=True, foreach=True),
        torch.optim.AdamW(weights, fused=True),
        torch.optim.Adam(weights, foreach=True),
        torch.optim.Adagrad(weights, foreach=True),
    ]
    assert not any(map(is_divisible, others))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_host_waits_for_neither_part(name):
    recipe = OptimConfig(name=name)
    net, _ = prepared(recipe)
    to_pretended(net)
    with pretended_device() as refuse_waits:
        optimizer = build_optimizer(decay_groups(net, recipe), recipe, 0.1)
        for _ in range(2):
            refuse_waits(bool(optimizer.state))
            for weight in net.parameters():
                weight.grad = torch.ones_like(weight)
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            if not optimizer.state:
                optimizer.step()
        update = Update(optimizer)
        update.follow_gradients()
        update.step()
        counts = [int(state["step"]) for state in optimizer.state.values() if "step" in state]
        with pytest.raises(HostWaitError):  # a wait would have been found
            next(net.parameters()).sum().item()
    assert counts == [2] * len(counts)  # which lie on the host, and both steps were taken
    assert bool(counts) is (name == "adamw")
