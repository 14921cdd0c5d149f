"""``mixbench show``: what a method makes of the first batch of a run."""

from pathlib import Path

from PIL import Image

from mixbench.config.schema import RunConfig
from mixbench.data.images import Batch, Splits
from mixbench.errors import UserError
from mixbench.methods.base import Method
from mixbench.records.checkpoints import LAST, check_shapes, read_checkpoint
from mixbench.training.build import build
from mixbench.training.callbacks.samples import draw_batch
from mixbench.training.job import resolve

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


def picture(
    config: RunConfig, trained: Path | None = None, splits: Splits | None = None
) -> Image.Image:
    """Draw what the method makes of the first training batch.

    Args:
        config: A composed configuration.
        trained: Folder of a run whose last weights are used; the initial ones if None.
        splits: Its data, if that was read already.

    Returns:
        The picture, the same for equal configurations and weights.

    Raises:
        UserError: If the data is missing, or the run has no weights that fit.
    """
    return draw_batch(*first_batch(config, trained, splits))


def first_batch(
    config: RunConfig, trained: Path | None = None, splits: Splits | None = None
) -> tuple[Method, Batch]:
    """The method as a run builds it, and the batch that the run begins with.

    Args:
        config: A composed configuration.
        trained: As for :func:`picture`.
        splits: As for :func:`picture`.

    Returns:
        The method in training mode, and the batch.

    Raises:
        UserError: As :func:`picture`, or if the method cannot work with the network, which is seen
            before any data is read.
    """
    job = resolve(config)
    method, data = build(job, splits or job.read_data())
    if trained is not None:
        saved = read_checkpoint(trained / LAST)["state_dict"]
        check_shapes(trained / LAST, saved, method.state_dict())
        method.load_state_dict(saved)
    return method.train(), next(iter(data.train_dataloader()))
