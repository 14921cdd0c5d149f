"""The losses of methods that paste windows: agreement with the clean images, and parts by part."""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.backbones.attention import init_transformer
from mixbench.methods.base import Method


class WindowStep(NamedTuple):
    """Record of a step with windows.

    ``pasted`` says where they are, ``own`` (B, K) are the labels before mixing, ``expected``
    (B, K) the mixed logits of the clean images, and ``regions`` the logits (B, K) of kept and of
    pasted tokens, once they are known.
    """

    pasted: mf.Pasted
    own: Tensor
    expected: Tensor
    regions: tuple[Tensor, Tensor] | None = None


class ConsistencyMethod(Method):
    """Base of a method whose windows come with the losses of SMMix (arXiv:2212.12977).

    Beside the cross-entropy of the mixed image, its prediction is drawn to the mix of those of the
    clean images. A transformer has a second classifier, for training alone, that names the class
    of the tokens that were kept, and of those that were pasted. Settings ``consistency`` and
    ``tokens`` weigh both.
    """

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        provides = getattr(net, "provides", frozenset())
        self.token_head = None
        if "tokens" in provides and "maps" not in provides:
            self.token_head = nn.Linear(net.channels[-1], self.info.num_classes)
            init_transformer(self.token_head)

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Logits, and of a transformer also those of its kept and of its pasted tokens."""
        windows: WindowStep | None = mixed.aux
        if windows is None or self.token_head is None:
            return super().predict(mixed)
        net: Any = self.net
        h = net.forward_stages(mixed.x)
        kept = windows.pasted.kept.flatten(1)
        parts = torch.stack([kept, ~kept], dim=1).to(h.dtype)
        parts = parts / parts.sum(2, keepdim=True).clamp(min=1)
        regions = self.token_head(parts @ net.tokens(net.head.norm(h))).unbind(1)
        return net.head(h), mixed._replace(aux=windows._replace(regions=regions))

    def loss(self, logits: Any, mixed: mf.Mixed) -> Tensor | dict[str, Tensor]:
        """Cross-entropy; with windows also the agreement with the clean images, and of tokens."""
        cfg, windows = self.config, mixed.aux
        terms = {"ce": mf.soft_cross_entropy(logits, mixed.targets)}
        if windows is not None:
            terms["consistency"] = cfg.consistency * mf.soft_kl(logits, windows.expected.softmax(1))
        if windows is not None and windows.regions is not None:
            labels = (windows.own, mf.take(windows.own, cast(Tensor, mixed.perm)))
            pairs = zip(windows.regions, labels, strict=True)
            terms["tokens"] = cfg.tokens * sum(mf.soft_cross_entropy(*pair) for pair in pairs) / 2
        elif self.token_head is not None:
            # With a gradient in every step, no process waits for one under DDP.
            terms["tokens"] = 0 * torch.stack([p.sum() for p in self.token_head.parameters()]).sum()
        return terms

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the network, and of the head for tokens."""
        groups = super().param_groups()
        head = self.token_head
        return groups + ([] if head is None else self.groups_of(head))
