"""The table of a group of runs: its columns, its cells, and the notes below it."""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mixbench.errors import UserError, counted, near_match
from mixbench.leaderboard.columns import COLUMNS, NONE, column_names, describe, sampled
from mixbench.leaderboard.evidence import BASELINE, sentences
from mixbench.leaderboard.pivot import configured, natural_order
from mixbench.leaderboard.rows import Group, Leaderboard, Row, gaps, shown_value
from mixbench.leaderboard.text import (
    ARROWS,
    FLOOR,
    WARNING,
    aligned,
    escaped,
    interval,
    text_table,
)
from mixbench.leaderboard.verdict import p_text
from mixbench.records.marks import mark_notes, marks_text
from mixbench.stats.dunnett import Contrast

VERIFIED = {"yes": 0.0, "partly": 1.0, "no": 2.0}  # from the best to the worst
RECONSTRUCTION = "reconstruction"  # fidelity of a method of which no code was published
SETTING = "method."  # begins the name of a column of a setting
_CHOICE = {"last": "the last epoch", "val": "the best epoch of a hold-out"}
MOST_SETTINGS = 2  # that get columns; where more vary, labels tell them
# The one score of robustness of the default table: the first of these that the rows have.
ROBUSTNESS = (
    *("autoattack_8", "autoattack_4", "autoattack_2", "autoattack_1", "apgd_ce_8", "apgd_ce_4"),
    *("pgd20_2", "pgd20_1", "pgd10_8", "pgd10_4", "fgsm_8", "fgsm_4", "occ_auc"),
)

CORRUPTED = ("mce", "mean_ce", "mean_ce_c_gen")  # as above, of corruptions


class OwnColumn(NamedTuple):
    """A column of tables that is no score: its cell, and a key that sorts the best to the front."""

    cell: Callable[[Group, Row], str]
    key: Callable[[Group, Row], float | str]
    title: str


def default_columns(group: Group) -> list[str]:
    """Names of the columns of a table that nobody has chosen.

    Args:
        group: The table.

    Returns:
        The method, settings in which rows of a method differ, seeds, the score, the difference
        from the reference with p where that was tested, likelihood, calibration, one score of
        robustness, one of corruptions and the relative cost, each where some row has it.
    """
    tested = ["difference", "p"] if _tested(group) else []
    scores = [name for name in ("nll", "ece_cf") if _any(group, name)]
    robust = [name for name in ROBUSTNESS if _any(group, name)]
    whole = [n for n in robust if all(_mean(row, n) is not None for row in group.rows)]
    corrupted = [name for name in CORRUPTED if _any(group, name)]
    robustness = [*(whole or robust)[:1], *corrupted[:1]]
    mixed = [name for name in ("two_class_hit",) if _any(group, name)]
    return [*_first(group), *tested, *scores, *robustness, *mixed, *_costed(group)]


def all_columns(group: Group) -> list[str]:
    """Names of all columns of which some row has a value.

    Args:
        group: The table.

    Returns:
        Those of :func:`default_columns`, every score and cost, and what is known of the runs.
    """
    tested = ["difference", "p"] if _tested(group) else []
    listed = [n for n in column_names() if n != group.score and _any(group, n)]
    told = [*_costed(group), "fidelity", "verified", "seeds"]
    if any(row.marks for row in group.rows):
        told.append("marks")
    return [*_first(group), "interval", *tested, *listed, *told]


def check_columns(board: Leaderboard, names: Sequence[str], option: str) -> None:
    """Refuse columns that no table has.

    Args:
        board: The tables.
        names: What a user asks for.
        option: The option, for the message.

    Raises:
        UserError: With the nearest name, or if one is named twice.
    """
    known = {*OWN, *COLUMNS}
    for group in board.groups:
        known |= {f"{SETTING}{key}" for row in group.rows for key in row.settings}
        known |= {name for row in group.rows for record in row.records for name in record.metrics}
    for name in names:
        if name not in known:
            hint = near_match(name, sorted(known)) or f"columns are {', '.join(sorted(known))}"
            raise UserError(f"there is no column {name!r}", option, hint)
    if len(set(names)) < len(names):
        raise UserError(f"a column is named twice: {', '.join(names)}", option, "name each once")


def sort_rows(board: Leaderboard, key: str) -> Leaderboard:
    """Tables with their rows in another order, the best value of a column first.

    Args:
        board: The tables.
        key: Name of the column.

    Returns:
        The tables; rows without a value stand last.

    Raises:
        UserError: If there is no such column.
    """
    check_columns(board, [key], "--sort")
    rows = [(group, row) for group in board.groups for row in group.rows]
    if rows and all(_sort_key(group, row, key) == math.inf for group, row in rows):
        raise UserError(
            f"no row has a value of {key}",
            "--sort",
            "sort by another column; --columns all shows those that have values",
        )

    def sorted_group(group: Group) -> Group:
        def place(row: Row) -> tuple[bool, Any, str]:
            value = _sort_key(group, row, key)
            missing = value == math.inf
            return missing, None if missing else value, row.label

        return replace(group, rows=sorted(group.rows, key=place), order=key)

    return replace(board, groups=[sorted_group(group) for group in board.groups])


def group_text(
    group: Group, style: str, columns: Sequence[str] | None = None, width: int | None = None
) -> str:
    """A table with the verdict and notes below it.

    Args:
        group: The table.
        style: ``table``, ``markdown`` or ``latex``.
        columns: Names of columns; those of :func:`default_columns` if None.
        width: Signs of a line of the terminal, beyond which columns are left out from the right;
            None where nothing limits it.

    Returns:
        Text that ends with a line break.
    """
    names = default_columns(group) if columns is None else list(columns)
    names = names if "method" in names else ["method", *names]  # nobody reads rows without names
    names, lost = _fitting(group, names, width) if style == "table" else (names, [])
    lines = [_line(group, row, names, style) for row in group.rows]
    header = [_header(group, name, style) for name in names]
    notes = _notes(group, names, style)
    if lost:
        few = "1 column does" if len(lost) == 1 else f"{len(lost)} columns do"
        notes.append(
            f"{few} not fit into {width} signs: {', '.join(lost)}. Use a wider terminal, or name "
            "the columns that you need with --columns."
        )
    if style == "latex":
        told = [group.title, group.verdict.text, *notes]
        below = "".join(f"% {escaped(note, style)}\n" for note in told)
        label = f"mixbench-{group.data}-{group.net}-{group.recipe_hash[:8]}-{group.select}"
        label += f"-{group.tested}" * bool(group.tested)
        return text_table(_caption(group, names), header, lines, [], style, label) + below
    told = [group.verdict.text, *notes]
    if width is not None and style == "table":
        told = [line for note in told for line in _broken(note, width)]
    return text_table(group.title, header, lines, told, style)


class PlainTable(NamedTuple):
    """A table as plain text, which is not escaped or marked yet."""

    header: list[str]
    lines: list[list[str]]
    notes: list[str]


def plain_table(group: Group, names: Sequence[str]) -> PlainTable:
    """A table for a page that escapes its text and sets what is marked in bold.

    Args:
        group: The table.
        names: Names of its columns.

    Returns:
        Header, lines and notes.
    """
    return PlainTable(
        [_header(group, name, "table") for name in names],
        [
            [
                _row_name(group, row, names)
                if name == "method"
                else _cell(group, row, name, "table")
                for name in names
            ]
            for row in group.rows
        ],
        _notes(group, names, "markdown"),
    )


def setting_text(row: Row, name: str) -> str:
    """The value of a setting of a row's method.

    Args:
        row: The row.
        name: The key, with ``method.`` in front.

    Returns:
        The value, which the configuration of the first run gives where it is the default.
    """
    key = name.removeprefix(SETTING)
    if key in row.settings:
        return shown_value(row.settings[key])
    value = configured(row, name)
    return NONE if value is None else shown_value(value)


def _first(group: Group) -> list[str]:
    """The columns that no table lacks."""
    settings = group.varied if len(group.varied) <= MOST_SETTINGS else ()
    return ["method", *(f"{SETTING}{key}" for key in settings), "n", group.score]


def _broken(note: str, width: int) -> list[str]:
    """A sentence in lines that a terminal need not break within words."""
    found = textwrap.wrap(note, width, break_long_words=False, break_on_hyphens=False)
    return found or [note]


def _costed(group: Group) -> list[str]:
    return ["cost"] * any(row.cost is not None for row in group.rows)


def _fitting(group: Group, names: list[str], width: int | None) -> tuple[list[str], list[str]]:
    """As many columns from the left as fit into a width, and the others."""
    if width is None:
        return names, []
    lines = [_line(group, row, names, "table") for row in group.rows]
    header = [escaped(_header(group, name, "table"), "table") for name in names]
    table = aligned(header, lines).splitlines()[1]  # the line of dashes is as long as any
    ends = [place + len(dashes) for place, dashes in _words(table)]
    fit = max(1, sum(end <= width for end in ends))
    return names[:fit], names[fit:]


def _words(line: str) -> list[tuple[int, str]]:
    found, place = [], 0
    for word in line.split("  "):
        found.append((place, word))
        place += len(word) + 2
    return found


def _header(group: Group, name: str, style: str) -> str:
    """The name of a column with an arrow that points to better values."""
    if name.startswith(SETTING):
        return name.removeprefix(SETTING)
    column = describe(name)
    if name in OWN:
        if name == "difference":
            return f"vs {group.evidence.reference or NONE}"
        return f"{OWN[name].title}{' ' + ARROWS['lower'] if name == 'cost' else ''}"
    text = name
    if style == "latex":
        text = (column.label or name) + (" (%)" if column.percent else "")
    if name == group.score and any(row.summaries[name].sd is not None for row in group.rows):
        text += " \N{PLUS-MINUS SIGN} sd"
    if column.kind == "peek":
        return f"{text} {WARNING}"
    return f"{text} {ARROWS[column.better]}".rstrip()


def _line(group: Group, row: Row, names: Sequence[str], style: str) -> list[str]:
    """The cells of a row, escaped and marked for the style."""
    return [
        marked_label(_row_name(group, row, names), row.marked, style)
        if name == "method"
        else _cell(group, row, name, style)
        for name in names
    ]


def _cell(group: Group, row: Row, name: str, style: str) -> str:
    """A cell, escaped for the style."""
    if name.startswith(SETTING):
        return escaped(setting_text(row, name), style)
    if name in OWN:
        return escaped(OWN[name].cell(group, row), style)
    found = row.summary(name)
    shown = describe(name).text(found.mean if found else None)
    if name == group.score and found and found.sd is not None:
        shown += f" \N{PLUS-MINUS SIGN} {describe(name).text(found.sd)}"
    if name == "ece" and row.calibrated:
        shown += FLOOR
    return escaped(shown, style)


def marked_label(label: str, marked: bool, style: str) -> str:
    """A label, in bold or with an asterisk where it is marked.

    Args:
        label: Text.
        marked: Whether it stands out.
        style: ``table``, ``markdown`` or ``latex``.

    Returns:
        Text for the style.
    """
    text = escaped(label, style)
    if not marked:
        return text
    return {"markdown": f"**{text}**", "latex": rf"\textbf{{{text}}}"}.get(style, f"{text} *")


def _row_name(group: Group, row: Row, names: Sequence[str]) -> str:
    """The label, without the settings if all of them have columns."""
    if group.varied and {f"{SETTING}{key}" for key in group.varied} <= set(names):
        return f"{row.method} {row.origin}".strip().replace(" '", "'")
    return row.label


def _notes(group: Group, names: Sequence[str], style: str) -> list[str]:
    notes = []
    shown = [name for name in names if name not in OWN and not name.startswith(SETTING)]
    if group.order:
        ranked = not group.order.startswith(SETTING) and group.order not in ("method", "fidelity")
        notes.append(f"The rows are sorted by {group.order}{', the best value first' * ranked}.")
    elif group.smoke_test:
        notes.append("The rows are in alphabetical order, not ranked.")
    if any(row.marked for row in group.rows):
        mark = "with *" if style == "table" else "in bold"
        notes.append(
            f"The rows {mark} are the one with the best mean and those that the test over seeds "
            "does not separate from it."
        )
    notes += sentences(group.evidence, group.score)
    if group.folds is not None:
        notes.append(
            f"Each value is a cross-validation: the mean over all images, each tested in one of "
            f"{group.folds} folds. n and all intervals count seeds; folds share training images "
            "and are not independent values."
        )
    if any(len(row.seeds) == 1 for row in group.rows):
        notes.append("Where n is 1, there is one seed, which supports no interval and no claim.")
    if any(describe(name).kind == "peek" for name in shown):
        notes.append(
            f"{WARNING} marks scores of an epoch that was chosen on the test set; compare them "
            "with published figures only."
        )
    if "ece" in names and any(row.calibrated for row in group.rows):
        notes.append(
            f"{FLOOR} marks an ece no larger than a perfectly calibrated network of the same "
            "confidence shows by chance (95 %), in every seed."
        )
    empty = [name for name in shown if all(row.summary(name) is None for row in group.rows)]
    if empty:
        notes.append(
            f"No row has {', '.join(empty)} in all its runs; mixbench eval may add scores."
        )
    notes += _image_notes(group, shown)
    notes += [note for row in group.rows for note in gaps(row, shown)]
    notes += _cost_notes(group, names)
    notes += _settings_notes(group, names)
    rebuilt = [row.label for row in group.rows if row.fidelity == RECONSTRUCTION]
    if rebuilt and "fidelity" not in names:
        notes.append(
            f"A {RECONSTRUCTION}, whose scores are not those of a paper: {', '.join(rebuilt)}."
        )
    notes += mark_notes((row.label, row.marks, len(row.seeds)) for row in group.rows)
    if group.devices:
        notes.append(f"The runs used this hardware: {', '.join(group.devices)}.")
    return notes


def _cost_notes(group: Group, names: Sequence[str]) -> list[str]:
    notes = []
    if "cost" in names:
        labels = [row.label for row in group.rows if row.cost is not None]
        base = BASELINE if BASELINE in labels else "the cheapest row"
        before = any(record.prior_hours for row in group.rows for record in row.records)
        more = ", with the runs that a row's own start from" if before else ""
        notes.append(f"cost is the time of training{more}, relative to {base}.")
    timed = {"cost", "img_per_s"} & set(names)
    if timed and any(row.shared_cores for row in group.rows):
        verb = "were" if len(timed) > 1 else "was"
        notes.append(
            f"{' and '.join(sorted(timed))} {verb} measured while other runs shared the machine."
        )
    return notes


def _settings_notes(group: Group, names: Sequence[str]) -> list[str]:
    """Settings away from the defaults of methods that labels and columns do not tell."""
    told = []
    for row in group.rows:
        hidden = {
            key: shown_value(value)
            for key, value in sorted(row.settings.items())
            if key not in group.varied and f"{SETTING}{key}" not in names
        }
        if hidden:
            told.append(f"{row.label} ({', '.join(f'{k}={v}' for k, v in hidden.items())})")
    unique = ", ".join(dict.fromkeys(told))
    return [f"Settings away from the defaults of the methods: {unique}."] if unique else []


def _image_notes(group: Group, shown: Sequence[str]) -> list[str]:
    """Sentences on the number of images behind the scores of suites that sample them."""
    notes = []
    found = [name for name in shown if any(row.summary(name) for row in group.rows)]
    for suite, scores in sampled(found).items():
        sizes = sorted({size for row in group.rows for size in row.images.get(suite, ())})
        told = " or ".join(map(str, sizes)) or "an unknown number"
        verb = "is" if len(scores) == 1 else "are"
        note = f"{_with_units(scores)} {verb} measured on {told} of the test images."
        if len(sizes) > 1:
            note += " Scores on different numbers of images do not compare."
        notes.append(note)
    return notes + _set_notes(group, shown)


def _set_notes(group: Group, shown: Sequence[str]) -> list[str]:
    """Sentences on the sets of images behind scores that may be of others in each run."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in shown:
        if describe(name).shared and any(row.summary(name) for row in group.rows):
            known = {str(each) for row in group.rows for each in row.images_of(name) if each}
            found.setdefault(tuple(sorted(known)), []).append(name)
    notes = []
    for sets, names in found.items():
        one = len(names) == 1
        if describe(names[0]).shared == "demixer":
            note = f"{', '.join(names)} {'is' if one else 'are'} found by {' or '.join(sets)}."
            other = " Scores by different demixers do not compare."
        else:
            verb = "is a mean" if one else "are means"
            note = f"{', '.join(names)} {verb} over these sets of images: {' or '.join(sets)}."
            other = " Means over different sets do not compare."
        notes.append(note + other * (len(sets) > 1))
    return notes


def _with_units(scores: Sequence[str]) -> str:
    """Scores with their unit and direction, each of which is said once."""
    found: dict[str, list[str]] = {}
    for column in map(describe, scores):
        better = f"{column.better} is better" if column.better else ""
        told = ", ".join(filter(None, (column.unit, better)))
        found.setdefault(told, []).append(column.name)
    parts = [", ".join(names) + (f" ({told})" if told else "") for told, names in found.items()]
    return " and ".join(parts)


def _caption(group: Group, names: Sequence[str]) -> str:
    """A caption that says what the numbers are."""
    score = describe(group.score)
    counts = sorted({len(row.seeds) for row in group.rows})
    few, many = counts[0], counts[-1]
    seeds = counted(few, "seed") if few == many else f"{few} to {many} seeds"
    text = (
        f"{score.title[:1].upper()}{score.title[1:]} on {group.data} with {group.net} (recipe "
        f"{group.recipe}, {counted(group.epochs, 'epoch')}, {group.sizes[0]:,} training and "
        f"{counted(group.sizes[1], 'test image')}; {_CHOICE.get(group.select, group.select)}), "
    )
    text += "one seed." if many == 1 else f"mean and standard deviation over {seeds}."
    if "difference" in names:
        text += (
            f" Differences are from {group.evidence.reference}, with simultaneous 95 % intervals "
            "and p values of Dunnett's test."
        )
    if any(row.marked for row in group.rows):
        text += " Bold: the best mean, and those that the test does not separate from it."
    return text


def _contrast(group: Group, row: Row) -> Contrast | None:
    """A row against the reference; None where nothing was tested or is claimed."""
    return group.evidence.contrasts.get(row.label) if _tested(group) else None


def _is_reference(group: Group, row: Row) -> bool:
    return _tested(group) and row.label == group.evidence.reference


def _difference(group: Group, row: Row) -> str:
    contrast = _contrast(group, row)
    if contrast is None:
        return "reference" if _is_reference(group, row) else NONE
    text = describe(group.score).text(contrast.difference, sign=True)
    ends = interval(contrast.low, contrast.high, group.score, sign=True)
    return f"{text} [{ends.replace(' to ', ', ')}]"


def _p(group: Group, row: Row) -> str:
    contrast = _contrast(group, row)
    if contrast is None:
        return NONE
    return p_text(contrast.p).removeprefix("p ").removeprefix("= ").replace(" ", "")


def _cost(group: Group, row: Row) -> str:
    del group
    return NONE if row.cost is None else f"{row.cost:.2f}"


def _n(group: Group, row: Row) -> str:
    del group
    failed = f" of {len(row.seeds) + row.failed}" if row.failed else ""
    return f"{len(row.seeds)}{failed}"


def _interval(group: Group, row: Row) -> str:
    score = row.summaries[group.score]
    return interval(score.low, score.high, group.score)


def _low(group: Group, row: Row) -> float:
    low = row.summaries[group.score].low
    return math.nan if low is None else low


def _contrast_key(group: Group, row: Row, name: str) -> float:
    contrast = _contrast(group, row)
    if contrast is None:
        return 0.0 if name == "difference" and _is_reference(group, row) else math.inf
    return -contrast.difference if name == "difference" else contrast.p


def _missing(value: float | None) -> float:
    return math.inf if value is None or not math.isfinite(value) else value


OWN: dict[str, OwnColumn] = {
    "method": OwnColumn(lambda g, r: _row_name(g, r, _first(g)), lambda g, r: r.label, "method"),
    "n": OwnColumn(_n, lambda g, r: -len(r.seeds), "n"),
    "sd": OwnColumn(
        lambda g, r: describe(g.score).text(r.summaries[g.score].sd),
        lambda g, r: _missing(r.summaries[g.score].sd),
        "sd",
    ),
    "interval": OwnColumn(
        _interval, lambda g, r: describe(g.score).rank(_low(g, r)), "95 % interval"
    ),
    "difference": OwnColumn(_difference, lambda g, r: _contrast_key(g, r, "difference"), "vs"),
    "p": OwnColumn(_p, lambda g, r: _contrast_key(g, r, "p"), "p"),
    "cost": OwnColumn(_cost, lambda g, r: _missing(r.cost), "cost"),
    "fidelity": OwnColumn(
        lambda g, r: r.fidelity or NONE, lambda g, r: r.fidelity or math.inf, "fidelity"
    ),
    "verified": OwnColumn(
        lambda g, r: r.verified or NONE, lambda g, r: VERIFIED.get(r.verified, math.inf), "verified"
    ),
    "seeds": OwnColumn(
        lambda g, r: ", ".join(map(str, r.seeds)), lambda g, r: -len(r.seeds), "seeds"
    ),
    "marks": OwnColumn(
        lambda g, r: marks_text(r.marks, len(r.seeds)) or NONE,
        lambda g, r: sum(r.marks.values()),
        "marks",
    ),
}


def _sort_key(group: Group, row: Row, name: str) -> Any:
    if name in OWN:
        return OWN[name].key(group, row)
    if name.startswith(SETTING):
        text = setting_text(row, name)
        return math.inf if text == NONE else natural_order(text)
    found = row.summary(name)
    return math.inf if found is None else describe(name).rank(found.mean)


def _tested(group: Group) -> bool:
    return bool(group.evidence.contrasts) and not group.smoke_test


def _mean(row: Row, name: str) -> float | None:
    found = row.summaries.get(name)
    return found.mean if found is not None and math.isfinite(found.mean) else None


def _any(group: Group, name: str) -> bool:
    return any(name in row.summaries for row in group.rows)
