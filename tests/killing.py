"""Runs in processes that can be killed, from a fork server that has paid for the imports."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy
import torch

from mixbench import compose, run
from mixbench.errors import RunFailedError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.records.record import read_record

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["mixbench.training.run"])

# What may differ between a run that was killed and one that was not.
OWN = {
    "attempts",
    "wall_s",
    "img_per_s",
    "ms_step",
    "dataloader_wait_pct",
    "peak_mem_gb",
    "resumed_bit_exact",
    "commit",
}


def _child(words: list[str], folder: str, answer) -> None:
    os.environ["MIXBENCH_RUNS"] = folder
    import logging

    from mixbench import compose, run
    from mixbench.errors import MixbenchError

    logging.getLogger("mixbench").setLevel(logging.ERROR)
    try:
        run(compose(words))
        answer.send(0)
    except MixbenchError as error:
        answer.send(error.exit_code)


def start(words: list[str], folder: Path):
    """Start a run; returns its process and the end of a pipe that tells its exit code."""
    reader, writer = _context.Pipe(duplex=False)
    process = _context.Process(target=_child, args=(words, str(folder), writer))
    process.start()
    writer.close()
    return process, reader


def finish(words: list[str], folder: Path, timeout: float = 240) -> int:
    """Let a run go to its end; returns its exit code."""
    process, reader = start(words, folder)
    code = reader.recv() if reader.poll(timeout) else -1
    process.kill() if code == -1 else process.join(60)
    process.join()
    return code


def storm(words: list[str], folder: Path, kills: int, seed: int) -> list[tuple[int, float]]:
    """Kill a run again and again at random moments of its training, then let it finish.

    Every attempt may go on for a random number of checkpoints and a random moment longer, so that
    the kills are spread over the whole run whatever the speed of the machine.

    Args:
        words: Overrides.
        folder: Folder of runs.
        kills: How often.
        seed: Of the moments.

    Returns:
        Checkpoints seen and seconds after the last of them, for each kill.
    """
    draw = random.Random(seed)
    moments = []
    for number in range(kills):
        process, reader = start(words, folder)
        stamps: set[int] = set()
        # The first kill falls anywhere in the start, possibly before any checkpoint.
        wanted, longer = draw.randint(0 if number == 0 else 1, 4), draw.uniform(0, 0.2)
        deadline = time.monotonic() + 120
        while len(stamps) <= wanted and not reader.poll(0.002):
            assert time.monotonic() < deadline
            for path in folder.glob("*/last.ckpt"):
                stamps.add(path.stat().st_mtime_ns)
            if wanted == 0 and list(folder.glob("*/lock.json")):
                break
        if not reader.poll(longer):
            os.kill(process.pid, signal.SIGKILL)
            moments.append((len(stamps), longer))
        process.join()
    assert finish(words, folder) == 0
    return moments


def outcome(folder: Path):
    """What a run left: record, weights with everything else in the checkpoint, curves, scores."""
    (place,) = [path for path in folder.iterdir() if path.is_dir()]
    record = read_record(place)
    checkpoint = torch.load(place / "last.ckpt", weights_only=True)
    checkpoint.pop("pytorch-lightning_version")
    return {
        "record": {k: v for k, v in record.to_json().items() if k not in OWN},
        "checkpoint": checkpoint,
        "curves": (place / "metrics.csv").read_text(),
        "predictions": dict(numpy.load(place / "predictions.npz")),
    }


def differences(first, second, path: str = "") -> list[str]:
    """Places where two nested outcomes are not exactly equal."""
    if isinstance(first, dict) and isinstance(second, dict):
        found = [f"{path}/{key} in one only" for key in first.keys() ^ second.keys()]
        for key in first.keys() & second.keys():
            found += differences(first[key], second[key], f"{path}/{key}")
        return found
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [f"{path}: lengths differ"]
        pairs = enumerate(zip(first, second, strict=True))
        return [line for n, pair in pairs for line in differences(*pair, f"{path}/{n}")]
    if isinstance(first, torch.Tensor):
        same = isinstance(second, torch.Tensor) and torch.equal(first, second)
    elif hasattr(first, "shape"):
        same = numpy.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    else:
        same = first == second
    return [] if same else [f"{path}: {str(first)[:60]} != {str(second)[:60]}"]


def attempts(folder: Path) -> list[dict]:
    """The attempts of the only run in a folder."""
    (place,) = [path for path in folder.iterdir() if path.is_dir()]
    return json.loads((place / "record.json").read_text())["attempts"]


def wait_for(path: Path, timeout: float = 60) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def crash_and_go_on(words: str, root: Path, monkeypatch, step: int, name: str = "erm"):
    """Outcomes of an undisturbed run and of one that crashes after a step, and its record."""

    class Fails(METHODS.get(name)):
        def after_step(self):
            super().after_step()
            if self.step == step:
                raise RuntimeError("planted failure")

    outcomes = []
    for kind in ("whole", "stopped"):
        monkeypatch.setenv("MIXBENCH_RUNS", str(root / kind))
        if kind == "stopped":
            with monkeypatch.context() as planted, contextlib.suppress(RunFailedError):
                planted.setitem(METHODS._objects, name, Fails)
                run(compose(words))
        record = run(compose(words))
        outcomes.append(outcome(root / kind))
    assert len(record.attempts) == 2
    return *outcomes, record


class Slow(Method):
    """Takes its time for each step, and says in which it is."""

    def training_step(self, batch, batch_idx):
        folder = Path(self.trainer.default_root_dir)
        (folder / "step").write_text(str(self.step))
        if self.step >= 6:
            time.sleep(0.4)
        return super().training_step(batch, batch_idx)


class KilledWhileSaving(Method):
    def on_save_checkpoint(self, checkpoint):
        super().on_save_checkpoint(checkpoint)
        if self.step == 6:
            checkpoint["trap"] = KillsItsPickler()


class KillsItsPickler:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


class FillsTheDisk(Method):
    def after_step(self):
        if self.step == 6:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
