"""Decoded data sets on disk, so that a set of many files is decoded once.

A prepared set is one uncompressed ``.npz`` in ``prepared/`` below the folder of all data sets,
named after the content of the originals and the keys that shape the pixels. It is used wherever it
is there, and nothing depends on it: where it cannot be written or read, the originals serve.
"""

import contextlib
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixbench.config.schema import DataConfig
from mixbench.data.files.arrays import Arrays
from mixbench.data.files.encoded import FileImages
from mixbench.data.files.location import data_folder, file_lock
from mixbench.data.files.store import PixelStore, write_store
from mixbench.data.images import Content, ImageSet, ResidentImages, Stats, image_stats
from mixbench.files import write_bytes

log = logging.getLogger("mixbench")

VERSION = 4  # of the layout and of the decoding
DECODING_KEYS = ("size", "resize", "crop_area", "on_corrupt", "classes")
# Left out at their default, so that older files stay in use.
LATER_KEYS = ("fit", "crop_scales", "fold", "store")


def prepared_path(source: Any) -> Path:
    """File of a prepared set; it need not exist.

    Args:
        source: A :class:`mixbench.data.source.DataSource`.

    Returns:
        Path below the folder of all data sets.
    """
    shaped = [getattr(source.config, key) for key in DECODING_KEYS]
    plain = DataConfig()
    shaped += [
        [key, getattr(source.config, key)]
        for key in LATER_KEYS
        if getattr(source.config, key) != getattr(plain, key)
    ]
    text = json.dumps([VERSION, source.config.kind, source.fingerprint(), shaped])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return data_folder() / "prepared" / f"{source.config.kind}-{key}.npz"


def read_prepared(source: Any) -> Content | None:
    """Read a prepared set.

    Args:
        source: A :class:`mixbench.data.source.DataSource`.

    Returns:
        Its content; None if it was not prepared, or its file is of no use.
    """
    path = prepared_path(source)
    if not path.is_file():
        return None
    try:
        with Arrays(path) as archive:
            facts = json.loads(str(archive["facts"]))
            stats = Stats(**facts["stats"])
            if "train_images" not in archive:  # only facts of files that stay files
                return _with_pixels(source, source.read())._replace(stats=stats)
            content = Content(
                _part(archive, "train"),
                _part(archive, "test"),
                facts["class_names"],
                tuple(facts["skipped"]),
                stats,
                facts["notices"],
                facts["unused"],
                facts["shared_images"],
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the prepared set %s is of no use and left aside: %s", path, error)
        return None
    return content


def prepare(source: Any) -> tuple[Path | None, Content]:
    """Decode a data set and keep the result, unless that has been done.

    Of sets that are read file by file only the statistics are kept, and with ``data.store`` the
    pixels that crops are cut from.

    Args:
        source: A :class:`mixbench.data.source.DataSource`.

    Returns:
        The file, None where it cannot be written; and the content.

    Raises:
        UserError: As :func:`mixbench.data.files.store.write_store`.
    """
    path = prepared_path(source)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path):  # a second process waits here and then reads
            content = read_prepared(source)
            if content is None:
                content = source.read()
                _write_pixels(source, content)
                content = _with_stats(source, _with_pixels(source, content))
                write_bytes(
                    path, lambda file: np.savez(file, allow_pickle=False, **_arrays(content))
                )
        return path, content
    except OSError as error:
        log.warning(
            "%s cannot be written (%s); runs decode the originals", path, error.strerror or error
        )
        # A full disk has no room for a part of it either.
        with contextlib.suppress(OSError):
            path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
        return None, source.read()


def pixel_paths(source: Any) -> dict[str, Path]:
    """Files of the pixels that ``data.store`` keeps, for ``train`` and ``test``.

    Args:
        source: A :class:`mixbench.data.source.DataSource`.

    Returns:
        Paths below the folder of all data sets; sizes and areas of crops do not change them.
    """
    config = source.config
    facts = [VERSION, config.kind, source.fingerprint(), config.store, config.classes, config.fold]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    folder = data_folder() / "prepared"
    return {name: folder / f"{config.kind}-{key}-{name}.pixels" for name in ("train", "test")}


def _file_parts(source: Any, content: Content) -> list[tuple[str, FileImages, Path]]:
    """Parts whose pixels are kept, with their names and files."""
    if source.config.store is None:
        return []
    parts = {"train": content.train, "test": content.test}
    return [
        (name, part, path)
        for name, path in pixel_paths(source).items()
        if isinstance(part := parts[name], FileImages)
    ]


def _read_pixels(source: Any, path: Path) -> PixelStore:
    store = PixelStore(path)
    if source.config.on_corrupt != "skip" and not store.sides.all():
        raise ValueError(f"{path.name} lacks images, which data.on_corrupt=skip left out")
    return store


def _write_pixels(source: Any, content: Content) -> None:
    for _, images, path in _file_parts(source, content):
        try:
            _read_pixels(source, path)
        except (OSError, ValueError, KeyError):
            part, skip = images.part, source.config.on_corrupt == "skip"
            write_store(path, part.names, part.load, source.config.store, skip=skip)


def _with_pixels(source: Any, content: Content) -> Content:
    stored = {
        name: images.stored(_read_pixels(source, path).__getitem__)
        for name, images, path in _file_parts(source, content)
    }
    return content._replace(**stored)


def _with_stats(source: Any, content: Content) -> Content:
    stats = image_stats(content.train.sample())
    if source.constants is not None:
        stats = stats._replace(mean=source.constants.mean, std=source.constants.std)
    return content._replace(stats=stats)


def _arrays(content: Content) -> dict[str, np.ndarray]:
    facts = {
        "class_names": content.class_names,
        "skipped": content.skipped,
        "stats": content.stats._asdict() if content.stats else None,
        "notices": list(content.notices),
        "unused": dict(content.unused),
        "shared_images": content.shared_images,
    }
    arrays = {"facts": np.array(json.dumps(facts))}
    for name, part in (("train", content.train), ("test", content.test)):
        if isinstance(part, ResidentImages):
            arrays |= {f"{name}_images": part.images.numpy(), f"{name}_labels": part.labels.numpy()}
            if part.boxes is not None:
                arrays[f"{name}_boxes"] = part.boxes.numpy()
            if part.extents is not None:
                arrays[f"{name}_extents"] = part.extents.numpy()
    return arrays


def _part(archive: Any, name: str) -> ImageSet:
    found = (f"{name}_{kind}" for kind in ("images", "labels", "boxes", "extents"))
    images, labels, boxes, extents = (
        torch.from_numpy(archive[key]) if key in archive else None for key in found
    )
    if images is None or labels is None:
        raise KeyError(f"{name} images or labels")
    return ResidentImages(images, labels, boxes, extents)
