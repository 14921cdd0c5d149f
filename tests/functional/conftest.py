import pytest
import torch
from torch import Tensor, nn

from mixbench.backbones.cifar import preactresnet18
from mixbench.config.schema import DataInfo, NetConfig


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


@pytest.fixture(scope="session")
def raw_features() -> tuple[Tensor, Tensor]:
    """Features of a fresh PreActResNet-18 that nothing normalises: (16, 512, 4, 4), (.., 8, 8).

    Their squared distances are in the hundreds, as those of trained networks are.
    """
    torch.manual_seed(0)
    net = preactresnet18(NetConfig(final_norm=False), DataInfo(10, 32, 32))
    noise = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = nn.functional.interpolate(noise, size=(32, 32), mode="bilinear") * 1.5
    with torch.no_grad():
        earlier = net.forward_stages(x, stop=3)
        return net.forward_stages(earlier, start=3, stop=4), earlier


@pytest.fixture
def one_thread():
    """Threads only wait for each other over problems this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
