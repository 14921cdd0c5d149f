import numpy as np
import pytest
import torch
from drawn import all_axes, notes, texts

from mixbench.errors import UserError
from mixbench.leaderboard.plots.draw import draw
from mixbench.leaderboard.plots.reliability import BINS, binned
from mixbench.metrics.calibration import BINS as SCORED_BINS
from mixbench.metrics.calibration import ece, reliability

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(size=(200, 4)).astype(np.float32) * 2
LABELS = GENERATOR.integers(0, 4, 200)


def heights(axes):
    return [bar.get_height() for bar in axes.patches]


def test_bins_are_those_of_the_score():
    assert BINS == SCORED_BINS
    y = torch.from_numpy(LABELS)
    known = reliability(torch.from_numpy(LOGITS), y)
    confidence = torch.from_numpy(LOGITS).softmax(1).amax(1).double().numpy()
    counts, sums, hits = binned(confidence, LOGITS.argmax(1) == LABELS)
    assert counts.tolist() == known.counts.tolist()
    some = counts > 0
    np.testing.assert_allclose(sums[some] / counts[some], known.confidence.numpy()[some])
    np.testing.assert_allclose(hits[some] / counts[some], known.accuracy.numpy()[some])


def test_a_confidence_on_a_border_lies_in_the_bin_below():
    counts, _, _ = binned(np.array([0.25, 0.5, 1.0]), np.array([True, True, False]), 4)
    assert counts.tolist() == [1, 1, 0, 1]


def test_bars_are_accuracies_and_counts_and_the_error_is_that_of_the_table(runs):
    runs.predict(runs.add("erm"), LOGITS, LABELS)
    figure = draw("reliability", runs.board())
    above, below = all_axes(figure)
    known = reliability(torch.from_numpy(LOGITS), torch.from_numpy(LABELS))
    accuracy = np.where(known.counts > 0, known.accuracy, np.nan)
    np.testing.assert_allclose(heights(above), accuracy, equal_nan=True)
    assert heights(below) == known.counts.tolist()
    error = float(ece(torch.from_numpy(LOGITS), torch.from_numpy(LABELS)))
    assert any(f"ECE {error:.4f}, n = 200" in text for text in texts(figure))


def test_seeds_are_pooled_and_the_error_is_their_mean(runs):
    other = LOGITS[::-1].copy()
    for seed, logits in enumerate((LOGITS, other)):
        runs.predict(runs.add("erm", seed), logits, LABELS)
    figure = draw("reliability", runs.board())
    assert sum(heights(all_axes(figure)[1])) == 400
    y = torch.from_numpy(LABELS)
    errors = [float(ece(torch.from_numpy(logits), y)) for logits in (LOGITS, other)]
    assert any(f"ECE {sum(errors) / 2:.4f}" in text for text in texts(figure))
    assert "mean over them" in notes(figure)


def test_each_seed_has_a_diagram_if_asked_for(runs):
    for seed in range(3):
        runs.predict(runs.add("erm", seed), LOGITS, LABELS)
    figure = draw("reliability", runs.board(), per_seed=True)
    assert len(all_axes(figure)) == 6
    assert any(text.startswith("erm s2") for text in texts(figure))


@pytest.mark.parametrize("what", ["missing", "several labels", "not finite", "damaged"])
def test_runs_without_usable_predictions_are_named_and_refused_alone(runs, what):
    folder = runs.add("mixup")
    if what == "several labels":
        runs.predict(folder, LOGITS, np.zeros((200, 4), int))
    elif what == "not finite":
        runs.predict(folder, np.where(LOGITS > 5, np.nan, LOGITS) * np.nan, LABELS)
    elif what == "damaged":
        (folder / "predictions.npz").write_text("boom")
    with pytest.raises(UserError) as raised:
        draw("reliability", runs.board())
    assert "mixbench eval" in raised.value.todo
    runs.predict(runs.add("erm"), LOGITS, LABELS)
    assert "Not shown: mixup" in notes(draw("reliability", runs.board()))


def test_no_torch_is_needed_to_draw(runs, monkeypatch):
    runs.predict(runs.add("erm"), LOGITS, LABELS)
    board = runs.board()
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert all_axes(draw("reliability", board))
