"""Weights that a network starts from, and weights for other programs.

Names are those of this package, of timm or of torchvision; the networks translate them.
"""

import functools
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mixbench.backbones.base import StagedNet
from mixbench.config.names import NETS
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import RunFailedError, UserError
from mixbench.files import write_bytes
from mixbench.records.checkpoints import BEST, LAST, check_shapes, read_checkpoint, read_plain
from mixbench.records.fields import check_fields
from mixbench.records.identity import InputFile, is_checkpoint, seedless_id
from mixbench.records.record import RECORD, read_record

log = logging.getLogger("mixbench")
WEIGHTS_KEY = "net.weights"
STATE_FORMATS = (".pth", ".pt", ".safetensors")  # of files of weights that are exported
EXPORT_FORMATS = (*STATE_FORMATS, ".pt2", ".onnx")  # and of files of whole networks
PROGRAM_FACTS = "network.json"  # file of facts beside a program
TESTED_PART = "tested"  # fact of a checkpoint: name of the network in it that was tested
_INSIDE = ("state_dict", "model", "module")  # where training scripts put the weights
_CLASSIFIER = ("head.fc.weight", "head.fc.bias")


def input_file(given: str, key: str = WEIGHTS_KEY) -> InputFile:
    """A file as the identity of a run counts it that starts from it, or uses it.

    Args:
        given: A file, the folder of a finished run, or, where a method reads one, of other files.
        key: Config key that it is the value of.

    Returns:
        Name and content of the file, and what it is pooled as.

    Raises:
        UserError: If there is no such file or finished run.
    """
    if key != WEIGHTS_KEY and Path(given).is_dir() and not (Path(given) / RECORD).exists():
        return _input_folder(Path(given), key)
    path = weights_file(given, key)
    try:
        facts = path.stat()
        content = _content(path, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
    except OSError as error:
        raise UserError(
            f"the file cannot be read: {error.strerror}",
            f"{key}={given}",
            "change its permissions, or give another file",
        ) from error
    place = path.absolute()
    if not is_checkpoint(str(place)):
        return InputFile(path.name, content, content)
    return InputFile(f"{place.parent.name}/{path.name}", content, _pooled(place, content))


def _input_folder(folder: Path, key: str) -> InputFile:
    """A folder of files that counts for the names and contents of its files."""
    found = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            facts = path.stat()
            version = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
            found.update(f"{path.name}\0{_content(path, *version)}\n".encode())
    except OSError as error:
        raise UserError(
            f"the folder cannot be read: {error.strerror}",
            f"{key}={folder}",
            "change its permissions, or give another run",
        ) from error
    content = "sha256:" + found.hexdigest()[:16]
    return InputFile(folder.resolve().name, content, content)


@functools.lru_cache(maxsize=256)  # a plan names one file for many runs
def _content(path: Path, *_version: int) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _pooled(checkpoint: Path, content: str) -> str:
    """The finished run of any seed; the content where no record says that it is finished."""
    try:
        record = read_record(checkpoint.parent)
    except UserError:
        return content
    return seedless_id(str(checkpoint), record.row) if record.status == "done" else content


def load_weights(net: torch.nn.Module, given: str) -> None:
    """Start a network from weights; only the classifier may be another.

    Args:
        net: The network; its classifier stays as it is drawn where the number of classes differs.
        given: Value of ``net.weights``: a file, or the folder of a finished run.

    Raises:
        UserError: If the file cannot be read as plain weights, or names or shapes differ.
    """
    if not isinstance(net, StagedNet):
        raise UserError(
            f"{type(net).__name__} does not say how its weights are named",
            WEIGHTS_KEY,
            "derive it from mixbench.backbones.base.StagedNet, or load them in its function",
        )
    path = weights_file(given)
    wanted = net.state_dict()
    read = net.own_names(read_weights(path))
    state = net.adapted(read)
    changed = [name for name in state if state[name].shape != read[name].shape]
    if changed:
        log.info("%s: %d tables of positions are interpolated", path.name, len(changed))
    for name, value in wanted.items():  # not in files from before torch counted batches
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, value)
    weight = state.get(_CLASSIFIER[0])
    if weight is not None and weight.ndim == 2 and len(weight) != len(wanted[_CLASSIFIER[0]]):
        state |= {name: wanted[name] for name in _CLASSIFIER}
        log.info(
            "%s: its classifier of %d classes is replaced by a new one of %d",
            path.name,
            len(weight),
            len(wanted[_CLASSIFIER[0]]),
        )
    check_shapes(path, net.published(state), net.published(wanted))
    net.load_state_dict(state)


def load_network(given: str, key: str, trusted: Collection[str] = ()) -> tuple[StagedNet, DataInfo]:
    """The trained network of a run.

    Args:
        given: A checkpoint of a run, or the folder of a finished one.
        key: Config key that it is the value of.
        trusted: Names of code that stand on the command line.

    Returns:
        The network, and what it was trained on.

    Raises:
        UserError: If there is none, it cannot be read, or its network is no registered one.
    """
    path = weights_file(given, key)
    content = read_checkpoint(path)
    config, info = trained_on(path, content)
    if NETS.names_code(config.name) and config.name not in trusted:  # no file may name code
        raise UserError(
            f"the run has a network of its own, {config.name}",
            f"{key}={given}",
            f"add net={config.name} to the command if you trust it"
            if key == "export"
            else "use a run with a registered network",
        )
    net = NETS.get(config.name)(config, info)
    if "latent" in getattr(net, "provides", ()):
        raise UserError(
            f"{config.name}, the network of the run, makes images and does not classify them",
            f"{key}={given}",
            "give a run of a classifier",
        )
    state = _network(content["state_dict"], content["mixbench"])
    check_shapes(path, state, net.state_dict())
    net.load_state_dict(state)
    return net, info


def check_classes(teacher: DataInfo, data: DataInfo, where: str) -> None:
    """Refuse a teacher that knows another number of classes.

    Args:
        teacher: What it was trained on.
        data: What it is to look at.
        where: Config key and value that name it.

    Raises:
        UserError: If the numbers differ.
    """
    if teacher.num_classes != data.num_classes:
        raise UserError(
            f"the teacher knows {teacher.num_classes} classes, the data has {data.num_classes}",
            where,
            "use a teacher of the same data set",
        )


def read_weights(path: Path, key: str = WEIGHTS_KEY) -> dict[str, Tensor]:
    """Read the weights of a network from a file.

    Args:
        path: A checkpoint of a run, or a state dict, alone or as training scripts wrap it, written
            by torch.save or as safetensors.
        key: Config key that it is the value of.

    Returns:
        Weights as the file names them, without the prefix of a method or of DDP.

    Raises:
        UserError: If it is damaged, holds more than tensors and plain values, or no weights.
    """
    found = (
        _read_safetensors(path, key) if path.suffix == ".safetensors" else _read_torch(path, key)
    )
    for name, value in found.items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(
                f"{path.name} is damaged: {name} holds values that are not finite",
                f"{key}={path}",
                f"give another file as {key}",
            )
    return found


def _read_torch(path: Path, key: str) -> dict[str, Tensor]:
    content = read_plain(path, f"give another file as {key}")
    ours = isinstance(content, dict) and "mixbench" in content
    facts = content["mixbench"] if ours else None
    for part in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(part), dict):
            content = content[part]
            break
    if not isinstance(content, Mapping) or not content:
        raise UserError(
            f"{path.name} holds no weights with names", str(path), "save model.state_dict() alone"
        )
    wrong = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise UserError(
            f"{path.name} is not a state dict: {wrong[0]} is not a tensor",
            str(path),
            "save model.state_dict() alone",
        )
    if ours:
        return _network(content, facts)
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def _read_safetensors(path: Path, key: str) -> dict[str, Tensor]:
    log.info("%s has no checksums: whether it is damaged cannot be said", path.name)
    try:
        return _safetensors().load_file(path)
    except UserError:
        raise
    except Exception as error:  # its own errors derive from Exception alone
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        todo = f"give another file as {key}"
        raise UserError(f"{path.name} is damaged: {reason}", f"{key}={path}", todo) from error


def check_export(path: Path) -> None:
    """Refuse a file that a network cannot be exported to.

    Args:
        path: The file.

    Raises:
        UserError: If its name has an unknown ending, or its folder does not exist.
    """
    if path.suffix not in EXPORT_FORMATS:
        raise UserError(
            f"{path.name} has no known ending", "-o", f"end it in {', '.join(EXPORT_FORMATS)}"
        )
    if not path.resolve().parent.is_dir():
        raise UserError(f"no such folder: {path.parent}", "-o", "create it first")


def export_weights(folder: Path, path: Path) -> DataInfo:
    """Write the weights of the network that a run tested, in timm's or torchvision's names.

    Args:
        folder: Folder of a finished run.
        path: File to write: ``.pth`` or ``.pt`` by torch.save, or ``.safetensors``, whose metadata
            hold :func:`facts_of_network`.

    Returns:
        What the network was trained on.

    Raises:
        UserError: If the run is not finished, its checkpoint cannot be read, the file's folder
            does not exist, its name has another ending, or what writes it is not installed.
    """
    check_export(path)
    checkpoint = tested_checkpoint(folder)
    content = read_checkpoint(checkpoint)
    config, info = trained_on(checkpoint, content)
    state = _network(content["state_dict"], content["mixbench"])
    if ":" not in config.name:  # no file may name code to import; such a network has own names
        with torch.device("meta"):
            net = NETS.get(config.name)(config, info)
            # Generators have no names but their own.
            state = net.published(state) if isinstance(net, StagedNet) else state
    if path.suffix == ".safetensors":
        whole = {name: t.contiguous() for name, t in state.items()}
        facts = facts_of_network(info, info.mean, info.std)
        data = _safetensors().save(whole, metadata=_in_json(facts))
        write_bytes(path, lambda file: file.write(data))
    else:
        write_bytes(path, lambda file: torch.save(state, file))
    return info


def facts_of_network(
    info: DataInfo, mean: Sequence[float], std: Sequence[float], temperature: float | None = None
) -> dict[str, Any]:
    """What another program has to know of a network, for the metadata of its file.

    Args:
        info: What it was trained on.
        mean: Mean of each channel that is taken from pixels in [0, 1].
        std: Deviation of each channel that they are then divided by.
        temperature: Divisor of its logits for calibrated probabilities, if it is known.

    Returns:
        Plain values: ``class_names``, ``mean``, ``std``, ``height``, ``width``, and ``temperature``
        if it is known.
    """
    facts: dict[str, Any] = {
        "class_names": info.names,
        "mean": list(mean),
        "std": list(std),
        "height": info.height,
        "width": info.width,
    }
    return facts if temperature is None else facts | {"temperature": temperature}


def _in_json(facts: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in facts.items()}


def onnx_model(net: torch.nn.Module, info: DataInfo, facts: Mapping[str, Any]) -> bytes:
    """A network as an ONNX model for batches of any size.

    Args:
        net: From pixels in [0, 1] to logits, in eval mode.
        info: Size of its images.
        facts: Plain values that become metadata, each as JSON.

    Returns:
        The model, with the input ``pixels`` (B, C, H, W) and the output ``logits`` (B, K).

    Raises:
        UserError: If what writes ONNX is not installed.
        RunFailedError: If the network is fixed to one size of batches.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        todo = "pip install 'mixbench[onnx]', or end the name in .pt2 or .pth"
        raise UserError(f"ONNX needs {error.name}, which is not installed", "-o", todo) from error
    with _plain_attention():
        program = torch.onnx.export(
            net,
            (_example(info),),
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    # The exporter falls back to the size that it was shown, without an error.
    shape = program.model.graph.inputs[0].shape
    if shape is None or isinstance(shape[0], int):
        raise RunFailedError(
            "the network works with batches of one size only, so it cannot be exported",
            "export",
            "end the name in .pth for its weights",
        )
    program.model.metadata_props.update(_in_json(facts))
    return program.model_proto.SerializeToString()


def exported_program(net: torch.nn.Module, info: DataInfo, facts: Mapping[str, Any]) -> bytes:
    """A network as a program of ``torch.export``, which needs torch alone.

    Args:
        net: From pixels in [0, 1] to logits, in eval mode.
        info: Size of its images.
        facts: Plain values that become a file ``network.json`` beside the program.

    Returns:
        Content of a ``.pt2`` file, for batches of any size.

    Raises:
        RunFailedError: If the network is fixed to one size of batches, or cannot be traced.
    """
    batch = torch.export.Dim("batch", min=1)
    try:
        with _plain_attention():
            program = torch.export.export(net, (_example(info),), dynamic_shapes=({0: batch},))
    except Exception as error:  # of torch's tracer, or of somebody else's network
        reason = str(error).strip().splitlines() or [type(error).__name__]
        what = f"the network cannot be exported for batches of any size: {reason[0]}"
        raise RunFailedError(what, "export", "end the name in .pth for its weights") from error
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={PROGRAM_FACTS: json.dumps(facts)})
    return file.getvalue()


def _example(info: DataInfo) -> Tensor:
    return torch.zeros(2, info.channels, info.height, info.width)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Fused attention has another memory layout than what an exporter takes it apart into."""
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")  # of the exporter's own modules
        yield


def weights_file(given: str, key: str = WEIGHTS_KEY) -> Path:
    """The file that a configuration names.

    Args:
        given: A file, or the folder of a finished run.
        key: Config key that it is the value of.

    Returns:
        The file, or the checkpoint that the run was tested with.

    Raises:
        UserError: If there is no such file or finished run.
    """
    path = Path(given)
    if path.is_dir():
        return tested_checkpoint(path)
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", key, f"correct {key}")
    if not path.is_file():  # to open a pipe would wait for ever
        raise UserError(f"neither file nor folder: {path}", key, f"correct {key}")
    return path


def tested_checkpoint(folder: Path) -> Path:
    """The checkpoint that a finished run was tested with.

    Args:
        folder: Folder of the run.

    Returns:
        The file.

    Raises:
        UserError: If there is no run or it is not finished.
    """
    record = read_record(folder)
    if record.status != "done":
        raise UserError(
            f"{folder.name} is not finished but {record.status}",
            str(folder),
            f"finish it with mixbench resume {folder}",
        )
    return folder / (BEST if record.select == "val" else LAST)


def _network(state: Mapping[str, Tensor], facts: Any) -> dict[str, Tensor]:
    """Weights of the network that was tested; older checkpoints do not say which it is."""
    prefix = f"{facts.get(TESTED_PART, 'net') if isinstance(facts, Mapping) else 'net'}."
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}


def trained_on(path: Path, content: dict[str, Any]) -> tuple[NetConfig, DataInfo]:
    """The network of a checkpoint, and what it was trained on.

    Args:
        path: The file, for the message.
        content: What it holds.

    Returns:
        The network's settings, and the facts of its data.

    Raises:
        UserError: If it does not say so.
    """
    facts = content["mixbench"]
    try:
        return _known(NetConfig, facts["config"]["net"]), _known(DataInfo, facts["info"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        what = f"{path.name} does not say what its network is: {reason}"
        raise UserError(what, str(path), "use another checkpoint") from error


def _known(cls: Any, content: Mapping[str, Any]) -> Any:
    """A dataclass of the fields that it has; a newer version may have written more."""
    hints = get_type_hints(cls)
    given = {name: value for name, value in content.items() if name in hints}
    check_fields(given, hints)
    return cls(**given)


def _safetensors() -> Any:
    try:
        import safetensors.torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "safetensors is not installed",
            WEIGHTS_KEY,
            "pip install safetensors, or use a .pth file",
        ) from error
    return safetensors.torch
