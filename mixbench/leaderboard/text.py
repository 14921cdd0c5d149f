"""Text of tables: escaped for a terminal, Markdown, LaTeX and CSV, and laid out."""

import math
import re
import unicodedata
from collections.abc import Collection

from mixbench.errors import printable
from mixbench.leaderboard.columns import NONE, describe

FORMATS = ("table", "markdown", "csv", "json", "latex")
WARNING = "\N{WARNING SIGN}"
FLOOR = "\N{DAGGER}"
ARROWS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}", "": ""}
TOO_FEW = "too few seeds"  # in place of an interval that is wider than its scale
SCALE = 100.0  # points between the lowest and the highest percentage
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", NONE: "--"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"\N{MIDDLE DOT}": r"\textperiodcentered{}"}
_LATEX |= {ARROWS["higher"]: r"$\uparrow$", ARROWS["lower"]: r"$\downarrow$"}
_LATEX |= {WARNING: "(!)", FLOOR: r"\dag{}"}
_LATEX |= {"\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$"}


_MINUS = re.compile(r"(?<![\w.)\]}-])-(?=\d)")  # of negative numbers
_NO_LABEL = re.compile("[^a-zA-Z0-9]+")
_MARKDOWN = str.maketrans({"<": "&lt;"} | {sign: f"\\{sign}" for sign in "\\`*|~$"})
# A link or picture, a bare address, and an underscore at the edge of a word.
_LINKS = re.compile(r"\](?=[(\[:])|:(?=//)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE)
_ROLE, _MATH = re.compile(r":\w+:(?=`)|`"), re.compile(r":math:`([^`]*)`")
# What formulas of docstrings use of LaTeX, as a terminal shows it, in this order.
_PLAIN = (
    (r"\\mathrm\{(\w+)\}", r"\1"),
    (r"\\sqrt\{([^}]*)\}", r"sqrt(\1)"),
    (r"\\bar (\w)", r"mean(\1)"),
    (r"\\odot|\\,", "*"),
    (r"\\sim", "~"),
    (r"\{(\w*)\}", r"\1"),
    (r"\{([^}]*)\}", r"(\1)"),
    (r"\\(?=[a-z])", ""),
)
# The begin of a heading, a list, a quotation or a rule.
_BLOCK = re.compile(r"^(\d{0,9})(?=[.)]\s|#{1,6}(?:\s|$)|[-+](?:\s|$)|>|[-=]+\s*$)")


def markdown_table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right.

    Args:
        header: Names of the columns.
        lines: Cells of each row.

    Returns:
        Text without a line break at its end.
    """
    align = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, align, *lines])


def plain_docstring(text: str) -> str:
    r"""A docstring without the marks of roles, names and formulas, for a terminal.

    Args:
        text: The docstring.

    Returns:
        The same words; formulas in signs of a keyboard.

    Example:
        >>> plain_docstring(r"``prob`` of :func:`cutmix`, :math:`(1 - \lambda) \odot x_{ij}`")
        'prob of cutmix, (1 - lambda) * x_ij'
    """

    def formula(match: re.Match[str]) -> str:
        found = match[1]
        for pattern, plain in _PLAIN:
            found = re.sub(pattern, plain, found)
        return found

    return _ROLE.sub("", _MATH.sub(formula, text))


def text_table(
    title: str,
    header: list[str],
    lines: list[list[str]],
    notes: list[str],
    style: str,
    label: str = "",
) -> str:
    """A table with its title above and its notes below.

    Args:
        title: One line.
        header: Names of the columns, as they are.
        lines: Cells, which are escaped and marked for the style already.
        notes: Sentences.
        style: ``table``, ``markdown`` or ``latex``.
        label: Name for references in LaTeX.

    Returns:
        Text that ends with a line break.
    """
    title, *header = (escaped(text, style) for text in (title, *header))
    notes = [escaped(note, style) for note in notes]
    if style == "latex":
        return _latex_table(title, header, lines, notes, label)
    if style == "markdown":
        table = markdown_table(header, lines) + "\n"
        return "\n".join([f"### {title}\n", table, *(f"{note}  " for note in notes), ""])
    return "\n".join([title, aligned(header, lines), *notes, ""])


def escaped(text: str, style: str) -> str:
    """Text without any sign that the format would interpret.

    Args:
        text: From a record.
        style: ``table``, ``markdown`` or ``latex``.

    Returns:
        One line.
    """
    if style == "latex":
        shown = "".join(_LATEX.get(sign, sign) for sign in one_line(text))
        shown = _MINUS.sub("$-$", shown)
        return f"{{}}{shown}" if shown[:1] in ("[", "*") else shown  # no argument of a line break
    return _escape(text) if style == "markdown" else one_line(text)


def interval(low: float | None, high: float | None, name: str, sign: bool = False) -> str:
    """An interval of a score or of a difference as a cell.

    Args:
        low: Its lower end.
        high: Its upper end.
        name: The score.
        sign: Whether it is one of a difference.

    Returns:
        Both ends, percentages within [0, 100] and their differences within [-100, 100];
        ``too few seeds`` where it is wider than that scale; a dash where there is none.
    """
    if low is None or high is None or not math.isfinite(low + high):
        return NONE
    column = describe(name)
    if column.percent:
        if high - low > SCALE:
            return TOO_FEW
        least = -SCALE if sign else 0.0
        low, high = (min(max(value, least), SCALE) for value in (low, high))
    return f"{column.text(low, sign)} to {column.text(high, sign)}"


def _latex_table(
    title: str, header: list[str], lines: list[list[str]], notes: list[str], label: str
) -> str:
    """A table of the package booktabs, of text that is escaped already."""
    name = f"\\label{{tab:{_NO_LABEL.sub('-', label)}}}\n" if label else ""
    head = " & ".join(header)
    body = "\n".join("  " + " & ".join(line) + r" \\" for line in lines)
    below = " ".join(notes)
    columns = "l" + "r" * (len(header) - 1)
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{title}}}\n{name}"
        f"\\begin{{tabular}}{{{columns}}}\n  \\toprule\n  {head} \\\\\n  \\midrule\n"
        f"{body}\n  \\bottomrule\n\\end{{tabular}}\n"
        + (f"\\par\\footnotesize {below}\n" if below else "")
        + "\\end{table}\n"
    )


def safe_cell(text: str) -> str:
    """Keep spreadsheets from running a cell as a formula.

    Args:
        text: Text of a cell.

    Returns:
        The same on one line, behind an apostrophe where it would be read as a formula.
    """
    text = one_line(text)  # a carriage return would end the row for some readers
    return f"'{text}" if unicodedata.normalize("NFKC", text[:1]) in tuple("=+-@") else text


def aligned(header: list[str], lines: list[list[str]], texts: Collection[int] = (0,)) -> str:
    """A table in columns of equal width.

    Args:
        header: Names of the columns.
        lines: Cells of each row.
        texts: Places of the columns that stand to the left, the others to the right.

    Returns:
        Text without a line break at its end.
    """
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index in texts else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def one_line(text: str) -> str:
    """Text on one line, without any sign that a terminal would obey."""
    return printable(" ".join(text.split()))


def _escape(text: str) -> str:
    """Text in which Markdown sees no link, picture, HTML, emphasis or begin of a block."""
    shown = _LINKS.sub(r"\\\g<0>", one_line(text).translate(_MARKDOWN))
    return _BLOCK.sub(r"\g<1>\\", shown)
