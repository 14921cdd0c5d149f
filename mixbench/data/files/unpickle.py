"""Pickles of arrays, read without running anything that they name.

The CIFAR archives are Python 2 pickles of dicts of byte strings and uint8 arrays. Whatever a
pickle builds must come through one of four names, and behind each stands a class of this module.
"""

import io
import math
import pickle
from typing import Any

import numpy as np


class UnsafePickleError(ValueError):
    """A pickle asks for something other than arrays of bytes, or is broken."""


class _Type:
    """Stands for ``numpy.dtype``; only bytes are let through."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in ("u1", "|u1", b"u1"):
            raise UnsafePickleError(f"arrays of {name!r}, expected bytes")

    def __setstate__(self, state: Any) -> None:
        return


class _Array:
    """Stands for an array until all of it is known."""

    def __init__(self, *_: Any) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, _, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(raw, bytes) or math.prod(shape) != len(raw):
            raise UnsafePickleError(f"{len(raw)} bytes for an array of shape {shape}")
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _encode(text: str, codec: str) -> bytes:
    """Stands for ``_codecs.encode``, by which Python 3 writes byte strings for Python 2."""
    if codec != "latin1":
        raise UnsafePickleError(f"the codec {codec!r}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    # The module was renamed twice.
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("multiarray", "_reconstruct"): _Array,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafePickleError(f"it names {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("it refers to something outside")


def unpickle_arrays(raw: bytes) -> dict[str, Any]:
    """Read a pickled dict of plain values and uint8 arrays.

    Args:
        raw: The pickle.

    Returns:
        The dict; text of Python 2 is decoded as Latin-1.

    Raises:
        UnsafePickleError: If it names anything else, or cannot be read.
    """
    try:
        content = _Unpickler(io.BytesIO(raw), encoding="latin1").load()
    except UnsafePickleError:
        raise
    except Exception as error:  # a broken pickle can raise nearly anything
        raise UnsafePickleError(f"it is broken ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise UnsafePickleError(f"it holds a {type(content).__name__}, expected a dict")
    return {
        _text(key): value.array if isinstance(value, _Array) else value
        for key, value in content.items()
    }


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)
