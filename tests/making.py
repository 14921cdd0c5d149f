"""Small data sets on disk."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image

from mixbench.config.compose import compose
from mixbench.data import DATA


def source(*words):
    """The data set that words of the command line describe."""
    config = compose(list(words)).data
    return DATA.get(config.kind)(config)


def twin(path, folder):
    """Another file with the images of a pack, as one file cannot serve for training and test."""
    folder.mkdir(parents=True, exist_ok=True)
    other = folder / f"twin-{Path(path).name}"
    if other.suffix == ".parquet":
        parquet.write_table(parquet.read_table(path), other, compression="gzip")
        return other
    other.write_bytes(Path(path).read_bytes())
    if zipfile.is_zipfile(other):
        with zipfile.ZipFile(other, "a") as archive:
            archive.comment = b"of the test"
    return other


def encoded(pixels, kind="PNG", mode=None, **options):
    """An image file of (H, W[, C]) uint8 pixels."""
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def photograph(seed, height=40, width=30):
    """Random pixels as a PNG file; the same for equal seeds."""
    shape = (height, width, 3)
    return encoded(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write_flat(root, counts):
    """Folders of classes alone, with as many photographs as counted."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(photograph(100 * label + index))
    return root


def write_hub(cache, place, name):
    """Weights of a network of timm as Hugging Face's cache holds them once they are fetched."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = cache / f"models--{place.replace('/', '--')}"
    revision = "a" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = timm.create_model(name).state_dict()
    save_file(state, folder / "snapshots" / revision / "model.safetensors")
    return state


def write_folder(root, train=6, val=2, classes=("ant", "bee")):
    """Two classes of photographs as ``data=folder`` reads them; sizes differ."""
    for part, count in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                seed = 1000 * (part == "val") + 100 * label + index
                content = photograph(seed, 40 + index, 36 - index)
                (folder / f"{index}.png").write_bytes(content)
    return root
