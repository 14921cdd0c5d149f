"""The networks by name; each is a function from its configuration and the data to a StagedNet."""

from mixbench.registry import Registry

NETS = Registry(
    "net",
    {"preactresnet18": "mixbench.backbones.cifar:preactresnet18"},
    group="mixbench.nets",
)
