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


def write_judged(path, pairs, labels, true=0.5, rated=0.6, confidence=0.5, repeated=False):
    """Judgements of weights in the layout of H-Mix's .npz, one for each of ``pairs`` of rows.

    ``labels`` are the classes of the set that the rows are of; the others are one for each pair, or
    the same for all.
    """
    first, second = np.array(pairs).T
    labels, shape = np.asarray(labels), first.shape
    arrays = {"index1": first, "class1": labels[first]}
    arrays |= {"index2": second, "class2": labels[second], "subject": np.arange(len(first))}
    shares = {"true_lambda": true, "inferred_lambda": rated, "confidence": confidence}
    arrays |= {k: np.broadcast_to(np.float32(v), shape) for k, v in shares.items()}
    arrays["is_repeat"] = np.broadcast_to(np.array(repeated), shape)
    np.savez(path, **{f"infer/{key}": value for key, value in arrays.items()})


def write_answers(path, labels, classes=10, others=9):
    """People's answers as of CIFAR-10H: ``others`` of fifty name a class that differs by image."""
    labels = np.asarray(labels)
    counts = np.zeros((len(labels), classes), np.uint8)
    rows = np.arange(len(labels))
    counts[rows, labels] = 50 - others
    counts[rows, (labels + 1 + rows % (classes - 1)) % classes] += others
    np.savez(path, counts=counts, labels=labels)
