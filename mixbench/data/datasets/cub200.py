"""CUB-200-2011: 200 kinds of birds, 5,994 training and 5,794 test photographs with one box each.

Wah et al., California Institute of Technology, CNS-TR-2011-001.
"""

import torch

from mixbench.data.datasets.original import OfficialFile, OriginalSource
from mixbench.data.files.archive import Files
from mixbench.data.files.encoded import Part
from mixbench.data.images import Stats
from mixbench.errors import UserError


class Cub200(OriginalSource):
    """``data=cub200 [data.root=CUB_200_2011.tgz]``."""

    official_files = (
        OfficialFile(
            "CUB_200_2011.tgz",
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "97eceeb196236b17998738112f37df78",
        ),
    )
    top, marker = "CUB_200_2011", "train_test_split.txt"
    layout = (
        "CUB_200_2011/{images.txt, classes.txt, image_class_labels.txt, train_test_split.txt, "
        "bounding_boxes.txt, images/<class>/*.jpg}"
    )
    constants = Stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # of ImageNet, as papers do

    def parts(self) -> tuple[Part, Part, list[str]]:
        """Both parts in the order of ``images.txt``, and the names without their numbers."""
        files, base = self.locate(self.marker)
        images = _table(files, f"{base}images.txt", 1)
        labels = _table(files, f"{base}image_class_labels.txt", 1)
        in_train = _table(files, f"{base}train_test_split.txt", 1)
        boxes = _table(files, f"{base}bounding_boxes.txt", 4)
        classes = _table(files, f"{base}classes.txt", 1)
        for name, table in (("labels", labels), ("train_test_split", in_train), ("boxes", boxes)):
            if table.keys() != images.keys():
                lost = sorted(images.keys() ^ table.keys())[:5]
                raise UserError(
                    f"images.txt and {name} differ in the images {', '.join(lost)}", str(files.root)
                )
        index = {number: label for label, number in enumerate(classes)}
        parts = []
        for wanted in ("1", "0"):
            rows = [number for number in images if in_train[number] == [wanted]]
            parts.append(_part(files, base, rows, images, labels, boxes, index))
        parts[0].unused.update(self.unused)
        names = [words[0].partition(".")[2] or words[0] for words in classes.values()]
        return parts[0], parts[1], [name.replace("_", " ") for name in names]


def _table(files: Files, name: str, columns: int) -> dict[str, list[str]]:
    """Words of each line by the number that it begins with."""
    table = {}
    for number, line in enumerate(files.text(name), 1):
        key, *words = line.split()
        if len(words) != columns:
            raise UserError(
                f"{len(words)} words behind the number, expected {columns}",
                f"{files.root}, {name}:{number}",
            )
        table[key] = words
    return table


def _part(
    files: Files,
    base: str,
    rows: list[str],
    images: dict[str, list[str]],
    labels: dict[str, list[str]],
    boxes: dict[str, list[str]],
    index: dict[str, int],
) -> Part:
    names = [f"{base}images/{images[number][0]}" for number in rows]
    try:
        y = [index[labels[number][0]] for number in rows]
        x = torch.tensor([[float(word) for word in boxes[number]] for number in rows])
    except (KeyError, ValueError) as error:
        raise UserError(f"a class or a box is not understood: {error}", str(files.root)) from error
    if not rows:
        raise UserError(
            "train_test_split.txt leaves the training or the test images empty",
            str(files.root),
            "get the original again",
        )
    left, top, width, height = x.unbind(1)
    corners = torch.stack([torch.tensor(y).float(), top, left, top + height, left + width], dim=1)
    return Part(names, lambda row: files.image(names[row]), torch.tensor(y), corners[:, None])
