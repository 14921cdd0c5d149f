"""Which method trains which network; impossible pairs end before data is read."""

from dataclasses import dataclass

import pytest
from small_nets import small_net

from mixbench import cli, compose, run
from mixbench.backbones import NETS
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.training.job import resolve
from mixbench.training.preview import first_batch
from mixbench.training.requirements import check_pair, pairs, provided


@dataclass
class Wants(Method.Config):
    of: tuple[str, ...] = ()

    @property
    def requires(self):
        return frozenset(self.of)


@pytest.mark.parametrize("name", NETS.names())
def test_what_a_network_says_it_provides_is_what_it_provides(name):
    assert provided(name) == small_net(name).provides


# FAULTS row 7.
@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("carry_out", [run, first_batch], ids=["run", "show"])
def test_an_impossible_pair_ends_before_data_is_read(carry_out, tmp_path):
    words = f"method=alignmix net=vit_tiny data=pack data.train={tmp_path}/a data.test={tmp_path}/b"
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"no archive")  # reading it would be another error
    with pytest.raises(UserError, match="method alignmix needs maps") as error:
        carry_out(compose(words))
    assert error.value.where == "net=vit_tiny"
    assert "swin_tiny, wrn16x8" in error.value.todo
    assert "vit_tiny" not in error.value.todo
    with pytest.raises(UserError, match=r"pack|archive"):
        carry_out(compose(f"{words} method.layers=[0,embed]"))


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, True),
        ({"layers": [2, "embed"]}, True),
        ({"layers": [0, "embed"]}, False),
        ({"layers": ["embed"], "ae": True}, True),
    ],
)
def test_alignmix_needs_maps_where_it_aligns_or_decodes(settings, needed):
    requires = METHODS.get("alignmix").Config(**settings).requires
    assert ("maps" in requires) is needed
    assert "stages" in requires


def test_the_networks_that_fit_are_named_by_what_is_wanted():
    with pytest.raises(UserError, match="method m needs attention") as error:
        check_pair("m", Wants(("attention", "stages")), "resnet18")
    assert error.value.todo == (
        "networks here that have what it needs: deit_small, deit_tiny, swin_tiny, vit_tiny"
    )
    with pytest.raises(UserError) as error:
        check_pair("m", Wants(("smell",)), "resnet18")
    assert error.value.todo == "networks here that have what it needs: none"
    check_pair("m", Wants(), "resnet18")


def unsaid(config, info):
    return small_net("resnet18")


def test_a_plug_in_that_does_not_say_is_let_through(monkeypatch):
    monkeypatch.setitem(NETS._objects, "mine", unsaid)
    assert provided("mine") is None
    check_pair("m", Wants(("attention",)), "mine")
    assert pairs(["alignmix"], ["mine", "resnet18"])[0].missing == {"mine": None, "resnet18": []}


def test_the_matrix_shows_every_method_and_network(capsys, monkeypatch):
    monkeypatch.setitem(NETS._objects, "zoo", unsaid)
    assert cli.main(["list", "--compat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    nets = [line.split()[-1] for line in lines[: len(NETS.names())]]
    assert nets == NETS.names()
    table = lines[len(nets) : len(nets) + len(METHODS.names())]
    rows = {line.split()[0]: line.split()[1 : len(nets) + 1] for line in table}
    tasks = {line.split()[0]: " ".join(line.split()[len(nets) + 1 :]) for line in table}
    assert set(rows) == set(METHODS.names())
    classes = {name: METHODS.get(name) for name in rows}
    assert tasks == {n: ", ".join(sorted(c.tasks_with(c.Config()))) for n, c in classes.items()}
    assert tasks["splicemix"] == "multilabel"  # its labels sum to more than 1
    assert tasks["erm"] == "multiclass, multilabel"
    marks = dict(zip(nets, rows["alignmix"], strict=True))
    assert marks["swin_tiny"] == marks["resnet18"] == "x"
    assert marks["vit_tiny"] == marks["deit_small"] == "-"
    assert marks["zoo"] == "?"
    assert "alignmix needs maps" in lines


def test_the_matrix_can_be_narrowed_to_some_methods(capsys):
    assert cli.main(["list", "methods", "cut*", "--compat"]) == 0
    assert "alignmix" not in capsys.readouterr().out
    assert cli.main(["list", "nets", "wrn*", "--compat"]) == 0
    shown = capsys.readouterr().out
    assert "alignmix" in shown
    assert "resnet18" not in shown
    assert cli.main(["list", "--compat", "cutmx"]) == 2
    assert "did you mean 'cutmix'?" in capsys.readouterr().err


def test_pooling_is_checked_before_data_is_looked_for():
    words = "net=vit_tiny net.pool=max data=folder data.root=missing"
    with pytest.raises(UserError, match="the last layer of vit_tiny is not a feature map") as error:
        resolve(compose(words))
    assert "resnet18" in str(error.value)
    assert "vit_tiny," not in error.value.todo
