"""Networks of timm, regrouped into stages: ``net=timm:<name>``.

The modules stay timm's own, only their place changes, and the names of weights lead back. Nothing
is downloaded unless ``net.pretrained`` asks for it: weights come from ``net.weights``.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from mixbench.backbones.base import Head, StagedNet
from mixbench.backbones.vit import check_patch
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import UserError, near_match

# Files of weights in the folders that timm publishes, the one to prefer first.
REACH_S = 10.0  # seconds in which whoever publishes weights has to answer
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
MAPS, GRIDS, TOKENS = "maps", "grids", "tokens"  # (B, C, H, W); (B, H, W, C); (B, T, D)
TIMM_STAGES = 4


@dataclass(frozen=True)
class TimmFamily:
    """The places at which the networks of one of timm's classes are cut into stages.

    Attributes:
        stages: Module paths of each stage, joined by ``+``.
        pool: Module paths between the last features, or their norm, and the classifier.
        fc: Path of the classifier.
        norm: Path of the normalisation of the last features, where it stands before the pooling.
        layout: What the stages hand on.
        sized: Whether the network is built for one size of images.
    """

    stages: tuple[str, ...]
    pool: tuple[str, ...]
    fc: str
    norm: str = ""
    layout: str = MAPS
    sized: bool = False


_SWIN = TimmFamily(
    ("patch_embed+layers.0", "layers.1", "layers.2", "layers.3"),
    ("head.global_pool", "head.drop"),
    "head.fc",
    norm="norm",
    layout=GRIDS,
    sized=True,
)
_VIT = TimmFamily((), ("fc_norm", "head_drop"), "head", norm="norm", layout=TOKENS, sized=True)
FAMILIES = {
    "ConvNeXt": TimmFamily(
        ("stem+stages.0", "stages.1", "stages.2", "stages.3+norm_pre"),
        ("head.global_pool", "head.norm", "head.flatten", "head.pre_logits", "head.drop"),
        "head.fc",
    ),
    "ResNet": TimmFamily(
        ("conv1+bn1+act1+maxpool+layer1", "layer2", "layer3", "layer4"), ("global_pool",), "fc"
    ),
    "SwinTransformer": _SWIN,
    "SwinTransformerV2": _SWIN,
    "VisionTransformer": _VIT,
}


class ToGrid(nn.Module):
    """A map (B, C, H, W) as a grid (B, H, W, C)."""

    def forward(self, h: Tensor) -> Tensor:
        """Turn the channels to the back; a view."""
        return h.permute(0, 2, 3, 1)


class ToMap(nn.Module):
    """A grid (B, H, W, C) as a map (B, C, H, W)."""

    def forward(self, h: Tensor) -> Tensor:
        """Turn the channels to the front; a view."""
        return h.permute(0, 3, 1, 2)


class TimmEmbed(nn.Module):
    """The part of timm's ViT before its blocks: patches, tokens in front of them and positions.

    Args:
        inner: The ViT, without its blocks and all that follows them.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to tokens (B, T, D)."""
        h = self.inner._pos_embed(self.inner.patch_embed(x))
        return self.inner.norm_pre(self.inner.patch_drop(h))


class PoolTokens(nn.Module):
    """Tokens to a vector: the first one, or the mean of the patches.

    Args:
        prefix: Tokens in front of the patches.
        mean: Take the mean.
    """

    def __init__(self, prefix: int, mean: bool) -> None:
        super().__init__()
        self.prefix, self.mean = prefix, mean

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, T, D) to (B, D)."""
        return h[:, self.prefix :].mean(1) if self.mean else h[:, 0]


class TimmNet(StagedNet):
    """A network of timm by stages.

    It provides ``maps`` where its layers are maps, and never ``attention``: timm's modules do not
    show their queries and keys.

    Args:
        model: The network, whose modules move into the stages.
        family: How it is cut.
        x: (1, C, H, W) an image to count channels with.
    """

    def __init__(self, model: Any, family: TimmFamily, x: Tensor) -> None:
        super().__init__()
        theirs = {id(value): name for name, value in model.state_dict(keep_vars=True).items()}
        stages = [_modules(model, group.split("+")) for group in family.stages]
        norm = [model.get_submodule(family.norm)] if family.norm else []
        pool = _modules(model, family.pool)
        fc = model.get_submodule(family.fc)
        if family.layout == GRIDS:
            stages = [[*[ToGrid()] * (index > 0), *s, ToMap()] for index, s in enumerate(stages)]
            norm, pool = [ToGrid(), *norm, ToMap()], [ToGrid(), *pool]
        if family.layout == TOKENS:
            pool = [PoolTokens(model.num_prefix_tokens, model.global_pool == "avg"), *pool]
            for path in ("blocks", family.norm, family.fc, *family.pool):
                setattr(model, path, nn.Identity())
            stages[0] = [TimmEmbed(model), *stages[0]]
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.head = Head(1, 1)
        self.head.norm = norm[0] if len(norm) == 1 else nn.Sequential(*norm)
        self.head.pool = nn.Sequential(*pool) if pool else self.head.pool
        self.head.fc = fc
        pairs = [
            (name, theirs.get(id(value), name))
            for name, value in self.state_dict(keep_vars=True).items()
        ]
        self.renames = tuple(sorted(pairs, key=lambda pair: -len(pair[0])))  # no part of a name
        self.provides = frozenset({"stages"} if family.layout == TOKENS else {"stages", "maps"})
        counts, h = [x.shape[1]], x
        for stage in self.stages:
            h = stage(h)
            counts.append(h.shape[1 if h.ndim == 4 else -1])
        self.channels = tuple(counts)


class TimmNets:
    """The function behind ``net=timm:<name>``."""

    def __call__(self, config: NetConfig, info: DataInfo) -> TimmNet:
        """Build a network of timm.

        Args:
            config: Reads ``name``, ``stages``, ``patch`` and ``drop_path``.
            info: Reads ``num_classes``, ``channels``, ``height`` and ``width``.

        Returns:
            The network with timm's initialisation.

        Raises:
            UserError: If timm is not installed or does not have it, it cannot be built for these
                images, or it is of no known family and ``stages`` do not cut it.
        """
        timm, where = _timm(config.name), f"net={config.name}"
        name = config.name.partition(":")[2]
        options: dict[str, Any] = {"num_classes": info.num_classes, "in_chans": info.channels}
        if config.drop_path:
            options["drop_path_rate"] = config.drop_path
        size = (info.height, info.width)
        kind = _kind(name)
        family = FAMILIES.get(kind)
        if family is not None and family.sized:
            options["img_size"] = size
            options |= {"patch_size": config.patch} if config.patch else {}
        try:
            model = timm.create_model(name, **options)
            if family is not None and family.sized:  # timm would leave pixels out
                check_patch(config.name, model.patch_embed.patch_size[0], *size)
            x = torch.randn(1, info.channels, *size, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                expected = model.eval()(x)
                family = _cut(model, kind, family, config)
                net = TimmNet(model, family, x).eval()
                same = torch.allclose(net(x), expected, rtol=1e-4, atol=1e-5)
        except UserError:
            raise
        except (RuntimeError, AssertionError, TypeError, ValueError, AttributeError) as error:
            text = str(error).strip() or type(error).__name__
            raise UserError(
                f"{name} cannot be built for images of {size[0]}x{size[1]} pixels: "
                f"{text.splitlines()[0]}",
                where,
                "change data.size, net.patch or net.stages",
            ) from error
        if not same:
            raise UserError(
                f"the stages and the classifier of {name} do not make up the network",
                f"{where}, net.stages",
                "name every module between the image and the pooling; a network with layers "
                "between pooling and classifier cannot be cut",
            )
        return net.train()

    def provides(self, net: str) -> frozenset[str] | None:
        """Capabilities of a network, as far as its family tells.

        Args:
            net: ``timm:<name>``.

        Returns:
            Its ``provides``, or None for an unknown family.
        """
        _timm(net)
        family = FAMILIES.get(_kind(net.partition(":")[2]))
        if family is None:
            return None
        return frozenset({"stages"} if family.layout == TOKENS else {"stages", "maps"})


timm_net = TimmNets()


def pretrained_file(net: str) -> Path:
    """The file of the weights that timm publishes for a network, fetched where need be.

    Args:
        net: ``timm:<name>``, or ``timm:<name>.<tag>`` for others than its default weights.

    Returns:
        The file, in the cache of Hugging Face.

    Raises:
        UserError: If there are none, or they are not in the cache and cannot be fetched.
    """
    _timm(net)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
    from huggingface_hub.errors import EntryNotFoundError
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(net.partition(":")[2])
    if config is None or not config.hf_hub_id:
        todo = "use net.pretrained=false, or give a file of weights as net.weights"
        raise UserError(f"timm publishes no weights of {net}", "net.pretrained", todo)
    place, _, revision = config.hf_hub_id.partition("@")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES
    for name in names:
        found = try_to_load_from_cache(place, name, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    reason = "it has no such file"
    try:
        if not HF_HUB_OFFLINE:
            _reach(ENDPOINT)
        for name in names:
            with suppress(EntryNotFoundError):
                return Path(hf_hub_download(place, name, revision=revision or None))
    except Exception as error:  # of the network, in the words of several libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    raise UserError(
        f"the weights of {net} are not in the cache and cannot be fetched: {reason}",
        "net.pretrained",
        f"download {names[0]} of {place} from huggingface.co on another machine, and give it as "
        "net.weights=FILE",
    )


def _reach(url: str) -> None:
    """Raise at once where nobody answers; the library would try again for half a minute."""
    with suppress(HTTPError):  # that is an answer
        urlopen(Request(url, method="HEAD"), timeout=REACH_S).close()


def _timm(net: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError(
            "timm is not installed", f"net={net}", "pip install 'mixbench[timm]'"
        ) from error
    name = net.partition(":")[2]
    if not timm.is_model(name):
        hint = near_match(name, timm.list_models())
        raise UserError(
            f"timm {timm.__version__} has no network {name!r}" + (f"; {hint}" if hint else ""),
            f"net={net}",
            "timm.list_models() names them all",
        )
    return timm


@cache
def _kind(name: str) -> str:
    """Name of the class of one of timm's networks, which is built for it without memory."""
    import timm

    with torch.device("meta"):
        return type(timm.create_model(name)).__name__


def _cut(model: Any, kind: str, family: TimmFamily | None, config: NetConfig) -> TimmFamily:
    """The family with the stages of this very network."""
    if family is None and not config.stages:
        children = ", ".join(name for name, _ in model.named_children())
        raise UserError(
            f"{kind} belongs to none of the known families: {', '.join(sorted(FAMILIES))}",
            f"net={config.name}",
            f"name the modules of each stage, such as net.stages=[stem+blocks.0,blocks.1]; it has "
            f"{children}",
        )
    if family is None:
        classifier = model.get_classifier()
        fc = next(name for name, module in model.named_modules() if module is classifier)
        family = TimmFamily((), (), fc)
    stages = tuple(config.stages) or family.stages
    if not stages:
        depth = len(model.blocks)
        cuts = [depth * index // TIMM_STAGES for index in range(TIMM_STAGES + 1)]
        groups = [range(cuts[index], cuts[index + 1]) for index in range(TIMM_STAGES)]
        stages = tuple("+".join(f"blocks.{block}" for block in group) for group in groups if group)
    return replace(family, stages=stages)


def _modules(model: nn.Module, paths: tuple[str, ...] | list[str]) -> list[nn.Module]:
    return [model.get_submodule(path) for path in paths]
