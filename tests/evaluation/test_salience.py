import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from making import twin

from mixbench import compose, run
from mixbench.backbones import NETS
from mixbench.config.schema import DataInfo, EvalConfig, NetConfig
from mixbench.data.images import Batch
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import RunFailedError, UserError
from mixbench.evaluation.salience import JUDGED_NETWORK, SaliencyMap, count_by_salience
from mixbench.evaluation.suite import load_suite
from mixbench.nn.saliency import saliency_map
from mixbench.records.record import read_record, write_record
from mixbench.training.reevaluate import evaluate_run, verify_run

GREY = 128 / 255
WORDS = ["data=digits", "data.limit=64", "net.width=4", "epochs=1", "batch_size=16", "lr=0.1"]
WORDS += ["wandb.mode=disabled", "eval.suites=[calibration]"]
ADDED = {"occ_salient_auc", "occ_nonsalient_auc", "shuffle_2", "shuffle_4", "shuffle_8"}


def info(size=16):
    return DataInfo(2, size, size, mean=[GREY] * 3, std=[0.25] * 3, name="spots", test_size=40)


INFO = info()


def spots(n=40, size=16):
    """Grey images with one patch of 2 x 2 pixels, dark or bright, that is their class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    places = torch.randint(size // 2, (n, 2), generator=generator) * 2
    images = torch.full((n, 3, size, size), 128, dtype=torch.uint8)
    for image, label, (row, column) in zip(images, labels, places.tolist(), strict=True):
        image[:, row : row + 2, column : column + 2] = 255 * label
    return Batch(images, labels, torch.arange(n))


def brightest(x):
    """Knows the class by the pixel that is farthest from grey; grey images are dark."""
    far = (x.mean(dim=1) - GREY).flatten(1)
    value = far.gather(1, far.abs().argmax(dim=1, keepdim=True))
    return torch.cat([torch.zeros_like(value), value.where(value > 0.01, -value.abs() - 1)], dim=1)


def at_the_spot(x, y):
    return (x.mean(dim=1) - GREY).abs()


def batches(batch, size):
    parts = (values.split(size) for values in batch[:3])
    return [Batch(*part) for part in zip(*parts, strict=True)]


def count(name, model, parts, data=INFO):
    return load_suite(name, EvalConfig()).count(model, parts, data)


def score(name, counts):
    return load_suite(name, EvalConfig()).score(counts)


def test_the_object_disappears_first_or_last():
    counts = count_by_salience(brightest, [spots()], INFO, at_the_spot)
    found = score("salience", counts)
    assert found["occ_salient_0"] == found["occ_nonsalient_0"] == 100
    for percent in range(10, 100, 10):
        assert found[f"occ_salient_{percent}"] == 50  # only dark ones are right by chance
        assert found[f"occ_nonsalient_{percent}"] == 100
    assert found["occ_nonsalient_auc"] == pytest.approx(100)
    assert found["occ_salient_auc"] == pytest.approx((75 + 8 * 50) / 9)
    whole = score("occlusion", count("occlusion", brightest, [spots()]))
    assert whole.keys() == {"occ_auc", *(f"occ_{percent}" for percent in range(0, 100, 10))}
    assert 50 < whole["occ_90"] < whole["occ_50"] < whole["occ_10"] <= 100
    curve = [whole[f"occ_{percent}"] for percent in range(0, 100, 10)]
    assert whole["occ_auc"] == pytest.approx(np.trapezoid(curve) / 9)


def test_each_image_has_an_order_of_its_own_and_labels_come_along():
    batch, seen = spots(), []
    same = batch._replace(images=batch.images[1:2].expand(40, -1, -1, -1))
    same = same._replace(labels=torch.ones(40, dtype=torch.long))
    found = score("occlusion", count("occlusion", brightest, [same]))
    assert 20 < found["occ_50"] < 80

    def look(x, y):
        seen.append(y)
        return at_the_spot(x, y)

    count_by_salience(brightest, [batch], INFO, look)
    assert [labels.tolist() for labels in seen] == [batch.labels.tolist()]


def test_moved_patches_harm_what_depends_on_their_place_and_nothing_else():
    def corner(x):
        dark = x[:, :, :8, :8].mean(dim=(1, 2, 3))
        return torch.stack([0.5 - dark, dark - 0.5], dim=1)

    batch = spots()
    place = torch.zeros(40, 3, 16, 16, dtype=torch.uint8)
    place[batch.labels == 1, :, :8, :8] = 255
    found = score("shuffle", count("shuffle", brightest, [batch]))
    assert found == {"shuffle_2": 100, "shuffle_4": 100, "shuffle_8": 100}
    moved = batch._replace(images=place)
    found = score("shuffle", count("shuffle", corner, [moved]))
    assert 50 < found["shuffle_2"] < 85  # bright ones stay right where the patch keeps its place
    assert found["shuffle_8"] < found["shuffle_2"]


def test_batches_change_no_count():
    one = [spots()]
    for size in (7, 16):
        parts = batches(spots(), size)
        for name in ("occlusion", "shuffle"):
            assert count(name, brightest, parts) == count(name, brightest, one)
        assert count_by_salience(brightest, parts, INFO, at_the_spot) == count_by_salience(
            brightest, one, INFO, at_the_spot
        )


def test_only_grids_that_divide_the_images_are_shuffled():
    found = count("shuffle", brightest, [spots(size=12)], info(12))
    assert found.keys() == {"n", "shuffle_2", "shuffle_4"}
    with pytest.raises(UserError, match="shuffle: no grid of 2, 4 or 8 patches divides 9 x 9"):
        load_suite("shuffle", EvalConfig()).evaluate(brightest, [], info(9), ProcessGroup())


def test_grids_that_do_not_divide_the_width_are_refused():
    flat = dataclasses.replace(info(16), width=20)
    with pytest.raises(UserError, match="occlusion: a grid of 8 patches does not divide 20"):
        load_suite("occlusion", EvalConfig()).evaluate(brightest, [], flat, ProcessGroup())


def test_a_network_looks_at_normalised_images_for_their_true_class():
    torch.manual_seed(0)
    net = NETS.get("preactresnet18")(NetConfig(width=4), INFO).eval()
    batch = spots(8)
    x = batch.images / 255
    maps = SaliencyMap(None, SimpleNamespace(net=net), INFO)(x, batch.labels)
    own = saliency_map(net, (x - GREY) / 0.25, batch.labels)[1].detach()
    size = {"size": (16, 16), "mode": "bilinear", "antialias": True}
    expected = F.interpolate(own[:, None], **size)[:, 0]
    torch.testing.assert_close(maps, expected)
    others = SaliencyMap(None, SimpleNamespace(net=net), INFO)(x, 1 - batch.labels)
    assert not torch.allclose(maps, others)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    words = [*WORDS, f"run.dir={place}"]
    folders = [place / run(compose([*words, *more])).id for more in ([], ["seed=1"])]
    other = run(compose([*words, "net=vit_tiny", "net.patch=2"]))
    return [*folders, place / other.id]


@pytest.mark.slow  # three runs are trained first
def test_a_run_is_judged_by_its_own_map_and_verified(finished):
    folder = finished[0]
    record = evaluate_run(folder, [], ["occlusion", "salience", "shuffle"])
    assert record.metrics.keys() >= {*ADDED, "occ_auc"}
    assert record.metrics["occ_salient_0"] == pytest.approx(record.metrics["top1"])
    assert record.evaluations["salience"]["saliency"] == JUDGED_NETWORK
    assert {*ADDED, "occ_salient_50"} <= set(verify_run(folder)[1])
    for name in ("occ_nonsalient_auc", "shuffle_4"):
        changed = read_record(folder)
        true = changed.metrics[name]
        changed.metrics[name] = true + 0.1
        write_record(folder, changed)
        with pytest.raises(RunFailedError, match=f"{name} is recorded as"):
            verify_run(folder)
        changed.metrics[name] = true
        write_record(folder, changed)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [1, 2])
def test_another_run_can_say_where_the_object_is(finished, teacher):
    folder, looks = finished[0], finished[teacher]
    own = evaluate_run(folder, [], ["salience"]).metrics
    record = evaluate_run(folder, [f"eval.saliency={looks}"], ["salience"])
    assert record.evaluations["salience"]["saliency"] == str(looks)
    curves = [[m[f"occ_salient_{p}"] for p in range(10, 100, 10)] for m in (own, record.metrics)]
    assert curves[0] != curves[1]
    assert "occ_salient_auc" in verify_run(folder)[1]


@pytest.mark.slow  # three runs are trained first
def test_what_cannot_look_is_refused_before_training(finished, tmp_path):
    words = [*WORDS, f"run.dir={tmp_path}", "eval.suites=[salience]"]
    with pytest.raises(UserError, match=r"eval\.saliency"):
        run(compose([*words, f"eval.saliency={tmp_path / 'none'}"]))
    pack = tmp_path / "two.npz"
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
    np.savez(pack, images=images, label=np.arange(32) % 2)
    data = [
        "data=pack",
        f"data.train={pack}",
        f"data.test={twin(pack, tmp_path)}",
        "data.limit=null",
    ]
    with pytest.raises(UserError, match="run has 10 classes, and the data have 2"):
        run(compose([*words, *data, f"eval.saliency={finished[0]}"]))

    with pytest.raises(UserError, match=r"no such file or folder: none\n  where: eval\.saliency"):
        evaluate_run(finished[0], ["eval.saliency=none"], ["salience"])

    class Blind:
        net = torch.nn.Flatten()

    with pytest.raises(UserError, match="shows no map of its own; give eval"):
        load_suite("salience", EvalConfig()).evaluate(Blind(), [spots()], INFO, ProcessGroup())


@pytest.mark.parametrize(
    ("provides", "classes", "shows"),
    [
        ({"maps"}, INFO.num_classes, True),
        ({"maps"}, INFO.num_classes + 1, False),
        ({"attention"}, INFO.num_classes + 1, True),
        (set(), INFO.num_classes, False),
    ],
)
def test_a_network_shows_attention_or_a_map_for_each_class_of_the_data(provides, classes, shows):
    head = SimpleNamespace(fc=SimpleNamespace(weight=torch.zeros(classes, 3)))
    model = SimpleNamespace(net=SimpleNamespace(provides=frozenset(provides), head=head))
    if shows:
        assert SaliencyMap(None, model, INFO).size == (INFO.height, INFO.width)
        return
    with pytest.raises(ValueError, match=r"eval\.saliency=RUN"):
        SaliencyMap(None, model, INFO)
