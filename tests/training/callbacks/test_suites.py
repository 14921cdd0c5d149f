"""Suites judge the network that is tested, on the test images, once."""

import io
import shlex

import pytest
import rich
import torch
from rich.console import Console
from rich.text import Text

from mixbench import cli, compose, run
from mixbench.config.schema import EvalConfig
from mixbench.data import DATA
from mixbench.evaluation.suite import Suite, load_suite
from mixbench.records.checkpoints import BEST, read_checkpoint
from mixbench.records.record import read_record
from mixbench.training.callbacks.suites import show_progress
from mixbench.training.reevaluate import evaluate_run, rebuild

WORDS = "select=val eval.suites=[occlusion,linearity] eval.adv_n=null data.limit=64 epochs=2"


@pytest.mark.parametrize("more", [[], ["optim.ema=0.5"], ["method=samix"]], ids=str)
def test_suites_see_the_chosen_weights_in_eval_mode_and_no_image_of_the_hold_out(
    runs, tiny, monkeypatch, more
):
    seen, count = [], Suite.count_part

    def spy(suite, part, model, batches, info):
        batches = list(batches)
        modes = {module.training for module in model.modules()}
        images = torch.cat([batch.images for batch in batches])
        seen.append(
            (suite.name, modes, images, {k: v.clone() for k, v in model.state_dict().items()})
        )
        return count(suite, part, model, batches, info)

    monkeypatch.setattr(Suite, "count_part", spy)
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


def test_a_short_run_says_that_it_is_not_attacked_and_by_which_command_it_will_be(
    runs, tiny, caplog, monkeypatch
):
    caplog.set_level("INFO", logger="mixbench")
    record = run(compose([*tiny, "eval.suites=[adversarial]"]))
    assert record.evaluations == {}
    (line,) = [r.getMessage() for r in caplog.records if "no adversarial suite" in r.getMessage()]
    *_, command = line.partition("mixbench ")
    assert cli.main([*shlex.split(command), "eval.attacks=[fgsm_4]"]) == 0
    assert read_record(runs / record.id).evaluations["adversarial"]["images"] == record.test_size


@pytest.mark.slow  # a grid of runs
def test_all_methods_of_a_recipe_are_attacked_on_as_many_images(runs, tiny):
    words = [*tiny, "eval.suites=[adversarial]", "eval.attacks=[fgsm_8]", "epochs=12"]
    records = [run(compose([*words, f"method={name}"])) for name in ("erm", "samix")]
    images = [record.evaluations["adversarial"]["images"] for record in records]
    seen = 12 * records[0].train_size
    assert images == [min(0.3 * seen / 5 // 16 * 16, records[0].test_size)] * 2


def test_a_suite_that_begins_tells_how_many_images_it_looks_at(runs, tiny, caplog):
    caplog.set_level("INFO", logger="mixbench")
    run(compose([*tiny, "eval.suites=[linearity]", "eval.adv_n=7"]))
    told = [record.getMessage() for record in caplog.records]
    begun = next(n for n, line in enumerate(told) if line.startswith("linearity on 7 images"))
    assert told[begun + 1].startswith("linearity on 7 of ")


def test_on_a_terminal_a_bar_takes_the_place_of_the_line(monkeypatch, caplog):
    caplog.set_level("INFO", logger="mixbench")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    suite = load_suite("occlusion", EvalConfig())
    suite.name = "[red]occlusion"
    screen = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console(file=screen, force_terminal=True, width=80))
    assert list(show_progress(suite, 40)([1, 2, 3])) == [1, 2, 3]
    assert "[red]occlusion on 40 images" in Text.from_ansi(screen.getvalue()).plain
    assert caplog.records == []


def test_a_network_that_is_judged_later_is_in_eval_mode_throughout(runs, tiny):
    config = compose([*tiny, "method=samix"])
    folder = runs / run(config).id
    network = rebuild(folder, folder / "last.ckpt", config, read_record(folder))
    assert not any(module.training for module in network.method.modules())
