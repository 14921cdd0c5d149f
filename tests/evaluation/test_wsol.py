import zipfile

import numpy as np
import pytest
import torch
from making import encoded, source, twin
from paths import SHARED
from torch import nn

from mixbench import compose, run
from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.boxes import BoxedImages, boxes_shown
from mixbench.data.images import ResidentImages
from mixbench.data.sampling import BatchIndex
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import RunFailedError, UserError
from mixbench.evaluation.suite import load_suite
from mixbench.evaluation.wsol import ATTENTION, CLASS_MAP
from mixbench.records.record import read_record, write_record
from mixbench.tasks.base import find_task
from mixbench.training.reevaluate import evaluate_run, verify_run

SIDE, CELL = 56, 8
INFO = DataInfo(2, SIDE, SIDE, name="squares", test_size=12)


class Seeing(nn.Module):
    """A network whose map of class 1 is the image in coarse cells, and of class 0 its negative."""

    provides = frozenset({"stages", "maps"})
    task = find_task("supervised", "multiclass")

    def __init__(self) -> None:
        super().__init__()
        self.net = self
        self.head = nn.Module()
        self.head.norm, self.head.fc = nn.Identity(), nn.Linear(1, 2)
        self.head.fc.weight = nn.Parameter(torch.tensor([[-1.0], [1.0]]))

    def normalize(self, x):
        return x

    def forward_stages(self, x):
        return nn.functional.avg_pool2d(x[:, :1], CELL)

    def forward(self, x):
        return torch.stack([x[:, 0].mean(dim=(1, 2)) * 0, x[:, 1].mean(dim=(1, 2))], dim=1)


def squares(count=12):
    """Dark images with one bright square, the object of class 1; each says that it is class 1."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
    boxes = torch.full((count, 2, 5), -1.0)
    for row, image in enumerate(images):
        top, left = (torch.randint(0, 5, (2,), generator=generator) * CELL).tolist()
        side = 2 * CELL
        image[:, top : top + side, left : left + side] = 255
        boxes[row, 0] = torch.tensor([1, top, left, top + side, left + side])
    return ResidentImages(images, torch.ones(count, dtype=torch.int64), boxes)


def judged(images, size=4, group=None, config=None, model=None):
    rows = torch.arange(len(images)).split(size)
    found = BoxedImages(images)
    batches = [found[BatchIndex(part, 0)] for part in rows]
    suite = load_suite("wsol", config or EvalConfig())
    return suite.evaluate(model or Seeing(), batches, INFO, group or ProcessGroup())


def test_a_network_that_sees_the_object_finds_it():
    found = judged(squares())
    assert found.scores["max_box_acc"] == found.scores["box_acc_val"] == 100
    assert found.scores["top1_loc"] == found.scores["max_box_acc_v2"] == 100
    assert found.facts["map"] == CLASS_MAP
    assert found.facts["without_box"] == 0


def test_the_map_is_that_of_the_true_class_unless_it_is_asked_otherwise():
    images = squares()
    images.labels = torch.zeros_like(images.labels)
    images.boxes[..., 0].mul_(0).sub_((images.boxes[..., 1] < 0).float())
    found = judged(images).scores  # class 0 sees everything but the square
    assert found["max_box_acc"] < 30
    assert found["top1_loc"] == 0
    predicted = judged(images, config=EvalConfig(wsol_class="predicted"))
    assert predicted.scores["max_box_acc_predicted"] == 100
    assert predicted.scores["top1_loc_predicted"] == 0
    assert "max_box_acc" not in predicted.scores  # it is another score


def test_images_without_a_box_of_their_class_are_left_out_and_counted():
    images = squares()
    images.boxes[:3] = -1
    images.boxes[3:5, 0, 0] = 0  # an object of the other class
    found = judged(images)
    assert found.facts["without_box"] == 5
    assert found.facts["images"] == 12
    assert found.scores["max_box_acc"] == 100


def test_maps_are_held_against_the_box_of_the_whole_image():
    sharp = judged(squares())
    assert (sharp.facts["whole_image"], sharp.warnings) == (0, [])
    large = squares()
    large.images.fill_(7)
    large.boxes[:, 0, 1:] = torch.tensor([2.0, 2, SIDE, SIDE])
    blurred = judged(large)
    assert blurred.facts["whole_image"] == 100
    assert "the box of the whole image 100.00 %" in blurred.warnings[0]


@pytest.mark.parametrize("size", [5, pytest.param(12, marks=pytest.mark.slow)])
def test_batches_change_no_score(size):
    images = squares()
    images.images = (images.images // 2 + CELL * (torch.arange(SIDE) // CELL).byte()).contiguous()
    assert judged(images, size).scores == judged(images).scores


def test_the_best_of_several_boxes_of_an_object_counts():
    images = squares()
    images.boxes[:, 1] = images.boxes[:, 0]
    images.boxes[:, 0, 1:] = torch.tensor([0.0, 0, 3, 3])
    assert judged(images).scores["max_box_acc"] == 100


def test_boxes_follow_what_is_shown_of_their_files():
    boxes = torch.tensor([[[3.0, 10, 20, 30, 60], [3, 0, 0, 5, 5], [-1, -1, -1, -1, -1]]])
    shown = boxes_shown(boxes, torch.tensor([[10.0, 30, 50, 70]]))
    assert shown.tolist() == [[[3, 0, 0, 20, 30, 40, 40], [-1] * 7, [-1] * 7]]


def packed(folder, sizes, boxes):
    files = [encoded(np.full((h, w, 3), 90, dtype=np.uint8)) for w, h in sizes]
    ends = np.cumsum([0, *map(len, files)])
    path = folder / "pack.npz"
    blob = np.frombuffer(b"".join(files), dtype=np.uint8)
    labels = np.arange(len(files)) % 2
    np.savez(path, jpeg=blob, offsets=ends, label=labels, bbox=np.array(boxes))
    return path


@pytest.mark.parametrize("read", ["decoded", "kept"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # 40 x 20 is cut to its middle 20 x 20, from column 10 on.
        (["data.size=10"], [[5, 0, 15, 10, 20, 20], [0, 0, 30, 30, 30, 30]]),
        # The shorter side becomes 16, of which 8 in the middle are shown.
        (["data.size=8", "data.resize=16"], [[0, 0, 10, 5, 10, 10], [0, 0, 15, 15, 15, 15]]),
    ],
)
def test_boxes_are_cut_with_their_images(tmp_path, words, expected, read):
    path = packed(tmp_path, [(40, 20), (30, 30)], [[10, 5, 19, 14], [0, 0, 29, 29]])
    words = [f"data.train={path}", f"data.test={twin(path, tmp_path)}", *words]
    words += ["data.crop_area=0.5"] if read == "kept" else []
    images = source("data=pack", *words).load().test
    found = BoxedImages(images)[BatchIndex(torch.arange(2), 0)].boxes
    np.testing.assert_allclose(found[:, 0, 1:], expected)


def test_boxes_follow_images_that_are_resized_in_memory():
    images = ResidentImages(
        torch.zeros(1, 3, 20, 40, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([[[0.0, 5, 10, 15, 30]]]),
    )
    found = BoxedImages(images.resized(10))[BatchIndex(torch.arange(1), 0)].boxes
    assert found.tolist() == [[[0, 5, 0, 15, 20, 20, 20]]]


WORDS = ["net.width=4", "epochs=1", "batch_size=16", "wandb.mode=disabled"]
WORDS += ["eval.suites=[calibration]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs of a network with maps and of one with attention, on a pack with boxes."""
    folder = tmp_path_factory.mktemp("boxed")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (38, 16, 16, 3), dtype=np.uint8)
    corner = generator.integers(0, 8, (38, 2))
    boxes = np.concatenate([corner, corner + 7], axis=1)
    for name, part in (("train", slice(32)), ("test", slice(32, None))):
        kept = {"images": images[part], "label": np.arange(38)[part] % 2, "bbox": boxes[part]}
        np.savez(folder / f"{name}.npz", **kept)
    words = ["data=pack", f"data.train={folder / 'train.npz'}", f"data.test={folder / 'test.npz'}"]
    words += [*WORDS, f"run.dir={folder}"]
    nets = ([], ["net=vit_tiny", "net.patch=4"])
    return [folder / run(compose([*words, *more])).id for more in nets]


@pytest.mark.parametrize(
    ("net", "shown"), [(0, CLASS_MAP), pytest.param(1, ATTENTION, marks=pytest.mark.slow)]
)
def test_a_run_is_judged_and_verified(finished, net, shown):
    folder = finished[net]
    record = evaluate_run(folder, [], ["wsol"])
    assert record.evaluations["wsol"]["map"] == shown
    assert {"max_box_acc", "box_acc_val", "top1_loc"} <= set(verify_run(folder).compared)
    changed = read_record(folder)
    true, changed.metrics["max_box_acc_v2"] = changed.metrics["max_box_acc_v2"], 99.0
    write_record(folder, changed)
    with pytest.raises(RunFailedError, match="max_box_acc_v2 is recorded as"):
        verify_run(folder)
    changed.metrics["max_box_acc_v2"] = true
    write_record(folder, changed)


def test_other_maps_stand_under_other_names_and_verify(finished):
    record = evaluate_run(finished[0], ["eval.wsol_resize=bilinear"], ["wsol"])
    assert record.evaluations["wsol"]["cam_resize"] == "bilinear"
    assert "max_box_acc_bilinear" in verify_run(finished[0]).compared
    evaluate_run(finished[0], [], ["wsol"])


def test_data_without_boxes_and_networks_without_maps_are_refused(tmp_path):
    words = ["data=digits", "data.limit=64", *WORDS, f"run.dir={tmp_path}", "eval.suites=[wsol]"]
    with pytest.raises(UserError, match=r"wsol compares with boxes, and digits has none"):
        run(compose(words))
    blind = Seeing()
    blind.provides = frozenset()
    with pytest.raises(UserError, match="shows neither feature maps nor attention"):
        judged(squares(), model=blind)
    reason = load_suite("wsol", EvalConfig()).refusal(INFO, blind)
    assert "Seeing shows neither" in reason
    many = DataInfo(2, 8, 8, task="multilabel", name="voc")
    assert "voc is multilabel" in load_suite("wsol", EvalConfig()).refusal(many)


ANNOTATION = """<annotation><size><width>40</width><height>30</height></size>
<object><name>n02</name><bndbox><xmin>4</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>
</object></annotation>"""


def test_boxes_of_imagenet_are_read_where_they_are(tmp_path):
    from mixbench.data.datasets.imagenet import BOXES

    for part in ("train", "val"):
        for wnid in ("n01", "n02"):
            (tmp_path / part / wnid).mkdir(parents=True)
            for row in range(2):
                seed = 4 * (part == "val") + 2 * (wnid == "n02") + row
                pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
                (tmp_path / part / wnid / f"{wnid}_{row}.JPEG").write_bytes(encoded(pixels, "JPEG"))
    words = ["data=imagenet", f"data.root={tmp_path}", "data.size=30", "data.crop_area=null"]
    words += ["data.resize=null"]
    assert source(*words).load().test.boxes is None
    folder = tmp_path / BOXES[0]
    folder.mkdir(parents=True)
    (folder / "n02_1.xml").write_text(ANNOTATION)
    images = source(*words).load().test
    boxes = BoxedImages(images)[BatchIndex(torch.arange(4), 0)].boxes
    assert (boxes[:3] == -1).all()  # an image without a file has no box
    assert boxes[3].tolist() == [[1, 3, 0, 30, 15, 30, 30]]
    (folder / "n02_1.xml").write_text(ANNOTATION.replace("xmax", "xm"))
    with pytest.raises(UserError, match=r"n02_1\.xml"):
        source(*words).load()


MINI = SHARED / "data" / "tiny-imagenet-200_mini.zip"


@pytest.mark.skipif(not MINI.exists(), reason="needs the miniature of Tiny-ImageNet")
def test_boxes_of_tiny_imagenet_are_those_of_its_lists():
    images = source("data=tinyimagenet", f"data.root={MINI}").load().test
    boxes = BoxedImages(images)[BatchIndex(torch.arange(len(images)), 0)].boxes
    assert (boxes[:, 0, 0] == images.labels).all()
    assert (boxes[:, 0, 5:] == 64).all()
    with zipfile.ZipFile(MINI) as archive:
        name = next(n for n in archive.namelist() if n.endswith("val_annotations.txt"))
        words = archive.read(name).decode().splitlines()[0].split("\t")
    left, top, right, bottom = map(int, words[2:])
    assert boxes[0, 0, 1:5].tolist() == [top, left, bottom + 1, right + 1]


class Keeps(ProcessGroup):
    """One of two processes, whose values are kept."""

    def all_reduce_sum(self, counts):
        self.sums = counts
        return counts

    def all_gather(self, value):
        self.values = value
        return [value]


class Joins(ProcessGroup):
    """Hands on what other processes have kept."""

    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def all_reduce_sum(self, counts):
        return {key: sum(group.sums[key] for group in self.groups) for key in counts}

    def all_gather(self, value):
        return [group.values for group in self.groups]


def test_two_processes_find_what_one_does():
    images, groups = squares(), [Keeps(), Keeps()]
    images.boxes[::3] = -1
    images.images[::2] //= 3
    alone, boxed, suite = judged(images), BoxedImages(images), load_suite("wsol", EvalConfig())
    parts = [boxed[BatchIndex(rows, 0)] for rows in torch.arange(len(images)).split(4)]
    for rank, group in enumerate(groups):
        suite.evaluate(Seeing(), parts[rank::2], INFO, group)
    found = suite.evaluate(Seeing(), parts[:1], INFO, Joins(groups))
    assert found.scores == alone.scores
    assert found.facts["without_box"] == alone.facts["without_box"]
