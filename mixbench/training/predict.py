"""A finished run in use: classes of new images."""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixbench.backbones.build import build_net
from mixbench.config.compose import settings_of
from mixbench.config.names import METHODS
from mixbench.config.schema import DataConfig
from mixbench.data.files.class_files import CIRCLE, why_unused
from mixbench.data.files.decode import dark_sample_notice, decode, in_threads
from mixbench.data.files.tree import MAX_IMAGE_BYTES, files_below
from mixbench.errors import UserError
from mixbench.files import read_bytes
from mixbench.functional.mixed import readable
from mixbench.methods.base import Method
from mixbench.records.checkpoints import check_shapes, read_checkpoint
from mixbench.records.record import Record, read_record, run_folder
from mixbench.records.weights import tested_checkpoint, trained_on
from mixbench.tasks.base import find_task
from mixbench.training.job import training_device
from mixbench.training.reevaluate import configured_again

BATCH = 64  # images that are decoded and predicted together
# Where the temperature of calibrated probabilities comes from, by its score in the record.
TEMPERATURES = {"T_ts": "the hold-out", "T": "the test set, in two halves"}


class Predictor(nn.Module):
    """The network that a finished run tested, from pixels to logits.

    Images of another size are brought to the network's as the run's test images were: the shorter
    side to ``data.resize``, or as short as will do, and the centre cut out; with
    ``data.fit=squeeze`` the whole image. One of the network's size is taken as it is.

    Args:
        method: The trained method.
        data: Reads ``resize`` and ``fit``.
        temperature: Divisor of the logits for calibrated probabilities.

    Attributes:
        class_names: Names of the K classes; numbers where they have none.
        size: Height and width of the images that the network sees.
        temperature: As given.
    """

    def __init__(self, method: Method, data: DataConfig, temperature: float = 1.0) -> None:
        super().__init__()
        self.method, self.temperature = method, temperature
        self.resize, self.fit = data.resize, data.fit
        self.class_names = list(method.info.names)
        self.size = (method.info.height, method.info.width)
        self.eval()

    @property
    def mean(self) -> Tensor:
        """(C, 1, 1) mean of the channels that is taken from pixels in [0, 1]."""
        return self.method.mean

    @property
    def std(self) -> Tensor:
        """(C, 1, 1) deviation of the channels that they are then divided by."""
        return self.method.std

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images.

        Args:
            x: (B, C, H, W) or (C, H, W) pixels, uint8 or in [0, 1], of any size; a single channel
                stands for all.

        Returns:
            (B, K) logits.

        Raises:
            TypeError: If ``x`` is no tensor.
            ValueError: If it is of another shape or type, or values are out of range; they are
                only read on the CPU, where looking is free.
        """
        return self.method(self.pixels(x))

    def probabilities(self, x: Tensor, *, calibrated: bool = True) -> Tensor:
        """Probabilities of the classes of images.

        Args:
            x: As for :meth:`forward`.
            calibrated: Divide the logits by the temperature before.

        Returns:
            (B, K) in [0, 1]; rows sum to 1 where an image has one class.
        """
        logits = self(x).float()
        return self.method.task.probabilities(logits / self.temperature if calibrated else logits)

    def pixels(self, x: Tensor) -> Tensor:
        """Images as the network was tested on such, before they are normalised.

        Args:
            x: As for :meth:`forward`.

        Returns:
            (B, C, height, width) float32 in [0, 1].

        Raises:
            TypeError: As :meth:`forward`.
            ValueError: As :meth:`forward`.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"pixels must be a tensor (B, C, H, W), got {type(x).__name__}")
        x = x[None] if x.ndim == 3 else x
        channels = self.method.info.channels
        if x.ndim != 4 or x.shape[1] not in (1, channels) or not x.numel():
            wanted = f"(B, {channels}, H, W), none empty"
            raise ValueError(f"pixels must be {wanted}, got {tuple(x.shape)}")
        if x.dtype == torch.uint8:
            x = x.float() / 255
        elif not x.is_floating_point():
            raise ValueError(f"pixels must be uint8 or floats in [0, 1], got {x.dtype}")
        elif readable(x):
            low, high = x.aminmax()
            if not bool((low >= 0) & (high <= 1)):
                raise ValueError(
                    f"pixels must lie in [0, 1], got {low:.4g} to {high:.4g}; give uint8, or "
                    "divide by 255, and leave normalising to the module"
                )
        x = x.float().expand(-1, channels, -1, -1)
        return x if x.shape[2:] == self.size else self._fitted(x)

    def _fitted(self, x: Tensor) -> Tensor:
        sides = self.size
        if self.fit != "squeeze":
            if self.resize is not None:
                scale = self.resize / min(x.shape[2:])
            else:
                scale = max(side / old for side, old in zip(self.size, x.shape[2:], strict=True))
            pairs = zip(self.size, x.shape[2:], strict=True)
            sides = tuple(max(side, round(old * scale)) for side, old in pairs)
        large = F.interpolate(x, list(sides), mode="bilinear", antialias=True)
        top, left = ((long - side) // 2 for long, side in zip(sides, self.size, strict=True))
        return large[:, :, top : top + self.size[0], left : left + self.size[1]]


def load(
    run: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    device: torch.device | str | None = None,
) -> Predictor:
    """The network that a finished run tested, with all that it needs.

    Args:
        run: Folder or id of the run.
        overrides: Names of your own code that it uses, such as ``net=module:Class``, and
            ``trainer.accelerator=cpu``.
        device: Where it is put; the device that the run asks for if None.

    Returns:
        A module in eval mode from pixels to logits.

    Raises:
        UserError: If the run is not finished, its files cannot be read, it names no classes, or a
            GPU is asked for and there is none.
    """
    folder = run_folder(os.fspath(run))
    config = configured_again(folder, list(overrides), None)
    checkpoint = tested_checkpoint(folder)
    content = read_checkpoint(checkpoint)
    info = trained_on(checkpoint, content)[1]
    if not find_task(config.task, info.task).classifies:
        raise UserError(
            f"the run has task={config.task} and does not classify images",
            str(folder),
            "give a run of a classifier; images are separated by mixbench separate RUN PATH...",
        )
    # The layout in memory is for training; there is no compiled or other than the plain network.
    config = dataclasses.replace(
        config, trainer=dataclasses.replace(config.trainer, channels_last=False)
    )
    cls = METHODS.get(config.method["name"])
    method = cls(build_net(config.net, info), info, settings_of(config), config)
    check_shapes(checkpoint, content["state_dict"], method.state_dict())
    method.load_state_dict(content["state_dict"])
    temperature, _ = stored_temperature(read_record(folder))
    found = Predictor(method, config.data, temperature)
    return found.to(training_device(config) if device is None else device)


def stored_temperature(record: Record) -> tuple[float, str]:
    """The temperature that a run's test has found.

    Args:
        record: Record of the run.

    Returns:
        The temperature, and what it was fitted to; 1 and nothing where there is none.
    """
    for name, source in TEMPERATURES.items():
        value = record.metrics.get(name, math.nan)
        if math.isfinite(value) and value > 0:
            return value, source
    return 1.0, ""


class Prediction(NamedTuple):
    """The likeliest classes of an image, the first one first, with two probabilities of each.

    ``file`` is the image's path; ``calibrated`` probabilities are of logits that were divided by
    the temperature, ``raw`` ones are not.
    """

    file: str
    classes: list[str]
    calibrated: list[float]
    raw: list[float]


@dataclasses.dataclass
class ImageFiles:
    """Images below the paths that a user names.

    Attributes:
        names: Their paths, each once, in the order of the words.
        unused: Counts of other files below named folders, by reason.
        unreadable: Names and reasons of images that could not be decoded, as they are found.
    """

    names: list[str]
    unused: Counter[str]
    unreadable: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def below(cls, paths: Sequence[str]) -> "ImageFiles":
        """Find them.

        Args:
            paths: Image files, and folders of such at any depth.

        Returns:
            The files.

        Raises:
            UserError: If a path does not exist, or there is no image.
        """
        names: dict[str, None] = {}
        unused: Counter[str] = Counter()
        for path in paths:
            if not os.path.exists(path):
                raise UserError(f"no such file or folder: {path}", "predict", "correct the path")
            if not os.path.isdir(path):
                names[path] = None
                continue
            below, circles = files_below(Path(path))
            unused += Counter({CIRCLE: circles})
            for name in below:
                if why := why_unused(name):
                    unused[why] += 1
                else:
                    names[os.path.join(path, name)] = None
        if not names:
            raise UserError(
                "no image is found", ", ".join(paths), "name images, or folders of them"
            )
        return cls(list(names), unused)

    def notice(self) -> str:
        """A sentence on images that are almost black; empty where none is."""
        return dark_sample_notice(len(self.names), self._load)

    def decoded(self, predictor: Predictor) -> Iterator[tuple[list[str], Tensor]]:
        """Names and pixels (B, C, height, width) of those that can be read, in batches."""
        height, width = predictor.size
        how = (height if height == width else None, predictor.resize, predictor.fit)

        def attempt(row: int) -> Tensor | str:
            try:
                image = torch.tensor(decode(self._load(row), *how)).permute(2, 0, 1)
            except OSError as error:
                return (error.strerror or str(error).splitlines()[0])[:80]
            return predictor.pixels(image)[0]  # of networks whose images are not square

        with torch.no_grad():
            for start in range(0, len(self.names), BATCH):
                names = self.names[start : start + BATCH]
                found = list(in_threads(attempt, range(start, start + len(names))))
                pairs = list(zip(names, found, strict=True))
                self.unreadable += [
                    f"{name} ({why})" for name, why in pairs if isinstance(why, str)
                ]
                good = [(name, image) for name, image in pairs if isinstance(image, Tensor)]
                if good:
                    yield [name for name, _ in good], torch.stack([image for _, image in good])

    def _load(self, row: int) -> bytes:
        return read_bytes(self.names[row], MAX_IMAGE_BYTES)


@torch.no_grad()
def predict(predictor: Predictor, files: ImageFiles, top: int = 5) -> Iterator[Prediction]:
    """Classes of image files.

    Args:
        predictor: What predicts.
        files: The files; those that cannot be read are noted there.
        top: Number of classes of each image, at most.

    Yields:
        A prediction for each image that can be read.

    Raises:
        UserError: If none of the images can be read.
    """
    count = min(top, len(predictor.class_names))
    some = False
    for names, pixels in files.decoded(predictor):
        some = True
        logits = predictor(pixels.to(predictor.mean.device)).float()
        task = predictor.method.task
        raw, calibrated = (task.probabilities(logits / t) for t in (1.0, predictor.temperature))
        order = logits.topk(count).indices
        both = [values.gather(1, order).tolist() for values in (calibrated, raw)]
        for name, places, *shares in zip(names, order.tolist(), *both, strict=True):
            yield Prediction(name, [predictor.class_names[k] for k in places], *shares)
    if not some:
        shown = "; ".join(files.unreadable[:3])
        what = f"none of {len(files.names)} images can be read: {shown}"
        raise UserError(what, "predict", "name other images")
