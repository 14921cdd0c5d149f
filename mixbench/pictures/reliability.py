"""Reliability diagrams: accuracy against confidence in bins."""

from PIL import Image, ImageDraw
from torch import Tensor

SIDE, MARGIN = 220, 34  # pixels of the square, and around it
BAR, GAP, LINE, INK = "#4c78a8", "#e4a3a3", "#888888", "black"


def reliability_picture(
    counts: Tensor, confidence: Tensor, accuracy: Tensor, title: str = ""
) -> Image.Image:
    """Bars of accuracy, and the gap of each to its confidence.

    Args:
        counts: (bins,) predictions of each bin of equal width.
        confidence: (bins,) their mean confidence.
        accuracy: (bins,) share of them that is right.
        title: A line above.

    Returns:
        The picture; an empty bin has no bar, and the width of a bar shows no count.
    """
    size = SIDE + 2 * MARGIN
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    width = SIDE / len(counts)

    def place(share: float) -> float:
        return MARGIN + SIDE * (1 - share)

    for number, (count, sure, right) in enumerate(
        zip(counts.tolist(), confidence.tolist(), accuracy.tolist(), strict=True)
    ):
        if not count:
            continue
        left, end = MARGIN + number * width, MARGIN + (number + 1) * width - 1
        draw.rectangle([left, place(right), end, MARGIN + SIDE], fill=BAR)
        low, high = sorted((place(sure), place(right)))
        draw.rectangle([left, low, end, high], fill=GAP, outline=LINE)
    draw.line([MARGIN, MARGIN + SIDE, MARGIN + SIDE, MARGIN], fill=LINE)
    draw.rectangle([MARGIN, MARGIN, MARGIN + SIDE, MARGIN + SIDE], outline=INK)
    for share in (0.0, 0.5, 1.0):
        draw.text((MARGIN - 24, place(share) - 6), f"{share:g}", fill=INK)
        draw.text((MARGIN + SIDE * share - 6, MARGIN + SIDE + 4), f"{share:g}", fill=INK)
    draw.text((MARGIN, 4), title, fill=INK)
    draw.text((MARGIN, size - 14), "accuracy (up) by confidence", fill=INK)
    return picture
