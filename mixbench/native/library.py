"""The library of the C code: compiled once by the compiler of this machine, and called on tensors.

Where there is no library, and on devices, torch computes the same, so that no result depends on a
compiler.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.errors import NATIVE, switched_on

COMPILER = "cc"
LIMIT_S = 30  # of a compilation, which takes about one
_SOURCE = Path(__file__).with_name("augmix.c")
# Numbers must not depend on the compiler, which may neither fuse nor reorder operations.
_FLAGS = ("-std=c99", "-O3", "-ffp-contract=off", "-fno-trapping-math", "-fPIC", "-shared")
_FUSED, _X86_FUSED = ("-DFUSED",), ("-mavx2", "-mfma")  # that torch itself fuses by


def serves(x: Tensor) -> bool:
    """Whether the C code is there for a tensor.

    Args:
        x: Any tensor.

    Returns:
        False if it does not lie on the CPU or has no memory of its own, as where a graph is traced,
        or if there is no library.
    """
    plain = type(x) is Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling()
    return plain and not missing_reason()


def missing_reason() -> str:
    """Why there is no library of the C code.

    Returns:
        The reason; empty if there is one, which is then built and loaded.

    Raises:
        UserError: If ``MIXBENCH_NATIVE`` is neither on nor off.
    """
    if not switched_on(NATIVE):
        return f"{NATIVE}={os.environ[NATIVE]} is set"
    library = _library()
    return library if isinstance(library, str) else ""


def call(name: str, *arguments: Tensor | int) -> bool:
    """Call a function of the C code, which :func:`serves` has said to be there.

    Args:
        name: The function.
        arguments: Tensors on the CPU, contiguous and of the types that it expects, and sizes.

    Returns:
        False if it has refused them, and written nothing.
    """
    library = _library()
    assert not isinstance(library, str), library
    given = (
        ctypes.c_void_p(part.data_ptr()) if isinstance(part, Tensor) else ctypes.c_int64(part)
        for part in arguments
    )
    return library[name](*given) == 0


@cache
def _library() -> ctypes.CDLL | str:
    """The library, built if the user's cache lacks it; or why there is none."""
    fused = _fuses()
    if fused is None:
        return "torch rounds here in a way that the C code does not repeat"
    flags = [*_FLAGS, *(_FUSED if fused else ())]
    if fused and platform.machine().lower() in ("x86_64", "amd64"):
        flags += _X86_FUSED
    try:
        kind = "\0".join((sys.platform, platform.machine(), *flags)).encode()
        digest = hashlib.sha256(kind + _SOURCE.read_bytes()).hexdigest()
        path = cache_folder() / f"augmix-{digest[:16]}.so"
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # not there, or not whole
            _build(flags, path)
        return ctypes.CDLL(str(path))
    except subprocess.TimeoutExpired:
        return f"{COMPILER} did not end within {LIMIT_S} s"
    except (OSError, RuntimeError) as error:
        return " ".join(str(error).split())


def cache_folder() -> Path:
    """The folder of mixbench among the user's caches.

    Returns:
        The folder, which may not exist.

    Raises:
        RuntimeError: If the user has no home.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME") or ".")
    return (given if given.is_absolute() else Path.home() / ".cache") / "mixbench"


def _build(flags: list[str], path: Path) -> None:
    """Compile the source; processes that do it at the same time each put the same in its place."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise RuntimeError(f"there is no C compiler {COMPILER} on the PATH")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        command = [compiler, *flags, "-o", str(built), str(_SOURCE), "-lm"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S
        )
        if done.returncode:
            lines = done.stderr.decode(errors="replace").splitlines()
            told = [line for line in lines if "error" in line] or [f"exit code {done.returncode}"]
            raise RuntimeError(f"{compiler} failed: {told[0]}")
        built.replace(path)


def _fuses() -> bool | None:
    """Whether torch rounds once where it multiplies and adds; None if now so and now otherwise.

    It depends on the instructions that torch finds on this CPU, and changes values in the last bit.
    """
    generator = torch.Generator().manual_seed(0)
    # 999, so that the last ones do not fill a register, which torch may compute otherwise.
    shares = torch.rand(5, 999, generator=generator, dtype=torch.float32)
    start, one, other = 255 * shares[:3]
    image, grid = start[:35].view(5, 7), 2.2 * shares[3:].T - 1.1  # beyond the border, too
    given = image[None, None], grid[None, None]
    sampled = F.grid_sample(*given, padding_mode="border", align_corners=False).flatten()
    added = torch.addcmul(start, one, other)
    for fused in (True, False):
        same = torch.equal(added, _multiply_add(start, one, other, fused))
        if same and torch.equal(sampled, _sampled(image, grid, fused)):
            return fused
    return None


def _multiply_add(start: Tensor, one: Tensor, other: Tensor, fused: bool) -> Tensor:
    """``start + one * other`` in float32, rounded once or twice."""
    if fused:
        return (start.double() + one.double() * other.double()).float()
    return start + one * other


def _sampled(image: Tensor, grid: Tensor, fused: bool) -> Tensor:
    """What ``grid_sample`` makes of an image (H, W) at places (N, 2), as the C code computes it."""
    half = image.new_tensor(image.shape[::-1]) / 2
    least, most = 0 * half, 2 * half - 1
    found = _multiply_add(least - 0.5, grid + 1, half, fused).clamp(least, most)
    corner = found.floor()
    (w, n), (e, s) = (found - corner).T, (1 - (found - corner)).T
    left, top = corner.long().T
    right, down = torch.minimum(corner + 1, most).long().T
    total = image[top, left] * (e * s)
    for near, share in (((top, right), w * s), ((down, left), e * n), ((down, right), w * n)):
        total = _multiply_add(total, image[near], share, fused)
    return total
