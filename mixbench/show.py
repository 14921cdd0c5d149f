"""``mixbench show``: what a method makes of the first batch of a run."""

from pathlib import Path

from mixbench.assemble import build
from mixbench.callbacks.samples import draw_batch
from mixbench.data import DATA
from mixbench.errors import UserError
from mixbench.schema import RunConfig

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def show(config: RunConfig, path: Path) -> None:
    """Draw images, partners and mixed images with their labels.

    Args:
        config: A composed configuration.
        path: The picture to write.

    Raises:
        UserError: If the path is no picture, or its folder does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no picture", "-o", f"end it in {', '.join(SUFFIXES)}")
    if not path.resolve().parent.is_dir():
        raise UserError(f"no such folder: {path.parent}", "-o", "create it first")
    splits = DATA.get(config.data.kind)(config.data).load(holdout=config.select == "val")
    method, data = build(config, splits)
    batch = next(iter(data.train_dataloader()))
    draw_batch(method.train(), batch).save(path)
