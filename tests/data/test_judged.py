"""Images that people judged: in training, and out of the test."""

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
from making import photograph, write_judged
from paths import SHARED

import mixbench.functional as mf
from mixbench import compose
from mixbench.data import DATA
from mixbench.data.hmix import read_hmix
from mixbench.data.images import ResidentImages
from mixbench.data.judged import (
    JUDGED_RULES,
    JudgedBatches,
    JudgedMixtures,
    label_table,
    read_judgements,
)
from mixbench.data.loaders import MixData
from mixbench.data.sampling import BatchIndex, KeyedBatches
from mixbench.errors import UserError
from mixbench.functional.ratings import RELABEL_RULES
from mixbench.training.job import resolve

CLASSES, TRAIN, TEST = 4, 40, 24
PUBLISHED = SHARED / "data/hmix.npz"
NEEDS = pytest.mark.skipif(not PUBLISHED.exists(), reason="needs ../shared/data/hmix.npz")


def write_pack(path, count, seed, **more):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    np.savez(path, images=images, label=np.arange(count) % CLASSES, **more)
    return images


def write(path, pairs, true, rated, sure, again=False):
    write_judged(path, pairs, np.arange(TEST) % CLASSES, true, rated, sure, again)


PAIRS = [(0, 1), (0, 1), (2, 7), (2, 7), (2, 7), (5, 8)]
TRUE = [0.25, 0.25, 0.5, 0.5, 0.5, 0.9]
RATED = [0.4, 0.2, 0.5, 0.7, 0.6, 1.0]
SURE = [1.0, 0.5, 0.0, 0.25, 0.5, 0.75]
KEPT = [row for row in range(TEST) if row not in (0, 1, 2, 5, 7, 8)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a pack and judgements of six of its test images."""
    monkeypatch.chdir(tmp_path)
    write_pack("train.npz", TRAIN, 1)
    write_pack("test.npz", TEST, 2)
    write("judged.npz", PAIRS, TRUE, RATED, SURE)
    return tmp_path


WORDS = "data=pack data.train=train.npz data.test=test.npz trainer.accelerator=cpu batch_size=8"


def source(words=""):
    config = compose(f"{WORDS} {words}").data
    return DATA.get(config.kind)(config)


def load(words="", **options):
    return source(words).load(**options)


# The test set.


def test_judged_images_are_not_tested_on_and_all_others_are(place):
    plain, splits = load(), load("data.judgements=judged.npz")
    assert splits.test_rows.tolist() == KEPT
    shown = splits.test[BatchIndex(torch.arange(len(KEPT)), 0)]
    whole = plain.test[BatchIndex(torch.tensor(KEPT), 0)]
    assert torch.equal(shown.images, whole.images)
    assert torch.equal(shown.labels, whole.labels)
    assert splits.info.test_size == len(KEPT) == len(splits.test)
    assert len(splits.train) == TRAIN
    told = [line for line in splits.info.notices if "judged" in line]
    assert told == ["6 test images of 24 that people judged (judged.npz) are not tested on"]
    assert splits.info.name == "train-unjudged"
    assert plain.info.name == "train"
    assert plain.judged is None


def test_an_overlap_is_allowed_and_said(place):
    splits = load("data.judgements=judged.npz data.allow_overlap=true")
    assert len(splits.test) == TEST
    assert splits.info.name == "train"
    (told,) = [line for line in splits.info.notices if "judged" in line]
    assert told.startswith("warning: 6 test images of 24")
    assert "scores too well" in told
    with pytest.raises(UserError, match=r"allow_overlap has no effect without data\.judgements"):
        compose("data=digits data.allow_overlap=true")


def identities(*words):
    return [resolve(compose(f"{WORDS} {more}")).identity for more in words]


def test_another_test_set_is_another_table(place):
    write("other.npz", PAIRS, TRUE, [0.5, *RATED[1:]], SURE)
    shutil.copy("judged.npz", "same.npz")
    judged = "data.judgements=judged.npz"
    found = identities(
        "", judged, f"{judged} data.allow_overlap=true", "data.judgements=other.npz",
        "data.judgements=same.npz", f"{judged} method=hmix method.mode=fixed",
        f"{judged} method=hmix method.mode=fixed method.rule=linear",
    )  # fmt: skip
    plain, unjudged, overlap, other, same, fixed, linear = found
    tables = [each.recipe_hash for each in (plain, unjudged, overlap, other)]
    assert len(set(tables)) == 4
    assert same == unjudged
    assert plain.data_hash != unjudged.data_hash
    # Methods and rules are rows of one table.
    assert unjudged.recipe_hash == fixed.recipe_hash == linear.recipe_hash
    assert len({unjudged.config_hash, fixed.config_hash, linear.config_hash}) == 3


def test_a_subset_is_taken_first_and_an_original_place_is_what_counts(place):
    rng = np.random.default_rng(0)
    order = rng.permutation(TEST)
    with np.load("test.npz") as pack:
        np.savez("test.npz", images=pack["images"][order], label=pack["label"][order],
                 original_index=order)  # fmt: skip
    splits = load("data.judgements=judged.npz")
    assert sorted(splits.test_rows.tolist()) == [
        r for r in range(TEST) if r not in (0, 1, 2, 5, 7, 8)
    ]
    some = load("data.limit=12")
    fewer = load("data.limit=12 data.judgements=judged.npz")
    expected = [row for row in some.test_rows.tolist() if row in KEPT]
    assert fewer.test_rows.tolist() == expected
    assert len(fewer.judged().images) == 3  # they come from all test images


def test_judgements_of_other_images_are_refused(place):
    write("moved.npz", [(first + 1, second) for first, second in PAIRS], TRUE, RATED, SURE)
    with np.load("moved.npz") as found:
        moved = dict(found) | {"infer/class1": found["infer/class1"] - 1}
    np.savez("moved.npz", **{k: np.abs(v) for k, v in moved.items()})
    with pytest.raises(UserError, match="classes of 6 of 12 judged images differ"):
        load("data.judgements=moved.npz")
    everyone = [(row, (row + 1) % TEST) for row in range(TEST)]
    write("all.npz", everyone, [0.5] * TEST, [0.5] * TEST, [1.0] * TEST)
    with pytest.raises(UserError, match="no test image is left"):
        load("data.judgements=all.npz")
    with pytest.raises(UserError, match="no such file or folder of judgements"):
        load("data.judgements=gone.npz")
    write("percent.npz", PAIRS, TRUE, RATED, [100 * sure for sure in SURE])
    with pytest.raises(UserError, match=r"confidence must lie in \[0, 1\]") as caught:
        load("data.judgements=percent.npz")
    assert "divide by 100" in caught.value.todo
    write("unrated.npz", PAIRS, TRUE, [*RATED[:-1], np.nan], SURE)
    with pytest.raises(UserError, match=r"inferred_lambda must lie in \[0, 1\]"):
        load("data.judgements=unrated.npz")
    with np.load("judged.npz") as found:
        unknown = dict(found) | {"infer/class1": found["infer/class1"] + 10}
    np.savez("unknown.npz", **unknown)
    with pytest.raises(UserError, match="classes must be numbered from 0 to 9"):
        load("data.judgements=unknown.npz")


def test_files_are_found_in_the_folder_of_data_sets(place, monkeypatch):
    (place / "sets").mkdir()
    shutil.move("judged.npz", place / "sets/hidden.npz")
    monkeypatch.setenv("MIXBENCH_DATA", str(place / "sets"))
    assert read_judgements("hidden.npz").path == place / "sets/hidden.npz"
    assert len(load("data.judgements=hidden.npz").test) == TEST - 6


# The images.


def test_the_images_are_the_weighted_sums_that_people_saw(place):
    judged = load("data.judgements=judged.npz").judged()
    with np.load("test.npz") as pack:
        pixels = pack["images"].astype(np.float64).transpose(0, 3, 1, 2)
    expected = [
        np.rint(lam * pixels[one] + (1 - lam) * pixels[two])
        for (one, two), lam in (((0, 1), 0.25), ((2, 7), 0.5), ((5, 8), 0.9))
    ]
    np.testing.assert_array_equal(judged.images.numpy(), np.stack(expected))
    assert judged.first.tolist() == [0, 2, 1]
    assert judged.second.tolist() == [1, 3, 0]
    assert judged.lam.tolist() == [0.25, 0.5, 0.9]


def test_a_repeat_is_no_rating_and_an_image_without_another_one_is_none(place):
    again = [False, True, False, False, False, True]
    write("judged.npz", PAIRS, TRUE, RATED, SURE, again)
    splits = load("data.judgements=judged.npz")
    assert splits.judged().ratings.nansum(dim=1).tolist() == pytest.approx([0.4, 1.8])
    assert len(splits.test) == TEST - 6  # which people have seen all the same
    write("judged.npz", PAIRS, TRUE, RATED, SURE, [True] * 6)
    with pytest.raises(UserError, match="nobody judged a weight"):
        load("data.judgements=judged.npz").judged()


def table(rule, omega=0.5, smoothing=0.0, words="data.judgements=judged.npz"):
    judged = load(words).judged()
    return label_table(judged, CLASSES, rule=rule, omega=omega, smoothing=smoothing)


def two_hot(first, second, lam):
    label = np.zeros(CLASSES)
    label[first] += lam
    label[second] += 1 - lam
    return label


def test_labels_follow_the_rules_by_hand(place):
    pairs = ((0, 1), (2, 3), (1, 0))
    weights = {
        "linear": [0.25, 0.5, 0.9],
        "mean": [0.3, 0.6, 1.0],
        "median": [0.3, 0.6, 1.0],
        "conf_weighted": [(0.4 + 0.1) / 1.5, (0.7 * 0.25 + 0.6 * 0.5) / 0.75, 1.0],
        "shrink_half": [
            (0.4 + 0.5 * 0.2 + 0.25) / 2,
            (0.5 + 0.25 * 0.7 + 0.375 + 0.5 * 0.6 + 0.25) / 3,
            0.75 + 0.125,
        ],
        "published_weighted": [(0.4 + 0.1) / 2, (0.0 + 0.175 + 0.3) / 3, 0.75],
    }
    for rule, lams in weights.items():
        found = table(rule)
        expected = [two_hot(*pair, lam) for pair, lam in zip(pairs, lams, strict=True)]
        np.testing.assert_allclose(found.labels[:, 0], expected, atol=1e-6)
        assert found.counts.tolist() == [1, 1, 1]
    smooth = table("smooth_uniform", omega=0.8)
    sure = [0.75, 0.25, 0.75]
    for row, (pair, lam) in enumerate(zip(pairs, weights["mean"], strict=True)):
        share = 0.8 * (1 - sure[row])
        expected = (1 - share) * two_hot(*pair, lam) + share / CLASSES
        np.testing.assert_allclose(smooth.labels[row, 0], expected, atol=1e-6)
    single = table("per_annotator")
    assert single.counts.tolist() == [2, 3, 1]
    for row, ratings in enumerate(([0.4, 0.2], [0.5, 0.7, 0.6], [1.0])):
        for rater, lam in enumerate(ratings):
            expected = two_hot(*pairs[row], lam)
            np.testing.assert_allclose(single.labels[row, rater], expected, atol=1e-6)


@pytest.mark.parametrize("rule", JUDGED_RULES)
def test_every_label_is_a_distribution(place, rule):
    found = table(rule, smoothing=0.1)
    assert bool((found.labels >= 0).all())
    torch.testing.assert_close(found.labels.sum(dim=2), torch.ones(found.labels.shape[:2]))


@pytest.mark.parametrize("rule", JUDGED_RULES)
def test_swapping_the_pair_swaps_nothing_but_the_published_field(place, rule):
    label = table(rule)
    swapped = [(second, first) for first, second in PAIRS]
    turned = [[1 - value for value in values] for values in (TRUE, RATED)]
    write("judged.npz", swapped, *turned, SURE)
    same = torch.allclose(table(rule).labels, label.labels, atol=1e-6)
    assert same == (rule != "published_weighted")


def test_confidence_decides_between_the_mean_and_nothing(place):
    write("judged.npz", PAIRS, TRUE, RATED, [1.0] * 6)
    torch.testing.assert_close(table("smooth_uniform").labels, table("mean").labels)
    write("judged.npz", PAIRS, TRUE, RATED, [0.0] * 6)
    uniform = torch.full((3, 1, CLASSES), 1 / CLASSES)
    torch.testing.assert_close(table("smooth_uniform", omega=1.0).labels, uniform)
    with pytest.raises(UserError, match="nobody was sure at all of 3 images"):
        table("conf_weighted")


# The batches.


def batches(share=0.2, seed=3, rule="per_annotator"):
    splits = load("data.judgements=judged.npz")
    judged = splits.judged()
    found = label_table(judged, CLASSES, rule=rule, omega=0.5)
    return JudgedBatches(splits.train, judged, found, share, seed), splits.train, judged


def test_judged_images_take_a_share_of_each_batch_and_leave_the_rest(place):
    data, train, judged = batches(share=0.25)
    plan = KeyedBatches(TRAIN, 8, seed=3)
    for epoch in range(3):
        for number in range(len(plan)):
            draw = plan.draw(epoch, number)
            batch, plain = data[draw], train[draw]
            mixed = batch.ids >= TRAIN
            assert int(mixed.sum()) == 2
            assert torch.equal(batch.images[~mixed], plain.images[~mixed])
            assert torch.equal(batch.labels[~mixed], plain.labels[~mixed])
            assert torch.equal(batch.ids[~mixed], plain.ids[~mixed])
            assert bool(batch.soft[~mixed].isnan().all())
            assert torch.equal(batch.images[mixed], judged.images[batch.ids[mixed] - TRAIN])
            torch.testing.assert_close(batch.soft[mixed].sum(dim=1), torch.ones(2))


def test_each_is_shown_once_before_any_is_shown_again_and_with_each_rating(place):
    data, *_ = batches(share=0.25)
    shown, ratings = [], {row: set() for row in range(3)}
    for place_ in torch.arange(TRAIN * 12).split(8):
        _, numbers, raters = data.chosen(place_)
        shown += numbers.tolist()
        for number, rater in zip(numbers.tolist(), raters.tolist(), strict=True):
            ratings[number].add(rater)
    rounds = [shown[start : start + 3] for start in range(0, len(shown) - 2, 3)]
    assert all(sorted(each) == [0, 1, 2] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert ratings == {0: {0, 1}, 1: {0, 1, 2}, 2: {0}}


def seen(world, accumulate=1, epochs=2, share=0.3):
    """Image, label and pixels of each place of the training, by any division of its batches."""
    data, *_ = batches(share)
    found = {}
    for rank in range(world):
        plan = KeyedBatches(TRAIN, 8, 3, rank, world, accumulate)
        for epoch in range(epochs):
            for number in range(len(plan)):
                draw = plan.draw(epoch, number)
                batch = data[draw]
                for row, key in enumerate(draw.places.tolist()):
                    soft = batch.soft[row].tolist() if batch.ids[row] >= TRAIN else None
                    found[key] = (int(batch.ids[row]), soft, int(batch.images[row].sum()))
    return found


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 1), (1, 2), (2, 4)])
def test_processes_and_micro_batches_change_nothing(place, world, accumulate):
    assert seen(world, accumulate) == seen(1)


def test_worker_processes_change_nothing(place):
    loaded = {}
    for workers in (0, 2):
        config = compose(f"{WORDS} data.judgements=judged.npz data.workers={workers}")
        data, *_ = batches()
        loader = MixData(load("data.judgements=judged.npz"), config, lambda _, d=data: d)
        loaded[workers] = [(b.images, b.ids, b.soft) for b in loader.train_dataloader()]
    for alone, worked in zip(loaded[0], loaded[2], strict=True):
        for one, other in zip(alone, worked, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.2, 0.3, 1 / 3, 0.7, 1.0])
def test_the_share_is_kept_over_any_number_of_images(place, share):
    data, *_ = batches(share)
    places = torch.arange(9_000)
    count = len(data.chosen(places)[0])
    assert count == int(9_000 * Fraction(share).limit_denominator(1000))
    for part in places[:512].split(128):
        assert abs(len(data.chosen(part)[0]) - 128 * share) < 1.01


def test_other_seeds_show_them_in_other_orders(place):
    orders = [batches(seed=seed)[0].chosen(torch.arange(90))[1].tolist() for seed in (3, 4)]
    assert orders[0] != orders[1]


# Other sources.


def study(folder, split, method="mixup", **more):
    """Judgements as `mixbench elicit export` writes them, of rows of the run's own images."""
    folder.mkdir()
    words = ["Alpha", "Beta", "Gamma", "Delta"]
    facts = {"classes": words, "split": split, "images": 20, "method": method}
    (folder / "study.json").write_text(json.dumps(facts | more))
    lines = ["subject,task,filename,class_pair,responses"]
    for person, (one, two) in enumerate(PAIRS):
        pair = f"{words[one % 4]}_{one}_{words[two % 4]}_{two}"
        answer = '"{""mixingcoeff"": 40, ""confidence"": 50}"'
        lines.append(f"p{person},rate_mixture,mixed_{TRUE[person]}_{pair}.png,{pair}.png,{answer}")
    (folder / "hmix_infer_mixing_factor.csv").write_text("\n".join(lines))
    return folder


def test_a_study_of_training_images_costs_no_test_image(place):
    study(place / "ours", "train")
    splits = load("data.judgements=ours")
    assert len(splits.test) == TEST
    assert splits.info.name == "train"
    judged = splits.judged()
    with np.load("train.npz") as pack:
        pixels = pack["images"].astype(np.float64).transpose(0, 3, 1, 2)
    first = np.rint(0.25 * pixels[0] + 0.75 * pixels[1])
    np.testing.assert_array_equal(judged.images[0].numpy(), first)


def test_no_judged_image_shows_one_of_the_hold_out(place):
    study(place / "ours", "train")
    judged = ((0, 1), (2, 7), (5, 8))
    words = "data.judgements=ours select=val data.val_fraction=0.3"
    splits = load(words, holdout=True)
    rows = {tuple(image.flatten().tolist()) for image in splits.val.sample()}
    with np.load("train.npz") as pack:
        pixels = pack["images"].transpose(0, 3, 1, 2)
    held = [row for row in range(TRAIN) if tuple(pixels[row].flatten().tolist()) in rows]
    free = [pair for pair in judged if not {*pair} & {*held}]
    assert 0 < len(free) < len(judged)
    assert len(splits.judged().images) == len(free)
    lost = f"{3 - len(free)} of 3 judged images cannot be trained on"
    assert any(line.startswith(lost) for line in splits.info.notices)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_study_is_not_read_for_folds_which_number_images_anew(place, split):
    study(place / "ours", split)
    for label in ("Alpha", "Beta", "Delta", "Gamma"):
        (place / "photos" / label).mkdir(parents=True)
        for number in range(10):
            content = photograph(10 * ord(label[0]) + number, 8, 8)
            (place / "photos" / label / f"{number}.png").write_bytes(content)
    words = "data=folder data.root=photos data.folds=2 data.fold=1"
    data = compose(f"{words} data.judgements=ours").data
    with pytest.raises(UserError, match="does not record the fold"):
        DATA.get(data.kind)(data).load()
    # Answers for test images have no place in a fold either.
    assert DATA.get(data.kind)(compose(words).data).load().test_rows is None


def test_images_of_methods_that_make_no_sums_are_not_made_again(place):
    study(place / "ours", "train", "cutmix")
    with pytest.raises(UserError, match="mixed by cutmix"):
        load("data.judgements=ours").judged()
    study(place / "tested", "test", "cutmix")
    assert len(load("data.judgements=tested").test) == TEST - 6


def write_annotated(path, rows, labels):
    np.savez(path, image_index=np.array(rows, np.int16), soft_label=np.array(labels, np.float32))


SOFT = [[0.7, 0.1, 0.1, 0.1], [0.5, 0.5, 0, 0], [0, 0, 0, 1]]


def test_soft_labels_of_single_images_are_judgements_too(place):
    write_annotated("soft.npz", [4, 4, 3], SOFT)
    splits = load("data.judgements=soft.npz")
    assert len(splits.test) == TEST - 2
    judged = splits.judged()
    plain = load().test[BatchIndex(torch.tensor([4, 3]), 0)]
    assert torch.equal(judged.images, plain.images)
    assert judged.first.tolist() == judged.second.tolist() == [0, 3]
    mean = label_table(judged, CLASSES, rule="mean", omega=0.5)
    np.testing.assert_allclose(mean.labels[:, 0], [[0.6, 0.3, 0.05, 0.05], SOFT[2]], atol=1e-6)
    single = label_table(judged, CLASSES, rule="per_annotator", omega=0.5)
    assert single.counts.tolist() == [2, 1]
    np.testing.assert_allclose(single.labels[0], SOFT[:2], atol=1e-6)
    linear = label_table(judged, CLASSES, rule="linear", omega=0.5)
    assert linear.labels[:, 0].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    with pytest.raises(UserError, match="labels of all classes, and no weights"):
        label_table(judged, CLASSES, rule="smooth_uniform", omega=0.5)
    write_annotated("soft.npz", [4], [[0.5, 0.5, 0]])
    with pytest.raises(UserError, match="labels of 3 classes for images of 4"):
        load("data.judgements=soft.npz")


def test_the_rules_are_those_of_the_operation_and_the_weight_of_the_pixels():
    assert {*JUDGED_RULES} == {*RELABEL_RULES, "linear"}


def test_rules_agree_with_the_operation_on_other_devices_of_a_set():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    ratings, sure = torch.tensor([[0.3, 0.5], [1.0, torch.nan]]).double(), torch.full((2, 2), 0.5)
    y = torch.tensor([0, 1])
    judged = JudgedMixtures(images, y, 1 - y, torch.ones(2).double(), ratings, sure.double())
    eye = torch.eye(2, dtype=torch.float64)
    expected = mf.relabel(eye[y], eye[1 - y], ratings, sure.double(), rule="smooth_uniform")
    found = label_table(judged, 2, rule="smooth_uniform", omega=0.5)
    torch.testing.assert_close(found.labels[:, 0], expected.float())


# The published files.


@NEEDS
def test_exactly_the_images_of_h_mix_leave_the_test_set_of_cifar10(tmp_path):
    test = SHARED / "data/cifar10_test10k.npz"
    with np.load(test) as pack:
        names = pack["class_names"]
    images = np.zeros((20, 32, 32, 3), np.uint8)  # the published ones are of the test set
    np.savez(tmp_path / "train.npz", images=images, label=np.arange(20) % 10, class_names=names)
    words = f"data=pack data.train={tmp_path}/train.npz data.test={test}"
    config = compose(f"{words} data.judgements={PUBLISHED}").data
    splits = DATA.get("pack")(config).load()
    used = read_hmix(PUBLISHED).used_images
    assert len(splits.test) == 10_000 - 2_781 == 7_219
    assert not {*splits.test_rows.tolist()} & {*used.tolist()}
    judged = splits.judged()
    assert len(judged.images) == 2_070
    assert int((~judged.ratings.isnan()).sum()) == 4_788
    assert isinstance(splits.train, ResidentImages)
    for rule in JUDGED_RULES:
        labels = label_table(judged, 10, rule=rule, omega=0.5).labels
        torch.testing.assert_close(labels.sum(dim=2), torch.ones(labels.shape[:2]))


@pytest.mark.skipif(not (SHARED / "data/cifar10s.npz").exists(), reason="needs cifar10s.npz")
def test_cifar10s_has_labels_of_a_thousand_images():
    found = read_judgements(str(SHARED / "data/cifar10s.npz"))
    assert len(found.used_images) == 1_000
    assert len(found.soft.labels) == 6_723
