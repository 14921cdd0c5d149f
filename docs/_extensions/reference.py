"""Pages that are written at build time from the code, so that they cannot contradict it.

``reference/`` gets a page for each method (docstring, picture, settings, published figures), the
commands from the parser, the keys of a run, the scores, the Python reference and the results of
``experiments/results``. Nothing of it is committed.
"""

import argparse
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Settings with which a method is drawn: the first with which it can be.
DRAWN_WITH = (
    ["data=digits"],
    ["data=digits", "net=vit_tiny", "net.patch=4", "batch_size=16"],
    ["data=digits", "method.labels=mean"],
)
# Labels of the paragraphs of a method's docstring.
LABELS = "Paper|Official code|Data|Formula|What is tested|What it aligns|Deviations|Cost"
LABEL = re.compile(rf"(?:^|(?<=\. ))({LABELS}|Published[^:.]{{0,90}}):\s", re.MULTILINE)
FIDELITY = {
    "official-verified": "agrees number by number with the authors' code",
    "paper": "follows the paper",
    "reconstruction": "rebuilt from the text of the paper, as no code of it is public",
    "variant": "differs from the paper or from its code by default; the deviations say how",
}
# Pages of the Python reference: title, modules, and their names (all public ones if none is given).
MODULES: dict[str, tuple[str, Sequence[tuple[str, Sequence[str]]]]] = {
    "mixbench": ("The package", [("mixbench", ())]),
    "extending": (
        "Methods, networks, data, tasks, suites",
        [
            ("mixbench.methods.base", ("Method",)),
            ("mixbench.config.settings", ("setting", "Settings")),
            ("mixbench.backbones.base", ("StagedNet", "Head", "pick_layers")),
            ("mixbench.backbones.adapters", ()),
            ("mixbench.data.source", ("DataSource", "read_content")),
            ("mixbench.data.images", ()),
            ("mixbench.tasks.base", ("Task",)),
            ("mixbench.evaluation.suite", ("Suite", "Outcome")),
            ("mixbench.leaderboard.columns", ("Column",)),
            ("mixbench.testing.contract", ("check_method", "Result")),
        ],
    ),
    "nn": (
        "Learned parts",
        [
            ("mixbench.nn.mixer", ()),
            ("mixbench.nn.absvit", ()),
            ("mixbench.nn.transform_mixer", ()),
        ],
    ),
    "metrics": (
        "Metrics",
        [
            ("mixbench.metrics", ()),
            ("mixbench.metrics.human", ()),
            ("mixbench.metrics.localisation", ()),
            ("mixbench.metrics.corruption", ()),
            ("mixbench.records.predictions", ()),
        ],
    ),
    "evaluation": (
        "Attacks and other judgements",
        [("mixbench.evaluation.attacks", ()), ("mixbench.evaluation.linearity", ())],
    ),
    "stats": (
        "Statistics",
        [
            ("mixbench.stats.intervals", ()),
            ("mixbench.stats.dunnett", ()),
            ("mixbench.stats.bootstrap", ()),
            ("mixbench.stats.class_changes", ()),
            ("mixbench.stats.agreement", ()),
        ],
    ),
}


def write_pages(app: Any) -> None:
    """Write all generated pages; those that have not changed keep their date, and are not read."""
    import torch

    torch.set_num_threads(1)  # of networks so small that threads would only wait for each other
    folder = Path(app.srcdir) / "reference"
    pages = {
        "methods/index.rst": method_index(),
        "commands.rst": commands_page(),
        "keys.rst": keys_page(),
        "scores.rst": scores_page(),
        "python/functional.rst": functional_page(),
    }
    pages |= {f"methods/{name}.rst": method_page(name, folder) for name in method_names()}
    pages |= {f"python/{name}.rst": module_page(*page) for name, page in MODULES.items()}
    pages |= {
        f"results/{path.name}": path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "experiments" / "results").glob("*.md"))
    }
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.rglob("*.*"):
        if path.suffix in (".rst", ".md") and path.relative_to(folder).as_posix() not in pages:
            path.unlink()  # of a method that is gone


# Methods.


def method_names() -> list[str]:
    """Names of the methods of mixbench, without those of plug-ins."""
    from mixbench.config.names import METHODS

    return sorted(METHODS.table)


def method_index() -> str:
    """All methods with a line each."""
    from mixbench.config.names import SUMMARIES
    from mixbench.methods import METHODS

    rows = []
    for name in method_names():
        cls = METHODS.get(name)
        rows.append([f":doc:`{name}`", SUMMARIES[name], f"{cls.cost:g}", cls.Config().fidelity])
    words = "".join(f"- ``{name}``: {meaning}.\n" for name, meaning in FIDELITY.items())
    return (
        f"{_title('Methods')}Each page is made from the method's docstring and settings, as "
        "``mixbench info NAME`` shows them. *cost* is the time of a step relative to plain "
        "training; *fidelity* tells what a method with default settings was compared with:\n\n"
        f"{words}\n{_table(['method', 'what it does', 'cost', 'fidelity'], rows, '18 52 10 20')}\n"
        + _toctree(method_names(), hidden=True)
    )


def method_page(name: str, folder: Path) -> str:
    """What is known of a method.

    Args:
        name: Its name.
        folder: Folder of the generated pages, where its picture goes.

    Returns:
        reStructuredText.
    """
    from mixbench.config import yaml_files
    from mixbench.leaderboard.literature import figures
    from mixbench.methods import METHODS

    cls = METHODS.get(name)
    config = cls.Config()
    needs = sorted(config.requires)
    facts = [
        f"Fidelity with default settings: ``{config.fidelity}``: {FIDELITY[config.fidelity]}.",
        f"Tasks: {', '.join(f'``{task}``' for task in sorted(cls.tasks))}.",
        "Needs of the network: " + (f"{', '.join(needs)}." if needs else "nothing special."),
        f"Time of a step relative to plain training, for estimates: {cls.cost:g}.",
        f"Class: ``{cls.__module__}.{cls.__qualname__}``.",
    ]
    parts = [
        _title(name),
        ".. currentmodule:: mixbench.functional\n",
        docstring_text(inspect.getdoc(cls) or ""),
        official_code(name),
        _section("In short"),
        "".join(f"- {fact}\n" for fact in facts),
        _section("Picture"),
        picture(name, folder / "methods"),
        _section("Settings"),
        settings_table(cls.Config, "method."),
    ]
    path = yaml_files.find("method", name)
    if path is not None:
        text = textwrap.indent(path.read_text(encoding="utf-8").strip(), "   ")
        parts.append(f"A run begins with ``experiments/method/{path.name}``:\n\n")
        parts.append(f".. code-block:: yaml\n\n{text}\n")
    if found := figures(name):
        parts += [_section("Published figures"), published(found)]
    return "\n".join(parts)


def official_code(name: str) -> str:
    """A link from a method's page to its section on what the code of its authors does."""
    page = (ROOT / "docs" / "official-code.md").read_text(encoding="utf-8")
    titles = re.findall(rf"^## (.*`{name}`.*)$", page, re.MULTILINE)
    places = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
    told = "What the authors' code does, and what is done otherwise here"
    return "".join(f"`{told} <../../official-code.html#{place}>`__.\n" for place in places)


def docstring_text(text: str) -> str:
    """A method's docstring with its labels in bold, and its papers and repositories as links.

    Args:
        text: The docstring.

    Returns:
        reStructuredText.
    """
    blocks = []
    for paragraph in text.split("\n\n"):
        # A line that ends with a sentence before it is full ends a thought; a label begins one.
        lines = re.sub(r"\.\n(?=[A-Z`])", ".\n\n", paragraph)
        lines = LABEL.sub(lambda match: f"\n\n**{match[1]}:** ", lines)
        blocks += [part.strip() for part in lines.split("\n\n") if part.strip()]
    found = "\n\n".join(blocks)
    found = re.sub(r"arXiv:(\d{4}\.\d{5})", r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", found)
    found = re.sub(
        r"(\*\*Official code:\*\*\s+|official code: )([\w.-]+/[\w-]+)",
        r"\1`\2 <https://github.com/\2>`__",
        found,
    )
    return f"{found}\n"


def picture(name: str, folder: Path) -> str:
    """What a method makes of images, drawn by the code that ``mixbench show`` uses."""
    from mixbench.config.compose import compose
    from mixbench.errors import MixbenchError
    from mixbench.training.preview import PictureForm, Subject, show

    path = folder / f"{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    note = path.with_suffix(".txt")
    if note.exists() and note.stat().st_mtime > _last_change():  # drawn with this very code
        return note.read_text(encoding="utf-8")
    reason = ""
    for words in DRAWN_WITH:
        command = f"mixbench show method={name} {' '.join(words)} -o {name}.png"
        try:
            config = compose([f"method={name}", *words], strict=True)
            show({name: Subject(config)}, path, PictureForm(images=3))
        except MixbenchError as error:
            reason = reason or error.what
            continue
        shown = (
            f".. image:: {name}.png\n   :alt: what {name} makes of images\n\n"
            f".. code-block:: sh\n\n   {command}\n"
        )
        break
    else:
        shown = f"There is no picture of this method without a run: {reason}.\n"
    note.write_text(shown, encoding="utf-8")
    return shown


def _last_change() -> float:
    return max(path.stat().st_mtime for path in (ROOT / "mixbench").rglob("*.py"))


def published(found: Iterable[Any]) -> str:
    """Published figures of a method, one row each."""
    from mixbench.leaderboard.columns import NONE
    from mixbench.records.selection import CHOICES

    found = list(found)
    rows = []
    for figure in found:
        cells = [figure.data, figure.net, figure.epochs, f"{figure.value:g}", figure.metric]
        cells += [figure.select, figure.n, f"{figure.title}; {figure.source}"]
        rows.append([_plain(NONE if cell is None else str(cell)) for cell in cells])
    words = [name for name in CHOICES if any(figure.select == name for figure in found)]
    meant = "".join(f" *{name}* is the {CHOICES[name][0]}." for name in words)
    header = ["data", "net", "epochs", "value", "metric", "epoch", "n", "source"]
    return (
        f"As their papers print them, and never ranked with runs.{meant} A dash means that the "
        f"paper does not tell.\n\n{_table(header, rows, '10 12 8 8 8 9 5 40')}"
    )


# Keys, scores and commands.


def settings_table(cls: Any, prefix: str = "") -> str:
    """The fields of a settings class as a table."""
    from mixbench.config.settings import default_of, info_of, type_of, walk

    rows = []
    for key, item in walk(cls, prefix):
        told = info_of(item)
        kind = told.allowed if told.options else f"{type_of(item)} {told.allowed}".rstrip()
        kind = kind.replace("typing.", "")
        official = "" if told.official is None else f" Official: {told.official}."
        meaning = _plain(told.meaning + "." * (not told.meaning.endswith(".")) + official)
        rows.append([f"``{key}``", f"``{default_of(item)!r}``", _plain(kind), meaning])
    if not rows:
        return "It has no settings of its own.\n"
    return _table(["key", "default", "allowed", "meaning"], rows, "24 16 20 40")


def keys_page() -> str:
    """The keys of a run."""
    from mixbench.config.schema import RunConfig

    return (
        f"{_title('Keys of a run')}``a.b=c`` on the command line sets a key, and "
        "``mixbench run ... --show`` prints all of them with the place where each value comes "
        "from. The keys of a method are on its own page (:doc:`methods/index`).\n\n"
        + settings_table(RunConfig)
    )


def scores_page() -> str:
    """The columns of tables."""
    from mixbench.leaderboard.columns import COLUMNS

    rows = [
        [
            f"``{column.name}``",
            _plain(column.title),
            _plain(column.unit),
            column.better,
            column.suite,
            "yes" if column.listed else "",
        ]
        for column in COLUMNS.values()
    ]
    header = ["name", "meaning", "unit", "better", "suite", "in --columns all"]
    return (
        f"{_title('Scores and costs')}Every column of a table, with its unit, the direction that "
        "is better, and the suite that finds it. A column without a suite is a cost, or a score "
        f"that was chosen on the test set.\n\n{_table(header, rows, '20 40 10 8 12 10')}"
    )


def commands_page() -> str:
    """The command line, from its parser."""
    from mixbench.cli.parser import _parser

    parser = _parser()
    (commands,) = [
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    ]
    helps = {action.dest: action.help for action in commands._choices_actions}
    parts = [
        _title("Commands"),
        "``mixbench COMMAND`` is the same as ``python -m mixbench COMMAND``. An override "
        "``group=name`` picks ``experiments/<group>/<name>.yaml`` for ``method``, ``data``, "
        "``net`` and ``recipe``, and ``a.b=c`` sets a key (:doc:`keys`). Every command has "
        "``--help``; ``--debug`` prints the full traceback of an error.\n",
        "Exit codes: 0 done, 2 user error, 3 run failed, 4 interrupted and resumable, 5 part of a "
        "grid failed.\n",
    ]
    for name, command in commands.choices.items():
        if helps.get(name) is None:
            continue
        rows = [
            [f"``{_flag(action)}``", _plain((action.help or "").replace("%%", "%"))]
            for action in command._actions
            if action.help != argparse.SUPPRESS and action.dest != "help"
        ]
        command.formatter_class = partial(argparse.HelpFormatter, width=88)
        usage = command.format_usage().removeprefix("usage: ").strip()
        usage = textwrap.indent(usage.replace("\n       ", "\n"), "   ")
        parts += [
            _section(name),
            f"{command.description}\n",
            f".. code-block:: text\n\n{usage}\n",
            _table(["argument", "meaning"], rows, "30 70") if rows else "",
        ]
    return "\n".join(parts)


def _flag(action: argparse.Action) -> str:
    shown = action.metavar or ("|".join(action.choices) if action.choices else action.dest)
    shown = " ".join(shown) if isinstance(shown, tuple) else str(shown)
    if not action.option_strings:
        return shown
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {shown}")


# Python reference.


def functional_page() -> str:
    """The operations in plain PyTorch, by the files that hold them."""
    import mixbench.functional as mf

    by_module: dict[str, list[str]] = {}
    for name in mf.__all__:
        module = getattr(getattr(mf, name), "__module__", "")
        if module.startswith("mixbench."):
            by_module.setdefault(module, []).append(name)
    parts = [_title("mixbench.functional"), inspect.getdoc(mf) or "", ""]
    parts += [".. currentmodule:: mixbench.functional\n"]
    for module, names in sorted(by_module.items()):
        parts.append(_section(module.rpartition(".")[2]))
        parts.append(f"{_first_paragraph(import_module(module))}\n")
        parts += [_documented(getattr(mf, name), f"mixbench.functional.{name}") for name in names]
    return "\n".join(parts)


def module_page(title: str, modules: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A page of the Python reference.

    Args:
        title: Its title.
        modules: Modules, each with the names that are shown; all public ones if there are none.

    Returns:
        reStructuredText.
    """
    parts = [_title(title)]
    for name, chosen in modules:
        module = import_module(name)
        parts += [_section(name), f"{_first_paragraph(module)}\n", f".. currentmodule:: {name}\n"]
        for member in chosen or _public(module):
            parts.append(_documented(getattr(module, member), f"{name}.{member}"))
    return "\n".join(parts)


def _public(module: Any) -> list[str]:
    listed = getattr(module, "__all__", None)
    names = listed or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    return [name for name in names if callable(getattr(module, name))]


def _documented(target: Any, path: str) -> str:
    if not inspect.isclass(target):
        return f".. autofunction:: {path}\n"
    return f".. autoclass:: {path}\n   :members:\n"


def _first_paragraph(module: Any) -> str:
    return (inspect.getdoc(module) or "").split("\n\n")[0]


# Forms of reStructuredText.


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n\n"


def _section(text: str) -> str:
    return f"\n{text}\n{'-' * len(text)}\n"


def _plain(text: str) -> str:
    """Text in which no sign is markup."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: str) -> str:
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (header, *rows):
        for place, cell in enumerate(row):
            lines.append(f"   {'  ' if place else '* '}- {cell}".rstrip())
    return "\n".join(lines) + "\n"


def _toctree(names: Iterable[str], hidden: bool = False) -> str:
    lines = [".. toctree::", *["   :hidden:"] * hidden, "", *(f"   {name}" for name in names)]
    return "\n".join(lines) + "\n"


def drop_absent(app: Any, page: str, source: list[str]) -> None:
    """Take pages that need not be there, ``name*``, out of the contents where they are not."""
    if page == "index":
        kept = [
            line
            for line in source[0].splitlines()
            if not re.fullmatch(r"[\w-]+\*", line) or any(Path(app.srcdir).glob(f"{line}.md"))
        ]
        source[0] = "\n".join(kept)


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", drop_absent)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
