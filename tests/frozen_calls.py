"""A recorder on the CPU in place of that of CUDA graphs, as strict: it keeps calls, not code."""

from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixbench.testing.device import READS


class FrozenCalls(TorchDispatchMode):
    """Keeps the operations that a function calls, with the memory and the numbers given to them.

    As on a device nothing is computed meanwhile, and the host can read no value.
    """

    def __init__(self):
        super().__init__()
        self.calls = []  # operation, arguments, and those results that have memory of their own
        self._made, self._found = {}, {}  # memory by its place: the function's own, and others'

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for value in _tensors((args, kwargs)):
            place = _place(value)
            if place not in self._made and place not in self._found:
                self._found[place] = value.untyped_storage(), value.untyped_storage().clone()
        result = func(*args, **kwargs)
        known = {_place(value) for value in _tensors((args, kwargs))}
        new = {n: v for n, v in enumerate(_tensors(result)) if _place(v) not in known}
        self._made |= {_place(value): value.untyped_storage() for value in new.values()}
        self.calls.append((func, args, kwargs, {n: v.detach() for n, v in new.items()}))
        return result

    def capture(self, function):
        """What :func:`mixbench.training.step_graphs.capture` does."""
        try:
            with ExitStack() as stack:
                for name in ("mixed", "bc"):  # whose passes look at values where it is free
                    module = f"mixbench.functional.{name}"
                    stack.enter_context(patch(f"{module}.readable", lambda _: False))
                stack.enter_context(self)
                found = function()
        finally:
            for memory, before in self._found.values():
                memory.copy_(before)
        for *_, new in self.calls:
            for value in new.values():
                value.fill_(torch.nan if value.is_floating_point() else 77)
        return found, self.replay

    @torch.no_grad()
    def replay(self):
        """Compute all results again, from what is in the same memory now."""
        for func, args, kwargs, new in self.calls:
            again = _tensors(func(*args, **kwargs))
            for place, held in new.items():
                held.copy_(again[place])

    @property
    def numbers(self):
        """All operations with what a device would hold fast beside memory."""
        return [
            (str(func), [leaf for leaf in tree_leaves(given) if not isinstance(leaf, Tensor)])
            for func, *given, _ in self.calls
        ]


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(value):
    return value.untyped_storage()._cdata
