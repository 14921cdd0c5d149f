"""Rooms import downwards only, and each third-party package only where it belongs."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mixbench"

# Level of each room or file; a longer path wins over a shorter one.
LEVELS = {
    "__init__": 10,
    "errors": -1,  # what every other room may raise
    "archives": -1,
    "paths": -1,
    "words": -1,
    "logs": 0,
    "functional": 0,
    "arrays": 0,
    "registry": 0,
    "schema": 0,
    "source": 0,
    "experiments": 1,
    "results/__init__": 0,
    "results/files": 0,
    "results/outputs": 0,
    "results/fields": 0,
    "results/lock": 0,
    "results/identity": 0,
    "results/record": 0,
    "results/marks": 0,
    "results/curves": 0,
    "results/selection": 0,
    "results/secrets": 0,
    "results/wandb_run": 0,
    "backbones": 1,
    "data": 1,
    "metrics": 1,
    "optim": 1,
    "pictures": 1,
    "stop": 0,
    "checkpoints": 1,
    "group": 1,
    "compiling": 1,
    "nn": 2,
    "weights": 2,
    "methods": 3,
    "evaluation": 3,
    "callbacks": 4,
    "layers": 2,
    "config": 4,
    "compat": 4,
    "results/stats": 4,
    "results/contrasts": 4,
    "results/resampling": 4,
    "results/literature": 4,
    "results/reproduction": 4,
    "results/evidence": 4,
    "results/costs": 4,
    "results/compare": 4,
    "results/harm": 4,
    "results/epochs": 4,
    "results/leaderboard": 4,
    "results/table": 4,
    "results/wandb_table": 4,
    "assemble": 5,
    "training": 5,
    "sanity": 5,
    "facts": 5.5,
    "attempt": 6,
    "runner": 7,
    "ranks": 4,
    "show": 8,
    "reproduce": 8,
    "judging": 8,
    "contract": 8,
    "perf": 8,
    "launch": 8,
    "study": 9,
    "commands": 9,
    "cli": 10,
    "__main__": 11,
}

TORCH = {"torch", "numpy", "PIL"}
LIGHTNING = TORCH | {"lightning"}
THIRD_PARTY = {
    "functional": {"torch"},
    "functional/sinkhorn": {"torch", "ot"},
    "experiments": {"yaml"},
    "arrays": {"numpy"},
    "backbones": TORCH,
    "backbones/adapters": TORCH | {"timm"},
    "data": LIGHTNING | {"sklearn"},
    "data/augment": TORCH | {"timm"},
    "data/parquet": TORCH | {"pyarrow"},
    "metrics": TORCH | {"torchmetrics"},
    "evaluation": TORCH,
    "evaluation/autoattack": TORCH | {"pyautoattack"},
    "optim": {"torch"},
    "pictures": TORCH,
    "nn": {"torch"},
    "methods": LIGHTNING,
    "methods/__init__": set(),
    "callbacks": LIGHTNING | {"wandb"},
    "config": {"omegaconf"},
    "ranks": {"torch"},
    "checkpoints": {"torch"},
    "compiling": {"torch"},
    "weights": {"torch", "safetensors", "onnx", "onnxscript"},
    "group": LIGHTNING,
    "assemble": LIGHTNING,
    "training": LIGHTNING,
    "results/outputs": {"numpy"},
    "results/stats": {"scipy"},
    "results/contrasts": {"scipy", "numpy"},
    "results/resampling": {"scipy", "numpy"},
    "results/compare": {"numpy"},
    "results/harm": {"numpy"},
    "results/wandb_run": {"wandb"},
    "results/wandb_table": {"wandb", "torch"},
    "sanity": {"torch", "scipy"},
    "attempt": TORCH | {"omegaconf"},
    "runner": TORCH | {"omegaconf"},
    "show": {"PIL"},
    "reproduce": {"torch"},
    "judging": {"torch"},
    "study": TORCH,
    "study/figures": {"PIL", "matplotlib"},
    "study/execute": {"nbclient", "nbformat", "traitlets"},
    "contract": LIGHTNING | {"omegaconf"},
    "perf": TORCH | {"torchvision", "timm", "kornia"},
    "perf/transport": {"torch", "ot", "geomloss"},
    "launch": {"torch"},
    "launch/slurm": {"submitit"},
    "launch/slurm_task": {"submitit"},
    "launch/wandb_sweep": {"yaml"},
    "launch/sweep": {"yaml"},
}
# Packages that may only be imported inside the function that needs them.
LAZY = {"ot", "sklearn", "scipy", "submitit", "wandb", "timm", "kornia", "torchvision", "geomloss"}
LAZY |= {"matplotlib", "nbclient", "nbformat", "onnx", "onnxscript", "pyarrow"}
LAZY |= {"pyautoattack", "safetensors"}
LAZY |= {"traitlets"}
LAZY_IN = {
    "launch": {"torch"},
    "ranks": {"torch"},
    "contract": {"omegaconf"},
    "group": {"lightning"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def look_up(table, name, default=None):
    parts = name.split("/")
    for end in range(len(parts), 0, -1):
        if "/".join(parts[:end]) in table:
            return table["/".join(parts[:end])]
    return default


def room(name: str) -> str:
    return name.split("/")[0]


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
    level = look_up(LEVELS, here)
    allowed = look_up(THIRD_PARTY, here, set())
    for module, line, lazy in imports(path):
        top = module.split(".")[0]
        where = f"{here}.py:{line}"
        if top == "mixbench":
            target = own_name(module)
            if target == "__init__" and module == "mixbench":
                continue  # the version, and the lazy names
            # A registry's table of strings imports nothing and may be read from anywhere.
            if target in ("methods/__init__", "data/__init__", "backbones/__init__"):
                continue
            other = look_up(LEVELS, target)
            if room(here) != room(target) and other >= level:
                yield f"{where} imports {target} of level {other}, own level {level}"
            if room(here) == "results" and other > level:
                yield f"{where} imports {target} of a higher level"
        elif top not in sys.stdlib_module_names:
            if top not in allowed:
                yield f"{where} imports {top}"
            elif not lazy and (top in LAZY or top in LAZY_IN.get(room(here), ())):
                yield f"{where} imports {top} outside of a function"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_file_imports_only_lower_levels_and_the_packages_of_its_room(path):
    assert look_up(LEVELS, place(path)) is not None, f"{place(path)} has no level"
    assert list(violations(path)) == []


def test_an_upward_import_is_found(tmp_path, monkeypatch):
    planted = PACKAGE / "functional" / "planted.py"
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *_: "import lightning\nfrom mixbench.runner import run\n",
    )
    found = list(violations(planted))
    assert len(found) == 2
    assert "lightning" in found[0]
    assert "runner" in found[1]


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("*.py")), ids=place)
def test_a_method_file_fits_on_a_page(path):
    lines = len(path.read_text().splitlines())
    longer = {
        "base": 345,
        "bc": 90,
        "alignment": 200,
        "learnedmix": 240,
        "views": 210,
        "contrast": 215,
        "contrasting": 95,
        "mocosamix": 175,
        "agreeing": 90,
        "attending": 190,
        "tdattenmix": 170,
        "topdown": 130,
        "choice": 150,
        "choosing": 120,
        "guiding": 90,
        "pasting": 110,
    }
    limit = longer.get(path.stem, 80)
    assert lines <= limit, f"{path.name} has {lines} lines"


def test_no_room_but_methods_branches_on_a_method_name():
    names = {"bc", "cutmix", "manifoldmixup", "mixup"}  # erm is the default of several settings
    for path in FILES:
        if place(path).startswith(("methods", "functional", "perf")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                constants = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant)]
                assert not names & {c for c in constants if isinstance(c, str)}, place(path)
