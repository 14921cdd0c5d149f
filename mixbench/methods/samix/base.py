"""Base of AutoMix and SAMix: a mixer that is trained along with the network, and a teacher."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.backbones.base import pick_layers
from mixbench.errors import UserError
from mixbench.methods.base import Method
from mixbench.methods.pictures.masks import draw_masks
from mixbench.methods.samix.config import SAMixConfig
from mixbench.nn.mixer import Mixer, SharedProjections
from mixbench.nn.schedules import anneal, cosine_decay, warm_decay
from mixbench.nn.teacher import Teacher, freeze, second_head
from mixbench.records.checkpoints import check_shapes, read_checkpoint
from mixbench.records.weights import weights_file

CLEAN, MIX, MIXER, MASK = "clean", "mix", "mixer", "mask"  # terms of the loss; not MASK: passes


class MixerStep(NamedTuple):
    """Record of a step: the images (B, C, H, W) before mixing, and how its mixer learns.

    ``mixed`` are the images that train the mixer, with their own weight and partners; ``mask``
    (B, 1, H, W) made them and holds the graph; ``learn`` is 0 in a step whose losses of the mixer
    do not count. A frozen mixer has none of them. ``used`` (B or 1, 1, H, W) mixed for the network.
    """

    x: Tensor
    mixed: mf.Mixed | None = None
    mask: Tensor | None = None
    learn: float = 1.0
    used: Tensor | None = None


class LearnedMixMethod(Method, ABC):
    """Base of methods whose masks come from a network that is trained along.

    A step mixes twice. The images of one mask train the network, those of the other the mixer,
    through a frozen copy of the network that follows it: the teacher. The mixer sees the teacher's
    features of the clean images, and the teacher with its head for them is what is tested. Its
    other head, and those of the network, are logged beside it. With ``mixer_ckpt`` mixer and
    teacher stay as another run left them, and the network itself is tested.
    """

    Config: Any = SAMixConfig
    cost = 3.0
    files = ("mixer_ckpt",)
    picture = draw_masks

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.layer = pick_layers(net, [self.config.layer], "method.layer")[0]
        if not net.provides & {"maps", "tokens"}:
            raise UserError(
                f"the features of {type(net).__name__} are on no grid, which a mask needs",
                "net",
                "use a network that provides maps or tokens",
            )
        self.mix_head = second_head(net.head)
        self.teacher = Teacher(net, self.mix_head)
        self.mixer = self.build_mixer(net.channels[self.layer])
        self.frozen = self.config.mixer_ckpt is not None
        if self.frozen:
            self._load(weights_file(self.config.mixer_ckpt, "method.mixer_ckpt"))

    @abstractmethod
    def build_mixer(self, channels: int) -> Mixer:
        """The mixer for features of so many channels."""

    def _load(self, path: Path) -> None:
        saved = read_checkpoint(path)["state_dict"]
        for name in ("mixer", "teacher"):
            part, start = getattr(self, name), f"{name}."
            found = {k.removeprefix(start): v for k, v in saved.items() if k.startswith(start)}
            if not found:
                wanted = ", ".join(start + key for key in list(part.state_dict())[:3])
                raise UserError(
                    f"{path.name} holds no {name}: {wanted} and more are missing",
                    f"method.mixer_ckpt={path}",
                    "give the last.ckpt of a run of this method",
                )
            check_shapes(path, found, part.state_dict())
            part.load_state_dict(found)
            freeze(part)
        self.train(self.training)

    def train(self, mode: bool = True) -> "LearnedMixMethod":
        """Set the mode of all parts; frozen ones that use running statistics stay in eval mode."""
        super().train(mode)
        if self.frozen and self.config.mixer_bn == "running":
            self.teacher.eval()
            self.mixer.eval()
        return self

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Mix for the network and for the mixer; missing decisions are drawn.

        ``lam`` and ``perm`` are the network's, ``lam_mixer`` and ``perm_mixer`` the mixer's;
        ``adjust`` rescales the network's masks, and ``learn`` counts the mixer's losses.
        """
        use = self._draw(len(x)) | {k: v for k, v in decisions.items() if v is not None}
        shared, size = self.share(x), x.shape[2:]
        labels, state = {CLEAN: targets}, MixerStep(x)
        if not self.frozen:  # in front, as both write down their statistics
            pair = {"lam": use["lam_mixer"], "perm": use["perm_mixer"]}
            mask = self.mixer.draw(shared, **pair, size=size, generator=self.generator)
            made = mf.maskmix(x, targets, mask=mask, **pair)
            labels[MIXER], state = made.targets, MixerStep(x, made, mask, float(use["learn"]))
        with torch.no_grad():
            pair = {"lam": use["lam"], "perm": use["perm"]}
            mask = self.mixer.draw(shared, **pair, size=size, generator=self.generator)
            if self.step == 0 and not mask.isfinite().all():
                raise ValueError("a mask of step 0 holds NaN or infinity; the features do, too")
            if use["adjust"]:
                bug = self.config.official_bugs
                mask = mf.adjust_mask(mask, use["lam_mixer"] if bug else use["lam"])
            mask = self._near_ends(mask, use["lam"])
            mixed = mf.maskmix(x, targets, mask=mask, **pair)
        labels[MIX] = mixed.targets
        return mixed._replace(targets=labels, aux=state._replace(used=mask))

    def share(self, x: Tensor) -> SharedProjections:
        """Features of images (B, C, H, W) for the mixer, before it knows weight and partners."""
        x = x.to(self.mixer.query.weight.dtype)
        return self.mixer.share(self.teacher.features(x, self.layer))

    def _draw(self, batch: int) -> dict[str, Any]:
        cfg = self.config
        drawn: dict[str, Any] = {}
        for suffix in ("", "_mixer"):
            drawn[f"lam{suffix}"] = mf.draw_lam(1, cfg.alpha, self.generator)
            drawn[f"perm{suffix}"] = mf.draw_perm(batch, self.generator)
        drawn["adjust"] = self.switch.on(cfg.mask_adjust)
        return drawn | {"learn": self.switch.on(cfg.switch_off)}

    def _near_ends(self, mask: Tensor, lam: Tensor) -> Tensor:
        """The weight itself as mask where it is near 0 or 1, which is Input Mixup."""
        lam = lam.to(mask.device, mask.dtype, non_blocking=True).reshape(-1, 1, 1, 1)
        near = torch.minimum(lam, 1 - lam) <= self.config.lam_margin
        return torch.where(near, lam, mask)

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """The mask of the images that train the network."""
        mask = mixed.aux.used[:, 0]
        return mask, 1 - mask

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Logits of clean and mixed images from the network, of the mixer's from the teacher."""
        state: MixerStep = mixed.aux
        net = cast(Any, self.net)
        # Apart, as clean and mixed images have other statistics of the batch.
        logits = {CLEAN: net(state.x), MIX: self.mix_head(net.forward_stages(mixed.x))}
        if state.mixed is not None:
            h = self.teacher.net.forward_stages(state.mixed.x)
            logits[MIXER] = self.teacher.mix_head(h)
        return logits, mixed

    def loss(self, logits: Any, mixed: mf.Mixed) -> Any:
        """Cross-entropies of clean and mixed images, and both losses of the mixer."""
        cfg, state, targets = self.config, mixed.aux, mixed.targets
        terms: Any = super().loss({key: logits[key] for key in (CLEAN, MIX)}, mixed)
        if state.mixed is not None and state.mask is not None:
            weight = cfg.mask_weight * anneal(self.step, self.total_steps, cfg.mask_anneal)
            form: Any = {"mode": cfg.mask_loss, "margin": cfg.mask_margin, "lam": state.mixed.lam}
            terms[MIXER] = self._mixer_loss(logits[MIXER], targets[CLEAN], state.mixed)
            terms[MASK] = weight * mf.mask_loss(state.mask, **form)
            for key in (MIXER, MASK):  # weighed and not left out: under DDP nobody waits for them
                terms[key] = state.learn * terms[key]
        return terms

    def _mixer_loss(self, logits: Tensor, own: Tensor, mixed: mf.Mixed) -> Tensor:
        cfg = self.config
        if cfg.mixer_loss == "bce_eta":
            floor = self.run.optim.label_smoothing / self.info.num_classes
            return mf.eta_binary_cross_entropy(logits, mixed.targets, cfg.eta, floor=floor)
        if cfg.mixer_loss == "pair_eta":
            pair: Any = {"perm": mixed.perm, "lam": mixed.lam}
            return mf.pair_cross_entropy(logits, mixed.targets, own, eta=cfg.eta, **pair)
        return cast(Tensor, super().loss(logits, mixed))

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also mean, variance and error of the area of the mask that trains the mixer."""
        state: MixerStep = mixed.aux
        figures = super().diagnostics(mixed)
        if state.mask is None or state.mixed is None or state.mixed.lam is None:
            return figures
        mean, variance = state.mask.mean(), state.mask.var(correction=0)
        error = (mean - state.mixed.lam.mean()).abs()
        return figures | {"mask_mean": mean, "mask_variance": variance, "area_error": error}

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the network and its second head, and of the mixer at its own rate."""
        cfg = self.config
        own = {"lr": cfg.mixer_lr, "min_lr": cfg.mixer_min_lr, "momentum": cfg.mixer_momentum}
        groups = super().param_groups() + self.groups_of(self.mix_head)
        return groups + self.groups_of(self.mixer, **own)

    def after_step(self) -> None:
        """Let the teacher follow."""
        if self.frozen:
            return
        cfg, done = self.config, self.step - 1
        decay = cosine_decay(done, self.total_steps, cfg.ema, cfg.ema_end, cfg.ema_hold)
        decay = warm_decay(decay, done) if cfg.ema_warmup else decay
        self.teacher.update(self.net, self.mix_head, decay)

    @property
    def tested(self) -> nn.Module:
        """The teacher's network, unless it is another run's."""
        return self.net if self.frozen else self.teacher.net

    def extra_logits(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of the three other heads: of the teacher (k) and of the network (q)."""
        x, net = self._layout(self.normalize(x)), cast(Any, self.net)
        h = net.forward_stages(x)
        if self.frozen:
            return {"q_mix": self.mix_head(h)}
        k_mix = self.teacher.mix_head(self.teacher.net.forward_stages(x))
        return {"k_mix": k_mix, "q_one": net.head(h), "q_mix": self.mix_head(h)}
