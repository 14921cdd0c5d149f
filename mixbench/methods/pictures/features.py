"""Pictures of methods that mix inside the network, written to be a method's ``picture``."""

import copy
import dataclasses
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.alignmix.autoencoder import CLEAN
from mixbench.methods.alignmix.steps import EMBED, Place, forward_aligned
from mixbench.methods.base import Method
from mixbench.methods.pictures.initial import NETWORK, initial_weights
from mixbench.pictures.positions import correspondence, heat, moved, with_grid
from mixbench.pictures.sheet import (
    GREY,
    Drawing,
    Label,
    Panel,
    Row,
    Sheet,
    enlarge,
    label_text,
    mixed_sheet,
    shown_pairs,
)

_OVERLAY = 0.65  # weight of the features over the image


def draw_features(self: Method, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Pairs, and how large their features are before and after they are mixed.

    Args:
        self: A method with ``layers``.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` decided; ``aux`` holds the layer.

    Returns:
        The picture. Where the batch drew the image itself, another layer is shown if there is one.
    """
    layer, notes = _shown_layer(mixed.aux.layer, self.layers)
    if layer == 0:
        return _mixed_images(self, x, targets, mixed, notes)
    # A copy in training mode: normalised with the batch, as in the step that follows, whose own
    # running statistics stay as they are.
    h: Tensor = copy.deepcopy(self.net).forward_stages(x, stop=layer)
    after = mf.manifoldmixup(h, targets, lam=mixed.lam, perm=mixed.perm)
    if h.ndim != 4:
        return _pairs_only(self, x, targets, after, [f"Features of layer {layer} are mixed."])
    sizes, mixed_sizes = (part.float().square().mean(dim=1).sqrt() for part in (h, after.x))
    assert mixed.perm is not None
    pixels, names = self.to_pixels(x), self.info.names

    def rows(own: int, other: int) -> list[Row]:
        maps = torch.stack([sizes[own], sizes[other], mixed_sizes[own]])
        shown = (maps - maps.min()) / (maps.max() - maps.min()).clamp(min=1e-12)
        over = [_over(pixels[row], shown[place]) for place, row in enumerate((own, other))]
        return [
            [
                Panel("image", pixels[own], label_text(targets[own], names)),
                Panel("partner", pixels[other], label_text(targets[other], names)),
                Panel("features of the image", over[0], [f"layer {layer}"]),
                Panel("features of the partner", over[1]),
                Panel("mixed features", heat(shown[2]), _label(after, own, names)),
            ]
        ]

    grid = f"{h.shape[2]}x{h.shape[3]}"
    notes += [
        f"Features of layer {layer} ({h.shape[1]} channels, {grid} positions) are mixed: there is "
        "no mixed image. Colours give the root mean square over the channels, from the lowest "
        "(dark) to the highest (pale) of each row; it falls where the two features disagree.",
        *initial_weights(self, NETWORK),
    ]
    return [Sheet(shown_pairs(mixed.perm), rows, caveats=notes)]


def draw_alignment(self: Method, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Pairs, the plan between their positions, and what it makes of the side that is moved.

    Args:
        self: A method with ``layers`` with the settings of AlignMix.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` decided; ``aux`` is the :class:`Place`.

    Returns:
        The picture. Where the batch drew a layer that does not align, one that does is shown; where
        there is none, what is mixed instead.
    """
    place: Place = mixed.aux
    layer, notes = _shown_layer(place.layer, self.layers)
    if layer in (0, EMBED):
        notes += ["None of method.layers aligns."]
        draw = _mixed_images if layer == 0 else _pairs_only
        return draw(self, x, targets, mixed, notes)
    lam, perm, side = mixed.lam, mixed.perm, place.side
    assert lam is not None
    assert perm is not None
    # A picture needs the plan also where the step can do without.
    settings: Any = dataclasses.replace(self.config, fast_path="none")
    net = copy.deepcopy(self.net)  # see draw_features
    shown = place._replace(layer=layer)
    _, after = forward_aligned(
        net, mf.Mixed(x, targets, lam, perm, shown), settings, self.generator
    )
    grid = tuple(net.eval().forward_stages(x[:1], stop=layer).shape[2:])
    plan = after.aux.plan
    if plan is None:  # positions stay where they are
        plan = torch.eye(grid[0] * grid[1], device=x.device).expand(len(x), -1, -1)
    error, entropy = mf.marginal_error(plan)[0], mf.plan_entropy(plan).abs()  # -0 is 0
    pixels, names = self.to_pixels(x), self.info.names

    def rows(own: int, other: int) -> list[Row]:
        kept, carried = (own, other) if side == 0 else (other, own)
        weights = plan[own] if side == 0 else plan[own].t()
        result = moved(pixels[carried], weights, grid)
        share = lam.expand(len(x))[own] if side == 0 else 1 - lam.expand(len(x))[own]
        layout, found = ("image", "partner") if side == 0 else ("partner", "image")
        return [
            [
                Panel("image", _gridded(pixels[own], grid), label_text(targets[own], names)),
                Panel("partner", _gridded(pixels[other], grid), label_text(targets[other], names)),
                Panel(
                    "matches",
                    partial(correspondence, pixels[kept], pixels[carried], weights, grid),
                    [
                        f"from the {layout} to the {found}",
                        f"layer {layer}, {grid[0]}x{grid[1]} positions, side {side}",
                        f"row error {error[own]:.2f}, plan entropy {entropy[own]:.2f}",
                    ],
                ),
                Panel("moved", result, [f"{found} in the layout of the {layout}"]),
                Panel("mixture", result.lerp(pixels[kept], share), _label(after, own, names)),
            ]
        ]

    legend = [
        "A position of the layout that is kept and what the plan matches to it bear the same "
        "colour; arrows lead to the strongest match.",
        *_without_effect(settings, net, layer, side),
    ]
    notes += [
        "Features are mixed, not pixels: the plan is applied to patches as an illustration.",
        *initial_weights(self, NETWORK),
    ]
    return [Sheet(shown_pairs(perm), rows, legend, notes)]


def _shown_layer(drawn: int | str, layers: Any) -> tuple[Any, list[str]]:
    """The drawn layer if features with positions are mixed there, else the last such layer."""
    deep = [layer for layer in layers if layer not in (0, EMBED)]
    if drawn in (0, EMBED, CLEAN) and deep:
        shown = deep[-1]
    else:
        shown = layers[0] if drawn == CLEAN else drawn
    words = "a clean step" if drawn == CLEAN else f"layer {drawn}"
    notes = [f"This batch drew {words}; the picture shows layer {shown}."]
    return shown, notes if shown != drawn else []


def _without_effect(settings: Any, net: Any, layer: int, side: int) -> list[str]:
    """Sentences about an alignment that average pooling undoes."""
    if layer != len(net.stages) or not isinstance(net.head.norm, torch.nn.Identity):
        return []
    if mf.alignment_cancels(
        side, solver=settings.solver, finalize=settings.finalize, plan=settings.plan
    ):
        return ["Average pooling follows, so that moving positions does not change the logits."]
    return ["Average pooling follows: only the row error of the plan can change the logits."]


def _mixed_images(
    method: Method, x: Tensor, targets: Tensor, mixed: mf.Mixed, notes: list[str]
) -> list[Sheet]:
    after = mf.mixup(x, targets, lam=mixed.lam, perm=mixed.perm)
    shown = after._replace(x=method.to_pixels(after.x))
    return [mixed_sheet(method.to_pixels(x), targets, shown, method.info.names, notes)]


def _pairs_only(
    method: Method, x: Tensor, targets: Tensor, mixed: mf.Mixed, notes: list[str]
) -> list[Sheet]:
    """The ordinary picture with an empty panel in place of a mixed image."""
    assert mixed.lam is not None
    assert mixed.perm is not None
    labels = mf.mix_targets(targets, mixed.perm, mixed.lam)
    pixels = method.to_pixels(x)
    shown = mixed._replace(x=torch.full_like(pixels, GREY), targets=labels)
    notes = [*notes, "There is no mixed image: vectors are mixed."]
    return [mixed_sheet(pixels, targets, shown, method.info.names, notes)]


def _label(mixed: mf.Mixed, row: int, names: list[str]) -> list[Label | str]:
    return label_text(mixed.targets[row], names)


def _gridded(image: Tensor, grid: tuple[int, int]) -> Drawing:
    return lambda cell: with_grid(enlarge(image, cell), grid)


def _over(image: Tensor, values: Tensor) -> Tensor:
    """Features as colours over a grey image."""
    colours = F.interpolate(heat(values)[None], size=image.shape[1:])[0]
    return image.mean(dim=0, keepdim=True).expand_as(image).lerp(colours, _OVERLAY)
