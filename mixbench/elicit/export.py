"""Judgements of a study for other programs: tables, or the files of the release of H-Mix.

Layout of the release: cambridge-mlg/hill-mixup, folder ``h_mix``. A folder in that layout is what
:func:`mixbench.data.hmix.read_hmix` and ``method=hmix method.source=FOLDER`` read.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixbench.data.hmix import FACTS_FILE, RELEASE_FILES
from mixbench.elicit.exclusions import doubtful
from mixbench.elicit.study import FACTS, JUDGEMENT_COLUMNS, Study, study_path
from mixbench.errors import UserError, counted
from mixbench.files import write_bytes, write_text

PROCESSED = "processed_hmix_inferences.json"
_TASK_NAMES = {
    "infer": "rate_mixture",
    "construct": "select_create",
    "select": "select_shuffled",
    "categorical": "categorical",
}
_OWN_FACTS = tuple(name for name in FACTS if name not in JUDGEMENT_COLUMNS)
_KINDS = {
    "lam_true": float, "lam_human": float, "confidence": float, "lam_low": float,
    "lam_high": float, "start_value": float, "n_moves": int, "is_repeat": bool, "is_check": bool,
    "repeat_index": int, "rt_ms": int, "id1": int, "id2": int, "y1": int, "y2": int, "lam": float,
    "bin": float, "seed": int,
}  # fmt: skip


def export_study(given: Path, output: Path, kind: str, without_doubtful: bool) -> list[str]:
    """Write the judgements of a study.

    Args:
        given: File or folder of the study.
        output: A folder for ``hmix``, which is made; else a file.
        kind: ``hmix``, ``csv`` or ``parquet``.
        without_doubtful: Leave out people whom :func:`mixbench.elicit.exclusions.doubtful` names.

    Returns:
        Sentences on what was left out.

    Raises:
        UserError: If there is no judgement, the place cannot be written to, or a package is
            missing.
    """
    study = Study(study_path(given))
    try:
        rows, stimuli = study.judgements(), study.stimuli()
        names, task = study.class_names, study.settings.task
    finally:
        study.close()
    notes = []
    if without_doubtful:
        reasons = doubtful(rows, stimuli)
        kept = [row for row in rows if row["rater_id"] not in reasons]
        left, people = len(rows) - len(kept), len({r["rater_id"] for r in rows} & reasons.keys())
        if left:
            told = f"{counted(left, 'judgement')} of {people} doubtful sessions"
            notes.append(f"left out: {told}")
        rows = kept
    if not rows:
        raise UserError(
            "the study has no judgements yet", str(given), "let people judge first: mixbench elicit"
        )
    if kind == "hmix":
        notes += _write_release(output, rows, stimuli, names, task)
        return notes
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"no {kind} file can be written there", str(output), "name a file")
    table = _table(rows, stimuli, names)
    if kind == "csv":
        write_text(output, _csv(table))
    else:
        _write_parquet(output, table)
    return notes


def _table(
    rows: Iterable[Mapping[str, Any]], stimuli: Mapping[str, Any], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Judgements with the facts of what was judged."""
    table = []
    for row in rows:
        facts = stimuli[row["stimulus_id"]]
        own = {name: facts[name] for name in _OWN_FACTS}
        own |= {"class1": names[facts["y1"]], "class2": names[facts["y2"]]}
        table.append(dict(row) | own)
    for row in table:
        for name in ("is_repeat", "is_check"):
            row[name] = bool(row[name])
    return table


def _csv(table: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _harmless(v) for k, v in row.items()} for row in table)
    return file.getvalue()


def _harmless(value: Any) -> Any:
    """Text that no spreadsheet takes for a formula, as class names are a stranger's."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _write_parquet(output: Path, table: Sequence[Mapping[str, Any]]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        todo = "pip install 'mixbench[parquet]', or choose --format csv"
        raise UserError("parquet needs pyarrow", "--format parquet", todo) from error
    types = {float: pa.float64(), int: pa.int64(), bool: pa.bool_(), str: pa.string()}
    columns = {
        name: pa.array([row[name] for row in table], types[_KINDS.get(name, str)])
        for name in table[0]
    }
    write_bytes(output, lambda file: pq.write_table(pa.table(columns), file))


def _write_release(
    folder: Path,
    rows: list[dict[str, Any]],
    stimuli: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    task: str,
) -> list[str]:
    checks = sum(bool(row["is_check"]) for row in rows)
    rows = [row for row in rows if not row["is_check"]]
    notes = [f"left out: {counted(checks, 'attention check')}"] if checks else []
    if not rows:
        raise UserError(
            "the study has no judgements yet",
            str(folder),
            "let people judge first: mixbench elicit",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("the folder is not empty", str(folder), "name another folder by -o")
    folder.mkdir(parents=True, exist_ok=True)
    words = class_words(names)
    some = next(iter(stimuli.values()))
    pairs = [_pair(stimuli[row["stimulus_id"]], words) for row in rows]
    facts = {
        "classes": words,
        "class_names": list(names),
        "split": some["split"],
        "dataset": some["dataset"],
        "images": 1 + max(max(each["id1"], each["id2"]) for each in stimuli.values()),
        "method": some["method"],
        "task": task,
    }
    if task == "categorical":
        if again := sum(bool(row["is_repeat"]) for row in rows):
            notes.append(f"left out: {counted(again, 'repeat')}, as labels bear no name of theirs")
        labels = _labels(rows, pairs, len(names))
        write_text(folder / RELEASE_FILES["soft"], json.dumps(labels))
    else:
        columns = _COLUMNS[task]
        table = [
            _common(row, number) | columns(row, stimuli[row["stimulus_id"]], pair)
            for number, (row, pair) in enumerate(zip(rows, pairs, strict=True))
        ]
        write_text(folder / RELEASE_FILES[task], _csv(table))
    if task == "infer":
        write_text(folder / PROCESSED, json.dumps(_processed(rows, stimuli, pairs, words)))
    # Last, as it makes a folder readable that names other classes than those of CIFAR-10.
    write_text(folder / FACTS_FILE, json.dumps(facts, indent=1))
    return notes


def class_words(names: Sequence[str]) -> list[str]:
    """Classes as the names of files have them: letters alone, each word once.

    Args:
        names: Names of the classes.

    Returns:
        For CIFAR-10 the words of the release; ``ClassA`` and so on for names without letters of
        their own.
    """
    plain = [re.sub("[^A-Za-z]", "", name).capitalize() for name in names]
    if len(set(plain)) == len(plain) and all(plain):
        return plain
    words, number = [], 0
    for word in plain:
        while not word or plain.count(word) > 1 or word in words:
            word, number = f"Class{_letters(number)}", number + 1
        words.append(word)
    return words


def _letters(number: int) -> str:
    head, last = divmod(number, 26)
    return (_letters(head - 1) if head else "") + chr(ord("A") + last)


def _pair(facts: Mapping[str, Any], words: Sequence[str]) -> str:
    return f"{words[facts['y1']]}_{facts['id1']}_{words[facts['y2']]}_{facts['id2']}"


def _file_name(facts: Mapping[str, Any], pair: str) -> str:
    return f"mixed_{facts['lam']:.6f}".rstrip("0").rstrip(".") + f"_{pair}.png"


def _common(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    name = _TASK_NAMES[row["task"]]
    return {
        "index": number,
        "subject": row["rater_id"],
        "rt": row["rt_ms"],
        "task": f"rerun_{name}" if row["is_repeat"] else name,
    }


def _infer_columns(row: Mapping[str, Any], facts: Mapping[str, Any], pair: str) -> dict[str, Any]:
    # The slider of the release runs from the first image to the second.
    answer = {
        "mixingcoeff": round(100 * (1 - row["lam_human"]), 6),
        "confidence": round(100 * row["confidence"], 6),
    }
    label1, id1, label2, id2 = pair.split("_")
    return {
        "responses": json.dumps(answer),
        "filename": _file_name(facts, pair),
        "label1": label1,
        "label2": label2,
        "mixtureCoeff": facts["lam"],
        "id1": id1,
        "id2": id2,
        "class_pair": f"{pair}.png",
    }


def _construct_columns(
    row: Mapping[str, Any], facts: Mapping[str, Any], pair: str
) -> dict[str, Any]:
    del facts
    return {
        "final_value": row["lam_human"],
        "starting_value": row["start_value"],
        "class_pair": pair,
    }


def _select_columns(row: Mapping[str, Any], facts: Mapping[str, Any], pair: str) -> dict[str, Any]:
    del facts
    return {"response": json.dumps({"select": f"select{row['lam_human']}"}), "class_pair": pair}


_COLUMNS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], str], dict[str, Any]]] = {
    "infer": _infer_columns,
    "construct": _construct_columns,
    "select": _select_columns,
}


def _processed(
    rows: Sequence[Mapping[str, Any]],
    stimuli: Mapping[str, Mapping[str, Any]],
    pairs: Sequence[str],
    words: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Judgements by image with the fields of the release, repeats among them as there."""
    found: dict[str, dict[str, Any]] = {}
    for row, pair in zip(rows, pairs, strict=True):
        facts = stimuli[row["stimulus_id"]]
        own = found.setdefault(
            _file_name(facts, pair),
            {
                "True Mixing Factor": facts["lam"],
                "Predicted Mixing Factor": [],
                "Predicted Confidence": [],
                "Endpoints": [words[facts["y1"]], words[facts["y2"]]],
                "Class Pair": f"{pair}.png",
            },
        )
        own["Predicted Mixing Factor"].append(row["lam_human"])
        own["Predicted Confidence"].append(row["confidence"])
    for own in found.values():
        seen, sure = (
            np.array(own[f"Predicted {word}"]) for word in ("Mixing Factor", "Confidence")
        )
        weighted = float((seen * sure).mean())
        own |= {
            "Std Dev": float(seen.std()),
            "Re-Label Diff": own["True Mixing Factor"] - float(seen.mean()),
            "Weighted Re-Label": weighted,
            "Weighted Re-Label Diff": own["True Mixing Factor"] - weighted,
        }
    return {
        name: {key: own[key] for key in sorted(own, key=_ORDER.index)}
        for name, own in found.items()
    }


_ORDER = (
    "Std Dev", "Re-Label Diff", "True Mixing Factor", "Predicted Mixing Factor",
    "Weighted Re-Label", "Weighted Re-Label Diff", "Predicted Confidence", "Endpoints",
    "Class Pair",
)  # fmt: skip


def _labels(
    rows: Sequence[Mapping[str, Any]], pairs: Sequence[str], classes: int
) -> dict[str, list[list[float]]]:
    """Soft labels of each image, repeats left out."""
    found: dict[str, list[list[float]]] = {}
    for row, pair in zip(rows, pairs, strict=True):
        if not row["is_repeat"]:
            label = soft_label(json.loads(row["label_json"]), classes)
            name = _file_name({"lam": row["lam_true"]}, pair)
            found.setdefault(name, []).append(label)
    return found


def soft_label(answer: Mapping[str, Any], classes: int) -> list[float]:
    """The label that an answer of the categorical task gives.

    Args:
        answer: ``first``, ``first_share``, ``second``, ``second_share`` and ``impossible``, as
            :class:`mixbench.elicit.answers.Judgement` has them.
        classes: Number of classes.

    Returns:
        Their probabilities by :func:`mixbench.functional.top2_clamp`.
    """
    import torch

    import mixbench.functional as mf

    second = answer["second"]
    ruled_out = torch.zeros(1, classes, dtype=torch.bool)
    ruled_out[0, answer["impossible"]] = True
    label = mf.top2_clamp(
        torch.tensor([answer["first"]]),
        torch.tensor([answer["first_share"]], dtype=torch.float64),
        torch.tensor([-1 if second is None else second]),
        torch.tensor([answer["second_share"] or 0.0], dtype=torch.float64),
        ruled_out,
    )
    return label[0].tolist()
