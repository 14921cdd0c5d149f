"""Weights that a network starts from, and weights for other programs."""

import dataclasses
import json
import logging
import os
import sys

import pytest
import torch
from small_nets import CLASSIFIERS, SIZE, small_net

from mixbench import cli, compose, run
from mixbench.backbones import NETS
from mixbench.backbones.swin import Swin
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.data import DATA
from mixbench.errors import RunFailedError, UserError
from mixbench.methods import METHODS
from mixbench.records.checkpoints import read_checkpoint
from mixbench.records.weights import export_weights, load_network, load_weights, onnx_model
from mixbench.training.build import build
from mixbench.training.job import resolve
from mixbench.training.predict import load


def session_of(make):
    reason = "onnx, onnxscript or onnxruntime is not installed"
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=reason)
    from onnxruntime import InferenceSession

    return InferenceSession(make())


def saved(content, path):
    torch.save(content, path)
    return str(path)


def other(net):
    """Weights of the same names and shapes, all of them different."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.1
        if value.is_floating_point()
        else value + 3
        for name, value in net.state_dict().items()
    }


def vit(size=(16, 16), patch=4, classes=3):
    return VisionTransformer(8, 4, 2, patch, size, classes)


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "ddp", "own"])
def test_weights_are_found_under_any_of_the_usual_names(tmp_path, wrap):
    net = small_net("resnet18")
    state = other(net)
    content = state if wrap == "own" else net.published(state)
    if wrap == "ddp":
        content = {"state_dict": {f"module.{name}": v for name, v in content.items()}, "epoch": 3}
    elif wrap in ("state_dict", "model"):
        content = {wrap: content, "epoch": 3}
    load_weights(net, saved(content, tmp_path / "net.pth"))
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_files_from_before_torch_counted_batches_are_read(tmp_path):
    net = small_net("resnet18")
    state = {n: v for n, v in net.published(other(net)).items() if "num_batches" not in n}
    load_weights(net, saved(state, tmp_path / "net.pth"))
    assert torch.equal(net.stages[0][0].conv1.weight, state["conv1.weight"])


def test_another_number_of_classes_gets_a_new_classifier_and_one_line(tmp_path, caplog):
    net = small_net("resnet18", classes=4)
    fresh = net.head.fc.weight.clone()
    source = small_net("resnet18", classes=9)
    state = other(source)
    with caplog.at_level(logging.INFO, "mixbench"):
        load_weights(net, saved(source.published(state), tmp_path / "net.pth"))
    assert torch.equal(net.head.fc.weight, fresh)
    assert torch.equal(net.stages[3][1].conv2.weight, state["stages.3.1.conv2.weight"])
    assert caplog.messages == ["net.pth: its classifier of 9 classes is replaced by a new one of 4"]


def test_positions_of_another_grid_are_interpolated_as_timm_does(tmp_path, caplog):
    from timm.layers import resample_abs_pos_embed

    source, net = vit((16, 16)), vit((8, 24))
    state = source.published(other(source))
    with caplog.at_level(logging.INFO, "mixbench"):
        load_weights(net, saved(state, tmp_path / "vit.pth"))
    expected = resample_abs_pos_embed(state["pos_embed"], [2, 6], [4, 4])
    torch.testing.assert_close(net.stages[0].embed.pos_embed.data, expected)
    assert torch.equal(net.stages[2].blocks[0].attn.qkv.weight, state["blocks.2.attn.qkv.weight"])
    assert caplog.messages == ["vit.pth: 1 tables of positions are interpolated"]


def test_bias_tables_of_other_windows_are_interpolated(tmp_path):
    def swin(window, size):
        return Swin(8, (2, 2), (2, 2), 2, window, size, 3)

    source, net = swin(4, (16, 16)), swin(2, (16, 16))
    state = other(source)
    ramp = torch.arange(7.0).repeat_interleave(7)  # grows by one from row to row
    state["stages.0.blocks.0.attn.relative_position_bias_table"] = torch.stack([ramp, 0 * ramp], 1)
    load_weights(net, saved(source.published(state), tmp_path / "swin.pth"))
    table = net.stages[0].blocks[0].attn.relative_position_bias_table.detach().view(3, 3, 2)
    assert table[:, :, 1].abs().max() == 0
    torch.testing.assert_close(table[:, 0, 0], table[:, 2, 0])
    low, middle, high = table[:, 0, 0].tolist()
    assert middle == pytest.approx(3)
    assert low < 2 < 4 < high


@pytest.mark.parametrize(
    ("net", "source", "text"),
    [
        (vit(), vit(patch=8), r"patch_embed.proj.weight is \(8, 3, 8, 8\), wanted \(8, 3, 4, 4\)"),
        (vit(), vit((8, 24)), r"pos_embed is \(1, 13, 8\), wanted \(1, 17, 8\)"),
        (vit(), small_net("resnet18"), "is missing"),
        (small_net("resnet18"), small_net("resnet50"), r"and \d+ more"),
    ],
)
def test_everything_else_that_does_not_fit_is_refused_by_name_and_shape(
    tmp_path, net, source, text
):
    before = [p.clone() for p in net.parameters()]
    path = saved(source.published(source.state_dict()), tmp_path / "net.pth")
    with pytest.raises(UserError, match=text) as error:
        load_weights(net, path)
    assert error.value.where == path
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


# FAULTS row 58.
@pytest.mark.parametrize("suffix", ["pth", "ckpt"])
def test_a_file_that_would_execute_something_is_refused(tmp_path, suffix):
    path = saved({"state_dict": Touch(tmp_path / "touched")}, tmp_path / f"net.{suffix}")
    with pytest.raises(UserError, match=r"not read.*more than tensors.*io\.open"):
        load_weights(vit(), path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([1, 2], "holds no weights with names"),
        ({}, "holds no weights with names"),
        ({"model": {"a": torch.ones(1), "lr": 0.1}}, "is not a state dict: lr is not a tensor"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path, content, text):
    with pytest.raises(UserError, match=text):
        load_weights(vit(), saved(content, tmp_path / "net.pth"))


def test_damaged_and_missing_files_are_refused(tmp_path):
    (tmp_path / "net.pth").write_bytes(b"\x80\x02half")
    with pytest.raises(UserError, match=r"is not read|is damaged"):
        load_weights(vit(), str(tmp_path / "net.pth"))
    with pytest.raises(UserError, match="no such file or folder") as error:
        load_weights(vit(), str(tmp_path / "none.pth"))
    assert error.value.where == "net.weights"


def test_a_network_that_names_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="Linear does not say how its weights are named"):
        load_weights(torch.nn.Linear(2, 2), saved({"weight": torch.ones(2, 2)}, tmp_path / "n.pth"))


def started_from(path, *words):
    return resolve(compose(["data=digits", f"net.weights={path}", *words])).identity


def test_weights_count_by_their_content(tmp_path):
    first = saved({"a": torch.ones(1)}, tmp_path / "first.pth")
    copy = tmp_path / "copy.pth"
    copy.write_bytes((tmp_path / "first.pth").read_bytes())
    second = saved({"a": torch.zeros(1)}, tmp_path / "second.pth")
    hashes = [started_from(path).config_hash for path in (first, copy, second)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] != resolve(compose("data=digits")).identity.config_hash
    with pytest.raises(UserError, match="no such file"):
        started_from(tmp_path / "none.pth")


@pytest.fixture
def teacher(tmp_path):
    """Writes the folder of a run, whose checkpoints hold a number."""

    def write(seed, number, status="done", select="last", place="runs"):
        folder = tmp_path / place / f"erm-digits-resnet18-0123abcd-s{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        for offset, name in enumerate(("last.ckpt", "best.ckpt")):
            saved({"number": number + offset}, folder / name)
        record = dict(id=folder.name, method="erm", data="digits", net="resnet18", recipe="quick")
        record |= dict(seed=seed, epochs=1, select=select, status=status)
        record |= dict(config_hash="0123abcd" * 2, recipe_hash="r")
        (folder / "record.json").write_text(json.dumps(record))
        return folder

    return write


def test_runs_that_start_from_other_seeds_or_epochs_of_a_run_are_other_runs(teacher):
    first, second = teacher(0, 10), teacher(1, 20)
    found = [started_from(path) for path in (first, second, first / "best.ckpt")]
    assert len({each.id for each in found}) == 3
    # Seeds make one row; another epoch is another thing to start from.
    assert found[0].row_hash == found[1].row_hash != found[2].row_hash
    assert found[0].recipe_hash == found[1].recipe_hash != found[2].recipe_hash
    assert started_from(first / "last.ckpt").id == found[0].id
    assert started_from(teacher(0, 10, place="moved")).id == found[0].id
    assert found[0].inputs["net.weights"]["name"] == f"{first.name}/last.ckpt"


def test_the_folder_of_a_run_stands_for_the_epoch_that_was_tested(teacher):
    folder = teacher(0, 10, select="val")
    assert started_from(folder).id == started_from(folder / "best.ckpt").id
    assert started_from(folder).id != started_from(folder / "last.ckpt").id


def test_a_run_that_was_carried_out_anew_counts_as_another(teacher):
    before = started_from(teacher(0, 10))
    after = started_from(teacher(0, 11))
    assert before.id != after.id
    assert before.row_hash == after.row_hash


def test_an_unfinished_run_stands_for_no_other(teacher):
    found = [
        started_from(teacher(seed, seed, status="interrupted") / "last.ckpt") for seed in (0, 1)
    ]
    assert found[0].row_hash != found[1].row_hash


def test_rows_of_a_chain_of_runs_are_still_grouped(teacher):
    """The middle one of three stages has another id for each seed of the first."""
    hashes = []
    for seed, own in ((0, "11111111"), (1, "22222222")):
        folder = teacher(seed, seed)
        record = json.loads((folder / "record.json").read_text())
        record |= {"config_hash": own * 2, "row_hash": "3" * 16}
        (folder / "record.json").write_text(json.dumps(record))
        hashes.append(started_from(folder.rename(folder.with_name(f"m-d-n-{own}-s{seed}"))))
    assert hashes[0].config_hash != hashes[1].config_hash
    assert hashes[0].row_hash == hashes[1].row_hash


def test_every_key_of_a_method_that_names_a_file_is_said_to():
    """A key that takes any text, and without one is empty, names a file."""
    for name in METHODS.table:
        cls = METHODS.get(name)
        free = {
            item.name
            for item in dataclasses.fields(cls.Config)
            if "str" in str(item.type) and item.default is None
        }
        assert free == set(cls.files), name


@pytest.mark.parametrize(
    ("method", "key"),
    [(name, key) for name in METHODS.table for key in METHODS.get(name).files],
)
def test_files_of_methods_count_by_their_content(tmp_path, method, key):
    def module(prefix):  # without one it mixes nothing
        needed = method == "transformmix_recon" and key != "module"
        return f" {prefix}.module={tmp_path / 'a.pth'}" if needed else ""

    def named(path, number):
        path.write_bytes(b"weights" + number)
        words = f"data=digits method={method} method.{key}={path}"
        words += " method.attention=file" if key == "maps" else ""
        words += module("method")
        return resolve(compose(words)).identity

    first = named(tmp_path / "a.pth", b"1")
    assert named(tmp_path / "b.pth", b"1").id == first.id
    assert named(tmp_path / "a.pth", b"2").id != first.id
    if method == "hmix":  # a choice itself
        return
    member = f"data=digits method=choice method.members=[erm,{method}]"
    if key == "maps":  # they belong to a training set of its own
        with pytest.raises(UserError, match="needs another training set"):
            resolve(compose(f"{member} method.{method}.{key}={tmp_path / 'a.pth'}"))
        return
    if METHODS.get(method).Config().alone:  # it is no member of a choice
        with pytest.raises(UserError, match=r"and no network|cannot be a member"):
            resolve(compose(f"{member} method.{method}.{key}={tmp_path / 'a.pth'}"))
        return
    ids = []
    for number in (b"1", b"2"):
        (tmp_path / "c.pth").write_bytes(number)
        words = f"{member} method.{method}.{key}={tmp_path / 'c.pth'}"
        words += module(f"method.{method}")
        ids.append(resolve(compose(words)).identity.id)
    assert ids[0] != ids[1]


def test_a_finished_run_is_exported_and_started_from(tmp_path, runs, tiny, capsys):
    words = [*tiny, "net=resnet18", "net.width=8"]
    record = run(compose(words))
    path = tmp_path / "net.pth"
    assert cli.main(["export", record.id, "-o", str(path)]) == 0
    told = capsys.readouterr().out
    assert f"written: {path}" in told
    assert "16x16 pixels in [0, 1], less (" in told
    exported = torch.load(path, weights_only=True)
    assert {"conv1.weight", "layer4.1.bn2.running_var", "fc.bias"} <= set(exported)

    splits = DATA.get("digits")(compose(words).data).load()
    for given in (path, runs / record.id):
        method, _ = build(resolve(compose([*words, f"net.weights={given}", "seed=5"])), splits)
        state = method.net.published(method.net.state_dict())
        assert all(torch.equal(state[name], value) for name, value in exported.items())
        assert len(state) == len(exported)

    kept = json.loads((runs / record.id / "record.json").read_text())
    (runs / record.id / "record.json").write_text(json.dumps(kept | {"status": "interrupted"}))
    assert cli.main(["export", record.id, "-o", str(path)]) == 2
    assert "is not finished but interrupted" in capsys.readouterr().err


def test_a_finished_run_becomes_an_onnx_model_of_pixels(tmp_path, runs, tiny):
    record = run(compose([*tiny, "net=resnet18", "net.width=8"]))
    onnx = tmp_path / "net.onnx"
    session = session_of(lambda: cli.main(["export", record.id, "-o", str(onnx)]) or onnx)
    x = torch.rand(3, 3, 16, 16)
    (logits,) = session.run(None, {"pixels": x.numpy()})
    with torch.no_grad():
        expected = load(record.id)(x)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == [str(digit) for digit in range(10)]


def test_an_export_that_cannot_be_is_a_user_error(tmp_path, runs, capsys):
    assert cli.main(["export", "none", "-o", str(tmp_path / "net.pth")]) == 2
    assert "no record of a run" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such folder"):
        export_weights(tmp_path, tmp_path / "no" / "net.pth")
    for name in ("net.bin", "net", "net.ONNX"):
        with pytest.raises(UserError, match=r"end it in .pth, .pt, .safetensors, .pt2, .onnx"):
            export_weights(tmp_path, tmp_path / name)
    assert list(tmp_path.glob("net*")) == []


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_that_are_not_finite_or_damaged_are_refused(tmp_path, suffix):
    safetensors = pytest.importorskip("safetensors.torch")
    net = small_net("resnet18")
    path = tmp_path / f"net.{suffix}"
    save = torch.save if suffix == "pth" else safetensors.save_file
    state = {name: value.contiguous() for name, value in net.published(other(net)).items()}
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    save(state, path)
    with pytest.raises(UserError, match=r"conv1\.weight"):
        load_weights(net, str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=f"net.{suffix} is damaged"):
        load_weights(net, str(path))


FACTS = {"format": 1, "config": {}, "info": {}, "data": "", "id": "x", "epoch": 1, "batch": 0}
FACTS |= {"curves": {}}


def test_a_checkpoint_that_does_not_say_its_network_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    content = {"state_dict": {}, "mixbench_step": 1, "loops": {}}
    content |= {"optimizer_states": [], "lr_schedulers": []}
    info = dataclasses.asdict(DataInfo(2, 8, 8))
    bad = [{"config": {}}, {"config": {"net": {"width": "wide"}}, "info": info}, {"config": 3}]
    bad += [{"config": {"net": {}}, "info": facts} for facts in ({}, info | {"num_classes": "2"})]
    for facts in bad:
        torch.save(content | {"mixbench": FACTS | facts}, path)
        with pytest.raises(UserError, match="does not say what its network is"):
            load_network(str(path), "method.teacher_ckpt")


def test_text_of_a_checkpoint_is_never_looked_up_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "planted")
    names = ["${oc.env:SECRET}", "b"]
    info = {"num_classes": 2, "height": SIZE, "width": SIZE, "class_names": names}
    facts = FACTS | {"config": {"net": {"name": "resnet18"}}, "info": info}
    state = NETS.get("resnet18")(NetConfig(name="resnet18"), DataInfo(2, SIZE, SIZE)).state_dict()
    content = {"state_dict": {f"net.{name}": value for name, value in state.items()}}
    content |= {"mixbench_step": 1, "loops": {}, "optimizer_states": [], "lr_schedulers": []}
    torch.save(content | {"mixbench": facts}, tmp_path / "last.ckpt")
    _, found = load_network(str(tmp_path / "last.ckpt"), "method.teacher_ckpt")
    assert found.class_names == names


@pytest.mark.parametrize("content", [{"mixbench": 1}, {"mixbench": 1, "state_dict": {"net.a": 3}}])
def test_a_file_that_only_calls_itself_a_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match="is not a tensor"):
        load_weights(small_net("resnet18"), str(tmp_path / "a.pth"))


def test_a_pipe_in_place_of_a_checkpoint_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt is damaged: .*pipe"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.slow  # each is traced
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_network_as_onnx_gives_its_own_logits_for_any_batch(name):
    net = small_net(name, **({"patch": 8} if name.startswith(("vit", "deit")) else {}))
    net.load_state_dict(other(net) if name == "resnet18" else net.state_dict())
    session = session_of(lambda: onnx_model(net.eval(), DataInfo(4, SIZE, SIZE), {}))
    assert [value.name for value in session.get_inputs()] == ["pixels"]
    for rows in (1, 2, 5):
        x = torch.randn(rows, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(rows))
        (found,) = session.run(["logits"], {"pixels": x.numpy()})
        with torch.no_grad():
            expected = net(x)
        scale = expected.abs().max().clamp(min=1)
        torch.testing.assert_close(
            torch.from_numpy(found) / scale, expected / scale, rtol=0, atol=1e-4
        )


class OneSize(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3] + torch.zeros(len(x), 1)


def test_a_network_that_fixes_the_size_of_batches_is_not_written():
    with pytest.raises(RunFailedError, match="batches of one size only"):
        onnx_model(OneSize(), DataInfo(3, 4, 4), {})


def test_without_what_writes_onnx_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"not installed(.|\n)*mixbench\[onnx\]"):
        onnx_model(vit(), DataInfo(3, 16, 16), {})
