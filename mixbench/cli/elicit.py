"""The page on which people judge mixed images: ``elicit`` and what becomes of its studies."""

import argparse
import signal
from pathlib import Path
from typing import Any

from mixbench.cli.console import print_notice, print_result
from mixbench.cli.report import check_output
from mixbench.elicit.settings import (
    JUDGING_TASKS,
    MIDPOINT_TASKS,
    PERSPECTIVES,
    SHOWN_SPLITS,
    UPSCALINGS,
    USUAL_TRIALS,
    StudySettings,
)
from mixbench.errors import UserError, counted

FORMATS = ("hmix", "csv", "parquet")
PARTS = ("export", "report", "consent")  # words behind `elicit` that are commands of their own
STUDY = Path("study.db")
_OPTIONS = ("task", "images", "trials", "perspective", "upscaling", "split")


def join_parts(words: list[str]) -> list[str]:
    """Words of the command line with ``elicit export`` and the like as one word.

    Args:
        words: Words behind the program's name.

    Returns:
        The words.
    """
    if words[:1] == ["elicit"] and words[1:2] and words[1] in PARTS:
        return [f"elicit {words[1]}", *words[2:]]
    return words


def add_elicit(add: Any) -> None:
    """Add the commands.

    Args:
        add: Makes a command of its name, its function, a line of help and the form of overrides.
    """
    usual = StudySettings()
    text = "show mixed images to people on a page of this machine and store what they say"
    page = add("elicit", elicit_command, text, overrides="k=v")
    told = "; ".join(f"{name}: {what}" for name, what in JUDGING_TASKS.items())
    page.add_argument("--task", metavar="TASK", help=f"{told}; the default is {usual.task}")
    text = f"images to judge, or pairs for {' and '.join(MIDPOINT_TASKS)}; the default is "
    page.add_argument("--images", type=int, metavar="N", help=f"{text}{usual.images}")
    text = f"images that one person judges; the default is all, but {USUAL_TRIALS} at most"
    page.add_argument("--trials", type=int, metavar="N", help=text)
    text = (
        f"{' or '.join(PERSPECTIVES)}: what a person sees, or what 100 other people would see; "
        "the default"
    )
    page.add_argument("--perspective", metavar="WHOSE", help=f"{text} is {usual.perspective}")
    text = "also ask for the range that is possible for the weight, in the task infer"
    page.add_argument("--interval", action="store_true", default=None, help=text)
    text = f"{' or '.join(UPSCALINGS)}: how images are enlarged; the default is {usual.upscaling}"
    page.add_argument("--upscaling", metavar="HOW", help=text)
    text = (
        f"{' or '.join(SHOWN_SPLITS)}: part of the data that is shown; the default is {usual.split}"
    )
    page.add_argument("--split", metavar="PART", help=text)
    text = "file or folder of the study, which is continued if it exists; the default is study.db"
    page.add_argument("--out", type=Path, default=STUDY, metavar="STUDY.db", help=text)
    page.add_argument("--port", type=int, default=8765, metavar="N", help="port of the page")
    text = "text that people agree to; needed with --public"
    page.add_argument("--consent", type=Path, metavar="FILE", help=text)
    text = "let other machines reach the page, under this name of the machine"
    page.add_argument("--public", metavar="HOST", help=text)
    text = "write the judgements of a study for other programs, or for method=hmix"
    export = add("elicit export", export_study_command, text)
    export.add_argument("study", type=Path, metavar="STUDY", help="file or folder of the study")
    text = "hmix (a folder, as the release of H-Mix), csv or parquet; the default is hmix"
    export.add_argument("--format", default="hmix", metavar="FORMAT", help=text)
    text = "folder or file to write"
    export.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=text)
    text = "leave out people whose answers the report calls doubtful"
    export.add_argument("--without-doubtful", action="store_true", help=text)
    text = "write a report on the judgements of a study as one HTML page"
    report = add("elicit report", report_study_command, text)
    report.add_argument("study", type=Path, metavar="STUDY", help="file or folder of the study")
    text = "file to write"
    report.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.html", help=text)
    text = "write a consent text to start from"
    consent = add("elicit consent", consent_command, text)
    text = "text file to write"
    consent.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=text)


def elicit_command(args: argparse.Namespace) -> int:
    """Show the page of a study until the command is stopped."""
    from mixbench.elicit.begin import KEPT_PARTS, open_study
    from mixbench.elicit.server import check_server_installed, listen, serve

    check_server_installed()
    config = None
    if args.overrides:
        from mixbench.config.compose import compose
        from mixbench.config.overrides import split_overrides

        keys = [key for key, _ in split_overrides(args.overrides)]
        if idle := [key for key in keys if key.partition(".")[0] not in KEPT_PARTS]:
            todo = f"leave it out; keys of {', '.join(KEPT_PARTS)} can be given"
            raise UserError(f"{idle[0]} has no effect on a study", "elicit", todo)
        words = args.overrides if "method" in keys else ["method=mixup", *args.overrides]
        config = compose(words, strict=args.strict)
    given = {name: getattr(args, name) for name in (*_OPTIONS, "interval")}
    options = {name: value for name, value in given.items() if value is not None}
    public = args.public is not None
    listener = listen(args.port, public)
    try:
        study, begun = open_study(args.out, config, options, args.consent, public=public)
        try:
            stimuli = sum(not facts["is_check"] for facts in study.stimuli().values())
            found = counted(stimuli, "stimulus").replace("stimuluses", "stimuli")
            print_result(f"{'begun' if begun else 'continued'}: {study.path}, {found}")
            port = listener.getsockname()[1]
            print_result(f"page: http://{args.public or '127.0.0.1'}:{port}/ (Ctrl-C ends it)")
            _until_stopped(
                lambda: serve(study, listener, () if not args.public else (args.public,))
            )
            answers = counted(len(study.judgements()), "answer")
            people = counted(len(study.sessions()), "session")
            print_result(
                f"{answers} of {people} in {study.path}; give the same command again to continue"
            )
        finally:
            study.close()
    finally:
        listener.close()
    return 0


def _until_stopped(serve: Any) -> None:
    """Serve until a signal; ending the page is how the command is meant to end."""
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, former)


def export_study_command(args: argparse.Namespace) -> int:
    """Write the judgements of a study."""
    from mixbench.elicit.export import export_study

    if args.format not in FORMATS:
        todo = f"choose {', '.join(FORMATS)}"
        raise UserError(f"unknown format {args.format!r}", "--format", todo)
    for note in export_study(args.study, args.output, args.format, args.without_doubtful):
        print_notice(note)
    print_result(f"written: {args.output}")
    return 0


def report_study_command(args: argparse.Namespace) -> int:
    """Write the report of a study."""
    check_output(args.output)
    from mixbench.elicit.report import write_study_report

    for note in write_study_report(args.study, args.output):
        print_notice(f"warning: {note}")
    print_result(f"report: {args.output}")
    return 0


def consent_command(args: argparse.Namespace) -> int:
    """Write the consent text to start from."""
    from mixbench.elicit.consent import usual_consent
    from mixbench.files import write_text

    if args.output.exists():
        raise UserError("the file exists already", str(args.output), "name another file")
    write_text(args.output, usual_consent())
    print_result(f"written: {args.output}")
    return 0
