"""A W&B run that neither delays nor stops the training that it shows.

Local files are the truth and W&B is a view of them. Opening is bounded in time and falls back to
an offline run; everything after goes through a thread of its own; the first failure is one line in
the log and the end of the view.
"""

import hashlib
import logging
import netrc
import os
import queue
import re
import shlex
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from mixbench.config.schema import RunConfig
from mixbench.records.redaction import REDACTED, redact

log = logging.getLogger("mixbench")
T = TypeVar("T")
Mode = Literal["online", "offline", "disabled"]

# W&B's words; `dryrun` and `run` are old, and `shared` is online for a single writer.
MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
SERVER = "https://api.wandb.ai"
SERVICE = "WANDB_SERVICE"  # variable by which W&B finds its process
MODULES = ("wandb", "wandb.apis.public")  # the second is what W&B itself imports as a run starts
# Seconds. What is tried before W&B goes offline takes below 10 together.
ONLINE = 5.0  # for the start of an online run
END = 2.0  # for W&B's process to end, and for one to start that may not be needed
OFFLINE = 20.0  # for the start of that process, mostly below 1
UPLOAD = 20.0  # seconds that W&B itself gives the upload at the end
WAITING = 10_000  # calls that may wait for W&B
LONGEST = 128  # characters of an id or a name
LONGEST_TAG = 64


class View:
    """An open W&B run behind a thread, so that no call waits for W&B or raises.

    Args:
        run: What ``wandb.init`` returned.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self.url: str | None = run.url
        self.folder = Path(run.settings.sync_dir).absolute()
        self.stopped = False  # W&B failed; it is not called again
        self._closed = False
        self._lock = threading.Lock()
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="wandb-view", daemon=True)
        self._thread.start()

    @property
    def sync_command(self) -> str:
        """The command that uploads the run later."""
        return f"wandb sync {shlex.quote(str(self.folder))}"

    def send(self, call: Callable[[], object]) -> None:
        """Have the thread make a call; of several, the order is kept.

        Args:
            call: Uses W&B. When it raises, the view ends.
        """
        if threading.current_thread() is self._thread:
            call()
        elif not self.stopped:
            self._put(call)

    def close(self, timeout: float = 30.0) -> bool:
        """Finish the run. No part of W&B holds up the end of the process afterwards.

        Args:
            timeout: Seconds to wait for it; a W&B that hangs is then left behind, for which it
                takes two more.

        Returns:
            Whether W&B took in everything; it is uploaded only if it is online.
        """
        if self._closed:
            return not self.stopped
        self._closed = True
        self.send(self._finish)
        self._put(None)
        self._thread.join(END if self.stopped else timeout)
        if self._thread.is_alive():
            self._stop(f"no answer within {timeout:g} s")
        if self.stopped:
            _end_service()
        return not self.stopped

    def _finish(self) -> None:
        try:
            self.run.finish()
        except TimeoutError:  # said here, as a command must not be cut short
            self._stop(f"the upload took over {UPLOAD:g} s, the rest with: {self.sync_command}")

    def _put(self, call: Callable[[], object] | None) -> None:
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._stop(f"{WAITING:,} values are waiting for it")

    def _work(self) -> None:
        while (call := self._calls.get()) is not None and not self.stopped:
            try:
                call()
            except BaseException as error:  # W&B also calls sys.exit
                self._stop(_brief(error))

    def _stop(self, why: str) -> None:
        with self._lock:
            first, self.stopped = not self.stopped, True
        if first:
            log.warning("W&B view stopped: %s; the local results are complete", why)


def is_disabled(mode: str | None) -> bool:
    """Whether no view is wanted.

    Args:
        mode: As for :func:`open_view`.

    Returns:
        True if the mode, or WANDB_MODE in its place, says so.
    """
    return MODES.get(mode or os.environ.get("WANDB_MODE") or "") == "disabled"


def is_shown(config: RunConfig) -> bool:
    """Whether a run gets a view in W&B.

    Args:
        config: Reads ``logger`` and ``wandb.mode``.

    Returns:
        True unless another logger is asked for, or no view at all.
    """
    return config.logger == "wandb" and not is_disabled(config.wandb.mode)


def import_wandb() -> None:
    """Import W&B and what it needs to start a run.

    W&B defines classes that look for their source among all modules, so that the import takes half
    as long before torch and Lightning as after them. A failure is told by :func:`open_view`, which
    meets it again.
    """
    set_wandb_defaults()
    try:
        for name in MODULES:
            import_module(name)
    except Exception as error:
        log.debug("W&B cannot be imported: %s", error)


@contextmanager
def service_ahead(wanted: bool) -> Iterator[threading.Thread | None]:
    """Start W&B's process, which a view would wait for, beside what the block does.

    A block that fails leaves no process that was not there before. That the process does not start
    is told by :func:`open_view`, which tries again.

    Args:
        wanted: Whether there will be a view.

    Yields:
        The thread that starts it, if one does.
    """
    if not wanted or SERVICE in os.environ:
        yield None
        return
    import_wandb()  # not by the thread: two threads may import each other's half of a circle
    thread = threading.Thread(target=_set_up, name="wandb-service")
    thread.start()
    try:
        yield thread
    except BaseException:
        thread.join()
        _end_service()
        raise


def _set_up() -> None:
    """Start W&B's process, for at most as long as the end of this one may wait for it."""
    try:
        import wandb

        _within(END, wandb.setup)
    except (ImportError, RuntimeError) as error:
        log.debug("W&B's process: %s", error)


def open_view(
    folder: Path,
    *,
    run_id: str,
    name: str,
    project: str,
    mode: str | None,
    group: str | None = None,
    job_type: str | None = None,
    config: dict[str, Any] | None = None,
    tags: Iterable[str] = (),
    notes: str = "",
) -> View | None:
    """Start a W&B run in at most 10 s, offline if it cannot be online.

    Args:
        folder: Gets a folder ``wandb``.
        run_id: Wanted id; characters that W&B refuses are replaced.
        name: Shown name.
        project: W&B project.
        mode: ``online``, ``offline`` or ``disabled``; None reads WANDB_MODE, else is online with
            an API key and offline without.
        group: Name of what belongs together.
        job_type: Kind of run.
        config: Plain content, shown beside the run without its secrets.
        tags: Tags.
        notes: Notes.

    Returns:
        The view; None if it is disabled or, with a line in the log, W&B does not start at all.
    """
    word = mode or os.environ.get("WANDB_MODE") or ("online" if api_key() else "offline")
    if word not in MODES:
        log.warning("no W&B view: WANDB_MODE=%s is none of %s", word, ", ".join(MODES))
        return None
    if MODES[word] == "disabled":
        return None
    if (folder / "wandb").is_symlink():
        log.warning("no W&B view: %s is a link", folder / "wandb")
        return None
    set_wandb_defaults()
    wanted = {
        "dir": str(folder),
        "id": _safe_id(run_id),
        "name": _text(name)[:LONGEST],
        "group": _text(group)[:LONGEST] if group else None,
        "job_type": job_type,
        "project": re.sub(r"[/\\#?%:\s]+", "-", _text(project))[:LONGEST] or "mixbench",
        "config": redact(config or {}),
        "tags": _tags(tags),
        "notes": _text(notes) or None,
    }
    try:
        return _open(folder, MODES[word], wanted)
    except Exception as error:
        log.warning("no W&B view: %s", _brief(error))
        _end_service()
        return None


def set_wandb_defaults() -> None:
    """Set what W&B reads from the environment when it is imported, unless the user has set it."""
    os.environ.setdefault("WANDB_SILENT", "true")
    # Its error reports look the server up even offline and hold up the exit without a network.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def _open(folder: Path, mode: Mode, wanted: dict[str, Any]) -> View:
    why = ""
    if mode == "online" and not api_key():  # W&B would ask for it on a terminal
        why = "no API key (set WANDB_API_KEY, or run wandb login)"
    elif mode == "online":
        earlier = set((folder / "wandb").glob("run-*"))
        try:
            return View(_start("online", ONLINE, wanted))
        except Exception as error:
            why = _brief(error)
        _end_service()  # it holds on to the id
        for half in set((folder / "wandb").glob(f"run-*-{wanted['id']}")) - earlier:
            shutil.rmtree(half, ignore_errors=True)
    view = View(_start("offline", OFFLINE, wanted))
    if why:
        log.warning("W&B is offline: %s; upload later with: %s", why, view.sync_command)
    return view


def _start(mode: Mode, seconds: float, wanted: dict[str, Any]) -> Any:
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_git=True,
        save_code=False,
        init_timeout=seconds,
        finish_timeout=UPLOAD,
        finish_timeout_raises=True,
    )
    # `create_new`: an open run of the same process, such as a notebook's, is left alone.
    return _within(
        seconds + 1.0,
        lambda: wandb.init(mode=mode, reinit="create_new", settings=settings, **wanted),
    )


def api_key() -> str:
    """The API key that W&B would use.

    Returns:
        The key, or an empty text.
    """
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    path = os.path.expanduser(os.environ.get("NETRC") or "~/.netrc")
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or SERVER).netloc
    try:
        entry = netrc.netrc(path).hosts.get(server)
    except (OSError, ValueError, netrc.NetrcParseError):
        return ""
    return entry[2] or "" if entry else ""


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Result of a call that may hang; its thread is then left behind."""
    done: queue.SimpleQueue[tuple[T | None, str]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((call(), ""))
        except BaseException as error:  # W&B also calls sys.exit
            done.put((None, _brief(error)))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, failure = done.get(timeout=seconds)
    except queue.Empty:
        raise RuntimeError(f"no answer within {seconds:g} s") from None
    if failure:
        raise RuntimeError(failure)
    return result  # type: ignore[return-value]


def _end_service() -> None:
    """Detach W&B's process, for which W&B would wait when this one ends."""
    try:
        import wandb

        _within(END, wandb.teardown)
    except (ImportError, RuntimeError) as error:
        log.debug("W&B's process: %s", error)


def _brief(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    key = api_key()
    return (line.replace(key, REDACTED) if key else line)[:160].rstrip(".: ")


def _safe_id(text: str) -> str:
    """The text if W&B and file systems accept it, else a readable part of it and a hash."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)
    if clean == text and 0 < len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{clean[: LONGEST - 9]}-{digest}"


def _tags(tags: Iterable[str]) -> list[str] | None:
    cut = (_text(tag).strip()[:LONGEST_TAG].strip() for tag in tags)
    return list(dict.fromkeys(tag for tag in cut if tag)) or None


def _text(text: str) -> str:
    """Text that can be encoded; a byte of the command line that is no UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
