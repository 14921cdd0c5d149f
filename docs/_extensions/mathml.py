"""Formulas as MathML, which browsers draw themselves: no script, no font, no request."""

from html import escape
from typing import Any

from latex2mathml.converter import convert


def _inline(writer: Any, node: Any) -> None:
    writer.body.append(convert(node.astext()))
    _skip()


def _block(writer: Any, node: Any) -> None:
    formula = convert(node.astext(), display="block")
    label = escape(" ".join(node.astext().split()), quote=True)
    writer.body.append(f'<div class="formula" role="math" title="{label}">{formula}</div>')
    _skip()


def _skip() -> None:
    from docutils.nodes import SkipNode

    raise SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(_inline, None), block_renderers=(_block, None)
    )
    app.config.html_math_renderer = "mathml"  # type: ignore[attr-defined]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
