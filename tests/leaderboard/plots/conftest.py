import itertools

import pytest

from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.records.record import Record, write_record

CLASSES = ["ant", "bee", "cat", "dog"]


class Runs:
    """A folder of records that a test fills."""

    def __init__(self, folder):
        self.folder = folder
        self.numbers = itertools.count()

    def add(self, method="mixup", seed=0, top1=90.0, status="done", **changes):
        """A run; the place of its folder is returned."""
        settings = changes.get("settings", {})
        values = {
            "data": "cifar10",
            "net": "preactresnet18",
            "recipe": "cifar200",
            "epochs": 16,
            "select": "last",
            "config_hash": f"{method}{settings}"[:900],
            "recipe_hash": "r" * 16,
            "train_size": 1000,
            "test_size": 40,
            "metrics": {"top1": top1} | changes.pop("metrics", {}),
        } | changes
        place = self.folder / f"run{next(self.numbers)}"
        place.mkdir(parents=True)
        identity = f"{place.name}-s{seed}"
        write_record(place, Record(id=identity, method=method, seed=seed, status=status, **values))
        return place

    def seeds(self, method, *scores, **changes):
        """Runs of several seeds."""
        return [self.add(method, seed, top1, **changes) for seed, top1 in enumerate(scores)]

    def board(self):
        return build_leaderboard(find_runs([self.folder]))


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")
