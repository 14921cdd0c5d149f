import ast
import re

import pytest

from mixbench import cli
from mixbench.config import compose
from mixbench.methods import METHODS


@pytest.mark.parametrize("data", ["digits", "imagenet", "cifar100"])
@pytest.mark.parametrize("name", METHODS.names())
def test_info_shows_the_values_that_a_run_uses(name, data, capsys):
    assert cli.main(["info", name]) == 0
    shown = dict(re.findall(r"^  method\.(\w+)=(.*)", capsys.readouterr().out, re.MULTILINE))
    used = compose(f"method={name} data={data}").method
    assert shown.keys() == {key for key in used if not isinstance(used[key], dict)} - {"name"}
    for key, text in shown.items():
        value = text.split("  (")[0]
        for other, names in re.findall(r"(\[[^][]*\]|[^][ ]+) with data=([\w,]+)", text):
            if data in names.split(","):
                value = other
        assert ast.literal_eval(value) == used[key], f"method.{key}"
