"""The linear evaluation of features that were learned without labels."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer

from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch
from mixbench.data.loaders import MixData
from mixbench.evaluation.inference import infer
from mixbench.methods.base import Method
from mixbench.methods.moco.base import Bank, ContrastiveMethod
from mixbench.nn.probe import linear_probe
from mixbench.records.checkpoints import read_checkpoint
from mixbench.training.callbacks.checkpoint import AtomicCheckpointIO

CLASSIFIER = "net.head.fc."  # beginning of its names in a checkpoint


class Probe(Callback):
    """Fits the classifier of a method before each evaluation, and tells it its training images.

    The features are those of the training images as evaluation sees them, without the hold-out;
    each process computes its share of them, and all fit the same classifier.

    Args:
        data: The loaders.
    """

    def __init__(self, data: MixData) -> None:
        self.data = data

    @torch.inference_mode(False)
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Fit it to the features as they are now."""
        method: ContrastiveMethod = pl_module
        features, labels = _features(method, self.data)
        fc: Any = method.net.head.fc
        classes, decay = method.info.num_classes, method.config.probe_decay
        weight, bias = linear_probe(features, labels, classes, decay=decay)
        with torch.no_grad():
            fc.weight.copy_(weight)
            fc.bias.copy_(bias)
        method.bank = _bank(features, labels)

    on_test_epoch_start = on_validation_epoch_start


def keep_classifier(path: Path, method: Method, io: AtomicCheckpointIO) -> None:
    """Put the classifier that was tested into a checkpoint that was written before it was fitted.

    Args:
        path: The checkpoint.
        method: The method after its test.
        io: Writes checkpoints.
    """
    content = read_checkpoint(path)
    state = method.state_dict()
    content["state_dict"] |= {k: v.cpu() for k, v in state.items() if k.startswith(CLASSIFIER)}
    io.save_checkpoint(content, path)


def neighbours(method: ContrastiveMethod, data: MixData) -> Bank:
    """The training images that vote for ``top1_knn``, for weights that are not fitted again.

    Args:
        method: The method in eval mode, where it computes.
        data: The loaders.

    Returns:
        What :attr:`ContrastiveMethod.bank` was at the test of a run.
    """
    return _bank(*_features(method, data))


def _bank(features: torch.Tensor, labels: torch.Tensor) -> Bank:
    return Bank(F.normalize(features, dim=1), labels)


def _features(method: ContrastiveMethod, data: MixData) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, D) in float32 of the training images, and their labels (N,).

    Called when an evaluation has begun, so that the method is in eval mode.
    """

    def step(batch: Batch, number: int) -> dict[str, Any]:
        features = method.features(to_float(batch.images)).float()
        return {"logits": features, "y": batch.labels, "ids": batch.ids, "extra": {}}

    autocast = torch.autocast(method.device.type, enabled=False)
    with autocast, torch.compiler.set_stance("force_eager"):
        return infer(method, data.plain_train_dataloader(), step).compute()[:2]
