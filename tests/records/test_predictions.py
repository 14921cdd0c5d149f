import subprocess
import sys

import numpy as np
import pytest
import torch

from mixbench.errors import UserError
from mixbench.metrics import multilabel_scores, scores
from mixbench.records.predictions import (
    Predictions,
    read_outputs,
    read_predictions,
    write_predictions,
)


def predictions(classes, n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator)
    y = torch.randint(classes, (n,), generator=generator)
    return logits, torch.where(torch.rand(n, generator=generator) < 0.5, logits.argmax(1), y)


def test_every_score_can_be_computed_again_from_the_file(tmp_path):
    logits, y = predictions(10)
    held = (*predictions(10, seed=1), torch.arange(60))
    whole = Predictions(logits, y, torch.arange(60), held)
    write_predictions(tmp_path / "p.npz", whole)
    found = read_predictions(tmp_path / "p.npz")
    assert torch.equal(found.logits, logits)
    assert torch.equal(found.ids, torch.arange(60))
    assert scores(found.logits, found.labels, found.holdout[:2]) == scores(logits, y, held[:2])
    write_predictions(tmp_path / "p.npz", whole._replace(holdout=None))
    assert read_predictions(tmp_path / "p.npz").holdout is None


def test_names_of_classes_are_kept_and_may_be_missing(tmp_path):
    logits, y = predictions(3)
    names = ("cat", "ma\u00f1ana", "a b")
    plain = Predictions(logits, y, torch.arange(60))
    write_predictions(tmp_path / "p.npz", plain._replace(class_names=names))
    assert read_predictions(tmp_path / "p.npz").class_names == names
    write_predictions(tmp_path / "p.npz", plain)
    assert read_predictions(tmp_path / "p.npz").class_names == ()
    with np.load(tmp_path / "p.npz") as stored:
        assert "class_names" not in stored.files


def test_many_classes_are_kept_in_half_precision(tmp_path):
    logits, y = predictions(201)
    write_predictions(tmp_path / "p.npz", Predictions(logits, y, torch.arange(60)))
    with np.load(tmp_path / "p.npz") as stored:
        assert stored["logits"].dtype == np.float16
    found = read_predictions(tmp_path / "p.npz")
    assert found.logits.dtype == torch.float32
    again, first = scores(found.logits, found.labels), scores(logits, y)
    for name in ("top1", "nll", "brier", "nll_cf", "T"):
        assert again[name] == pytest.approx(first[name], rel=1e-3)


def test_several_labels_per_image_have_their_own_scores(tmp_path):
    logits, _ = predictions(4)
    targets = (logits > 1).float()
    write_predictions(tmp_path / "p.npz", Predictions(logits, targets, torch.arange(60)))
    found = read_predictions(tmp_path / "p.npz")
    assert multilabel_scores(found.logits, found.labels)["map"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "no stored predictions"),
        (b"", "cannot be read"),
        (b"PK\x03\x04 half a file", "cannot be read"),
        ({"labels": np.zeros(3)}, "cannot be read"),
        ({"logits": np.zeros((3, 2)), "labels": np.zeros(2), "ids": np.zeros(3)}, "belong"),
        (
            {"logits": np.array([object()]), "labels": np.zeros(1), "ids": np.zeros(1)},
            "cannot be read",
        ),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, content, what):
    path = tmp_path / "p.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    with pytest.raises(UserError, match=what) as caught:
        read_predictions(path)
    assert caught.value.where == str(path)
    assert "evaluate" in caught.value.todo


def test_the_file_is_read_without_torch(tmp_path):
    logits, y = predictions(3)
    held = (logits[:4], y[:4], torch.arange(4))
    write_predictions(tmp_path / "p.npz", Predictions(logits, y, torch.arange(60), held, ("a",)))
    arrays, names = read_outputs(tmp_path / "p.npz")
    assert names == ("a",)
    assert np.array_equal(arrays["logits"], logits.numpy())
    assert np.array_equal(arrays["holdout_labels"], y[:4].numpy())
    code = (
        "import sys; from pathlib import Path; from mixbench.records.predictions import "
        f"read_outputs; read_outputs(Path({str(tmp_path / 'p.npz')!r})); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_flipped_bit_is_refused_or_without_effect(tmp_path):
    path = tmp_path / "p.npz"
    logits, y = predictions(2, n=5)
    write_predictions(path, Predictions(logits, y, torch.arange(5), class_names=("a", "b")))
    whole = path.read_bytes()
    wanted = [np.asarray(part) for part in read_predictions(path)[:3]]
    for place in range(0, len(whole), 2):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            found = read_predictions(path)
        except UserError:
            continue
        assert all(np.array_equal(a, b) for a, b in zip(found[:3], wanted, strict=True)), place
