"""Pictures of observations and of their components, written for methods that separate them."""

from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.data.mixtures import second_span
from mixbench.pictures.sheet import Panel, Row, Sheet, label_text

NOTE = "Every column has one fixed scale of grey, which covers all values that it can have."


def draw_observations(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Observations of the first images, and their components.

    Args:
        self: A method that separates observations.
        x: (B, C, H, W) first components.
        targets: (B, K) their classes.
        mixed: What ``mix_batch`` returned; ``aux`` has both components.

    Returns:
        The sheet.
    """
    spans, names = _spans(self), self.info.names

    def rows(own: int, other: int) -> list[Row]:
        del other
        panels = [Panel("first", _shown(x[own], spans[1]), label_text(targets[own], names))]
        panels.append(Panel("second", _shown(mixed.aux.second[own], spans[2])))
        panels.append(Panel("observed", _shown(mixed.x[own], spans[0])))
        return [panels]

    notes = ["Training sees what is observed, and no component of it.", NOTE]
    if len(self.net) == 1:
        notes[0] = "Training sees what is observed, and other draws of the second component."
    return [Sheet([(row, row) for row in range(len(x))], rows, notes)]


def draw_separated(self: Any) -> list[Sheet]:
    """Test images that were separated, beside their true components.

    Args:
        self: A method that separates observations, after its test.

    Returns:
        The sheet; nothing before a test.
    """
    found = self.separated
    if found is None or not found.parts:
        return []
    spans = _spans(self)

    def rows(own: int, other: int) -> list[Row]:
        del other
        panels = [Panel("observed", _shown(found.y[own], spans[0]))]
        for place, part in enumerate(found.parts, start=1):
            title = f"generator {place}" if place <= len(self.net) else "what is left"
            panels.append(Panel(title, _shown(part[own], spans[place])))
        if self.run.data.second != "none":
            panels.append(Panel("true first", _shown(found.truth[0][own], spans[1])))
            panels.append(Panel("true second", _shown(found.truth[1][own], spans[2])))
        return [panels]

    count = len(found.y)
    return [Sheet([(row, row) for row in range(count)], rows, [NOTE], most=count)]


def _spans(self: Any) -> tuple[tuple[float, float], ...]:
    """Ranges of an observation, of its first and of its second component."""
    data = self.run.data
    low, high = second_span(data)
    first, second = data.weights
    return (min(0.0, second * low), first + second * high), (0.0, 1.0), (low, high)


def _shown(image: Tensor, span: tuple[float, float]) -> Tensor:
    """An image (3, H, W) in [0, 1] of one (C, H, W) in a fixed range."""
    low, high = span
    return ((image.float() - low) / (high - low)).clamp(0, 1).expand(3, -1, -1)
