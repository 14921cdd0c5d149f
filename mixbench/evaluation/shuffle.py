"""The shuffle suite: accuracy after the patches of each image have changed places."""

from collections.abc import Iterable, Mapping

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch
from mixbench.evaluation import patches
from mixbench.evaluation.occlusion import count_right
from mixbench.evaluation.per_image_random import orders
from mixbench.evaluation.suite import SUITE_SEED, Counts, Model, Suite


class Shuffle(Suite):
    """Counts right answers for the grids of 2, 4 and 8 patches that divide the images."""

    columns = tuple(f"shuffle_{grid}" for grid in patches.SHUFFLES)

    def count(self, model: Model, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Right answers by ``shuffle_<patches per side>``; the orders belong to the image."""
        sides = (info.height, info.width)
        grids = [grid for grid in patches.SHUFFLES if not any(side % grid for side in sides)]
        if not grids:
            raise ValueError(f"no grid of 2, 4 or 8 patches divides {info.height} x {info.width}")
        counts = {"n": 0} | {f"shuffle_{grid}": 0 for grid in grids}
        for batch in batches:
            counts["n"] += len(batch.labels)
            x = to_float(batch.images)
            for grid in grids:
                moved = patches.shuffle(x, orders(SUITE_SEED, batch.ids, grid * grid))
                counts[f"shuffle_{grid}"] += count_right(model, moved, batch.labels)
        return counts

    def score(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Accuracy in percent for each grid."""
        return {name: 100 * count / counts["n"] for name, count in counts.items() if name != "n"}
