"""The kinds of plots by name.

The table is text, so that naming a kind imports nothing of what draws it.
"""

from mixbench.registry import Registry

# Where each kind is drawn, and what it shows.
_KINDS = {
    "leaderboard": ("scores:draw_scores", "the score of each row with its seeds and interval"),
    "forest": ("forest:draw_forest", "the difference of each row from the reference"),
    "curves": ("curves:draw_curves", "training loss and score after each epoch"),
    "reliability": ("reliability:draw_reliability", "accuracy by confidence"),
    "cost": ("cost:draw_cost", "the score against the hours of training"),
    "sweep": ("sweep:draw_sweep", "the score over one or two settings of a method"),
    "severity": (
        "severity:draw_severity",
        "error rates by strength of attacks and corruptions",
    ),
    "harm": ("harm:draw_harm", "change of accuracy by class against the reference"),
    "winmatrix": ("winmatrix:draw_winmatrix", "each row against each other one"),
}
# Those that are drawn from other files than a table of runs.
_OF_FILES = {
    "race": (
        "mixbench.race.plot:draw_races",
        "scores of a race on its hold-outs, ties by cost, and the interval of each look",
    ),
}
SHOWN = {name: text for name, (_, text) in (_KINDS | _OF_FILES).items()}
KINDS = Registry(
    "plot", {name: f"mixbench.leaderboard.plots.{place}" for name, (place, _) in _KINDS.items()}
)
ALL_KINDS = Registry("plot", KINDS.table | {name: place for name, (place, _) in _OF_FILES.items()})
