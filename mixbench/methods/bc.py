"""Between-class learning as a trainable method."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.data.pairs import OtherClassPairs
from mixbench.methods.base import Method, register


@register("bc")
class BC(Method):
    r"""Mix images of different classes, learn the ratio; see :func:`mixbench.functional.bc`.

    Paper: Tokozume, Ushiku, Harada, "Between-class Learning for Image Classification", CVPR 2018,
    arXiv:1711.10284. Official code: mil-tokyo/bc_learning_image.
    Formula: :math:`x = r x_1 + (1 - r) x_2` with :math:`r \sim U(0, 1)`, or with ``plus``
    :math:`x = (p x_1 + (1 - p) x_2) / \sqrt{p^2 + (1 - p)^2}`, where :math:`p` makes the loudness
    of both as :math:`r` to :math:`1 - r`; :math:`y = r y_1 + (1 - r) y_2`, learned by
    :math:`\mathrm{KL}(y, p)`.
    Deviations: ``pairing: batch`` takes partners from the batch and reads every image once per
    epoch; ``dataset`` draws pairs from the whole set with replacement as the authors do. The
    reported loss is a KL divergence, not comparable with the cross-entropy of other methods.
    Cost: 1.0 with ``batch``; ``dataset`` reads and augments two images per example.
    """

    @dataclass
    class Config(Method.Config):
        """Settings of BC and BC+."""

        plus: bool = setting(False, "use BC+: images of zero mean, weighed by their loudness")
        pairing: str = setting(
            "batch",
            "partners from the batch, or from the whole data set",
            one_of=("batch", "dataset"),
            official="dataset",
        )

        @property
        def fidelity(self) -> str:
            """Official with pairs of the whole data set."""
            return "official-verified" if self.pairing == "dataset" else "variant"

        @property
        def own_dataset(self) -> bool:
            """Pairs of the whole data set are another one."""
            return self.pairing == "dataset"

    def __init__(self, net: Any, info: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, info, *args, **kwargs)
        if self.config.plus:
            if info.residual_mean is None or info.residual_std is None:
                raise ValueError(
                    "BC+ needs the data's statistics without each image's mean; for images that "
                    "are read from files, `mixbench data prepare NAME` computes them once"
                )
            self.mean.copy_(torch.tensor(info.residual_mean)[:, None, None])
            self.std.copy_(torch.tensor(info.residual_std)[:, None, None])

    @property
    def replayable(self) -> bool:
        """Its loss decides nothing."""
        return True

    def normalize(self, x: Tensor) -> Tensor:
        """BC+ first removes each image's own mean, at training and at test time."""
        return super().normalize(mf.subtract_image_mean(x) if self.config.plus else x)

    def to_pixels(self, x: Tensor) -> Tensor:
        """The image mean of BC+ is lost; mid-grey stands for it."""
        return super().to_pixels(x) + (0.5 if self.config.plus else 0.0)

    def wrap_dataset(self, train_set: Any) -> Dataset[Any]:
        """Pairs of the whole set, where asked for."""
        return OtherClassPairs(train_set) if self.config.pairing == "dataset" else train_set

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Mix with partners of the batch, or its first half with the second."""
        if self.config.pairing == "dataset" and "perm" not in decisions:
            decisions["perm"] = torch.arange(len(x) // 2, len(x))
        return mf.bc(x, targets, plus=self.config.plus, generator=self.generator, **decisions)

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """The weight of every pixel; that of BC+ is not the label's."""
        return mf.even_shares(mixed.aux)

    def loss(self, logits: Tensor, mixed: mf.Mixed) -> Tensor:
        """KL divergence to the ratio."""
        return mf.soft_kl(logits, mixed.targets)

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also the share of rows whose batch held no image of another class."""
        assert mixed.perm is not None
        alone = mixed.perm == torch.arange(len(mixed.perm), device=mixed.perm.device)
        return super().diagnostics(mixed) | {"alone": alone.float().mean()}
