import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from mixbench.data.loaders import MixData
from mixbench.methods import METHODS
from mixbench.testing.samples import sample_method, sample_splits
from mixbench.training.callbacks.average import EMA, warm_decay


def test_the_memory_is_short_at_first_and_never_longer_than_asked_for():
    assert warm_decay(0.999, 0) == pytest.approx(0.1)
    assert warm_decay(0.999, 8) == pytest.approx(0.5)
    assert warm_decay(0.999, 100_000) == 0.999
    assert warm_decay(0.3, 8) == 0.3


def test_weights_and_statistics_are_averaged_by_the_rule():
    method = sample_method(METHODS.get("erm"))
    data = MixData(sample_splits(method), method.run, method.wrap_dataset)
    method.total_steps = method.run.epochs * data.steps_per_epoch
    seen = []
    after = method.after_step
    method.after_step = lambda: (after(), seen.append({k: v.clone() for k, v in state()}))[0]

    def state():
        return [(k, v.detach()) for k, v in method.state_dict().items()]

    callback = EMA(0.9)
    trainer = Trainer(
        max_epochs=method.run.epochs,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        limit_val_batches=0,
    )
    trainer.fit(method, datamodule=data)
    expected = {name: value.double() for name, value in seen[0].items()}
    for updates, current in enumerate(seen[1:], start=1):
        decay = warm_decay(0.9, updates)
        for name, value in current.items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
            else:
                expected[name] = value.double()
    assert len(seen) >= 4
    final = dict(state())
    for name, value in expected.items():
        torch.testing.assert_close(final[name].double(), value, rtol=1e-5, atol=1e-6)
    moved = [name for name in final if not torch.equal(final[name], seen[-1][name])]
    assert any("running_mean" in name for name in moved)
    assert any(name.endswith("fc.weight") for name in moved)


def test_the_counter_stays_on_the_host_where_reading_it_waits_for_nothing():
    method = sample_method(METHODS.get("erm"))
    callback = EMA(0.9)

    class Fake:
        pass

    callback.setup(Fake(), method, "fit")
    assert callback._average_model.n_averaged.device.type == "cpu"


def test_what_a_step_puts_in_place_of_a_buffer_is_averaged_and_shared_weights_once():
    method = sample_method(METHODS.get("erm"))
    weight = method.net.head.fc.weight
    method.tied = nn.Linear(1, 1)
    method.tied.weight = weight
    callback = EMA(0.9)
    callback.setup(None, method, "fit")
    for step in range(2):
        method.mean = torch.full_like(method.mean, step)
        weight.data.fill_(step)
        callback._latest_update_step = step
        callback.follow(method)
    share = torch.tensor(1 - warm_decay(0.9, 1))
    for value in (callback.averaged.mean, callback.averaged.tied.weight):
        assert torch.equal(value, share.expand_as(value))


def test_a_part_put_in_place_of_another_is_averaged_and_one_more_is_refused():
    method = sample_method(METHODS.get("erm"))
    callback = EMA(0.9)
    callback.setup(None, method, "fit")
    callback.follow(method)
    before = method.net.head.fc
    method.net.head.fc = nn.Linear(before.in_features, before.out_features)
    expected = before.weight.lerp(method.net.head.fc.weight, 1 - warm_decay(0.9, 1))
    callback._latest_update_step = 1
    callback.follow(method)
    torch.testing.assert_close(callback.averaged.net.head.fc.weight, expected)
    method.net.head.fc.more = nn.Linear(1, 1, bias=False)
    with pytest.raises(RuntimeError, match="Make all of them before training starts"):
        callback.follow(method)
