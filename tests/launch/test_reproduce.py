"""The command that repeats a published figure."""

import pytest
import yaml

from mixbench import cli, compose
from mixbench.errors import UserError
from mixbench.launch.reproduce import (
    choose_figure,
    expected_info,
    matching_figures,
    official_words,
    recipe_changes,
)

OFFICIAL = "method=mixup data=cifar10 net=preactresnet18 recipe=mixup_cifar"


def test_a_figure_leads_to_its_recipe():
    plain, heavy = matching_figures("mixup", "cifar10", "preactresnet18")
    assert official_words(plain) == [*OFFICIAL.split(), "peek=true"]  # a median of epochs
    assert "optim.weight_decay=5.0e-4" in official_words(heavy)
    last = [f for f in matching_figures("alignmix", "cifar10", "wrn16x8") if f.select == "last"]
    assert "peek=true" not in official_words(last[0])
    own, *others = matching_figures("samix", "cifar100", "resnext50")
    assert (own.epochs, own.overrides) == (400, ())  # the recipe as it stands comes first
    assert {figure.epochs for figure in others} == {200, 800, 1200}


def test_what_is_not_published_or_has_no_recipe_is_refused_with_what_there_is():
    with pytest.raises(UserError, match=r"no published figure(.|\n)*cifar100 resnext50"):
        matching_figures("samix", "digits", "preactresnet18")
    with pytest.raises(UserError, match=r"resnet18_cifar \(not part of mixbench\), resnext50"):
        matching_figures("cutmix", "cifar100", "resnet18")  # that of info is not torchvision's
    with pytest.raises(UserError, match=r"recipe is not part of mixbench: 14.23 top1_err"):
        matching_figures("cutmix", "cifar100", "pyramidnet200")
    with pytest.raises(UserError, match=r"one of 2 figures(.|\n)*give 1 to 2"):
        choose_figure(matching_figures("mixup", "cifar10", "preactresnet18"), 3)
    with pytest.raises(UserError, match="one of 2 figures"):
        choose_figure(matching_figures("mixup", "cifar10", "preactresnet18"), 0)


def test_only_what_decides_a_result_counts_as_a_change():
    figure = matching_figures("mixup", "cifar10", "preactresnet18")[0]
    words = official_words(figure)
    aside = ["seed=3", "data.root=elsewhere", "trainer.threads=2", "run.notes=x"]
    assert recipe_changes(figure, compose([*words, *aside])) == {}
    assert recipe_changes(figure, compose([*words, "epochs=3", "method.alpha=0.5"])) == {
        "epochs": [200, 3],
        "method.alpha": [1.0, 0.5],
    }
    other = recipe_changes(figure, compose([*words, "data=digits"]))
    assert other["data.kind"] == ["cifar10", "digits"]


def test_what_a_recipe_needs_must_be_given_and_is_no_change():
    (figure,) = matching_figures("samix", "cub200", "resnet18")
    words = official_words(figure)
    with pytest.raises(UserError, match=r"needs net.weights: from weights trained on ImageNet"):
        recipe_changes(figure, compose(words))
    given = compose([*words, "net.weights=resnet18.pth"])
    assert recipe_changes(figure, given) == {}


def test_the_cost_is_known_before_the_data_is():
    info = expected_info(compose(OFFICIAL).data)
    assert info is not None
    assert (info.num_classes, info.height, info.train_size) == (10, 32, 50_000)
    few = expected_info(compose([*OFFICIAL.split(), "data.limit=100", "data.size=64"]).data)
    assert few is not None
    assert (few.height, few.train_size) == (64, 100)
    half = expected_info(compose([*OFFICIAL.split(), "data.train_fraction=0.5"]).data)
    assert half is not None
    assert half.train_size == 25_000
    assert expected_info(compose("data=digits").data) is None


def test_without_leave_the_cost_is_told_and_nothing_is_started(runs, capsys, monkeypatch):
    timed = []

    def estimate(job, info):
        timed.append((job.config.batch_size, info.train_size, job.config.epochs))
        return 7200.0

    monkeypatch.setattr("mixbench.launch.reproduce.estimate_seconds", estimate)
    words = ["reproduce", "mixup", "--data", "cifar10", "--net", "preactresnet18"]
    assert cli.main([*words, "trainer.accelerator=cpu"]) == 0
    said = capsys.readouterr().out
    assert "4.24 top1_err = 95.76 top1, median of the last 10 epochs" in said
    assert "cost: 3 runs, about 6.0 h in all" in said
    assert "nothing was started" in said
    assert "cannot be compared" not in said
    assert timed == [(32, 50_000, 200)]
    assert not runs.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mixop"], "unknown method 'mixop'; did you mean 'mixup'"),
        (["mixup", "--data", "cifar11"], "unknown data set 'cifar11'"),
        (["mixup", "--net", "resnet"], "unknown net 'resnet'"),
        (["mixup", "--budget", "-1"], "--budget -1.0 must be >= 0"),
        (["mixup", "--seeds", "0,0"], "0,0 names one twice"),
        (["mixup", "epochs=x"], "epochs='x' has the wrong type"),
        (["mixup", "--figure", "9"], "one of 2 figures"),
    ],
)
def test_bad_words_are_refused(runs, capsys, words, message):
    given = ["reproduce", words[0], "--data", "cifar10", "--net", "preactresnet18", *words[1:]]
    assert cli.main(given) == 2
    assert message in capsys.readouterr().err
    assert not runs.exists()


def test_a_short_recipe_goes_the_whole_way_and_claims_nothing(
    runs, tmp_path, monkeypatch, capfd, tiny
):
    """One figure of our own on the digits, so that even the verdict can be had in seconds."""
    place = tmp_path / "experiments" / "literature"
    place.mkdir(parents=True)
    figure = {"data": "digits", "net": "preactresnet18", "select": "best", "source": "nowhere"}
    figure |= {"values": {"mixup": 99.9}, "recipe": {"mixup": "short"}}
    (place / "own.yaml").write_text(yaml.safe_dump({"title": "Ours", "figures": [figure]}))
    (place.parent / "recipe").mkdir()
    recipe = "epochs: 2\nbatch_size: 32\nnet:\n  width: 4\ndata:\n  limit: 64\n"
    (place.parent / "recipe" / "short.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", "mixup", "--data", "digits", "--net", "preactresnet18"]
    command += ["wandb.mode=disabled"]
    assert cli.main([*command, "--seeds", "0,1", "--budget", "1"]) == 0
    said, warned = capfd.readouterr()
    assert "fewer than 100" in warned
    assert "99.9 top1, best epoch on the test set: nowhere; Ours" in said
    assert "prediction interval" in said
    assert "verdict              outside" in said
    assert "cannot be compared" not in said
    assert len(list(runs.glob("mixup-digits-*"))) == 2

    assert cli.main([*command, "--seeds", "0,1"]) == 0  # done, so that it costs nothing
    assert "every run is done" in (said := capfd.readouterr().out)
    assert "verdict              outside" in said

    assert cli.main([*command, "--seeds", "0,5", "--budget", "0", "epochs=1"]) == 0
    said = capfd.readouterr().out
    assert "cannot be compared with the published figure" in said
    assert "nothing was started: add --yes, or a larger --budget" in said
    assert len(list(runs.iterdir())) == 2
