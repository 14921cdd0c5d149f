"""The test set after every epoch."""

import pytest
import torch

from mixbench import compose, run
from mixbench.records.checkpoints import read_checkpoint
from mixbench.records.curves import read_curves
from mixbench.records.record import read_record

WORDS = "data=digits data.limit=128 data.size=16 net.width=4 batch_size=32 wandb.mode=disabled"


def carry_out(folder, *words):
    return run(compose([*WORDS.split(), *words, f"run.dir={folder}"]))


def weights(folder, record):
    return read_checkpoint(folder / record.id / "last.ckpt")["state_dict"]


@pytest.mark.parametrize(
    "words", [["epochs=10"], ["epochs=2", "optim.ema=0.9", "select=val", "method=cutmix"]]
)
def test_nobody_notices_the_look(tmp_path, words):
    plain = carry_out(tmp_path / "plain", *words)
    looked = carry_out(tmp_path / "looked", *words, "peek=true")
    assert looked.id == plain.id
    assert looked.recipe_hash == plain.recipe_hash
    first, second = weights(tmp_path / "plain", plain), weights(tmp_path / "looked", looked)
    assert all(torch.equal(first[name], second[name]) for name in first)
    shared = {key: value for key, value in looked.metrics.items() if "_test" not in key}
    assert {key: value for key, value in shared.items() if "median" not in key} == plain.metrics

    rows, _ = read_curves(tmp_path / "looked" / looked.id / "metrics.csv")
    curve = [row["peek/top1"] for row in rows if "peek/top1" in row]
    assert len(curve) == looked.epochs
    if looked.select == "last":  # the last look is at what is tested
        assert curve[-1] == pytest.approx(looked.metrics["top1"], rel=1e-7)
    assert looked.metrics["top1_best_test"] == max(curve)
    assert ("top1_median10" in looked.metrics) == (looked.epochs >= 10)
    assert not any("peek/top1" in row for row in read_curves_of(tmp_path / "plain", plain))


def read_curves_of(folder, record):
    return read_curves(folder / record.id / "metrics.csv")[0]


def test_the_look_is_at_averaged_weights(tmp_path):
    words = ["epochs=3", "batch_size=8", "peek=true"]
    curves = []
    for more in ([], ["optim.ema=0.97"]):
        record = carry_out(tmp_path, *words, *more)
        rows = read_curves_of(tmp_path, record)
        curves.append([row["peek/top1"] for row in rows if "peek/top1" in row])
        assert curves[-1][-1] == pytest.approx(record.metrics["top1"], rel=1e-7)
    assert curves[0] != curves[1]


def test_an_interrupted_run_that_began_without_a_look_has_no_columns(tmp_path, monkeypatch):
    from mixbench.errors import InterruptedRunError
    from mixbench.training.callbacks.checkpoint import KeepCheckpoints

    save = KeepCheckpoints.on_train_epoch_end

    def stop_after_one(self, trainer, module):
        save(self, trainer, module)
        if trainer.current_epoch == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(KeepCheckpoints, "on_train_epoch_end", stop_after_one)
    words = ["epochs=3", "data.crop=2"]
    for more in ([], ["peek=true"]):
        folder = tmp_path / "-".join(["runs", *more])
        with pytest.raises(InterruptedRunError):
            carry_out(folder, *words, *more)
    monkeypatch.undo()
    without = carry_out(tmp_path / "runs", *words, "peek=true")
    assert "top1_best_test" not in without.metrics
    assert "peek: an earlier attempt" in (tmp_path / "runs" / without.id / "log.txt").read_text()
    whole = carry_out(tmp_path / "runs-peek=true", *words, "peek=true")
    assert "top1_best_test" in read_record(tmp_path / "runs-peek=true" / whole.id).metrics


# FAULTS row 57: by default.
def test_without_being_asked_a_run_sees_its_test_set_once_at_the_end(tmp_path):
    record = carry_out(tmp_path, "epochs=3")
    config = compose("", base=tmp_path / record.id / "config.yaml")
    assert (config.select, config.peek) == ("last", False)
    rows = read_curves_of(tmp_path, record)
    tested = [row for row in rows if any(name.startswith("test/") for name in row)]
    assert [row["step"] for row in tested] == [max(row["step"] for row in rows)]
    assert not [name for row in rows for name in row if name.startswith(("peek/", "val/"))]
    assert not [name for name in record.metrics if "best" in name or "median" in name]


# FAULTS row 57.
def test_choosing_on_the_test_set_is_refused_with_what_to_do():
    from mixbench.errors import UserError

    with pytest.raises(UserError, match="peek=true to log the test score"):
        compose("select=best_test")
