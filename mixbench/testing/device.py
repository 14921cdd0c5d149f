"""A device that is not there: finds where the host would wait for one, on any machine."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

# A number that no machine gives a device, as tables may be kept for each device.
PRETENDED = torch.device("cuda:7")
aten = torch.ops.aten
READS = (
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class HostWaitError(RuntimeError):
    """The host would wait for the device, or mix what lies on it with what does not."""


class OnDevice(Tensor):
    """A tensor that says it lies on the pretended device; its values lie on the CPU.

    Args:
        values: The values.
    """

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @staticmethod
    def __new__(cls, values: Tensor) -> "OnDevice":
        """Wrap values that lie on the CPU."""
        found = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=PRETENDED,
        )
        found.held = values
        return found

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Compute on the CPU, where the host cannot wait."""
        del types
        return _compute(func, args, kwargs or {}, Pretended.strict)


class Pretended(TorchDispatchMode):
    """Mode in which tensors can be made on, and brought to, the pretended device."""

    strict = False  # whether waits are refused

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Compute on the CPU."""
        del types
        return _compute(func, args, kwargs or {}, Pretended.strict)


@contextmanager
def pretended_device() -> Iterator[Callable[[bool], None]]:
    """Context in which the pretended device is there.

    Backward passes do not run on it: every gradient that is asked for is zero.

    Yields:
        A function that says whether a wait is an error from now on.
    """

    def refuse_waits(refuse: bool) -> None:
        Pretended.strict = refuse

    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())  # for it alone torch looks for no driver
        stack.enter_context(Pretended())
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(patch.object(torch.autograd, "grad", _stand_in_gradients))
        stack.callback(refuse_waits, False)
        generators = [torch.Generator() for _ in range(PRETENDED.index + 1)]
        stack.enter_context(patch.object(torch.cuda, "default_generators", generators))
        stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", _no_gradients))
        yield refuse_waits


def _stand_in_gradients(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """The inputs themselves, as autograd goes back on no device that is not there."""
    del outputs, args, kwargs
    given = (inputs,) if isinstance(inputs, Tensor) else inputs
    return tuple(each.detach().clone() for each in given)


def to_pretended(module: nn.Module) -> None:
    """Bring a module to the pretended device.

    Args:
        module: The module; it can be used nowhere else afterwards.
    """
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        module._apply(lambda values: OnDevice(values.detach()))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
    for part in module.modules():
        if hasattr(part, "_device"):  # what a LightningModule says of where it is
            part._device = PRETENDED  # type: ignore[assignment]


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], strict: bool) -> Any:
    if func is aten.to.device:
        names = ("device", "dtype", "non_blocking", "copy", "memory_format")
        kwargs = dict(zip(names, args[1:], strict=False)) | kwargs
        kwargs.pop("copy", None)
        func, args = aten._to_copy.default, args[:1]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = {id(each.held): each for each in tensors if isinstance(each, OnDevice)}
    target = kwargs.get("device")
    wanted = target is not None and torch.device(target).type == PRETENDED.type
    if strict and (reason := _wait(func, args, kwargs, tensors, wanted)):
        raise HostWaitError(f"{reason}: {_line()}")
    if wanted:
        kwargs = kwargs | {"device": torch.device("cpu")}
    plain_args, plain = tree_map(_values, (args, kwargs))
    with _disable_current_modes():
        found = func(*plain_args, **plain)
    copied = func is aten._to_copy.default and target is not None
    if not (wanted if copied else wanted or there):
        return found

    def back(value: Any) -> Any:  # what is changed in place stays the same tensor
        if not isinstance(value, Tensor):
            return value
        return there[id(value)] if id(value) in there else OnDevice(value)

    return tree_map(back, found)


def _values(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _no_gradients(
    outputs: Any,
    grads: Any,
    kept: Any,
    graph: Any,
    inputs: tuple[Tensor, ...],
    *rest: Any,
    **more: Any,
) -> tuple[Tensor, ...]:
    """Take the place of a backward pass, for which torch would look for a driver."""
    del outputs, grads, kept, graph, rest, more
    return tuple(torch.zeros_like(each) for each in inputs)


def _line() -> str:
    """File and line that asked for the present operation, outside of torch and of this module."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and _skipped(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def _skipped(path: str) -> bool:
    return path == __file__ or path.startswith(("<", str(Path(torch.__file__).parent)))


def _wait(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], wanted: bool
) -> str:
    """Why the host would wait for an operation; empty if it would not."""
    there = [isinstance(each, OnDevice) for each in tensors]
    name = str(func).removeprefix("aten.").partition(".")[0]
    if func is aten._to_copy.default and kwargs.get("device") is not None:
        moved = wanted != any(there)
        waits = moved and not kwargs.get("non_blocking")
        return "a tensor is copied to or from the device without non_blocking=True" * waits
    if func is aten.copy_.default:
        moved = len(set(there)) > 1 and tensors[1].ndim > 0
        waits = moved and not (kwargs.get("non_blocking") or args[2:3] == (True,))
        return "a tensor is copied to or from the device without non_blocking=True" * waits
    if not any(there):
        return ""
    if func in READS:
        return f"the host reads values of the device ({name.strip('_')})"
    if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
        return "repeats of the device decide a size, which the host must know"
    if func in INDEXED and any(
        each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
    ):
        return "a mask of the device is used as an index, whose size the host must know"
    if any(each.ndim and not isinstance(each, OnDevice) for each in tensors):
        return f"{name} gets tensors of the CPU and of the device; move them with non_blocking=True"
    return ""
