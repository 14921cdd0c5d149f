"""Records of runs that a test fills, and their report."""

import numpy as np
from PIL import Image

from mixbench.config.compose import compose, to_plain
from mixbench.files import write_text
from mixbench.leaderboard.report.page import write_report
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.records.record import Record, write_record

HOSTILE = '<img src=x onerror="alert(1)">"\'&{{7*7}}</script><!--\u202e\x1b[31m`$x_1$'


class Runs:
    """A folder of runs that a test fills."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def add(self, method="mixup", seed=0, top1=90.0, status="done", **changes):
        """A run; the place of its folder is returned."""
        values = {
            "data": "cifar10",
            "net": "preactresnet18",
            "recipe": "cifar200",
            "epochs": 16,
            "select": "last",
            "config_hash": f"{method}{changes.get('settings', '')}"[:900],
            "recipe_hash": "r" * 16,
            "train_size": 1000,
            "test_size": 40,
            "metrics": {"top1": top1, "nll": 0.3, "ece_cf": 0.01} | changes.pop("metrics", {}),
        } | changes
        place = self.folder / f"run{len(list(self.folder.iterdir()))}"
        place.mkdir()
        name = f"{place.name}-s{seed}"
        write_record(place, Record(id=name, method=method, seed=seed, status=status, **values))
        return place

    def seeds(self, method, *scores, **changes):
        """Runs of several seeds."""
        return [self.add(method, seed, top1, **changes) for seed, top1 in enumerate(scores)]

    def write(self, output=None):
        """The text of their report."""
        output = output or self.folder.parent / "report.html"
        folders = find_runs([self.folder])
        write_report(build_leaderboard(folders), folders, output)
        return output.read_text(encoding="utf-8")


def write_config(folder, *words):
    """Leave a configuration as a run does."""
    from omegaconf import OmegaConf

    text = OmegaConf.to_yaml(OmegaConf.create(to_plain(compose(list(words)))))
    write_text(folder / "config.yaml", text)


def write_samples(folder, height=300, width=200, seed=0):
    """Leave a picture that no codec makes small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "samples.png")
