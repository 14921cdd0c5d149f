"""A shell fills in commands, options, keys, and the names behind them."""

import os
import shutil
import subprocess
import sys

import pytest

from mixbench import cli
from mixbench.cli.completion import SCRIPTS, complete
from mixbench.cli.parser import _parser


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["swe"], ["sweep"]),
        (["--ver"], ["--version"]),
        (["run", "method=cutm"], ["method=cutmix"]),
        (["run", "method", "=", "cutm"], ["method=cutmix"]),  # as bash takes it apart
        (["run", "data.fit", "="], ["data.fit=crop", "data.fit=squeeze"]),
        (["bench", "method=erm,cutm"], ["method=erm,cutmix"]),
        (["run", "lr=0.1", "--sh"], ["--show"]),  # and no option that is not shown
        (["run", "data.crop_s"], ["data.crop_scales="]),
        (["check", "cutm"], ["cutmix"]),
        (["plot", "fo"], ["forest"]),
        (["sweep", "manifold"], ["manifold_layers"]),
        (["data", "pre"], ["prepare"]),
        (["data", "prepare", "fash"], ["fashionmnist"]),
        (["new", "su"], ["suite"]),
        (["completion", "zs"], ["zsh"]),
        (["elic"], ["elicit"]),
        (["nosuch", ""], []),
        (["run", "nosuch=a"], []),
    ],
)
def test_a_word_becomes_what_it_can(words, found):
    assert complete(_parser(), words) == found


def test_an_empty_word_can_become_any_command_and_runs_are_named(runs):
    assert {"run", "doctor", "predict"} <= set(complete(_parser(), [""]))
    (runs / "mixup-a").mkdir(parents=True)
    (runs / "mixup-a" / "record.json").write_text("{}")
    (runs / "other").mkdir()
    assert "mixup-a" in complete(_parser(), ["verify", "mix"])
    assert complete(_parser(), ["predict", "oth"]) == []


def test_it_answers_without_torch():
    command = "import sys; from mixbench import cli; cli.main(sys.argv[1:]); "
    command += "assert not {'torch', 'lightning'} & set(sys.modules)"
    words = [sys.executable, "-c", command, "completion", "words", "--", "run", "method=cutm"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "method=cutmix\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_puts_only_the_rest_behind_the_equals_sign(capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    call = f'mixbench() {{ "{sys.executable}" -m mixbench "$@"; }}\n'
    line = "COMP_WORDS=(mixbench run method = cutm) COMP_CWORD=4\n_mixbench\n"
    done = subprocess.run(
        ["bash", "-c", f'{call}{script}{line}echo "<${{COMPREPLY[*]}}>"'],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    assert done.stdout == "<cutmix>\n", done.stderr


def test_zsh_gets_a_script_too(capsys):
    assert cli.main(["completion", "zsh"]) == 0
    assert "compdef _mixbench mixbench" in capsys.readouterr().out
    assert set(SCRIPTS) == {"bash", "zsh"}
