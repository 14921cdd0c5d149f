"""The rules that every method keeps, as checks that run on any of them.

``mixbench check METHOD`` runs them on a plug-in; the test suite runs them on all built-in ones.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._pytree import tree_map

from mixbench.config.names import METHODS, TASKS
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch
from mixbench.data.sampling import BatchIndex
from mixbench.functional import Mixed
from mixbench.methods.base import Method
from mixbench.methods.evaluation import mix_for_evaluation
from mixbench.pictures.raster import raster
from mixbench.pictures.sheet import as_sheets
from mixbench.testing.device import OnDevice, pretended_device, to_pretended
from mixbench.testing.samples import (
    BATCH,
    CLASSES,
    SIZE,
    fit,
    sample_batch,
    sample_method,
    sample_splits,
)
from mixbench.training.callbacks.average import EMA
from mixbench.training.callbacks.samples import show_batch


class BrokenRuleError(AssertionError):
    """A rule that a method does not keep."""


@dataclass
class Result:
    """Outcome of one check."""

    rule: str
    error: str = ""  # empty: kept


def check_method(name: str | type[Method]) -> list[Result]:
    """Run every check on a method with its default settings.

    Args:
        name: Registered name, ``module:Class``, or the class.

    Returns:
        One result per rule.

    Raises:
        UserError: If the name is unknown or cannot be imported.
    """
    cls = METHODS.get(name) if isinstance(name, str) else name
    results = []
    for rule in rules_of(cls):
        torch.manual_seed(0)
        try:
            rule(cls)
            error = ""
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}".splitlines()[0]
            if isinstance(failure, BrokenRuleError):
                error = str(failure)
        results.append(Result((rule.__doc__ or rule.__name__).strip().rstrip("."), error))
    return results


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BrokenRuleError(message)


def _mixed_targets(mixed: Mixed) -> list[Tensor]:
    return list(mixed.targets.values()) if isinstance(mixed.targets, dict) else [mixed.targets]


def _step(method: Method, x: Tensor, targets: Tensor) -> Tensor:
    return _finish(method, method.mix(x, targets))


def _finish(method: Method, mixed: Mixed) -> Tensor:
    logits, mixed = method.predict(mixed)
    terms = method.loss(logits, mixed)
    return cast(Tensor, sum(terms.values())) if isinstance(terms, dict) else terms


def _require_tensors(value: Any, name: str, *, ndim: int) -> None:
    """Refuse what is neither a floating tensor nor a dict of some by name."""
    for key, item in value.items() if isinstance(value, dict) else [("", value)]:
        label = f"{name}[{key!r}]" if isinstance(value, dict) else name
        kind = f"{item.dtype}" if isinstance(item, Tensor) else type(item).__name__
        floating = isinstance(item, Tensor) and item.is_floating_point()
        _require(floating, f"{label} is {kind}, expected a tensor of floating type")
        _require(item.ndim == ndim, f"{label} has shape {tuple(item.shape)}, expected {ndim} axes")


def _require_fields(mixed: Mixed, rows: int, hook: str) -> None:
    _require(isinstance(mixed, Mixed), f"{hook} returned {type(mixed).__name__}, expected Mixed")
    _require_tensors(mixed.x, f"{hook}: x", ndim=4)
    _require_tensors(mixed.targets, f"{hook}: targets", ndim=2)
    lam, perm = mixed.lam, mixed.perm
    if lam is not None:
        _require_tensors(lam, f"{hook}: lam", ndim=1)
        _require(len(lam) in (1, rows), f"{hook}: lam has {len(lam)} values for {rows} rows")
        inside = bool(((lam >= 0) & (lam <= 1)).all())
        _require(inside, f"{hook}: lam must lie in [0, 1], got {lam.tolist()}")
    if perm is not None:
        kind = f"{perm.dtype}" if isinstance(perm, Tensor) else type(perm).__name__
        whole = isinstance(perm, Tensor) and perm.dtype == torch.int64
        _require(whole, f"{hook}: perm is {kind}, expected a tensor of int64")
        inside = perm.shape == (rows,) and bool(((perm >= 0) & (perm < rows)).all())
        _require(inside, f"{hook}: perm must hold {rows} rows, got {perm.tolist()}")


def _require_rows(logits: Any, mixed: Mixed) -> None:
    """Refuse logits and targets of another number of images, which a loss may broadcast."""
    for key in logits if isinstance(logits, dict) else [""]:
        rows, soft = (v[key] if isinstance(v, dict) else v for v in (logits, mixed.targets))
        same = len(rows) == len(soft)
        _require(same, f"logits are of {len(rows)} images and targets of {len(soft)}")


def hooks_return_their_types(cls: type[Method]) -> None:
    """x, targets, lam, perm, logits, loss and diagnostics are tensors of their type and shape."""
    method = sample_method(cls)
    x, targets = sample_batch()
    for place in range(5):  # a method may mix some batches only
        method.reseed(0, place)
        mixed = method.mix(x, targets)
        _require_fields(mixed, BATCH, "mix")
        logits, mixed = method.predict(mixed)
        _require_tensors(logits, "logits", ndim=2)
        _require_fields(mixed, BATCH, "predict")
        _require_rows(logits, mixed)
        _require_tensors(method.loss(logits, mixed), "loss", ndim=0)
        found = method.diagnostics(mixed)
        _require(isinstance(found, dict), f"diagnostics are {type(found).__name__}, expected dict")
        _require_tensors(found, "diagnostics", ndim=0)


def batches_can_be_drawn(cls: type[Method]) -> None:
    """A batch can be drawn, prepare leaves it as it is, and pixel_weights lie over the pixels."""
    method = sample_method(cls)
    batch = sample_splits(method).train[BatchIndex(torch.arange(BATCH), 3)]
    kept = batch.images.clone(), batch.labels.clone()
    raster(as_sheets(show_batch(method, batch)))
    same = torch.equal(batch.images, kept[0]) and torch.equal(batch.labels, kept[1])
    _require(same, "a step wrote into the images or labels of the data set")
    if method.no_mask_reason:
        return
    perm = torch.arange(BATCH).roll(1)
    x, mixed = mix_for_evaluation(method.eval(), batch.images, batch.labels, perm, 0)
    shares = method.pixel_weights(x, mixed) if mixed.lam is not None else None
    if shares is not None:
        for share in shares:
            _require_tensors(share, "pixel_weights", ndim=3)
            share.expand(BATCH, SIZE, SIZE)


def the_picture_shows_what_was_mixed(cls: type[Method]) -> None:
    """A picture shows images as mix left them, where it changed them."""
    method = sample_method(cls)
    x, targets = sample_batch()
    x = method.normalize((x / 8 + 0.5).clamp(0, 1))
    for place in range(5):  # a method may mix some batches only
        method.reseed(0, place)
        mixed = method.mix(x, targets)
        changed = [row for row in range(BATCH) if not torch.equal(mixed.x[row], x[row])]
        rows = changed + list(range(BATCH, len(mixed.x)))
        if rows:
            break
    else:
        return  # the network mixes inside, or nothing does
    with torch.no_grad():
        picture = method.picture(x, targets, mixed)
        if isinstance(picture, Image.Image):
            other = method.picture(x, targets, mixed._replace(x=x.flip(3)))
            seen = not isinstance(other, Image.Image) or picture.tobytes() != other.tobytes()
        else:
            panels = [p.image for sheet in picture for row in sheet.drawn() for p in row]
            shown = [image for image in panels if isinstance(image, Tensor)]
            made = method.to_pixels(mixed.x)
            seen = any(_same_image(image, made[row]) for image in shown for row in rows)
    _require(seen, "none of its images is one that mix returned")


def _same_image(image: Tensor, made: Tensor) -> bool:
    return image.shape == made.shape and bool((image - made).abs().max() < 1 / 255)


def the_host_never_waits(cls: type[Method]) -> None:
    """From its second step on, a step and its updates read nothing from the device."""
    # Backward passes do not run there, and all gradients are zeros.
    method = sample_method(cls)
    splits = sample_splits(method)
    method.use_data(splits)
    batch = method.wrap_dataset(splits.train)[BatchIndex(torch.arange(BATCH), 3)]
    average = EMA(0.9)
    average.setup(None, method, "fit")
    to_pretended(method)
    to_pretended(average.averaged)
    with pretended_device() as refuse_waits:
        batch = tree_map(lambda v: OnDevice(v) if isinstance(v, Tensor) else v, batch)
        optimizers, schedulers = _without_trainer(method)
        for step in range(3):  # tables may be copied there, and values looked at, in the first
            refuse_waits(step > 0)
            loss = method.training_step(batch, step)
            if method.automatic_optimization:
                method.manual_backward(loss)
                method.on_after_backward()
                for optimizer in optimizers:
                    optimizer.step(loss.detach)
                for scheduler in schedulers:
                    scheduler.step()
                method.step += 1
                method.after_step()
            average.follow(method)


def _without_trainer(method: Method) -> tuple[list[Any], list[Any]]:
    """Optimisers and schedules of a method, which takes steps without a Trainer from here on."""
    made = _flat(method.configure_optimizers())
    dicts = [part for part in made if isinstance(part, dict)]
    optimizers = [part for part in made if isinstance(part, Optimizer)]
    optimizers += [part["optimizer"] for part in dicts if "optimizer" in part]
    known = [part.get("lr_scheduler") for part in dicts]
    known = [part["scheduler"] if isinstance(part, dict) else part for part in known]
    schedulers = [part for part in known if isinstance(part, LambdaLR)]

    def give_gradients(*_: Any) -> None:
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    def follow_loss(loss: Tensor, *rest: Any) -> None:
        method.epoch_loss.add(loss, method.step)

    own: Any = method
    own.manual_backward, own.follow_loss = give_gradients, follow_loss
    own.optimizers, own.lr_schedulers = lambda: optimizers, lambda: schedulers
    return optimizers, schedulers


def _flat(made: Any) -> list[Any]:
    """What ``configure_optimizers`` returned, in any of its forms, without lists in lists."""
    if isinstance(made, list | tuple):
        return [part for each in made for part in _flat(each)]
    return [made]


def mix_returns_soft_targets(cls: type[Method]) -> None:
    """Mix returns finite inputs and soft targets (rows, classes)."""
    method = sample_method(cls)
    x, targets = sample_batch()
    mixed = method.mix(x, targets)
    for soft in _mixed_targets(mixed):
        shape = tuple(soft.shape)
        _require(soft.ndim == 2 and shape[1] == CLASSES, f"targets have shape {shape}")
        _require(bool(torch.isfinite(soft).all()), "targets are not finite")
    _require(bool(torch.isfinite(mixed.x).all()), "mixed inputs are not finite")


def labels_sum_to_one(cls: type[Method]) -> None:
    """Labels of each row sum to 1 after mix and predict."""
    method = sample_method(cls)
    if "multiclass" not in cls.tasks_with(method.config):
        return
    x, targets = sample_batch()
    for _ in range(5):
        _, mixed = method.predict(method.mix(x, targets))
        for soft in _mixed_targets(mixed):
            worst = (soft.sum(1) - 1).abs().max().item()
            _require(worst < 1e-4, f"labels sum to 1 +- {worst:.2g}")
            _require(soft.min().item() >= -1e-6, "a label weight is negative")


def inputs_stay_as_they_are(cls: type[Method]) -> None:
    """A step does not change the batch that it is given."""
    method = sample_method(cls)
    x, targets = sample_batch()
    kept = x.clone(), targets.clone()
    mixed = method.mix(x, targets)
    _require(torch.equal(x, kept[0]) and torch.equal(targets, kept[1]), "mix wrote into its input")
    _finish(method, mixed)
    same = torch.equal(x, kept[0]) and torch.equal(targets, kept[1])
    _require(same, "predict or loss wrote into the batch")


def same_seed_same_batch(cls: type[Method]) -> None:
    """Equal (seed, epoch, batch) give equal steps, and mix does not use the global generator."""
    method = sample_method(cls)
    x, targets = sample_batch()
    state = torch.random.get_rng_state()
    mixes, losses = [], []
    start = {name: value.clone() for name, value in method.state_dict().items()}
    for _ in range(2):
        method.load_state_dict(start)  # statistics of the first step may decide the second
        method.reseed(1, 2)
        mixed = method.mix(x, targets)
        mixes.append(mixed.x)
        losses.append(_finish(method, mixed))
        torch.rand(1)
    torch.random.set_rng_state(state)
    _require(torch.equal(*mixes), "two mixes with equal keys differ")
    _require(torch.equal(*losses), "two losses with equal keys differ")
    method.mix(x, targets)
    _require(torch.equal(torch.random.get_rng_state(), state), "mix drew from the global generator")


def any_batch(cls: type[Method]) -> None:
    """Steps of 1 and 2 rows, and of 3 and 5 rows of images that are not square."""
    for rows, height, width in ((1, SIZE, SIZE), (2, SIZE, SIZE), (3, 16, 24), (5, 24, 16)):
        method = sample_method(cls, image_size=(height, width))
        x, targets = sample_batch(rows, height, width)
        mixed = method.mix(x, targets)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "a batch of 1 has no partner")
                loss = _finish(method, mixed)
        except Exception as error:
            what = f"{rows} rows of {height}x{width} pixels"
            raise BrokenRuleError(f"a step of {what} fails: {error}") from error
        _require(bool(torch.isfinite(loss)), f"the loss of {rows} rows is not finite")
        _require(bool(torch.isfinite(mixed.x).all()), f"not finite at {rows} x {height} x {width}")
        _require(mixed.x.shape[2:] == (height, width), f"shape {tuple(mixed.x.shape)}")


def reduced_precision(cls: type[Method]) -> None:
    """A bfloat16 batch stays bfloat16 and close to the float32 one; its labels stay float32."""
    method = sample_method(cls)
    x, targets = sample_batch()
    x = x.bfloat16().float()  # the same values, as maps of other ones may rank places otherwise
    method.reseed(0, 0)
    wide = method.mix(x, targets).x
    method.reseed(0, 0)
    mixed = method.mix(x.bfloat16(), targets)
    narrow = mixed.x
    for soft in _mixed_targets(mixed):
        kind = soft.dtype
        _require(kind == torch.float32, f"labels became {kind}, which loses small weights")
    _require(narrow.dtype == torch.bfloat16, f"bfloat16 became {narrow.dtype}")
    gap = (narrow.float() - wide).abs().max().item()
    _require(gap < 0.05, f"bfloat16 and float32 differ by {gap:.2g}")


def evaluation_is_plain(cls: type[Method]) -> None:
    """In eval mode an evaluation step neither mixes nor draws a random number."""
    method = sample_method(cls).eval()
    batch = sample_splits(method).train[BatchIndex(torch.arange(BATCH), 3)]
    x = to_float(batch.images)
    method.reseed(0, 0)
    before = [g.get_state() for g in (method.generator, method.shared_generator)]
    state = torch.random.get_rng_state()
    method.mix = _refuse_to_mix
    with torch.no_grad():
        first, second = method(x), method(x)
        stored = method.validation_step(batch, 0)
    _require_tensors(first, "the output of forward", ndim=2)
    _require(first.shape == (BATCH, CLASSES), f"forward returned {tuple(first.shape)}")
    same = torch.equal(first, second) and torch.equal(first, stored["logits"])
    _require(same, "two evaluations of one batch differ")
    after = [g.get_state() for g in (method.generator, method.shared_generator)]
    same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    _require(same and torch.equal(state, torch.random.get_rng_state()), "a random number was drawn")


def _refuse_to_mix(*args: Any, **kwargs: Any) -> Any:
    raise BrokenRuleError("an evaluation step calls mix")


def gradients_reach_the_network(cls: type[Method]) -> None:
    """The loss is a finite scalar and every trainable parameter of the network gets a gradient."""
    method = sample_method(cls)
    loss = _step(method, *sample_batch())
    _require(loss.ndim == 0 and bool(torch.isfinite(loss)), "the loss is not a finite scalar")
    loss.backward()
    missing = [n for n, p in method.net.named_parameters() if p.requires_grad and p.grad is None]
    if not method.find_unused_parameters:
        _require(not missing, f"no gradient for {', '.join(missing[:3])}")


def each_parameter_in_one_group(cls: type[Method]) -> None:
    """Every trainable parameter is in exactly one parameter group, and no frozen one in any."""
    method = sample_method(cls)
    grouped = [id(p) for group in method.param_groups() for p in group["params"]]
    trainable = {id(p): n for n, p in method.named_parameters() if p.requires_grad}
    _require(len(grouped) == len(set(grouped)), "a parameter is in two groups")
    missing = [name for key, name in trainable.items() if key not in set(grouped)]
    _require(not missing, f"in no group: {', '.join(missing[:3])}")
    _require(set(grouped) <= set(trainable), "a frozen parameter is in a group")


def trains_under_lightning(cls: type[Method]) -> None:
    """Two epochs under a Trainer give finite weights that differ from the first."""
    method = sample_method(cls, epochs=2)
    learning = [p for p in method.net.parameters() if p.requires_grad]
    if not learning:  # such a method trains something beside its network
        learning = [p for p in method.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learning]
    fit(method)
    after = learning
    _require(all(bool(torch.isfinite(p).all()) for p in after), "weights are not finite")
    pairs = zip(before, after, strict=True)
    _require(any(not torch.equal(a, b) for a, b in pairs), "no weight changed")
    _require(method.step == method.total_steps, f"{method.step} of {method.total_steps} steps")


def checkpoint_holds_plain_types(cls: type[Method]) -> None:
    """A checkpoint loads with weights_only and gives the same predictions."""
    method = sample_method(cls)
    trainer = fit(method)
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    torch.manual_seed(9)
    copy = sample_method(cls)
    copy.load_state_dict(loaded["state_dict"])
    x, _ = sample_batch()
    with torch.no_grad():
        same = torch.equal(method.eval()(x), copy.eval()(x))
    _require(same, "predictions changed over a checkpoint")


def hooks_need_no_trainer(cls: type[Method]) -> None:
    """prepare, mix, predict and loss work without a Trainer."""
    method = sample_method(cls)
    images = sample_splits(method).train
    dataset = method.wrap_dataset(images)
    batch = dataset[BatchIndex(torch.arange(BATCH), 3)]
    _require(isinstance(batch, Batch), "wrap_dataset gives no Batch")
    method.reseed(0, 0)
    loss = _step(method, *method.prepare(batch))
    _require(bool(torch.isfinite(loss)), "the loss is not finite")


def settings_are_plain(cls: type[Method]) -> None:
    """Settings are plain values that survive a round trip through the configuration."""
    from omegaconf import OmegaConf

    tree = OmegaConf.structured(cls.Config)
    _require(asdict(OmegaConf.to_object(tree)) == asdict(cls.Config()), "settings changed")  # type: ignore[call-overload]


RULES: list[Callable[[type[Method]], None]] = [
    settings_are_plain,
    hooks_return_their_types,
    mix_returns_soft_targets,
    labels_sum_to_one,
    inputs_stay_as_they_are,
    same_seed_same_batch,
    any_batch,
    reduced_precision,
    the_host_never_waits,
    evaluation_is_plain,
    gradients_reach_the_network,
    each_parameter_in_one_group,
    hooks_need_no_trainer,
    batches_can_be_drawn,
    the_picture_shows_what_was_mixed,
    trains_under_lightning,
    checkpoint_holds_plain_types,
]
# Of methods that make images and mix none.
GENERATIVE_RULES = [
    settings_are_plain,
    the_host_never_waits,
    each_parameter_in_one_group,
    batches_can_be_drawn,
    trains_under_lightning,
    checkpoint_holds_plain_types,
]


def rules_of(cls: type[Method]) -> list[Callable[[type[Method]], None]]:
    """The rules that a method has to keep; those of mixing only where outputs are logits."""
    return RULES if any(TASKS.get(task).classifies for task in cls.tasks) else GENERATIVE_RULES
