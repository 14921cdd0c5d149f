import pytest
import torch
from PIL import Image

from mixbench import compose, run
from mixbench.callbacks.samples import Samples
from mixbench.checkpoints import LAST, read_checkpoint
from mixbench.results.record import runs_folder


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
