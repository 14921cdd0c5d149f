"""Damaged and hostile files against the commands that read them.

Every input is a good file that was changed at random. The command that reads it has to end in time,
with an exit code of the list, one plain message and no traceback, and must leave the good runs
beside it as they were. ``MIXBENCH_FUZZ=SEED:FACTOR`` draws other inputs, and more of them.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from making import encoded, photograph, write_folder

from mixbench import cli, compose, run
from mixbench.config import yaml_files
from mixbench.records import lock
from mixbench.records.record import read_record

pytestmark = pytest.mark.slow

SEED, _, FACTOR = os.environ.get("MIXBENCH_FUZZ", "0:1").partition(":")
INPUTS = {"record": 500, "lock": 250, "yaml": 450, "pack": 300, "image": 300, "checkpoint": 200}
INPUTS["report"] = 60  # each draws all plots
LIMIT_S = 30
LIMIT_GB = 2.0
CODES = {0, 2, 3, 4, 5}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

DEEP = "@deep@"
# Texts that stand for what json.dumps cannot write.
RAW = {DEEP: "[" * 30_000 + "]" * 30_000, "@huge@": "1e999", "@nan@": "NaN", "@long@": "9" * 4_500}
NASTY = [None, True, -1, 0, 2**63, 10**400, -(10**19), 1e308, 0.5, "", "x" * 100_000, "../../x"]
NASTY += ["\x1b[31mred\x1b[0m", "a\nb", "\u202egnp", "\ud800", "=1+1", "![x](http://h/x)", "|", "`"]
NASTY += [[], {}, [1, 2], {"a": {"b": []}}, [[[[[[1]]]]]], "nan", "inf", "1e400", *RAW]
TOKENS = [b"\x00", b"\xff" * 8, b"\xef\xbb\xbf", b"\n---\n", b"*a", b"&a [*a, *a]", b"\t", b": "]
TOKENS += [b"${oc.env:HOME}", b"!!python/object/apply:os.system [id]", b"{" * 2_000, b"- " * 2_000]
KINDS = [("PNG", None), ("PNG", "P"), ("PNG", "1"), ("TIFF", "I"), ("JPEG", None), ("JPEG", "CMYK")]
KINDS += [
    ("GIF", None),
    ("BMP", None),
    ("TIFF", None),
    ("TIFF", "F"),
    ("WEBP", None),
    ("PPM", None),
]


class Hang(BaseException):
    """An input that is not dealt with in time."""


def mutate_bytes(raw: bytes, draw: random.Random) -> bytes:
    """Flip, cut, double, insert or replace a part."""
    content = bytearray(raw)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        place = draw.randrange(len(content) + 1)
        length = draw.choice((1, 2, 4, 16, 64, len(content) // 3 + 1))
        match draw.randrange(8):
            case 0 | 1 | 2 if content:
                content[place % len(content)] ^= 1 << draw.randrange(8)
            case 3:
                del content[place:]
            case 4:
                del content[place : place + length]
            case 5:
                content[place:place] = content[place : place + length]
            case 6:
                content[place:place] = draw.choice(TOKENS)
            case 7:
                content[place : place + length] = draw.randbytes(min(length, 4096))
    return bytes(content)


def mutate_json(value: object, draw: random.Random) -> bytes:
    """Replace, drop, double or rename values at random places of a tree."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 2, 4))):
        parent: object = value
        while True:
            keys = list(parent) if isinstance(parent, dict) else range(len(parent))  # type: ignore
            if not keys:
                break
            key = draw.choice(keys)
            child = parent[key]  # type: ignore[index]
            if isinstance(child, (dict, list)) and child and draw.random() < 0.6:
                parent = child
                continue
            match draw.randrange(6):
                case 0:
                    del parent[key]  # type: ignore[attr-defined]
                case 1 if isinstance(parent, dict):
                    parent[draw.choice(("x", "", "\x1b", "id", "__class__"))] = parent.pop(key)
                case _:
                    parent[key] = draw.choice(NASTY)  # type: ignore[index]
            break
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    raw = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(raw, draw) if draw.random() < 0.2 else raw


def mutate_zip(path: Path, target: Path, draw: random.Random) -> None:
    """Change the bytes of one member and pack it again, so that its checksum fits."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    victim = draw.choice(sorted(members))
    packing = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(target, "w", packing) as new:
        for name, content in members.items():
            if name != victim:
                new.writestr(name, content)
            elif draw.random() < 0.9:
                new.writestr(name, mutate_bytes(content, draw))


def odd_file(path: Path, draw: random.Random) -> bool:
    """Put something that is no regular file in a file's place, now and then."""
    if draw.random() > 0.04:
        return False
    path.unlink(missing_ok=True)
    match draw.randrange(5):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path.parent / "missing")
        case 2:
            path.symlink_to(path)
        case 3:
            os.mkfifo(path)
        case 4:
            path.symlink_to("/dev/zero")
    return True


def remove(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Bench:
    """A good run, and a place for bad neighbours."""

    def __init__(self, place: Path) -> None:
        self.place, self.runs = place, place / "runs"
        self.good = next(path for path in self.runs.iterdir() if path.is_dir())
        self.state = contents(self.good)
        self.codes: Counter[str] = Counter()
        self.draw = random.Random()
        self.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def neighbour(self, *names: str) -> Path:
        """A folder beside the good run, with some of its files."""
        other = self.runs / "mixup-digits-preactresnet18-01234567-s7"
        remove(other)
        other.mkdir()
        for name in names:
            shutil.copy(self.good / name, other / name)
        return other

    def command(self, *words: object) -> tuple[int, str]:
        """Exit code of a command and everything that it said."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), in_time():
            code = cli.main([str(word) for word in words])
        text = said.getvalue()
        self.codes[f"{words[0]} {code}"] += 1
        assert code in CODES, text
        assert "Traceback" not in text, text
        assert "--debug" not in text, text  # an error that nobody foresaw
        assert not CONTROL.search(text), CONTROL.search(text)
        return code, text

    def check(self) -> None:
        """The good run is what it was, and memory stays moderate."""
        assert contents(self.good) == self.state
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown, self.memory = peak - self.memory, max(peak, self.memory)
        assert grown < LIMIT_GB * 1024**2, f"{grown / 1024**2:.1f} GiB"


@pytest.fixture(autouse=True)
def moderate_memory():
    """A limit, so that a reader without one fails here and does not take the machine down."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + int(2 * LIMIT_GB * 1024**3), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def in_time():
    """An alarm that no handler of errors can swallow."""

    def ring(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXBENCH_RUNS", str(folder / "runs"))
        words = "method=erm data=digits data.limit=128 net.width=4 epochs=1 batch_size=32"
        run(compose(f"{words} eval.suites=[calibration] wandb.mode=disabled"))
    return folder


@pytest.fixture
def bench(place, monkeypatch, tmp_path):
    monkeypatch.setenv("MIXBENCH_RUNS", str(place / "runs"))
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    logging.getLogger("mixbench").handlers.clear()
    made = Bench(place)
    yield made
    remove(made.neighbour())
    print(dict(sorted(made.codes.items())))  # noqa: T201


def fuzz_record(bench: Bench) -> None:
    other, draw = bench.neighbour(), bench.draw
    content = json.loads((bench.good / "record.json").read_text())
    content |= {"id": other.name, "method": "mixup", "seed": 7, "config_hash": "0123456789abcdef"}
    (other / "record.json").write_bytes(mutate_json(content, draw))
    odd_file(other / "record.json", draw)
    form = draw.choice(("table", "markdown", "csv", "json", "latex"))
    code, text = bench.command("leaderboard", "--format", form)
    assert code == 0
    assert f"{int(read_record(bench.good).metrics['top1'])}." in text  # whatever its digits
    bench.command("compare", "--mine", "erm", "--with", "erm")


def fuzz_report(bench: Bench) -> None:
    names = [path.name for path in bench.good.iterdir() if path.is_file()]
    other, draw = bench.neighbour(*names), bench.draw
    victim = draw.choice([name for name in names if not name.endswith((".ckpt", ".txt"))])
    raw = (bench.good / victim).read_bytes()
    if victim == "record.json":
        content = json.loads(raw) | {"id": other.name, "method": "mixup"}
        (other / victim).write_bytes(mutate_json(content, draw))
    else:
        (other / victim).write_bytes(mutate_bytes(raw, draw))
    odd_file(other / victim, draw)
    output = bench.place / "report.html"
    remove(output)
    code, _ = bench.command("report", "-o", output)
    assert code == 0
    assert not CONTROL.search(output.read_text(encoding="utf-8"))


def fuzz_lock(bench: Bench) -> None:
    names = [path.name for path in bench.good.iterdir() if path.is_file()]
    other, draw = bench.neighbour(*names), bench.draw
    holder = {"host": "elsewhere", "pid": 2**22 - 1, "born": "1", "started": 1.0, "nonce": "ab"}
    holder["host"] = draw.choice((os.uname().nodename, "elsewhere"))
    (other / lock.LOCK).write_bytes(mutate_json(holder, draw))
    odd_file(other / lock.LOCK, draw)
    record = (other / "record.json").read_bytes()
    bench.command("leaderboard")
    bench.command("eval", other, "--suite", "calibration", "wandb.mode=disabled")
    assert json.loads((other / "record.json").read_bytes())["status"] == "done", record


def fuzz_yaml(bench: Bench) -> None:
    draw, path = bench.draw, bench.place / "fuzzed.yaml"
    remove(path)
    kind = draw.choice(("config", "sweep"))
    if kind == "config":
        seeds = [bench.good / "config.yaml"]
    else:
        seeds = sorted((yaml_files.folders()[-1] / "sweep").glob("*.yaml"))
    path.write_bytes(mutate_bytes(draw.choice(seeds).read_bytes(), draw))
    odd_file(path, draw)
    if kind == "config":
        bench.command("run", "--config", path, "--show")
    else:
        bench.command("sweep", path, "--to-wandb", bench.place / "sweep-for-wandb.yaml")


def fuzz_pack(bench: Bench) -> None:
    draw, place = bench.draw, bench.place / "packs"
    remove(place)
    place.mkdir()
    good, bad = place / "good.npz", place / "bad.npz"
    values = np.random.default_rng(draw.randrange(2**32))
    count = draw.choice((6, 12))
    pack: dict[str, object] = {"label": np.arange(count) % 3, "class_names": ["ant", "bee", "cat"]}
    if draw.random() < 0.5:
        pack["images"] = values.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    else:
        raw = [photograph(seed, 8, 8) for seed in range(count)]
        pack["jpeg"] = np.frombuffer(b"".join(raw), dtype=np.uint8)
        pack["offsets"] = np.cumsum([0, *map(len, raw)])
    np.savez(good, **pack)  # type: ignore[arg-type]
    match draw.randrange(3):
        case 0:
            bad.write_bytes(mutate_bytes(good.read_bytes(), draw))
        case 1:
            mutate_zip(good, bad, draw)
        case 2:
            key = draw.choice(sorted(pack))
            odd = [np.array(draw.choice([*NASTY[:12], [1, 2]]), dtype=object).astype(str)]
            odd += [values.normal(size=count), np.full(count, np.nan), np.arange(count) * 50]
            odd += [np.zeros((0,)), np.zeros((count, 3), dtype=np.int64), np.array(["a"] * count)]
            odd += [np.arange(count) - 1, np.full(count, 2**62), np.zeros(count, "V8")]
            odd += [np.array(["b'ant'"] * 3), np.zeros((count, 8, 8), dtype=np.float32)]
            np.savez(bad, **(pack | {key: draw.choice(odd)}))  # type: ignore[arg-type]
    odd_file(bad, draw)
    other = place / "other.npz"
    np.savez(other, images=values.integers(0, 256, (6, 8, 8, 3), np.uint8), label=[0, 1, 2] * 2)
    train, test = draw.choice(((bad, other), (other, bad)))
    bench.command("data", "check", "pack", f"data.train={train}", f"data.test={test}")
    words = [f"data.train={train}", f"data.test={test}", "data.on_corrupt=skip"]
    bench.command("data", "prepare", "pack", *words)


def fuzz_image(bench: Bench) -> None:
    draw, root = bench.draw, bench.place / "folder"
    remove(root)
    write_folder(root, train=3, val=1)
    pixels = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (9, 7, 3), np.uint8)
    kind, mode = draw.choice(KINDS)
    suffix = {"JPEG": "jpg"}.get(kind, kind.lower())
    name = draw.choice(("x", "x", "x", ".x", "._x", "\x1b[2Jx", "a b", "é", "x" * 200, "\u202ex"))
    place = root / draw.choice(("train/ant", "val/bee", "train/bee/deeper"))
    place.mkdir(exist_ok=True)
    path = place / f"{name}.{suffix}"
    path.write_bytes(mutate_bytes(encoded(pixels, kind, mode), draw))
    odd_file(path, draw)
    words = [f"data.root={root}", "data.size=8"]
    bench.command("data", "check", "folder", *words)
    bench.command("data", "prepare", "folder", *words, "data.on_corrupt=skip")


def fuzz_checkpoint(bench: Bench) -> None:
    names = [path.name for path in bench.good.iterdir() if path.is_file()]
    other, draw = bench.neighbour(*names), bench.draw
    name = draw.choice(("last.ckpt", "last.ckpt", "predictions.npz", "config.yaml", "metrics.csv"))
    path = other / name
    if name.endswith(("ckpt", "npz")) and draw.random() < 0.3:
        good = path.rename(other / "good")
        mutate_zip(good, path, draw)
    else:
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))
    changed = path.read_bytes() != (bench.good / name).read_bytes()
    resealed = (other / "good").exists()
    odd_file(path, draw)
    target = bench.place / "exported.pth"
    remove(target)
    code, _ = bench.command("export", other, "-o", target)
    if code == 0 and not resealed:  # whatever a checksum protects must be whole
        state = torch.load(target, weights_only=True)
        for key, value in torch.load(bench.place / "wanted.pth", weights_only=True).items():
            assert torch.equal(state[key], value), key
    code, text = bench.command("verify", other, "wandb.mode=disabled")
    if code == 0 and changed and name == "last.ckpt" and not resealed:
        assert "last.ckpt" not in text
    bench.command("compare", "--mine", "erm", "--with", "erm")


@pytest.mark.parametrize("kind", INPUTS)
def test_no_input_ends_in_a_traceback_a_hang_or_a_lost_run(kind, bench, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE_S", 0.2)
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(lock, "WRITE_WAIT_S", 0.1)
    assert bench.command("export", bench.good, "-o", bench.place / "wanted.pth")[0] == 0
    bench.state = contents(bench.good)
    faults = []
    for number in range(round(INPUTS[kind] * float(FACTOR or 1))):
        bench.draw = random.Random(f"{SEED}-{kind}-{number}")
        try:
            globals()[f"fuzz_{kind}"](bench)
            bench.check()
        except (Exception, Hang) as error:
            lines = f"{type(error).__name__}: {error}".strip().splitlines()
            faults.append(f"{kind} {number}: " + " | ".join(lines)[:600])
    assert not faults, f"{len(faults)} inputs\n" + "\n".join(faults)
