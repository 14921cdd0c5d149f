import csv
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from elicit_study import HOSTILE, Clock, knowing, make_study, plain_answer
from PIL import Image

import mixbench.functional as mf
from mixbench.config.compose import compose
from mixbench.data.datasets.pack import Pack
from mixbench.data.hmix import CLASSES, read_hmix, stimuli
from mixbench.elicit.consent import usual_consent
from mixbench.elicit.exclusions import doubtful
from mixbench.elicit.export import PROCESSED, class_words, export_study, soft_label
from mixbench.elicit.settings import JUDGING_TASKS, StudySettings
from mixbench.elicit.stimuli import render_stimuli
from mixbench.elicit.study import JUDGEMENT_COLUMNS, Study
from mixbench.errors import UserError


def judged(path, people=2, judge=plain_answer, ms=5000, **fields):
    """A study that some people have finished, who took 5 s for each answer."""
    clock = Clock()
    study = make_study(path, clock=clock, **fields)
    for number in range(people):
        name = f"p{number}"
        study.begin(name)
        study.understood(name, right=True)
        while (state := study.state(name))["stage"] == "trial":
            clock.now += 5
            answer = judge(study.settings, state["trial"])
            uuid = f"{number:08x}-0000-4000-8000-{state['done']:012x}"
            given = {"uuid": uuid, "trial": state["trial"]["id"], "ms": ms, "answer": answer}
            study.answer(name, given)
    return study


@pytest.mark.parametrize("task", JUDGING_TASKS)
def test_the_reader_of_the_release_reads_what_was_exported(tmp_path, task):
    study = judged(tmp_path / "s.db", task=task)
    notes = export_study(tmp_path / "s.db", tmp_path / "out", "hmix", False)
    assert notes[0] == "left out: 4 attention checks"
    found = read_hmix(tmp_path / "out")
    rows = [row for row in study.judgements() if not row["is_check"]]
    facts = [study.stimuli()[row["stimulus_id"]] for row in rows]
    group = getattr(found, {"categorical": "soft"}.get(task, task))
    others = {"infer", "construct", "select", "soft"} - {"soft" if task == "categorical" else task}
    assert all(getattr(found, name) is None for name in others)
    if task == "categorical":
        rows = [row for row in rows if not row["is_repeat"]]
        label = soft_label(json.loads(rows[0]["label_json"]), 3)
        assert len(group.labels) == len(rows)
        assert all(torch.allclose(each, torch.tensor(label).double()) for each in group.labels)
        study.close()
        return
    assert group.pairs.first.tolist() == [each["id1"] for each in facts]
    assert group.pairs.second_class.tolist() == [each["y2"] for each in facts]
    assert group.repeated.tolist() == [bool(row["is_repeat"]) for row in rows]
    people = [row["rater_id"] for row in rows]
    assert (group.subject == group.subject[0]).tolist() == [each == people[0] for each in people]
    if task == "infer":
        np.testing.assert_allclose(group.true, [row["lam_true"] for row in rows])
        np.testing.assert_allclose(group.rated, [row["lam_human"] for row in rows])
        np.testing.assert_allclose(group.confidence, [row["confidence"] for row in rows])
    else:
        np.testing.assert_allclose(group.chosen, [row["lam_human"] for row in rows])
    if task == "construct":
        np.testing.assert_allclose(group.start, [row["start_value"] for row in rows])
    assert group.repeated.sum() == 2
    study.close()


def test_training_images_are_no_test_images_that_must_not_count(tmp_path):
    for split, used in (("train", 0), ("test", 40)):
        judged(tmp_path / f"{split}.db", split=split, people=1).close()
        export_study(tmp_path / f"{split}.db", tmp_path / split, "hmix", False)
        found = read_hmix(tmp_path / split)
        assert found.source.split == split
        assert len(found.used_images) == used


def test_the_processed_file_has_the_fields_and_formulas_of_the_release(tmp_path):
    study = judged(tmp_path / "s.db", people=3)
    export_study(tmp_path / "s.db", tmp_path / "out", "hmix", False)
    found = json.loads((tmp_path / "out" / PROCESSED).read_text())
    judgements = read_hmix(tmp_path / "out").infer
    table = stimuli(judgements, repeats=True)
    assert len(found) == len(table.true) == 20
    weighted = mf.rated_lam(table.ratings, table.confidence, rule="published_weighted")
    for own, ratings, true, again in zip(
        found.values(), table.ratings, table.true, weighted, strict=True
    ):
        kept = ratings[~ratings.isnan()]
        assert own["Predicted Mixing Factor"] == pytest.approx(kept.tolist())
        assert own["True Mixing Factor"] == pytest.approx(float(true))
        assert own["Std Dev"] == pytest.approx(float(kept.std(correction=0)))
        assert own["Re-Label Diff"] == pytest.approx(float(true - kept.mean()))
        assert own["Weighted Re-Label"] == pytest.approx(float(again))
        assert own["Weighted Re-Label Diff"] == pytest.approx(float(true - again))
        assert own.keys() == {
            "Std Dev", "Re-Label Diff", "True Mixing Factor", "Predicted Mixing Factor",
            "Weighted Re-Label", "Weighted Re-Label Diff", "Predicted Confidence", "Endpoints",
            "Class Pair",
        }  # fmt: skip
    study.close()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("task", JUDGING_TASKS)
def test_a_table_has_every_judgement_with_the_columns_of_the_study(tmp_path, task, kind):
    study = judged(tmp_path / "s.db", task=task, names=[HOSTILE, "=1+1", "c"])
    assert export_study(tmp_path / "s.db", tmp_path / f"t.{kind}", kind, False) == []
    rows = study.judgements()
    if kind == "csv":
        with (tmp_path / "t.csv").open() as file:
            found = list(csv.DictReader(file))
        assert [row["lam_human"] for row in found] == [
            "" if row["lam_human"] is None else str(row["lam_human"]) for row in rows
        ]
    else:
        table = pq.read_table(tmp_path / "t.parquet")
        found = table.to_pylist()
        assert [row["lam_human"] for row in found] == [row["lam_human"] for row in rows]
        assert str(table.schema.field("is_check").type) == "bool"
        assert str(table.schema.field("lam_low").type) == "double"
        assert str(table.schema.field("n_moves").type) == "int64"
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert found[0].keys() >= {
        *JUDGEMENT_COLUMNS,
        "dataset",
        "id1",
        "y2",
        "png_sha1",
        "mask_rle",
        "class1",
    }
    study.close()


def test_a_name_of_a_class_is_no_formula_in_a_spreadsheet(tmp_path):
    judged(tmp_path / "s.db", people=1, names=["=1+1", "@x", "c"]).close()
    export_study(tmp_path / "s.db", tmp_path / "t.csv", "csv", False)
    with (tmp_path / "t.csv").open() as file:
        assert {row["class1"] for row in csv.DictReader(file)} == {"'=1+1", "'@x", "c"}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([name.lower() for name in CLASSES], list(CLASSES)),
        (["0", "1", "2"], ["ClassA", "ClassB", "ClassC"]),
        (["maple tree", "../../x", "maple-tree"], ["ClassA", "X", "ClassB"]),
        (["ClassA", "7", "\u65e5"], ["Classa", "ClassA", "ClassB"]),
    ],
)
def test_classes_are_letters_in_names_of_files(names, words):
    assert class_words(names) == words


def test_many_classes_without_letters_keep_apart():
    words = class_words([str(number) for number in range(1000)])
    assert len(set(words)) == 1000
    assert all(word.isalpha() for word in words)


def test_people_who_are_fast_or_fail_a_check_are_doubtful_and_can_be_left_out(tmp_path):
    def mixed(path, ms):
        return judged(path, people=1, ms=ms)

    fast = mixed(tmp_path / "fast.db", 1400)
    (reasons,) = doubtful(fast.judgements(), fast.stimuli()).values()
    assert reasons == ["median of 1.4 s a judgement", "failed 2 of 2 checks"]
    fast.close()
    make_study(tmp_path / "s.db").close()
    study = Study(tmp_path / "s.db")
    study.close()
    with pytest.raises(UserError, match="no judgements"):
        export_study(tmp_path / "s.db", tmp_path / "o.csv", "csv", False)
    with pytest.raises(UserError, match="no judgements"):
        export_study(tmp_path / "fast.db", tmp_path / "o.csv", "csv", True)
    assert not (tmp_path / "o.csv").exists()


def test_an_attentive_person_is_not_doubtful(tmp_path):
    clock = Clock()
    study = make_study(tmp_path / "s.db", clock=clock)
    judge = knowing(study)
    for name, own in (("good", judge), ("bad", plain_answer)):
        study.begin(name)
        study.understood(name, right=True)
        while (state := study.state(name))["stage"] == "trial":
            clock.now += 5
            given = {
                "uuid": f"{len(study.judgements()):08x}-0000-4000-8000-000000000000",
                "trial": state["trial"]["id"],
                "ms": 4000,
                "answer": own(study.settings, state["trial"]),
            }
            study.answer(name, given)
    (person,) = doubtful(study.judgements(), study.stimuli())
    assert person == study.sessions()[1]["rater_id"]
    notes = export_study(tmp_path / "s.db", tmp_path / "out", "hmix", True)
    assert notes[0] == "left out: 23 judgements of 1 doubtful sessions"
    found = read_hmix(tmp_path / "out").infer
    assert set(found.subject.tolist()) == {0}
    np.testing.assert_allclose(found.rated, found.true, atol=1e-6)
    study.close()


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    judged(tmp_path / "s.db", people=1).close()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="not empty"):
        export_study(tmp_path / "s.db", tmp_path / "full", "hmix", False)
    for place in (tmp_path / "full", tmp_path / "no" / "t.csv"):
        with pytest.raises(UserError, match="no csv file"):
            export_study(tmp_path / "s.db", place, "csv", False)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"classes": "abc", "images": 3, "split": "train"}', '{"classes": []}']
)
def test_a_file_that_describes_no_study_is_refused(tmp_path, text):
    judged(tmp_path / "s.db", people=1).close()
    export_study(tmp_path / "s.db", tmp_path / "out", "hmix", False)
    (tmp_path / "out" / "study.json").write_text(text)
    with pytest.raises(UserError, match="does not describe a study"):
        read_hmix(tmp_path / "out")


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_images_of_an_exported_study_are_those_that_people_saw(tmp_path, split):
    rng = np.random.default_rng(0)
    for name, count in (("train", 90), ("test", 72)):
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        names = np.array(["cat", "dog", "ship"])
        np.savez(tmp_path / f"{name}.npz", images=images, label=np.arange(count) % 3,
                 class_names=names, original_index=np.arange(count)[::-1])  # fmt: skip
    words = [f"data.{name}={tmp_path / name}.npz" for name in ("train", "test")]
    words = ["data=pack", *words, "method=mixup", "net.width=4", "data.limit=60"]
    settings = StudySettings(images=12, trials=12, split=split, consent=usual_consent())
    stimuli_shown, names = render_stimuli(compose(words), settings)
    study = Study.create(tmp_path / "s.db", settings, names, stimuli_shown)
    study.begin("p")
    study.understood("p", right=True)
    while (state := study.state("p"))["stage"] == "trial":
        uuid = f"00000000-0000-4000-8000-{state['done']:012x}"
        given = {"uuid": uuid, "trial": state["trial"]["id"], "ms": 5000}
        study.answer("p", given | {"answer": plain_answer(settings, state["trial"])})
    study.close()
    export_study(tmp_path / "s.db", tmp_path / "out", "hmix", False)
    judged_words = [*words, f"data.judgements={tmp_path / 'out'}"]
    splits = Pack(compose(judged_words).data).load()
    found = splits.judged()
    shown = {(e.y1, e.y2, e.lam): e.pictures[0] for e in stimuli_shown if not e.is_check}
    assert len(found.images) == len(shown) == 12
    for image, y1, y2, lam in zip(found.images, found.first, found.second, found.lam, strict=True):
        with Image.open(io.BytesIO(shown[int(y1), int(y2), float(lam)])) as picture:
            seen = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert (image.int() - seen.int()).abs().max() <= 1
    used = {row for e in stimuli_shown if not e.is_check for row in (e.id1, e.id2)}
    assert len(splits.test) == (60 if split == "train" else 60 - len(used))
    with pytest.raises(UserError, match="judgements leave some of them out"):
        render_stimuli(compose(judged_words), settings)
