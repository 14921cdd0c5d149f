import pytest
import torch
from torch import Tensor


class Compiled:
    """An operation compiled without graph breaks, and how many graphs that took."""

    def __init__(self, operation):
        torch.compiler.reset()
        self.graphs = 0
        self.call = torch.compile(operation, fullgraph=True, backend=self._count)

    def _count(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def compiled():
    """Compiles an operation; see :class:`Compiled`."""
    return Compiled
