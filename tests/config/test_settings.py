import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import OmegaConf

from mixbench.config.schema import RunConfig, keys_not_in_identity
from mixbench.config.settings import (
    Settings,
    conditions_of,
    default_of,
    info_of,
    setting,
    type_of,
    walk,
)
from mixbench.methods import METHODS


@dataclass
class Inner(Settings):
    prefix = "inner."

    word: str = setting("a", "a word", one_of=("a", "b"))
    place: str | None = setting(None, "a place", identity=False)


@dataclass
class Outer(Settings):
    positive: float = setting(1.0, "a positive number", above=0, official=2.0)
    count: int = setting(1, "a number of things", at_least=1)
    share: float = setting(0.5, "a share", within=(0, 1))
    chance: float = setting(0.0, "a chance", at_least=0, below=1)
    part: float = setting(1.0, "a part", above=0, at_most=1)
    scale: float = setting(-1.0, "a scale", within=(0, 10), also=-1.0)
    small: float = setting(0.0, "a small number", at_most=3)
    maybe: float | None = setting(None, "a number or none", above=0)
    shares: list[float] = setting([0.5], "some shares", within=(0, 1), only_when={"count": (2, 3)})
    names: list[str] = setting(["a"], "some names", one_of=("a", "b"))
    free: Any = setting("", "anything")
    plain: int = 3
    inner: Inner = field(default_factory=Inner)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("key", "good", "bad", "text"),
    [
        ("positive", [1e-9, 5], [0, -1, NAN, INF], "must be > 0 and finite"),
        ("count", [1, 99], [0], "must be >= 1 and finite"),
        ("share", [0, 1, 0.3], [-0.1, 1.1, NAN, INF], "must lie in [0, 1]"),
        ("chance", [0, 0.99], [1, -0.1, NAN], "must lie in [0, 1)"),
        ("part", [1, 0.1], [0, 1.1], "must lie in (0, 1]"),
        ("scale", [-1, 0, 10], [-0.5, 11, NAN], "must lie in [0, 10] or be -1.0"),
        ("small", [3, -9], [3.5, -INF], "must be <= 3 and finite"),
        ("maybe", [None, 1], [0], "must be > 0"),
        ("free", [NAN, "x", None, -5], [], ""),
        ("plain", [-5], [], ""),
    ],
)
def test_a_value_is_held_against_the_range_of_its_field(key, good, bad, text):
    for value in good:
        assert getattr(Outer(**{key: value}), key) is value
    for value in bad:
        with pytest.raises(ValueError, match=re.escape(f"{key} {text}")) as error:
            Outer(**{key: value})
        assert str(error.value).endswith(f"got {value}")


def test_each_item_of_a_list_is_checked():
    assert Outer(shares=[], names=["b", "a"]).names == ["b", "a"]
    with pytest.raises(ValueError, match=r"shares must lie in \[0, 1\], got 2"):
        Outer(shares=[0.5, 2])
    with pytest.raises(ValueError, match="names must be one of a, b, got 'c'"):
        Outer(names=["a", "c"])


def test_a_message_names_the_key_with_its_section_and_the_words_allowed():
    with pytest.raises(ValueError, match=r"^inner\.word must be one of a, b, got 'c'$"):
        Inner(word="c")


def test_null_is_only_for_a_field_whose_type_allows_it():
    assert Inner(place=None).place is None
    with pytest.raises(TypeError):
        Outer(share=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"inner\.word must be one of"):
        Inner(word=None)  # type: ignore[arg-type]


def test_lists_are_not_shared_between_objects():
    first, second = Outer(), Outer()
    first.shares.append(0.1)
    assert second.shares == Outer().shares == [0.5]


def test_a_subclass_keeps_the_checks_of_its_base_beside_its_own():
    @dataclass
    class Sub(Outer):
        extra: int = setting(1, "more", at_least=1)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.extra > self.count:
                raise ValueError("extra exceeds count")

    for key, value in (("share", 2), ("extra", 0), ("extra", 2)):
        with pytest.raises(ValueError, match=key):
            Sub(**{key: value})


def test_the_facts_of_a_field_stand_in_one_place():
    found = dict(walk(Outer))
    assert [key for key in found if "." in key] == ["inner.word", "inner.place"]
    assert info_of(found["positive"]).meaning == "a positive number"
    assert info_of(found["positive"]).official == 2.0
    assert info_of(found["shares"]).only_when == {"count": (2, 3)}
    assert not info_of(found["inner.place"]).identity
    assert info_of(found["plain"]).meaning == ""
    assert (default_of(found["shares"]), type_of(found["shares"])) == ([0.5], "list[float]")
    assert (type_of(found["maybe"]), type_of(found["count"])) == ("float | None", "int")
    allowed = {key: info_of(item).allowed for key, item in found.items()}
    assert allowed["scale"] == "in [0, 10] or -1.0"
    assert allowed["inner.word"] == "a or b"
    assert allowed["free"] == allowed["plain"] == ""


def test_a_class_tells_what_all_its_fields_need():
    @dataclass
    class Mixed(Settings):
        prefix, only_when, unconditional = "mixed.", {"mixed.prob": (1,)}, ("loss",)

        prob: float = setting(1.0, "a share")
        loss: str = setting("a", "a loss")
        alpha: float = setting(1.0, "a number", only_when={"mixed.loss": ("a",)})

    @dataclass
    class Whole(Settings):
        mixed: Mixed = field(default_factory=Mixed)

    needed = [("alpha", "mixed.prob", (1,)), ("alpha", "mixed.loss", ("a",))]
    assert conditions_of(Mixed) == needed
    assert conditions_of(Whole, "all.") == [(f"all.mixed.{key}", *rest) for key, *rest in needed]


def test_settings_become_plain_values_and_come_back():
    tree = OmegaConf.structured(Outer)
    OmegaConf.update(tree, "shares", [0.1, 0.2])
    made = OmegaConf.to_object(tree)
    assert made == Outer(shares=[0.1, 0.2])
    assert dataclasses.asdict(made)["inner"] == {"word": "a", "place": None}


@pytest.mark.parametrize("name", METHODS.table)
def test_every_key_of_a_method_says_what_it_means(name):
    for item in dataclasses.fields(METHODS.get(name).Config):
        assert info_of(item).meaning, item.name


def test_every_key_of_a_run_says_what_it_means():
    assert [key for key, item in walk(RunConfig) if not info_of(item).meaning] == []
    assert (
        {"seed", "run.dir", "data.workers"} < keys_not_in_identity() < dict(walk(RunConfig)).keys()
    )


@pytest.mark.parametrize("value", [[0.5], [0.2, 0.3, 0.4], [0.4, 0.3], [float("nan"), 1.0]])
def test_ends_are_two_in_their_order(value):
    @dataclasses.dataclass
    class Drawn(Settings):
        prefix = "method."
        span: list[float] = setting([0.1, 0.8], "ends of what is drawn", above=0, ends=True)

    assert Drawn(span=[0.3, 0.3]).span == [0.3, 0.3]
    with pytest.raises(ValueError, match=r"method.span must be \[smallest, largest\], got"):
        Drawn(span=value)
    with pytest.raises(ValueError, match=r"method.span must be > 0 and finite, got 0.0"):
        Drawn(span=[0.0, 0.5])
