"""Small data sets on disk."""

import io

import numpy as np
from PIL import Image

from mixbench.config import compose
from mixbench.data import DATA


def source(*words):
    """The data set that words of the command line describe."""
    config = compose(list(words)).data
    return DATA.get(config.kind)(config)


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
