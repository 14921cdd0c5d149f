"""Downloads that are whole and of the right content, or not there."""

import hashlib
import logging
import shutil
import socket
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from mixbench.data.files.location import file_lock

log = logging.getLogger("mixbench")

ATTEMPTS = 4
TIMEOUT = 20.0  # seconds without an answer
CHUNK_BYTES = 1 << 20
RESUME_HINT = "the command can be given again and goes on with what has arrived"


class DownloadError(OSError):
    """A file could not be had; the message says why in one line."""


def download(url: str, target: Path, md5: str | None) -> None:
    """Fetch a file, going on with what an earlier attempt has left in ``<target>.part``.

    Args:
        url: Address.
        target: The file, which is there only when it is complete and its checksum right.
        md5: Expected checksum as 32 hexadecimal digits; None where the source gives none.

    Raises:
        DownloadError: If it cannot be had in a bounded number of attempts, or is another file.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(target):
            if target.exists():  # by the process that went first
                return
            _fetch_patiently(url, part)
            found = md5_of(part)
            if md5 is not None and found != md5:
                part.unlink()
                raise DownloadError(f"{url} has the MD5 {found} in place of {md5}; it was removed")
            part.replace(target)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(f"{target.parent} cannot be written: {error.strerror}") from error


def md5_of(path: Path) -> str:
    """MD5 of a file as hexadecimal digits; it tells files apart and protects from nothing."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch_patiently(url: str, part: Path) -> None:
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(2.0 ** (attempt - 1))
        try:
            _fetch(url, part)
            return
        except urllib.error.HTTPError as error:
            reason, again = f"{error.code} {error.reason}", error.code >= 500
        except urllib.error.URLError as error:
            # A name that cannot be resolved means no network: asking again would only wait.
            reason, again = str(error.reason), not isinstance(error.reason, socket.gaierror)
        except (TimeoutError, ConnectionError, HTTPException) as error:
            reason, again = str(error) or type(error).__name__, True
        if not again:
            break
    have = part.stat().st_size if part.exists() else 0
    kept = f"; {have} bytes are kept in {part.name}, {RESUME_HINT}" if have else ""
    raise DownloadError(f"{url}: {reason}{kept}")


def _fetch(url: str, part: Path) -> None:
    """One attempt; the file grows from its end where the server can do that."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond what is there: the checksum will judge it
            return
        raise
    with answer:
        goes_on = answer.status == 206
        expected = answer.headers.get("Content-Length")
        left = None if expected is None else int(expected)
        if left is not None and left > shutil.disk_usage(part.parent).free:
            raise DownloadError(f"{url}: {left} bytes are more than the disk has left")
        log.info("%s %s", "going on with" if goes_on else "fetching", url)
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                left = None if left is None else left - len(chunk)
    if left:
        raise ConnectionError(f"the connection ended {left} bytes early")
