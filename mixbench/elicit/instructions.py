"""Words of the page: what a person is asked to do, and three questions about it."""

from typing import NamedTuple

from mixbench.elicit.settings import StudySettings


class Question(NamedTuple):
    """A question about the instructions, its possible answers, and the place of the right one."""

    text: str
    answers: tuple[str, ...]
    right: int


class Instructions(NamedTuple):
    """Paragraphs that explain a task, the line above each trial, and the questions."""

    paragraphs: tuple[str, ...]
    prompt: str
    questions: tuple[Question, ...]


def instructions_of(settings: StudySettings) -> Instructions:
    """Words of a study.

    Args:
        settings: Its settings.

    Returns:
        The words.
    """
    others = settings.perspective == "others"
    whose = (
        "We ask what 100 other people would say of each image, on average, and not what you know "
        "to be true of it."
        if others
        else "We ask what you see yourself. There are no right or wrong impressions."
    )
    seen = "100 other people would see" if others else "you see"
    paragraphs, prompt, own = _TASKS[settings.task](seen, others, settings.interval)
    attention = (
        "Now and then an image shows one of its two classes alone, or you are asked for such a "
        "one. A few images come twice. Please judge each as if it were the first time."
    )
    shared = Question(
        "Whose impression is asked for?",
        ("My own.", "That of 100 other people.", "That of an expert who knows the answer."),
        1 if others else 0,
    )
    return Instructions((*paragraphs, whose, attention), prompt, (*own, shared))


def _infer(seen: str, others: bool, interval: bool) -> tuple[tuple[str, ...], str, list[Question]]:
    del others
    paragraphs = [
        "Each image is a mixture of two images, whose classes are named above it. Some mixtures "
        "show more of one, some more of the other, some both alike.",
        f"With the first slider, say how much of each class {seen}. At its left end the image "
        "shows the first class alone, at its right end the second class alone.",
        "With the other slider, say how sure you are, from not at all at the left to entirely at "
        "the right. Both sliders have to be moved.",
    ]
    if interval:
        paragraphs.insert(
            2,
            "With two further sliders, give the range that you think possible: its left and its "
            "right end. What you said with the first slider lies within it.",
        )
    questions = [
        Question(
            "You see much of the first class and little of the second. Where does the first "
            "slider belong?",
            ("To the left of the middle.", "Into the middle.", "To the right of the middle."),
            0,
        ),
        Question(
            "You cannot tell what an image shows. What do you do with the slider of how sure you "
            "are?",
            ("I leave it alone.", "I move it to the left.", "I move it to the right."),
            1,
        ),
    ]
    return tuple(paragraphs), f"How much of each class do {_subject(seen)} see?", questions


def _construct(
    seen: str, others: bool, interval: bool
) -> tuple[tuple[str, ...], str, list[Question]]:
    del others, interval
    paragraphs = (
        "Each image is a mixture of two images, whose classes are named above it. You can change "
        "the mixture: with the key G, or the button of that name, the image shows more of the "
        "second class; with the key H more of the first.",
        f"Stop where {seen} as much of the one class as of the other. Go beyond that point and "
        "back again if it helps. At least one step is needed.",
    )
    questions = [
        Question(
            "When is a trial done?",
            (
                "When the image looks like the first class.",
                "When it shows as much of both classes.",
                "After ten steps.",
            ),
            1,
        ),
        Question(
            "The image shows too much of the first class. Which key helps?",
            ("G, for more of the second.", "H, for more of the first.", "None."),
            0,
        ),
    ]
    return paragraphs, f"Find the image in which {_subject(seen)} see as much of both.", questions


def _select(seen: str, others: bool, interval: bool) -> tuple[tuple[str, ...], str, list[Question]]:
    del others, interval
    paragraphs = (
        "You see 11 mixtures of the same two images, whose classes are named above them. They "
        "range from one image alone to the other alone, and stand in random order.",
        f"Choose the one in which {seen} as much of the one class as of the other.",
    )
    questions = [
        Question(
            "In which order do the mixtures stand?",
            ("From the first class to the second.", "By brightness.", "In no order."),
            2,
        ),
        Question(
            "Which mixture do you choose?",
            (
                "The one that shows as much of both classes.",
                "The clearest one.",
                "The one in the middle of the page.",
            ),
            0,
        ),
    ]
    return paragraphs, f"In which image do {_subject(seen)} see as much of both?", questions


def _categorical(
    seen: str, others: bool, interval: bool
) -> tuple[tuple[str, ...], str, list[Question]]:
    del interval
    paragraphs = (
        "Each image is a mixture of two images. Their classes are not named.",
        f"Choose the class that {seen} most, and with the slider how probable it is. If another "
        "class is possible, choose it as well and say how probable that one is.",
        "Then mark the classes that are impossible. Classes that you neither choose nor mark count "
        "as possible, but less so.",
    )
    whom = "people" if others else "you"
    questions = [
        Question(
            f"What do you do if {whom} would see one class only?",
            (
                "I choose it and leave the second class out.",
                "I choose it twice.",
                "I mark it as impossible.",
            ),
            0,
        ),
        Question(
            "What does a class count as that you neither choose nor mark?",
            ("Impossible.", "Possible, but less so.", "The most probable."),
            1,
        ),
    ]
    return paragraphs, f"Which classes do {_subject(seen)} see?", questions


def _subject(seen: str) -> str:
    return "you" if seen == "you see" else "100 other people"


_TASKS = {
    "infer": _infer,
    "construct": _construct,
    "select": _select,
    "categorical": _categorical,
}
