"""Suites judge the network that is tested, on the test images, once."""

import pytest
import torch

from mixbench import compose, run
from mixbench.data import DATA
from mixbench.evaluation.suite import Suite
from mixbench.records.checkpoints import BEST, read_checkpoint
from mixbench.records.record import read_record
from mixbench.training.reevaluate import evaluate_run, rebuild

WORDS = "select=val eval.suites=[occlusion,linearity] eval.adv_n=null data.limit=64 epochs=2"


@pytest.mark.parametrize("more", [[], ["optim.ema=0.5"], ["method=samix"]], ids=str)
def test_suites_see_the_chosen_weights_in_eval_mode_and_no_image_of_the_hold_out(
    runs, tiny, monkeypatch, more
):
    seen, evaluate = [], Suite.evaluate

    def spy(suite, model, batches, info, group):
        batches = list(batches)
        modes = {module.training for module in model.modules()}
        images = torch.cat([batch.images for batch in batches])
        seen.append(
            (suite.name, modes, images, {k: v.clone() for k, v in model.state_dict().items()})
        )
        return evaluate(suite, model, batches, info, group)

    monkeypatch.setattr(Suite, "evaluate", spy)
    config = compose([*tiny, *WORDS.split(), *more])
    record = run(config)
    folder = runs / record.id
    assert [name for name, *_ in seen] == ["occlusion", "linearity"]
    splits = DATA.get("digits")(config.data).load(holdout=True)
    known = {image.numpy().tobytes() for image in splits.test.sample()}
    best = read_checkpoint(folder / BEST)["state_dict"]
    for _, modes, images, state in seen:
        assert modes == {False}
        assert {image.numpy().tobytes() for image in images} == known
        assert all(torch.equal(state[key], best[key]) for key in best)
    assert record.evaluations["occlusion"]["images"] == len(splits.test)

    again = evaluate_run(folder, ["eval.adv_n=null"], ["occlusion", "linearity"]).metrics
    for name in ("occ_auc", "lin_gap"):
        assert again[name] == pytest.approx(record.metrics[name], rel=1e-6)


def test_a_network_that_is_judged_later_is_in_eval_mode_throughout(runs, tiny):
    config = compose([*tiny, "method=samix"])
    folder = runs / run(config).id
    network = rebuild(folder, folder / "last.ckpt", config, read_record(folder))
    assert not any(module.training for module in network.method.modules())
