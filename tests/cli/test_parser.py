import errno
import io
import json
import os
import random
import subprocess
import sys

import pytest
from paths import ROOT

from mixbench import cli
from mixbench.cli import names
from mixbench.leaderboard.rows import find_runs
from mixbench.records.curves import write_curves
from mixbench.records.record import Record, read_record, write_record
from mixbench.testing.contract import RULES


def call(*words, env=None, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "mixbench", *words],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd or ROOT,
        env=os.environ | (env or {}),
    )


def make(target, *variables, env):
    """A make target; the command behind it where the set-up is not make's own."""
    ready = subprocess.run(["make", "--question", ".venv/.ready"], cwd=ROOT, capture_output=True)
    if ready.returncode == 0:
        command = ["make", target, *variables]
    else:
        names = {"METHOD": "method", "SEEDS": "seeds"}
        pairs = [variable.split("=", 1) for variable in variables]
        words = [f"{names[key]}={text}" for key, text in pairs if key in names]
        words += dict(pairs).get("ARGS", "").split() + ["--report"] * (target == "bench")
        command = [sys.executable, "-m", "mixbench", target, *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=ROOT, env=os.environ | env
    )


LIGHT = [
    (["--help"], 0, "bench"),
    (["--version"], 0, "mixbench 0."),
    (["bench", "--help"], 0, "--dry-run"),
    (["resume", "--help"], 0, "mixbench list"),
    (["list"], 0, "cutmix"),
    (["list", "methods", "c*"], 0, "cutmix"),
    (["info", "cifar200"], 0, "epochs: 200"),
    (["list", "nets", "wrn*"], 0, "23.4 M parameters"),
    (["run", "net=wrn16x9"], 2, "did you mean 'wrn16x8'?"),
    (["run", "net.patch=0"], 2, "net.patch must be >= 1"),
    (["run", "net.drop_path=1"], 2, "net.drop_path must lie in [0, 1)"),
    (["export", "none", "-o", "net.pth"], 2, "no record of a run"),
    (["predict", "none", "a.png"], 2, "such as runs/ID"),
    (["run", "method=cutmx"], 2, "did you mean 'cutmix'?"),
    (["bench", "data=digist"], 2, "did you mean 'digits'?"),
    (["run", "net=resnet"], 2, "unknown net"),
    (["run", "optim.name=lion"], 2, "one of sgd, adamw"),
    (["run", "methood=mixup"], 2, "did you mean 'method'?"),
    (["run", "foo"], 2, "is not an override"),
    (["run", "seed=1.5"], 2, "give a whole number"),
    (["bench", "method="], 2, "is empty"),
    (["bench", "method=a; rm -rf x"], 2, "unknown method"),
    (["bench", "seeds=0,0"], 2, "names one twice"),
    (["leaderboard", "missing"], 2, "no such folder"),
    (["leaderboard", "--format", "xml"], 2, "unknown format"),
    (["compare", "missing", "--mine", "a", "--with", "b"], 2, "no such folder"),
    (["compare", "--mine", "a"], 2, "write mixbench compare [RUNS ...] --mine A --with B"),
    (["leaderboard", "--pivot", "method.alpha"], 2, "write --pivot A B"),
    (["leaderboard", "--pivott", "a", "b"], 2, "did you mean '--pivot'?"),
    (["leaderboard", "--format"], 2, "--format needs a value"),
    (["race", "--budget", "4h"], 2, "a key is set without dashes, as budget=VALUE"),
    (["predict"], 2, "write mixbench predict RUN PATH ..."),
    (["predict", "a", "b", "--top", "x"], 2, "--top must be a whole number, got 'x'"),
    (["data", "chek", "digits"], 2, "did you mean 'check'?"),
    (["data"], 2, "action and NAME are missing"),
    (["bench", "--launcher", "pbs"], 2, "choose one of: local, slurm"),
    (["info", "mixup", "cutmix"], 2, "'cutmix' is one word too many"),
    (["benhc"], 2, "did you mean 'bench'?"),
    (["plot", "forst", "-o", "a.svg"], 2, "did you mean 'forest'?"),
    (["plot", "forest", "-o", "a.gif"], 2, "end its name in .svg, .pdf, .png"),
    (["plot", "forest", "missing", "-o", "a.svg"], 2, "no such folder"),
    (["plot", "forest", "-o", "a.svg", "--width", "wide"], 2, "inches wide, not 'wide'"),
    (["plot", "--help"], 0, "winmatrix"),
    (["eval", "none"], 2, "no record of a run"),
    (["verify", "none"], 2, "no record of a run"),
    (["verify"], 2, "no run is named"),
    (["run", "eval.suites=[nothing]"], 2, "choose one of: adversarial, calibration, corruption"),
    (["run", "eval.adv_n=0"], 2, "eval.adv_n must be >= 1 or be auto, got 0"),
    (["run", "eval.adv_n=many"], 2, "eval.adv_n must be >= 1 or be auto, got many"),
    (["run", "eval.adv_n=1.5"], 2, "give a whole number or auto or null"),
    (["list", "metods"], 2, "nothing matches"),
    (["list", "recipes", "cut"], 2, "*cut*"),
    (["info", "cutmx"], 2, "did you mean 'cutmix'?"),
    (["check", "cutmx"], 2, "did you mean 'cutmix'?"),
    (["nonsense"], 2, "unknown command"),
    ([], 2, "mixbench --help lists the commands"),
]

# Carries commands out in a process where importing torch or lightning is an error.
GUARD = """
import contextlib, io, json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "lightning", "torchvision", "wandb", "sklearn"):
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
from mixbench.cli import main
answers = []
for words in json.load(sys.stdin):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = main(words)
    answers.append((code, shown.getvalue()))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Exit code and output of each light command."""
    commands = [words for words, _, _ in LIGHT]
    done = subprocess.run(
        [sys.executable, "-c", GUARD],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path_factory.mktemp("light"),
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(map(tuple, commands), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("words", "code", "text"), LIGHT, ids=lambda value: str(value)[:40])
def test_light_commands_answer_without_torch_and_without_a_traceback(answers, words, code, text):
    found, shown = answers[tuple(words)]
    assert found == code, shown
    assert text in shown
    assert "Traceback" not in shown
    assert "AssertionError" not in shown
    assert len(shown.splitlines()) < 120


def test_mangled_command_lines_never_give_a_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = random.Random(7)
    parts = [
        "run",
        "bench",
        "list",
        "info",
        "method",
        "=",
        ".",
        "a",
        "method.alpha",
        "data",
        "[",
        "]",
        "{",
        "}",
        ",",
        "digits",
        "'",
        '"',
        "${x}",
        "!!python/name:os",
        "\t",
        "\n",
        "é",
        "0",
        "1e9",
        "-",
        "--",
        "-o",
        "--show",
        "--dry-run",
        "null",
        "seeds",
        "&a",
        "*a",
        "%",
        "\x00",
        "erm",
        "epochs",
        "..",
        "/",
        "\\",
        " ",
        "lr",
        ":",
        "inf",
        ".nan",
        "~",
        "@",
    ]
    for _ in range(400):
        words = [
            "".join(generator.choices(parts, k=generator.randint(1, 4)))
            for _ in range(generator.randint(1, 4))
        ]
        words.insert(0, generator.choice(["run", "bench", "list", "info", "leaderboard"]))
        if words[0] == "run":
            words.append("--show")
        elif words[0] == "bench":
            words += ["data=missing_data", "--dry-run"]  # nothing may start
        assert cli.main(words) in (0, 2), words
        assert "Traceback" not in capsys.readouterr().err, words


def test_an_unexpected_error_is_one_line_and_a_traceback_with_debug(monkeypatch, capsys):
    def fail(args):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(names, "list_names", fail)
    assert cli.main(["list"]) == 3
    shown = capsys.readouterr().err
    assert shown.startswith("mixbench: ZeroDivisionError: planted")
    assert "Traceback" not in shown
    assert cli.main(["list", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_show_prints_the_configuration_with_its_origins(capsys):
    assert cli.main(["run", "method=cutmix", "method.alpha=0.3", "--show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["method.alpha:", "0.3", "#", "command", "line"] for line in lines)


def test_strict_turns_a_warning_into_an_error(capsys):
    words = ["run", "method=erm", "method.alpha=1", "--show"]
    assert cli.main(words) == 0
    assert "has no effect for method erm" in capsys.readouterr().err
    assert cli.main([*words, "--strict"]) == 2


def test_run_ends_with_a_few_scores_what_speaks_against_them_and_its_folder(runs, tiny, capsys):
    words = ["method=mixup", *tiny, "select=val"]
    assert cli.main(["run", *words]) == 0
    scores, *marks, place = capsys.readouterr().out.splitlines()
    (folder,) = runs.iterdir()
    assert [part.split()[0] for part in scores.split("   ")] == ["top1", "nll", "ece_cf", "top5"]
    assert 'the mark "few steps": training took fewer than' in marks[0]
    assert place.endswith(str(folder))
    assert cli.main(["run", "--folder", str(runs / "other"), *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(str(runs / "other"))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--jobs", "0"], "--jobs 0 is too small"),
        (["--jobs", "-2"], "give 1 or more"),
        (["--jobs", "many"], "must be a whole number"),
        (["--to-wandb", "f.yaml", "--jobs", "2"], "--jobs has no effect"),
        (["--to-wandb", "f.yaml", "--launcher", "slurm"], "--launcher slurm has no effect"),
        (["--slurm", "mem=1GB"], "add --launcher slurm"),
        (["--no-wait", "--to-wandb", "f.yaml"], "add --launcher slurm"),
        (["--to-wandb", "f.yaml", "--launcher", "slurm", "--no-wait"], "--no-wait has no effect"),
    ],
)
def test_options_of_a_grid_are_used_or_refused(words, match, runs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "method=erm", "data=digits", *words]) == 2
    assert match in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_run_records_its_scores(runs, tiny, capsys):
    assert cli.main(["run", "method=mixup", *tiny]) == 0
    assert "top1" in capsys.readouterr().out
    assert cli.main(["leaderboard", str(runs), "--format", "json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert group["rows"][0]["method"] == "mixup"
    assert group["smoke_test"] is True


def test_the_leaderboard_goes_to_w_and_b_too(runs, tiny, capsys, plain_wandb):
    assert cli.main(["run", "method=mixup", *tiny]) == 0
    capsys.readouterr()
    assert cli.main(["leaderboard", str(runs), "--wandb"]) == 0
    shown = capsys.readouterr()
    assert "mixup" in shown.out
    assert "W&B: offline, upload with: wandb sync" in shown.err
    (table,) = runs.glob("wandb/offline-run-*/files/media/table/*.json")
    assert "mixup" in table.read_text()


def test_missing_data_is_a_user_error(runs, capsys):
    assert cli.main(["run", "data=pack", "data.train=no.npz", "data.test=no.npz"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_show_draws_a_picture_and_refuses_other_files(runs, tiny, tmp_path, capsys):
    from PIL import Image

    path = tmp_path / "mixed.png"
    assert cli.main(["show", "method=cutmix", *tiny, "-o", str(path)]) == 0
    with Image.open(path) as picture:
        assert picture.size[0] > 300
        colours = picture.getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 20
    assert cli.main(["show", *tiny, "-o", "mixed.txt"]) == 2
    words = ["show", "method=cutmix", *tiny, "--corruptions", "-o", str(path)]
    assert cli.main(words) == 2  # which has no part in such a picture
    assert cli.main(["show", *tiny, "-o", "no/such/folder/x.png"]) == 2


@pytest.mark.slow
def test_show_draws_a_finished_run_with_its_weights(runs, tiny, tmp_path, capsys):
    words = ["method=alignmix", "method.layers=[2]", *tiny]
    paths = [tmp_path / name for name in ("before.png", "after.png", "again.png")]
    assert cli.main(["show", *words, "-o", str(paths[0])]) == 0
    assert cli.main(["run", *words]) == 0
    (folder,) = runs.iterdir()
    assert cli.main(["show", str(folder), "-o", str(paths[1])]) == 0
    assert cli.main(["show", folder.name, "-o", str(paths[2])]) == 0
    before, after, again = (path.read_bytes() for path in paths)
    assert before != after
    assert after == again
    capsys.readouterr()
    assert cli.main(["show", folder.name, "net.width=8", "-o", str(paths[2])]) == 2
    assert "does not fit the network" in capsys.readouterr().err
    assert cli.main(["show", "no-such-run", "-o", str(paths[2])]) == 2
    assert "no such run" in capsys.readouterr().err


def test_show_draws_several_methods_or_runs_as_a_matrix(runs, tiny, tmp_path, capsys):
    path = tmp_path / "matrix.svg"
    words = ["method=mixup,cutmix", *tiny, "--images", "2", "--columns", "image,cutmix,mixup"]
    assert cli.main(["show", *words, "-o", str(path)]) == 0
    shown = path.read_text()
    assert [shown.count(f">{name}</text>") for name in ("image", "cutmix", "mixup")] == [1, 1, 1]
    assert shown.count("<image") == 6
    assert "partner" not in shown
    for name in ("mixup", "samix"):
        assert cli.main(["run", f"method={name}", *tiny]) == 0
    names = [folder.name for folder in runs.iterdir()]
    assert cli.main(["show", *names, "-o", str(path)]) == 0
    shown = path.read_text()
    assert all(f">{name}</text>" in shown for name in ("mixup", "samix", "partner"))
    assert "nitial weights" not in shown
    assert cli.main(["show", names[0], names[0], "-o", str(path)]) == 2
    assert cli.main(["show", *names, "method=mixup,cutmix", "-o", str(path)]) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=mixup,mixup"], "twice"),
        (["method=mixup,"], "twice, or an empty name"),
        (["method=mixup,nosuch"], "nosuch"),
        (["method=mixup", "--columns", "partner,mask"], "no column 'mask'"),
        (["method=mixup", "--images", "33"], "between 1 and"),
        (["method=mixup,cutmix", "method.alpha=0"], "alpha"),
    ],
)
def test_show_refuses_what_it_cannot_draw_in_one_line(runs, tiny, tmp_path, capsys, words, told):
    path = tmp_path / "mixed.png"
    assert cli.main(["show", *tiny, *words, "-o", str(path)]) == 2
    shown = capsys.readouterr().err
    assert told in shown.splitlines()[0]
    assert not path.exists()


def test_check_reports_every_rule_and_fails_for_a_broken_method(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_method.py").write_text(
        "from mixbench.methods.base import Method\n"
        "class Doubles(Method):\n"
        "    def mix(self, x, targets, **decisions):\n"
        "        return super().mix(x, 2 * targets)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "mixup"]) == 0
    assert f"{len(RULES)} of {len(RULES)} rules kept" in capsys.readouterr().out
    assert cli.main(["check", "broken_method:Doubles"]) == 3
    shown = capsys.readouterr().out
    assert "FAIL  Labels of each row sum to 1" in shown
    assert cli.main(["check", "broken_method:Missing"]) == 2


@pytest.mark.slow
def test_a_bench_ranks_skips_what_is_done_and_reports_what_failed(tmp_path, monkeypatch):
    env = {"MIXBENCH_RUNS": str(tmp_path / "runs"), "WANDB_MODE": "disabled"}
    (tmp_path / "fails_late.py").write_text(
        "from mixbench.methods.base import Method\n"
        "class Fails(Method):\n"
        "    def mix(self, x, targets, **decisions):\n"
        "        raise RuntimeError('planted failure')\n"
    )
    words = [
        "data=digits",
        "data.limit=128",
        "net.width=4",
        "eval.suites=[]",
        "epochs=1",
        "batch_size=32",
    ]
    grid = ["bench", "method=cutmix,erm", "seeds=0,1", *words]
    planned = call(*grid, "--dry-run", env=env, cwd=tmp_path)
    assert planned.returncode == 0
    assert "4 to do, about" in planned.stdout
    assert not (tmp_path / "runs").exists()

    first = make("bench", "METHOD=cutmix,erm", "SEEDS=0,1", f"ARGS={' '.join(words)}", env=env)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count(": done in ") == 4
    rows = [line for line in first.stdout.splitlines() if line.startswith(("cutmix ", "erm "))]
    assert [row.split()[:2] for row in rows] == [["cutmix", "2"], ["erm", "2"]]
    assert f"\nreport: {tmp_path / 'runs' / 'report.html'}\n" in first.stdout
    said = [line for line in first.stdout.splitlines() if not line.startswith("make")]
    assert said[-1].startswith("No verdict")  # digits are a smoke test
    shared = {read_record(path).shared_cores for path in find_runs([tmp_path / "runs"])}
    assert shared == {len(os.sched_getaffinity(0)) > 1}

    shown = make("leaderboard", env=env)
    assert [row in shown.stdout for row in rows] == [True, True]

    # The same plan in another order and with more in it: nothing done is repeated, and a run
    # that fails costs nothing but itself.
    second = call(
        "bench", "method=erm,fails_late:Fails,cutmix", "seeds=1,0", *words, env=env, cwd=tmp_path
    )
    assert second.returncode == 5, second.stdout + second.stderr
    assert second.stdout.count(": done in ") == 0
    assert second.stdout.count("planted failure") >= 2
    assert "Traceback" not in second.stdout + second.stderr

    # Alone and in this process: the weights are those of the bench.
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "alone"))
    assert cli.main(["run", "method=cutmix", *words, "seed=1", "wandb.mode=disabled"]) == 0
    import torch

    (place,) = (tmp_path / "alone").iterdir()
    states = [
        torch.load(folder / place.name / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (tmp_path / "alone", tmp_path / "runs")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_the_default_bench_ranks_every_method_above_95_percent_and_repeats_nothing(tmp_path):
    env = {"MIXBENCH_RUNS": str(tmp_path)}
    first = make("bench", env=env)
    assert first.returncode == 0, first.stdout + first.stderr
    found = {}
    for path in tmp_path.glob("*/record.json"):
        record = json.loads(path.read_text())
        found[record["method"]] = record["metrics"]["top1"]
    assert set(found) >= {"erm", "mixup", "cutmix", "bc", "manifoldmixup"}
    assert min(found.values()) >= 95, found  # of a narrow network after ten epochs
    second = make("bench", env=env)
    assert second.returncode == 0
    assert ": done in " not in second.stdout


LONG = "n" * 300


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """A folder with things that are not what a path should lead to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "plan.yaml").write_text('base: "a\x07"\n')
    return tmp_path


PATHS = ["file", "file/below", "broken", "loop", LONG, "pipe"]


@pytest.mark.parametrize("place", PATHS, ids=lambda text: text[:12])
@pytest.mark.parametrize(
    "words", [["leaderboard"], ["report"], ["resume", "x"], ["verify", "x"]], ids=str
)
@pytest.mark.usefixtures("strange")
def test_a_folder_of_runs_that_is_none_is_a_users_error(words, place, monkeypatch, capsys):
    monkeypatch.setenv("MIXBENCH_RUNS", place)
    assert cli.main(words) == 2
    assert "--debug" not in capsys.readouterr().err


@pytest.mark.parametrize("name", PATHS, ids=lambda text: text[:12])
@pytest.mark.parametrize(
    "command",
    [
        "leaderboard",
        "report",
        "resume",
        "verify",
        "info",
        "sweep",
        "run --config",
        "compare --mine a --with b",
    ],
)
@pytest.mark.usefixtures("strange")
def test_a_path_that_leads_to_nothing_usable_is_a_users_error(command, name, capsys):
    assert cli.main([*command.split(), name]) == 2
    shown = capsys.readouterr().err
    assert "--debug" not in shown
    assert len(shown.splitlines()) <= 3


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "plan.yaml"],
        ["run", "run.notes=\x01"],
        ["run", "method=mixup", "method.alpha=\x07"],
        ["run", "method=os:system"],
        ["run", "method=os:nothing"],
        ["run", "method=os.path:join"],
        ["run", "method=json:JSONDecoder"],
        ["run", "method=antigravity_none:X"],
        ["run", "method=ends:X"],
        ["run", "method=fails:X"],
    ],
    ids=lambda words: words[-1],
)
def test_what_is_no_method_and_no_text_is_a_users_error(words, strange, monkeypatch, capsys):
    (strange / "ends.py").write_text("raise SystemExit(7)")
    (strange / "fails.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(strange))
    assert cli.main(words) == 2
    assert "--debug" not in capsys.readouterr().err


def test_a_full_disk_is_no_error_of_the_user(monkeypatch, capsys):
    def full(args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mixbench.cli.names.info", full)
    assert cli.main(["info", "erm"]) == 3
    shown = capsys.readouterr().err
    assert "free some space" in shown
    assert "--debug" not in shown


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_without_our_signs_still_shows_tables(tmp_path, monkeypatch, encoding):
    for seed in (0, 1):
        folder = tmp_path / f"r{seed}"
        folder.mkdir()
        metrics = {"top1": 90.0, "nll": float("nan"), "top1_best_test": 91.0}
        names = dict.fromkeys(("data", "net", "recipe", "config_hash", "recipe_hash"), "é\u2020")
        record = Record(
            id=folder.name,
            method="erm",
            seed=seed,
            epochs=1,
            select="val",
            status="done",
            metrics=metrics,
            **names,
        )
        write_record(folder, record)
        row = {"epoch": 0, "step": 1, "val/top1": 90.0 + seed}
        write_curves(folder / "metrics.csv", [row])
    for words in ([], ["--curve"], ["--format", "markdown"], ["--literature"]):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stream)
            assert cli.main(["leaderboard", str(tmp_path), *words]) == 0
        shown = stream.buffer.getvalue().decode(encoding)
        assert "90." in shown
        assert ("\N{EN DASH}" in shown or "\N{PLUS-MINUS SIGN}" in shown) == (encoding == "utf-8")
