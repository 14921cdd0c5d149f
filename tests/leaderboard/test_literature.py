"""Published figures: what is in the files, how they are read and shown."""

import dataclasses

import pytest
import yaml
from paths import ROOT

from mixbench.config import yaml_files
from mixbench.config.compose import compose_text
from mixbench.errors import UserError
from mixbench.leaderboard.literature import METRICS, figures, read_figures
from mixbench.leaderboard.render import literature_table, render
from mixbench.leaderboard.rows import Leaderboard
from mixbench.records.selection import CHOICES

FOLDER = ROOT / "experiments" / "literature"
FILES = sorted(FOLDER.glob("*.yaml"))
EVERY = figures()
LINKED = [figure for figure in EVERY if figure.recipe]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_parses_and_says_whence_and_how_chosen(path):
    found = read_figures(path)
    assert found
    for figure in found:
        assert figure.source
        assert figure.metric in METRICS
        assert figure.select in (*CHOICES, "unknown")
        assert 0 < figure.value < 100
    settings = [dataclasses.replace(figure, value=0.5) for figure in found]
    assert len(set(settings)) == len(settings), "a setting stands twice"


def test_names_are_ours_or_declared_as_foreign():
    from mixbench.backbones import NETS
    from mixbench.data import DATA
    from mixbench.methods import METHODS

    for path in FILES:
        foreign = yaml.safe_load(path.read_text()).get("foreign", {})
        for kind, registry, key in (
            ("methods", METHODS, "method"),
            ("data", DATA, "data"),
            ("nets", NETS, "net"),
        ):
            used = {getattr(figure, key) for figure in read_figures(path)}
            declared = foreign.get(kind, [])
            assert used <= {*registry.names(), *declared}
            assert set(declared) <= used, f"{path.name}: declared and not used"


@pytest.mark.parametrize(
    ("where", "value", "select"),
    [
        (("alignmix", "cifar100", "preactresnet18"), 81.71, "best"),
        (("alignmix", "cifar100", "wrn16x8"), 80.18, "median10"),
        (("alignmix", "tinyimagenet", "preactresnet18"), 65.79, "last"),
        (("mixup", "cifar10", "preactresnet18"), 4.24, "median10"),
        (("manifoldmixup", "cifar10", "preactresnet18"), 2.89, "best"),
        (("cutmix", "cifar100", "pyramidnet200"), 14.23, "best"),
        (("cutmix", "cifar100", "pyramidnet200"), 14.47, "best"),
        (("cutmix", "cifar100", "pyramidnet200"), 15.07, "last"),
        (("cutmix", "imagenet", "resnet50"), 21.40, "unknown"),
        (("bc", "cifar10", "cnn11"), 5.40, "last"),
        (("samix", "cifar100", "resnext50"), 84.27, "median10"),
        (("samix", "cifar100", "wrn28x8"), 85.50, "median10"),
        (("samix", "tinyimagenet", "resnext50"), 72.18, "median10"),
        (("samix", "imagenet", "resnet50"), 78.14, "median5"),
        (("automix", "cifar100", "deit_small"), 76.24, "best10"),
        (("tdattenmix", "cifar100", "deit_small"), 73.32, "unknown"),
        (("tlalign", "imagenet", "deit_small"), 80.6, "best"),
        (("augmix", "imagenet", "resnet50"), 77.53, "unknown"),
        (("splicemix", "coco", "resnet101"), 84.4, "best"),
    ],
)
def test_known_figures_stand_where_they_belong(where, value, select):
    method, data, net = where
    found = [each for each in EVERY if (each.method, each.data, each.net) == (method, data, net)]
    assert (value, select) in {(each.value, each.select) for each in found}


def test_figures_that_nobody_verified_are_not_there():
    unverified = {
        ("mixup", "cifar100", 21.1),
        ("mixup", "cifar10", 3.9),
        ("manifoldmixup", "cifar10", 2.95),
        ("manifoldmixup", "cifar100", 20.34),
        ("augmix", "cifar10", 11.2),
    }
    assert not unverified & {(each.method, each.data, each.value) for each in EVERY}
    assert "transformmix_recon" not in {each.method for each in EVERY}


@pytest.mark.parametrize(
    "figure",
    LINKED,
    ids=lambda f: f"{f.method}-{f.data}-{f.net}-{f.epochs}-{f.select}-{f.value}",
)
def test_a_linked_recipe_composes_and_trains_as_long_as_was_published(figure):
    words = [f"method={figure.method}", f"data={figure.data}", f"net={figure.net}"]
    config = compose_text(
        [*words, f"recipe={figure.recipe}", *figure.overrides], strict=True
    ).config
    assert figure.epochs in (None, config.epochs)
    assert config.select == "last"


def test_errors_become_accuracies_for_comparison_only():
    (figure, *_) = figures("mixup", "cifar10", "preactresnet18")
    assert (figure.value, figure.metric) == (4.24, "top1_err")
    assert (figure.comparable, figure.score) == (95.76, "top1")
    (other, *_) = figures("alignmix", "cifar10", "wrn16x8")
    assert (other.comparable, other.score) == (96.91, "top1")


GOOD = {
    "title": "A paper",
    "source": "its README",
    "foreign": {"methods": ["elsemix"], "nets": ["net99"]},
    "figures": [
        {"data": "cifar10", "net": "net99", "epochs": 5, "values": {"mixup": 90, "elsemix": 91.5}},
        {
            "data": "cifar10",
            "net": "preactresnet18",
            "n": 3,
            "select": "best",
            "source": "a log",
            "values": {"mixup": 92},
            "recipe": {"mixup": "quick"},
            "overrides": {"mixup": ["epochs=3"]},
        },
    ],
}


def written(tmp_path, changes):
    content = {**GOOD, **{key: value for key, value in changes.items() if key != "figure"}}
    if "figure" in changes:
        content["figures"] = [{**GOOD["figures"][1], **changes["figure"]}]
    path = tmp_path / "paper.yaml"
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def test_keys_at_the_top_stand_for_all_figures(tmp_path):
    first, second, third = read_figures(written(tmp_path, {}))
    assert (first.method, first.value, first.source, first.epochs) == ("mixup", 90, "its README", 5)
    assert (second.method, second.value, second.select) == ("elsemix", 91.5, "unknown")
    assert (third.source, third.n, third.select, third.recipe) == ("a log", 3, "best", "quick")
    assert third.overrides == ("epochs=3",)
    assert first.overrides == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": None}, "title: None must be text"),
        ({"figures": None}, "figures must be a list"),
        ({"figures": ["x"]}, "must hold `key: value` pairs"),
        ({"sorce": "x"}, "unknown key 'sorce'; did you mean 'source'"),
        ({"foreign": {"method": []}}, "unknown key 'method'; did you mean 'methods'"),
        ({"notes": "x"}, "notes must be a list"),
        ({"source": None, "figures": [GOOD["figures"][0]]}, "source is missing"),
        ({"figure": {"data": "cifar11"}}, "unknown data set 'cifar11'; did you mean"),
        ({"figure": {"net": "preactresnet19"}}, "unknown net(.|\n)*foreign: nets"),
        ({"figure": {"values": {"mixop": 3}, "recipe": {}, "overrides": {}}}, "method 'mixop'"),
        ({"figure": {"values": {"mixup": "high"}}}, "'high' is not a value in percent"),
        ({"figure": {"values": {"mixup": 100.5}}}, "100.5 is not a value in percent"),
        ({"figure": {"values": {"mixup": True}}}, "True is not a value in percent"),
        ({"figure": {"values": {}, "recipe": {}, "overrides": {}}}, "values are missing"),
        ({"figure": {"values": [3]}}, "values must map methods"),
        ({"figure": {"metric": "top2"}}, "unknown metric 'top2'"),
        ({"figure": {"select": "bests"}}, "unknown select 'bests'; did you mean 'best'"),
        ({"figure": {"epochs": "many"}}, "epochs: 'many' must be a whole number"),
        ({"figure": {"epochs": 0}}, "epochs must be >= 1"),
        ({"figure": {"n": True}}, "n: True must be a whole number"),
        ({"figure": {"recipe": {"mixup": "quik"}}}, "unknown recipe 'quik'; did you mean 'quick'"),
        ({"figure": {"recipe": {"cutmix": "quick"}}}, "cutmix has no value here"),
        ({"figure": {"recipe": {}}}, "mixup has overrides and no recipe"),
        ({"figure": {"overrides": {"mixup": "epochs=3"}}}, "overrides must be a list"),
        (
            {"figure": {"overrides": {"mixup": ["net=hostile:Net"]}}},
            "names code that would be imported",
        ),
        ({"figure": {"needs": [3]}}, "needs: 3 must be text"),
        ({"figure": {"year": 2020}}, "unknown key 'year'"),
    ],
)
def test_malformed_files_are_refused_with_file_and_figure(tmp_path, changes, message):
    path = written(tmp_path, changes)
    with pytest.raises(UserError, match=message) as caught:
        read_figures(path)
    if "figure" in changes and "recipe 'quik'" not in message:
        assert caught.value.where == f"{path}, figure 1"


def test_a_table_of_literature_stands_apart(monkeypatch):
    found = figures("alignmix", "cifar100")
    text = literature_table(found)
    assert text.startswith("Literature: published figures, never ranked")
    assert "81.71" in text
    assert "best epoch on the test set" in text
    assert "median10 means the median of the last 10" in text
    markdown = literature_table(found, "markdown")
    assert "| alignmix | cifar100 | preactresnet18 | 2000 | 81.71 | top1 | best | 1 |" in markdown
    assert "There are none for this data" in literature_table([])
    assert "81.71" not in render(Leaderboard([]))


def test_figures_of_the_working_directory_come_first(tmp_path, monkeypatch):
    place = tmp_path / "experiments" / "literature"
    place.mkdir(parents=True)
    (place / "own.yaml").write_text(yaml.safe_dump(GOOD))
    monkeypatch.chdir(tmp_path)
    assert "own" in yaml_files.names("literature")
    assert {each.title for each in figures("elsemix")} == {"A paper"}
