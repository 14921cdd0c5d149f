"""The state of a grid at work: live lines on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any

from mixbench.cli.console import print_result, shown
from mixbench.errors import counted, printable, time_text
from mixbench.launch.state import ActiveRun, GridState
from mixbench.leaderboard.columns import describe

PLAIN_S = 60.0  # seconds between lines where there is no terminal
NAMED = 4  # runs that such a line names
LEAST_ID = 16  # characters of an id, below which columns behind it fall away
GAP = "  "
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


class GridDisplay:
    """Shows a grid at work while it is entered; lines that are printed meanwhile stand above."""

    def __init__(self) -> None:
        self._live: Any = None
        self._told: set[str] = set()
        self._last = 0.0

    def __enter__(self) -> "GridDisplay":
        self._last = time.monotonic()
        if sys.stdout.isatty():
            self._live = _live()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def print_line(self, text: str) -> None:
        """Print a line above those that change.

        Args:
            text: The line.
        """
        if self._live is None:
            print_result(text)
        else:
            from rich.text import Text

            self._live.console.print(Text(shown(text)), soft_wrap=True)

    def show(self, state: GridState) -> None:
        """Show a state of the grid.

        Args:
            state: The state of now.
        """
        if self._live is None:
            self._show_plain(state)
            return
        from rich.text import Text

        size = self._live.console.size
        lines = state_lines(state, size.width, size.height)
        text = Text("\n".join(map(shown, lines)), no_wrap=True, overflow="ellipsis")
        self._live.update(text, refresh=True)

    def _show_plain(self, state: GridState) -> None:
        for run in state.active:
            if run.id not in self._told and not run.elsewhere and not state.stopping:
                self._told.add(run.id)
                print_result(f"[{run.number}/{state.total}] {run.id}: started")
        if time.monotonic() - self._last >= PLAIN_S and state.active:
            self._last = time.monotonic()
            places = [f"{run.id} {_place(run)}" for run in state.active[:NAMED]]
            places += [f"and {len(state.active) - NAMED} more"] * (len(state.active) > NAMED)
            print_result(f"{_head(state)}: {', '.join(places)}")


def _live() -> Any:
    """Live lines, or None on a terminal that cannot move its cursor."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    live = Live(console=console, auto_refresh=False, transient=True)
    live.start()
    return live


def state_lines(state: GridState, width: int, height: int) -> list[str]:
    """Lines of a state: the whole grid, then each run at work.

    Args:
        state: The state.
        width: Columns of the terminal.
        height: Its lines.

    Returns:
        No more than ``height`` lines, none longer than ``width``.
    """
    room = max(1, height - 2)
    active = state.active if len(state.active) <= room else state.active[: max(0, room - 1)]
    cells = [_cells(run, state.total) for run in active]
    lines = [_head(state), *_aligned(cells, width)]
    if len(active) < len(state.active):
        lines.append(f"and {len(state.active) - len(active)} more")
    return [line[:width] for line in lines[:height]]


def _head(state: GridState) -> str:
    words = [f"{state.done} of {state.total} done"]
    words += [f"{state.failed} failed"] * (state.failed > 0)
    words.append(f"{len(state.active)} running")
    if state.stopping:
        return f"{counted(len(state.active), 'run')} to stop: each saves a checkpoint first"
    if state.left_s is not None:
        words.append(f"about {time_text(state.left_s)} left")
    return ", ".join(words)


def _cells(run: ActiveRun, total: int) -> list[str]:
    """Number, id, place, score and time of a run."""
    number = f"[{run.number}/{total}]"
    score = "by another process" if run.elsewhere and run.progress is None else _score(run)
    left = "" if run.left_s is None else f"{time_text(run.left_s)} left"
    return [number, run.id, _place(run), score, left]


def _place(run: ActiveRun) -> str:
    if run.progress is None:
        return "at work" if run.elsewhere else "starting"
    if run.progress.phase != "training":
        return run.progress.phase
    return f"epoch {run.progress.epoch}/{run.progress.epochs}"


def _score(run: ActiveRun) -> str:
    if run.progress is None or not run.progress.score:
        return ""
    column = describe(run.progress.score)
    return f"{column.name} {column.text(run.progress.value)}"


def _aligned(rows: list[list[str]], width: int) -> list[str]:
    """Rows of cells under each other; columns behind the id fall away where it has no room."""
    rows, widths = [list(map(printable, cells)) for cells in rows], [0, 0]
    while rows:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        room = width - sum(widths) + widths[1] - len(GAP) * (len(widths) - 1)
        if room >= min(widths[1], LEAST_ID) or len(widths) == 2:
            widths[1] = max(1, min(widths[1], room))
            break
        rows = [cells[:-1] for cells in rows]
    for cells in rows:
        cells[1] = shortened(cells[1], widths[1])
    return [GAP.join(map(str.ljust, cells, widths)).rstrip() for cells in rows]


def shortened(text: str, width: int) -> str:
    """A name with its middle left out where it is too long; runs often differ at their ends.

    Args:
        text: The name.
        width: Characters that it may have.

    Returns:
        The name in that many characters.
    """
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}{ELLIPSIS}{text[len(text) - end :]}"
