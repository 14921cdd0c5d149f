"""The kinds of plots by name.

The table is text, so that naming a kind imports nothing of what draws it.
"""

from mixbench.registry import Registry

# Where each kind is drawn, and what it shows.
_KINDS = {
    "leaderboard": ("scores:draw_scores", "the score of each row with its seeds and interval"),
    "forest": ("forest:draw_forest", "the difference of each row from the reference"),
}
SHOWN = {name: text for name, (_, text) in _KINDS.items()}
KINDS = Registry(
    "plot", {name: f"mixbench.leaderboard.plots.{place}" for name, (place, _) in _KINDS.items()}
)
