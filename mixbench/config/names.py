"""The methods, networks and data sets by name.

The tables are text, so that listing names imports nothing of what they stand for. A network or data
set is described by the first sentence of its file in ``experiments/``.
"""

from mixbench.registry import Registry

# Where each method is, and its line of `mixbench list`.
_METHODS = {
    "alignmix": (
        "mixbench.methods.alignmix.alignmix:AlignMix",
        "Move feature maps to their partners' layout, then mix",
    ),
    "attentivemix": (
        "mixbench.methods.attentivemix:AttentiveMix",
        "Keep the most attended cells of an image, and show its partner elsewhere",
    ),
    "augmix": (
        "mixbench.methods.augmix:AugMix",
        "Mix images with augmented versions of themselves, and tie the predictions",
    ),
    "automix": (
        "mixbench.methods.samix.automix:AutoMix",
        "Mix with masks that a network learns along the way; the parent of SAMix",
    ),
    "bc": (
        "mixbench.methods.bc:BC",
        "Mix images of different classes, learn the ratio",
    ),
    "choice": (
        "mixbench.methods.choice.choice:Choice",
        "Draw one of several methods for each batch, all of them on one network",
    ),
    "cutmix": (
        "mixbench.methods.cutmix:CutMix",
        "Paste a box of the partner image",
    ),
    "demixgan": (
        "mixbench.methods.demix.demixgan:DemixGAN",
        "Learn two kinds of images from their sums alone",
    ),
    "denoisegan": (
        "mixbench.methods.demix.denoisegan:DenoiseGAN",
        "Learn images from sums with a component that is known",
    ),
    "erm": (
        "mixbench.methods.erm:ERM",
        "Empirical risk minimisation: the recipe's augmentation and nothing else",
    ),
    "fmix": (
        "mixbench.methods.fmix:FMix",
        "Mix with masks that are cut out of random images of low frequency",
    ),
    "gridmix": (
        "mixbench.methods.gridmix:GridMix",
        "Paste the partner image through the holes of a grid",
    ),
    "guidedmixup": (
        "mixbench.methods.guidedmixup:GuidedMixup",
        "Mix each pixel by the saliency of both images, in pairs that look at other places",
    ),
    "hmix": (
        "mixbench.methods.hmix:HMix",
        "Mix by any method, and label by what people see in such mixtures",
    ),
    "manifoldmixup": (
        "mixbench.methods.manifoldmixup:ManifoldMixup",
        "Interpolate the features of a random layer",
    ),
    "mixpro": (
        "mixbench.methods.mixpro:MixPro",
        "Keep random cells, labelled by attention as far as the prediction is right",
    ),
    "mixup": (
        "mixbench.methods.mixup:Mixup",
        "Interpolate images and labels",
    ),
    "mixup2": (
        "mixbench.methods.mixup2:Mixup2",
        "Sum the cross-entropies of a clean batch and of its Input Mixup",
    ),
    "moco": (
        "mixbench.methods.moco.moco:MoCo",
        "Learn features without labels: find the other view of an image among many",
    ),
    "mocosamix": (
        "mixbench.methods.moco.mocosamix:MoCoSAMix",
        "SAMix without labels: mix a view with another image's, and find the keys of both",
    ),
    "puzzlemix": (
        "mixbench.methods.puzzlemix:PuzzleMix",
        "Choose for each block which of two images it shows, and move blocks to be seen",
    ),
    "resizemix": (
        "mixbench.methods.resizemix:ResizeMix",
        "Paste the whole of the partner image, made smaller",
    ),
    "saliencymix": (
        "mixbench.methods.saliencymix:SaliencyMix",
        "Paste the most salient part of the partner image",
    ),
    "samix": (
        "mixbench.methods.samix.samix:SAMix",
        "Mix with masks that a network learns along the way",
    ),
    "smmix": (
        "mixbench.methods.tdattenmix.smmix:SMMix",
        "Paste the window that a transformer itself looks at most over the one it looks at least",
    ),
    "smoothmix": (
        "mixbench.methods.smoothmix:SmoothMix",
        "Blend the partner image in through a window without edges",
    ),
    "snapmix": (
        "mixbench.methods.snapmix:SnapMix",
        "Paste a part of the partner into another box, labelled by what both mean",
    ),
    "splicemix": (
        "mixbench.methods.splicemix.splicemix:SpliceMix",
        "Append grids of shrunken images, labelled by all that they show",
    ),
    "splicemix_cl": (
        "mixbench.methods.splicemix.splicemix_cl:SpliceMixCL",
        "SpliceMix, and each cell of a grid is to be judged as its whole image is",
    ),
    "tdattenmix": (
        "mixbench.methods.tdattenmix.tdattenmix:TdAttenMix",
        "Paste the partner's most attended window over the least attended one",
    ),
    "tlalign": (
        "mixbench.methods.tokenlabels.tlalign:TLAlign",
        "Paste whole patches, and let attention carry their labels",
    ),
    "tokenmix": (
        "mixbench.methods.tokenmix:TokenMix",
        "Paste blocks of patches, labelled by what a map says of each patch",
    ),
    "transformmix_recon": (
        "mixbench.methods.transformmix.recon:TransformMixRecon",
        "Move and mask pairs by a module that was searched before; a reconstruction",
    ),
    "transformmix_search": (
        "mixbench.methods.transformmix.search:TransformMixSearch",
        "Search the module of TransformMix against a trained network",
    ),
    "transmix": (
        "mixbench.methods.tokenlabels.transmix:TransMix",
        "CutMix labelled by area and by the class token's attention",
    ),
}
METHODS = Registry(
    "method",
    {name: place for name, (place, _) in _METHODS.items()},
    group="mixbench.methods",
    needs=("Config", "mix"),
)
SUMMARIES = {name: summary for name, (_, summary) in _METHODS.items()}

# The methods of the default benchmark.
CORE = ("mixup", "cutmix", "manifoldmixup", "bc", "alignmix", "samix", "tdattenmix")

# Functions from a configuration and the facts of the data to a network.
NETS = Registry(
    "net",
    {
        "dcgan": "mixbench.nn.gan:dcgan",
        "deit_small": "mixbench.backbones.vit:deit_small",
        "deit_tiny": "mixbench.backbones.vit:deit_tiny",
        "preactresnet18": "mixbench.backbones.cifar:preactresnet18",
        "resnet101": "mixbench.backbones.resnet:resnet101",
        "resnet18": "mixbench.backbones.resnet:resnet18",
        "resnet50": "mixbench.backbones.resnet:resnet50",
        "resnext50": "mixbench.backbones.cifar:resnext50",
        "swin_tiny": "mixbench.backbones.swin:swin_tiny",
        "vit_tiny": "mixbench.backbones.vit:vit_tiny",
        "wrn16x8": "mixbench.backbones.cifar:wrn16x8",
        "wrn28x8": "mixbench.backbones.cifar:wrn28x8",
        "wrn40x2": "mixbench.backbones.cifar:wrn40x2",
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
        "coco": "mixbench.data.datasets.coco:Coco",
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

# Tasks that `task=<name>` picks; the others follow from the labels of the data.
CHOSEN_TASKS = ("ssl", "demix")

# Classes of tasks by the name that methods list in ``tasks``.
TASKS = Registry(
    "task",
    {
        "demix": "mixbench.tasks.demixing:Demixing",
        "multiclass": "mixbench.tasks.classification:Classification",
        "multilabel": "mixbench.tasks.multilabel:MultiLabel",
        "ssl": "mixbench.tasks.selfsupervised:SelfSupervised",
    },
    group="mixbench.tasks",
    needs=("targets", "criterion", "scores"),
)

# Common corruptions of images by group; the four others are meant for tuning and part of no mean.
CORRUPTION_GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
COMMON_CORRUPTIONS = tuple(name for names in CORRUPTION_GROUPS.values() for name in names)
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

# Classes of suites; each is a :class:`mixbench.evaluation.suite.Suite`.
SUITES = Registry(
    "suite",
    {
        "calibration": "mixbench.evaluation.calibration:Calibration",
        "adversarial": "mixbench.evaluation.adversarial:Adversarial",
        "occlusion": "mixbench.evaluation.occlusion:Occlusion",
        "salience": "mixbench.evaluation.salience:Salience",
        "shuffle": "mixbench.evaluation.shuffle:Shuffle",
        "linearity": "mixbench.evaluation.linearity:Linearity",
        "gaze": "mixbench.evaluation.gaze:Gaze",
        "two_class": "mixbench.evaluation.two_class:TwoClass",
        "human": "mixbench.evaluation.human:Human",
        "human_attacks": "mixbench.evaluation.human_attacks:HumanAttacks",
        "corruption": "mixbench.evaluation.corruption:CorruptionSuite",
        "ood": "mixbench.evaluation.ood:Ood",
        "separability": "mixbench.evaluation.separability:Separability",
        "separation": "mixbench.evaluation.separation:Separation",
        "wsol": "mixbench.evaluation.wsol:Wsol",
    },
    group="mixbench.suites",
    key="eval.suites",
    needs=("columns", "count", "score"),
)
