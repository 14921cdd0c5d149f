"""Mixed images that people will judge, made by any method that mixes pixels."""

import hashlib
import io
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Generator, Tensor

import mixbench.functional as mf
from mixbench.config.schema import RunConfig
from mixbench.data.augment.batches import to_float
from mixbench.data.images import ImageSet, Splits
from mixbench.data.sampling import ORDER, SAMPLE, SHARED, BatchIndex, mix_seed
from mixbench.elicit.settings import (
    MIDPOINT_TASKS,
    MOST_CLASSES,
    WEIGHT_STEPS,
    WEIGHTS,
    StudySettings,
)
from mixbench.errors import UserError
from mixbench.methods.base import Method
from mixbench.training.build import build
from mixbench.training.job import resolve

NEAR = 0.07  # distance from the weight that is wanted, of methods that draw their weights
MOST_DRAWS = 20_000  # for one image: a box of CutMix rarely covers nine tenths
_BLOCK = 10  # stimuli in which both orders of a pair are balanced


@dataclass(frozen=True)
class Stimulus:
    """One thing to judge: a mixed image, or all weights of a pair.

    Attributes:
        stimulus_id: Random name.
        dataset: Name of the data.
        split: Part of it that both images come from.
        id1: Row of the first image there.
        id2: Row of the second.
        y1: Class of the first.
        y2: Class of the second.
        method: Name of the method.
        lam: Weight of the first image; of a pair the weight that is looked for, 0.5.
        bin: Weight that was wanted of it.
        mask_rle: Share of the first image at each pixel of the mixed one, 0 to 255 by rows, as
            ``value:count`` between commas; empty where it is the same everywhere.
        seed: Of the method's draws.
        png_sha1: Hash of the images.
        is_check: Whether it shows one of its images alone, to see who pays attention.
        pictures: PNG files: the mixed image; of a pair those with weights 0, 0.1, ..., 1.
    """

    stimulus_id: str
    dataset: str
    split: str
    id1: int
    id2: int
    y1: int
    y2: int
    method: str
    lam: float
    bin: float
    mask_rle: str
    seed: int
    png_sha1: str
    is_check: bool
    pictures: tuple[bytes, ...]


@dataclass(frozen=True)
class _Pair:
    first: int
    second: int
    weight: float


@dataclass(frozen=True)
class _Drawn:
    image: Tensor
    lam: float
    mask: str
    seed: int


def render_stimuli(config: RunConfig, settings: StudySettings) -> tuple[list[Stimulus], list[str]]:
    """Mix the images of a study.

    Args:
        config: Data, network, method and seed.
        settings: Of the study.

    Returns:
        Its stimuli, as balanced over weights and pairs of classes as their number allows, with two
        attention checks at the end; and the names of the classes.

    Raises:
        UserError: If the data is missing or has no pairs, or the method mixes no pixels, or not at
            the weights that are needed.
    """
    if config.data.judgements is not None:
        raise UserError(
            "images are numbered as they lie in the data, and judgements leave some of them out",
            f"data.judgements={config.data.judgements}",
            "leave it out; a study shows training images unless it is told otherwise",
        )
    job = resolve(config)
    splits = job.read_data()
    images = getattr(splits, settings.split)
    _check_data(splits, images, settings)
    method, _ = build(job, splits)
    method.eval()
    if method.no_mask_reason:
        raise UserError(
            f"there is nothing to see of what {job.name} mixes, as {method.no_mask_reason}",
            f"method={job.name}",
            "choose a method that mixes pixels, such as mixup or cutmix",
        )
    names = splits.info.names
    midpoints = settings.task in MIDPOINT_TASKS
    found = []
    for number, pair in enumerate(_pairs(images.labels, settings.images + 2, config.seed)):
        is_check = number >= settings.images
        goal = float(number == settings.images) if is_check else pair.weight
        wanted = torch.linspace(0, 1, WEIGHT_STEPS).tolist() if midpoints else [goal]
        batch = images[BatchIndex(torch.tensor([pair.first, pair.second]), config.seed)]
        if is_check and not midpoints:
            drawn = [_Drawn(batch.images[1 - int(goal)], goal, "", 0)]
        else:
            drawn = _mixed(method, batch.images, batch.labels, wanted, config.seed, number)
        if midpoints:
            _check_sums(job.name, batch.images, drawn, settings.task)
        pictures = tuple(_png(each.image) for each in drawn)
        found.append(
            Stimulus(
                stimulus_id=secrets.token_hex(16),
                dataset=job.source.full_name,
                split=settings.split,
                id1=pair.first,
                id2=pair.second,
                y1=int(batch.labels[0]),
                y2=int(batch.labels[1]),
                method=job.name,
                lam=(goal if is_check else 0.5) if midpoints else round(drawn[0].lam, 6),
                bin=goal if is_check or not midpoints else 0.5,
                mask_rle="" if midpoints else drawn[0].mask,
                seed=drawn[0].seed,
                png_sha1=hashlib.sha1(b"".join(pictures), usedforsecurity=False).hexdigest(),
                is_check=is_check,
                pictures=pictures,
            )
        )
    return found, names


def _check_data(splits: Splits, images: ImageSet, settings: StudySettings) -> None:
    info = splits.info
    if settings.task == "categorical" and info.num_classes > MOST_CLASSES:
        what = f"{info.name} has {info.num_classes:,} classes, and nobody can choose among so many"
        raise UserError(what, "--task categorical", "choose --task infer")
    if images.labels.ndim != 1:
        what = f"{info.name} has images of several classes"
        raise UserError(what, "data", "choose data whose images have one class each")
    if len(images.labels.unique()) < 2:
        raise UserError(f"{info.name} has no two classes to mix", "data", "choose other data")
    if images.shape[0] not in (1, 3):
        what = f"images of {images.shape[0]} channels cannot be shown"
        raise UserError(what, "data", "choose data with 1 or 3 channels")


def _pairs(labels: Tensor, count: int, seed: int) -> Iterator[_Pair]:
    """Pairs of images of different classes, and the weight of each.

    Weights and pairs of classes both go round. Where both cycles would meet in the same places
    again, that of the pairs is shifted, so that each pair of classes meets each weight in the end.
    """
    generator = Generator().manual_seed(mix_seed(ORDER, seed))
    classes = labels.unique()
    a, b = torch.triu_indices(len(classes), len(classes), offset=1)
    order = torch.randperm(len(a), generator=generator)[:count]
    cycle = len(order) * len(WEIGHTS) // (len(WEIGHTS) if len(order) % len(WEIGHTS) == 0 else 1)
    rows = {int(y): _round(labels, int(y), generator) for y in classes}
    turned = torch.zeros(_BLOCK, dtype=torch.bool)
    for number in range(count):
        place = order[(number + number // cycle) % len(order)]
        pair = [int(classes[a[place]]), int(classes[b[place]])]
        if number % _BLOCK == 0:  # as often this way round as that
            turned = torch.randperm(_BLOCK, generator=generator) % 2 == 1
        if turned[number % _BLOCK]:
            pair.reverse()
        yield _Pair(next(rows[pair[0]]), next(rows[pair[1]]), WEIGHTS[number % len(WEIGHTS)])


def _round(labels: Tensor, y: int, generator: Generator) -> Iterator[int]:
    """Rows of a class in random order, none again before all have come."""
    rows = (labels == y).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=generator)].tolist()
    while True:
        yield from rows


def _mixed(
    method: Method, images: Tensor, labels: Tensor, wanted: list[float], seed: int, number: int
) -> list[_Drawn]:
    """Two images (2, C, H, W) mixed at each of the weights."""
    x = method.normalize(to_float(images))
    targets = mf.one_hot(labels, method.info.num_classes)
    return [_mixed_at(method, x, targets, weight, (seed, number)) for weight in wanted]


@torch.no_grad()
def _mixed_at(
    method: Method, x: Tensor, targets: Tensor, weight: float, key: tuple[int, ...]
) -> _Drawn:
    """The pair mixed at a weight, which is given if the method takes it, or met by luck."""
    nearest = 2.0
    for draw in range(MOST_DRAWS):
        own = mix_seed(*key, draw)
        # A box of a given size is cut at the border, so that another size may fit better.
        mixed = _mix(method, x, targets, weight if draw % 2 == 0 else None, own)
        lam = None if mixed is None else _weight_of(method, x, mixed)
        if mixed is None or lam is None:
            continue
        if abs(lam - weight) <= NEAR:
            image = method.to_pixels(mixed.x)[0].clamp(0, 1).mul(255).round().to(torch.uint8)
            # A method may say how it weighs labels in single precision.
            exact = weight if abs(lam - weight) < 1e-6 else lam
            return _Drawn(image, exact, _mask(method, x, mixed), own)
        nearest = min(nearest, lam, key=lambda found: abs(found - weight))
    told = "mixes nothing" if nearest > 1 else f"came no nearer than {nearest:.2f}"
    raise UserError(
        f"in {MOST_DRAWS} draws the method {told}, and {weight:g} is the weight that is needed",
        "method",
        "choose larger images, or settings under which all weights occur",
    )


def _mix(
    method: Method, x: Tensor, targets: Tensor, weight: float | None, seed: int
) -> mf.Mixed | None:
    method.generator.manual_seed(mix_seed(SAMPLE, seed))
    method.shared_generator.manual_seed(mix_seed(SHARED, seed))
    given = {} if weight is None else {"lam": torch.tensor([weight])}
    perm = torch.tensor([1, 0])
    try:
        mixed = method.mix(x, targets, perm=perm, **given)
    except TypeError:
        if weight is None:
            raise
        return None  # a method that takes no weight
    return mixed if isinstance(mixed.x, Tensor) and mixed.x.shape == x.shape else None


def _weight_of(method: Method, x: Tensor, mixed: mf.Mixed) -> float | None:
    """Weight of the first label where the method says it, else the share of its pixels."""
    if isinstance(mixed.lam, Tensor):
        return float(mixed.lam.reshape(-1)[0])
    weights = method.pixel_weights(x, mixed)
    return None if weights is None else float(weights[0][:1].mean())


def _mask(method: Method, x: Tensor, mixed: mf.Mixed) -> str:
    """Run lengths of the first image's share at each pixel; empty where it is even."""
    weights = method.pixel_weights(x, mixed)
    if weights is None:
        return ""
    share = weights[0][:1].expand(1, x.shape[2], x.shape[3])[0]
    values = share.clamp(0, 1).mul(255).round().to(torch.uint8).flatten()
    runs, counts = values.unique_consecutive(return_counts=True)
    if len(runs) == 1:
        return ""
    pairs = zip(runs.tolist(), counts.tolist(), strict=True)
    return ",".join(f"{value}:{count}" for value, count in pairs)


def read_mask(mask_rle: str, height: int, width: int) -> Tensor:
    """The mask of a stimulus.

    Args:
        mask_rle: As :class:`Stimulus` keeps it, not empty.
        height: Of its image in pixels.
        width: Of its image in pixels.

    Returns:
        (height, width) float32 shares of the first image.
    """
    pairs = torch.tensor([[int(n) for n in run.split(":")] for run in mask_rle.split(",")])
    return pairs[:, 0].repeat_interleave(pairs[:, 1]).reshape(height, width) / 255


def _check_sums(name: str, images: Tensor, drawn: list[_Drawn], task: str) -> None:
    """Refuse steps that do not lead straight from one image to the other."""
    first, second = images.float()
    for step, each in enumerate(drawn):
        share = step / (WEIGHT_STEPS - 1)
        if bool(((share * first + (1 - share) * second - each.image).abs() > 2).any()):
            raise UserError(
                f"the task {task} shows weighted sums of two images, and {name} mixes otherwise",
                f"method={name}",
                "leave method= out, or choose --task infer or categorical",
            )


def _png(image: Tensor) -> bytes:
    """An image (C, H, W) uint8 as a PNG file."""
    array = image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(array.contiguous().numpy()).save(file, "png")
    return file.getvalue()
