import pytest
from report_runs import Runs


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


@pytest.fixture
def table(runs):
    """Three methods at three seeds, of which one wins."""
    runs.seeds("erm", 90.0, 90.2, 90.4)
    runs.seeds("mixup", 90.1, 90.5, 90.3)
    runs.seeds("cutmix", 93.0, 93.3, 93.1)
    return runs
