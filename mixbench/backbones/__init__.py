"""The networks by name; each is a function from its configuration and the data to a StagedNet."""

from mixbench.registry import Registry

NETS = Registry(
    "net",
    {
        "deit_small": "mixbench.backbones.vit:deit_small",
        "deit_tiny": "mixbench.backbones.vit:deit_tiny",
        "preactresnet18": "mixbench.backbones.cifar:preactresnet18",
        "resnet18": "mixbench.backbones.resnet:resnet18",
        "resnet50": "mixbench.backbones.resnet:resnet50",
        "resnext50": "mixbench.backbones.cifar:resnext50",
        "swin_tiny": "mixbench.backbones.swin:swin_tiny",
        "vit_tiny": "mixbench.backbones.vit:vit_tiny",
        "wrn16x8": "mixbench.backbones.cifar:wrn16x8",
        "wrn28x8": "mixbench.backbones.cifar:wrn28x8",
    },
    group="mixbench.nets",
    families={"timm": "mixbench.backbones.adapters:timm_net"},
)
