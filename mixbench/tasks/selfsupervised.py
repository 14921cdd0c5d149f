"""Self-supervised learning: features without labels, judged by a linear classifier on them."""

from mixbench.tasks.classification import Classification


class SelfSupervised(Classification):
    """Training sees no labels; evaluation is that of a classification."""

    name = "ssl"
    labelled = False
