"""From the words of a command to a race that can go on."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mixbench.config.compose import compose_text
from mixbench.config.overrides import COMMAND_LINE, split_overrides
from mixbench.errors import UserError, counted
from mixbench.launch.local import LocalLauncher
from mixbench.launch.plan import PlannedRun, expand
from mixbench.launch.slurm import SlurmLauncher
from mixbench.race.budget import (
    FEWEST_TESTED,
    LATER,
    first_budget,
    parse_time,
)
from mixbench.race.defaults import RACED
from mixbench.race.facts import RaceFacts, race_facts
from mixbench.race.halving import PLAIN
from mixbench.race.levels import LookLevels
from mixbench.race.runs import SELECTION, TIMING_SEED, fold_words, race_id, run_words
from mixbench.race.state import RACE, RaceState, read_race
from mixbench.race.view import DECIDED_VIEW
from mixbench.records.record import environment, read_record, runs_folder

# Keys of runs that a race decides itself, and why they may not be given.
DECIDED = {
    "seed": "a race gives every run its seed",
    "seeds": "a race gives every run its seed",
    "select": "a race trains to the last epoch and chooses on its own folds",
    "peek": "a race reads no test score before its last run has ended",
    "data.race_fold": "a race holds out one fold after the other",
}
LOGGER = "a race is shown in W&B alone, which keeps test scores back until its last run has ended"
ONE_OF = ("data", "net", "recipe")


@dataclass
class RaceRequest:
    """What a command asks for.

    Attributes:
        words: Overrides of runs.
        arm_words: Those of the runs of each method, plain training first.
        optional: Methods that nobody asked for by name.
        budget: The time; None to go on with what a race was given.
        part: Share of it for selection; None for the default, or what a race was begun with.
        jobs: Runs beside each other; None for as many as there is room for.
        confirm: ``now`` or ``later``; None for the default, or what a race was begun with.
        reopen: Whether selection is to go on after a look.
        strict: Refuse keys that have no effect.
        view: Overrides that show its runs in W&B; none where there is no view.
        added_plain: Whether plain training was added to the methods that were named.
    """

    words: list[str]
    arm_words: dict[str, list[str]]
    optional: set[str]
    budget: str | None = None
    part: float | None = None
    jobs: int | None = None
    confirm: str | None = None
    reopen: bool = False
    strict: bool = False
    view: list[str] = field(default_factory=list)
    added_plain: bool = False


@dataclass
class OpenedRace:
    """A race and the places of its files.

    Attributes:
        state: The race.
        folder: Folder of all runs.
        levels: Counts looks at its test set.
        jobs: Runs beside each other.
        is_new: Whether nothing of it is written yet.
        facts: Facts of its data.
        notes: What a reader should know before it starts, as sentences.
    """

    state: RaceState
    folder: Path
    levels: LookLevels
    jobs: int
    is_new: bool
    facts: RaceFacts
    notes: list[str] = field(default_factory=list)


def parse_request(overrides: list[str], *, strict: bool = False) -> RaceRequest:
    """Read the words of a command, as far as that needs no torch.

    Args:
        overrides: Overrides of runs; ``method`` takes several names or ``all``; and ``budget``,
            ``part``, ``jobs``, ``confirm`` and ``reopen``.
        strict: Refuse keys that have no effect.

    Returns:
        What is asked for.

    Raises:
        UserError: On an unknown name, a bad value, or a key that a race decides itself.
    """
    own: dict[str, str] = {}
    words: list[str] = []
    view: dict[str, str] = {}
    for key, text in split_overrides(overrides):
        if key in ("budget", "part", "jobs", "confirm", "reopen"):
            if key in own:
                raise UserError(f"{key} is given twice", COMMAND_LINE, f"give {key} once")
            own[key] = text
            continue
        if key in DECIDED:
            raise UserError(DECIDED[key], f"{COMMAND_LINE}, {key}", f"leave {key} out")
        if key in DECIDED_VIEW:
            raise UserError(DECIDED_VIEW[key], f"{COMMAND_LINE}, {key}", f"leave {key} out")
        if key == "logger" or key.startswith("wandb."):
            view[key] = text
            continue
        if key in ONE_OF and "," in text:
            raise UserError(
                f"a race has one {key}, and {key}={text} names several",
                COMMAND_LINE,
                "start a race for each",
            )
        words.append(f"{key}={text}")
    if "budget" in own:
        parse_time(own["budget"])
    methods = next((word for word in reversed(words) if word.startswith("method=")), None)
    rest = [word for word in words if not word.startswith("method=")]
    shared = ["logger=none"]
    if not any(word.startswith("eval.suites=") for word in rest):
        shared.append("eval.suites=[]")  # a race scores one thing, and time is short
    named = (methods or f"method={','.join(RACED)}").partition("=")[2]
    added = named != "all" and PLAIN not in [name.strip() for name in named.split(",")]
    if added:
        named = f"{PLAIN},{named}"
    runs = expand([*rest, *shared, f"method={named}", "seeds=0"], strict=strict)
    arm_words = {}
    for run in runs:
        (name,) = [w.partition("=")[2] for w in run.words if w.startswith("method=")]
        if name in arm_words:  # a run for each fold
            raise UserError(
                "data.folds does not say which fold is the test set of the race",
                "data.fold",
                "give data.fold=0, or leave data.folds out: a race holds out folds of its own",
            )
        arm_words[name] = [w for w in run.words if not w.startswith(("seed=", "run.dir="))]
    arm_words = {PLAIN: arm_words[PLAIN]} | arm_words
    return RaceRequest(
        words,
        arm_words,
        set(arm_words) - {PLAIN} if methods is None or named == "all" else set(),
        own.get("budget"),
        _part(own.get("part")),
        _jobs(own.get("jobs")),
        _one_of(own.get("confirm"), "confirm", ("now", LATER)),
        _one_of(own.get("reopen"), "reopen", ("true", "false")) == "true",
        strict,
        _view(view),
        added and methods is not None,
    )


def open_race(
    request: RaceRequest,
    launcher: LocalLauncher,
    read: Callable[[Path], RaceState | None],
    cluster: SlurmLauncher | None = None,
) -> OpenedRace:
    """Find the race that a command means, or plan it.

    Args:
        request: What is asked for.
        launcher: Of this machine, which reads the data.
        cluster: What carries out the runs in its place.
        read: Reads the race of a folder, if there is one.

    Returns:
        The race; nothing is written yet.

    Raises:
        UserError: If the data do not fit, or the time does not reach.
    """
    config = compose_text(request.arm_words[PLAIN]).config
    if config.select != "last":
        raise UserError(
            f"recipe={config.recipe} has select={config.select}, and {DECIDED['select']}",
            "recipe",
            "use another recipe",
        )
    run_dir = next((w for w in reversed(request.words) if w.startswith("run.dir=")), "run.dir=")
    folder = runs_folder(compose_text([run_dir]).config.run.dir if run_dir != "run.dir=" else None)
    if request.budget is None and not any(folder.glob(f"race-*/{RACE}")):
        raise _no_budget()
    others = {name: words for name, words in request.arm_words.items() if name != PLAIN}
    plain = request.arm_words[PLAIN]
    if cluster is not None and request.jobs is None:
        raise UserError(
            "the number of runs that the cluster carries out at a time is not known",
            "--launcher slurm",
            "write jobs=8, say: what a time buys depends on it",
        )
    facts = launcher.ask(race_facts, plain, others, request.optional, request.strict)
    name = race_id(facts.data, config.net.name, facts.recipe_hash, request.arm_words)
    levels = LookLevels(folder, facts.test_hash, facts.question)
    jobs = request.jobs or facts.places
    notes = [f"warning: {note}" for note in facts.notes]
    if cluster is None and facts.places < jobs:
        jobs = facts.places
        notes.append(
            f"this machine has room for {counted(facts.places, 'run')} at a time: jobs={jobs}"
        )
    state = read(folder / name)
    if state is not None:
        _check_same(request, state)
        return OpenedRace(state, folder, levels, jobs, False, facts, notes)
    if request.budget is None:
        raise _no_budget()
    if request.reopen:
        raise UserError(
            "there is no such race yet, so it cannot be reopened", "reopen=true", "leave it out"
        )
    arms = {
        name: [*own, *facts.set_aside]
        for name, own in request.arm_words.items()
        if name not in facts.refused
    }
    runs = _timed_runs(arms, request, folder / name / SELECTION, facts)
    timed = (cluster or launcher).measure(runs, jobs, facts.gpus, folder)
    seconds = _seconds(arms, request.optional, runs, timed)
    state = _new_state(request, name, facts, arms, seconds, jobs)
    state.notes += _notes(request, state, facts, folder, levels)
    return OpenedRace(state, folder, levels, jobs, True, facts, notes)


def _no_budget() -> UserError:
    return UserError("no budget is given", "race", "write budget=4h or budget=30min")


def _new_state(
    request: RaceRequest,
    name: str,
    facts: RaceFacts,
    arms: dict[str, list[str]],
    seconds: dict[str, float],
    jobs: int,
) -> RaceState:
    """The race with its first budget."""
    # A run that holds a fold out trains on fewer images than one of plain training on all.
    plain_s = seconds[PLAIN] * facts.train_images / (facts.train_images - facts.fold_images)
    costs = {each: value / seconds[PLAIN] for each, value in seconds.items()}
    confirm = request.confirm or "now"
    if facts.test_images < FEWEST_TESTED:
        confirm = LATER
    part = 1.0 if confirm == LATER else request.part or 0.5
    assert request.budget is not None
    budget, raced, left_out = first_budget(
        request.budget, costs, plain_s, jobs, part, facts.test_images
    )
    left_out |= facts.refused
    left_out |= {
        each: "a few steps of it could not be carried out" for each in arms if each not in seconds
    }
    known = environment()
    return RaceState(
        id=name,
        data=facts.data,
        hashes={
            "data": facts.data_hash,
            "test": facts.test_hash,
            "recipe": facts.recipe_hash,
            "question": facts.question,
        },
        words=request.words,
        score=facts.score,
        folds=facts.folds,
        fold_images=facts.fold_images,
        train_images=facts.train_images,
        test_images=facts.test_images,
        plain_s=plain_s,
        costs=raced,
        arm_words={each: arms[each] for each in raced},
        left_out=left_out,
        left_costs={each: costs[each] for each in left_out if each in costs},
        part=part,
        confirm=confirm,
        budgets=[budget],
        looks_wanted=int(confirm == "now"),
        versions=known["versions"] | {"commit": known["commit"]},
    )


def _timed_runs(
    arms: dict[str, list[str]], request: RaceRequest, folder: Path, facts: RaceFacts
) -> list[PlannedRun]:
    """A run of each method on a part of the folds, and one in front that is not counted.

    The first fold stands in place of the test set, of which no image is looked at.
    """
    fold, other = (fold_words(number, facts.folds) for number in (0, 1))
    plain = run_words(arms[PLAIN], folder, TIMING_SEED)
    first = PlannedRun([*plain, *other])  # pays for what a process does once
    return [first] + [
        PlannedRun(
            [*run_words(words, folder, TIMING_SEED), *fold, *request.view],
            optional=name in request.optional,
        )
        for name, words in arms.items()
    ]


def _seconds(
    arms: dict[str, list[str]],
    optional: set[str],
    runs: list[PlannedRun],
    timed: list[list[PlannedRun]],
) -> dict[str, float]:
    """Seconds of a run of each method, the mean of all that were timed beside each other."""
    found: dict[str, float] = {}
    for name, asked in zip(arms, runs[1:], strict=True):
        times = [
            run.seconds
            for each in timed
            for run in each
            if run.words == asked.words and run.seconds
        ]
        if len(times) == len(timed):
            found[name] = sum(times) / len(times)
        elif name not in optional:
            raise UserError(
                f"a few steps of {name} could not be carried out, so that its time is not known",
                f"method={name}",
                f"mixbench run method={name} ... shows the error; correct it, or leave {name} out",
            )
    return found


def _notes(
    request: RaceRequest, state: RaceState, facts: RaceFacts, folder: Path, levels: LookLevels
) -> list[str]:
    """What a reader of the result should know, as sentences."""
    notes = []
    if request.added_plain:
        notes.append("Plain training (erm) is raced too: it is what a gain is measured against.")
    if facts.division:
        notes.append(
            f"There are no test images of their own: {facts.test_images:,} of "
            f"{facts.test_images + facts.train_images:,} images are set aside to confirm what is "
            f"chosen ({facts.division})."
        )
    if facts.score == "balanced":
        notes.append(
            "The largest class has at least 3 times the training images of the smallest: the score "
            "is balanced accuracy, whose noise is that of the rarest class with its "
            f"{counted(facts.rarest_tested, 'test image')}."
        )
    if facts.test_images < FEWEST_TESTED:
        notes.append(
            f"There are {facts.test_images} test images, and under {FEWEST_TESTED} no gain is "
            "claimed: the race only chooses, as with confirm=later."
        )
    if earlier := _tested_before(folder, facts.data_hash, set(state.costs)):
        notes.append(
            f"{counted(earlier, 'run')} of these methods in {folder} were tested on this data "
            "before: if they led to this list of methods, the gain will be optimistic."
        )
    notes += [
        f"{other} was begun with the same words on other data or by another version; this is a "
        "race of its own."
        for other in _same_words(folder, request.words, state.id)
    ]
    if seen := [race for race in levels.races() if race != state.id]:
        notes.append(
            f"{counted(len(seen), 'race')} looked at this test set before; races on the same "
            "network and recipe go on with the next smaller level."
        )
    return notes


def _same_words(folder: Path, words: list[str], own: str) -> list[str]:
    """Other races that were begun with the same words."""
    found = []
    for path in sorted(folder.glob(f"race-*/{RACE}")):
        with suppress(UserError):
            other = read_race(path)
            if other is not None and other.words == words and other.id != own:
                found.append(other.id)
    return found


def _tested_before(folder: Path, data_hash: str, methods: set[str]) -> int:
    """Runs of some methods in a folder that were tested on some data."""
    count = 0
    for path in sorted(folder.glob("*/record.json")) if folder.is_dir() else ():
        try:
            record = read_record(path.parent)
        except UserError:
            continue
        tested = record.status == "done" and record.race_fold is None
        count += tested and record.data_hash == data_hash and record.method in methods
    return count


def _check_same(request: RaceRequest, state: RaceState) -> None:
    """Refuse what a race that has begun cannot change any more."""
    if request.part is not None and request.part != state.part and state.confirm == "now":
        raise UserError(
            f"this race was begun with part={state.part:g}",
            f"part={request.part:g}",
            "leave it out",
        )


def _view(given: dict[str, str]) -> list[str]:
    """Overrides that show runs in W&B, if that is asked for."""
    logger = given.get("logger", "none")
    if logger not in ("wandb", "none"):
        raise UserError(LOGGER, f"{COMMAND_LINE}, logger", "write logger=wandb, or leave it out")
    words = [f"{key}={text}" for key, text in given.items()]
    if logger == "none":
        if others := [key for key in given if key != "logger"]:
            what = f"{others[0]} has no effect, as a race is shown nowhere"
            raise UserError(what, COMMAND_LINE, f"add logger=wandb, or leave {others[0]} out")
        return []
    compose_text(words)  # says what is wrong with a value
    return words


def _part(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        part = float(text)
    except ValueError:
        part = 0.0
    if not 0 < part < 1:
        raise UserError(
            f"part={text} is not a share of the time between 0 and 1",
            COMMAND_LINE,
            "write part=0.5; confirm=later spends all of it on choosing",
        )
    return part


def _jobs(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 0 < int(text) < 10_000:
        raise UserError(f"jobs={text} is not a number of runs", COMMAND_LINE, "write jobs=2")
    return int(text)


def _one_of(text: str | None, key: str, words: tuple[str, ...]) -> str | None:
    if text is not None and text not in words:
        raise UserError(
            f"{key}={text} is neither {words[0]} nor {words[1]}",
            COMMAND_LINE,
            f"write {key}={words[0]} or {key}={words[1]}",
        )
    return text
