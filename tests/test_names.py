"""A public name of a module stands for one thing in the whole package."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "mixbench"

# Names that several modules may give to things of their own, and why.
ACCEPTED = {
    "log": "each module logs through the one logger of the package",
    "main": "entry points of programs",
    "measure": "each speed table has one",
    "own_variants": "each speed table has one",
    "rules": "each speed table has one",
    "watched": "each speed table has one",
    "Shape": "sizes of the batches of each speed table",
    "conditions": "of settings, and of a speed table",
    "compare": "of two rows, and of a row with a published figure",
    "BC": "the method, and its operation as a module",
    "CutMix": "the method, and its operation as a module",
    "GuidedMixup": "the method, and its operation as a module",
    "Mixup": "the method, and its operation as a module",
    "SpliceMix": "the method, and its operation as a module",
    "Contrast": "a method's loss, and a difference of two means",
    "Counts": "sums of each suite",
    "Pasted": "the record of the operation, and the method's state",
    "Row": "of a leaderboard, and of a speed table",
    "Table": "of a notebook, and of a test's results",
    "Taught": "a step of training, and maps of a teacher",
    "judge": "a network by suites, and a speed by its rules",
    "pairs": "of pictures, and of what a run combines",
    "render": "a configuration, and a leaderboard",
    "scores": "of predictions, and of the runs in a notebook",
}


def public_names(tree: ast.Module, used: set[str] = frozenset()):
    """Classes and functions at the top level, and the constants that other modules use."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target)]
            found = [part.id for part in parts if isinstance(part, ast.Name) and part.id in used]
        else:
            continue
        yield from (name for name in found if not name.startswith("_"))


def imported_names(trees: list[ast.Module]) -> dict[str, set[str]]:
    """Names by the module that others import them from."""
    found: dict[str, set[str]] = defaultdict(set)
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                found[node.module] |= {alias.name for alias in node.names}
    return found


def repeated() -> dict[str, list[str]]:
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    used = imported_names(list(trees.values()))
    places: dict[str, set[str]] = defaultdict(set)
    for path, tree in trees.items():
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for name in public_names(tree, used[module]):
            places[name].add(module)
    return {name: sorted(modules) for name, modules in places.items() if len(modules) > 1}


def test_no_two_public_things_have_one_name():
    assert {name: places for name, places in repeated().items() if name not in ACCEPTED} == {}


def test_a_public_name_is_known_as_one():
    tree = ast.parse("A, _B = 1, 2\nC: int = 3\nclass D: ...\ndef e(): ...\nfrom x import F\n")
    assert list(public_names(tree, {"A", "_B", "F"})) == ["A", "D", "e"]
