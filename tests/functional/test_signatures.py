"""What `help` shows of an operation is all that it takes."""

import inspect
import re

import pytest

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
