"""When checkpoints are written, the place that each of them notes, and when training must end."""

from types import SimpleNamespace

import pytest

from mixbench.distributed.process_group import ProcessGroup
from mixbench.distributed.signals import Stopped
from mixbench.training.callbacks.checkpoint import Diverged, KeepCheckpoints

BATCHES = 4  # of an epoch


class Bench:
    """A trainer that only calls the hooks, for a method that only counts its steps."""

    sanity_checking = False
    num_training_batches = BATCHES

    def __init__(self, folder, log_every=50, accumulate=1, scores=(), bad=None, **options):
        self.files, self.notes, self.looks = [], [], []
        self.current_epoch, self.callback_metrics = 0, {}
        self.accumulate, self.scores, self.bad = accumulate, scores, bad
        self.signals = SimpleNamespace(received=None, patient=False, install=lambda: None)
        curves = SimpleNamespace(last_row=lambda: None, save=lambda: None)
        self.keeper = KeepCheckpoints(
            folder,
            {"id": "x"},
            self.signals,
            ProcessGroup(),
            curves,
            saved=lambda epoch, step: self.notes.append((epoch, step)),
            **options,
        )
        run = SimpleNamespace(trainer=SimpleNamespace(log_every=log_every))
        epoch_loss = SimpleNamespace(first_bad=self.first_bad)
        self.method = SimpleNamespace(step=0, run=run, epoch_loss=epoch_loss)
        self.batch = 0

    def first_bad(self):
        self.looks.append(self.method.step)
        place = self.current_epoch * BATCHES + self.batch
        return self.bad if self.bad is not None and place >= self.bad else None

    def save_checkpoint(self, path, weights_only):
        assert weights_only is False  # the state of the optimiser is saved, too
        content = {}
        self.keeper.on_save_checkpoint(self, self.method, content)
        facts = content["mixbench"]
        self.files.append((path.name, facts["epoch"], facts["batch"], self.method.step))

    def fit(self, epochs, stop_at=None):
        self.keeper.on_fit_start(self, self.method)
        for self.current_epoch in range(epochs):
            for self.batch in range(BATCHES):
                self.method.step += (self.batch + 1) % self.accumulate == 0
                if (self.current_epoch, self.batch) == stop_at:
                    self.signals.received = "SIGTERM"
                self.keeper.on_train_batch_end(self, self.method, None, None, self.batch)
            if self.scores:
                self.callback_metrics = {"val/top1": self.scores[self.current_epoch]}
                self.keeper.on_validation_end(self, self.method)
            self.keeper.on_train_epoch_end(self, self.method)
        return self.files


def test_each_epoch_is_saved_with_the_place_where_the_next_begins(tmp_path):
    bench = Bench(tmp_path)
    assert bench.fit(2) == [("last.ckpt", 1, 0, 4), ("last.ckpt", 2, 0, 8)]
    assert bench.notes == [(1, 4), (2, 8)]


def test_checkpoints_inside_an_epoch_note_the_batches_that_are_done(tmp_path):
    bench = Bench(tmp_path, every=3)
    expected = [(0, 3, 3), (1, 0, 4), (1, 2, 6), (2, 0, 8)]
    assert bench.fit(2) == [("last.ckpt", *place) for place in expected]
    assert bench.notes == [(epoch, step) for epoch, _, step in expected]


def test_inside_an_accumulation_window_nothing_is_saved(tmp_path):
    bench = Bench(tmp_path, every=1, accumulate=2)
    expected = [(0, 2, 1), (1, 0, 2), (1, 2, 3), (2, 0, 4)]
    assert bench.fit(2) == [("last.ckpt", *place) for place in expected]


def test_the_best_weights_are_those_of_the_first_epoch_that_no_other_beats(tmp_path):
    bench = Bench(tmp_path, monitor="val/top1", scores=(50.0, 70.0, 70.0, 60.0))
    best = [file for file in bench.fit(4) if file[0] == "best.ckpt"]
    assert best == [("best.ckpt", 1, 0, 4), ("best.ckpt", 2, 0, 8)]
    assert bench.keeper.state_dict() == {"best": 70.0, "best_epoch": 1}


def test_the_loss_is_looked_at_in_the_interval_asked_for_and_before_each_checkpoint(tmp_path):
    bench = Bench(tmp_path, log_every=3)
    bench.fit(3)
    # Of every third step, of which the last of an epoch is looked at by the checkpoint.
    assert bench.looks == [3, 4, 6, 8, 9, 12]


def test_a_loss_that_is_not_finite_ends_training_before_anything_is_saved(tmp_path):
    bench = Bench(tmp_path, log_every=2, bad=4)  # batch 0 of epoch 1, seen two steps later
    with pytest.raises(Diverged) as error:
        bench.fit(2)
    assert (error.value.epoch, error.value.batch) == (1, 0)
    assert bench.method.step == 6
    assert bench.files == [("last.ckpt", 1, 0, 4)]


@pytest.mark.parametrize(
    ("stop_at", "place"), [((0, 0), (0, 1, 1)), ((1, 1), (1, 2, 6)), ((0, 3), (1, 0, 4))]
)
def test_a_signal_is_looked_for_at_every_step_and_ends_training_with_a_checkpoint(
    tmp_path, stop_at, place
):
    bench = Bench(tmp_path, log_every=50)
    with pytest.raises(Stopped):
        bench.fit(2, stop_at)
    assert bench.files[-1] == ("last.ckpt", *place)
    assert bench.method.step == place[-1]
