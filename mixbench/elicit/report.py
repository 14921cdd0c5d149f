"""The report of a study: one HTML page that opens from disk and asks nobody for anything."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mixbench import __version__
from mixbench.elicit.exclusions import LEAST_MS
from mixbench.elicit.findings import SHRINKAGE, Level, StudyFindings, findings, start_gap
from mixbench.elicit.settings import MIDPOINT_TASKS, WEIGHT_STEPS, StudySettings
from mixbench.elicit.study import Study, study_path
from mixbench.errors import UserError, counted, printable
from mixbench.files import write_text
from mixbench.leaderboard.plots.export import svg
from mixbench.leaderboard.plots.style import BETTER, MUTED, PALE, signed, style
from mixbench.leaderboard.report.page import HERE as REPORT_PAGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).parent
WIDTH, HEIGHT = 4.4, 3.4  # inches of a plot
MOST_PAIRS = 45
NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class StudyPlot:
    """A plot of the report, with what it shows for those who cannot see it."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class StudyTable:
    """A table of the report: headings, rows of text, and a sentence above."""

    title: str
    note: str
    heads: list[str]
    rows: list[list[str]]


def write_study_report(given: Path, output: Path) -> list[str]:
    """Write the report of a study.

    Args:
        given: File or folder of the study.
        output: The HTML file; its folder must exist.

    Returns:
        Sentences on what the page lacks.

    Raises:
        UserError: If the study has no judgements.
    """
    study = Study(study_path(given))
    try:
        rows, stimuli, sessions = study.judgements(), study.stimuli(), study.sessions()
        settings, names = study.settings, study.class_names
    finally:
        study.close()
    if not rows:
        raise UserError(
            "the study has no judgements yet", str(given), "let people judge first: mixbench elicit"
        )
    found = findings(rows, stimuli, names, settings.task)
    gap = _gap()
    some = next(iter(stimuli.values()))
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=f"Judgements of mixed images of {some['dataset']}",
            told=_told(found, sessions),
            verdict=_verdict(found, settings.task),
            facts=_facts(settings, some, len(stimuli) - 2, rows, sessions),
            plots=[] if gap else list(_plots(found, settings.task)),
            gap=gap,
            tables=list(_tables(found, settings.task)),
            exclusions=sorted(found.doubtful.items()),
            least=f"{LEAST_MS / 1000:g}",
            comments=[s["comment"] for s in sessions if (s["comment"] or "").strip()],
            made=f"Made with mixbench {__version__} on {datetime.now(UTC):%d %B %Y, %H:%M UTC}.",
            style=Markup((REPORT_PAGE / "style.css").read_text(encoding="utf-8")),
        )
    )
    write_text(output, page)
    return [gap] if gap else []


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )


def _gap() -> str:
    try:
        with style():
            return ""
    except UserError as error:
        return f"The page has no plots, as {error.what}: {error.todo}."


def _told(found: StudyFindings, sessions: list[dict[str, Any]]) -> str:
    done = sum(session["finished_utc"] is not None for session in sessions)
    begun = f"{counted(len(sessions), 'session')}, {done:,} of them finished"
    return f"{counted(found.judgements, 'judgement')} in {begun}"


def _number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return NONE
    text = signed(value, digits)
    return text if sign else text.lstrip("+")


def _ends(low: float | None, high: float | None) -> str:
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return NONE
    return f"{_number(low)} to {_number(high)}"


def _verdict(found: StudyFindings, task: str) -> str:
    """The main result in a sentence or two."""
    if not found.used:
        return "No judgement counts: all sessions are doubtful."
    if task in MIDPOINT_TASKS:
        mean, sd = found.chosen.mean(), found.chosen.std()
        return (
            f"The image that looks half and half has a weight of {mean:.3f} of the first image "
            f"(standard deviation {sd:.3f})."
        )
    if task == "categorical":
        return (
            f"People name one of the two mixed classes first in {100 * found.named:.0f} % of all "
            f"judgements, and give both together a probability of {found.endpoints:.2f}."
        )
    fitted = found.label_map
    assert fitted is not None
    quarter = float(np.interp(0.25, fitted.knots, fitted.rated))
    way = "more" if quarter > 0.25 else "less"
    if abs(quarter - 0.25) < 0.005:
        return "At a weight of 0.25 people see what was mixed: the fitted map gives 0.25."
    return (
        f"People see {way} of the weaker image than was mixed: at a weight of 0.25 the fitted map "
        f"gives {quarter:.2f}."
    )


def _facts(
    settings: StudySettings,
    some: dict[str, Any],
    stimuli: int,
    rows: list[dict[str, Any]],
    sessions: list[dict[str, Any]],
) -> list[tuple[str, str]]:
    noun = "pairs" if settings.task in MIDPOINT_TASKS else "mixed images"
    return [
        ("task", settings.task),
        ("data", f"{some['dataset']}, {some['split']} split"),
        ("method", some["method"]),
        ("stimuli", f"{stimuli:,} {noun} and 2 attention checks"),
        (
            "trials of a person",
            f"{settings.trials}, {counted(settings.repeats, 'repeat')} and 2 checks",
        ),
        ("perspective", settings.perspective),
        ("upscaling", settings.upscaling),
        ("first judgement", min(row["created_utc"] for row in rows)),
        ("last judgement", max(row["created_utc"] for row in rows)),
        (
            "attempts at the questions",
            f"{np.mean([each['attempts'] for each in sessions]):.1f} on average",
        ),
    ]


def _tables(found: StudyFindings, task: str) -> Iterator[StudyTable]:
    if found.levels:
        seen = "share of the first class" if task == "categorical" else "seen weight"
        heads = ["true weight", "judgements", seen, "95 % band over people"]
        rows = [_level(each) for each in found.levels]
        if task == "infer":
            heads.append("confidence")
            pairs = zip(rows, found.levels, strict=True)
            rows = [[*row, _number(each.confidence)] for row, each in pairs]
        yield StudyTable("Seen and true weights", "", heads, rows)
    if found.starts:
        note = (
            f"Who begins at the higher weight ends {_number(start_gap(found), sign=True)} further "
            "up: the start draws the answer to itself where this is above 0."
        )
        heads = ["start", "judgements", "chosen weight", "95 % band over people"]
        yield StudyTable("Starting weights", note, heads, [_level(each) for each in found.starts])
    yield _reliability(found)
    if found.calibration:
        note = (
            "Confidence is calibrated where the distance falls as confidence rises. Their "
            f"correlation is {_number(found.sure_of_error, 2)}; that of confidence with the "
            f"distance of the true weight from 1/2 is {_number(found.sure_of_distance, 2)}."
        )
        heads = ["mean confidence", "judgements", "distance from the true weight"]
        rows = [_level(each) for each in found.calibration]
        yield StudyTable("Calibration of confidence", note, [*heads, "95 % band over people"], rows)
    than = "the fitted map says" if task == "infer" else "was mixed"
    note = (
        "A positive bias means that people see more of the first class beside the second than "
        f"{than}. The shrunk bias is multiplied by n/(n + {SHRINKAGE})."
    )
    if len(found.pairs) > MOST_PAIRS:
        note += f" Shown are the {MOST_PAIRS} largest of {len(found.pairs):,}."
    heads = ["first class", "second class", "judgements", "bias", "95 % interval", "shrunk bias"]
    rows = [
        [
            each.first, each.second, f"{each.count:,}", _number(each.bias, sign=True),
            _ends(each.low, each.high), _number(each.shrunk, sign=True),
        ]
        for each in found.pairs[:MOST_PAIRS]
    ]  # fmt: skip
    yield StudyTable("Bias by pair of classes", note, heads, rows)


def _level(each: Level) -> list[str]:
    ends = _ends(each.low, each.high)
    return [f"{each.level:.2f}", f"{each.count:,}", _number(each.mean), ends]


def _reliability(found: StudyFindings) -> StudyTable:
    agreed = found.agreement
    rows = [
        ["agreement of single judgements, ICC(1)", _number(agreed.single)],
        ["agreement of the mean of all judgements of a stimulus", _number(agreed.mean)],
        ["stimuli with two judgements or more", f"{agreed.items:,}"],
        ["median time of a judgement", f"{_number(found.seconds, 1)} s"],
    ]
    if found.repeats is not None:
        again = found.repeats
        rows += [
            ["stimuli judged twice by a person", f"{again.count:,}"],
            ["mean difference of both judgements", _number(again.mean)],
            ["median difference of both judgements", _number(again.median)],
            ["correlation of both judgements", _number(again.correlation, 2)],
        ]
    if found.covered is not None:
        share, width = found.covered
        rows += [
            ["intervals that hold the true weight", f"{100 * share:.0f} %"],
            ["mean width of an interval", _number(width)],
        ]
    return StudyTable("Agreement and repeats", "", ["measure", "value"], rows)


def _plots(found: StudyFindings, task: str) -> Iterator[StudyPlot]:
    if found.levels:
        name = "Psychometric curve"
        what = "probability of the first class" if task == "categorical" else "seen weight"
        caption = f"Mean {what} by true weight, with a 95 % band over people."
        yield _plot(name, caption, lambda axes: _curve(axes, found, what))
    if len(found.chosen):
        caption = "Number of judgements by the weight that was chosen as the midpoint."
        yield _plot("Chosen midpoints", caption, lambda axes: _midpoints(axes, found))
    if found.calibration:
        caption = "Mean distance from the true weight by confidence, with a 95 % band over people."
        yield _plot("Calibration of confidence", caption, lambda axes: _calibrated(axes, found))


def _plot(title: str, caption: str, draw: Callable[["Axes"], None]) -> StudyPlot:
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        draw(figure.add_subplot())
        return StudyPlot(title, caption, Markup(svg(figure)))


def _band(axes: "Axes", levels: list[Level]) -> None:
    at = [each.level for each in levels]
    low, high = ([getattr(each, end) for each in levels] for end in ("low", "high"))
    if np.isfinite(low).any():
        axes.fill_between(at, low, high, color=BETTER, alpha=0.2, linewidth=0)
    axes.plot(at, [each.mean for each in levels], "o-", color=BETTER, label="people")


def _curve(axes: "Axes", found: StudyFindings, what: str) -> None:
    axes.plot([0, 1], [0, 1], color=PALE, linestyle="--", label="as mixed")
    _band(axes, found.levels)
    if found.label_map is not None:
        axes.plot(
            found.label_map.knots, found.label_map.rated, ":", color=MUTED, label="fitted map"
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="true weight of the first image", ylabel=what)
    axes.legend(loc="upper left")


def _midpoints(axes: "Axes", found: StudyFindings) -> None:
    steps = np.arange(WEIGHT_STEPS)
    counts = np.bincount(
        np.round(found.chosen * (WEIGHT_STEPS - 1)).astype(int), minlength=WEIGHT_STEPS
    )
    axes.bar(steps / (WEIGHT_STEPS - 1), counts, width=0.08, color=BETTER)
    axes.set(xlim=(-0.06, 1.06), xlabel="chosen weight of the first image", ylabel="judgements")


def _calibrated(axes: "Axes", found: StudyFindings) -> None:
    _band(axes, found.calibration)
    axes.set(xlim=(0, 1), xlabel="confidence", ylabel="distance from the true weight")
    axes.set_ylim(bottom=0)
