"""The real images that a notebook works on."""

import os
from collections.abc import Callable
from pathlib import Path

import mixbench

PACK = ("cifar10_train30k.npz", "cifar10_test10k.npz")
BESIDE = Path(mixbench.__file__).resolve().parents[2] / "shared" / "data"


def real_images(say: Callable[[str], None]) -> list[str]:
    """Overrides that name the data: the CIFAR-10 pack where it is found, else the digits.

    The pack is the pair of files ``cifar10_train30k.npz`` and ``cifar10_test10k.npz``. They are
    looked for in the folder ``MIXBENCH_DATA`` (``data/`` if it is not set), then in ``shared/data``
    beside the checkout.

    Args:
        say: Called with one line on what was found.

    Returns:
        Words for :func:`mixbench.compose`.
    """
    first = Path(os.environ.get("MIXBENCH_DATA") or "data")
    for folder in (first, BESIDE):
        train, test = (folder / name for name in PACK)
        if train.is_file() and test.is_file():
            say(f"images: CIFAR-10 pack in {folder}")
            return ["data=pack", f"data.train={train}", f"data.test={test}", "data.name=cifar10"]
    say(f"images: digits, as there is no {PACK[0]} in {first} (MIXBENCH_DATA)")
    return ["data=digits"]
