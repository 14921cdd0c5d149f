"""TransformMix as a trainable method: a module that was searched before mixes the batches."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch
from mixbench.data.maps import MappedImages, move_maps
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.functional.transformmix import scaled_saliency
from mixbench.methods.base import register
from mixbench.methods.transformmix.base import TransformMixMethod
from mixbench.methods.transformmix.config import TransformMixReconConfig, TransformMixSearchConfig
from mixbench.nn.saliency_kinds import TeacherSaliency, chosen_kind, find_maps
from mixbench.nn.teacher import UnregisteredModule
from mixbench.nn.transform_mixer import TransformMixer
from mixbench.records.checkpoints import check_shapes, read_checkpoint
from mixbench.records.weights import load_network, weights_file

AHEAD = 128  # images in a pass over the training set
SIDE, LARGE = (8, 14), 96  # cells of a cached map; of images of LARGE pixels or more, the second

PART = "module."  # of the weights in the checkpoint of a search
FORM = ("affine", "stn_input", "lam_input", "symmetric", "stn", "mpn", "temperature")


@register("transformmix_recon")
class TransformMixRecon(TransformMixMethod):
    r"""Mix pairs by a module that was searched before.

    See :func:`mixbench.functional.transformmix`.

    Paper: Cheung and Yeung, "TransformMix: Learning Transformation and Mixing Strategies from
    Data", arXiv:2403.12429. Official code: none was found; this is a reconstruction, and its
    figures are not those of the paper. ``method.module=RUN`` is a run of ``transformmix_search`` on
    the same data or on other data: the module reads maps and a weight, no classes. Maps come from
    the teacher of that search, its map of the class where the data has the same classes and
    otherwise the norm of its features; from the network of another run, ``teacher_ckpt``; or
    from the image alone, ``saliency: spectral``.
    Formula: :math:`x = m \odot T_1(x_1) + (1 - m) \odot T_2(x_2)` with transformations :math:`T`
    and a mask :math:`m` of the searched module, and :math:`y = \bar m y_1 + (1 - \bar m) y_2`.
    Deviations: the rule of the label is not in the text; ``label: area`` is ours.
    Cost: 1.4, one pass of the teacher without a gradient; ``cache: true`` has none, with maps of 8
    x 8 cells, 14 x 14 of large images, that follow crops and mirrors.
    """

    cost = 1.4
    files = ("module", "teacher_ckpt")

    @dataclass
    class Config(TransformMixReconConfig):
        """Settings of the use."""

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        cfg = self.config
        self.check_partners(cfg.partner)
        if cfg.cache:
            self._check_cache()
        module = TransformMixer() if cfg.module is None else read_module(cfg.module)
        if module.channels not in (0, self.info.channels):
            raise UserError(
                f"the module reads images of {module.channels} channels, the data has "
                f"{self.info.channels}",
                f"method.module={cfg.module}",
                "search one with method.stn_input=saliency",
            )
        for key in ("stn", "mpn"):
            if getattr(cfg, key) and getattr(module, key) is None:
                what, where = f"the module has no {key}", f"method.module={cfg.module}"
                raise UserError(what, where, f"add method.{key}=false")
        self.frozen_module = UnregisteredModule(module)
        key = "method.module" if cfg.teacher_ckpt is None else "method.teacher_ckpt"
        given = cfg.teacher_ckpt or cfg.module
        self.teacher = None
        if given is not None and cfg.saliency != "spectral":
            net, info = load_network(given, key)
            where = f"{key}={given}"
            self.teacher = TeacherSaliency(net, info, cfg.saliency, self.info, where)
        else:
            self.kind = chosen_kind(cfg.saliency, self.net, self.info.num_classes, "")

    def _check_cache(self) -> None:
        data, where = self.run.data, "method.cache=true"
        if data.random_crops or data.auto_augment is not None:
            key = "data.auto_augment" if data.auto_augment is not None else "data.crop_area"
            raise UserError(
                "maps that are computed once can follow only padded crops and mirroring",
                f"{where} {key}",
                "use method.cache=false",
            )
        if self.config.module is None and self.config.teacher_ckpt is None:
            todo = "give method.teacher_ckpt=RUN, or use method.cache=false"
            raise UserError(
                "the maps of a network that is being trained change, so they cannot be kept",
                where,
                todo,
            )
        if self.config.saliency == "spectral":
            what = "maps of the spectrum are computed as fast as stored ones are read"
            raise UserError(what, where, "use method.cache=false")

    @property
    def transform_mixer(self) -> TransformMixer:
        """The module, which is no part of what is trained or saved."""
        return self.frozen_module.module

    def find_saliency(self, x: Tensor, y: Tensor) -> Tensor:
        """Maps of the teacher; of the network that is trained where there is none."""
        if self.teacher is None:
            return find_maps(self.net, self.kind, x, y)
        return self.teacher(self.to_pixels(x), y)

    @property
    def takes_augmented(self) -> bool:
        """Maps of a batch are moved as its images are."""
        return super().takes_augmented

    def mix_batch(self, batch: Batch) -> mf.Mixed:
        """Prepare and mix; maps of the batch are cropped and mirrored as its images are."""
        if batch.maps is None:
            return super().mix_batch(batch)
        drawn = self.draw_augmentation(batch)
        x, targets = self.prepare(batch, drawn)
        maps = move_maps(batch.maps.float(), batch.images.shape[2:], drawn, self.run.data.padding)
        return self.mix(x, targets, saliency=maps)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Transform and mask pairs, without a graph; missing decisions are drawn.

        Decisions are those of :meth:`mix_pairs`, and ``saliency`` (B, h, w).
        """
        cfg, saliency = self.config, decisions.pop("saliency", None)
        if not self.switch.on(cfg.prob):
            return mf.Mixed(x, targets)
        with torch.no_grad():
            return self.mix_pairs(x, targets, cfg.label, saliency, **decisions)

    def wrap_dataset(self, train_set: Any) -> Dataset[Any]:
        """The training set; with a cache its batches bring their maps."""
        if not self.config.cache or self.teacher is None:
            return train_set
        return MappedImages(train_set, whole_set(self.teacher, train_set))


def read_module(given: str) -> TransformMixer:
    """Read the module of a search.

    Args:
        given: Value of ``method.module``.

    Returns:
        The module, of the form that it was searched in.

    Raises:
        UserError: If there is no such run, or it holds no module.
    """
    path, where = weights_file(given, "method.module"), f"method.module={given}"
    content = read_checkpoint(path)
    state = content["state_dict"]
    found = {k.removeprefix(PART): v for k, v in state.items() if k.startswith(PART)}
    todo = "give a run of method=transformmix_search"
    if not found:
        raise UserError(f"{path.name} holds no module of TransformMix", where, todo)
    try:
        saved = content["mixbench"]["config"]["method"]
        known = TransformMixSearchConfig(**{key: saved[key] for key in FORM if key in saved})
        channels = (len(found["stn.0.weight"][0]) - 2) // 2 if known.stn else 0
        form = {key: getattr(known, key) for key in FORM}
        module = TransformMixer(channels=channels, **form)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path.name} does not say how its module is built: {reason}", where, todo
        ) from error
    check_shapes(path, found, module.state_dict())
    module.load_state_dict(found)
    return module


def whole_set(teacher: TeacherSaliency, train_set: Any) -> Tensor:
    """Small maps of all images of a set, as they are before augmentation.

    Args:
        teacher: Gives the maps.
        train_set: The images.

    Returns:
        (N, 8, 8) uint8 from 0 to 255, (N, 14, 14) of large images.
    """
    found = []
    for rows in torch.arange(len(train_set)).split(AHEAD):
        batch = train_set[BatchIndex(rows, 0)]
        pixels = to_float(batch.images.to(teacher.mean.device))
        maps = scaled_saliency(teacher(pixels, batch.labels.to(teacher.mean.device)))
        side = SIDE[max(pixels.shape[2:]) >= LARGE]
        small = F.interpolate(maps[:, None], (side, side), mode="bilinear", antialias=True)
        found.append((scaled_saliency(small[:, 0]) * 255).round().to(torch.uint8))
    return torch.cat(found)
