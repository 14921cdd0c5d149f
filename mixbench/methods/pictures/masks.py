"""Pictures of methods whose masks a network draws, written to be a method's ``picture``."""

import copy
from typing import Any

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.methods.pictures.initial import MIXER, initial_weights
from mixbench.pictures.sheet import Panel, Row, Sheet, label_text, shown_pairs

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the image
OWN = "this batch"


def draw_masks(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
    """Pairs, with the mask and the mixed image of several weights, and those of the batch.

    Args:
        self: A method with a ``mixer`` that sees a ``teacher``.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` decided; ``aux.used`` is the mask of the network's images.

    Returns:
        The sheet. Each pair has two rows: the image with the masks, and its partner with the
        mixed images. Masks are those of the whole batch, whose statistics normalise them.
    """
    assert mixed.perm is not None
    assert mixed.lam is not None
    mixer = copy.deepcopy(self.mixer)  # in the mode of the step, whose statistics stay as they are
    mixer.dropout = 0.0  # what it has learned, without noise
    shared = mixer.share(copy.deepcopy(self.teacher).features(x, self.layer))
    columns = []
    for weight in WEIGHTS:
        lam = torch.tensor([weight])
        mask = mixer.draw(shared, lam, mixed.perm, x.shape[2:])
        made = mf.maskmix(x, targets, mask=mask, lam=lam, perm=mixed.perm)
        title = f"weight {weight:.2f}"
        columns.append((title, weight, mask, self.to_pixels(made.x), made.targets))
    own = mf.mix_targets(targets, mixed.perm, mixed.lam)
    used = mixed.aux.used.expand(len(x), -1, -1, -1)
    columns.append((OWN, float(mixed.lam[0]), used, self.to_pixels(mixed.x), own))
    pixels, names = self.to_pixels(x), self.info.names

    def rows(own: int, other: int) -> list[Row]:
        upper = [Panel("image / partner", pixels[own], label_text(targets[own], names))]
        lower = [Panel("", pixels[other], label_text(targets[other], names))]
        for title, lam, masks, images, labels in columns:
            mask = masks[own]
            text = [f"weight {lam:.2f}"] if title == OWN else []
            text += [f"mean {mask.mean():.2f}", f"deviation {mask.std(correction=0):.2f}"]
            upper.append(Panel(title, mask.expand(3, -1, -1), text))
            lower.append(Panel("", images[own], label_text(labels[own], names)))
        return [upper, lower]

    notes = [
        "Masks are white where the image stays and black where its partner shows. The mixer is "
        f"asked for each weight; weights within {self.config.lam_margin:g} of 0 or 1 train the "
        "network on plain mixtures instead, which only the last column shows."
    ]
    if torch.equal(columns[0][2], columns[len(WEIGHTS) - 1][2]):
        notes.append("This mixer is not told the weight: its masks are the same for all.")
    caveats = [] if self.frozen else initial_weights(self, MIXER)
    return [Sheet(shown_pairs(mixed.perm), rows, notes, caveats)]
