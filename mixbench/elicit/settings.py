"""Settings of a study: what is shown to how many, and how it is asked."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from mixbench.errors import UserError, near_match

JUDGING_TASKS = {
    "infer": "say how much of each class a mixed image shows",
    "construct": "move a mixed image to the point where it shows as much of one as of the other",
    "select": "choose among 11 mixed images the one that shows as much of one as of the other",
    "categorical": "name the classes in a mixed image without being told which were mixed",
}
MIDPOINT_TASKS = ("construct", "select")
PERSPECTIVES = ("you", "others")
UPSCALINGS = ("nearest", "lanczos")
SHOWN_SPLITS = ("train", "test")
WEIGHTS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the first image, each as often as the others
WEIGHT_STEPS = 11  # weights 0, 0.1, ..., 1 of a pair in the tasks that look for its midpoint
STARTS = (0.1, 0.9)
USUAL_TRIALS = 60  # of a person, without repeats and checks
MOST_IMAGES = 20_000
MOST_CLASSES = 100  # that a person can be asked to choose from


@dataclass(frozen=True)
class StudySettings:
    """What makes two studies comparable; none of it can change once a study has begun.

    Attributes:
        task: One of :data:`JUDGING_TASKS`.
        images: Stimuli: mixed images, or pairs where a task shows all weights of a pair.
        trials: Stimuli that one person judges, without repeats and checks.
        perspective: ``you``, or ``others``: what 100 other people would say.
        interval: Also ask for the least and the greatest weight that are possible.
        upscaling: How an image is enlarged.
        split: Part of the data that images are taken from.
        consent: Text that a person agrees to.
        config: Data, network, method and seed, as they were resolved.
    """

    task: str = "infer"
    images: int = 60
    trials: int = 60
    perspective: str = "others"
    interval: bool = False
    upscaling: str = "nearest"
    split: str = "train"
    consent: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choices = {
            "task": tuple(JUDGING_TASKS),
            "perspective": PERSPECTIVES,
            "upscaling": UPSCALINGS,
            "split": SHOWN_SPLITS,
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                hint = near_match(str(value), known)
                todo = f"choose {', '.join(known)}" + (f"; {hint}" if hint else "")
                raise UserError(f"unknown {name} {value!r}", f"--{name}", todo)
        if not 1 <= self.images <= MOST_IMAGES:
            todo = f"choose 1 to {MOST_IMAGES:,}"
            raise UserError(f"a study cannot have {self.images} images", "--images", todo)
        if not 1 <= self.trials <= self.images:
            todo = f"choose 1 to {self.images}, the number of --images"
            raise UserError(
                f"one person cannot judge {self.trials} of the images", "--trials", todo
            )
        if self.interval and self.task != "infer":
            todo = "leave --interval out, or choose --task infer"
            raise UserError(f"the task {self.task} asks for no weight", "--interval", todo)

    @property
    def repeats(self) -> int:
        """Stimuli that a person judges twice: about one in 30, none in less than 20."""
        return round(self.trials / 30) if self.trials >= 20 else 0

    def to_json(self) -> str:
        """The settings as text, from which :meth:`from_json` makes them again."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "StudySettings":
        """The settings of :meth:`to_json`."""
        return cls(**json.loads(text))

    def differences(self, other: "StudySettings") -> list[str]:
        """Settings in which another study differs, each in a few words.

        Args:
            other: What is asked for.

        Returns:
            Such as ``task is infer, not select``; empty where the two are equal.
        """
        found = []
        for item in dataclasses.fields(self):
            own, asked = getattr(self, item.name), getattr(other, item.name)
            if own == asked:
                continue
            if item.name == "consent":
                found.append("its consent text is another one")
            elif item.name == "config":
                found += _different_keys(own, asked)
            else:
                found.append(f"{item.name} is {_shown(own)}, not {_shown(asked)}")
        return found


def _different_keys(own: Any, asked: Any, prefix: str = "") -> list[str]:
    found = []
    for key in sorted(own.keys() | asked.keys()):
        one, other = own.get(key), asked.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _different_keys(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key} is {_shown(one)}, not {_shown(other)}")
    return found


def _shown(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
