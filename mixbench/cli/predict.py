"""Classes of new images: ``predict``."""

import argparse
import csv
import io
import os
from collections.abc import Iterable
from typing import Any

from mixbench.cli.console import print_notice, print_result, show_log
from mixbench.errors import UserError, counted


def predict_command(args: argparse.Namespace) -> int:
    """Predict the classes of images with the network that a run tested."""
    from mixbench.records.record import read_record, run_folder

    folder = run_folder(args.run)
    record = read_record(folder)  # said at once, before torch is loaded
    paths = [word for word in args.paths if "=" not in word or os.path.exists(word)]
    if not paths:
        todo = "write mixbench predict RUN IMAGE-OR-FOLDER ... [-o FILE.csv]"
        raise UserError("no image is named", "predict", todo)
    if args.top < 1:
        raise UserError(f"--top must be at least 1, got {args.top}", "--top", "give another number")
    if args.output is not None and args.output.suffix != ".csv":
        what = f"{args.output.name} does not end in .csv"
        raise UserError(what, "-o", "end the name in .csv")
    if args.output is not None and not args.output.resolve().parent.is_dir():
        raise UserError(f"no such folder: {args.output.parent}", "-o", "create it first")
    from mixbench.data.images import unused_line
    from mixbench.files import write_text
    from mixbench.training.predict import ImageFiles, load, predict, stored_temperature

    show_log()
    files = ImageFiles.below(paths)
    predictor = load(folder, [word for word in args.paths if word not in paths])
    temperature, source = stored_temperature(record)
    if source:
        print_notice(f"probabilities are of logits divided by {temperature:.4g}, from {source}")
    else:
        print_notice("the run has no temperature: probabilities are not calibrated")
    if notice := files.notice():
        print_notice(notice)
    found = predict(predictor, files, args.top)
    if args.output is None:
        for each in found:
            pairs = zip(each.classes, each.calibrated, each.raw, strict=True)
            shares = [f"{name} {100 * p:.1f} % (raw {100 * raw:.1f} %)" for name, p, raw in pairs]
            print_result(f"{each.file}  {', '.join(shares)}")
    else:
        rows = list(found)
        write_text(args.output, _table(rows))
        print_result(f"written: {args.output}, {counted(len(rows), 'image')}")
    if files.unused:
        print_notice(unused_line(files.unused))
    if files.unreadable:
        shown = "; ".join(files.unreadable[:5]) + (" ..." if len(files.unreadable) > 5 else "")
        what = f"{len(files.unreadable)} of {counted(len(files.names), 'image')} cannot be read"
        print_notice(f"{what}: {shown}")
    return 0


def _table(found: Iterable[Any]) -> str:
    """One row for each image: its path, then class, probability and raw probability by rank."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    rows = list(found)
    ranks = range(1, 1 + len(rows[0].classes))
    parts = ("class", "probability", "raw")
    table.writerow(["file", *(f"{part}_{rank}" for rank in ranks for part in parts)])
    for each in rows:
        triples = zip(each.classes, each.calibrated, each.raw, strict=True)
        values = [value for name, p, raw in triples for value in (name, f"{p:.6g}", f"{raw:.6g}")]
        table.writerow([each.file, *values])
    return file.getvalue()
