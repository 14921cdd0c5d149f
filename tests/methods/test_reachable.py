"""The code that is read to understand one method stays small.

Counted are the files of methods/, nn/ and functional/ that the module of a method imports, directly
or through others. ``methods/base.py`` and ``methods/pictures/`` are read once for all methods and
do not count, nor does an import of constants alone, which are names of options, nor the fields of
settings, which are a table that ``mixbench info`` prints.
"""

import ast
import io
import tokenize
from functools import cache
from pathlib import Path

import pytest

import mixbench.functional as mf
from mixbench.methods import METHODS

PACKAGE = Path(__file__).resolve().parents[2] / "mixbench"
ROOMS = {"methods", "nn", "functional"}
FILES, LINES = 6, 600

# Files and lines of methods over the limits, lines in tens, which may only shrink.
EXCEED = {
    "alignmix": (
        11,
        950,
        "The operation solves a transport problem in three files and, on a GPU, by a kernel; clean "
        "steps train a decoder.",
    ),
    "attentivemix": (
        11,
        590,
        "Kinds of maps, a teacher that gives them, and the pass that leaves no trace.",
    ),
    "automix": (
        9,
        610,
        "A mixer and a teacher are trained along, each a module of nn/, on schedules of their own.",
    ),
    "demixgan": (
        8,
        900,
        "Two networks play against each other, and the test searches for latent vectors.",
    ),
    "denoisegan": (
        8,
        930,
        "Two networks play against each other, and the test searches for latent vectors.",
    ),
    "guidedmixup": (
        11,
        660,
        "Kinds of maps, a teacher that gives them, and the pass that leaves no trace.",
    ),
    "moco": (
        9,
        450,
        "It has a momentum encoder, a queue, and the vote of neighbours, each a module of nn/.",
    ),
    "mocosamix": (12, 760, "It is MoCo and SAMix in one, and has the modules of both."),
    "puzzlemix": (
        12,
        990,
        "The cut, exact and on the device, moves of cells, noise, kinds of maps with a teacher.",
    ),
    "saliencymix": (
        8,
        580,
        "A map of sums of neighbourhoods, kinds of maps, and the pass that leaves no trace.",
    ),
    "samix": (
        9,
        600,
        "A mixer and a teacher are trained along, each a module of nn/, on schedules of their own.",
    ),
    "smmix": (
        9,
        590,
        "Windows, whole mixtures, and the losses of tokens and of agreement are parts of it.",
    ),
    "snapmix": (
        10,
        730,
        "A part is resized into a box, and the map of a network labels it: a pass without a trace.",
    ),
    "tdattenmix": (
        9,
        580,
        "Windows, whole mixtures, and the losses of tokens and of agreement are parts of it.",
    ),
    "tlalign": (7, 530, "A batch is pasted or interpolated, so that both operations are read."),
    "tokenmix": (
        11,
        870,
        "Maps come from the network, a finished run or a file, and half of the batches are mixup.",
    ),
    "transformmix_recon": (
        10,
        790,
        "Two networks of a module, five kinds of maps, and a teacher that gives them.",
    ),
    "transformmix_search": (
        10,
        760,
        "Two networks of a module, five kinds of maps, and a teacher that gives them.",
    ),
    "transmix": (7, 510, "A batch is pasted or interpolated, so that both operations are read."),
}


def module_file(module: str) -> Path | None:
    path = PACKAGE.parent / f"{module.replace('.', '/')}.py"
    return path if path.exists() else None


def counts(path: Path) -> bool:
    place = path.relative_to(PACKAGE)
    once = place.as_posix() == "methods/base.py" or place.parts[:2] == ("methods", "pictures")
    return place.parts[0] in ROOMS and not once


def imported(tree: ast.Module) -> set[Path]:
    """Files of the package whose functions and classes a module imports."""
    found: set[Path | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "mf":
            found.add(module_file(getattr(mf, node.attr).__module__))
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("mixbench."):
            names = [alias.name for alias in node.names if not alias.name.isupper()]
            if names:
                found |= {module_file(f"{node.module}.{name}") for name in names}
                found.add(module_file(str(node.module)))
    return {path for path in found if path is not None}


@cache
def code_lines(path: Path) -> int:
    """Lines of a file without blank lines, comments and docstrings."""
    text = path.read_text()
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out |= _rows(node)
        elif isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            left_out |= {row for field in fields for row in _rows(field)}
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - left_out)


def _rows(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def reachable(start: Path) -> set[Path]:
    seen: set[Path] = set()
    todo = {start}
    while todo:
        path = todo.pop()
        if counts(path) and path not in seen:
            seen.add(path)
            todo |= imported(ast.parse(path.read_text()))
    return seen


def size(name: str) -> tuple[int, int]:
    """Files and lines that the module of a method reaches."""
    module = str(METHODS.source(name)).partition(":")[0]
    path = module_file(module)
    assert path is not None
    files = reachable(path)
    return len(files), sum(code_lines(file) for file in files)


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_is_read_whole_in_few_files_and_lines(name):
    files, lines = size(name)
    most_files, most_lines, why = EXCEED.get(name, (FILES, LINES, ""))
    assert files <= most_files, f"{name} reaches {files} files"
    assert lines <= most_lines, f"{name} reaches {lines} lines"
    assert not why or files > FILES or lines > LINES, f"{name} keeps the limits: no exception"


def test_the_count_follows_functions_and_leaves_constants_out():
    tree = ast.parse(
        "import mixbench.functional as mf\n"
        "from mixbench.nn.schedules import ANNEALING\n"
        "from mixbench.nn.teacher import FROZEN, Teacher\n"
        "mf.mixup(mf.one_hot)\n"
    )
    found = {path.relative_to(PACKAGE).as_posix() for path in imported(tree)}
    assert found == {"nn/teacher.py", "functional/mixup.py", "functional/mixed.py"}


def test_only_lines_of_code_are_counted(tmp_path):
    path = tmp_path / "module.py"
    lines = ['"""Doc', 'string."""', "", "# why", 'X = """a', 'b"""', "class Config:"]
    lines += ["    alpha: float = setting(", "        1.0", "    )", "", "    def f(self):"]
    lines += ['        "doc"', "        return X"]
    path.write_text("\n".join(lines) + "\n")
    assert code_lines(path) == 5
