"""What make hands to the command line, read from a dry run: nothing is installed or executed."""

import shlex
import shutil
import subprocess

import pytest
from paths import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def planned(*words):
    """The words that the shell would see behind `mixbench bench`, but the last one, `--report`."""
    *found, last = given(*words)
    assert last == "--report"
    return found


def given(*words):
    """All words that the shell would see behind `mixbench bench`."""
    done = subprocess.run(
        ["make", "--dry-run", "--assume-old=requirements.lock", "bench", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace("\\\n", " ").splitlines()
    (command,) = [line for line in lines if "-m mixbench bench" in line]
    return shlex.split(command.split("mixbench bench", 1)[1])


def test_no_variable_is_the_default_benchmark():
    assert planned() == []


def test_variables_become_overrides():
    found = planned("METHOD=erm,bc", "DATA=pack", "SEEDS=0,1", "ARGS=data.train=a.npz epochs=3")
    assert found == ["method=erm,bc", "data=pack", "seeds=0,1", "data.train=a.npz", "epochs=3"]
    assert planned("NET=preactresnet18", "RECIPE=quick") == ["net=preactresnet18", "recipe=quick"]


def test_a_report_that_is_named_takes_the_place_of_the_default():
    assert given("ARGS=--report a.html") == ["--report", "a.html"]


# FAULTS row 10.
@pytest.mark.parametrize(
    "text",
    [
        "a; touch planted",
        "$(touch planted)",
        "`touch planted`",
        "'; touch planted; '",
        '"',
        "a b",
        "$(shell touch planted)",
        "$$HOME",
        "&& touch planted",
        "| touch planted",
        "\\",
    ],
)
def test_a_variable_is_quoted_and_never_executed(text):
    planted = ROOT / "planted"
    assert planned(f"METHOD={text}") == [f"method={text}"]
    assert not planted.exists()


def test_a_variable_given_but_empty_reaches_the_command_line():
    assert planned("METHOD=") == ["method="]


@pytest.mark.parametrize(
    ("words", "extras"), [(["docs"], "docs"), (["perf", "EXTRAS=timm,eval"], "timm,eval")]
)
def test_a_target_installs_the_extras_that_it_needs(words, extras):
    command = ["make", "--dry-run", "--always-make", "--assume-old=requirements.lock", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert f"--editable '.[{extras}]'" in done.stdout


def test_help_lists_every_target():
    done = subprocess.run(["make"], capture_output=True, text=True, timeout=60, cwd=ROOT)
    named = "bench test test-all perf gpu leaderboard report notebooks docs lint format clean"
    for target in named.split():
        assert f"make {target} " in done.stdout


def test_the_lock_pins_everything_and_names_no_host():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert len(pins) > 50
    assert all("==" in line for line in pins)
    assert not [line for line in lines if "://" in line or "index-url" in line]
    assert sum("--hash=" in line for line in lines) >= len(pins)
