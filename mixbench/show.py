"""``mixbench show``: what a method makes of the first batch of a run."""

from pathlib import Path

from PIL import Image

from mixbench.assemble import build
from mixbench.callbacks.samples import draw_batch
from mixbench.checkpoints import LAST, check_shapes, read_checkpoint
from mixbench.data import DATA
from mixbench.errors import UserError
from mixbench.schema import RunConfig

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def show(config: RunConfig, path: Path, trained: Path | None = None) -> None:
    """Write the picture that :func:`picture` draws.

    Args:
        config: A composed configuration.
        path: The file to write.
        trained: Folder of a run whose last weights are used.

    Raises:
        UserError: If the path is no picture, its folder does not exist, or the run has no weights
            that fit.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no picture", "-o", f"end it in {', '.join(SUFFIXES)}")
    if not path.resolve().parent.is_dir():
        raise UserError(f"no such folder: {path.parent}", "-o", "create it first")
    picture(config, trained).save(path)


def picture(config: RunConfig, trained: Path | None = None) -> Image.Image:
    """Draw what the method makes of the first training batch.

    Args:
        config: A composed configuration.
        trained: Folder of a run whose last weights are used; the initial ones if None.

    Returns:
        The picture, the same for equal configurations and weights.

    Raises:
        UserError: If the data is missing, or the run has no weights that fit.
    """
    splits = DATA.get(config.data.kind)(config.data).load(holdout=config.select == "val")
    method, data = build(config, splits)
    if trained is not None:
        saved = read_checkpoint(trained / LAST)["state_dict"]
        check_shapes(trained / LAST, saved, method.state_dict())
        method.load_state_dict(saved)
    return draw_batch(method.train(), next(iter(data.train_dataloader())))
