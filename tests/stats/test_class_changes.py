import itertools

import numpy as np
import pytest
from scipy import stats

from mixbench.stats.class_changes import class_changes


def bonett_price(only_mine, only_other, n, level):
    """The interval of the paper, of the numbers of images that one network alone gets right."""
    a, b = (only_mine + 1) / (n + 2), (only_other + 1) / (n + 2)
    half = stats.norm.ppf(0.5 + level / 2) * np.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return 100 * max(-1, a - b - half), 100 * min(1, a - b + half)


def test_the_interval_of_two_networks_is_the_published_one_at_a_level_for_all_classes():
    labels = np.repeat([0, 2, 5], [40, 25, 10])  # classes 1, 3 and 4 have no image
    mine, other = np.ones(75), np.ones(75)
    other[:6], mine[6:8] = 0, 0  # class 0: six that only mine gets right, two that only other does
    mine[40:50] = 0
    first, second, third = class_changes(mine, other, labels)
    assert [item.label for item in (first, second, third)] == [0, 2, 5]
    assert [item.images for item in (first, second, third)] == [40, 25, 10]
    assert [i.change for i in (first, second, third)] == pytest.approx([10, -40, 0])
    level = 1 - 0.05 / 3
    cases = ((first, 6, 2, 40), (second, 0, 10, 25), (third, 0, 0, 10))
    for item, only_mine, only_other, n in cases:
        expected = bonett_price(only_mine, only_other, n, level)
        assert (item.low, item.high) == pytest.approx(expected, rel=1e-4)
    assert second.high < 0
    assert third.low < 0 < third.high  # agreement on ten images is no proof


def test_the_order_of_images_and_the_names_of_methods_do_not_matter():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    mine, other = rng.random((2, 300)) < 0.8, rng.random((3, 300)) < 0.7
    found = class_changes(mine, other, labels)
    order = rng.permutation(300)
    shuffled = class_changes(mine[:, order], other[:, order], labels[order])
    turned = class_changes(other, mine, labels)
    for item, moved, back in zip(found, shuffled, turned, strict=True):
        assert vars(item) == pytest.approx(vars(moved))
        assert (item.change, item.low, item.high) == pytest.approx(
            (-back.change, -back.high, -back.low)
        )


def test_seeds_that_differ_as_wholes_make_intervals_wider():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 200)

    def hits(sd):
        rate = 0.8 + sd * np.random.default_rng(1).standard_normal((6, 10))
        found = np.random.default_rng(2).random((6, 2000)) < rate[:, labels]
        return found[:3], found[3:]

    def width(pair):
        return np.mean([item.high - item.low for item in class_changes(*pair, labels)])

    calm, wild = width(hits(0.0)), width(hits(0.08))
    assert wild > 2 * calm
    # Seeds that differ image by image and not as wholes add nothing to what images already tell.
    mine, theirs = hits(0.0)
    mean = mine.mean(axis=0) - theirs.mean(axis=0)
    images = [mean[labels == label] for label in range(10)]
    errors = [np.sqrt(((d**2).sum() + 2) / 202 - (d.mean() * 200 / 202) ** 2) for d in images]
    plain = 2 * stats.t.ppf(1 - 0.0025, 40) * 100 * np.mean(errors) / np.sqrt(202)
    assert calm == pytest.approx(plain, rel=0.15)
    same = np.tile(rng.random(2000) < 0.8, (3, 1))
    other = np.tile(rng.random(2000) < 0.8, (3, 1))
    # Seeds that are one and the same network: only the quantile of t tells.
    alone = width((same[:1], other[:1]))
    t = stats.t.ppf(1 - 0.0025, 40) / stats.norm.ppf(1 - 0.0025)
    assert width((same, other)) == pytest.approx(t * alone, rel=1e-4)


def truth(base, effect, image_sd, seed_sd, noise, rng):
    z = rng.normal(0, image_sd, 40_000) + rng.normal(0, seed_sd, 40_000)
    z = np.sort(z + rng.logistic(0, noise, 40_000))
    rate = lambda shift: 1 - np.searchsorted(z, -shift) / len(z)  # noqa: E731
    return 100 * (rate(base + effect) - rate(base))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "images", "seeds", "rounds"),
    [(10, 100, 1, 150), (100, 100, 1, 60), (10, 1000, 3, 60)],
)
def test_all_intervals_of_a_table_hold_at_once(classes, images, seeds, rounds):
    rng = np.random.default_rng(0)
    labels, held = np.repeat(np.arange(classes), images), 0
    for _ in range(rounds):
        base, effect = rng.normal(2, 0.7, classes), rng.normal(0, 0.3, classes)
        difficulty = rng.normal(0, 2, len(labels))

        def networks(shift, base=base, difficulty=difficulty):
            whole = rng.normal(0, 0.15 if seeds > 1 else 0, (seeds, classes))
            z = (base + shift + whole)[:, labels] + difficulty
            return z + rng.logistic(0, 0.6, z.shape) > 0

        found = class_changes(networks(effect), networks(0), labels)
        true = truth(base, effect, 2, 0.15 if seeds > 1 else 0, 0.6, rng)
        held += all(item.low <= value <= item.high for item, value in zip(found, true, strict=True))
    # Nominal 95 %: fewer would come by chance once in a thousand tables of tests.
    assert held >= stats.binom.ppf(1e-3, rounds, 0.94)


@pytest.mark.slow
def test_no_harm_is_found_where_there_is_none():
    rng = np.random.default_rng(0)
    labels, found = np.repeat(np.arange(50), 100), 0
    for _ in range(100):
        right = rng.random(5000) < 0.75
        mine, other = (right ^ (rng.random(5000) < 0.1) for _ in range(2))
        found += any(item.high < 0 or item.low > 0 for item in class_changes(mine, other, labels))
    assert found <= stats.binom.ppf(0.999, 100, 0.06)


@pytest.mark.parametrize(
    "shapes", [((3, 4), (2, 5), 4), ((4,), (4,), 5), ((2, 0), (2, 0), 0), ((1, 2, 4), (4,), 4)]
)
def test_hits_of_other_images_are_refused(shapes):
    mine, other, labels = shapes
    with pytest.raises(ValueError, match=r"\(seeds, images\)"):
        class_changes(np.zeros(mine), np.zeros(other), np.zeros(labels))


def test_every_class_that_has_images_is_told():
    for counts in itertools.product([0, 1, 3], repeat=3):
        labels = np.repeat([0, 1, 2], counts)
        if len(labels):
            found = class_changes(np.ones(len(labels)), np.zeros(len(labels)), labels)
            assert [item.images for item in found] == [n for n in counts if n]
            assert all(-100 <= item.low <= item.high <= item.change == 100 for item in found)
