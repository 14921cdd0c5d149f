"""Methods that append images to the batch."""

import contextlib
import logging
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from several_labels import SeveralDigits
from small_nets import small_net

import mixbench.functional as mf
from mixbench import build_method, compose, run
from mixbench.backbones.base import with_max_pool
from mixbench.config.schema import DataInfo, NetConfig, RunConfig
from mixbench.data import DATA
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.pictures.sheet import as_sheets, mixed_sheet
from mixbench.testing.samples import BATCH, CLASSES, SIZE, fit, sample_batch, sample_method
from mixbench.training.compile import compile_stages
from mixbench.training.job import resolve

BOTH = ["splicemix", "splicemix_cl"]
WORDS = "data=several data.limit=64 net.width=4 epochs=1 batch_size=16 wandb.mode=disabled"


@pytest.fixture
def several(monkeypatch):
    """Data of several labels per image."""
    monkeypatch.setitem(DATA._objects, "several", SeveralDigits)


def made(name, **settings):
    return sample_method(METHODS.get(name), **settings)


def mixes(method, steps, rows=8):
    x, targets = sample_batch(rows)
    for step in range(steps):
        method.reseed(0, step)
        yield method.mix(x, targets)


@pytest.mark.parametrize("name", BOTH)
def test_grids_are_those_that_are_asked_for(name):
    method = made(name, grids=["1x3-1", "2x2"], counts=[2, 1])
    seen = set()
    for mixed in mixes(method, 30):
        assert mixed.x.shape[0] == mixed.targets.shape[0] == 8 + 3
        assert mixed.aux.dropped.sum() == 2
        seen.add(mixed.aux.grids[0][:2])
        assert mixed.aux.grids[1] == mf.SpliceGrid(2, 2)
    assert seen == {(1, 3), (3, 1)}
    for settings in ({"grids": ["1x3"], "counts": [0]}, {"grids": ["2x3"]}, {}):
        method = made(name, **settings)
        assert {len(mixed.x) for mixed in mixes(method, 3)} == {8 + 2} == {method.grown(8)}
    assert made(name, grids=["2x2", "1x2"], counts=[3, 4]).grown(8) == 8 + 7


@pytest.mark.parametrize("name", BOTH)
def test_a_share_of_batches_is_mixed_and_the_others_train_on_all_the_same(name):
    method = made(name, mix_prob=0.5)
    rows = []
    for mixed in mixes(method, 60):
        logits, after = method.predict(mixed)
        terms = method.loss(logits, after)
        plain = method.task.criterion(logits, after.targets)
        rows.append(len(mixed.x))
        if isinstance(terms, dict):
            torch.testing.assert_close(terms.pop("bce"), plain)
            assert bool(terms) == (len(mixed.x) > 8)
        else:
            torch.testing.assert_close(terms, plain)
        figures = method.diagnostics(after)
        assert float(figures["appended"]) == pytest.approx((len(mixed.x) - 8) / len(mixed.x))
    assert 15 < rows.count(10) < 45
    assert {*rows} == {8, 10}


def test_ranks_draw_grids_of_their_own_unless_they_share_them():
    for shared in (False, True):
        grids = []
        for rank in (0, 1):
            method = made("splicemix", shared_grid=shared)
            method.rank = rank
            grids.append([(m.aux.grids, m.aux.sources.tolist()) for m in mixes(method, 20)])
        own = [[layout for layout, _ in drawn] for drawn in grids]
        assert (own[0] == own[1]) == shared
        assert grids[0] != grids[1]  # which images are spliced is each rank's own


def test_a_batch_of_three_is_trained_on_as_it_is_with_one_warning(caplog):
    for name in BOTH:
        caplog.clear()
        method = made(name)
        with caplog.at_level(logging.WARNING, "mixbench"):
            for mixed in mixes(method, 3, rows=3):
                assert len(mixed.x) == 3
                method.loss(*method.predict(mixed))
        assert len(caplog.messages) == 1
        assert "batches of 3 images a process are too small" in caplog.messages[0]


def test_cells_are_judged_by_the_network_s_own_pooling_and_classifier():
    net = with_max_pool(small_net("preactresnet18", 32)).eval()  # no statistics of the batch
    info = DataInfo(CLASSES, 32, 32, task="multilabel")
    method = build_method("splicemix_cl", net, info, grids=["2x2"], counts=[1])
    x, targets = sample_batch(4, 32, 32)
    given = {"sources": torch.arange(4), "dropped": torch.zeros(4, dtype=torch.bool)}
    mixed = method.mix(x, targets, transposed=[False], **given)
    logits, after = method.predict(mixed)
    torch.testing.assert_close(logits, net(mixed.x))
    h = net.forward_stages(mixed.x)[4:]
    corner = net.head.fc(h[0, :, 2:, :2].amax(dim=(1, 2)))
    torch.testing.assert_close(after.aux.logits[2], corner)
    loss = method.loss(logits, after)["cl"]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        after.aux.logits, logits[:4].sigmoid().detach()
    )
    torch.testing.assert_close(loss, expected)


def test_cells_that_equal_their_images_teach_a_confident_network_nothing():
    method = made("splicemix_cl", grids=["1x1"], counts=[4])
    method.net.eval()
    mixed = next(mixes(method, 1, rows=4))
    logits, after = method.predict(mixed)
    loss = method.loss(logits, after)["cl"]
    p = logits[:4].sigmoid()
    entropy = torch.nn.functional.binary_cross_entropy(p, p)
    torch.testing.assert_close(loss, entropy)


def test_scores_of_training_are_of_the_batch_alone(tmp_path, monkeypatch):
    seen = []

    class Watches(METHODS.get("splicemix")):
        def report(self, values, step=None, split="train"):
            if "top1_mixed" in values:
                seen.append(float(values["top1_mixed"]))

        def predict(self, mixed):  # right about all images of the batch, and about no other
            logits, mixed = super().predict(mixed)
            right = mixed.targets.clone()
            right[BATCH:] = 1 - right[BATCH:]
            return logits * 0 + 9 * right, mixed

    method = sample_method(Watches, labels="mean")
    method.run.trainer.log_every = 1
    logged = partial(Trainer, logger=CSVLogger(tmp_path))
    monkeypatch.setattr(
        "mixbench.testing.samples.Trainer", lambda logger, **options: logged(**options)
    )
    fit(method)
    assert seen == pytest.approx([100.0] * len(seen))
    assert len(seen) == 4


@pytest.mark.parametrize("name", BOTH)
def test_both_learn_several_labels_in_two_precisions(name, several, runs):
    for words in ("precision=bf16 optim.accumulate=2", "net.pool=max"):
        record = run(compose(f"method={name} {WORDS} {words} eval.suites=[]"))
        assert record.status == "done"
        assert 0 < record.metrics["map"] <= 100


@pytest.mark.parametrize(
    ("words", "match", "todo"),
    [
        ("method=splicemix data=digits", "splicemix needs multilabel data", "other settings"),
        ("method=splicemix_cl data=digits", "splicemix_cl needs multilabel data", "cutmix"),
        ("method=splicemix_cl data=several net=vit_tiny net.patch=4", "needs maps", "resnet18"),
        ("method=choice method.members=[erm,splicemix_cl] data=digits", "choice needs", "cutmix"),
    ],
)
def test_data_and_networks_that_do_not_fit_are_refused(several, words, match, todo):
    with pytest.raises(UserError, match=match) as error:
        resolve(compose(words))
    assert todo in str(error.value)


def test_images_of_one_class_are_learned_from_mean_labels(tiny, runs):
    record = run(compose([*tiny, "method=splicemix", "method.labels=mean"]))
    assert record.status == "done"
    assert record.fidelity == "variant"


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("method.grids=[2x2x2]", "method.grids: a grid is RxC"),
        ("method.grids=[2x2-4]", "method.grids: grid 2x2-4 drops 4 of 4 cells"),
        ("method.grids=[2x2,1x2]", "method.counts must give each of 2 grids"),
        ("method.grids=[2x2,1x2] method.counts=[2,0]", "must be above 0"),
        ("method.grids=[2x2] method.counts=[1,2]", "got 2 for 1 grids"),
        ("method.counts=[1]", "got 1 for no grids"),
        ("method.grids=[2x2] method.counts=[-1]", "method.counts must be >= 0"),
        ("method.mix_prob=1.5", "method.mix_prob must lie in"),
    ],
)
@pytest.mark.parametrize("name", BOTH)
def test_settings_that_make_no_grid_are_refused(name, words, match):
    with pytest.raises(UserError, match=match):
        compose(f"method={name} {words}")


@pytest.mark.parametrize(
    ("classes", "pool", "settings", "fidelity"),
    [
        (80, "max", {}, "official-verified"),
        (80, "max", {"cl_detach": False}, "variant"),
        (20, "max", {}, "paper"),
        (20, "max", {"cl_detach": False}, "official-verified"),
        (80, "avg", {}, "variant"),
        (80, "max", {"kept_cells": True}, "variant"),
        (80, "max", {"antialias": True}, "variant"),
    ],
)
def test_consistency_is_official_where_it_is_that_of_the_code(classes, pool, settings, fidelity):
    info = DataInfo(classes, SIZE, SIZE, task="multilabel")
    run_config = RunConfig(net=NetConfig(pool=pool))
    net = small_net("preactresnet18", SIZE, classes)
    method = build_method("splicemix_cl", net, info, run=run_config, **settings)
    assert method.fidelity == fidelity


def test_under_autocast_the_consistency_is_computed_in_float32():
    method = made("splicemix_cl", grids=["2x2-1"], counts=[2])
    with torch.autocast("cpu", torch.bfloat16):
        logits, after = method.predict(next(mixes(method, 1)))
        assert logits.dtype == after.aux.logits.dtype == torch.bfloat16
        terms = method.loss(logits, after)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    wide = mf.splice_consistency(after.aux.logits.float(), logits.float(), after.aux.spliced)
    torch.testing.assert_close(terms["cl"], wide)


def test_layers_are_compiled_once_for_all_grids(monkeypatch):
    whole, graphs = torch.nn.Module.compile, []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda stage, **how: whole(stage, backend="eager", **how)
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    method = made("splicemix_cl")
    x, _ = sample_batch(method.grown(8), SIZE, SIZE)
    assert compile_stages(method.net, x, contextlib.nullcontext())
    for steps in (1, 12):
        for mixed in mixes(method, steps, rows=8):  # ten images each
            terms = method.loss(*method.predict(mixed))
            sum(terms.values()).backward()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs == [4, 4]
    assert torch._dynamo.utils.counters["graph_break"] == {}


def test_a_run_compiles_for_the_images_that_its_steps_have(several, runs, monkeypatch):
    rows = []
    monkeypatch.setattr(
        "mixbench.training.attempt.compile_stages", lambda net, x, how: rows.append(len(x)) or False
    )
    run(compose(f"method=splicemix {WORDS} trainer.compile=true eval.suites=[]"))
    assert rows == [16 + 4]


# Pictures.


@pytest.mark.parametrize("name", BOTH)
def test_each_grid_is_drawn_with_its_cells_and_what_they_make(name):
    method = made(name, grids=["2x2-1", "1x3"], counts=[2, 1])
    mixed = next(mixes(method, 1))
    x, targets = sample_batch(8)
    first, second = as_sheets(method.picture(x, targets, mixed))
    assert "2 images of 2 x 2 cells" in first.title
    assert "1 cell." in first.title
    ((row,),) = [second.rows(*pair) for pair in second.pairs]
    assert len(row) == 3 + 1
    pixels = method.to_pixels(x)
    for panel, source in zip(row, mixed.aux.parts()[1][2].tolist(), strict=False):
        assert torch.equal(panel.image, pixels[source])
    assert torch.equal(row[-1].image, method.to_pixels(mixed.x)[-1])
    dropped = [
        panel for pair in first.pairs for panel in first.rows(*pair)[0] if "dropped" in panel.lines
    ]
    assert len(dropped) == 2
    plain = as_sheets(method.picture(x, targets, mf.Mixed(x, targets)))
    assert "Nothing is appended" in plain[0].title


def test_beside_other_methods_each_pair_is_spliced_side_by_side():
    method = made("splicemix")
    x, targets = sample_batch(4)
    perm = torch.tensor([2, 3, 0, 1])
    mixed = method.mix(x, targets, perm=perm)
    (sheet,) = as_sheets(method.picture(x, targets, mixed))
    assert sheet.pairs == [(0, 2), (1, 3), (2, 0), (3, 1)]
    (row,) = sheet.rows(1, 3)
    assert torch.equal(row[-1].image, method.to_pixels(mixed.x)[5])
    assert mixed.targets[5].tolist() == [0, 1, 0, 1]


def test_a_method_that_appends_images_can_be_drawn_without_a_picture_of_its_own():
    class Appends(Method):
        def mix(self, x, targets, **decisions):
            return mf.Mixed(torch.cat([x, x[:2]]), torch.cat([targets, targets[:2]]))

    method = sample_method(Appends)
    x, targets = sample_batch()
    (sheet,) = as_sheets(method.picture(x, targets, method.mix(x, targets)))
    assert len(sheet.pairs) == BATCH
    assert "not shown: 2" in sheet.caveats[0]
    assert not mixed_sheet(x, targets, mf.Mixed(x, targets), method.info.names).caveats


@pytest.mark.parametrize("grid", ["1x40", "40x1", "33x33-5"])
def test_grids_that_images_cannot_show_on_their_side_are_refused_before_training(grid):
    with pytest.raises(UserError, match=f"cannot be cells of the grid {grid}"):
        sample_method(METHODS.get("splicemix"), labels="mean", grids=[grid], counts=[1])
