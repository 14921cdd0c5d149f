"""Rows of named values, for a notebook to show."""

from dataclasses import dataclass
from typing import Any

from mixbench.leaderboard.render import NONE, escaped, markdown_table


@dataclass
class Table:
    """Rows that have the same columns, or some of them; Jupyter shows them as a table."""

    rows: list[dict[str, Any]]

    @property
    def columns(self) -> list[str]:
        """Names in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, name: str) -> list[Any]:
        """Values of a column, None where a row has none."""
        return [row.get(name) for row in self.rows]

    def _repr_markdown_(self) -> str:
        lines = [[_text(row.get(name)) for name in self.columns] for row in self.rows]
        return markdown_table([escaped(name, "markdown") for name in self.columns], lines)


def _text(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 5e-5 or value == 0 else f"{value:.4f}"
    return escaped(str(value), "markdown")
