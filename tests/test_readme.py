"""What the README tells people to type is typed here."""

import ast
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from mixbench import cli
from mixbench.cli.parser import _parser
from mixbench.records.record import read_record
from mixbench.testing.contract import check_method

README = (ROOT / "README.md").read_text()
SMALL = ["data.limit=64", "net.width=4", "epochs=1", "batch_size=16", "wandb.mode=disabled"]
SMALL += ["eval.suites=[calibration]"]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


OWN = [words[1:] for words in commands() if words[0] == "mixbench"]


@pytest.fixture
def workplace(tmp_path, monkeypatch, runs):
    """A folder with the README's method, an image folder and a pack; one run is finished."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (own_method,) = [block for block in blocks("python") if block.startswith("# noisy.py")]
    Path("noisy.py").write_text(own_method)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    for name, pixels in (("TRAIN", images), ("TEST", 255 - images)):
        np.savez(f"{name}.npz", images=pixels, label=np.arange(64) % 2)
    for index, image in enumerate(images):
        for part in ("train", "val"):
            folder = Path("FOLDER") / part / str(index % 2)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index}.png")
    np.save("maps.npy", rng.random((64, 8, 8)))  # of digits, as many as are tested
    return tmp_path


def test_the_first_two_commands_are_bench_and_test():
    assert [words[:2] for words in commands()[:2]] == [["make", "bench"], ["make", "test"]]


@pytest.mark.parametrize("words", [w for w in OWN if w[0] != "bench"], ids=" ".join)
def test_every_command_works(workplace, words, runs, capsys, plain_wandb):
    if words[0] == "run":
        words = [*words, *SMALL]
    elif words[0] == "reproduce":
        words = [*words, "net.width=4"]
    elif words[0] == "show" and "runs/ID" not in words:
        words = [*words[:-2], *SMALL, *words[-2:]]
    elif words[0] == "compare":
        for method in ("cutmix", "erm"):
            assert cli.main(["run", "data=digits", f"method={method}", *SMALL]) == 0
    elif words[0] in ("eval", "export", "leaderboard", "plot", "resume", "show", "verify"):
        assert cli.main(["run", "data=digits", "method=mixup", *SMALL]) == 0
        (folder,) = runs.iterdir()
        words = [word.replace("runs/ID", str(folder)) for word in words]
    assert cli.main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", [w for w in OWN if w[0] == "bench"], ids=" ".join)
def test_every_bench_composes(workplace, words):
    from mixbench.launch.plan import expand

    assert expand(_parser().parse_args(words).overrides)


def test_the_make_commands_name_targets_that_exist():
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {words[1] for words in commands() if words[0] == "make"}
    assert named <= set(targets)


def test_the_plain_pytorch_example_runs():
    (example,) = [block for block in blocks("python") if "F.cross_entropy" in block]
    scope = {}
    exec(example, scope)
    assert scope["loss"].item() > 0


def test_the_scores_of_a_run_are_computed_again(workplace, runs, capsys):
    (example,) = [block for block in blocks("python") if "read_predictions" in block]
    assert cli.main(["run", "data=digits", *SMALL]) == 0
    (folder,) = runs.iterdir()
    capsys.readouterr()
    exec(example.replace("runs/ID", str(folder)), {})
    printed = ast.literal_eval(capsys.readouterr().out)
    assert printed == pytest.approx(read_record(folder).metrics, rel=1e-6)


def test_the_example_of_people_s_answers_runs(workplace, runs):
    (example,) = [block for block in blocks("python") if "scores_against_people" in block]
    scope = {}
    exec(example, scope)
    words = ["run", "data=pack", "data.train=TRAIN.npz", "data.test=TEST.npz", *SMALL]
    assert cli.main(words) == 0
    (folder,) = runs.iterdir()
    labels = np.arange(64) % 2
    np.savez("people.npz", counts=np.eye(2)[labels] * 49 + 1, labels=labels)
    found = scope["scores_against_people"](folder, "people.npz")
    assert found["ce_human"] > found["entropy_human"] > 0


def test_the_stranger_s_method_fits_in_thirty_lines_and_keeps_the_contract(workplace):
    assert len(Path("noisy.py").read_text().splitlines()) <= 30
    assert [result for result in check_method("noisy:NoisyMix") if result.error] == []
    assert cli.main(["run", "method=noisy:NoisyMix", "data=digits", *SMALL]) == 0
    assert cli.main(["run", "method=noisy:NoisyMix", "method.noise=-1", *SMALL]) == 2


def test_the_method_table_names_every_method():
    from mixbench.methods import METHODS

    rows = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert sorted(rows) == sorted(METHODS.table)
