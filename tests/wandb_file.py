"""What a run has left for W&B, read back from its file."""

import json
import time
from pathlib import Path


def stored(folder: Path, pattern: str = "offline-run-*"):
    """Records of the only W&B run below a folder; W&B itself offers no reader.

    The file is a LevelDB log: after 7 bytes, blocks of 32 KiB with chunks of checksum (4 bytes),
    length (2), kind (1: whole, 2: first, 3: middle, 4: last) and content.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (folder / "wandb").glob(f"{pattern}/*.wandb")
    deadline = time.monotonic() + 20  # W&B's process writes the end behind the back of the run
    while True:
        content, at, parts, found = path.read_bytes(), 7, b"", []
        while at + 7 <= len(content):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
            if at + 7 + length > len(content):
                break  # caught while it was being written
            parts += content[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                found.append(Record.FromString(parts))
                parts = b""
        if any(record.HasField("exit") for record in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def history(records) -> list[dict]:
    return [
        {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in r.history.item}
        for r in records
        if r.HasField("history")
    ]


def opened(records):
    return next(r.run for r in records if r.HasField("run"))


def summary(records) -> dict:
    """Values that stand for the whole run; the last of each name."""
    found = {}
    for record in records:
        if record.HasField("summary"):
            for item in record.summary.update:
                found[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found
