"""Executes the notebooks; the copies with their outputs are written elsewhere."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mixbench.distributed.spawn import set_safe_path
from mixbench.errors import RunFailedError, UserError
from mixbench.records.record import runs_folder

CELL_S = 600  # seconds that one cell may take


def execute(
    notebooks: Sequence[Path], say: Callable[[str], None], out: Path | None = None
) -> list[Path]:
    """Execute notebooks one after the other, from the present working directory.

    Their runs are kept beside the executed copies, so that a second execution finds them done.

    Args:
        notebooks: Files to execute; they are not changed.
        say: Called with one line per notebook.
        out: Folder of the copies and of the runs; ``<runs folder>/notebooks`` if None.

    Returns:
        The executed copies.

    Raises:
        UserError: If there is no notebook, one cannot be read, or what executes them is not
            installed.
        RunFailedError: If a cell fails; the copy shows how far it came.
    """
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError
        from traitlets.config import Config
    except ImportError as error:
        todo = "pip install 'mixbench[notebooks]'"
        raise UserError(f"{error.name} is not installed", "notebooks", todo) from error

    if not notebooks:
        raise UserError("no notebook to execute", "notebooks", "start it in the checkout")
    out = (out or runs_folder() / "notebooks").resolve()
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for path in notebooks:
        started = time.monotonic()
        try:
            content = nbformat.read(path, as_version=4)
        except (OSError, ValueError) as error:
            what = f"no readable notebook: {str(error).splitlines()[0]}"
            raise UserError(what, str(path), "name a file .ipynb") from error
        private = Config({"ConnectionFileMixin": {"transport": "ipc"}})  # others can read TCP
        set_safe_path()
        client = NotebookClient(content, timeout=CELL_S, config=private)
        client.extra_arguments = ["--InteractiveShellApp.ignore_cwd=True"]
        try:
            client.execute(env={**os.environ, "MIXBENCH_RUNS": str(out)})
        except (CellExecutionError, CellTimeoutError) as error:
            text = getattr(error, "evalue", "") or str(error)
            name = getattr(error, "ename", type(error).__name__)
            number, first = _failing_cell(content)
            raise RunFailedError(
                f"{path}, cell {number} failed: {name}: {text.strip().partition(chr(10))[0]}",
                f"the cell begins with: {first}",
                f"the copy {out / path.name} shows how far it came",
            ) from error
        finally:
            nbformat.write(content, out / path.name)
        say(f"{path}: done in {time.monotonic() - started:.0f} s, see {out / path.name}")
        written.append(out / path.name)
    return written


def _failing_cell(content: dict) -> tuple[int, str]:
    """Number from 1 and first line of the last cell of code that was started."""
    cells = content["cells"]
    started = [n for n, cell in enumerate(cells) if cell.get("execution_count") is not None]
    failed = [
        n
        for n, cell in enumerate(cells)
        if any(output["output_type"] == "error" for output in cell.get("outputs", []))
    ]
    number = (failed or started or [0])[-1]
    return number + 1, cells[number]["source"].partition("\n")[0]
