import signal
from pathlib import Path

import pytest

from mixbench.launch.local import LocalLauncher
from mixbench.launch.plan import expand


@pytest.fixture
def own_signals():
    """The launcher takes SIGTERM for the rest of its process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.usefixtures("own_signals")
def test_runs_follow_the_environment_and_the_folder_of_the_moment(tmp_path, monkeypatch, tiny):
    for name in ("first", "second"):  # the fork server knows only what was there at its start
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("MIXBENCH_RUNS", f"{name}-runs")
        launcher = LocalLauncher(print)
        runs = launcher.prepare(expand(["method=erm", *tiny]))
        assert not runs[0].done
        assert not launcher.carry_out(runs, Path(f"{name}-runs")).failures
        assert (tmp_path / name / f"{name}-runs" / runs[0].id / "record.json").exists()
