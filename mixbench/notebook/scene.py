"""A batch of real images on which methods and settings are looked at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mixbench.config.compose import compose
from mixbench.config.names import METHODS
from mixbench.notebook.plans import plan_rows
from mixbench.notebook.table import Table
from mixbench.pictures.sheet import under_titles
from mixbench.training.job import resolve
from mixbench.training.preview import first_batch, picture
from mixbench.training.requirements import pairs


class Scene:
    """The first training batch of a configuration, its data read once.

    Args:
        words: Overrides of data, network, batch size and seed; the method is named later.
        trained: Folder of a run with the same network whose last weights are used; the initial
            ones if None.

    Raises:
        UserError: If a name or key is unknown, or the data is missing.
    """

    def __init__(self, words: Sequence[str], trained: Path | None = None) -> None:
        self.words, self.trained = list(words), trained
        self.splits = resolve(compose(self.words)).read_data()

    def picture(self, *words: str) -> Image.Image:
        """What a method makes of the batch.

        Args:
            *words: Overrides such as ``method=alignmix``, ``method.layers=[3]``.

        Returns:
            The picture of ``mixbench show``.
        """
        return picture(compose([*self.words, *words]), self.trained, self.splits)

    def gallery(self) -> Image.Image:
        """What every registered method that can train the network makes of the same images.

        Returns:
            The pictures of ``mixbench show`` under the names of the methods, with default settings.
        """
        net = compose(self.words).net.name
        names = [row.method for row in pairs(METHODS.names(), [net]) if not row.missing[net]]
        return under_titles({name: self.picture(f"method={name}") for name in names})

    def plans(self, grid: Mapping[str, Sequence[Any]]) -> Table:
        """Figures of the plans that AlignMix finds on the batch, for all combinations of settings.

        Args:
            grid: Values of ``layer`` (a number, or ``embed``), ``side`` (0 or 1), and of keys of
                the method such as ``eps``, ``cost_scale``, ``solver``, ``plan``. What it does not
                name has its default; the layer is then the last one, and the side 0.

        Returns:
            One row per combination, as :func:`mixbench.notebook.plans.plan_rows` says.

        Raises:
            UserError: If a layer is not there.
            TypeError: If a setting is no key of the method.
            ValueError: If a setting is out of range.
        """
        config = compose([*self.words, "method=alignmix"])
        method, batch = first_batch(config, self.trained, self.splits)
        return Table(plan_rows(method, batch, grid))
