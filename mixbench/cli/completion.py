"""Words that a shell can fill in: ``completion``."""

import argparse
from collections.abc import Iterable
from typing import Any

from mixbench.cli.console import print_result
from mixbench.errors import MixbenchError

# The shell hands over the words up to the cursor, and shows what comes back line by line. Bash
# takes a word apart at "=" and wants what stands behind it.
SCRIPTS = {
    "bash": """_mixbench() {
    local IFS=$'\\n' line cur="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"
    COMPREPLY=()
    for line in $(mixbench completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null); do
        [[ $COMP_WORDBREAKS == *=* && ( $cur == = || $before == = ) ]] && line="${line#*=}"
        COMPREPLY+=("$line")
    done
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _mixbench mixbench""",
    "zsh": """_mixbench() {
    local -a found
    found=("${(@f)$(mixbench completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    (( ${#found} )) && compadd -S '' -a found || _files
}
compdef _mixbench mixbench""",
}
GROUPS = ("method", "data", "net", "recipe")


def completion_command(args: argparse.Namespace) -> int:
    """Print the script for a shell, or the words that the script asks for."""
    if args.shell in SCRIPTS:
        print_result(SCRIPTS[args.shell])
        return 0
    try:
        found = complete(args.parser, args.words)
    except MixbenchError:  # of a damaged file; nothing is filled in
        found = []
    for word in found:
        print_result(word)
    return 0


def complete(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """Words that the last one can become.

    Args:
        parser: The parser of the command line.
        words: Words behind the program's name up to the cursor; the last one may be empty.

    Returns:
        Whole words, sorted.
    """
    words = _joined(words) or [""]
    choices = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
    commands = {name: sub for name, sub in choices.items() if " " not in name}
    *before, last = words
    before = [word for word in before if not word.startswith("-")]
    if not before:
        return _beginning(last, _options(parser) if last.startswith("-") else commands)
    sub = commands.get(before[0])
    if sub is None:
        return []
    if last.startswith("-"):
        return _beginning(last, _options(sub))
    places = [action for action in sub._actions if not action.option_strings]
    if not places:
        return []
    place = places[min(len(before), len(places)) - 1]
    takes_keys = place.dest == "overrides"
    if "=" in last and takes_keys:
        return _values(last)
    found = set(_named(place))
    if takes_keys:
        from mixbench.config.schema import RunConfig
        from mixbench.config.settings import walk

        keys = (key for key, _ in walk(RunConfig) if not key.startswith("method"))
        found |= {f"{key}=" for key in (*GROUPS, *keys)}
    return _beginning(last, found)


def _options(parser: argparse.ArgumentParser) -> list[str]:
    shown = (action for action in parser._actions if action.help != argparse.SUPPRESS)
    return [name for action in shown for name in action.option_strings]


def _joined(words: Iterable[str]) -> list[str]:
    """Words that a shell has taken apart at ``=``, put together again."""
    found: list[str] = []
    behind = False
    for word in words:
        if (word == "=" and found) or behind:
            found[-1] += word
        else:
            found.append(word)
        behind = word == "="
    return found


def _beginning(start: str, words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(start)})


def _values(word: str) -> list[str]:
    """Overrides of one key, a list of names among them."""
    from mixbench.config import yaml_files
    from mixbench.config.names import DATA, METHODS, NETS, SUITES
    from mixbench.config.schema import RunConfig
    from mixbench.config.settings import info_of, walk

    key, _, text = word.partition("=")
    known = {"method": METHODS, "data": DATA, "net": NETS}
    if key in GROUPS:
        names = [*yaml_files.names(key), *(known[key].names() if key in known else [])]
    elif key == "eval.suites":
        names = SUITES.names()
    else:
        items = (item for name, item in walk(RunConfig) if name == key)
        told = next((info_of(item) for item in items), None)
        names = [str(option) for option in told.options or ()] if told else []
    start = f"{key}={text[: text.rfind(',') + 1]}"
    return _beginning(word, (f"{start}{name}" for name in names))


def _named(action: Any) -> Iterable[str]:
    """What can stand in the place of an argument."""
    from mixbench.cli import names
    from mixbench.config import yaml_files
    from mixbench.config.names import METHODS
    from mixbench.leaderboard.plots.kinds import ALL_KINDS
    from mixbench.records.record import RECORD, runs_folder

    if action.choices:
        return action.choices
    word = str(action.metavar).split(" ")[0].rstrip(".")
    if word == "METHOD":
        return METHODS.names()
    if word == "KIND":
        return ALL_KINDS.names()
    if word in ("NAME", "[KIND]"):
        every = (name for group in GROUPS for name in yaml_files.names(group))
        return [*every, *METHODS.names(), *(names.KINDS if word == "[KIND]" else ())]
    if word == "PLAN":
        places = (place / "sweep" for place in yaml_files.folders())
        return [path.stem for place in places for path in place.glob("*.yaml")]
    if word == "RUN":
        return [path.parent.name for path in runs_folder().glob(f"*/{RECORD}")]
    return ()
