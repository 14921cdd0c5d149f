"""The suite human_attacks: losses against people's labels of test images that are attacked.

As the evaluation of CIFAR-10S (cambridge-mlg/cifar-10s) attacks: one step of FGSM and ten of PGD,
within 4/255, along the gradient of the cross-entropy to the soft label by the pixels. What it calls
an error is a loss; here ``loss`` is in nats and ``err`` the share of wrong classes.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch
from mixbench.evaluation.attacks import cross_entropy, evaluation_logits, fgsm, pgd_losses
from mixbench.evaluation.human import PeopleSuite
from mixbench.evaluation.per_image_random import uniform
from mixbench.evaluation.suite import SUITE_SEED, Counts, Model

EPS, ALPHA, STEPS = 4 / 255, 2 / 255, 10  # pixels of the scale [0, 1]


class HumanAttacks(PeopleSuite):
    """Mean losses and the error rate of test images under attack."""

    columns = ("fgsm_loss_human", "fgsm_err_human", "pgd_loss_human")

    def count(self, model: Model, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Losses of each image, and whether FGSM makes its class wrong."""
        del info
        values = {
            "fgsm": torch.zeros(0),
            "wrong": torch.zeros(0, dtype=torch.bool),
            "pgd": torch.zeros(0, STEPS + 1),
        }
        for batch in batches:
            assert batch.soft is not None
            # Copies, as nothing that was made in inference mode can be differentiated.
            x, targets = to_float(batch.images).clone(), batch.soft.clone()
            logits = evaluation_logits(model, fgsm(model, x, targets, eps=EPS))
            unit = 2 * uniform(SUITE_SEED, batch.ids, tuple(x.shape[1:])) - 1
            found = {
                "fgsm": cross_entropy(logits, targets),
                "wrong": logits.argmax(dim=1) != batch.labels,
                "pgd": pgd_losses(model, x, targets, eps=EPS, alpha=ALPHA, steps=STEPS, unit=unit),
            }
            values = {k: torch.cat([values[k], v.cpu()]) for k, v in found.items()}
        return {"n": len(values["fgsm"])} | values

    def score(self, counts: Mapping[str, Any]) -> dict[str, float]:
        """Means over images.

        ``fgsm_loss_human`` and ``fgsm_err_human``; ``pgd_loss_human``, the loss after the last
        step, and ``pgd_loss_human_0`` to ``pgd_loss_human_9``, those before each step, from the
        random start on.
        """
        *before, last = counts["pgd"].double().mean(dim=0).tolist()
        return {
            "fgsm_loss_human": float(counts["fgsm"].double().mean()),
            "fgsm_err_human": 100 * float(counts["wrong"].double().mean()),
            "pgd_loss_human": last,
        } | {f"pgd_loss_human_{step}": loss for step, loss in enumerate(before)}

    @property
    def limit(self) -> int | None:
        """``eval.adv_n`` images."""
        return self.config.subset_size

    @property
    def passes(self) -> int:
        """A gradient and a look of FGSM, and a gradient of each step of PGD and a look behind."""
        return 2 + 1 + 2 * STEPS + 1

    def varies(self, score: str) -> bool:
        """The sign of a tiny gradient may turn with the order in which a machine adds."""
        return score.startswith(("fgsm_", "pgd_"))
