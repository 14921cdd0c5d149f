"""The network that a run tested, for other programs: its weights, or all of it."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from mixbench.errors import UserError
from mixbench.files import write_bytes
from mixbench.methods.base import Method
from mixbench.methods.evaluation import normalizes_by_channel
from mixbench.records.weights import (
    STATE_FORMATS,
    check_export,
    export_weights,
    exported_program,
    facts_of_network,
    onnx_model,
)
from mixbench.training.predict import load


class Exported(NamedTuple):
    """What a file holds.

    ``whole`` tells whether it is a network from pixels to logits, or weights behind an input of
    ``height`` and ``width`` that is less ``mean`` and divided by ``std``. ``plain`` is False where
    the method normalises in its own way, so that these two are not all of it.
    """

    whole: bool
    height: int
    width: int
    mean: list[float]
    std: list[float]
    plain: bool = True


class PixelsToLogits(nn.Module):
    """What a method tests: normalisation and network.

    Args:
        method: A method whose ``forward`` is the template's.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.net, self.normalize = method.tested, method.normalize

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) in [0, 1] to logits (B, K)."""
        return self.net(self.normalize(pixels))


def export(folder: Path, path: Path, overrides: Sequence[str] = ()) -> Exported:
    """Write the network that a run tested.

    Args:
        folder: Folder of a finished run.
        path: File to write. ``.pth``, ``.pt`` and ``.safetensors`` hold weights in timm's or
            torchvision's names. ``.pt2``, a program of ``torch.export``, and ``.onnx`` hold the
            network from pixels in [0, 1] to logits, with class names, mean, std and temperature.
        overrides: Names of your own code that the run uses, which a whole network needs.

    Returns:
        What the file holds.

    Raises:
        UserError: As :func:`mixbench.training.predict.load` and
            :func:`mixbench.records.weights.export_weights`.
        RunFailedError: If the network computes with batches of one size only.
    """
    check_export(path)
    if path.suffix in STATE_FORMATS:
        info, plain = export_weights(folder, path), True
        with suppress(UserError):  # code that is not trusted, or a file that is gone, has no say
            plain = normalizes_by_channel(load(folder, overrides, device="cpu").method)
        return Exported(False, info.height, info.width, info.mean, info.std, plain)
    found = load(folder, overrides, device="cpu")
    method = found.method
    own = type(method).forward is not Method.forward
    net = (method if own else PixelsToLogits(method)).eval()
    mean, std = (values.flatten().tolist() for values in (found.mean, found.std))
    facts = facts_of_network(method.info, mean, std, found.temperature)
    write = onnx_model if path.suffix == ".onnx" else exported_program
    content = write(net, method.info, facts)
    write_bytes(path, lambda file: file.write(content))
    return Exported(True, *found.size, mean, std)
