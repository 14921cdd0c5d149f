import math

import numpy as np
import pytest
import torch
from torch import nn

from mixbench import compose, run
from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.augment.batches import to_float
from mixbench.data.images import ResidentImages, Splits
from mixbench.data.loaders import MixData
from mixbench.data.ood import KEY
from mixbench.data.sampling import BatchIndex
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import RunFailedError, UserError
from mixbench.evaluation.ood import IMAGE_SCORES, INSIDE, MEASURES, NOISE_IMAGES, NoiseImages
from mixbench.evaluation.suite import Outcome, load_suite
from mixbench.metrics import detection_scores, ood_score
from mixbench.records.record import read_record, write_record
from mixbench.training.reevaluate import evaluate_run, verify_run

INFO = DataInfo(3, 8, 8, name="dots", test_size=150)


class Sure(nn.Module):
    """A network that is the surer of its class the brighter an image is."""

    device = torch.device("cpu")
    info = INFO

    def forward(self, x):
        x = x.double()
        bright = x.mean(dim=(1, 2, 3)).round(decimals=6)  # equal in batches of any size
        return torch.stack([4 * bright, 0.5 * x[:, 0, 0, 0], -bright], dim=1)

    def transfer_batch_to_device(self, batch, device, number):
        return batch


def images(count, low, high, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, 8, 8)
    return torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture
def outside(tmp_path):
    """Packs of images that are darker, and as bright as those of the test."""
    paths = []
    for name, high in (("dark", 120), ("alike", 256)):
        path = tmp_path / f"{name}.npz"
        np.savez(path, images=images(70, 0, high, high).permute(0, 2, 3, 1))
        paths.append(str(path))
    return paths


def splits():
    shown = ResidentImages(images(150, 0, 256, 1), torch.arange(150) % 3)
    return Splits(shown, shown, INFO)


def judged(words, group=None, model=None, folder=None):
    data = MixData(splits(), compose(["data=digits", "batch_size=8"]))
    suite = load_suite("ood", EvalConfig(ood=words))
    suite.check()
    suite.check_data(data.splits)
    return suite.run(model or Sure(), data, group or ProcessGroup(), folder=folder)


def test_the_measures_are_those_of_the_scores_of_all_images(outside):
    found = judged(outside).scores
    assert found["dark_auroc"] > 95
    assert 40 < found["alike_auroc"] < 60
    pixels = [torch.from_numpy(np.load(path)["images"]).permute(0, 3, 1, 2) for path in outside]
    inside, *others = (Sure()(to_float(x)) for x in (splits().test.images, *pixels))
    for ending, kind in IMAGE_SCORES.items():
        tables = [
            detection_scores(ood_score(inside, kind), ood_score(each, kind)) for each in others
        ]
        for measure in MEASURES:
            mean = sum(table[measure] for table in tables) / 2
            assert found[f"{measure}{ending}"] == pytest.approx(mean), (measure, ending)


def test_noise_takes_no_part_in_the_mean(outside):
    plain, noisy = judged(outside).scores, judged([*outside, "uniform", "gaussian"]).scores
    assert {key: noisy[key] for key in plain} == plain
    assert "uniform_auroc" in noisy
    assert "auroc" not in judged(["uniform"]).scores


def test_a_line_of_noise_alone_is_not_empty():
    suite = load_suite("ood", EvalConfig(ood=["uniform"]))
    scores = [f"uniform_{measure}" for measure in MEASURES]
    assert suite.headline(scores) == ["uniform_auroc", "uniform_fpr95"]
    assert suite.headline(["auroc", "fpr95", *scores]) == ["auroc", "fpr95"]


def test_the_record_tells_of_each_set(outside):
    facts = judged([*outside[:1], "gaussian"]).facts
    assert facts["sets"] == "dark"
    assert facts["words"] == [outside[0], "gaussian"]
    assert facts["images"] == 150
    assert facts["outside_images"] == 70 + NOISE_IMAGES
    told = facts["by_set"]["dark"]
    assert told["images"] == 70
    assert told["source"] == outside[0]
    assert told["scores"].keys() >= {"auroc", "auroc_energy", "fpr95_oodpos_entropy"}
    assert "not checked" in facts["overlap"]


def test_grey_images_are_counted_aloud(tmp_path):
    path = tmp_path / "grey.npz"
    np.savez(path, images=images(9, 0, 256, 3)[:, 0])
    outcome = judged([str(path)])
    assert outcome.facts["by_set"]["grey"]["grey"] == outcome.facts["outside_grey"] == 9
    assert "9 of 9 of grey" in outcome.warnings[0]


class Shares(ProcessGroup):
    """One of several processes, whose values are kept; it is handed what others have kept."""

    def __init__(self, rank, world, others=()):
        super().__init__(rank, world)
        self.others, self.kept = others, []

    def broadcast(self, value):
        return value

    def all_reduce_sum(self, counts):
        self.sums = counts
        place = len(self.kept)
        return {
            k: v + sum(each.kept[place][0][k] for each in self.others) for k, v in counts.items()
        }

    def all_gather(self, value):
        self.kept.append((self.sums, value))
        place = len(self.kept) - 1
        return [*(each.kept[place][1] for each in self.others), value]


@pytest.mark.parametrize("world", [2, 5])
def test_several_processes_find_what_one_does(outside, world):
    words = [*outside, "uniform"]
    alone = judged(words)
    others = []
    for rank in range(world - 1):  # of few images some see none
        others.append(Shares(rank, world, []))
        judged_alone = load_suite("ood", EvalConfig(ood=words))
        data = MixData(splits(), compose(["data=digits", "batch_size=8"]))
        for part in judged_alone.parts(INFO):
            source = judged_alone.images(part, data.splits)
            rows = judged_alone.batches(source.labels, others[-1])
            judged_alone._counted(part, Sure(), data.part_of(source, rows), INFO, others[-1])
    together = judged(words, Shares(world - 1, world, others))
    assert together.scores == alone.scores
    assert together.facts["by_set"] == alone.facts["by_set"]


def test_noise_belongs_to_the_image():
    whole = NoiseImages("gaussian", (4, 6))
    rows = torch.tensor([7, 3, 900])
    alone = whole[BatchIndex(rows, 0)].images
    assert alone.shape == (3, 3, 4, 6)
    assert torch.equal(alone[1], whole[BatchIndex(torch.tensor([3]), 0)].images[0])
    assert torch.equal(alone, whole.subset(rows).sample())
    values = NoiseImages("gaussian", (8, 8)).sample().double() / 255
    assert float((values == 0).double().mean()) == pytest.approx(0.3085, abs=0.01)  # below 0
    flat = NoiseImages("uniform", (8, 8)).sample().flatten()
    counts = flat.bincount(minlength=256)
    assert counts.min() > 0.8 * len(flat) / 256


def test_outputs_that_are_no_numbers_leave_no_score(outside):
    class Broken(Sure):
        def forward(self, x):
            logits = super().forward(x)
            return torch.where(x.mean(dim=(1, 2, 3))[:, None] < 0.3, math.nan, logits)

    outcome = judged(outside, model=Broken())
    assert all(math.isnan(value) for value in outcome.scores.values())
    assert "not numbers" in outcome.warnings[0]


def test_a_suite_that_was_stopped_goes_on_behind_the_last_set(outside, tmp_path):
    class Stops(Sure):
        left = 4

        def forward(self, x):
            Stops.left -= 1
            if not Stops.left:
                raise KeyboardInterrupt
            return super().forward(x)

    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        judged(outside, model=Stops(), folder=folder)
    Stops.left = 5  # without the test images
    assert judged(outside, model=Stops(), folder=folder).scores == judged(outside).scores
    assert Stops.left == 1


def test_sets_of_another_place_are_no_finished_parts(tmp_path, monkeypatch):
    class Stops(Sure):
        left = math.inf

        def forward(self, x):
            Stops.left -= 1
            if not Stops.left:
                raise KeyboardInterrupt
            return super().forward(x)

    def at(place):
        monkeypatch.chdir(place)
        return judged(["set.npz", "uniform"], model=Stops(), folder=tmp_path).scores

    for name, high in (("dark", 60), ("alike", 256)):
        (tmp_path / name).mkdir()
        pixels = images(70, 0, high, high).permute(0, 2, 3, 1)
        np.savez(tmp_path / name / "set.npz", images=pixels)
    expected = at(tmp_path / "alike")
    Stops.left = 6  # in the noise
    with pytest.raises(KeyboardInterrupt):
        at(tmp_path / "dark")
    assert list(tmp_path.glob("*.parts.npz"))
    Stops.left = math.inf
    assert at(tmp_path / "alike") == expected


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "needs images of other data sets"),
        (["svhn"], "the images of svhn are not there"),
        (["none.npz"], "no such file or folder: none.npz"),
        (["a/x.npz", "b/x.npz"], "two sets are named x"),
        (["./gaussian.npz"], "has the name of the noise"),
        (["a/uniform"], "has the name of the noise"),
    ],
)
def test_sets_that_cannot_be_read_are_refused_before_any_data(tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path))
    with pytest.raises(UserError, match=text) as found:
        load_suite("ood", EvalConfig(ood=words)).check()
    assert KEY in found.value.where


def test_sets_of_before_leave_the_record():
    suite, metrics, evaluations = load_suite("ood", EvalConfig()), {"top1": 80.0}, {}

    def outcome(name):
        scores = {f"{name}_{m}": 50.0 for m in MEASURES} | dict.fromkeys(suite.columns, 50.0)
        facts = {"images": 5, "of": 5, "seed": 0, "sets": name, "by_set": {name: {}}}
        return Outcome(scores, facts)

    suite.add_to_record(outcome("svhn"), metrics, evaluations)
    (told,) = suite.add_to_record(outcome("isun"), metrics, evaluations)
    assert "sets svhn -> isun" in told
    assert "isun_auroc" in metrics
    assert not [key for key in metrics if key.startswith("svhn")]
    noise = Outcome({f"uniform_{m}": 1.0 for m in MEASURES}, {"by_set": {"uniform": {}}})
    suite.add_to_record(noise, metrics, evaluations)
    assert metrics == {"top1": 80.0, **noise.scores}  # a mean of other sets would be false


SHORT = ["data=digits", "data.limit=64", "data.size=16", "net.width=4", "epochs=1", "batch_size=16"]


def test_a_run_is_judged_and_verified_and_says_what_is_lost(tmp_path, outside):
    words = [*SHORT, "wandb.mode=disabled", "eval.suites=[calibration]", f"run.dir={tmp_path}"]
    folder = tmp_path / run(compose(words)).id
    asked = [f"eval.ood=[{outside[0]}:resize,uniform]"]
    record = evaluate_run(folder, asked, ["ood"])
    assert {"auroc", "fpr95_energy", "dark_resize_auroc", "uniform_auroc"} <= record.metrics.keys()
    assert {"auroc", "dark_resize_det_acc"} <= set(verify_run(folder).compared)
    changed = read_record(folder)
    true, changed.metrics["dark_resize_auroc"] = changed.metrics["dark_resize_auroc"], 99.9
    write_record(folder, changed)
    with pytest.raises(RunFailedError, match="dark_resize_auroc is recorded as"):
        verify_run(folder)
    changed.metrics["dark_resize_auroc"] = true
    write_record(folder, changed)
    (tmp_path / "dark.npz").rename(tmp_path / "gone.npz")
    left = verify_run(folder).left
    assert "are not there" in left["auroc"]
    assert left.keys() == {k for k in record.metrics if k in left}
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "gone.npz").rename(moved / "dark.npz")
    again = verify_run(folder, [f"eval.ood=[{moved / 'dark.npz'}:resize,uniform]"])
    assert not again.left


def test_a_record_is_verified_from_any_place_by_the_sets_it_was_judged_with(
    tmp_path, outside, monkeypatch
):
    words = [*SHORT, "wandb.mode=disabled", "eval.suites=[calibration,ood]", f"run.dir={tmp_path}"]
    folder = tmp_path / run(compose([*words, f"eval.ood=[{outside[1]}]"])).id
    monkeypatch.chdir(tmp_path)
    evaluate_run(folder, ["eval.ood=[dark.npz:resize]"], ["ood"])
    monkeypatch.chdir(folder)
    found = verify_run(folder)
    assert not found.left
    assert "dark_resize_auroc" in found.compared


def test_the_first_part_is_the_test_images():
    assert load_suite("ood", EvalConfig(ood=["uniform"])).parts(INFO) == (INSIDE, "uniform")
