import io
import sys

import numpy as np
import pytest
from PIL import Image

import mixbench.notebook.images as images
from mixbench import compose, run
from mixbench.errors import RunFailedError, UserError
from mixbench.notebook.images import PACK, real_images
from mixbench.notebook.runs import bench, logged, scores, sweep
from mixbench.notebook.table import Table, curves
from mixbench.records.curves import read_curves


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "BESIDE", tmp_path / "beside")
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    return tmp_path


def put_pack(folder):
    folder.mkdir()
    for name in PACK:
        pixels = np.zeros((4, 8, 8, 3), dtype=np.uint8)
        np.savez(folder / name, images=pixels, label=np.arange(4) % 2)


def test_digits_stand_in_where_no_pack_is_found(nowhere):
    said = []
    assert real_images(said.append) == ["data=digits"]
    assert len(said) == 1
    assert "MIXBENCH_DATA" in said[0]


@pytest.mark.parametrize("place", ["data", "beside"])
def test_a_pack_is_found_in_the_data_folder_or_beside_the_checkout(nowhere, place):
    put_pack(nowhere / place)
    said = []
    words = real_images(said.append)
    assert said == [f"images: CIFAR-10 pack in {nowhere / place}"]
    assert compose(words).data.train == str(nowhere / place / PACK[0])
    assert "data.name=cifar10" in words


def test_the_data_folder_comes_first_and_half_a_pack_is_none(nowhere):
    put_pack(nowhere / "beside")
    (nowhere / "data").mkdir()
    (nowhere / "data" / PACK[0]).touch()
    assert str(nowhere / "beside") in real_images(print)[1]


def test_runs_are_carried_out_once_and_their_scores_read(runs, tiny):
    words = [*tiny, "trainer.log_every=1"]
    said = []
    first = bench(["method=erm,alignmix", *words], said.append)
    assert [folder.name.split("-")[0] for folder in first] == ["erm", "alignmix"]
    assert "2 runs, 0 of them done already" in said
    again = bench(["method=erm,alignmix", *words], said.append)
    assert again == first
    assert said[-1] == "2 runs, 2 of them done already"
    table = scores(first[1:], ["method.eps", "net.width"], ["lam", "row_error"])
    (row,) = table.rows
    assert (row["method.eps"], row["net.width"], row["seed"]) == (0.1, 4, 0)
    assert 0 <= row["top1"] <= 100
    assert 0 < row["lam"] < 1

    plans = sweep("manifold_layers", [*words, "seeds=1", "method.layers=[1]"], said.append)
    assert [row["seed"] for row in scores(plans, ["method.layers"]).rows] == [1]


def test_a_failed_run_is_named(runs, tiny, tmp_path, monkeypatch):
    (tmp_path / "fails.py").write_text(
        "from mixbench.methods.base import Method\n"
        "class Fails(Method):\n"
        "    def mix(self, x, targets, **decisions):\n"
        "        raise RuntimeError('planted')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RunFailedError, match="1 of 1 runs failed"):
        bench(["method=fails:Fails", *tiny], print)


def test_a_plan_that_needs_another_is_refused(tmp_path):
    plan = tmp_path / "second.yaml"
    plan.write_text("base: {method: erm}\nafter: {data.root: manifold_layers}\n")
    with pytest.raises(UserError, match="needs another"):
        sweep(str(plan), [], print)


def test_a_table_is_shown_as_markdown_with_holes_marked():
    table = Table([{"a": 1, "b": 0.123456}, {"a": "x|y", "c": 1e-7}])
    lines = table._repr_markdown_().splitlines()
    assert lines[0] == "| a | b | c |"
    assert lines[2] == "| 1 | 0.1235 | \N{EN DASH} |"
    assert lines[3] == "| x\\|y | \N{EN DASH} | 0.0000 |"
    assert table.column("b") == [0.123456, None]


def test_logged_values_are_averaged_over_parts_of_each_run(runs, tiny):
    words = [*tiny, "epochs=2", "data.limit=160", "trainer.log_every=1"]
    methods = ("samix", "erm")
    folders = [runs / run(compose([f"method={name}", *words])).id for name in methods]
    names = ["loss", "mask_variance"]
    table = logged(folders, names, parts=5)
    assert table.column("method") == ["samix"] * 5 + ["erm"] * 5
    assert table.column("epochs") == [0.2, 0.6, 1.0, 1.4, 1.8] * 2
    lines, _ = read_curves(folders[0] / "metrics.csv")
    assert len(lines) == 10  # two steps to a part
    for part in range(5):
        for name in names:
            two = [line[f"train/{name}"] for line in lines[2 * part : 2 * part + 2]]
            assert table.rows[part][name] == pytest.approx(sum(two) / 2)
    assert "mask_variance" not in table.rows[5]
    assert curves(table, "epochs", "loss", by="method", scale="linear").size[0] > 100


def test_curves_are_drawn_for_each_value(monkeypatch):
    rows = [{"x": x, "y": x * k, "k": k} for k in (1, 2) for x in (0.1, 1.0)]
    one, two = curves(Table(rows), "x", "y"), curves(Table(rows), "x", "y", by="k")
    assert isinstance(two, Image.Image)
    assert one.size == two.size
    assert one.tobytes() != two.tobytes()
    assert curves(Table(rows), "x", "y", scale="linear").tobytes() != one.tobytes()
    file = io.BytesIO()
    two.save(file, format="png")
    with pytest.raises(UserError, match="no column 'z'"):
        curves(Table(rows), "x", "z")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"mixbench\[notebooks\]"):
        curves(Table(rows), "x", "y")
