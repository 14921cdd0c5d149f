"""Manifold Mixup: convex combinations of two hidden representations and of their labels.

Verma et al., ICML 2019, arXiv:1806.05236; official code vikasverma1077/manifold_mixup.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.mixed import Mixed
from mixbench.functional.mixup import mixup


def manifoldmixup(
    h: Tensor,
    targets: Tensor,
    *,
    alpha: float = 2.0,
    lam: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Interpolate the features of every row with its partner's, as Input Mixup does with images.

    The layer is the caller's choice, once per forward pass: run the network up to it, mix what it
    gives, and run the rest on the result. ``h`` must be the whole state between two parts of the
    network; one branch of a residual block, or tokens without their class token, is not.

    Args:
        h: (B, ...) features of any layer, or the input itself.
        targets: (B, K) soft or multi-hot labels.
        alpha: Beta(alpha, alpha) of the weight; unused when ``lam`` is given.
        lam: (B,) or (1,) weight of the first row, in [0, 1]; drawn once per batch if None.
        perm: (B,) index of each row's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch whose ``x`` holds the mixed features; gradients flow to both rows of a pair.

    Raises:
        ValueError: As :func:`mixbench.functional.mixup`.

    Example:
        >>> first, rest = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        >>> h = first(torch.randn(5, 3))
        >>> mixed = manifoldmixup(h, torch.eye(2)[torch.tensor([0, 1, 0, 1, 1])])
        >>> rest(mixed.x).shape, mixed.targets.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """
    return mixup(h, targets, alpha=alpha, lam=lam, perm=perm, generator=generator)


def softmax_binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy between the softmax and soft labels, the loss of the official code.

    As it is averaged over B*K entries, its gradient is roughly K/2 to K times smaller than that
    of :func:`soft_cross_entropy`: with equal rates and weight decay, another way of training.

    Args:
        logits: (B, K) network output.
        targets: (B, K) soft labels.

    Returns:
        Scalar loss in nats, in float32. Logarithms below -100 count as -100.

    Example:
        >>> softmax_binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor(0.6931)
    """
    logits, targets = logits.float(), targets.float()
    log_p = F.log_softmax(logits, dim=1)
    # 1 - p of the largest class cancels when p nears 1, and its logarithm's gradient with it; that
    # class takes the sum over the others instead. Every other p is at most a half.
    top = logits.argmax(dim=1, keepdim=True)
    others = logits.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_rest = torch.log1p(-log_p.scatter(1, top, -1.0).exp())
    log_rest = log_rest.scatter(1, top, others - logits.logsumexp(dim=1, keepdim=True))
    terms = targets * log_p.clamp(min=-100) + (1 - targets) * log_rest.clamp(min=-100)
    return -terms.mean()
