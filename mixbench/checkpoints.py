"""Reading what a run saved, without executing anything in it."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixbench.errors import UserError

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
FORMAT = 1
_KEYS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "mixbench", "mixbench_step")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this package.

    Args:
        path: The file.

    Returns:
        Its content, on the CPU: tensors and plain values.

    Raises:
        UserError: If it is truncated, holds anything that would have to be executed, or comes
            from another program or version.
    """
    previous = path.with_name(PREVIOUS)
    instead = f"put {previous.name} in its place, or " if previous.exists() else ""
    todo = f"{instead}delete {path.name} to start from step 0"
    content = read_plain(path, todo)
    missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path.name} is no checkpoint of a run: no {missing[0]}", str(path), todo)
    version = content["mixbench"].get("format")
    if version != FORMAT:
        raise UserError(
            f"{path.name} has format {version}, this version reads {FORMAT}",
            str(path),
            f"use the mixbench that wrote it, or {todo}",
        )
    return content


def read_plain(path: Path, todo: str) -> Any:
    """Read what torch.save wrote, without executing anything in it.

    Args:
        path: The file.
        todo: What to do about a file that cannot be read.

    Returns:
        Its content, on the CPU: tensors and plain values.

    Raises:
        UserError: If it is missing, truncated, or holds anything that would have to be executed.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path.name} holds more than tensors and plain values and is not read: "
            f"{_first_line(error)}",
            str(path),
            todo,
        ) from error
    except FileNotFoundError as error:
        raise UserError("no such checkpoint", str(path)) from error
    except (OSError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise UserError(f"{path.name} is damaged: {_first_line(error)}", str(path), todo) from error


def check_shapes(path: Path, saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Refuse a checkpoint that would fit a network in part only.

    Args:
        path: The file, for the message.
        saved: State dict of the checkpoint.
        wanted: State dict of the method as it is configured.

    Raises:
        UserError: If names or shapes differ.
    """
    wrong = [
        f"{name} is {tuple(saved[name].shape)}, wanted {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in saved and saved[name].shape != value.shape
    ]
    wrong += [f"{name} is missing" for name in wanted if name not in saved]
    wrong += [f"{name} is unknown" for name in saved if name not in wanted]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise UserError(
            f"{path.name} does not fit the network: {'; '.join(wrong[:3])}{more}",
            str(path),
            "use the configuration that it was trained with",
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
