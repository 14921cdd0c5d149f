"""Components of images of any origin, recovered by the generators of a finished run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mixbench.data.files.archive import open_files
from mixbench.data.files.arrays import Arrays, UnreadableArraysError, read_array
from mixbench.data.files.decode import decode, is_image
from mixbench.errors import UserError
from mixbench.evaluation.demixer import Demixer, load_demixer
from mixbench.files import read_bytes, write_bytes
from mixbench.pictures.raster import raster
from mixbench.pictures.sheet import Panel, Row, Sheet, as_sheets

ARRAYS = (".npz", ".npy")
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2")
LAYOUT = "images, folders of images, or .npz with images (N, H, W[, C])"
STORED, OVERVIEW = "components.npz", "overview.png"
TOGETHER, SHOWN = 256, 8  # images that are separated at a time, and rows of the overview
NAMES = ("first", "second")


class SeparatedFiles(NamedTuple):
    """What was written: the folder, the number of images, and the mean squared error per pixel.

    ``skipped`` counts files that are no images.
    """

    folder: Path
    images: int
    residual: float
    skipped: int


class _Observation(NamedTuple):
    name: str
    pixels: Tensor  # (C, H, W) float32
    is_file: bool  # whether its components become files, too


def separate_images(run: Path, paths: Sequence[Path], folder: Path | None = None) -> SeparatedFiles:
    """Separate images and write their components.

    Bytes are divided by 255; numbers with a point are taken as they are. All images of a folder are
    separated. ``components.npz`` holds observations, components and errors; components of image
    files become pictures, too, in which black and white are the ends of the component's range.

    Args:
        run: Folder of a finished run of demixgan or denoisegan.
        paths: Images, folders, archives, ``.npz`` or ``.npy``.
        folder: Folder to write to; ``separated`` in that of the run if None.

    Returns:
        What was written.

    Raises:
        UserError: If the run separates nothing, there is no image, or one cannot be read or is of
            another size than those that the run was trained on.
    """
    demixer = load_demixer(str(run), "RUN")
    skipped: list[str] = []
    given = [each for path in paths for each in _observations(path, skipped)]
    if not given:
        where = ", ".join(map(str, paths))
        raise UserError("no image is found there", where, f"give {LAYOUT}")
    y = torch.stack([_fitted(each, demixer.image_shape) for each in given])
    folder = run / "separated" if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder cannot be created: {error.strerror}",
            f"-o {folder}",
            "name another folder by -o",
        ) from error
    components, residual = _components(demixer, y)
    arrays = {"observation": y, "first": components[0], "second": components[1]}
    stored = {name: value.numpy() for name, value in arrays.items()}
    stored |= {"residual": residual.numpy(), "name": np.array([each.name for each in given])}
    write_bytes(folder / STORED, lambda file: np.savez(file, **stored))  # type: ignore[arg-type]
    for number, each in enumerate(given, 1):
        for place, name in enumerate(NAMES) if each.is_file else ():
            picture = _picture(components[place][number - 1], demixer.spans[place])
            target = folder / f"{number:04d}_{Path(each.name).stem}_{name}.png"
            write_bytes(target, lambda file, picture=picture: picture.save(file, "png"))
    overview = raster(as_sheets([_sheet(demixer, y, components)]))
    write_bytes(folder / OVERVIEW, lambda file: overview.save(file, "png"))
    return SeparatedFiles(folder, len(y), float(residual.mean()), len(skipped))


def _components(demixer: Demixer, y: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Components (N, C, H, W) in order, first ones in front, and errors per pixel (N,)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts, errors = [], []
    for begin, some in enumerate(y.split(TOGETHER)):
        ids = torch.arange(len(some)) + begin * TOGETHER
        found = demixer.separate(some.to(device), ids)
        both = demixer.both(some.to(device), found.components)
        parts.append([component.cpu() for component in both])
        errors.append(found.data_terms.amin(dim=1).cpu() / some[0].numel())
    first, second = (torch.cat(each) for each in zip(*parts, strict=True))
    return ((second, first) if demixer.first else (first, second)), torch.cat(errors)


def _observations(path: Path, skipped: list[str]) -> Iterator[_Observation]:
    """Images of a path; names of other files are added to ``skipped``."""
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", "separate", f"give {LAYOUT}")
    try:
        if path.suffix.lower() in ARRAYS and path.is_file():
            yield from _of_arrays(path)
        elif path.is_file() and is_image(path.name):
            yield _Observation(path.name, _of_bytes(decode(read_bytes(path, None))), True)
        elif path.is_dir() or path.suffix.lower() in ARCHIVES:
            files = open_files(path)
            for name in files.names:
                if is_image(name):
                    yield _Observation(name, _of_bytes(decode(files.image(name))), True)
                else:
                    skipped.append(name)
        else:
            raise UserError(f"{path.name} is not an image", str(path), f"give {LAYOUT}")
    except (OSError, UnreadableArraysError) as error:
        what = f"{path.name} cannot be read: {error}"
        raise UserError(what, str(path), f"give {LAYOUT}") from error


def _of_arrays(path: Path) -> Iterator[_Observation]:
    if path.suffix.lower() == ".npy":
        values = read_array(path)
    else:
        with Arrays(path) as archive:
            if "images" not in archive:
                what = f"no array is named images; found {', '.join(archive.names[:20]) or 'none'}"
                raise UserError(what, str(path), f"give {LAYOUT}")
            values = archive["images"]
    numbers = values.dtype == np.uint8 or values.dtype.kind == "f"
    if not numbers or values.ndim not in (3, 4) or (values.ndim == 4 and values.shape[3] > 3):
        raise UserError(
            f"images must be uint8 or floating (N, H, W[, C]), got {values.dtype} {values.shape}",
            str(path),
            f"give {LAYOUT}",
        )
    if not np.isfinite(values).all():
        raise UserError("images hold values that are not finite", str(path), "correct the file")
    values = values[..., None] if values.ndim == 3 else values
    for row, value in enumerate(values):
        yield _Observation(f"{path.name}:{row}", _of_bytes(value), False)


def _of_bytes(pixels: np.ndarray) -> Tensor:
    """Pixels (C, H, W) float32 of (H, W, C) bytes, or of numbers as they are."""
    scale = 255 if pixels.dtype == np.uint8 else 1
    return torch.from_numpy(pixels.astype(np.float32) / scale).permute(2, 0, 1)


def _fitted(given: _Observation, shape: tuple[int, int, int]) -> Tensor:
    """The image in the channels of the generators; images of another size are refused."""
    pixels, (channels, *size) = given.pixels, shape
    if list(pixels.shape[1:]) != size:
        raise UserError(
            f"{given.name} has {pixels.shape[1]}x{pixels.shape[2]} pixels, and the run separates "
            f"images of {size[0]}x{size[1]}",
            "separate",
            f"resize it to {size[0]}x{size[1]}",
        )
    if channels == 1 and not bool((pixels == pixels[:1]).all()):
        raise UserError(
            f"{given.name} has colours, and the run separates grey images",
            "separate",
            "make it grey, or use a run that was trained on such images",
        )
    return pixels[:1] if channels == 1 else pixels.expand(channels, -1, -1)


def _picture(component: Tensor, span: tuple[float, float]) -> Image.Image:
    pixels = (255 * _scaled(component, span)).round().to(torch.uint8)
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())


def _scaled(image: Tensor, span: tuple[float, float]) -> Tensor:
    low, high = span
    return ((image - low) / (high - low)).clamp(0, 1)


def _sheet(demixer: Demixer, y: Tensor, components: tuple[Tensor, Tensor]) -> Sheet:
    """The first observations with their components, each column on one scale."""
    ends = float(y[:SHOWN].min().clamp(max=0)), float(y[:SHOWN].max().clamp(min=1))

    def rows(own: int, other: int) -> list[Row]:
        del other
        panels = [Panel("observed", _scaled(y[own], ends).expand(3, -1, -1))]
        for name, part, span in zip(NAMES, components, demixer.spans, strict=True):
            panels.append(Panel(name, _scaled(part[own], span).expand(3, -1, -1)))
        return [panels]

    count = min(SHOWN, len(y))
    notes = ["Every column has one fixed scale of grey."]
    return Sheet([(row, row) for row in range(count)], rows, notes, most=count)
