"""Data sets in their original distribution: found, fetched, or refused with what to put where."""

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mixbench.data.files.archive import Files, FolderFiles, open_files
from mixbench.data.files.download import DownloadError, download
from mixbench.data.files.hashes import NO_HASH, content_hashes
from mixbench.data.files.location import data_folder
from mixbench.data.files.tree import HIDDEN_FILE, MAX_IMAGE_BYTES
from mixbench.data.source import DataSource
from mixbench.errors import UserError
from mixbench.files import open_regular, read_bytes

log = logging.getLogger("mixbench")

# Many, so that their hashes are kept; the few other files are read each time.
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class OfficialFile:
    """One file of an official distribution.

    Attributes:
        file: Official name of the file.
        url: Where it comes from; None where it takes an account.
        md5: Its checksum, as its source or torchvision gives it.
    """

    file: str
    url: str | None = None
    md5: str | None = None


class OriginalSource(DataSource):
    """A data set that is read from the files of its authors.

    Looked for in ``data.root``, which is the archive, or a folder that holds the archive or its
    unpacked files; else in the folder of all data sets; else fetched into it.
    """

    official_files: tuple[OfficialFile, ...]  # the archive, or the archives that belong together
    top: str  # folder that they unpack to
    marker: str  # a file in it that no copy lacks
    layout: str  # what that looks like, for messages

    @cached_property
    def places(self) -> list[Path]:
        """The archives, or one folder.

        Raises:
            UserError: If they are nowhere and cannot be fetched.
        """
        if self.config.root is not None:
            return self._given(Path(self.config.root))
        folder = data_folder()
        found = self._within(folder)
        if found is not None:
            return found
        missing = [each for each in self.official_files if not (folder / each.file).exists()]
        for each in missing:
            if each.url is None:
                raise self._refusal(folder, "it cannot be fetched without an account")
            try:
                download(each.url, folder / each.file, each.md5)
            except DownloadError as error:
                raise self._refusal(folder, str(error)) from error
        return [folder / each.file for each in self.official_files]

    def fingerprint(self) -> str:
        """SHA-256 over the archives; of a folder over names, sizes and contents."""
        return self._hashes[0]

    @property
    def official(self) -> bool | None:
        """True if the archives are the authors' own; None where no checksum is known."""
        known = [each.md5 for each in self.official_files]
        if any(md5 is None for md5 in known):
            return None
        return known == self._hashes[1]

    @cached_property
    def files(self) -> list[Files]:
        """The files of each place."""
        return [open_files(place) for place in self.places]

    def locate(self, marker: str) -> tuple[Files, str]:
        """The place that holds a file, and the folder in it.

        Args:
            marker: End of the file's name.

        Returns:
            The place's files, and the prefix of their names.

        Raises:
            UserError: If no place holds it.
        """
        for files in self.files:
            base = files.prefix(marker)
            if base is not None:
                return files, base
        raise UserError(
            f"no {marker} for {self.config.kind}",
            ", ".join(map(str, self.places)),
            f"expected {self.layout}",
        )

    def _given(self, root: Path) -> list[Path]:
        if root.is_file():
            if len(self.official_files) > 1 and root.name in (
                each.file for each in self.official_files
            ):
                return [root.with_name(each.file) for each in self.official_files]
            return [root]
        if not root.exists():
            raise self._refusal(root, "no such file or folder")
        found = self._within(root)
        if found is None:
            raise self._refusal(root, "nothing of it is there")
        return found

    def _within(self, folder: Path) -> list[Path] | None:
        archives = [folder / each.file for each in self.official_files]
        if all(path.is_file() for path in archives):
            return archives
        places = (folder, folder / self.top)
        return next(([place] for place in places if (place / self.marker).is_file()), None)

    @cached_property
    def _hashes(self) -> tuple[str, list[str]]:
        digest, md5s = hashlib.sha256(), []
        for files in self.files:
            if isinstance(files, FolderFiles):
                _add_folder(digest, files)
                continue
            md5 = hashlib.md5(usedforsecurity=False)
            try:
                with open_regular(files.root) as file:
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
                        md5.update(chunk)
            except OSError as error:
                why = f"{files.root.name} cannot be read: {error.strerror}"
                raise self._refusal(files.root, why) from error
            md5s.append(md5.hexdigest())
        return digest.hexdigest(), md5s

    @property
    def unused(self) -> dict[str, int]:
        """Files of file managers and archivers; all others have names that are known."""
        hidden = sum(files.hidden for files in self.files)
        return {HIDDEN_FILE: hidden} if hidden else {}

    def _refusal(self, place: Path, why: str) -> UserError:
        names = " and ".join(each.file for each in self.official_files)
        fetch = "; ".join(
            f"curl -fL -C - -o {data_folder() / each.file} {each.url}"
            for each in self.official_files
            if each.url
        )
        return UserError(
            f"{self.config.kind} is not there: {why}",
            str(place),
            f"put {names} into {data_folder()}, or give data.root= as that file or as a folder "
            f"with {self.layout}" + (f"; to fetch it: {fetch}" if fetch else ""),
        )


def _add_folder(digest: Any, files: FolderFiles) -> None:
    """Take the names, sizes and contents of the files of a folder into a hash."""
    pictures = [name for name in files.names if os.path.splitext(name)[1].lower() in _PICTURES]
    hashes = dict(zip(pictures, content_hashes(files.root, pictures, MAX_IMAGE_BYTES), strict=True))
    for name in files.names:
        path = files.root / name
        try:
            size, content = path.stat().st_size, hashes.get(name)
            content = read_bytes(path, None) if content is None else content
        except OSError:
            size, content = -1, NO_HASH
        digest.update(os.fsencode(name) + f"\0{size}\n".encode() + content)
