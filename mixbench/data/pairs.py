"""A training set seen as pairs of images of different classes."""

import torch
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.data.images import Batch, ImageSet
from mixbench.data.sampling import BatchIndex


class OtherClassPairs(Dataset[Batch]):
    """For every row asked for, a random pair of the whole set instead, with replacement.

    A batch of B rows becomes 2B images: the first half holds the first images, the second half
    their partners.

    Args:
        images: The training set.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images, self.labels = images, images.labels.cpu()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: BatchIndex) -> Batch:
        generator = torch.Generator().manual_seed(draw.seed)
        pairs = mf.draw_other_class_pairs(self.labels, len(draw.indices), generator)
        return self.images[BatchIndex(pairs.flatten(), draw.seed, crop_seed=draw.seed)]
