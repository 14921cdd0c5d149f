import json
import logging

import pytest

from mixbench import cli, compose, run
from mixbench.errors import UserError
from mixbench.records.redaction import REDACTED
from mixbench.tracking import tensorboard
from mixbench.tracking.tensorboard import TensorBoardView
from mixbench.training.reevaluate import evaluate_run

WORDS = ["data=digits", "data.limit=64", "net.width=4", "epochs=2", "batch_size=32"]
WORDS += ["eval.suites=[]", "trainer.log_every=1", "logger=tensorboard"]


def events(folder):
    """All event files of a run, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), {"tensors": 0, "scalars": 0, "images": 0})
    found.Reload()
    return found


def scalars(folder):
    found = events(folder)
    return {
        name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]
    }


def text(folder, name):
    (event,) = events(folder).Tensors(f"{name}/text_summary")
    return json.loads(event.tensor_proto.string_val[0])


def test_a_run_leaves_curves_scores_its_picture_and_how_it_ended(tmp_path):
    record = run(compose([*WORDS, f"run.dir={tmp_path}"]))
    folder = tmp_path / record.id
    found = scalars(folder)
    assert [step for step, _ in found["train/loss"]] == [0, 1, 2, 3]
    assert len(found["train/lr"]) == 4
    assert found["test/top1"] == [(3, pytest.approx(record.metrics["top1"]))]
    assert events(folder).Tags()["images"] == ["samples"]
    summary = text(folder, "summary")
    assert (summary["status"], summary["top1"]) == ("done", record.metrics["top1"])
    assert text(folder, "config")["batch_size"] == 32
    assert not (folder / "wandb").exists()


def test_the_logger_changes_neither_the_id_nor_the_curves(tmp_path):
    made = []
    for name in ("tensorboard", "none"):
        record = run(compose([*WORDS, f"run.dir={tmp_path / name}", f"logger={name}"]))
        folder = tmp_path / name / record.id
        made.append((record.id, (folder / "metrics.csv").read_text()))
    assert made[0] == made[1]
    assert not (folder / "tensorboard").exists()
    assert not (folder / "wandb").exists()


def test_a_later_evaluation_arrives_beside_the_scores_of_the_run(tmp_path):
    record = run(compose([*WORDS, f"run.dir={tmp_path}"]))
    again = evaluate_run(tmp_path / record.id, ["eval.adv_n=8"], ["linearity"])
    found = scalars(tmp_path / record.id)
    assert found["test/lin_gap"] == [(3, pytest.approx(again.metrics["lin_gap"]))]
    assert len(found["test/top1"]) == 1


def test_what_an_interrupted_attempt_wrote_beyond_its_checkpoint_is_not_shown_twice(tmp_path):
    for first, values in ((0, range(4)), (2, range(2, 6))):
        view = TensorBoardView(tmp_path, first, {})
        for step in values:
            view.log_metrics({"train/loss": float(10 * first + step)}, step)
        view.close()
    assert scalars(tmp_path)["train/loss"] == [
        (0, 0.0),
        (1, 1.0),
        *((n, 20.0 + n) for n in range(2, 6)),
    ]


def test_the_configuration_is_shown_without_its_secrets(tmp_path):
    config = {"data": {"api_key": "hidden-word"}, "run": {"notes": "<b>\n# ```\udcff"}}
    TensorBoardView(tmp_path, 0, config).close()
    shown = text(tmp_path, "config")
    assert shown["data"] == {"api_key": REDACTED}
    assert shown["run"] == config["run"]


def test_a_view_that_cannot_be_written_costs_one_line_and_not_the_run(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="mixbench")
    (tmp_path / "tensorboard").write_text("a file in the way")
    view = TensorBoardView(tmp_path, 0, {})
    for step in range(3):
        view.log_metrics({"train/loss": 1.0}, step)
    view.log_image("samples", [str(tmp_path / "missing.png")])
    view.close()
    (line,) = [r.getMessage() for r in caplog.records if r.name == "mixbench"]
    assert line.startswith("TensorBoard view stopped: ")


def test_without_the_package_a_run_is_refused_before_it_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tensorboard, "find_spec", lambda _: None)
    words = [*WORDS, f"run.dir={tmp_path}"]
    with pytest.raises(UserError, match="needs the package tensorboard"):
        run(compose(words))
    assert cli.main(["run", *words]) == 2
    assert "mixbench[tensorboard]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
