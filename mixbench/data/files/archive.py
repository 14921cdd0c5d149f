"""Files of a data set, read where they lie: in a folder, a zip or a tar archive.

Nothing is unpacked onto the disk, so that no archive can write anywhere. One that tries to is
refused all the same, as is one that would unpack to an absurd size.
"""

import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from mixbench.data.files.arrays import MAX_RATIO, UnreadableArraysError, check_size
from mixbench.data.files.tree import files_below, is_hidden
from mixbench.errors import UserError
from mixbench.files import open_regular, read_bytes

_FREE_BYTES = MAX_RATIO << 16  # unpacked, for which no ratio is asked
# What damaged archives lead their readers to.
_FAULTS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error)
_FAULTS += (OSError, EOFError, RuntimeError, ValueError, IndexError)


class DamagedFileError(UserError):
    """One file of a data set is missing or damaged."""


class Files(ABC):
    """Named files below a root.

    Args:
        root: Folder or archive.

    Attributes:
        hidden: Number of files that are left out, as they are not meant for people.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.hidden = root, 0

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Sorted names of all files, relative to the root and with ``/``."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Content of a file.

        Args:
            name: Its name.

        Returns:
            All of it.

        Raises:
            UserError: If there is no such file, or it lies outside the root.
        """

    def image(self, name: str) -> bytes:
        """Content of an image, without which the others can still be used.

        Args:
            name: Its name.

        Returns:
            All of it.

        Raises:
            OSError: If it is missing or damaged.
            UserError: If it lies outside the root.
        """
        try:
            return self.read(name)
        except DamagedFileError as error:
            raise OSError(error.what) from error

    def text(self, name: str) -> list[str]:
        """Lines of a text file without those that are blank."""
        try:
            lines = self.read(name).decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(
                "the file is not text in UTF-8", f"{self.root}, {name}", "get the original again"
            ) from error
        return [line.strip() for line in lines if line.strip()]

    def prefix(self, marker: str) -> str | None:
        """The folder, with its final ``/``, in which a file lies; the outermost one.

        Args:
            marker: Name of a file that the data set always has, below that folder.

        Returns:
            Prefix of all names of the data set, empty at the root; None without such a file.
        """
        ends = [
            name.removesuffix(marker)
            for name in self.names
            if name == marker or name.endswith(f"/{marker}")
        ]
        return min(ends, key=lambda name: (name.count("/"), name), default=None)

    def _kept(self, names: Iterable[str]) -> list[str]:
        """Sorted, without those that are hidden, which are counted."""
        found = list(names)
        kept = sorted(name for name in found if not is_hidden(name))
        self.hidden = len(found) - len(kept)
        return kept

    def _missing(self, name: str, why: object = "") -> "DamagedFileError":
        what = f"{name} cannot be read: {why}" if why else f"{name} is missing"
        return DamagedFileError(what, str(self.root), "the copy is incomplete")


class FolderFiles(Files):
    """A folder. Its own sub-folders may be links; a file may not lead out of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._names = self._kept(files_below(root)[0])

    @property
    def names(self) -> list[str]:
        """Of all files at any depth."""
        return self._names

    def read(self, name: str) -> bytes:
        """From the disk."""
        _check_name(name, self.root)
        path = self.root / name
        if path.is_symlink() and not path.resolve().is_relative_to(self.root.resolve()):
            raise UserError(f"{name} is a link that leads out of the folder", str(self.root))
        try:
            return read_bytes(path, None)
        except FileNotFoundError as error:
            raise self._missing(name) from error
        except OSError as error:
            raise self._missing(name, error) from error


class ZipFiles(Files):
    """A zip archive; every process reads it through a handle of its own."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._handles: dict[int, zipfile.ZipFile] = {}
        members = self._handle().infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _hostile(root, f"{member.filename} is a link or a device")
            _check_name(member.filename, root)
        unpacked = sum(member.file_size for member in members)
        _check_size(root, unpacked, root.stat().st_size)
        self._names = self._kept(member.filename for member in members if not member.is_dir())

    @property
    def names(self) -> list[str]:
        """Of all members that are files."""
        return self._names

    def read(self, name: str) -> bytes:
        """Of one member, its checksum compared."""
        try:
            return self._handle().read(name)
        except KeyError:
            raise self._missing(name) from None
        except _FAULTS as error:
            raise self._missing(name, error) from error

    def _handle(self) -> zipfile.ZipFile:
        pid = os.getpid()  # forked workers would move each other's place in one open file
        if pid not in self._handles:
            try:
                open_regular(self.root).close()  # to open a pipe would wait for ever
                self._handles[pid] = zipfile.ZipFile(self.root)
            except _FAULTS as error:
                raise _unreadable(self.root, error) from error
        return self._handles[pid]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": {}}


class TarFiles(Files):
    """A tar archive.

    A compressed one is unpacked into memory in one pass, as it can only be read from its start;
    of one that is not compressed the places of the files are kept.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._content: dict[str, bytes | tuple[int, int]] = {}
        try:
            with open_regular(root) as raw:
                packed = raw.read(262)[257:] != b"ustar"
            if packed:
                with tarfile.open(root, "r|*") as archive:
                    self._take(archive, packed)
            else:
                with tarfile.open(root, "r:") as archive:
                    self._take(archive, packed)
        except UserError:
            raise
        except _FAULTS as error:
            raise _unreadable(root, error) from error
        self._names = self._kept(self._content)

    def _take(self, archive: tarfile.TarFile, packed: bool) -> None:
        unpacked, size = 0, self.root.stat().st_size
        for member in archive:
            _check_name(member.name, self.root)
            if member.isdir():
                continue
            if not member.isreg():
                raise _hostile(self.root, f"{member.name} is a link or a device")
            unpacked += member.size
            _check_size(self.root, unpacked, size)  # before it is read
            if packed:
                file: IO[bytes] | None = archive.extractfile(member)
                assert file is not None
                self._content[_plain(member.name)] = file.read()
            else:
                self._content[_plain(member.name)] = member.offset_data, member.size

    @property
    def names(self) -> list[str]:
        """Of all members that are files."""
        return self._names

    def read(self, name: str) -> bytes:
        """Of one member."""
        found = self._content.get(name)
        if found is None:
            raise self._missing(name)
        if isinstance(found, bytes):
            return found
        with self.root.open("rb") as file:
            file.seek(found[0])
            return file.read(found[1])


def open_files(path: Path) -> Files:
    """The files of a folder or archive, by its kind.

    Args:
        path: Folder, ``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.xz`` or ``.tar.bz2``.

    Returns:
        Its files.

    Raises:
        UserError: If it is neither, cannot be read, or is not safe.
    """
    if path.is_dir():
        return FolderFiles(path)
    return ZipFiles(path) if path.suffix.lower() == ".zip" else TarFiles(path)


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _check_name(name: str, root: Path) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or name[1:2] == ":":
        raise _hostile(root, f"{name!r} leads out of it")


def _check_size(root: Path, unpacked: int, packed: int) -> None:
    try:
        check_size(unpacked, packed, 0, free_of_ratio=_FREE_BYTES)
    except UnreadableArraysError as error:
        raise _hostile(root, str(error)) from error


def _hostile(root: Path, what: str) -> UserError:
    return UserError(
        f"the archive is not safe to unpack: {what}", str(root), "get the original again"
    )


def _unreadable(root: Path, error: Exception) -> UserError:
    return UserError(
        f"the archive cannot be read: {error}", str(root), "remove it; it is fetched again"
    )
