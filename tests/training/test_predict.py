"""Finished runs in use: loaded, exported, and asked for the classes of new images."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from making import encoded, photograph, source, write_folder
from PIL import Image
from several_labels import SeveralDigits

import mixbench
from mixbench import cli, compose, run
from mixbench.config.schema import DataConfig
from mixbench.data import DATA
from mixbench.data.files.decode import decode
from mixbench.data.images import ResidentImages
from mixbench.errors import RunFailedError, UserError
from mixbench.methods import METHODS
from mixbench.metrics import fit_temperature
from mixbench.records.predictions import read_predictions
from mixbench.records.record import read_record, write_record
from mixbench.records.weights import exported_program, onnx_model
from mixbench.testing.samples import sample_method
from mixbench.training.export import PixelsToLogits, export
from mixbench.training.predict import ImageFiles, Predictor, load, predict

SMALL = ["data=digits", "data.limit=64", "net.width=4", "epochs=1", "batch_size=32"]
SMALL += ["wandb.mode=disabled", "eval.suites=[]"]
KINDS = {
    "samix": ["method=samix"],  # its teacher is tested
    "bc": ["method=bc", "method.plus=true"],  # normalises in its own way
    "held": ["method=mixup", "select=val", "data.limit=256", "data.val_fraction=0.5"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits_once):
    """Trains a kind of run once."""
    root, known = tmp_path_factory.mktemp("runs"), {}

    def once(kind):
        if kind not in known:
            known[kind] = root / run(compose([*SMALL, *KINDS[kind], f"run.dir={root}"])).id
        return known[kind]

    return once


@pytest.fixture(scope="module")
def insects(tmp_path_factory):
    """A run on photographs whose test images are resized and cut."""
    folder = tmp_path_factory.mktemp("insects")
    write_folder(folder / "data", train=8, val=4)
    words = ["data=folder", f"data.root={folder / 'data'}", "data.size=16", "data.resize=20"]
    words += ["net.width=4", "epochs=1", "batch_size=8", "wandb.mode=disabled", "eval.suites=[]"]
    return folder / run(compose([*words, f"run.dir={folder}"])).id


def digits():
    return source("data=digits", "data.limit=64").load().test.images


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_run_gives_the_logits_that_it_was_tested_with(trained, kind):
    found = read_predictions(trained(kind) / "predictions.npz")
    images = source(*(SMALL[:2] if kind != "held" else ["data=digits", "data.limit=256"])).load()
    model = mixbench.load(trained(kind))
    with torch.no_grad():
        logits = model(images.test.images)
        again = model(images.test.images.double() / 255)
    torch.testing.assert_close(logits, found.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(again, found.logits, rtol=0, atol=1e-5)
    assert not model.training
    assert model.class_names == [str(digit) for digit in range(10)]
    assert model.mean.shape == model.std.shape == (3, 1, 1)


def test_the_temperature_of_the_hold_out_is_preferred(trained):
    model, found = load(trained("held")), read_predictions(trained("held") / "predictions.npz")
    assert found.holdout is not None
    expected = float(fit_temperature(*found.holdout[:2]))
    assert model.temperature == pytest.approx(expected, rel=1e-6)
    x = digits()[:3]
    with torch.no_grad():
        torch.testing.assert_close(model.probabilities(x), (model(x) / expected).softmax(1))
        torch.testing.assert_close(model.probabilities(x, calibrated=False), model(x).softmax(1))
    assert load(trained("bc")).temperature == read_record(trained("bc")).metrics["T"]


@pytest.mark.slow  # a deep network is traced
def test_a_program_holds_the_whole_network(trained, tmp_path):
    path = tmp_path / "net.pt2"
    assert cli.main(["export", str(trained("samix")), "-o", str(path)]) == 0
    extra, model = {"network.json": ""}, load(trained("samix"))
    program = torch.export.load(path, extra_files=extra).module()
    facts = json.loads(extra["network.json"])
    assert facts["class_names"] == model.class_names
    assert (facts["height"], facts["width"]) == model.size
    assert facts["temperature"] == model.temperature
    torch.testing.assert_close(torch.tensor(facts["mean"]), model.mean.flatten())
    torch.testing.assert_close(torch.tensor(facts["std"]), model.std.flatten())
    for rows in (1, 2, 5):
        x = digits()[:rows] / 255
        with torch.no_grad():
            torch.testing.assert_close(program(x), model(x), rtol=0, atol=1e-5)
    weights = sum(value.numel() for value in program.state_dict().values())
    assert weights == sum(value.numel() for value in model.method.tested.state_dict().values())


def bc_plus():
    """A method that normalises in its own way, with statistics that are not the neutral ones."""
    method = sample_method(METHODS.get("bc"), plus=True).eval()
    method.mean += 0.1
    method.std += 0.5
    return method


def test_a_program_normalises_as_its_method_does():
    method = bc_plus()
    content = exported_program(PixelsToLogits(method), method.info, {})
    x = torch.rand(3, 3, 16, 16)
    found = torch.export.load(io.BytesIO(content)).module()(x)
    torch.testing.assert_close(found, method(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow  # traces a network
def test_onnx_gives_the_same_logits_from_pixels():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} of mixbench[onnx] is not installed")
    from onnxruntime import InferenceSession

    method, facts = bc_plus(), {"class_names": ["ant", "bee"], "mean": [0.25]}
    session = InferenceSession(onnx_model(PixelsToLogits(method), method.info, facts))
    found = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in found.items()} == facts
    for rows in (1, 2, 5):
        x = torch.rand(rows, 3, 16, 16)
        (logits,) = session.run(["logits"], {"pixels": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), method(x), rtol=0, atol=1e-4)


def test_weights_are_those_of_the_network_that_was_tested(trained, tmp_path, capsys):
    path = tmp_path / "net.pth"
    export(trained("samix"), path)
    method = load(trained("samix")).method
    state = method.teacher.net.published(method.teacher.net.state_dict())
    exported = torch.load(path, weights_only=True)
    assert exported.keys() == state.keys()
    assert all(torch.equal(state[name], value) for name, value in exported.items())
    assert any(not torch.equal(method.net.state_dict()[n], v) for n, v in exported.items())
    assert cli.main(["export", str(trained("samix")), "-o", str(path)]) == 0
    assert "as the method does" not in capsys.readouterr().out
    assert cli.main(["export", str(trained("bc")), "-o", str(path)]) == 0
    assert "normalised as the method does" in capsys.readouterr().out


def test_safetensors_say_how_the_input_is_made(trained, tmp_path):
    safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / "net.safetensors"
    export(trained("held"), path)
    with safetensors.safe_open(path, "pt") as file:
        facts = {name: json.loads(text) for name, text in file.metadata().items()}
    assert facts["class_names"][:2] == ["0", "1"]
    assert facts["mean"] == pytest.approx(load(trained("held")).mean.flatten().tolist())


class FixesBatch(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3] + torch.zeros(len(x), 1).view(2, 1)


class Branches(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("net", [FixesBatch(), Branches()])
def test_a_network_that_cannot_be_traced_for_any_batch_is_a_failure_in_one_line(net):
    info = sample_method(mixbench.methods.base.Method).info
    with pytest.raises(RunFailedError, match="cannot be exported for batches of any size"):
        exported_program(net, info, {})


def small(**data):
    method = sample_method(mixbench.methods.base.Method)
    return Predictor(method, DataConfig(**data))


@pytest.mark.parametrize("height", [9, 16, 40])
@pytest.mark.parametrize("width", [16, 33])
@pytest.mark.parametrize("fit", ["crop", "squeeze"])
def test_images_of_any_size_are_fitted_as_the_data_set_s_own(height, width, fit):
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    own = ResidentImages(images, torch.zeros(2).long()).resized(16, fit).images
    seen = small(size=16, fit=fit).pixels(images)
    assert seen.shape == (2, 3, 16, 16)
    # The data set rounds to whole values.
    torch.testing.assert_close(255 * seen, own.float(), rtol=0, atol=0.501)


def test_the_stated_resize_is_what_files_are_read_with():
    raw = photograph(3, 50, 37)
    model = small(size=16, resize=24)
    pixels, own = (torch.tensor(decode(raw, *how)).permute(2, 0, 1) for how in ((), (16, 24)))
    # Pillow rounds after each of the two directions.
    torch.testing.assert_close(255 * model.pixels(pixels)[0], own.float(), rtol=0, atol=2)
    assert torch.equal(model.pixels(own)[0], own / 255)  # already of the network's size


def test_a_grey_image_stands_for_all_channels():
    model, grey = small(), torch.rand(4, 1, 16, 16)
    torch.testing.assert_close(model(grey), model(grey.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(model(grey[0]), model(grey[:1]))


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (np.zeros((3, 16, 16)), TypeError, "must be a tensor"),
        (torch.rand(16, 16), ValueError, r"\(B, 3, H, W\)"),
        (torch.rand(2, 4, 16, 16), ValueError, r"\(B, 3, H, W\)"),
        (torch.rand(0, 3, 16, 16), ValueError, "none empty"),
        (torch.ones(1, 3, 16, 16).long(), ValueError, "uint8 or floats"),
        (255 * torch.ones(1, 3, 16, 16), ValueError, "divide by 255"),
        (-torch.ones(1, 3, 16, 16), ValueError, r"lie in \[0, 1\]"),
        (torch.full((1, 3, 16, 16), torch.nan), ValueError, r"lie in \[0, 1\]"),
    ],
)
def test_pixels_that_are_none_are_refused(x, error, match):
    with pytest.raises(error, match=match):
        small()(x)


@pytest.fixture
def mixed_folder(tmp_path):
    """Images of many kinds and sizes, some of them damaged, among other files."""
    rng, folder = np.random.default_rng(0), tmp_path / "new, images"
    (folder / "deep" / "deeper").mkdir(parents=True)
    colour = rng.integers(0, 256, (30, 21, 3), dtype=np.uint8)
    grey = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    files = {
        "colour.png": encoded(colour),
        "photo.jpg": encoded(colour, "JPEG"),
        "deep/grey.png": encoded(grey),
        "deep/tall.png": photograph(1, 200, 20),
        "deep/deeper/one.bmp": encoded(grey[:1, :1], "BMP"),
        "deep/alpha.png": encoded(colour, mode="RGBA"),
        "palette.gif": encoded(colour, "GIF", mode="P"),
        "ink.jpg": encoded(colour, "JPEG", mode="CMYK"),
        "cut.png": encoded(colour)[:200],
        "empty.png": b"",
        "words.png": b"no image",
        "notes.txt": b"hello",
        ".hidden.png": encoded(grey),
    }
    sixteen = io.BytesIO()
    Image.fromarray(rng.integers(0, 65536, (20, 20), dtype=np.uint16)).save(sixteen, "PNG")
    files["sixteen.png"] = sixteen.getvalue()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_of_all_kinds_of_files_is_predicted_and_the_rest_counted(
    insects, mixed_folder, tmp_path, capsys
):
    table = tmp_path / "found.csv"
    words = ["predict", str(insects), str(mixed_folder), "-o", str(table)]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert "written: " in told.out
    assert "9 images" in told.out
    assert "3 of 12 images cannot be read: " in told.err
    assert all(
        name in told.err
        for name in ("cut.png", "empty.png", "words.png (the file is not an image)")
    )
    assert "not used: 1 x hidden file, 1 x unusual suffix .txt" in told.err
    assert "divided by" in told.err
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 9
    model = load(insects)
    for row in rows:
        raw = (mixed_folder / row["file"]).read_bytes()
        image = torch.tensor(decode(raw, 16, 20)).permute(2, 0, 1)
        with torch.no_grad():
            expected = model.probabilities(image)[0]
            plain = model.probabilities(image, calibrated=False)[0]
        best = int(expected.argmax())
        assert row["class_1"] == model.class_names[best] in ("ant", "bee")
        assert float(row["probability_1"]) == pytest.approx(expected[best].item(), rel=1e-4)
        assert float(row["raw_1"]) == pytest.approx(plain[best].item(), rel=1e-4)
        total = float(row["probability_1"]) + float(row["probability_2"])
        assert total == pytest.approx(1, abs=1e-4)


def test_without_a_file_the_classes_are_printed_one_line_an_image(insects, mixed_folder, capsys):
    photo = str(mixed_folder / "photo.jpg")
    assert cli.main(["predict", str(insects), photo, photo, "--top", "1"]) == 0
    told = capsys.readouterr()
    (line,) = told.out.splitlines()  # named twice, predicted once
    assert line.startswith(photo)
    assert line.count("%") == 2


def test_more_images_than_a_batch_come_in_order(insects, tmp_path):
    for index in range(70):
        (tmp_path / f"{index:03}.png").write_bytes(photograph(index))
    model, files = load(insects), ImageFiles.below([str(tmp_path)])
    found = list(predict(model, files, top=9))
    assert [each.file for each in found] == files.names
    assert all(len(each.classes) == len(each.raw) == 2 for each in found)
    last = torch.tensor(decode(photograph(69), 16, 20)).permute(2, 0, 1)
    with torch.no_grad():
        expected = model.probabilities(last).max().item()
    assert found[-1].calibrated[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["none.png"], "no such file or folder: none.png"),
        (["{dir}/notes.txt"], "none of 1 images can be read"),
        (["{dir}/empty"], "no image is found"),
        (["{dir}/photo.jpg", "--top", "0"], "--top must be at least 1"),
        (["{dir}/photo.jpg", "-o", "found.txt"], "end the name in .csv"),
        (["{dir}/photo.jpg", "-o", "none/found.csv"], "no such folder"),
        (["{dir}/photo.jpg", "lr=0.3"], "lr says what is trained"),
        (["trainer.accelerator=cpu"], "no image is named"),
    ],
)
def test_what_cannot_be_predicted_is_a_user_error(insects, mixed_folder, words, match, capsys):
    (mixed_folder / "empty").mkdir()
    words = [word.format(dir=mixed_folder) for word in words]
    assert cli.main(["predict", str(insects), *words]) == 2
    assert match in capsys.readouterr().err


def test_a_run_that_is_not_finished_predicts_nothing(insects, mixed_folder, tmp_path, capsys):
    import shutil

    copy = tmp_path / insects.name
    shutil.copytree(insects, copy)
    record = read_record(copy)
    record.status = "interrupted"
    write_record(copy, record)
    assert cli.main(["predict", str(copy), str(mixed_folder)]) == 2
    assert "not finished" in capsys.readouterr().err
    with pytest.raises(UserError, match="no record of a run"):
        load(tmp_path / "none")


def test_several_labels_are_judged_each_by_itself(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(DATA._objects, "several", SeveralDigits)
    record = run(compose(["data=several", *SMALL[1:]]))
    (tmp_path / "a.png").write_bytes(photograph(0, 32, 32))
    assert cli.main(["predict", record.id, str(tmp_path / "a.png"), "--top", "10"]) == 0
    told = capsys.readouterr()
    assert "not calibrated" in told.err
    model = load(record.id)
    image = torch.tensor(decode(photograph(0, 32, 32))).permute(2, 0, 1)
    with torch.no_grad():
        expected = model(image).sigmoid()[0].sort(descending=True).values
    shares = [float(part.split(" ")[1]) for part in told.out.split("  ")[-1].split(", ")]
    assert shares == pytest.approx((100 * expected).tolist(), abs=0.06)


def test_plain_normalisation_is_part_of_what_is_exported():
    method = sample_method(mixbench.methods.base.Method).eval()
    method.mean += 0.3
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(PixelsToLogits(method)(x), method.net(x - 0.3))
