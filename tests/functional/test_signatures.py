"""What `help` shows of an operation is all that it takes."""

import inspect
import re
import sys

import pytest
import torch

import mixbench.functional as mf

FUNCTIONS = [name for name in mf.__all__ if inspect.isfunction(getattr(mf, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_named_annotated_and_described(name):
    function = getattr(mf, name)
    text = inspect.getdoc(function)
    for argument in inspect.signature(function).parameters.values():
        assert argument.kind not in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL), argument
        assert argument.annotation is not argument.empty, argument
        assert re.search(rf"^    {argument.name}: \S", text, re.MULTILINE), argument


@pytest.mark.parametrize("name", FUNCTIONS)
def test_decisions_are_given_by_name(name):
    arguments = inspect.signature(getattr(mf, name)).parameters.values()
    by_place = {each.name for each in arguments if each.kind is not each.KEYWORD_ONLY}
    if "generator" in {each.name for each in arguments} and not name.startswith("draw_"):
        assert not by_place & {"lam", "perm", "box", "side", "order", "generator"}


def test_settings_of_the_transport_plan_are_arguments_of_all_that_solve_one():
    plan = inspect.signature(mf.position_plan).parameters
    settings = {name: each.default for name, each in plan.items() if each.kind is each.KEYWORD_ONLY}
    del settings["side"]
    for function in (mf.align, mf.alignmix):
        given = inspect.signature(function).parameters
        assert {name: given[name].default for name in settings} == settings


@pytest.mark.parametrize("function", [mf.align, mf.alignmix])
def test_each_setting_of_the_transport_plan_reaches_it(function, monkeypatch):
    given = {"eps": 0.7, "iters": 3, "solver": "compat", "stop": 0.2}
    given |= {"cost_scale": "dim", "finalize": "row"}
    seen = {}

    def plan(h, partner, **settings):
        seen.update(settings)
        return torch.eye(4).expand(2, 4, 4)

    monkeypatch.setattr(sys.modules["mixbench.functional.align"], "position_plan", plan)
    decisions = {"lam": torch.tensor([0.5]), "perm": torch.tensor([1, 0]), "side": 1}
    labels = () if function is mf.align else (torch.eye(2),)
    function(torch.rand(2, 3, 2, 2), *labels, **decisions, **given)
    assert seen == given | {"side": 1}
