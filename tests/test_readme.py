"""What the README and the pages of the site tell people to type is typed here.

Every command of every page is parsed and composed; the README's run, and the slow tests run those
of the pages in :data:`RUN`.
"""

import ast
import doctest
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from mixbench import cli
from mixbench.cli.elicit import join_parts
from mixbench.cli.parser import _parser
from mixbench.records.record import read_record
from mixbench.testing.contract import check_method

OF_A_RUN = ["eval", "export", "leaderboard", "plot", "report", "resume", "show", "verify"]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in FILES}
README = PAGES["README"]
# Pages for whose commands the workplace below has all that they need.
RUN = ["quickstart", "data-sets", "networks", "training", "choosing-a-method", "pictures"]
RUN += ["tables", "metrics", "published", "sweeps", "when-it-stops", "many-machines", "own-parts"]
SMALL = ["data.limit=64", "net.width=4", "epochs=1", "batch_size=16", "wandb.mode=disabled"]
SMALL += ["eval.suites=[calibration]"]
OTHERS = {"git", "export", "pip", "python"}  # programs of others, whose words are not looked at
# Pages that a build of the site writes.
BUILT = re.compile(r"reference/(methods/index|python/\w+|commands|keys|scores|results/[\w-]+)\.\w+")


def blocks(language, text=README):
    """The text of all blocks of a language, those inside of a list included."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


def commands(text=README):
    lines = "\n".join(blocks("sh", text)).replace("\\\n", " ").splitlines()
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [found for found in words if found]


def own(text=README):
    """Words behind `mixbench`, however it is started."""
    for words in commands(text):
        if words[0] in ("mixbench", "exec"):
            yield words[words.index("mixbench") + 1 :]
        elif words[0] == "torchrun":
            yield words[words.index("-m") + 2 :]


def examples():
    """Files that pages show as a whole, by name."""
    found = [block for text in PAGES.values() for block in blocks("python", text)]
    named = [(re.match(r"# (\w+\.py)\n", block), block) for block in found]
    return {name[1]: block for name, block in named if name}


@pytest.fixture
def workplace(tmp_path, monkeypatch, runs):
    """A folder with the files of all pages, an image folder and a pack; one run is finished."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, block in examples().items():
        Path(name).write_text(block)
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


def test_the_readme_stays_short_and_begins_with_the_bench():
    assert len(README.splitlines()) <= 150
    assert [words[0] for words in commands()[:3]] == ["git", "cd", "make"]
    assert commands()[2][1] == "bench"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses_and_its_configuration_composes(workplace, page):
    from mixbench.config.compose import compose
    from mixbench.launch.plan import expand

    for words in own(PAGES[page]):
        args, rest = _parser().parse_known_args(join_parts(words))
        assert not [word for word in rest if word.startswith("-")], words
        given = [*getattr(args, "overrides", []), *rest]
        given = [word for word in given if "=" in word]
        if words[0] == "bench":
            assert expand(given), words
        elif words[0] in ("run", "show") and "," not in dict(
            word.split("=", 1) for word in given
        ).get("method", ""):
            assert compose(given, strict=True), words


@pytest.mark.parametrize("page", PAGES)
def test_every_other_program_is_known_and_every_target_of_make_exists(page):
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(PAGES[page]):
        if words[0] == "make":
            assert words[1] in targets
        else:
            assert words[0] in OTHERS | {"mixbench", "exec", "torchrun", "cd"}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_to_one(page):
    folder = ROOT if page == "README" else ROOT / "docs"
    text = re.sub(r"^ *```.*?^ *```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#][^)]*)\)", re.sub(r"`[^`]*`", "", text)):
        path, _, place = target.partition("#")
        if "://" in target or BUILT.fullmatch(path):
            continue
        assert (folder / path).exists(), target
        if place:
            titles = re.findall(r"^#+ (.*)", (folder / path).read_text(), re.MULTILINE)
            names = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert unquote(place) in names, target


def test_every_page_stands_in_the_contents():
    lines = PAGES["index"].splitlines()
    assert [page for page in PAGES if page not in ("README", "index") and page not in lines] == [
        page for page in PAGES if f"{page}*" in lines
    ]


def test_pictures_are_small():
    found = list((ROOT / "docs" / "pictures").iterdir())
    assert len(found) >= 2
    assert all(path.stat().st_size <= 100_000 for path in found)


def carry_out(words, runs):
    if words[0] == "run":
        words = [*words, *SMALL]
    elif words[0] == "reproduce":
        words = [*words, "net.width=4"]
    elif words[0] == "show" and "runs/ID" not in words:
        words = [*words[:-2], *SMALL, *words[-2:]]
    elif words[0] == "compare":
        for method in ("cutmix", "erm"):
            assert cli.main(["run", "data=digits", f"method={method}", *SMALL]) == 0
    elif words[0] in OF_A_RUN:
        assert cli.main(["run", "data=digits", "method=mixup", *SMALL]) == 0
        (folder,) = runs.iterdir()
        words = [word.replace("runs/ID", str(folder)) for word in words]
    return cli.main(words)


@pytest.mark.parametrize("words", [w for w in own() if w[0] != "bench"], ids=" ".join)
def test_every_command_of_the_readme_works(workplace, words, runs, capsys, plain_wandb):
    assert carry_out(words, runs) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [w for page in RUN for w in own(PAGES[page]) if w[0] != "bench" and "num_nodes=2" not in w],
    ids=" ".join,
)
def test_every_command_of_the_pages_works(workplace, words, runs, capsys, plain_wandb):
    assert carry_out(words, runs) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES)
def test_examples_in_python_are_python_and_give_what_they_say(page):
    for number, block in enumerate(blocks("python", PAGES[page])):
        if ">>>" not in block:
            ast.parse(block)
            continue
        name = f"{page}, block {number + 1}"
        test = doctest.DocTestParser().get_doctest(block, {}, name, name, 0)
        assert doctest.DocTestRunner().run(test).failed == 0


def test_the_plain_pytorch_example_runs():
    (example,) = [block for block in blocks("python") if "F.cross_entropy" in block]
    scope = {}
    exec(example, scope)
    assert scope["loss"].item() > 0


def test_the_example_of_a_run_in_python_runs(workplace, plain_wandb, capsys):
    (example,) = [block for block in blocks("python", PAGES["quickstart"]) if "compose" in block]
    exec(example.replace("epochs=1", "epochs=1 data.limit=64 eval.suites=[calibration]"), {})
    assert 0 <= float(capsys.readouterr().out.splitlines()[-1]) <= 100


def test_the_scores_of_a_run_are_computed_again(workplace, runs, capsys):
    found = blocks("python", PAGES["metrics"])
    (example,) = [block for block in found if "read_predictions" in block]
    assert cli.main(["run", "data=digits", *SMALL]) == 0
    (folder,) = runs.iterdir()
    capsys.readouterr()
    exec(example.replace("runs/ID", str(folder)), {})
    printed = ast.literal_eval(capsys.readouterr().out)
    assert printed == pytest.approx(read_record(folder).metrics, rel=1e-6)


def test_the_example_of_people_s_answers_runs(workplace, runs):
    found = blocks("python", PAGES["metrics"])
    (example,) = [block for block in found if "scores_against_people" in block]
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


def test_the_stranger_s_network_data_and_suite_work_together(workplace, runs):
    words = ["net=tiny:tiny_cnn", "data=stripes:Stripes", *SMALL[1:-1]]
    assert cli.main(["run", *words, "eval.suites=[calibration,mirrored:Mirrored]"]) == 0
    (folder,) = runs.iterdir()
    # Mirrored stripes look alike.
    assert read_record(folder).metrics["mirrored_top1"] == pytest.approx(
        read_record(folder).metrics["top1"], abs=15
    )


def test_the_method_table_names_every_method():
    from mixbench.methods import METHODS

    first = README.index("| `erm` |")
    table = README[first : README.index("\n\n", first)]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(METHODS.table)


def test_the_table_of_plots_names_every_kind():
    from mixbench.leaderboard.plots.kinds import SHOWN

    text = PAGES["tables"]
    first = text.index("| `forest` |")
    table = text[text.rindex("\n\n", 0, first) : text.index("\n\n", first)]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(SHOWN)
