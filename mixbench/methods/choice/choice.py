"""One of several methods for each batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.config.names import METHODS
from mixbench.errors import UserError
from mixbench.methods.base import MIXES_LABELS, Method, register
from mixbench.methods.choice.members import ChoiceConfig, adopt, check_built, wrong_dataset
from mixbench.pictures.sheet import Sheet, under_title


class MemberStep(NamedTuple):
    """Record of a step: the place of the member that was drawn, and the record of its own.

    ``labels`` (B, K) are those before mixing, where the choice gives labels of its own.
    """

    member: int
    aux: Any
    labels: Tensor | None = None


@register("choice")
class Choice(Method):
    """Draw one of several methods for each batch, all of them on one network.

    Paper: none of its own. Mixup and CutMix by turns, each with probability 0.5, is how DeiT trains
    (Touvron et al., ICML 2021, arXiv:2012.12877; official code: facebookresearch/deit, mixup 0.8
    and CutMix 1.0), and what ``method=choice`` does if nothing else is said.
    A member keeps its keys, as ``method.<member>.<key>`` at the defaults of ``mixbench info``, and
    its own parameters, whose gradient is 0 in the batches of the others. What is tested is the
    network, or what the one member makes of it that tests something else.
    Cost: that of the members, by their shares.
    """

    class Config(ChoiceConfig):
        """Settings of the choice."""

    tasks = MIXES_LABELS

    @classmethod
    def tasks_with(cls, config: Any) -> frozenset[str]:
        """Tasks that all its members learn."""
        members = (METHODS.get(name).tasks_with(own) for name, own in config.of.items())
        return cls.tasks.intersection(*members)

    @classmethod
    def step_cost(cls, config: Any) -> float:
        """Mean step time of the members, by their shares."""
        return config.cost

    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        facts = (self.run, self.total_steps, self.rank)
        built = {n: METHODS.get(n)(net, self.info, c, *facts) for n, c in self.config.of.items()}
        products = check_built(built)
        self.product = self.config.members.index(products[0]) if products else None
        self.members = nn.ModuleList(built.values())
        self.find_unused_parameters = any(m.find_unused_parameters for m in built.values())
        self._share()

    def _share(self) -> None:
        for member in self.members:
            adopt(cast(Method, member), self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        found = super()._apply(fn, recurse)
        self._share()  # a buffer that moves becomes another tensor
        return found

    def _member(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """The member that a batch was drawn for, and the batch as it left it."""
        return self.members[mixed.aux.member], mixed._replace(aux=mixed.aux.aux)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Draw a member, unless ``member`` gives its place, and let it mix."""
        drawn = self.switch.pick(self.config.shares)
        place = decisions.pop("member", drawn)
        self._share()
        mixed = cast(Any, self.members[place]).mix(x, targets, **decisions)
        return mixed._replace(aux=MemberStep(place, mixed.aux))

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Logits of the member."""
        member, own = self._member(mixed)
        logits, after = member.predict(own)
        return logits, after._replace(aux=mixed.aux._replace(aux=after.aux))

    def loss(self, logits: Any, mixed: mf.Mixed) -> Any:
        """The loss of the member; parameters of the others enter it with weight 0."""
        member, own = self._member(mixed)
        terms = member.loss(logits, own)
        others = [p for m in self.members if m is not member for p in m.parameters()]
        # Not left out: under DDP nobody may wait for them, and alone it must be the same.
        idle = sum((0 * p.sum() for p in others if p.requires_grad), start=mixed.x.new_zeros(()))
        if isinstance(terms, dict):
            first = next(iter(terms))
            return terms | {first: terms[first] + idle}
        return terms + idle

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Diagnostics of the member, and its place."""
        member, own = self._member(mixed)
        return member.diagnostics(own) | {"member": own.x.new_full((), mixed.aux.member)}

    def picture(self, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> Sequence[Sheet] | Image.Image:
        """The picture of the member that was drawn, under its name."""
        member, own = self._member(mixed)
        name = self.config.members[mixed.aux.member]
        return under_title(member.picture(x, targets, own), f"This batch is mixed by {name}.")

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor] | None:
        """Pixel weights of the member that was drawn."""
        member, own = self._member(mixed)
        return member.pixel_weights(x, own)

    @property
    def no_mask_reason(self) -> str:
        """Reason of the first member that has one."""
        pairs = zip(self.config.members, cast(Any, self.members), strict=True)
        return next((f"{name}: {m.no_mask_reason}" for name, m in pairs if m.no_mask_reason), "")

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the network, and of each member's own modules."""
        shared = {id(p) for p in self.net.parameters()}
        groups = super().param_groups()
        for member in cast(Any, self.members):
            for group in member.param_groups():
                own = [p for p in group["params"] if id(p) not in shared]
                groups += [group | {"params": own}] if own else []
        return groups

    def after_step(self) -> None:
        """Let all members follow, those too whose batch it was not."""
        self._share()
        for member in cast(Any, self.members):
            member.after_step()

    @property
    def tested(self) -> nn.Module:
        """The network of the member that makes one of its own to be tested, if there is one."""
        return self.net if self.product is None else cast(Method, self.members[self.product]).tested

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (B, C, H, W) in [0, 1] to logits (B, K) of the network that is tested."""
        if self.product is None:
            return super().forward(x)
        return self.members[self.product](x)

    def extra_logits(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of all other heads."""
        found: dict[str, Tensor] = {}
        for member in cast(Any, self.members):
            found |= member.extra_logits(x)
        return found

    def wrap_dataset(self, train_set: Dataset[Any]) -> Dataset[Any]:
        """The training set, as all members can use it."""
        for name, member in zip(self.config.members, cast(Any, self.members), strict=True):
            if member.wrap_dataset(train_set) is not train_set:
                raise UserError(*wrong_dataset(name, list(self.config.members)))
        return train_set
