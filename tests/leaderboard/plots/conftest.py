import itertools
from zlib import crc32

import numpy as np
import pytest

from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.records.curves import write_curves
from mixbench.records.predictions import PREDICTIONS
from mixbench.records.record import Record, write_record


class Runs:
    """A folder of records that a test fills."""

    def __init__(self, folder):
        self.folder = folder
        self.numbers = itertools.count()

    def add(self, method="mixup", seed=0, top1=90.0, status="done", **changes):
        """A run; its folder is returned."""
        words = f"{method}{changes.get('settings', '')}"
        values = {
            "data": "cifar10",
            "net": "preactresnet18",
            "recipe": "cifar200",
            "epochs": 16,
            "select": "last",
            "config_hash": f"{crc32(words.encode()):016x}",
            "recipe_hash": "r" * 16,
            "train_size": 1000,
            "test_size": 40,
            "metrics": {"top1": top1} | changes.pop("metrics", {}),
        } | changes
        folder = self.folder / f"run{next(self.numbers)}"
        folder.mkdir(parents=True)
        identity = f"{folder.name}-s{seed}"
        write_record(folder, Record(id=identity, method=method, seed=seed, status=status, **values))
        return folder

    def seeds(self, method, *scores, **changes):
        """Runs of several seeds."""
        return [self.add(method, seed, top1, **changes) for seed, top1 in enumerate(scores)]

    def predict(self, folder, logits, labels, class_names=()):
        """The stored predictions of a run."""
        arrays = {"logits": np.asarray(logits, np.float32), "labels": np.asarray(labels)}
        arrays["ids"] = np.arange(len(logits))
        if class_names:
            arrays["class_names"] = np.array(class_names)
        np.savez(folder / PREDICTIONS, **arrays)

    def log(self, folder, **curves):
        """The curves of a run: a value an epoch, ``val_top1`` for those of ``val/top1``."""
        rows = []
        for name, values in curves.items():
            split, _, score = name.partition("_")
            rows += [
                {"epoch": epoch, "step": epoch, f"{split}/{score}": value}
                for epoch, value in enumerate(values)
            ]
        write_curves(folder / "metrics.csv", rows)

    def board(self):
        return build_leaderboard(find_runs([self.folder]))


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


@pytest.fixture
def compared(runs):
    """Three methods of three seeds, of which one is better than erm."""
    runs.seeds("erm", 90.0, 90.2, 90.1)
    runs.seeds("cutmix", 92.0, 92.3, 92.1)
    runs.seeds("mixup", 90.1, 90.3, 90.0)
    return runs
