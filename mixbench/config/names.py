"""The methods, networks and data sets by name, and the names of suites.

The tables are text, so that listing names imports nothing of what they stand for.
"""

from mixbench.registry import Registry

METHODS = Registry(
    "method",
    {
        "alignmix": "mixbench.methods.alignmix.alignmix:AlignMix",
        "automix": "mixbench.methods.samix.automix:AutoMix",
        "bc": "mixbench.methods.bc:BC",
        "choice": "mixbench.methods.choice.choice:Choice",
        "cutmix": "mixbench.methods.cutmix:CutMix",
        "erm": "mixbench.methods.erm:ERM",
        "manifoldmixup": "mixbench.methods.manifoldmixup:ManifoldMixup",
        "mixup": "mixbench.methods.mixup:Mixup",
        "mixup2": "mixbench.methods.mixup2:Mixup2",
        "moco": "mixbench.methods.moco.moco:MoCo",
        "mocosamix": "mixbench.methods.moco.mocosamix:MoCoSAMix",
        "samix": "mixbench.methods.samix.samix:SAMix",
        "tdattenmix": "mixbench.methods.tdattenmix.tdattenmix:TdAttenMix",
        "tlalign": "mixbench.methods.tokenlabels.tlalign:TLAlign",
        "transmix": "mixbench.methods.tokenlabels.transmix:TransMix",
    },
    group="mixbench.methods",
    needs=("Config", "mix"),
)

# The methods of the default benchmark.
CORE = ("mixup", "cutmix", "manifoldmixup", "bc", "alignmix", "samix", "tdattenmix")

# Functions from a configuration and the facts of the data to a network.
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

# Classes of data sets; each is a :class:`mixbench.data.source.DataSource`.
DATA = Registry(
    "data set",
    {
        "cifar10": "mixbench.data.datasets.cifar:Cifar10",
        "cifar100": "mixbench.data.datasets.cifar:Cifar100",
        "cub200": "mixbench.data.datasets.cub200:Cub200",
        "digits": "mixbench.data.datasets.digits:Digits",
        "fashionmnist": "mixbench.data.datasets.fashionmnist:FashionMnist",
        "folder": "mixbench.data.datasets.folder:Folder",
        "imagenet": "mixbench.data.datasets.imagenet:ImageNet",
        "pack": "mixbench.data.datasets.pack:Pack",
        "tinyimagenet": "mixbench.data.datasets.tinyimagenet:TinyImageNet",
        "voc2007": "mixbench.data.datasets.voc:Voc2007",
    },
    group="mixbench.data",
    needs=("load", "fingerprint"),
)

# Classes of tasks by the name that methods list in ``tasks``; those without labels are picked by
# ``task=<name>``, the others by the labels of the data.
TASKS = Registry(
    "task",
    {
        "multiclass": "mixbench.tasks.classification:Classification",
        "multilabel": "mixbench.tasks.multilabel:MultiLabel",
        "ssl": "mixbench.tasks.selfsupervised:SelfSupervised",
    },
    group="mixbench.tasks",
    needs=("targets", "criterion", "scores"),
)
