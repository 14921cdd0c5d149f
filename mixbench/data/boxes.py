"""Boxes of objects, brought to what evaluation shows of their images."""

import torch
from torch import Tensor

from mixbench.data.images import Batch, ImageSet
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError


class BoxedImages(ImageSet):
    """A set of images whose batches also hold the boxes of their objects, as evaluation shows them.

    Where the centre of a file is shown, boxes are cut at its border, and those that lie outside of
    it are left out.

    Args:
        images: A set with boxes.

    Raises:
        UserError: If it has none.
    """

    def __init__(self, images: ImageSet) -> None:
        if images.boxes is None:
            raise UserError("the images have no boxes", "data", "use a data set with boxes")
        super().__init__(images.labels, images.boxes)
        self.images = images

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.images.shape

    def __getitem__(self, draw: BatchIndex) -> Batch:
        assert self.boxes is not None
        batch, rows = self.images[draw], draw.indices.cpu()
        return batch._replace(boxes=boxes_shown(self.boxes[rows], self.images.shown(rows)))

    def sample(self) -> Tensor:
        """As the images' own."""
        return self.images.sample()

    def subset(self, rows: Tensor) -> "BoxedImages":
        """The images at ``rows`` (M,), in that order."""
        return BoxedImages(self.images.subset(rows))

    def to(self, device: torch.device) -> "BoxedImages":
        """The images on another device; boxes stay where they are."""
        return BoxedImages(self.images.to(device))


def boxes_shown(boxes: Tensor, extents: Tensor) -> Tensor:
    """Boxes in pixels of their files in the form of :class:`mixbench.data.images.Batch`.

    Args:
        boxes: (B, M, 5) class, top, left, bottom and right, as in
            :class:`mixbench.data.images.ImageSet`.
        extents: (B, 4) the part of its file that each image shows.

    Returns:
        (B, M, 7) float64; rows without an object that can be seen are -1.
    """
    boxes, extents = boxes.double(), extents.double()[:, None]
    corner = extents[..., :2]
    sides = (extents[..., 2:] - corner).expand(*boxes.shape[:2], 2)
    places = (boxes[..., 1:] - corner.repeat(1, 1, 2)).clamp(min=0)
    places = torch.minimum(places, sides.repeat(1, 1, 2))
    seen = (places[..., 2:] > places[..., :2]).all(-1) & (boxes[..., 0] >= 0)
    found = torch.cat([boxes[..., :1], places, sides], dim=-1)
    return torch.where(seen[..., None], found, -torch.ones_like(found))
