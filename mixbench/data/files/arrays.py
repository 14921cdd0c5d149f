"""NumPy arrays in files of any origin, read within stated limits.

A header can claim any size, and a packed file can unpack to any. Both are held against the file,
the limits and the memory before anything is allocated, and nothing is unpickled.
"""

import io
import lzma
import math
import os
import struct
import sys
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from mixbench.data.files.checksums import check_members
from mixbench.files import open_regular

MAX_RATIO = 200  # unpacked to packed size; lists of file names reach about 20
MAX_UNPACKED_BYTES = 32 << 30  # unpacked, of a whole archive
FREE_BYTES = 1 << 30  # unpacked, for which no ratio is asked: equal numbers pack a thousandfold
_XZ_MEMORY = 1 << 30  # xz -9 takes 65 MiB; a header can claim 4 GiB
_KEEP = "numpy.savez stores it without packing, if it is meant so"
_MAGIC, _SUFFIX = b"\x93NUMPY", ".npy"
_FAULTS = (OSError, EOFError, ValueError, TypeError, SyntaxError, OverflowError, RecursionError)
_FAULTS += (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError)
_FAULTS += (MemoryError, NotImplementedError, RuntimeError)


class UnreadableArraysError(ValueError):
    """A file does not hold arrays, or more than it may."""


class Arrays:
    """The arrays of an ``.npz`` file, or of one that xz packed again; each access unpacks anew.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is none.
        UnreadableArraysError: If it is no such file.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self._path, self._packed, self._unpacked = path, _size(path), 0
        try:
            content = io.BytesIO(self._without_xz(path)) if path.suffix == ".xz" else path
            self._archive = zipfile.ZipFile(content)
        except _FAULTS as error:
            single = "one array (.npy) where an .npz with several named ones is needed"
            raise _unreadable(single if is_single(path) else error) from error
        self._members = {
            member.filename.removesuffix(_SUFFIX): member
            for member in self._archive.infolist()
            if member.filename.endswith(_SUFFIX)
        }

    @property
    def names(self) -> list[str]:
        """Of all arrays, in the order of the file."""
        return list(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._archive.close()

    def check_whole(self) -> None:
        """Refuse a file that has lost an array, or holds anything else; not for one within xz.

        Raises:
            UnreadableArraysError: If its list of members is not that of a file of arrays.
        """
        try:
            check_members(self._path, self._archive)
            if len(self._members) < len(self._archive.infolist()):
                raise ValueError("it holds more than arrays")
        except _FAULTS as error:
            raise _unreadable(error) from error

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, from its header alone.

        Args:
            name: One of :attr:`names`.

        Returns:
            The shape.

        Raises:
            UnreadableArraysError: As for the array itself.
        """
        return self._read(name, header=True)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._read(name, header=False)

    def _read(self, name: str, *, header: bool) -> Any:
        if name not in self._members:
            raise UnreadableArraysError(f"no array {name!r}; found {_listed(self.names)}")
        member = self._members[name]
        if not header:
            self._unpacked += member.file_size
        check_size(max(self._unpacked, member.file_size), self._packed, member.file_size)
        try:
            with self._archive.open(member) as file:
                shape = _checked_header(file, member.file_size, name)
            if header:
                return shape
            with self._archive.open(member) as file:
                array = _checked_text(np.lib.format.read_array(file, allow_pickle=False))
                file.read(1)  # zipfile compares the checksum where it comes to the end
                return array
        except _FAULTS as error:
            raise _unreadable(error, f"{name}: ") from error

    def _without_xz(self, path: Path) -> bytes:
        unpack = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        content = unpack.decompress(path.read_bytes(), _limit(self._packed) + 1)
        check_size(len(content), self._packed, 0)
        if not unpack.eof:
            raise EOFError("it is cut off")
        return content


def is_single(path: Path | str) -> bool:
    """Tell whether a file holds one array, as ``.npy`` does.

    Args:
        path: The file.

    Returns:
        True if it begins as such a file does; False where it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read_array(path: Path | str) -> np.ndarray:
    """Read an ``.npy`` file.

    Args:
        path: The file.

    Returns:
        Its array.

    Raises:
        FileNotFoundError: If there is none.
        UnreadableArraysError: If it is no such file, or larger than the memory.
    """
    path = Path(path)
    size = _size(path)
    check_size(size, size)
    try:
        with path.open("rb") as file:
            _checked_header(file, size, path.name)
            file.seek(0)
            return _checked_text(np.lib.format.read_array(file, allow_pickle=False))
    except _FAULTS as error:
        raise _unreadable(error) from error


def map_array(path: Path | str) -> np.ndarray:
    """An ``.npy`` file as an array that stays on disk, of which only what is asked for is read.

    Args:
        path: The file.

    Returns:
        Its array, which cannot be written to.

    Raises:
        FileNotFoundError: If there is none.
        UnreadableArraysError: If it is no such file.
    """
    path = Path(path)
    size = _size(path)
    try:
        with path.open("rb") as file:
            _checked_header(file, size, path.name)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except _FAULTS as error:
        raise _unreadable(error) from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file that a run has stored, none of them lost or changed.

    Args:
        path: The file.

    Returns:
        Arrays by name.

    Raises:
        FileNotFoundError: If there is none.
        UnreadableArraysError: If it is no such file, or larger than it may be.
    """
    with Arrays(path) as stored:
        stored.check_whole()
        return {name: stored[name] for name in stored.names}


def check_size(
    unpacked: int, packed: int, wanted: int | None = None, *, free_of_ratio: int | None = None
) -> None:
    """Refuse to unpack more than a file of data may hold, or than the free memory.

    Args:
        unpacked: Bytes of all that is unpacked from the file.
        packed: Bytes of the file.
        wanted: Bytes that are not in memory yet; all of them if None.
        free_of_ratio: Unpacked bytes for which no ratio is asked; :data:`FREE_BYTES` if None.

    Raises:
        UnreadableArraysError: With both sizes.
    """
    if unpacked > MAX_UNPACKED_BYTES:
        raise UnreadableArraysError(
            f"it unpacks to {_shown(unpacked)}, above {_shown(MAX_UNPACKED_BYTES)}"
        )
    if unpacked > max(FREE_BYTES if free_of_ratio is None else free_of_ratio, MAX_RATIO * packed):
        what = f"it unpacks from {_shown(packed)} to {_shown(unpacked)}, "
        what += f"more than {MAX_RATIO} times its size"
        raise UnreadableArraysError(f"{what}; {_KEEP}" if free_of_ratio is None else what)
    free, wanted = free_memory(), unpacked if wanted is None else wanted
    if free is not None and wanted > free:
        raise UnreadableArraysError(
            f"it takes {_shown(wanted)} of memory, and {_shown(free)} are free"
        )


def free_memory(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that this process can still have.

    Args:
        group: Where the system tells of the container.

    Returns:
        Bytes; None where the system does not tell.
    """
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
        limit, used, facts = (
            (group / f"memory.{name}").read_text("ascii") for name in ("max", "current", "stat")
        )
        counts = dict(line.split() for line in facts.splitlines())
        # Files that are cached count as used, and are given up on demand.
        cached = sum(int(counts[f"{kind}_file"]) for kind in ("active", "inactive"))
        found.append(max(0, int(limit) - int(used) + cached))
    except (OSError, ValueError, KeyError):  # another system, or no limit
        pass
    return min(found, default=None)


def _limit(packed: int) -> int:
    limits = [MAX_UNPACKED_BYTES, max(FREE_BYTES, MAX_RATIO * packed), free_memory()]
    return min(limit for limit in limits if limit is not None)


def _size(path: Path) -> int:
    try:
        with open_regular(path) as file:
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableArraysError(error.strerror or error) from error


def _checked_header(file: IO[bytes], size: int, name: str) -> tuple[int, ...]:
    """Shape of an array, if its header says what the file can hold."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version} of the format is unknown")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError(
            "it holds Python objects, which are not unpickled; store numbers or text (dtype U)"
        )
    claimed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or claimed != held:
        raise ValueError(
            f"its header claims {dtype} {shape}, {_shown(claimed)}; {name} holds {_shown(held)}"
        )
    return shape


def _checked_text(array: np.ndarray) -> np.ndarray:
    """The array, if its text is text: Python cannot hold what lies beyond Unicode."""
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).view(np.uint8).view(array.dtype.byteorder + "u4")
        if codes.max() > sys.maxunicode:
            raise ValueError("it holds text that is no Unicode")
    return array


def _unreadable(error: object, before: str = "") -> UnreadableArraysError:
    text = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UnreadableArraysError(before + (text or type(error).__name__))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (" ..." if len(names) > 20 else "") or "none"


def _shown(count: int) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.1f} TiB"
