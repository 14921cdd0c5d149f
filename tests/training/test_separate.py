import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from mixbench import compose, run
from mixbench.cli import main
from mixbench.config.schema import EvalConfig
from mixbench.errors import UserError
from mixbench.evaluation.demixer import Demixer, load_demixer
from mixbench.records.record import read_record
from mixbench.training import separate
from mixbench.training.reevaluate import evaluate_run, rebuild, verify_run
from mixbench.training.separate import separate_images

SIDE = 32
TINY = ["data=digits", "data.limit=128", "net.width=4", "epochs=1", "batch_size=32"]
TINY += ["eval.suites=[]", "wandb.mode=disabled"]
DEMIX = ["recipe=demix_small", "method.tested=4", "method.search_steps=3", "method.restarts=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of a demixing-GAN of two digits, a denoising-GAN with averages, and a mixup run."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("MIXBENCH_RUNS", str(folder))
        words = {
            "demixgan": [*DEMIX, *TINY, "data.second=images"],
            "denoisegan": [*DEMIX, *TINY, "data.second=waves", "data.level=2", "method.ema=0.5"],
            "mixup": TINY,
        }
        records = {name: run(compose([f"method={name}", *more])) for name, more in words.items()}
        yield {name: folder / record.id for name, record in records.items()}


@pytest.fixture
def runs_of(trained, monkeypatch):
    monkeypatch.setenv("MIXBENCH_RUNS", str(trained["mixup"].parent))
    return trained


@pytest.mark.parametrize("name", ["demixgan", "denoisegan"])
def test_a_demixer_has_the_generators_that_its_run_was_tested_with(runs_of, name):
    folder = runs_of[name]
    found = load_demixer(str(folder), "RUN")
    config = compose([], base=folder / "config.yaml")
    network = rebuild(folder, folder / "last.ckpt", config, read_record(folder))
    other = Demixer.of(network.method, EvalConfig())
    assert len(found.generators) == len(other.generators) == (2 if name == "demixgan" else 1)
    z = torch.rand(3, 100, generator=torch.Generator().manual_seed(0))
    for one, two in zip(found.generators, other.generators, strict=True):
        torch.testing.assert_close(one(z), two(z), rtol=0, atol=0)
        assert not one.training
        assert not any(p.requires_grad for p in one.parameters())
    assert found.spans == other.spans == ((0.0, 1.0), (0.0, 1.0) if name == "demixgan" else (-2, 2))
    assert (found.restarts, found.steps) == (2, 3)


def test_the_generator_of_first_components_is_the_one_of_the_test(runs_of):
    folder = runs_of["demixgan"]
    path = folder / "record.json"
    before = path.read_text()
    try:
        for swapped in (0.0, 1.0):
            content = json.loads(before)
            content["metrics"]["swapped"] = swapped
            path.write_text(json.dumps(content))
            found = load_demixer(str(folder), "RUN")
            assert found.first == swapped
    finally:
        path.write_text(before)
    # Digits were added to digits: both generators make sources of a mixture.
    assert found.image_generators == found.generators
    waves = load_demixer(str(runs_of["denoisegan"]), "RUN")
    assert waves.image_generators == [waves.generators[0]] * 2


@pytest.fixture
def pictures(tmp_path):
    """Three grey images, one of them in a folder below, and a file of another kind."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
    for name, value in zip(("a.png", "b.png", "below/a.png"), pixels, strict=True):
        Image.fromarray(value).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder, pixels


@pytest.mark.parametrize("name", ["demixgan", "denoisegan"])
def test_components_of_files_and_arrays_are_written(runs_of, pictures, tmp_path, name):
    folder, pixels = pictures
    np.savez(tmp_path / "sums.npz", images=pixels.astype(np.float32) / 255 + 1)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.write(folder / "b.png", "b.png")
    paths = [folder, folder / "b.png", tmp_path / "some.zip", tmp_path / "sums.npz"]
    found = separate_images(runs_of[name], paths, tmp_path / "out")
    assert found[:2] == (tmp_path / "out", 8)
    assert found.skipped == 1
    with np.load(tmp_path / "out" / "components.npz") as stored:
        arrays = dict(stored)
    assert list(arrays["name"][:5]) == ["a.png", "b.png", "below/a.png", "b.png", "b.png"]
    y, first, second = (arrays[key] for key in ("observation", "first", "second"))
    np.testing.assert_array_equal(y[3], pixels[1][None].astype(np.float32) / 255)
    np.testing.assert_allclose(y[5:], y[:3] + 1, rtol=1e-6)
    error = ((y - first - second) ** 2).mean((1, 2, 3))
    if name == "demixgan":
        np.testing.assert_allclose(arrays["residual"], error, rtol=1e-3)
        assert found.residual == pytest.approx(float(error.mean()), rel=1e-3)
    else:  # what is left is the second component
        assert error.max() < 1e-10
    # Black and white are the ends of a component's range.
    shown = np.asarray(Image.open(tmp_path / "out" / "0004_b_second.png"))
    low, high = (0, 1) if name == "demixgan" else (-2, 2)
    expected = 255 * np.clip((second[3, 0] - low) / (high - low), 0, 1)
    assert np.abs(shown - expected).max() <= 0.501
    assert len(list((tmp_path / "out").glob("0*.png"))) == 10
    assert Image.open(tmp_path / "out" / "overview.png").width > 300


def test_a_swapped_demixer_names_its_components_in_order(runs_of, pictures, tmp_path, monkeypatch):
    path = pictures[0] / "a.png"
    separate_images(runs_of["demixgan"], [path], tmp_path / "one")

    def swapped(*words):
        found = load_demixer(*words)
        found.first = 1 - found.first
        return found

    monkeypatch.setattr(separate, "load_demixer", swapped)
    separate_images(runs_of["demixgan"], [path], tmp_path / "two")
    one, two = (np.load(tmp_path / name / "components.npz") for name in ("one", "two"))
    np.testing.assert_array_equal(one["first"], two["second"])
    np.testing.assert_array_equal(one["second"], two["first"])


def refused(paths, runs_of, name="demixgan"):
    with pytest.raises(UserError) as caught:
        separate_images(runs_of[name], paths)
    assert not (runs_of[name] / "separated").exists()
    return str(caught.value)


def test_what_cannot_be_separated_is_refused(runs_of, pictures, tmp_path):
    def saved(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return [tmp_path / name]

    small, colour = tmp_path / "small.png", tmp_path / "colour.png"
    Image.new("L", (SIDE - 4, SIDE)).save(small)
    Image.new("RGB", (SIDE, SIDE), "red").save(colour)
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    assert "has 32x28 pixels, and the run separates images of 32x32" in refused([small], runs_of)
    assert "has colours" in refused([colour], runs_of)
    assert "bad.png cannot be read" in refused([tmp_path / "bad.png"], runs_of)
    assert "no such file or folder" in refused([tmp_path / "none.png"], runs_of)
    assert "no image is found there" in refused([tmp_path / "empty"], runs_of)
    assert "notes.txt is not an image" in refused([pictures[0] / "notes.txt"], runs_of)
    assert "found x" in refused(saved("x.npz", x=np.zeros(3)), runs_of)
    nan = np.full((1, SIDE, SIDE), np.nan, np.float32)
    assert "not finite" in refused(saved("nan.npz", images=nan), runs_of)
    whole = np.zeros((1, SIDE, SIDE), np.int64)
    assert "uint8 or floating" in refused(saved("int.npz", images=whole), runs_of)
    assert "of the method mixup, which separates nothing" in refused(
        [pictures[0]], runs_of, "mixup"
    )


def test_the_command_writes_beside_the_run_unless_told_otherwise(runs_of, pictures, capsys):
    folder = runs_of["demixgan"]
    assert main(["separate", str(folder), str(pictures[0])]) == 0
    out = capsys.readouterr().out
    assert "3 images separated" in out
    assert "1 file of another kind left out" in out
    written = folder / "separated"
    assert (written / "components.npz").exists()
    for path in written.iterdir():
        path.unlink()
    written.rmdir()
    assert main(["separate", "nothing", str(pictures[0])]) == 2
    assert "no record of a run" in capsys.readouterr().err


def test_a_demixer_is_judged_and_the_record_verifies(runs_of):
    folder = runs_of["demixgan"]
    words = ["eval.adv_n=4", "eval.restarts=1", "eval.encoder_steps=2"]
    record = evaluate_run(folder, words, ["separation"])
    facts = record.evaluations["separation"]
    assert (facts["images"], facts["deciding"], facts["restarts"]) == (4, 4, 1)
    assert facts["ms_per_image"] > 0
    assert record.metrics["sep_psnr"] > 0
    assert Image.open(folder / "separation.png").width > 300
    assert not list(folder.glob("*.parts.npz"))
    found = verify_run(folder)
    assert {"sep_psnr", "sep_residual"} <= set(found.compared)


def test_a_mixing_method_is_judged_by_a_demixer_and_the_record_verifies(runs_of):
    folder, demixer = runs_of["mixup"], runs_of["demixgan"]
    record = evaluate_run(folder, [f"eval.demixer={demixer}", "eval.adv_n=6"], ["separability"])
    facts = record.evaluations["separability"]
    assert facts["demixer"] == str(demixer)
    assert (facts["mixed"], facts["restarts"], facts["search_steps"]) == (6, 2, 3)
    assert sum(row["sources"] for row in facts["by_weight"].values()) == 12
    assert 0 < record.metrics["separable_mse"] < 1
    found = verify_run(folder)
    assert {"separable_mse", "separable_top1"} <= set(found.compared)


def test_a_suite_refuses_what_it_cannot_judge(runs_of):
    with pytest.raises(UserError, match="demixgan and denoisegan train"):
        evaluate_run(runs_of["mixup"], [], ["separation"])
    with pytest.raises(UserError, match="which separates nothing"):
        evaluate_run(runs_of["mixup"], [f"eval.demixer={runs_of['mixup']}"], ["separability"])
    word = f"eval.demixer={runs_of['denoisegan']}"
    with pytest.raises(UserError, match="names none"):
        evaluate_run(runs_of["demixgan"], [word], ["separability"])
