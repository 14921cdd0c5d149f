import dataclasses
import sys

import pytest

from mixbench.config.source import config_fields, config_is_closed, docstring
from mixbench.methods import METHODS

PARTS = '''
from dataclasses import dataclass, field

from mixbench.methods.base import Method


@dataclass
class Strength:
    low: float = 0.5  # smallest
    high: float = 1.0  # largest, é


class Plain:
    hint: int = 3  # no field, as this is no dataclass


class Waves(Method):
    """Waves."""

    @dataclass
    class Config(Method.Config):
        waves: int = 2  # crests
'''

PARTS += """

class Coarse(Method):
    @dataclass
    class Config(Method.Config):
        coarse: int = 2
"""

METHOD = '''
from dataclasses import dataclass, field

from elsewhere_of_text.parts import Outside
from mixbench.methods.base import Method
from PACKAGE.parts import Coarse, Plain, Strength as Power, Waves

raise AssertionError("imported")


class Mixed(Method):
    """First line."""

    @dataclass
    class Config(Power, Plain, Method.Config):
        own: list[int] = field(default_factory=lambda: [1, 2])  # mine
        high: float = 2.0  # wider


class Inherits(Waves):
    pass


class Above(Waves):
    @dataclass
    class Config(Waves.Config):
        above: bool = False


class Both(Above, Coarse):
    pass


class Foreign(Method):
    @dataclass
    class Config(Outside):
        own: int = 1


class Hidden(Outside, Waves):
    pass


class Missing(Method):
    @dataclass
    class Config(Nowhere):
        own: int = 1


class Circle(Method):
    @dataclass
    class Config(Ring):
        own: int = 1


class Ring(Loop):
    pass


class Loop(Ring):
    pass
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose method must not be imported."""
    name = "package_of_text"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "parts.py").write_text(PARTS, encoding="utf-8")
    (folder / "method.py").write_text(METHOD.replace("PACKAGE", name), encoding="utf-8")
    elsewhere = tmp_path / "elsewhere_of_text"
    elsewhere.mkdir()
    (elsewhere / "__init__.py").write_text('raise AssertionError("imported")')
    (elsewhere / "parts.py").write_text("class Outside:\n    pass")
    monkeypatch.syspath_prepend(tmp_path)
    yield f"{name}.method"
    sys.modules.pop(name, None)


def test_fields_of_the_bases_come_behind_the_own_ones_which_win(package):
    source = f"{package}:Mixed"
    found = [dataclasses.astuple(item) for item in config_fields(source)]
    assert found == [
        ("own", "list[int]", "[1, 2]", "mine"),
        ("high", "float", "2.0", "wider"),
        ("low", "float", "0.5", "smallest"),
    ]
    assert config_is_closed(source)
    assert docstring(source) == "First line."
    assert f"{package.partition('.')[0]}.parts" not in sys.modules


@pytest.mark.parametrize(
    ("name", "keys"),
    [("Inherits", ["waves"]), ("Above", ["above", "waves"]), ("Both", ["above", "waves"])],
)
def test_a_class_has_the_config_of_the_method_that_it_derives_from(package, name, keys):
    assert [item.name for item in config_fields(f"{package}:{name}")] == keys
    assert config_is_closed(f"{package}:{name}")


# Reading on would import other packages.
@pytest.mark.parametrize(
    ("name", "keys"), [("Foreign", ["own"]), ("Hidden", []), ("Missing", ["own"])]
)
def test_what_is_inherited_from_elsewhere_leaves_the_list_open(package, name, keys):
    assert [item.name for item in config_fields(f"{package}:{name}")] == keys
    assert not config_is_closed(f"{package}:{name}")


def test_a_class_that_derives_from_itself_is_no_endless_search(package):
    with pytest.raises(ValueError, match="Circle derives from itself"):
        config_fields(f"{package}:Circle")


@pytest.mark.parametrize("name", METHODS.table)
def test_the_text_of_every_method_names_all_keys_of_its_config(name):
    """Also that no built-in method is left out of the early check of keys."""
    source = METHODS.source(name)
    assert config_is_closed(source)
    fields = dataclasses.fields(METHODS.get(name).Config)
    found = {item.name: item for item in config_fields(source)}
    assert set(found) == {field.name for field in fields}
    assert all(item.comment for item in found.values())
    for field in fields:
        made = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if made else field.default
        assert found[field.name].default == repr(default)


@pytest.mark.parametrize("source", ["mixbench.methods.nothing:X", "mixbench.methods.mixup:X"])
def test_what_is_not_there_is_named(source):
    with pytest.raises(ValueError, match="not found"):
        config_fields(source)
