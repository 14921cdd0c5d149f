"""Words of sentences that depend on a number."""


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    Args:
        number: How many.
        noun: In the singular; its plural ends in s, or in es after an s.

    Returns:
        Such as ``1 image``, ``1,000 images`` and ``3 classes``.
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
