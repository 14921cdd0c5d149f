"""Every registered network, small enough for a test."""

from mixbench.backbones import NETS
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.training.requirements import GENERATES, provided

SIZE = 32
# The others make images and judge none.
CLASSIFIERS = [name for name in NETS.names() if GENERATES not in (provided(name) or ())]
WIDTHS = {"preactresnet18": 4, "resnet18": 8, "resnet50": 8}


def small_net(name, size=SIZE, classes=4, **settings):
    """A network of its usual depth; one with a width is narrow."""
    config = NetConfig(name=name, **{"width": WIDTHS.get(name, 16)} | settings)
    return NETS.get(name)(config, DataInfo(classes, size, size))


def narrow_vit(config: NetConfig, info: DataInfo) -> VisionTransformer:
    """A transformer that trains in a second; a test registers it as a network."""
    size = (info.height, info.width)
    drop = {"drop_path": config.drop_path}
    return VisionTransformer(16, 4, 2, 4, size, info.num_classes, info.channels, **drop)
