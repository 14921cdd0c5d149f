"""The view of a run in TensorBoard: Lightning's logger, without its power to stop a training."""

import json
import logging
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from mixbench.errors import UserError
from mixbench.records.redaction import redact

log = logging.getLogger("mixbench")
EVENTS = "tensorboard"  # in the folder of a run


def check_tensorboard() -> None:
    """Refuse to train without the package.

    Raises:
        UserError: If it is not installed.
    """
    if find_spec("tensorboard") is None:
        todo = "pip install 'mixbench[tensorboard]', or EXTRAS=tensorboard in front of make"
        raise UserError("the logger needs the package tensorboard", "logger=tensorboard", todo)


class TensorBoardView(TensorBoardLogger):
    """Writes what Lightning logs to event files; the first failure is one line in the log.

    Args:
        folder: Folder of the run.
        first_step: Step from which this attempt goes on; what an earlier one has written of it and
            later ones is no longer shown.
        config: Resolved configuration.
    """

    def __init__(self, folder: Path, first_step: int, config: dict[str, Any]) -> None:
        super().__init__(folder, name="", version=EVENTS, purge_step=first_step or None)
        self._stopped = False
        self._write(lambda: self._add_text("config", config))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """No-op: the configuration is written once."""
        return

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write values with their step."""
        self._write(lambda: TensorBoardLogger.log_metrics(self, metrics, step))

    def log_image(self, key: str, images: list[Any]) -> None:
        """Write pictures, given by their files."""
        for path in images:
            self._write(lambda path=path: self._add_picture(key, path))

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Write values that stand for the whole run, as text."""
        self._write(lambda: self._add_text("summary", values))

    def save(self) -> None:
        """Write what is left."""
        self._write(lambda: self.experiment.flush())

    def finalize(self, status: str) -> None:
        """No-op: the test comes after the training, and :meth:`close` after both."""
        del status

    def close(self, timeout: float = 0.0) -> None:
        """Write what is left and close the files.

        Args:
            timeout: Nobody is waited for.
        """
        del timeout
        self._write(lambda: self.experiment.close())

    def _add_text(self, name: str, content: Mapping[str, Any]) -> None:
        # Indented, it is code to Markdown, which no line break in a value can leave.
        lines = json.dumps(redact(dict(content)), indent=2).splitlines()
        self.experiment.add_text(name, "\n".join(f"    {line}" for line in lines))

    def _add_picture(self, key: str, path: str) -> None:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self.experiment.add_image(key, pixels, dataformats="HWC")

    def _write(self, call: Callable[[], object]) -> None:
        if self._stopped:
            return
        try:
            call()
        except Exception as error:
            self._stopped = True
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("TensorBoard view stopped: %s; the local results are complete", why)
