"""Reading what a run saved, without executing anything in it."""

import logging
import pickle
import re
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixbench.data.files.checksums import check_archive, is_archive
from mixbench.errors import UserError
from mixbench.files import open_regular

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
FORMAT = 1
log = logging.getLogger("mixbench")
_KEYS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "mixbench", "mixbench_step")
FACT_KEYS = ("config", "info", "data", "id", "epoch", "batch", "curves")
_KINDS = {"state_dict": dict, "mixbench": dict, "mixbench_step": int}


def read_checkpoint(
    path: Path, todo: str = "use another checkpoint, or train that run again"
) -> dict[str, Any]:
    """Read a checkpoint of this package.

    Args:
        path: The file.
        todo: What to do about a file that cannot be used.

    Returns:
        Its content, on the CPU: tensors and plain values.

    Raises:
        UserError: If it is damaged, holds anything that would have to be executed, or comes
            from another program or version.
    """
    content = read_plain(path, todo)
    missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(
            f"{path.name} is not the checkpoint of a run: it has no {missing[0]}", str(path), todo
        )
    wrong = next((key for key, kind in _KINDS.items() if not isinstance(content[key], kind)), None)
    if wrong is None and not all(isinstance(v, Tensor) for v in content["state_dict"].values()):
        wrong = "state_dict"
    if wrong:
        what = f"{path.name} is not the checkpoint of a run: {wrong} is of the wrong type"
        raise UserError(what, str(path), todo)
    version = content["mixbench"].get("format")
    if version != FORMAT:
        raise UserError(
            f"{path.name} has format {version}, this version reads {FORMAT}",
            str(path),
            f"use the mixbench that wrote it, or {todo}",
        )
    lacking = [key for key in FACT_KEYS if key not in content["mixbench"]]
    if lacking:
        what = f"{path.name} is not the checkpoint of a run: it does not say its {lacking[0]}"
        raise UserError(what, str(path), todo)
    return content


def recovery_steps(path: Path) -> str:
    """Steps to go on with an unfinished run whose last checkpoint cannot be used.

    Args:
        path: That checkpoint.

    Returns:
        The steps, as commands for a shell.
    """
    start = f"rm {shlex.quote(str(path))} to start from step 0"
    previous = path.with_name(PREVIOUS)
    if not previous.exists():
        return start
    move = shlex.join(["mv", str(previous), str(path)])
    return f"{move} to go on from the checkpoint before it, or {start}"


def read_plain(path: Path, todo: str) -> Any:
    """Read what torch.save wrote, without executing anything in it.

    Args:
        path: The file.
        todo: What to do about a file that cannot be read.

    Returns:
        Its content, on the CPU: tensors and plain values.

    Raises:
        UserError: If it is missing, damaged, or holds anything that would have to be executed.
    """
    try:
        open_regular(path).close()  # to open a pipe would wait for ever
        checked = is_archive(path)
        if checked:
            check_archive(path, stored=True)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not checked:
            log.info("%s has no checksums: whether it is damaged cannot be said", path.name)
        return content
    except pickle.UnpicklingError as error:
        # PyTorch's own text advises to read the file in a way that executes what it holds.
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"holds more than tensors and plain values: {named[1]}"
            if named
            else ("holds more than tensors and plain values, or was not written by torch.save")
        )
        raise UserError(f"{path.name} is not read: it {reason}", str(path), todo) from error
    except FileNotFoundError as error:
        raise UserError("no such checkpoint", str(path), todo) from error
    except Exception as error:  # what a damaged pickle makes of itself can raise anything
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
