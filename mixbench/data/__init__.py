"""The data sets by name; each is a :class:`mixbench.data.source.DataSource`."""

from mixbench.registry import Registry

DATA = Registry(
    "data set",
    {
        "cifar10": "mixbench.data.cifar:Cifar10",
        "cifar100": "mixbench.data.cifar:Cifar100",
        "cub200": "mixbench.data.cub200:Cub200",
        "digits": "mixbench.data.digits:Digits",
        "fashionmnist": "mixbench.data.fashionmnist:FashionMnist",
        "folder": "mixbench.data.folder:Folder",
        "imagenet": "mixbench.data.imagenet:ImageNet",
        "pack": "mixbench.data.pack:Pack",
        "tinyimagenet": "mixbench.data.tinyimagenet:TinyImageNet",
        "voc2007": "mixbench.data.voc:Voc2007",
    },
    group="mixbench.data",
    needs=("load", "fingerprint"),
)
