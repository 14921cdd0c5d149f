import pytest
import torch
from PIL import Image

from mixbench import compose, run
from mixbench.data.sampling import BatchIndex, KeyedBatches
from mixbench.methods import METHODS
from mixbench.records.checkpoints import LAST, read_checkpoint
from mixbench.records.record import runs_folder
from mixbench.testing.samples import sample_method, sample_splits
from mixbench.training.callbacks.samples import Samples, draw_batch, show_batch
from mixbench.training.preview import first_batch


@pytest.mark.parametrize("method", ["alignmix", "manifoldmixup", "cutmix", "samix"])
def test_a_picture_changes_nothing_of_a_run(runs, tiny, tmp_path, monkeypatch, method):
    words = [f"method={method}", *tiny]
    if method in ("alignmix", "manifoldmixup"):
        words.append("method.layers=[3, -1]")
    first = runs_folder() / run(compose(words)).id
    with Image.open(first / "samples.png") as picture:
        assert picture.size[0] > 300
    monkeypatch.setattr(Samples, "on_train_batch_start", lambda *_: None)
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "others"))
    second = runs_folder() / run(compose(words)).id
    assert not (second / "samples.png").exists()
    one, two = (read_checkpoint(folder / LAST)["state_dict"] for folder in (first, second))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert one.keys() == two.keys()


def test_the_picture_is_of_the_batch_that_training_begins_with(runs, tiny, monkeypatch):
    seen = []

    def spy(method, batch, *place):
        assert method.training
        seen.append((batch.ids.tolist(), method.step, *place))
        return draw_batch(method, batch, *place)

    monkeypatch.setattr("mixbench.training.callbacks.samples.draw_batch", spy)
    config = compose([*tiny, "method=cutmix", "epochs=2", "seed=3"])
    run(config)
    first = KeyedBatches(128, 32, 3).draw(0, 0).indices.tolist()
    assert seen == [(first, 0)]
    _, batch = first_batch(config)  # the command `show`
    assert batch.ids.tolist() == first


def test_a_drawing_is_that_of_the_step_it_is_of():
    method = sample_method(METHODS.get("cutmix"))
    batch = sample_splits(method).train[BatchIndex(torch.arange(6), 0)]
    shown = []
    method.picture = lambda x, targets, mixed: shown.append((x, targets, mixed))  # pyright: ignore
    show_batch(method, batch, 2, 5)
    (x, targets, mixed), *_ = shown
    method.reseed(2, 5)
    before = method.prepare(batch)
    assert torch.equal(x, before[0])
    assert torch.equal(targets, before[1])
    method.reseed(2, 5)
    assert torch.equal(method.mix_batch(batch).x, mixed.x)
