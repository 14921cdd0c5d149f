"""Pictures of methods whose masks a network draws, written to be a method's ``picture``."""

import copy
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import mixbench.functional as mf
from mixbench.pictures.sheet import Panel, label_text, sheet, shown_pairs

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the image


def draw_masks(self: Any, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> Image.Image:
    """Pairs, with the mask and the mixed image of several weights, and those of the batch.

    Args:
        self: A method with a ``mixer`` that sees a ``teacher``.
        x: (B, C, H, W) normalised images.
        targets: (B, K) labels.
        mixed: What ``mix`` decided; ``aux.used`` is the mask of the network's images.

    Returns:
        The picture. Each pair has two rows: the image with the masks, and its partner with the
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
        columns.append((f"weight {weight:.2f}", mask, self.to_pixels(made.x), made.targets))
    own = mf.mix_targets(targets, mixed.perm, mixed.lam)
    title = f"this batch: {mixed.lam[0]:.2f}"
    columns.append((title, mixed.aux.used.expand(len(x), -1, -1, -1), self.to_pixels(mixed.x), own))
    pixels, names, rows = self.to_pixels(x), self.info.names, []
    for row, other in shown_pairs(mixed.perm):
        upper = [Panel("image, partner", pixels[row], label_text(targets[row], names))]
        lower = [Panel("", pixels[other], label_text(targets[other], names))]
        for title, masks, images, labels in columns:
            mask = masks[row]
            text = [f"mean {mask.mean():.2f}", f"deviation {mask.std(correction=0):.2f}"]
            upper.append(Panel(title, mask.expand(3, -1, -1), text))
            lower.append(Panel("", images[row], label_text(labels[row], names)))
        rows += [upper, lower]
    notes = [
        "Masks are white where the image stays and black where its partner shows. The mixer is "
        f"asked for each weight; weights within {self.config.lam_margin:g} of 0 or 1 train the "
        "network on plain mixtures instead, which only the last column shows."
    ]
    if torch.equal(columns[0][1], columns[len(WEIGHTS) - 1][1]):
        notes.append("This mixer is not told the weight: its masks are the same for all.")
    return sheet(rows, notes)
