"""The sentence of pictures whose content depends on weights that are not trained yet."""

from typing import Any

NETWORK, MIXER = "network", "mixer"


def initial_weights(method: Any, part: str) -> list[str]:
    """A sentence where a part that decides what a picture shows has its initial weights.

    Args:
        method: The method.
        part: ``network`` or ``mixer``.

    Returns:
        The sentence, or nothing after the first step and for a network that ``net.weights`` filled.
    """
    run = method.run
    if method.step or (part == NETWORK and run.net.weights is not None):
        return []
    words = f"method={run.method['name']} data={run.data.kind} net={run.net.name}"
    return [
        f"Initial weights of the {part}; train first: mixbench run {words} ..., then "
        "mixbench show RUN."
    ]
