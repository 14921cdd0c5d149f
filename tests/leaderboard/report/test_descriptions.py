import inspect

import pytest

from mixbench.config.names import METHODS
from mixbench.leaderboard.report.descriptions import describe_method
from mixbench.leaderboard.text import plain_docstring


@pytest.mark.parametrize("name", METHODS.table)
def test_every_method_tells_its_paper_and_its_cost_in_the_words_of_its_class(name):
    found = describe_method(name)
    parts = dict(found.parts)
    own = " ".join(plain_docstring(inspect.getdoc(METHODS.get(name)) or "").split())
    assert {"Paper", "Cost"} <= set(parts)
    assert all(text in own for text in parts.values())
    assert not set("`\\{}") & set("".join(parts.values()))
    assert found.summary


def test_a_formula_is_told_in_signs_of_a_keyboard():
    parts = dict(describe_method("mixup").parts)
    assert parts["Formula"].startswith("x = lambda x_1 + (1 - lambda) x_2, y = lambda y_1")
    assert "sqrt(p^2 + (1 - p)^2)" in dict(describe_method("bc").parts)["Formula"]
    assert "w_(l+1)" in dict(describe_method("tlalign").parts)["Formula"]


def test_deviations_end_where_the_cost_begins():
    parts = dict(describe_method("bc").parts)
    assert "Cost" not in parts["Deviations"]
    assert parts["Deviations"].endswith(".")


@pytest.mark.parametrize("name", ["gone", "os:system", "<b>"])
def test_of_a_method_that_is_not_built_in_nothing_is_looked_up(name):
    assert describe_method(name).parts == []
