import pytest

from mixbench.records.marks import health
from mixbench.records.record import Record

WORDS = dict.fromkeys(("method", "data", "net", "recipe", "config_hash", "recipe_hash"), "x")


def record(**more):
    return Record(**(WORDS | {"id": "a", "seed": 0, "epochs": 1, "select": "last"} | more))


def test_nothing_speaks_against_a_run_without_a_mark():
    assert health(record(status="done")) == [
        "The run bears no mark: nothing speaks against its scores."
    ]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"marks": ["few steps"]}, ['"few steps": training took fewer']),
        ({"marks": ["few steps", "chance"]}, ['"few steps"', '"chance": the score is not above']),
        ({"marks": ["of a newer version"]}, ['"of a newer version".']),
        ({"verified": False}, ["found that the record is not true"]),
        ({"skipped_test": 3}, ["test images that cannot be read"]),
        ({"config_changes": {"lr": [1, 2]}}, ["the configuration was changed"]),
        (
            {"evaluations": {"adversarial": {"warnings": ["gradients are masked"]}}},
            ["The suite adversarial warns: gradients are masked"],
        ),
    ],
)
def test_each_word_of_caution_is_a_sentence(facts, words):
    told = health(record(status="done", **facts))
    assert len(told) == len(words)
    assert all(part in line for part, line in zip(words, told, strict=True))


def test_a_run_that_did_not_finish_says_why():
    (told,) = health(record(status="diverged", message="weights are not finite"))
    assert "diverged: weights are not finite" in told
