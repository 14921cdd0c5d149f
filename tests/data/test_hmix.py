import csv
import json

import numpy as np
import pytest
import torch
from paths import SHARED

import mixbench.functional as mf
from mixbench.data.hmix import CLASSES, read_hmix, stimuli
from mixbench.errors import UserError
from mixbench.stats.label_map import fit_label_map

INFER = [  # file name, slider, confidence, person, whether again
    ("mixed_0.5_Dog_2205_Frog_6908.png", 26, 100, "p1", False),
    ("mixed_0.5_Dog_2205_Frog_6908.png", 50, 20, "p2", False),
    ("mixed_0.1_Airplane_4126_Frog_5936.png", 100, 80, "p1", False),
    ("mixed_0.9_Airplane_4126_Frog_5936.png", 0, 70, "p2", False),
    ("mixed_0.25_Cat_7_Truck_9999.png", 60, 0, "p3", False),
    ("mixed_0.5_Dog_2205_Frog_6908.png", 36, 90, "p1", True),
]
PAIRS = [("Bird_9624_Deer_9585", "p1"), ("Cat_7_Truck_9999", "p2"), ("Cat_7_Truck_9999", "p2")]


def pair_of(name):
    return name.split("_", 2)[2]


def write_csv(path, rows):
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def release(tmp_path):
    """A folder like that of the release, of a few judgements."""
    rows = [{"subject": "p1", "task": "", "filename": "", "class_pair": "", "responses": ""}]
    rows += [
        {
            "subject": person,
            "task": "rerun_rate_mixture" if again else "rate_mixture",
            "filename": name,
            "class_pair": pair_of(name),
            "responses": json.dumps({"mixingcoeff": slider, "confidence": sure}),
        }
        for name, slider, sure, person, again in INFER
    ]
    write_csv(tmp_path / "hmix_infer_mixing_factor.csv", rows)
    tasks = ["select_create", "select_create", "rerun_select_create"]
    rows = [
        {"subject": person, "task": task, "class_pair": pair, "starting_value": start}
        | {"final_value": chosen}
        for (pair, person), task, start, chosen in zip(
            PAIRS, tasks, [0.1, 0.9, 0.9], [0.6000000000000001, 0.4, 0.5], strict=True
        )
    ]
    write_csv(tmp_path / "hmix_construct_midpoint.csv", rows)
    rows = [
        {"subject": person, "task": task.replace("create", "shuffled"), "class_pair": pair}
        | {"response": json.dumps({"select": f"select{chosen}"})}
        for (pair, person), task, chosen in zip(PAIRS, tasks, [0.3, 0.5, 0.4], strict=True)
    ]
    write_csv(tmp_path / "hmix_select_shuffled_midpoint.csv", rows)
    labels = {INFER[0][0]: [[0.0] * 5 + [0.75, 0.25, 0, 0, 0], [0.1] * 10]}
    (tmp_path / "hmix_individ_soft_labels.json").write_text(json.dumps(labels))
    return tmp_path


def packed(found, path):
    """The judgements as an .npz."""
    arrays = {}
    for name in ("infer", "construct", "select", "soft"):
        group = getattr(found, name)
        words = ("index1", "class1", "index2", "class2")
        values = dict(zip(words, group.pairs, strict=True))
        if name == "infer":
            keys = ("true_lambda", "inferred_lambda", "confidence", "subject", "is_repeat")
        elif name == "soft":
            keys = ("true_lambda", "soft_label")
        else:
            keys = ("start_lambda", "chosen_lambda", "subject", "is_repeat")
        values |= dict(zip(keys, group[1:], strict=True))
        if name == "select":
            del values["start_lambda"]
        arrays |= {f"{name}/{key}": value.numpy() for key, value in values.items()}
    # As the file of the tests has them: shares in single precision, small whole numbers.
    arrays = {
        k: v.astype(np.float32 if v.dtype == np.float64 else np.int16) for k, v in arrays.items()
    }
    np.savez(path, **arrays)
    return path


def test_the_slider_is_turned_round(release):
    infer = read_hmix(release).infer
    assert infer is not None
    expected = [1 - slider / 100 for _, slider, *_ in INFER]
    assert infer.rated.tolist() == pytest.approx(expected)
    assert infer.true.tolist() == [0.5, 0.5, 0.1, 0.9, 0.25, 0.5]
    assert infer.confidence.tolist() == [1, 0.2, 0.8, 0.7, 0, 0.9]
    assert infer.subject.tolist() == [0, 1, 0, 1, 2, 0]
    assert infer.repeated.tolist() == [False] * 5 + [True]
    assert infer.pairs.first.tolist() == [2205, 2205, 4126, 4126, 7, 2205]
    names = [CLASSES[row] for row in infer.pairs.second_class]
    assert names == ["Frog", "Frog", "Frog", "Frog", "Truck", "Frog"]


def test_midpoints_and_labels_are_read_beside_them(release):
    found = read_hmix(release)
    assert found.construct is not None
    assert found.select is not None
    assert found.soft is not None
    assert found.construct.chosen.tolist() == [0.6, 0.4, 0.5]
    assert found.construct.start.tolist() == [0.1, 0.9, 0.9]
    assert found.construct.repeated.tolist() == [False, False, True]
    assert found.select.chosen.tolist() == [0.3, 0.5, 0.4]
    assert found.select.start.isnan().all()
    assert found.soft.labels[0, 5:7].tolist() == [0.75, 0.25]
    assert found.soft.true.tolist() == [0.5, 0.5]
    assert found.used_images.tolist() == [7, 2205, 4126, 5936, 6908, 9585, 9624, 9999]


def test_both_layouts_hold_the_same_judgements(release, tmp_path):
    folder = read_hmix(release)
    archive = read_hmix(packed(folder, tmp_path / "packed.npz"))
    assert archive.fingerprint() == folder.fingerprint()
    (release / "hmix_construct_midpoint.csv").unlink()
    part = read_hmix(release)
    assert part.construct is None
    assert part.fingerprint() != folder.fingerprint()


def test_ratings_are_gathered_by_image_and_repeats_left_out(release):
    infer = read_hmix(release).infer
    assert infer is not None
    found = stimuli(infer)
    assert found.true.tolist() == [0.5, 0.1, 0.9, 0.25]
    assert found.pairs.first.tolist() == [2205, 4126, 4126, 7]
    expected = [[0.74, 0.5], [0.0, torch.nan], [1.0, torch.nan], [0.4, torch.nan]]
    torch.testing.assert_close(found.ratings, torch.tensor(expected).double(), equal_nan=True)
    again = stimuli(infer, repeats=True)
    assert again.ratings[0].tolist() == pytest.approx([0.74, 0.5, 0.64])
    assert again.confidence[0].tolist() == [1, 0.2, 0.9]


def rewrite(release, file, old, new):
    path = release / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("hmix_infer_mixing_factor.csv", "mixed_0.5_Dog", "mixed_0.5_Wolf", "classes are Airplane"),
        ("hmix_infer_mixing_factor.csv", "_6908.png", "_16908.png", "0 to 9999"),
        (
            "hmix_infer_mixing_factor.csv",
            '"mixingcoeff"',
            '"coefficient"',
            "files of the release",
        ),
        ("hmix_infer_mixing_factor.csv", '"": 26', '"": 126', r"in \[0, 1\]"),
        (
            "hmix_construct_midpoint.csv",
            "final_value",
            "last_value",
            "files of the release",
        ),
        (
            "hmix_select_shuffled_midpoint.csv",
            "select0.3",
            "selectall",
            "files of the release",
        ),
        ("hmix_individ_soft_labels.json", "0.75", "0.95", "sums of 1"),
    ],
)
def test_files_that_are_no_judgements_are_named(release, file, old, new, message):
    rewrite(release, file, old, new)
    with pytest.raises(UserError, match=message) as caught:
        read_hmix(release)
    assert file in caught.value.where


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        read_hmix(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no judgements"):
        read_hmix(tmp_path)
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(UserError, match="no judgements"):
        read_hmix(tmp_path / "other.npz")
    np.savez(tmp_path / "part.npz", **{"infer/index1": np.zeros(3, np.int16)})
    with pytest.raises(UserError, match="class1"):
        read_hmix(tmp_path / "part.npz")


@pytest.mark.skipif(not (SHARED / "data/hmix.npz").exists(), reason="needs ../shared/data/hmix.npz")
def test_the_published_judgements_have_the_published_facts():
    found = read_hmix(SHARED / "data/hmix.npz")
    assert found.infer is not None
    assert found.construct is not None
    assert found.select is not None
    assert found.soft is not None
    sizes = [(int((~g.repeated).sum()), int(g.repeated.sum())) for g in (*found[2:4], found.infer)]
    assert sizes == [(1350, 90), (750, 50), (4788, 162)]
    assert len(found.soft.labels) == 216
    assert len(found.used_images) == 2781
    people = [len(g.subject.unique()) for g in (found.construct, found.select, found.infer)]
    assert people == [45, 25, 81]
    images = stimuli(found.infer)
    assert len(images.true) == 2070
    counts = (~images.ratings.isnan()).sum(dim=1)
    assert (int(counts.min()), int(counts.max())) == (2, 4)
    again = stimuli(found.infer, repeats=True)  # as the authors' processed file counts
    seen = mf.rated_lam(again.ratings)
    means = [float(seen[again.true == lam].mean()) for lam in (0.1, 0.25, 0.5, 0.75, 0.9)]
    assert means == pytest.approx([0.138, 0.207, 0.479, 0.756, 0.831], abs=6e-4)
    ids = torch.randperm(2070, generator=torch.Generator().manual_seed(0))[:200]
    ratings, sure = images.ratings[ids], images.confidence[ids]
    eye = torch.eye(10).double()
    pairs = [eye[each[ids]] for each in (images.pairs.first_class, images.pairs.second_class)]
    for rule in ("mean", "smooth_uniform", "per_annotator"):
        labels = mf.relabel(*pairs, ratings, sure, rule=rule)
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(200).double())
    once = ~found.infer.repeated
    arrays = (each[once].numpy() for each in found.infer[1:4])
    knots, rated, _ = fit_label_map(*arrays)
    assert knots.tolist() == [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]
    assert rated[1] > 0.1  # people see the weaker image as stronger than it is
