"""Other people's code in our measurements: imported on use, by path where it is no package.

A peer that is missing or fails becomes a skipped row with its reason; it never ends the run.
"""

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Variant:
    """One way to do the work of a part, or why there is none."""

    name: str
    call: Callable[..., Any] | None = None
    note: str = ""
    skipped: str = ""


def tried(variant: Variant, *args: Tensor) -> Variant:
    """The variant, or the reason why it does not run on such inputs.

    Args:
        variant: Of whatever origin.
        *args: Its inputs; it is given copies.

    Returns:
        The same, or a skipped one that names the error.
    """
    if variant.call is None:
        return variant
    try:
        variant.call(*(arg.clone() for arg in args))
    except Exception as error:  # another library must not end the run
        return Variant(variant.name, skipped=f"failed with {type(error).__name__}")
    return variant


def load_file(path: Path, packages: Sequence[str] = ()) -> Any:
    """Import one file of a checkout without installing the checkout.

    Args:
        path: The file.
        packages: Names that the file imports from; stand-ins give None for whatever it asks.

    Returns:
        The module.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    spec = importlib.util.spec_from_file_location(f"_peer_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    with _stand_ins(packages):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _stand_ins(names: Sequence[str]) -> Iterator[None]:
    before = {name: sys.modules.get(name) for name in names}
    for name in names:
        stand_in: Any = types.ModuleType(name)
        stand_in.__getattr__ = lambda helper: None
        sys.modules[name] = stand_in
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def on_its_device(call: Callable[..., Any]) -> Callable[..., Any]:
    """Let code that calls ``Tensor.cuda`` on everything work on CPU tensors.

    Args:
        call: Takes tensors.

    Returns:
        The same for tensors of any device.
    """

    def made(*args: Tensor) -> Any:
        if args[0].device.type == "cuda":
            return call(*args)
        with _cuda_as_identity():
            return call(*args)

    return made


@contextmanager
def _cuda_as_identity() -> Iterator[None]:
    real = Tensor.cuda
    Tensor.cuda = lambda self, *args, **kwargs: self
    try:
        yield
    finally:
        Tensor.cuda = real
