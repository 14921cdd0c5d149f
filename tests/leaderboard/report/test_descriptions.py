import inspect

import pytest

from mixbench.config.names import METHODS
from mixbench.leaderboard.report.descriptions import describe_method


@pytest.mark.parametrize("name", METHODS.table)
def test_every_method_tells_its_paper_and_its_cost_in_the_words_of_its_class(name):
    found = describe_method(name)
    parts = dict(found.parts)
    own = " ".join((inspect.getdoc(METHODS.get(name)) or "").replace("`", "").split())
    assert {"Paper", "Cost"} <= set(parts)
    assert all(text.split()[0] in own and "`" not in text for text in parts.values())
    assert found.summary


def test_deviations_end_where_the_cost_begins():
    parts = dict(describe_method("bc").parts)
    assert "Cost" not in parts["Deviations"]
    assert parts["Deviations"].endswith(".")


@pytest.mark.parametrize("name", ["gone", "os:system", "<b>"])
def test_of_a_method_that_is_not_built_in_nothing_is_looked_up(name):
    assert describe_method(name).parts == []
