"""What a figure shows, read back from its artists."""

from matplotlib.axes import Axes
from matplotlib.text import Text

from mixbench.leaderboard.plots.style import style


def shown(text):
    """A text as a reader sees it."""
    return text.get_text().replace(r"\$", "$")


def texts(figure):
    """All texts of a figure that are not empty."""
    return [shown(text) for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def notes(figure):
    """The sentences below the panels, on one line."""
    return " ".join(shown(text) for text in figure.texts)


def all_axes(figure):
    return figure.findobj(Axes)


def row_names(axes):
    """Names of the lines of a panel, from top to bottom."""
    return [shown(label) for label in axes.get_yticklabels()]


def lines_with(axes, **facts):
    """Lines whose properties are those."""
    return [
        line
        for line in axes.get_lines()
        if all(getattr(line, f"get_{name}")() == value for name, value in facts.items())
    ]


def overlapping(figure):
    """Pairs of texts that lie on each other, and texts that reach beyond the figure."""
    with style():  # letters are as wide as in a file
        return list(_overlapping(figure))


def _overlapping(figure):
    figure.draw_without_rendering()
    edge, unseen = figure.bbox, _unseen(figure)
    boxes = []
    for text in figure.findobj(Text):
        if not text.get_text().strip() or not text.get_visible() or text in unseen:
            continue
        box = text.get_window_extent()
        if box.x0 < edge.x0 - 2 or box.x1 > edge.x1 + 2 or box.y0 < -2 or box.y1 > edge.y1 + 2:
            yield shown(text), "beyond the figure"
        for other, name in boxes:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            if across > 1 and min(box.y1, other.y1) - max(box.y0, other.y0) > 1:
                yield shown(text), name
        boxes.append((box, shown(text)))


def _unseen(figure):
    """Labels of ticks that are not drawn, as an axis keeps some beyond its ends."""
    found = set()
    for axes in all_axes(figure):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            current = axis.get_major_ticks() + axis.get_minor_ticks()
            for tick in axis.majorTicks + axis.minorTicks:
                if tick not in current or not low <= tick.get_loc() <= high:
                    found |= {tick.label1, tick.label2}
    return found
