"""Golden files: recorded inputs, decisions and results of the official code.

A test module names its file in ``GOLDEN`` and the keys that it leaves out, with the reason, in
``NOT_COMPARED``. A test that takes the fixture ``case`` runs once for every case of the file whose
name matches one of the patterns of its mark ``cases``, or that holds the key ``having`` of the mark
and not the key ``lacking``. It fails when an ``expect_*`` or
``derived_*`` key of its case, or a part of one, was neither compared nor left out with a reason. A
file that may not be in the repository is read from ``../shared/golden``, and ``MAY_MISS`` of its
module is the reason to skip the tests where it is absent.
"""

import json
import os
import re
from collections.abc import Generator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from paths import SHARED
from torch import Tensor

RESULTS = ("expect_", "derived_")  # beginnings of keys to compare
NUMBER = r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)"

# A tolerance that a field of the file states, such as `rtol 1e-5, atol 1e-6 (float32)`.
STATED = re.compile(rf"exact|(?:rtol {NUMBER})?,? ?(?:atol {NUMBER})?(?: \(\w+\))?")


class Tolerance(NamedTuple):
    """Relative and absolute distance that still counts as equal."""

    rtol: float
    atol: float


EXACT = Tolerance(0.0, 0.0)
_MIXER = {"float32": Tolerance(1e-4, 1e-5), "gradients": Tolerance(1e-3, 1e-5)}

# Files that state these quantities in prose, such as "for masks, mixed, losses".
PROSE = {
    "alignmix": {
        **dict.fromkeys(("R", "aligned", "logits"), Tolerance(1e-3, 2e-4)),
        "float64": Tolerance(1e-6, 1e-7),
    },
    "attentivemix": {"mask": EXACT},
    "augmix": {
        **dict.fromkeys(("losses", "gradients", "mce"), Tolerance(1e-4, 1e-5)),
        **dict.fromkeys(("jsd1/losses", "jsd1/gradients"), Tolerance(1e-3, 1e-5)),
        "mixed by tensors": Tolerance(0.0, 0.02),
        "mixed by Pillow": Tolerance(0.0, 1e-5),
    },
    "cutmix": {
        **dict.fromkeys(("pixels", "boxes"), EXACT),
        **dict.fromkeys(("lam", "target", "loss"), Tolerance(1e-5, 1e-6)),
    },
    "fmix": {"mask": Tolerance(0.0, 1e-6)},
    "gridmix": {"mask": EXACT},
    "manifold_mixup": {
        **dict.fromkeys(("logits", "losses"), Tolerance(1e-4, 1e-5)),
        "gradients": Tolerance(1e-3, 1e-6),
        "targets": Tolerance(1e-6, 0.0),
    },
    "metrics": {
        "calibration": Tolerance(1e-5, 1e-6),
        "temperature": Tolerance(1e-3, 0.0),
        "adv_images": Tolerance(0.0, 1e-6),  # on SHARES of the elements
    },
    "ood": {"measures": Tolerance(0.0, 1e-6)},
    "puzzlemix": {"mask": EXACT},
    "samix": _MIXER,
    "samix_train": _MIXER,
    "splicemix": {
        **dict.fromkeys(("pixels", "logits", "losses"), Tolerance(1e-4, 1e-5)),
        "targets": EXACT,
        "metrics": Tolerance(0.0, 1e-2),
    },
    "tokenmix": {"mask": EXACT},
    "transmix": {
        "img/CutMix": EXACT,
        "img/mixup": Tolerance(0.0, 1e-6),
        **dict.fromkeys(
            [f"full_step/{key}" for key in ("expect_attn", "logits", "target", "lam", "loss")],
            Tolerance(1e-4, 1e-5),
        ),
        "full_step/gradients": Tolerance(1e-3, 1e-5),
    },
}
SHARES = {("metrics", "adv_images"): 0.995}  # least share of the elements that is equal


def stated_tolerances(meta: dict[str, Any]) -> dict[str, Tolerance]:
    """Tolerances by quantity; the empty name stands for every quantity that has none of its own.

    Args:
        meta: Its ``tolerances``, or without them ``tolerances_default``, is one tolerance of the
            form of ``STATED``, or such ones and the numbers ``rtol`` and ``atol`` by quantity.

    Returns:
        Tolerance of each quantity, named as in the file. Other prose gives none.

    Example:
        >>> stated_tolerances({"tolerances": "rtol 1e-5, atol 1e-6 (float32)"})
        {'': Tolerance(rtol=1e-05, atol=1e-06)}
        >>> stated_tolerances({"tolerances": {"a, b": "exact", "c": "rtol 1e-3 for most"}})
        {'a': Tolerance(rtol=0.0, atol=0.0), 'b': Tolerance(rtol=0.0, atol=0.0)}
        >>> stated_tolerances({"tolerances": {"rtol": 1e-4, "atol": 1e-5, "x": "atol 1e-6"}})
        {'': Tolerance(rtol=0.0001, atol=1e-05), 'x': Tolerance(rtol=0.0, atol=1e-06)}
    """
    stated = meta.get("tolerances") or meta.get("tolerances_default", "")
    fields = dict(stated) if isinstance(stated, dict) else {"": stated}
    whole = [f"{key} {fields.pop(key)}" for key in ("rtol", "atol") if key in fields]
    fields = ({"": " ".join(whole)} if whole else {}) | fields
    return {
        name: Tolerance(*(float(number or 0) for number in match.groups()))
        for names, text in fields.items()
        if isinstance(text, str) and text and (match := STATED.fullmatch(text))
        for name in names.split(", ")
    }


def golden_path(name: str) -> Path:
    """Where a golden file lies; what may not be copied is read beside the checkout."""
    given = os.environ.get("MIXBENCH_GOLDEN")
    here = Path(given) if given else Path(__file__).parent
    beside = SHARED / "golden"
    path = here / f"{name}.npz"
    return path if given or path.exists() else beside / path.name


class GoldenFile:
    """All cases of ``$MIXBENCH_GOLDEN/<name>.npz``; without the variable, of this directory."""

    def __init__(self, name: str) -> None:
        with np.load(golden_path(name)) as stored:
            self.meta = json.loads(str(stored["meta"]))
            arrays = {key: stored[key] for key in stored.files if key != "meta"}
        self.name = name
        self.tolerances = PROSE.get(name, {}) | stated_tolerances(self.meta)
        self.cases: dict[str, dict[str, np.ndarray]] = {}
        for key, value in arrays.items():
            group, _, item = key.partition("/") if "/expect_" in key else key.rpartition("/")
            self.cases.setdefault(group, {})[item] = value

    def tolerance(self, quantity: str) -> Tolerance:
        """Tolerance of a quantity under its own name, else that of the whole file."""
        known = quantity if quantity in self.tolerances else ""
        if known not in self.tolerances:
            raise KeyError(f"{self.name}: no tolerance for {quantity!r}, only {self.tolerances}")
        return self.tolerances[known]


load = cache(GoldenFile)


class Case:
    """One case of a golden file, and the record of which of its results were compared."""

    def __init__(self, file: GoldenFile, name: str, not_compared: dict[str, str]) -> None:
        self.file, self.name, self.not_compared = file, name, not_compared
        self.arrays = file.cases[name]
        self.compared: dict[str, np.ndarray] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> Tensor:
        """A copy of an array of this case, or of the file if the key holds a slash."""
        if key in self.arrays:  # the names of results may hold a slash
            return torch.tensor(self.arrays[key])
        group, _, item = key.rpartition("/")
        return torch.tensor(self.file.cases[group][item])

    def compare(
        self, key: str, actual: Tensor, quantity: str = "", *, rows: Tensor | None = None
    ) -> None:
        """Compare a result with the stored one, at the tolerance that the file states.

        Args:
            key: The ``expect_*`` or ``derived_*`` key.
            actual: The result, of the shape of the stored one.
            quantity: Name under which the file states the tolerance. Integers must be equal.
            rows: (B,) bool, the rows to compare; the others need a comparison of their own.
        """
        expected = self[key]
        exact = not expected.is_floating_point()
        rtol, atol = EXACT if exact else self.file.tolerance(quantity)
        pick = torch.ones(expected.shape[:1], dtype=torch.bool) if rows is None else rows
        assert actual.shape == expected.shape, f"{self.name}/{key}: shape {tuple(actual.shape)}"
        torch.testing.assert_close(
            actual[pick] if pick.ndim else actual,
            expected[pick] if pick.ndim else expected,
            rtol=rtol,
            atol=atol,
            check_dtype=False,
            msg=lambda text: f"{self.name}/{key}: {text}",
        )
        done = self.compared.setdefault(key, np.zeros(pick.shape, dtype=bool))
        self.compared[key] = done | pick.numpy()

    def compare_share(self, key: str, actual: Tensor, quantity: str) -> None:
        """Compare where the file asks that a share of the elements be equal.

        Args:
            key: The ``expect_*`` key.
            actual: The result, of the shape of the stored one.
            quantity: Name under which the file states the tolerance, with a share in ``SHARES``.
        """
        expected, tolerance = self[key], self.file.tolerance(quantity)
        assert actual.shape == expected.shape, f"{self.name}/{key}: shape {tuple(actual.shape)}"
        close = torch.isclose(actual, expected, *tolerance).double().mean().item()
        assert close >= SHARES[self.file.name, quantity], (
            f"{self.name}/{key}: {close:.4%} are equal"
        )
        self.compared[key] = np.ones((), dtype=bool)

    def compare_words(self, key: str, actual: list[str]) -> None:
        """Compare words with a stored array of them."""
        assert actual == list(self.arrays[key]), f"{self.name}/{key}"
        self.compared[key] = np.ones((), dtype=bool)

    def compare_names(self, key: str, actual: set[str]) -> None:
        """Compare names with a stored JSON list of them."""
        assert actual == set(json.loads(str(self.arrays[key]))), f"{self.name}/{key}"
        self.compared[key] = np.ones((), dtype=bool)

    def finish(self) -> None:
        """Fail if a stored result was compared not at all or in part, and no reason is given."""
        expected = {key for key in self.arrays if key.startswith(RESULTS)}
        done = {key for key, rows in self.compared.items() if rows.all()}
        reasons = {
            key
            for key in expected - done
            for pattern, reason in self.not_compared.items()
            if reason and fnmatchcase(f"{self.name}/{key}", pattern)
        }
        missing = sorted(expected - done - reasons)
        assert not missing, f"{self.file.name}.npz, {self.name}: not compared: {missing}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "cases(*patterns, having=None, lacking=None): cases to run on"
    )


def may_miss(module: Any) -> bool:
    """Whether a module's file is absent, and the module says why that may be: ``MAY_MISS``."""
    return hasattr(module, "MAY_MISS") and not golden_path(module.GOLDEN).exists()


def chosen(mark: Any, name: str, arrays: dict[str, np.ndarray]) -> bool:
    """Whether a test with this mark runs on a case."""
    if "having" in mark.kwargs:
        return mark.kwargs["having"] in arrays and mark.kwargs.get("lacking") not in arrays
    return any(fnmatchcase(name, each) for each in mark.args)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        mark = next(metafunc.definition.iter_markers("cases"))
        if may_miss(metafunc.module):
            skip = pytest.mark.skip(reason=metafunc.module.MAY_MISS)
            metafunc.parametrize("case", [pytest.param(None, marks=skip)])
            return
        cases = load(metafunc.module.GOLDEN).cases
        names = [name for name, arrays in cases.items() if chosen(mark, name, arrays)]
        asked = mark.kwargs or mark.args
        assert names, f"{metafunc.module.GOLDEN}.npz holds no case like {asked}"
        metafunc.parametrize("case", names, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    result = yield
    case = pyfuncitem.funcargs.get("case")
    if isinstance(case, Case):
        case.finish()
    return result


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """One case of the module's golden file."""
    module = request.module
    return Case(load(module.GOLDEN), request.param, module.NOT_COMPARED)


@pytest.fixture
def untested_cases(request: pytest.FixtureRequest) -> list[str]:
    """Cases that hold results and that no test of the module runs on."""
    if may_miss(request.module):
        pytest.skip(request.module.MAY_MISS)
    tests = (value for name, value in vars(request.module).items() if name.startswith("test_"))
    marks = [mark for test in tests for mark in getattr(test, "pytestmark", [])]
    marks = [mark for mark in marks if mark.name == "cases"]
    return [
        name
        for name, arrays in load(request.module.GOLDEN).cases.items()
        if any(key.startswith(RESULTS) for key in arrays)
        and not any(chosen(mark, name, arrays) for mark in marks)
    ]
