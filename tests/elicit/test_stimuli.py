import io
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from mixbench.config.compose import compose
from mixbench.data.datasets.pack import Pack
from mixbench.elicit.enlarge import enlarged, enlargement
from mixbench.elicit.settings import WEIGHT_STEPS, WEIGHTS, StudySettings
from mixbench.elicit.stimuli import read_mask, render_stimuli
from mixbench.errors import UserError

SIDE = 32


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """Data of 6 classes, 30 images each, whose images are noise."""
    folder = tmp_path_factory.mktemp("pack")
    rng = np.random.default_rng(0)
    for name, count in (("train", 30), ("test", 4)):
        np.savez(
            folder / f"{name}.npz",
            images=rng.integers(0, 256, (6 * count, SIDE, SIDE, 3), dtype=np.uint8),
            label=np.repeat(np.arange(6), count),
            class_names=np.array(["a", "b", "c", "d", "e", "f"]),
        )
    words = [f"data.{name}={folder / name}.npz" for name in ("train", "test")]
    return ["data=pack", *words, "net.width=4"]


def images_of(pack, split="train"):
    source = Pack(compose([*pack, "method=mixup"]).data)
    return getattr(source.load(), split)


def render(pack, method="mixup", **fields):
    fields = {"images": 20, "trials": 1} | fields
    words = [*pack, *method.split()] if "=" in method else [*pack, f"method={method}"]
    return render_stimuli(compose(words), StudySettings(**fields))


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def test_images_are_mixed_at_their_weight_from_the_rows_that_are_told(pack):
    found, names = render(pack)
    assert names == list("abcdef")
    train = images_of(pack)
    for each in found:
        first, second = (train.images[row].float() for row in (each.id1, each.id2))
        assert int(train.labels[each.id1]) == each.y1 != each.y2 == int(train.labels[each.id2])
        wanted = each.lam * first + (1 - each.lam) * second
        assert (pixels(each.pictures[0]) - wanted).abs().max() <= 1
    assert [each.lam for each in found[-2:]] == [1, 0]
    assert [each.is_check for each in found] == [False] * 20 + [True] * 2
    assert len({each.stimulus_id for each in found}) == 22


@pytest.mark.parametrize("images", [15, 40, 75, 97])
def test_weights_and_pairs_of_classes_are_balanced(pack, images):
    found, _ = render(pack, images=images)
    judged = [each for each in found if not each.is_check]
    weights = Counter(each.bin for each in judged)
    pairs = Counter(frozenset((each.y1, each.y2)) for each in judged)
    assert weights.keys() == set(WEIGHTS)
    assert len(pairs) == min(15, images)
    for counts in (weights, pairs):
        assert max(counts.values()) - min(counts.values()) <= 1
    if images == 75:  # each of the 15 pairs at each of the 5 weights
        assert len({(frozenset((e.y1, e.y2)), e.bin) for e in judged}) == 75
    both = Counter(each.y1 < each.y2 for each in judged)
    assert abs(both[True] - both[False]) <= 0.5 * images  # no class is always the first
    used = Counter(row for each in found for row in (each.id1, each.id2))
    assert max(used.values()) <= 2


def test_a_seed_gives_the_same_images_under_other_names(pack):
    one, two = (render(pack, images=6)[0] for _ in range(2))
    assert [each.pictures for each in one] == [each.pictures for each in two]
    assert not {each.stimulus_id for each in one} & {each.stimulus_id for each in two}
    other = render(pack, "method=mixup seed=1", images=6)[0]
    assert [each.png_sha1 for each in one] != [each.png_sha1 for each in other]


def test_a_method_that_draws_its_weights_comes_near_them_and_tells_its_mask(pack):
    found, _ = render(pack, "cutmix", images=10)
    train = images_of(pack)
    for each in found[:10]:
        mask = read_mask(each.mask_rle, SIDE, SIDE)
        first, second = (train.images[row].float() for row in (each.id1, each.id2))
        assert (pixels(each.pictures[0]) - torch.where(mask > 0, first, second)).abs().max() <= 1
        assert each.lam == pytest.approx(float(mask.mean()), abs=1e-5)
        assert abs(each.lam - each.bin) <= 0.07


@pytest.mark.parametrize("method", ["mixup2", "bc", "hmix", "method=choice seed=3"])
def test_other_methods_that_mix_pixels_make_stimuli(pack, method):
    found, _ = render(pack, method, images=5)
    assert [each.bin for each in found[:5]] == list(WEIGHTS)
    for each in found[:5]:
        assert abs(each.lam - each.bin) <= 0.07


def test_stimuli_can_come_from_the_test_images(pack):
    found, _ = render(pack, images=5, split="test")
    test = images_of(pack, "test")
    for each in found:
        assert each.split == "test"
        assert int(test.labels[each.id1]) == each.y1


@pytest.mark.parametrize("task", ["construct", "select"])
def test_pairs_are_shown_at_eleven_weights(pack, task):
    found, _ = render(pack, task=task, images=3)
    train = images_of(pack)
    for each in found:
        assert len(each.pictures) == WEIGHT_STEPS
        first, second = (train.images[row].float() for row in (each.id1, each.id2))
        for step, png in enumerate(each.pictures):
            wanted = step / 10 * first + (1 - step / 10) * second
            assert (pixels(png) - wanted).abs().max() <= 1
    assert [each.lam for each in found] == [0.5] * 3 + [1, 0]


@pytest.mark.parametrize(
    ("method", "task", "match"),
    [
        ("erm", "infer", "it does not mix pixels"),
        ("manifoldmixup", "infer", "nothing to see of what manifoldmixup mixes"),
        ("cutmix", "select", "no nearer than"),
        ("method=bc method.plus=true", "select", "weighted sums of two images, and bc mixes"),
        ("method=mixup method.fold=true", "infer", "0.1 is the weight that is needed"),
    ],
)
def test_a_method_that_cannot_make_the_stimuli_is_refused(pack, method, task, match, monkeypatch):
    monkeypatch.setattr("mixbench.elicit.stimuli.MOST_DRAWS", 20)
    with pytest.raises(UserError, match=match):
        render(pack, method, task=task)


def test_data_of_one_class_is_refused(tmp_path):
    for name, value in (("train", 0), ("test", 1)):
        np.savez(
            tmp_path / f"{name}.npz",
            images=np.full((4, 8, 8), value, np.uint8),
            label=np.zeros(4, int),
            class_names=np.array(["a", "b"]),
        )
    with pytest.raises(UserError, match="no two classes"):
        render(["data=pack", f"data.train={tmp_path}/train.npz", f"data.test={tmp_path}/test.npz"])


@pytest.mark.parametrize(
    ("side", "factor"), [(8, 10), (28, 9), (32, 8), (64, 4), (224, 1), (9, 10)]
)
def test_small_images_are_enlarged_by_a_whole_factor(side, factor):
    assert enlargement(side, side) == factor


def test_upscaling_by_nearest_keeps_each_pixel_and_lanczos_smooths():
    file = io.BytesIO()
    array = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(array).save(file, "png")
    nearest, smooth = (
        np.array(Image.open(io.BytesIO(enlarged(file.getvalue(), how))))
        for how in ("nearest", "lanczos")
    )
    assert nearest.shape == smooth.shape == (256, 256)
    for row, column in itertools.product(range(8), repeat=2):
        np.testing.assert_array_equal(nearest[row::8, column::8], array)
    assert len(np.unique(smooth)) >= len(np.unique(array))
    assert (smooth != nearest).mean() > 0.5
