"""Finished parts of a suite in the folder of a run, so that a suite of hours can be resumed."""

import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixbench.distributed.process_group import ProcessGroup
from mixbench.files import write_bytes

_KEY = "key"


class FinishedParts:
    """Counts of the parts of a suite that are finished, kept until all are.

    They are of use only to the same network and settings; others begin anew.

    Args:
        folder: Folder of the run.
        name: Name of the suite.
        settings: Text of everything that the counts depend on beside the network.
        model: The network.
        group: The processes, of which the main one alone reads and writes.
    """

    def __init__(
        self, folder: Path, name: str, settings: str, model: nn.Module, group: ProcessGroup
    ) -> None:
        self.path, self.group = folder / f"{name}.parts.npz", group
        self.key = _hash(model, settings) if group.is_main else ""
        self.counts: dict[str, dict[str, Any]] = {}
        self.counts = group.broadcast(self._read() if group.is_main else {})

    def get(self, part: str) -> dict[str, Any] | None:
        """Counts of a part; None where it is not finished."""
        return self.counts.get(part)

    def add(self, part: str, counts: dict[str, Any]) -> None:
        """Keep the counts of a part that is finished.

        Args:
            part: Its name.
            counts: Whole numbers and tensors by name.
        """
        self.counts[part] = counts
        if not self.group.is_main:
            return
        arrays = {
            f"{part}/{name}": np.asarray(value)
            for part, found in self.counts.items()
            for name, value in found.items()
        }
        arrays[_KEY] = np.array(self.key)
        write_bytes(self.path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def remove(self) -> None:
        """Forget them, as the suite is done."""
        if self.group.is_main:
            self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return {}  # none, or one that was not written by this version
        if str(arrays.pop(_KEY, "")) != self.key:
            return {}
        counts: dict[str, dict[str, Any]] = {}
        for name, array in arrays.items():
            part, _, word = name.rpartition("/")
            value: int | Tensor = torch.from_numpy(array) if array.ndim else int(array)
            counts.setdefault(part, {})[word] = value
        return counts


def _hash(model: nn.Module, settings: str) -> str:
    """The network's weights and the settings as one word."""
    found = hashlib.sha256(settings.encode())
    for name, value in model.state_dict().items():
        found.update(name.encode())
        if isinstance(value, Tensor):
            found.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
