"""Where modules are looked for."""

import os
import subprocess
import sys

import pytest

import mixbench
from mixbench import cli, leave_working_directory
from mixbench.distributed.spawn import SAFE_PATH_ENV, set_safe_path, start_ranks
from mixbench.errors import UserError
from mixbench.launch.local import LocalLauncher
from mixbench.launch.slurm import SlurmLauncher
from mixbench.registry import Registry, add_working_directory

PLANTED = ("yaml", "torch", "numpy", "omegaconf", "lightning", "argparse", "json", "typing")
TINY = ["data=digits", "data.limit=64", "net.width=4", "epochs=1", "batch_size=16"]
TINY += ["wandb.mode=disabled"]


@pytest.fixture
def planted(tmp_path):
    """A working directory whose modules leave a mark when they are imported."""
    for name in PLANTED:
        text = f"open({str(tmp_path / 'mark')!r}, 'a').write({name!r})\n"
        (tmp_path / f"{name}.py").write_text(f"{text}raise ImportError\n")
    return tmp_path


def call(planted, *command):
    env = {k: v for k, v in os.environ.items() if k != SAFE_PATH_ENV}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=planted,
        env=env | {"MIXBENCH_RUNS": str(planted / "runs")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not (planted / "mark").exists(), (planted / "mark").read_text()
    return done


@pytest.fixture
def script(tmp_path_factory):
    """What an installer writes for the command."""
    path = tmp_path_factory.mktemp("bin") / "mixbench"
    path.write_text(
        "import sys\nfrom mixbench.cli import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    return str(path)


def test_the_working_directory_is_not_imported_from(planted, script):
    for command in (["-m", "mixbench"], [script]):
        assert call(planted, *command, "list", "recipes").returncode == 0


@pytest.mark.parametrize("start", ["local", "ranks", "slurm"])
def test_whatever_starts_children_shields_them(monkeypatch, start):
    monkeypatch.delenv(SAFE_PATH_ENV, raising=False)
    monkeypatch.setenv("PYTHONPATH", "")
    if start == "local":
        LocalLauncher(print)
    elif start == "slurm":
        pytest.importorskip("submitit")
        monkeypatch.setattr("shutil.which", lambda name: name)
        SlurmLauncher(print)
    else:
        monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *given: print)
        start_ranks([], 2)
    assert os.environ[SAFE_PATH_ENV] == "1"


@pytest.mark.parametrize("module", ["mixbench.perf", "mixbench.notebook"])
def test_other_entry_points_do_not_either(planted, module):
    words, code = (["--help"], 0) if module == "mixbench.perf" else (["none.ipynb"], 2)
    assert call(planted, "-m", module, *words).returncode == code


@pytest.mark.slow
def test_a_plan_is_made_without_it(planted, script):
    for command in (["-m", "mixbench"], [script]):
        done = call(planted, *command, "bench", "method=erm", *TINY, "--dry-run")
        assert done.returncode == 0, done.stderr  # planned in a child of the fork server


@pytest.mark.slow
def test_neither_runs_of_a_grid_nor_ranks_do(planted):
    done = call(planted, "-m", "mixbench", "bench", "method=erm", *TINY)
    assert done.returncode == 0, done.stderr
    done = call(planted, "-m", "mixbench", "run", "method=erm", *TINY, "devices=2")
    assert done.returncode == 0, done.stderr


def test_typed_code_is_found_there_behind_everything_else(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "typed_tool.py").write_text("class Tool: pass\n")
    (tmp_path / "colorsys.py").write_text("class Tool: pass\n")
    registry = Registry("tool", {})
    assert registry.get("typed_tool:Tool").__name__ == "Tool"
    assert sys.path[-1] == str(tmp_path)
    with pytest.raises(UserError, match=r"in .*python3.*colorsys\.py"):  # the installed one
        registry.get("colorsys:Tool")


def test_a_command_leaves_the_path_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert cli.main(["list", "recipes"]) == 0
    assert sys.path == before


def test_what_python_put_in_front_is_taken_out(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path), "rest"])
    leave_working_directory()
    assert sys.path == (["rest"] if not sys.flags.safe_path else [str(tmp_path), "rest"])


def test_a_checkout_that_is_not_installed_stays_importable(monkeypatch):
    root = os.path.dirname(os.path.dirname(os.path.abspath(mixbench.__file__)))
    monkeypatch.setattr(sys, "path", [root, "rest"])
    leave_working_directory()
    assert sys.path in (["rest", root], [root, "rest"])
    monkeypatch.setattr("importlib.metadata.version", missing)
    monkeypatch.setenv("PYTHONPATH", "first")
    monkeypatch.setenv(SAFE_PATH_ENV, "")
    set_safe_path()
    assert os.environ["PYTHONPATH"] == f"first{os.pathsep}{root}"


def missing(name):
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


def test_a_working_directory_that_is_gone_is_no_error(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    add_working_directory()
    assert cli.main(["list", "recipes"]) == 0
