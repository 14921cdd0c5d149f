import logging

import pytest

TINY = ["data=digits", "data.limit=128", "net.width=4", "epochs=1", "batch_size=32"]


@pytest.fixture
def tiny() -> list[str]:
    """Overrides of a run that takes about a second."""
    return [*TINY, "wandb.mode=disabled"]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A fresh folder of runs."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("MIXBENCH_RUNS", str(folder))
    logging.getLogger("mixbench").handlers.clear()
    return folder
