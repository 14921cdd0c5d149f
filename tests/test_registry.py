import importlib.metadata

import pytest

from mixbench.config.names import CORE, METHODS
from mixbench.errors import UserError
from mixbench.registry import Registry


@pytest.fixture
def registry() -> Registry:
    return Registry("tool", {"path": "pathlib:Path", "broken": "no_such_module:X"}, "mixbench.none")


def test_a_table_name_is_imported_on_request(registry):
    from pathlib import Path

    assert registry.get("path") is Path


def test_names_match_a_pattern(registry):
    assert registry.names("p*") == ["path"]
    assert registry.names() == ["broken", "path"]


def test_an_unknown_name_gives_the_nearest_and_all_names(registry):
    with pytest.raises(UserError, match="unknown tool 'pth'; did you mean 'path'") as error:
        registry.check("pth")
    assert "broken, path" in str(error.value)


def test_the_name_of_a_module_of_the_working_directory_is_told_how_to_be_written(
    registry, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_mix.py").touch()
    with pytest.raises(
        UserError, match=r"write own_mix:NAME for what own_mix\.py defines, or choo"
    ):
        registry.check("own_mix")
    with pytest.raises(UserError) as error:
        registry.check("other_mix")
    assert ":NAME" not in str(error.value)


def test_a_broken_entry_is_reported_by_name_and_leaves_the_others_usable(registry):
    with pytest.raises(UserError, match="tool 'broken' cannot be imported"):
        registry.get("broken")
    assert registry.get("path")


def test_module_and_attribute_work_without_registration(registry):
    import collections

    assert registry.get("collections:OrderedDict") is collections.OrderedDict
    with pytest.raises(UserError, match="cannot be imported"):
        registry.get("collections:Missing")


def test_what_lacks_the_words_of_its_kind_or_is_no_class_is_refused():
    registry = Registry("tool", {}, "mixbench.none", needs=("exists",))
    assert registry.get("pathlib:Path")
    with pytest.raises(UserError, match="not a tool: it has no exists"):
        registry.get("collections:OrderedDict")
    with pytest.raises(UserError, match="os:path is not a tool"):  # a module with that word
        registry.get("os:path")


@pytest.mark.parametrize("name", ["a b:c", "os;ls:x", ":x", "x:", "../x:y"])
def test_what_is_no_module_path_is_an_unknown_name(registry, name):
    with pytest.raises(UserError, match="unknown tool"):
        registry.get(name)


def test_a_name_cannot_be_registered_twice(registry):
    @registry.register("mine")
    class First:
        pass

    class Second:
        pass

    assert registry.get("mine") is First
    with pytest.raises(UserError, match="registered already"):
        registry.register("mine")(Second)
    with pytest.raises(UserError, match="registered already"):
        registry.register("path")(Second)


def test_an_entry_point_is_listed_and_loaded_on_look_up(monkeypatch):
    entry = importlib.metadata.EntryPoint("plugged", "collections:deque", "mixbench.test")
    monkeypatch.setattr(
        "mixbench.registry.metadata.entry_points",
        lambda group: [entry] if group == "mixbench.test" else [],
    )
    registry = Registry("tool", {}, "mixbench.test")
    assert registry.names() == ["plugged"]
    from collections import deque

    assert registry.get("plugged") is deque


@pytest.mark.parametrize("name", METHODS.names())
def test_the_table_agrees_with_the_decorators(name):
    cls = METHODS.get(name)
    assert f"{cls.__module__}:{cls.__qualname__}" == METHODS.table[name]
    assert METHODS._objects[name] is cls


def test_the_core_methods_of_this_version_are_registered():
    assert set(CORE) <= set(METHODS.names())
    assert len(CORE) == 7
