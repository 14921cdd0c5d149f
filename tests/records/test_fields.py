from typing import Any, Literal, TypedDict

import pytest

from mixbench.records.fields import check_fields


class Facts(TypedDict, total=False):
    images: int


HINTS = {
    "name": str,
    "count": int,
    "share": float | None,
    "flag": bool,
    "status": Literal["done", "failed"],
    "scores": dict[str, float],
    "names": list[str],
    "facts": dict[str, Facts],
    "extra": dict[str, Any],
}
FITS = [
    {"name": "a", "count": -3, "share": 1, "flag": True},
    {"share": None, "status": "failed"},
    {"share": 0.5, "scores": {"top1": 90, "nll": float("nan")}, "names": []},
    {"facts": {"a": {"images": 3, "novel": [1]}}, "extra": {"b": [{}]}},
    {"unknown": {1, 2}},
]
MISFITS = [
    ({"name": 1}, "name must be text, and is a whole number"),
    ({"name": None}, "name must be text"),
    ({"count": True}, "count must be a whole number, and is true or false"),
    ({"count": 1.0}, "count must be a whole number"),
    ({"count": 1 << 63}, "count is beyond 64 bits"),
    ({"share": 10**400}, "share is beyond 64 bits"),
    ({"share": False}, "share must be a number or null"),
    ({"share": "0.5"}, "share must be a number or null"),
    ({"flag": 1}, "flag must be true or false"),
    ({"status": "finished"}, "status must be one of done, failed"),
    ({"status": ["done"]}, "status must be one of done, failed"),
    ({"scores": {"top1": None}}, r"scores\.top1 must be a number"),
    ({"scores": [1.0]}, "scores must be a mapping"),
    ({"names": ["a", 2]}, r"names\[2\] must be text"),
    ({"facts": {"a": 3}}, r"facts\.a must be a mapping"),
    ({"facts": {"a": {"images": "3"}}}, r"facts\.a\.images must be a whole number"),
]


@pytest.mark.parametrize("content", FITS, ids=str)
def test_values_of_the_annotated_types_fit(content):
    check_fields(content, HINTS)


@pytest.mark.parametrize(("content", "text"), MISFITS, ids=lambda value: str(value)[:40])
def test_other_values_are_named_with_what_was_expected(content, text):
    with pytest.raises(ValueError, match=text):
        check_fields(content, HINTS)
