"""The networks by name; each is a function from its configuration and the data to a StagedNet."""

from mixbench.registry import Registry

NETS = Registry(
    "net",
    {
        "preactresnet18": "mixbench.backbones.cifar:preactresnet18",
        "resnet18": "mixbench.backbones.resnet:resnet18",
        "resnet50": "mixbench.backbones.resnet:resnet50",
        "resnext50": "mixbench.backbones.cifar:resnext50",
        "wrn16x8": "mixbench.backbones.cifar:wrn16x8",
        "wrn28x8": "mixbench.backbones.cifar:wrn28x8",
    },
    group="mixbench.nets",
)
