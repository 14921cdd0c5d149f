"""Rooms import downwards only, and each third-party package only where it belongs."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mixbench"

TORCH = {"torch", "numpy", "PIL"}
LIGHTNING = TORCH | {"lightning"}
# Level of each room, which imports only lower ones, and the packages that it may import.
ROOMS: dict[str, tuple[int, set[str]]] = {
    "": (-1, set()),  # the loose modules: errors, files, registry
    "stats": (0, {"numpy", "scipy"}),
    "native": (0, {"torch"}),
    "functional": (1, {"torch", "ot", "scipy", "triton"}),
    "config": (1, {"omegaconf", "yaml"}),
    "metrics": (1, TORCH | {"torchmetrics", "scipy"}),
    "backbones": (2, TORCH | {"timm", "huggingface_hub"}),
    "data": (2, LIGHTNING | {"sklearn", "timm", "pyarrow", "scipy"}),
    "pictures": (2, TORCH | {"matplotlib"}),
    "tasks": (3, {"torch"}),
    "nn": (3, {"torch"}),
    "records": (3, {"torch", "numpy", "safetensors", "onnx", "onnxscript"}),
    "distributed": (4, LIGHTNING),
    "tracking": (4, LIGHTNING | {"wandb"}),
    "methods": (4, LIGHTNING),
    "leaderboard": (5, TORCH | {"wandb", "matplotlib", "jinja2", "markupsafe", "pandas"}),
    "evaluation": (5, TORCH | {"pyautoattack"}),
    "training": (6, LIGHTNING | {"omegaconf", "rich", "scipy"}),
    "testing": (7, LIGHTNING | {"omegaconf"}),
    "perf": (7, TORCH | {"torchvision", "timm", "kornia", "ot", "geomloss"}),
    "launch": (7, {"torch", "submitit", "yaml"}),
    "elicit": (
        7,
        TORCH | {"starlette", "uvicorn", "jinja2", "markupsafe", "matplotlib", "pyarrow"},
    ),
    "race": (8, {"numpy", "torch", "markupsafe", "matplotlib", "wandb"}),
    "notebook": (8, TORCH | {"matplotlib", "nbclient", "nbformat", "traitlets"}),
    "cli": (9, {"rich"}),
}
ENTRY = {"__init__", "__main__"}  # of the package: they load what was asked for
# Packages that may only be imported inside the function that needs them, and rooms where more are.
LAZY = {"ot", "sklearn", "scipy", "submitit", "wandb", "timm", "kornia", "torchvision", "geomloss"}
LAZY |= {"matplotlib", "nbclient", "nbformat", "traitlets", "onnx", "onnxscript", "pyarrow"}
LAZY |= {"pyautoattack", "huggingface_hub", "safetensors", "pandas", "starlette", "uvicorn"}
LAZY_IN = {
    "cli": {"rich"},
    "distributed": {"lightning"},
    "launch": {"torch"},
    "leaderboard": {"torch"},
    "race": {"torch"},
    "testing": {"omegaconf"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def room(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def imports(path: Path):
    """Imported modules with their line and whether the import stands inside a function."""
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in inner
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module
            for alias in node.names:
                nested = PACKAGE.parent / node.module.replace(".", "/") / f"{alias.name}.py"
                package = PACKAGE.parent / node.module.replace(".", "/") / alias.name
                child = nested.exists() or (package / "__init__.py").exists()
                module = f"{node.module}.{alias.name}" if child else node.module
                yield module, node.lineno, id(node) in inner


def own_name(module: str) -> str:
    name = "/".join(module.split(".")[1:])
    if not name:
        return "__init__"
    return f"{name}/__init__" if (PACKAGE / name).is_dir() else name


def violations(path: Path):
    here = place(path)
    if here in ENTRY:
        return
    level, allowed = ROOMS[room(here)]
    for module, line, lazy in imports(path):
        top = module.split(".")[0]
        where = f"{here}.py:{line}"
        if top == "mixbench":
            target = own_name(module)
            if target in ENTRY:
                continue  # the version, and the lazy names
            other, _ = ROOMS[room(target)]
            if room(here) != room(target) and other >= level:
                yield f"{where} imports {target} of level {other}, own level {level}"
        elif top not in sys.stdlib_module_names:
            if top not in allowed:
                yield f"{where} imports {top}"
            elif not lazy and (top in LAZY or top in LAZY_IN.get(room(here), ())):
                yield f"{where} imports {top} outside of a function"


def test_the_rooms_are_those_of_the_table():
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders | {""} == set(ROOMS)
    loose = {path.stem for path in PACKAGE.glob("*.py")} - ENTRY
    assert loose == {"errors", "files", "registry"}


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_file_imports_only_lower_levels_and_the_packages_of_its_room(path):
    assert list(violations(path)) == []


def test_an_upward_import_is_found(monkeypatch):
    planted = PACKAGE / "functional" / "planted.py"
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *_: "import lightning\nfrom mixbench.training.run import run\n",
    )
    found = list(violations(planted))
    assert len(found) == 2
    assert "lightning" in found[0]
    assert "training" in found[1]


def test_no_room_but_methods_branches_on_a_method_name():
    names = {"bc", "cutmix", "manifoldmixup", "mixup"}  # erm is the default of several settings
    for path in FILES:
        if place(path).startswith(("methods", "functional", "perf")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                constants = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant)]
                assert not names & {c for c in constants if isinstance(c, str)}, place(path)
