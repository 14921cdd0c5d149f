import pytest

from mixbench.words import counted


@pytest.mark.parametrize(
    ("number", "noun", "shown"),
    [
        (0, "image", "0 images"),
        (1, "optimiser step", "1 optimiser step"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (1000, "epoch", "1,000 epochs"),
    ],
)
def test_a_noun_follows_its_number(number, noun, shown):
    assert counted(number, noun) == shown
