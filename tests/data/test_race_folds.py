import pytest
import torch

from mixbench import compose
from mixbench.data.images import Content, ResidentImages
from mixbench.data.race_folds import choose_folds, fold_rows, training_rows
from mixbench.data.source import DataSource
from mixbench.errors import UserError


def labels_of(*counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def test_folds_are_disjoint_and_every_class_has_its_share_in_each():
    labels = labels_of(203, 57, 40)
    folds = [fold_rows(labels, number, 5) for number in range(5)]
    assert torch.cat(folds).sort().values.equal(torch.arange(300))
    for name in range(3):
        held = [int((labels[rows] == name).sum()) for rows in folds]
        assert max(held) - min(held) <= 1
    assert not folds[0].equal(torch.arange(60))


def test_a_fold_holds_5000_images_at_most_and_the_rest_is_trained_on():
    labels = labels_of(30_000, 30_000)
    assert choose_folds(labels).count == 10
    rows = fold_rows(labels, 9, 10)
    assert len(rows) == 5000
    assert int((labels[rows] == 0).sum()) == 2500
    assert len(training_rows(60_000, rows)) == 55_000


@pytest.mark.parametrize(
    ("counts", "folds"),
    [((5000, 4999), 5), ((5000, 5000), 10), ((100, 100), 4), ((60, 60), 2), ((300, 7), 3)],
)
def test_the_number_of_folds_follows_the_images_and_the_rarest_class(counts, folds):
    found = choose_folds(labels_of(*counts))
    assert found.count == folds
    rows = [fold_rows(labels_of(*counts), number, folds) for number in range(folds)]
    assert found.images == min(map(len, rows)) >= 50


@pytest.mark.parametrize(("counts", "told"), [((49, 49), "49 images"), ((300, 3), "1 of the rar")])
def test_a_set_that_is_too_small_is_refused_with_the_counts(counts, told):
    with pytest.raises(UserError, match=rf"{sum(counts)} training images are too few.*{told}"):
        choose_folds(labels_of(*counts))


def test_with_several_labels_the_rarest_class_is_dealt_out_evenly():
    labels = torch.zeros(500, 3)
    labels[:, 0] = 1
    labels[::50, 1] = 1  # ten images
    labels[::7, 2] = 1
    labels[3, 1] = float("nan")
    held = [int((labels[fold_rows(labels, number, 5)][:, 1] == 1).sum()) for number in range(5)]
    assert held == [2] * 5
    assert choose_folds(labels).count == 5


class Untouchable(ResidentImages):
    """Test images that nobody may look at; whoever does is counted."""

    looks = 0

    def __init__(self) -> None:
        pass

    def _look(self, *_: object) -> None:
        Untouchable.looks += 1
        raise AssertionError("a test image was looked at")

    labels = images = boxes = extents = shape = property(_look)  # type: ignore[assignment]
    __getitem__ = sample = subset = shown = resized = to = with_labels = __len__ = _look  # type: ignore[assignment]


class Sealed(DataSource):
    """A data set whose test set is sealed."""

    def fingerprint(self) -> str:
        return "sealed"

    def read(self) -> Content:
        numbers = torch.arange(300)
        pixels = torch.stack([numbers // 256, numbers % 256, numbers % 3], dim=1).to(torch.uint8)
        train = ResidentImages(pixels[:, :, None, None].repeat(1, 1, 8, 8), numbers % 3)
        return Content(train, Untouchable(), ["a", "b", "c"])


@pytest.mark.parametrize("words", ["", "data.size=16", "data.limit=250", "data.train_fraction=0.9"])
def test_a_run_that_chooses_looks_at_no_test_image(words):
    config = compose(f"data=digits data.race_fold=2/5 {words}").data
    splits = Sealed(config).load()
    assert Untouchable.looks == 0
    total = len(splits.train) + len(splits.test)
    assert len(splits.test) == pytest.approx(total / 5, abs=1)
    assert splits.info.test_size == len(splits.test)
    assert splits.test_rows is None
    assert splits.test_names() is None


def test_the_guard_of_the_test_set_notices_a_look():
    with pytest.raises(AssertionError, match="looked at"):
        Sealed(compose("data=digits").data).load()
    Untouchable.looks = 0


def test_a_fold_holds_the_same_images_for_all_seeds_and_none_of_them_is_trained_on():
    def numbers(images: ResidentImages) -> set[int]:
        return {256 * high + low for high, low, _ in images.images[:, :, 0, 0].tolist()}

    folds: list[set[int]] = []
    for number in range(5):
        source = Sealed(compose(f"data=digits data.race_fold={number}/5").data)
        splits, again = source.load(), source.load()
        assert numbers(splits.test) == numbers(again.test)
        assert numbers(splits.train) == set(range(300)) - numbers(splits.test)
        folds.append(numbers(splits.test))
    assert set.union(*folds) == set(range(300))
    assert sum(map(len, folds)) == 300


@pytest.mark.parametrize("value", ["5/5", "0/1", "-1/5", "a/b", "1", "1/5/2", "0/0"])
def test_what_is_no_fold_is_refused(value):
    with pytest.raises(UserError, match=r"data\.race_fold must be NUMBER/OF"):
        compose(f"data=digits data.race_fold={value}")
