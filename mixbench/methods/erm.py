"""Plain training, the reference of every comparison."""

from mixbench.methods.base import MIXES_LABELS, Method, register


@register("erm")
class ERM(Method):
    r"""Empirical risk minimisation: the recipe's augmentation and nothing else.

    Paper: none; the control that every method is compared with.
    Formula: :math:`\mathrm{CE}(f(x), y)`, averaged over the batch.
    Cost: 1.
    """

    tasks = MIXES_LABELS
