"""Every registered network, small enough for a test."""

from mixbench.backbones import NETS
from mixbench.schema import DataInfo, NetConfig

SIZE = 32
WIDTHS = {"preactresnet18": 4, "resnet18": 8, "resnet50": 8}


def small_net(name, size=SIZE, classes=4, **settings):
    """A network of its usual depth; one with a width is narrow."""
    config = NetConfig(name=name, **{"width": WIDTHS.get(name, 16)} | settings)
    return NETS.get(name)(config, DataInfo(classes, size, size))
