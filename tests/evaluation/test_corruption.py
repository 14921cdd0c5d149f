"""The suite of corruptions: its scores, its sources, and how it goes on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mixbench import compose, run
from mixbench.config.names import COMMON_CORRUPTIONS, CORRUPTION_GROUPS
from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.datasets.digits import Digits
from mixbench.data.images import Batch, ResidentImages, Splits
from mixbench.data.sampling import BatchIndex
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import UserError
from mixbench.evaluation import corruption
from mixbench.evaluation.corruption import CorruptionSuite
from mixbench.evaluation.suite import load_suite
from mixbench.metrics import ece
from mixbench.metrics.corruption import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS
from mixbench.training.reevaluate import evaluate_run, verify_run

INFO = DataInfo(num_classes=3, height=32, width=32, test_size=60, name="noise")
THREE = ["gaussian_noise", "fog", "contrast"]


def smooth_images() -> ResidentImages:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(60, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    return ResidentImages((255 * images).to(torch.uint8), torch.arange(60) % 3)


class Network(nn.Module):
    """A linear network."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3072, 3, generator=generator) / 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight


def suite_of(**given) -> CorruptionSuite:
    suite = load_suite("corruption", EvalConfig(**({"corruptions": THREE} | given)))
    assert isinstance(suite, CorruptionSuite)
    return suite


def judged(suite: CorruptionSuite, images: ResidentImages, batch: int = 64, group=None):
    group = group or ProcessGroup()
    splits = Splits(images, images, INFO)

    def batches(part: str) -> list[Batch]:
        rows = torch.arange(len(images)).split(batch)[group.rank :: group.world]
        return [suite.images(part, splits)[BatchIndex(each, 0)] for each in rows]

    return suite._judge(Network(), batches, INFO, group)


def made_up_counts(names: list[str], images: int = 40) -> dict:
    """Right answers that grow wrong by severity, each corruption by its place."""
    counts: dict = {"clean/n": images}
    for place, part in enumerate(["clean", *(f"{n}/{s}" for n in names for s in range(1, 6))]):
        wrong = 4 if part == "clean" else place % 30 + 5
        hit = torch.ones(images, dtype=torch.bool)
        hit[:wrong] = False
        counts[f"{part}/hit"] = hit
        counts[f"{part}/confidence"] = torch.full((images,), 0.75)
    return counts


def error_of(counts: dict, part: str) -> float:
    return 100 * float((~counts[f"{part}/hit"]).sum()) / len(counts[f"{part}/hit"])


def test_scores_are_means_over_corruptions_groups_and_severities():
    names = list(COMMON_CORRUPTIONS)
    counts = made_up_counts(names)
    found = suite_of(corruptions=names).score(counts)
    table = np.array([[error_of(counts, f"{n}/{s}") for s in range(1, 6)] for n in names])
    assert found["mean_ce_c_gen"] == pytest.approx(table.mean())
    assert found["clean_c_gen"] == pytest.approx(10)
    for group, members in CORRUPTION_GROUPS.items():
        rows = [names.index(name) for name in members]
        assert found[f"{group}_c_gen"] == pytest.approx(table[rows].mean())
    for severity in range(5):
        assert found[f"severity_{severity + 1}_c_gen"] == pytest.approx(table[:, severity].mean())
    for row, name in enumerate(names):
        assert found[f"{name}_c_gen"] == pytest.approx(table[row].mean())
    gaps = np.abs(0.75 - (1 - table / 100))
    assert found["ece_c_gen"] == pytest.approx(gaps.mean())
    assert {name for name in found if not name.endswith("_c_gen")} == set()


def test_corruptions_for_tuning_are_part_of_no_mean():
    names = [*COMMON_CORRUPTIONS, "speckle_noise", "saturate"]
    counts = made_up_counts(names)
    found = suite_of(corruptions=names).score(counts)
    alone = suite_of(corruptions=list(COMMON_CORRUPTIONS)).score(counts)
    assert found == alone | {n: found[n] for n in ("speckle_noise_c_gen", "saturate_c_gen")}
    tuning, counts = suite_of(corruptions=["saturate"]), made_up_counts(["saturate"])
    assert set(tuning.score(counts)) == {"clean_c_gen", "saturate_c_gen"}
    assert tuning.doubts({}, counts) == ["no mean, as none of the 15 common corruptions is there"]


def test_the_record_tells_means_over_other_images_apart(tmp_path):
    def sets(**settings):
        suite = suite_of(**settings)
        return suite.facts(INFO, made_up_counts(suite.names))["sets"]

    names = list(COMMON_CORRUPTIONS)
    assert sets(corruptions=names) == sets(corruptions=[*names[::-1], "saturate"])
    frost = {"corruptions": names, "frost": str(tmp_path)}
    others = [{"corruptions": ["fog"]}, {"corruptions": ["snow"]}, frost]
    assert len({sets(corruptions=names), *(sets(**each) for each in others)}) == 4


def test_published_images_of_imagenet_are_held_against_alexnet(tmp_path):
    names = list(COMMON_CORRUPTIONS)
    suite = suite_of(corruptions=names, corrupted=str(tmp_path))
    counts = made_up_counts(names)
    suite.parts(INFO)
    found = suite.score(counts)
    assert "mce" not in found
    assert found["mean_ce"] == suite_of(corruptions=names).score(counts)["mean_ce_c_gen"]
    assert {name for name in found if not name.endswith("_c")} == {"mean_ce"}
    suite.parts(DataInfo(num_classes=1000, height=224, width=224))
    found = suite.score(counts)
    errors = {n: np.mean([error_of(counts, f"{n}/{s}") for s in range(1, 6)]) for n in names}
    shares = [errors[name] / ALEXNET_ERRORS[name] for name in names]
    assert found["mce"] == pytest.approx(np.mean(shares))
    lost = [(errors[n] - 10) / (ALEXNET_ERRORS[n] - ALEXNET_CLEAN_ERROR) for n in names]
    assert found["rel_mce"] == pytest.approx(np.mean(lost))


def test_a_mean_over_a_part_is_marked_or_not_given(tmp_path):
    fewer = [name for name in COMMON_CORRUPTIONS if name != "jpeg_compression"]
    suite, counts = suite_of(corruptions=fewer), made_up_counts(fewer)
    assert "mean_ce_c_gen" in suite.score(counts)
    (doubt,) = suite.doubts({}, counts)
    assert "14 of 15 corruptions, without jpeg_compression" in doubt
    published = suite_of(corruptions=fewer, corrupted=str(tmp_path))
    published.parts(INFO)
    assert "mean_ce" not in published.score(counts)
    assert "no mean_ce" in published.doubts({}, counts)[0]
    assert not suite_of(corruptions=list(COMMON_CORRUPTIONS)).doubts({}, {})


def test_batches_and_processes_change_nothing():
    images, suite = smooth_images(), suite_of(corruptions=["shot_noise", "glass_blur", "snow"])
    whole = judged(suite, images)
    assert judged(suite, images, batch=7).scores == pytest.approx(whole.scores, rel=1e-6)

    class Rank(ProcessGroup):
        """One of two processes, which keeps what it would send and gets nothing back."""

        def all_reduce_sum(self, counts):
            return counts

        def all_gather(self, value):
            sent.append(value)
            return [value]

    sent: list = []
    for rank in range(2):
        judged(suite, images, batch=16, group=Rank(rank, 2))
    half = len(sent) // 2
    joined = {}
    for part, first, second in zip(suite.parts(INFO), sent[:half], sent[half:], strict=True):
        order = torch.cat([first["ids"], second["ids"]]).argsort()
        for name in ("confidence", "hit"):
            joined[f"{part}/{name}"] = torch.cat([first[name], second[name]])[order]
    assert suite.score(joined) == pytest.approx(whole.scores, rel=1e-6)


def test_confidence_is_that_of_the_corrupted_images():
    images, suite = smooth_images(), suite_of()
    outcome = judged(suite, images)
    splits = Splits(images, images, INFO)
    whole = suite.images("fog/4", splits)[BatchIndex(torch.arange(60), 0)]
    x = suite.seen("fog/4", whole, INFO).float() / 255
    logits = Network()(x)
    wrong = 100 * float((logits.argmax(1) != images.labels).double().mean())
    assert outcome.facts["errors"]["fog"][3] == pytest.approx(wrong, abs=1e-3)
    gaps = []
    for part in [f"{n}/{s}" for n in THREE for s in range(1, 6)]:
        x = suite.seen(part, whole, INFO).float() / 255
        gaps.append(float(ece(Network()(x).detach(), images.labels)))
    assert outcome.scores["ece_c_gen"] == pytest.approx(np.mean(gaps), abs=1e-6)


def test_the_record_says_how_images_were_made(tmp_path):
    names = ["frost", "fog"]
    facts = suite_of(corruptions=names).facts(INFO, made_up_counts(names))
    assert facts["source"] == "made by mixbench"
    assert facts["constants"] == "CIFAR-C, for images of 32 pixels"
    assert facts["textures"].startswith("procedural")
    assert [len(row) for row in facts["errors"].values()] == [5, 5]
    counts = made_up_counts(["frost"])
    icy = suite_of(corruptions=["frost"], frost=str(tmp_path)).facts(INFO, counts)
    assert icy["textures"] == str(tmp_path)
    suite = suite_of()
    again = suite.as_recorded(icy)
    assert again is not None
    assert again.config.frost == str(tmp_path)
    assert suite.as_recorded(icy | {"textures": str(tmp_path / "gone")}) is None
    ours = suite.as_recorded(facts)
    assert ours is not None
    assert ours.config.frost is None
    info = DataInfo(num_classes=3, height=28, width=28, test_size=60)
    counts = made_up_counts(["fog"])
    text = suite_of(corruptions=["fog"]).facts(info, counts)["constants"]
    assert text.endswith("the nearest size to 28 x 28")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"corruptions": ["fogg"]}, "did you mean 'fog'"),
        ({"corruptions": []}, "has no corruption"),
        ({"corrupted": "nowhere"}, "no such folder"),
        ({"frost": "nowhere"}, "no effect on no frost"),
        ({"frost": "nowhere", "corruptions": ["frost"]}, "the texture frost1.png cannot be read"),
    ],
)
def test_settings_that_cannot_be_carried_out_are_refused(given, text):
    with pytest.raises(UserError, match=text):
        suite_of(**given).check()
    with pytest.raises(ValueError, match="names an entry twice"):
        EvalConfig(corruptions=["fog", "fog"])


def test_images_that_are_too_small_are_refused_before_any_work():
    small = DataInfo(num_classes=3, height=8, width=8, name="dots")
    assert "16 pixels or more, and dots has 8" in suite_of().refusal(small)
    assert not suite_of(corrupted=".").refusal(small)
    assert suite_of().refusal(DataInfo(3, 32, 32, task="multilabel"))


def test_all_images_are_looked_at_unless_a_number_is_given():
    assert suite_of().limit is None
    assert suite_of(adv_n=None).limit is None
    assert suite_of(adv_n=20).limit == 20
    assert suite_of().after_training(1) is not None


# A finished run, on which the suite is carried out.


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    words = ["data=digits", "data.limit=64", "net.width=4", "epochs=1", "batch_size=16"]
    words += [f"run.dir={place}", "wandb.mode=disabled", "eval.suites=[]"]
    return place / run(compose(words)).id


WORDS = ["eval.corruptions=[contrast,shot_noise]"]


def test_the_suite_goes_on_behind_the_last_finished_part(finished, monkeypatch):
    whole = evaluate_run(finished, WORDS, ["corruption"]).metrics
    made = corruption.corrupt
    seen: list[tuple[str, int]] = []

    def counted(images, name, severity, **more):
        seen.append((name, severity))
        return made(images, name, severity, **more)

    def stopped(images, name, severity, **more):
        if (name, severity) == ("shot_noise", 2):
            raise KeyboardInterrupt
        return made(images, name, severity, **more)

    monkeypatch.setattr(corruption, "corrupt", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(finished, WORDS, ["corruption"])
    assert (finished / "corruption.parts.npz").exists()
    monkeypatch.setattr(corruption, "corrupt", counted)
    again = evaluate_run(finished, WORDS, ["corruption"]).metrics
    assert seen == [("shot_noise", severity) for severity in (2, 3, 4, 5)]
    assert again == whole
    assert not (finished / "corruption.parts.npz").exists()


def test_a_record_is_verified_and_a_changed_score_is_found(finished):
    record = evaluate_run(finished, [*WORDS, "eval.adv_n=20"], ["corruption"])
    assert record.evaluations["corruption"]["images"] == 20
    verified = verify_run(finished)
    names = {name for name in record.metrics if name.endswith("_c_gen")}
    assert names <= set(verified.compared)
    assert not names & set(verified.left)
    text = (finished / "record.json").read_text()
    value = repr(record.metrics["shot_noise_c_gen"])
    (finished / "record.json").write_text(
        text.replace(f'"shot_noise_c_gen": {value}', '"shot_noise_c_gen": 12.5')
    )
    with pytest.raises(Exception, match="shot_noise_c_gen"):
        verify_run(finished)


def test_other_corruptions_take_the_place_of_those_before(finished):
    evaluate_run(finished, WORDS, ["corruption"])
    record = evaluate_run(finished, ["eval.corruptions=[fog]"], ["corruption"])
    assert "fog_c_gen" in record.metrics
    assert "contrast_c_gen" not in record.metrics
    assert record.evaluations["corruption"]["corruptions"] == ["fog"]


def test_published_images_are_judged_and_verified_where_they_lie(finished, tmp_path):
    splits = Digits(compose(["data=digits", "data.limit=64"]).data).load()
    assert splits.test_rows is not None
    whole = int(splits.test_rows.max()) + 1
    images = np.zeros((5 * whole, 32, 32, 3), np.uint8)
    labels = np.zeros((5, whole), np.int64)
    labels[:, splits.test_rows] = splits.test.labels
    seen = splits.test[BatchIndex(torch.arange(len(splits.test)), 0)].images
    for severity in range(5):  # the test images themselves
        rows = severity * whole + splits.test_rows
        images[rows] = seen.permute(0, 2, 3, 1).numpy()
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "labels.npy", labels.ravel())
    words = [f"eval.corrupted={tmp_path}", "eval.corruptions=[fog]"]
    record = evaluate_run(finished, words, ["corruption"])
    facts = record.evaluations["corruption"]
    assert facts["source"] == "published files"
    assert record.metrics["fog_c"] == record.metrics["clean_c"] == 100 - record.metrics["top1"]
    assert "fog_c_gen" not in record.metrics
    assert "fog_c" in verify_run(finished).compared
    (tmp_path / "fog.npy").rename(tmp_path / "other.npy")
    with pytest.raises(UserError, match=r"no fog\.npy"):
        verify_run(finished)
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    tmp_path.rmdir()
    assert "is no longer there" in verify_run(finished).left["fog_c"]
