"""Methods that mix inputs and soft labels, on images with several labels."""

import pytest
import torch
from paths import SHARED

from mixbench import compose, run
from mixbench.config.names import METHODS, TASKS
from mixbench.errors import UserError
from mixbench.tasks.base import find_task
from mixbench.testing.samples import sample_batch, sample_method
from mixbench.training.job import resolve

VOC = SHARED / "data" / "voc2012_sample.zip"
WORDS = f"data=voc2007 data.root={VOC} data.size=32 data.limit=24 data.workers=0 net.width=4 "
WORDS += "epochs=1 batch_size=8 wandb.mode=disabled eval.suites=[calibration] "
ABLE = [name for name in METHODS.table if "multilabel" in METHODS.get(name).tasks]


def test_the_methods_that_only_mix_inputs_and_labels_are_able():
    assert {"erm", "mixup", "mixup2", "cutmix", "manifoldmixup", "alignmix", "choice"} <= set(ABLE)
    assert {"splicemix", "splicemix_cl"} <= set(ABLE)


@pytest.mark.skipif(not VOC.exists(), reason="the real image data is not beside the checkout")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("erm", "cutmix", "splicemix")))
        for name in ABLE
    ],
)
def test_they_train_on_voc_and_are_scored_by_map(name, runs):
    record = run(compose(f"method={name} {WORDS}"))
    assert record.status == "done"
    assert 0 < record.metrics["map"] <= 100
    assert "top1" not in record.metrics


@pytest.mark.parametrize("name", ABLE)
def test_targets_stay_weights_of_each_class_and_unknown_labels_stay_unknown(name):
    method = sample_method(METHODS.get(name))
    x, _ = sample_batch()
    targets = (torch.rand(len(x), 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()
    targets[0, 2] = float("nan")
    _, mixed = method.predict(method.mix(x, targets))
    for soft in mixed.targets.values() if isinstance(mixed.targets, dict) else [mixed.targets]:
        known = soft[~soft.isnan()]
        assert ((known >= 0) & (known <= 1)).all()
        assert soft[0, 2].isnan()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("method=bc", "bc needs multiclass data"),
        ("method=manifoldmixup method.loss=bce_softmax", "manifoldmixup needs multiclass data"),
        ("method=choice method.members=[mixup,bc]", "choice needs multiclass data"),
        ("method=mixup optim.label_smoothing=0.1", "label smoothing"),
    ],
)
def test_what_needs_one_label_is_refused_before_data_is_looked_for(words, match):
    with pytest.raises(UserError, match=match):
        resolve(compose(f"{words} data=voc2007 data.root=missing"))


@pytest.mark.parametrize("name", [n for n in TASKS.table if TASKS.get(n).classifies])
def test_a_task_describes_itself(name):
    task = find_task("supervised" if name != "ssl" else "ssl", TASKS.get(name).kind)
    assert task.name == name
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) % 4 if task.kind == "multiclass" else (logits > 0.3).float()
    scores = task.scores(logits, labels, None)
    assert scores[task.monitor] == pytest.approx(float(task.peek_score(logits, labels)))
    assert scores[task.monitor] == pytest.approx(task.epoch_scores(logits, labels)[task.monitor])
