"""Passes of a training step as CUDA graphs: a few hundred short kernels in one launch.

At small batches the host takes longer to launch the kernels of a step than the device to run them.
A graph is recorded once and replayed for each batch, with whatever was on the host frozen in it.
What a step decides there has to be in the record that ``mix`` returns: tensors of the record are
copied into memory of the graph, and each combination of its plain values, such as the layer that is
mixed, has a graph of its own. ``mix`` itself, the optimiser, its schedule and averages of weights
stay outside. What cannot be replayed runs as it is, and :attr:`StepGraphs.outcome` says why.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from mixbench.errors import counted
from mixbench.functional.mixed import Mixed
from mixbench.methods.base import Method, Passes

DEVICES = ("cuda",)
WARM_UP = 3  # steps of a kind before it is recorded, in which libraries choose their kernels
MOST = 16  # graphs; each holds the activations of a step, so that more kinds are a sign of trouble
LARGEST_BATCH = 256  # images, from where on the device is what takes long
PLAIN = (bool, int, float, str, type(None))


class Recorded(NamedTuple):
    """A graph: its inputs, what it computes, the gradients that it leaves, and how to run it."""

    inputs: list[Tensor]
    outputs: Passes
    gradients: list[Tensor | None]
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
    """Takes the place of :meth:`Method.passes`, and replays both passes where it can.

    Args:
        method: The method that is trained.
        reason: Why nothing can be replayed, as far as the loop over batches knows; empty if it can.

    Attributes:
        replayed: Whether the last call ran both passes and left the gradients.
        reason: Why steps run as they are, in a few words; empty if they are replayed.
    """

    def __init__(self, method: Method, reason: str = "") -> None:
        self.method, self.replayed = method, False
        self.reason = reason or _reason(method)
        self._parameters = list(method.parameters())  # to find them takes as long as ten kernels
        self._seen: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, Recorded] = {}

    @property
    def outcome(self) -> str:
        """What was carried out, for the record of the run."""
        told = [counted(len(self._graphs), "graph")] if self._graphs else []
        told += [f"none: {self.reason}"] if self.reason else []
        return ", then ".join(told) or "none: no step of a kind was repeated often enough"

    def __call__(self, mixed: Mixed) -> Passes:
        """Both passes from a graph, or the forward pass alone, with a loss to go back from.

        Args:
            mixed: What ``mix`` returned.

        Returns:
            Loss, its terms, logits and batch; those of a graph until its next replay.
        """
        self.replayed = False
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
        self.replayed = True
        return recorded.outputs

    def _key(self, leaves: list[Any], shape: Any) -> Hashable | None:
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
        key = tuple(parts)
        if len(self._seen) == MOST and key not in self._seen:
            self.reason = f"steps are of more than {MOST} kinds"
        return None if self.reason else key

    def _record(self, key: Hashable, leaves: list[Any], shape: Any) -> bool:
        """Record the passes of a kind of batch; False, with a reason, where that fails."""
        method, device = self.method, self.method.device
        held = [leaf.to(device).clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        mixed = tree_unflatten(held, shape)
        on = torch.is_autocast_enabled(device.type)
        kind: Any = {"device_type": device.type, "dtype": torch.get_autocast_dtype(device.type)}

        def both() -> Passes:
            # Weights that were cast before are in nobody's memory at the next replay.
            with torch.autocast(**kind, enabled=on, cache_enabled=False):
                found = method.passes_of(mixed)
            with torch.autocast(**kind, enabled=False):
                found.loss.backward()
            return tree_map_only(Tensor, Tensor.detach, found)

        sources = method.generator, method.shared_generator, torch.default_generator
        states = [source.get_state() for source in sources]
        self._drop_gradients()  # the backward pass makes new ones, in memory of the graph
        try:
            outputs, replay = capture(both)
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            self.reason = f"a step cannot be recorded: {type(error).__name__}: {first}"
        else:
            gradients = [parameter.grad for parameter in self._parameters]
            inputs = [leaf for leaf in held if isinstance(leaf, Tensor)]
            if all(map(torch.equal, states, (source.get_state() for source in sources))):
                self._graphs[key] = Recorded(inputs, outputs, gradients, replay)
                return True
            self.reason = "the forward pass draws on the host"
        self._drop_gradients()
        for source, state in zip(sources, states, strict=True):
            source.set_state(state)
        return False

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
