"""Training steps as CUDA graphs: a few hundred short kernels in one launch.

At small batches the host takes longer to launch the kernels of a step than the device to run them.
A graph is recorded once and replayed for each batch, with whatever was on the host frozen in it.
What a step decides there has to be in the record that ``mix`` returns: tensors of the record are
copied into memory of the graph, and each combination of its plain values, such as the layer that is
mixed, has a graph of its own, which moves those weights alone that get a gradient there. So has
each set of the settings and thresholds that update and clipping read in it.

A graph holds both passes, clipping, and the update as far as it needs no number that changes by
the step (:mod:`mixbench.nn.update`). ``mix``, the move of the weights, which the learning rate
scales, what a method does after it, and averages of weights, whose decay warms up, stay outside: a
few launches for all weights of a group, about as many as it would take to bring their numbers to
the device. What cannot be replayed runs as it is, and :attr:`StepGraphs.outcome` says why.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from mixbench.errors import counted
from mixbench.functional.mixed import Mixed
from mixbench.methods.base import Method, Passes
from mixbench.nn.update import Update, frozen_settings, is_divisible

DEVICES = ("cuda",)
WARM_UP = 3  # steps of a kind before it is recorded, in which libraries choose their kernels
MOST = 16  # graphs; each holds the activations of a step, so that more kinds are a sign of trouble
LARGEST_BATCH = 256  # images, from where on the device is what takes long
PLAIN = (bool, int, float, str, type(None))


class Kind(NamedTuple):
    """What a graph holds fast beside memory.

    Attributes:
        mixed: Of the mixed batch: shapes, kinds of numbers, and plain values.
        settings: Of update and clipping; None if they are outside of the graph.
    """

    mixed: tuple[Hashable, ...]
    settings: Hashable | None


class Recorded(NamedTuple):
    """A graph: its inputs, what it computes and leaves behind, and how to run it.

    Attributes:
        inputs: Tensors of the mixed batch.
        outputs: Of the passes.
        gradients: Of all parameters of the method.
        update: The update, whose second part remains to be done; None if none of it is in the
            graph.
        replay: Runs it.
    """

    inputs: list[Tensor]
    outputs: Passes
    gradients: list[Tensor | None]
    update: Update | None
    replay: Callable[[], None]


def capture(function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Record what a function launches on the CUDA device, without running it.

    Args:
        function: Waits for nothing, and reads tensors that stay where they are.

    Returns:
        What it returned, tensors that a replay fills, and a function that replays it.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate memory meanwhile, such as that which pins batches of workers.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = function()
    return found, graph.replay


class StepGraphs:
    """Takes the place of :meth:`Method.passes`, and replays what it can of a step.

    Args:
        method: The method that is trained.
        reason: Why nothing can be replayed, as far as the loop over batches knows; empty if it can.
        optimizer: Steps after the passes; None if nobody steps.
        clip: Limits the gradients in front of the update; None if they stay as they are.
        limits: Reads the numbers of the host that ``clip`` reads.
        outside: Why the update cannot be replayed, as far as the loop knows; empty if it can.

    Attributes:
        replayed: Whether the last call ran both passes and left the gradients.
        update: The update that the last call began, whose second part is to be called in place of
            the optimiser; None if all of it remains to be done.
        reason: Why steps run as they are, in a few words; empty if they are replayed.
        outside: Why their updates do; empty if the first part of them is replayed.
    """

    def __init__(
        self,
        method: Method,
        reason: str = "",
        optimizer: Optimizer | None = None,
        clip: Callable[[], object] | None = None,
        limits: Callable[[], Hashable] = tuple,
        outside: str = "",
    ) -> None:
        self.method, self.replayed = method, False
        self.update: Update | None = None
        self.reason = reason or _reason(method)
        self.outside = outside or _outside(optimizer)
        self._optimizer, self._clip, self._limits = optimizer, clip, limits
        self._parameters = list(method.parameters())  # to find them takes as long as ten kernels
        self._seen: Counter[Kind] = Counter()
        self._graphs: dict[Kind, Recorded] = {}

    @property
    def outcome(self) -> str:
        """What was carried out, for the record of the run."""
        whole = sum(graph.update is not None for graph in self._graphs.values())
        rest = len(self._graphs) - whole
        told = [f"{counted(whole, 'graph')} of passes and update"] if whole else []
        told += [f"{counted(rest, 'graph')} of passes alone: {self.outside}"] if rest else []
        told += [f"none: {self.reason}"] if self.reason else []
        return ", then ".join(told) or "none: no step of a kind was repeated often enough"

    def __call__(self, mixed: Mixed) -> Passes:
        """Both passes from a graph, or the forward pass alone, with a loss to go back from.

        Args:
            mixed: What ``mix`` returned.

        Returns:
            Loss, its terms, logits and batch; those of a graph until its next replay.
        """
        self.replayed, self.update = False, None
        leaves, shape = tree_flatten(mixed)
        key = None if self.reason else self._key(leaves, shape)
        if key is None:
            return self.method.passes_of(mixed)
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] <= WARM_UP or not self._record(key, leaves, shape):
                return self.method.passes_of(mixed)
        recorded = self._graphs[key]
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for held, leaf in zip(recorded.inputs, given, strict=True):
            held.copy_(leaf, non_blocking=True)
        recorded.replay()
        for parameter, gradient in zip(self._parameters, recorded.gradients, strict=True):
            parameter.grad = gradient
        self.replayed, self.update = True, recorded.update
        return recorded.outputs

    def _key(self, leaves: list[Any], shape: Any) -> Kind | None:
        """What a graph holds fast; None, with a reason, where that cannot be told."""
        parts: list[Hashable] = [shape]
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                if leaf.requires_grad:
                    self.reason = "the mixed batch has a gradient"
                parts.append((leaf.shape, leaf.dtype))
            elif isinstance(leaf, PLAIN):
                parts.append(leaf)
            else:
                kind = type(leaf).__name__
                self.reason = f"the record of the mixed batch holds an object of type {kind}"
        key = self._with_settings(tuple(parts))
        if len(self._seen) == MOST and key not in self._seen:
            self.reason = f"steps are of more than {MOST} kinds"
            settings = {kind.settings for kind in (*self._seen, key)} - {None}
            if len(settings) > 1:
                self.reason += f", by {len(settings)} different settings of update and clipping"
        return None if self.reason else key

    def _with_settings(self, mixed: tuple[Hashable, ...]) -> Kind:
        """The kind of a step: that of a graph with its update, or of the passes alone."""
        alone, optimizer = Kind(mixed, None), self._optimizer
        why = _outside(optimizer)  # a method may change a setting that both parts take for granted
        self.outside = self.outside or why
        if why or optimizer is None:
            return alone
        whole = Kind(mixed, (frozen_settings(optimizer), self._limits()))
        return whole if not self.outside or whole in self._graphs else alone

    def _record(self, key: Kind, leaves: list[Any], shape: Any) -> bool:
        """Record a kind of step, or its passes; False, with a reason, where that fails."""
        method, device = self.method, self.method.device
        held = [leaf.to(device).clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        mixed = tree_unflatten(held, shape)
        on = torch.is_autocast_enabled(device.type)
        kind: Any = {"device_type": device.type, "dtype": torch.get_autocast_dtype(device.type)}

        def step() -> tuple[Passes, Update | None]:
            # Weights that were cast before are in nobody's memory at the next replay.
            with torch.autocast(**kind, enabled=on, cache_enabled=False):
                found = method.passes_of(mixed)
            with torch.autocast(**kind, enabled=False):
                found.loss.backward()
                update = None if self.outside else self._begin_update()
            return tree_map_only(Tensor, Tensor.detach, found), update

        sources = method.generator, method.shared_generator, torch.default_generator
        states = [source.get_state() for source in sources]
        self._drop_gradients()  # the backward pass makes new ones, in memory of the graph
        try:
            (outputs, update), replay = capture(step)
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            told = f"cannot be recorded: {type(error).__name__}: {first}"
            if self.outside:
                self.reason = f"a step {told}"
            else:  # later steps of this kind try the passes alone
                self.outside = f"the update {told}"
        else:
            gradients = [parameter.grad for parameter in self._parameters]
            inputs = [leaf for leaf in held if isinstance(leaf, Tensor)]
            if all(map(torch.equal, states, (source.get_state() for source in sources))):
                self._graphs[key] = Recorded(inputs, outputs, gradients, update, replay)
                return True
            self.reason = "the forward pass draws on the host"
        self._drop_gradients()
        for source, state in zip(sources, states, strict=True):
            source.set_state(state)
        return False

    def _begin_update(self) -> Update:
        """Clip, and the first part of the update."""
        assert self._optimizer is not None
        if self._clip is not None:
            self._clip()
        update = Update(self._optimizer)
        update.follow_gradients()
        return update

    def _drop_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


def _reason(method: Method) -> str:
    """Why no step of a method can be replayed; empty if it may be."""
    run, device = method.run, method.device
    rows = run.batch_size // (run.world * run.optim.accumulate)
    reasons = {
        f"the device is a {device.type.upper()}": device.type not in DEVICES,
        f"batches of {rows} images keep the device at work": rows > LARGEST_BATCH,
        "several processes wait for each other in the backward pass": run.world > 1,
        "gradients of several micro-batches are added up": run.optim.accumulate > 1,
        "the method decides in its passes": not method.replayable,
        "a teacher runs along": method.distillation is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _outside(optimizer: Optimizer | None) -> str:
    """Why no update of an optimiser can be replayed; empty if it may be."""
    if optimizer is None:
        return "there is no optimiser"
    kind = type(optimizer).__name__
    return "" if is_divisible(optimizer) else f"the update of {kind} is not known in two parts"
