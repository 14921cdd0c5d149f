"""Training labels from elsewhere."""

import numpy as np
import pytest
import torch
from making import source, twin
from paths import SHARED

from mixbench import compose, run
from mixbench.errors import UserError
from mixbench.records.curves import read_curves
from mixbench.training.job import resolve
from mixbench.training.reevaluate import verify_run

IMAGES = SHARED / "data"

shared = pytest.mark.skipif(
    not IMAGES.is_dir(), reason="the real image data is not beside the checkout"
)
ORDER = np.array([7, 0, 5, 3, 2, 6])  # places of the pack's images in the original ten


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))


@pytest.fixture
def place(tmp_path):
    """A pack of six of ten images of three classes, and two sets of labels of all ten."""
    rng = np.random.default_rng(0)
    clean = np.arange(10) % 3
    images = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    pack = {"images": images[ORDER], "label": clean[ORDER], "original_index": ORDER}
    np.savez(tmp_path / "part.npz", class_names=["a", "b", "c"], **pack)
    np.savez(tmp_path / "whole.npz", class_names=["a", "b", "c"], images=images, label=clean)
    test = {"images": images[::-1], "label": clean[::-1], "original_index": np.arange(10)[::-1]}
    np.savez(tmp_path / "test.npz", class_names=["a", "b", "c"], **test)
    worse, fair = (clean + 1) % 3, clean.copy()
    worse[3], fair[0] = clean[3], 2
    labels = {"clean_label": clean, "worse_label": worse, "fair_label": fair}
    small = {key: values.astype(np.uint8) for key, values in labels.items()}
    np.savez(tmp_path / "people.npz", allow_pickle=False, **small)
    return tmp_path


def packed(place, *words, train="part"):
    files = [f"data.train={place / f'{train}.npz'}", f"data.test={place / 'test.npz'}"]
    return source("data=pack", *files, *words)


def people(place, name="worse"):
    return f"data.labels={place / 'people.npz'}:{name}"


def test_training_labels_are_those_of_each_image_s_own_place(place):
    plain, noisy = packed(place).load(), packed(place, people(place)).load()
    assert torch.equal(noisy.train.images, plain.train.images)  # pyright: ignore
    expected = [(row % 3 + (row != 3)) % 3 for row in ORDER.tolist()]
    assert noisy.train.labels.tolist() == expected
    assert noisy.info.label_noise == pytest.approx(5 / 6)
    assert plain.info.label_noise is None


def test_a_set_without_original_places_takes_the_labels_in_their_order(place):
    splits = packed(place, people(place, "fair"), train="whole").load()
    assert splits.train.labels.tolist() == [2, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert splits.info.label_noise == pytest.approx(0.1)


def test_test_labels_and_the_images_of_subsets_and_hold_outs_stay(place):
    whole = packed(place, train="whole").load().train.images  # pyright: ignore
    for words in ([], ["data.limit=4"], ["data.train_fraction=0.5"]):
        plain, noisy = (
            packed(place, *words, *more, train="whole").load(holdout=not words)
            for more in ([], [people(place)])
        )
        assert torch.equal(noisy.test.labels, plain.test.labels)
        assert torch.equal(noisy.train.images, plain.train.images)  # pyright: ignore
        images = plain.train.images  # pyright: ignore
        rows = [row for image in images for row in range(10) if image.equal(whole[row])]
        assert plain.train.labels.tolist() == [row % 3 for row in rows]
        expected = (plain.train.labels + 1) % 3
        left = noisy.train.labels != expected  # the original image 3 keeps its label
        assert torch.equal(noisy.train.labels[left], plain.train.labels[left])
        assert int(left.sum()) <= 1
        if not words:
            assert plain.val is not None
            assert noisy.val is not None
            assert torch.equal(noisy.val.images, plain.val.images)  # pyright: ignore
            assert noisy.val.labels.tolist() == [(plain.val.labels.item() + 1) % 3]


def test_the_places_of_the_test_images_are_known(place):
    assert packed(place).load().test_rows.tolist() == list(range(10))[::-1]  # pyright: ignore
    few = packed(place, "data.limit=6").load()
    assert [row % 3 for row in few.test_rows.tolist()] == few.test.labels.tolist()  # pyright: ignore
    whole = source(
        "data=pack",
        f"data.train={place / 'whole.npz'}",
        f"data.test={twin(place / 'whole.npz', place)}",
    )
    assert whole.load().test_rows.tolist() == list(range(10))  # pyright: ignore


def test_a_run_is_named_after_its_labels_and_known_by_their_content(place):
    files = [f"data.train={place / 'part.npz'}", f"data.test={place / 'test.npz'}"]

    def named(*words):
        return resolve(compose(["data=pack", *files, *words])).identity

    plain, worse, fair = named(), named(people(place)), named(people(place, "fair"))
    assert worse.id.startswith("erm-part_worse-")
    assert len({each.config_hash for each in (plain, worse, fair)}) == 3
    assert len({each.recipe_hash for each in (plain, worse, fair)}) == 3
    assert len({each.data_hash for each in (plain, worse, fair)}) == 3
    with np.load(place / "people.npz") as content:
        changed = dict(content)
    np.savez(place / "elsewhere.npz", worse=changed["worse_label"].astype(np.int64))
    assert named(f"data.labels={place / 'elsewhere.npz'}") == worse  # the same, wherever it lies
    changed["worse_label"][9] = changed["clean_label"][9]
    np.savez(place / "people.npz", allow_pickle=False, **changed)
    assert named(people(place)).config_hash != worse.config_hash


def test_a_prepared_set_keeps_its_own_labels(place):
    from mixbench.data.files.cache import prepare

    plain = packed(place).load().train.labels
    prepare(packed(place, people(place)))
    assert torch.equal(packed(place).load().train.labels, plain)
    assert packed(place, people(place)).load().info.label_noise == pytest.approx(5 / 6)


def test_the_record_and_the_log_tell_the_noise(place, runs):
    files = [f"data.train={place / 'part.npz'}", f"data.test={place / 'test.npz'}"]
    words = ["data=pack", *files, "net.width=4", "epochs=1", "batch_size=6", "wandb.mode=disabled"]
    record = run(compose([*words, "data.crop=0", people(place)]))
    assert record.data == "part+worse"
    assert record.label_noise == pytest.approx(5 / 6)
    assert "changed 83.33 %" in (runs / record.id / "log.txt").read_text()
    assert "top1" in verify_run(runs / record.id).compared  # the other labels are known again
    rows, _ = read_curves(runs / record.id / "metrics.csv")
    assert rows


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing.npz:worse", "file of labels does not exist"),
        ("people.npz", "several sets of labels(.|\n)*worse, fair"),
        ("people.npz:wors", "no set of labels 'wors'; did you mean 'worse'"),
        ("people.npz:clean", "no set of labels 'clean'"),
        ("text.npz:worse", "cannot be read as an .npz of labels"),
        ("short.npz", "rows 0 to 7(.|\n)*same data set"),
        ("shifted.npz:worse", "differs from the data set for 6 of 6 images"),
        ("high.npz", "labels run from 0 to 3 and there are 3 classes"),
        ("soft.npz", r"whole numbers \(N,\), got float64 \(10, 3\)"),
        ("uneven.npz:worse", "10 labels but 9 in clean_label"),
    ],
)
def test_labels_of_other_images_are_refused(place, given, message):
    clean = np.arange(10) % 3
    (place / "text.npz").write_text("labels")
    np.savez(place / "short.npz", people=clean[:7])
    np.savez(place / "shifted.npz", worse=clean, clean_label=(clean + 1) % 3)
    np.savez(place / "high.npz", people=clean + (np.arange(10) == 5))
    np.savez(place / "soft.npz", people=np.eye(3)[clean])
    np.savez(place / "uneven.npz", worse=clean, clean_label=clean[:9])
    with pytest.raises(UserError, match=message):
        packed(place, f"data.labels={place / given}").load()


def test_other_sizes_are_refused_where_no_place_is_known(place):
    np.savez(place / "more.npz", people=np.arange(11) % 3)
    with pytest.raises(UserError, match=r"11 labels for 10 training images(.|\n)*original_index"):
        packed(place, f"data.labels={place / 'more.npz'}", train="whole").load()


def test_a_pack_with_too_few_places_is_refused(place):
    with np.load(place / "part.npz") as content:
        members = dict(content)
    members["original_index"] = ORDER[:5]
    np.savez(place / "part.npz", allow_pickle=False, **members)
    with pytest.raises(UserError, match="original_index has 5 rows for 6 training images"):
        packed(place, people(place)).load()


@shared
@pytest.mark.parametrize(
    ("name", "share"),
    [("aggre", 0.0901), ("worse_label", 0.4021), ("random1", 0.1723), ("random_label3", 0.1764)],
)
def test_the_labels_of_cifar_10n_belong_to_the_images_of_the_pack(name, share):
    from mixbench.data.labels import labels_of, read_labels

    other = read_labels(f"{IMAGES / 'cifar10n_labels.npz'}:{name}")
    with np.load(IMAGES / "cifar10_train30k.npz") as pack:
        labels, rows = (torch.from_numpy(pack[key].astype(np.int64)) for key in KEYS)
        taken = labels_of(other, labels, rows, pack["class_names"].tolist())
    assert float((taken != labels).float().mean()) == pytest.approx(share, abs=0.01)
    with pytest.raises(UserError, match="in another order"):
        labels_of(other, labels, rows.flip(0), [""] * 10)


KEYS = ("label", "original_index")


def test_a_run_on_other_labels_verifies_and_only_on_these(place, runs):
    files = [f"data.train={place / 'part.npz'}", f"data.test={place / 'test.npz'}"]
    words = ["data=pack", *files, "net.width=4", "epochs=1", "batch_size=6", "wandb.mode=disabled"]
    folder = runs / run(compose([*words, "data.crop=0", people(place), "eval.suites=[]"])).id
    assert verify_run(folder).record.verified is True
    with np.load(place / "people.npz") as content:
        changed = dict(content)
    changed["worse_label"][9] = changed["clean_label"][9]
    np.savez(place / "people.npz", allow_pickle=False, **changed)
    with pytest.raises(UserError, match="not those that"):
        verify_run(folder)
