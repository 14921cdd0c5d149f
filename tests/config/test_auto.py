"""The recipe ``auto``: what the number of training images decides, and what is kept."""

import dataclasses
import itertools

import pytest
import torch
from making import write_flat

from mixbench import cli
from mixbench.config.auto import LEAST_EPOCHS, MOST_EPOCHS, STEPS, auto_values
from mixbench.config.compose import compose, to_plain
from mixbench.launch.plan import expand
from mixbench.training.job import resolve

NUMBERS = [4, 10, 37, 100, 300, 1_000, 3_000, 12_800, 50_000, 10**6]


@pytest.fixture
def flat(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    return write_flat(tmp_path / "zoo", {"ant": 15, "bee": 15})


@pytest.mark.parametrize("images", NUMBERS)
def test_every_number_of_images_gives_enough_steps_within_the_bounds(images):
    found = auto_values(images)
    assert 2 <= found.batch_size <= min(256, images // 2)
    assert LEAST_EPOCHS <= found.epochs <= MOST_EPOCHS
    steps = found.epochs * (images // found.batch_size)
    assert steps >= STEPS or found.epochs == MOST_EPOCHS
    assert steps < 2 * STEPS or found.epochs == LEAST_EPOCHS


def test_more_images_never_give_smaller_batches():
    found = [auto_values(images) for images in NUMBERS]
    for few, many in itertools.pairwise(found):
        assert few.batch_size <= many.batch_size
        assert few.lr <= many.lr
    assert {auto_values(images).epochs for images in (800, 1_000, 3_000, 12_800)} == {40}


def test_a_large_set_has_the_values_of_quick():
    quick = compose("data=cifar10 recipe=quick")
    found = auto_values(50_000)
    assert dataclasses.asdict(found) == {
        key: getattr(quick, key) for key in ("batch_size", "lr", "epochs")
    }
    auto = compose("data=cifar10 recipe=auto")
    assert auto.optim == quick.optim


def test_a_given_batch_size_decides_the_rest_and_devices_share_a_chosen_one():
    assert auto_values(3_000, batch_size=256).epochs == 182  # of 11 steps
    assert auto_values(3_000, batch_size=256).lr == 0.2
    assert auto_values(3_000, multiple=7).batch_size == 56
    assert auto_values(3_000).lr == 0.097
    assert auto_values(3_000, tuned=True).lr == 0.0097


@pytest.mark.parametrize(
    ("more", "epochs", "batch_size", "lr"),
    [
        ("", 200, 12, 0.043),
        ("epochs=3", 3, 12, 0.043),
        ("epochs=3 batch_size=12 lr=0.5", 3, 12, 0.5),
        ("batch_size=6", 200, 6, 0.031),
        ("data.train_fraction=0.5", 200, 4, 0.025),
        ("data.limit=10", 200, 4, 0.025),
        ("select=val data.val_fraction=0.5", 200, 4, 0.025),
        ("recipe=quick", 16, 256, 0.2),
    ],
)
def test_what_the_command_line_gives_is_kept(flat, more, epochs, batch_size, lr):
    config = resolve(compose(f"data=folder data.root={flat} {more}")).config
    assert (config.epochs, config.batch_size, config.lr) == (epochs, batch_size, lr)
    assert config.auto == []


def test_the_numbers_and_not_the_rule_are_the_identity(flat):
    words = f"data=folder data.root={flat}"
    job = resolve(compose(words))
    values = job.config
    told = f"epochs={values.epochs} batch_size={values.batch_size} lr={values.lr}"
    assert resolve(compose(f"{words} {told}")).identity == job.identity
    assert resolve(compose(f"{words} epochs=7")).identity.id != job.identity.id
    assert job.choice.startswith("recipe auto: 24 training images make epochs=200, batch_size=12, ")
    again = compose("", base=_saved(job, flat.parent / "config.yaml"))
    for index in range(40):  # a run goes on with its own numbers, however the folder grows
        (flat / "ant" / f"more{index}.png").write_bytes((flat / "ant/0.png").read_bytes())
    assert resolve(again).config == values
    assert resolve(compose(words)).identity.id != job.identity.id


def _saved(job, path):
    from omegaconf import OmegaConf

    path.write_text(OmegaConf.to_yaml(to_plain(job.config)))
    return path


def test_all_folds_have_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    zoo = write_flat(tmp_path / "zoo", {"ant": 17, "bee": 14})
    jobs = [
        resolve(compose(f"data=folder data.root={zoo} data.folds=4 data.fold={fold}"))
        for fold in range(4)
    ]
    assert len({job.identity.row_hash for job in jobs}) == 1
    assert len({job.identity.id for job in jobs}) == 4


def test_show_prints_the_numbers_and_where_they_come_from(flat, capsys):
    assert cli.main(["run", "data=folder", f"data.root={flat}", "--show"]) == 0
    out, err = capsys.readouterr()
    line = next(line for line in out.splitlines() if line.startswith("batch_size"))
    assert line.split() == ["batch_size:", "12", "#", "number", "of", "training", "images"]
    assert "24 training images make" in err
    assert cli.main(["run", "data=folder", "--show"]) == 0
    assert "which is not known: data.root is not given" in capsys.readouterr().err


def test_a_bench_of_folds_carries_out_all_or_the_one_that_is_named(flat):
    words = [f"data.root={flat}", "data=folder", "data.folds=3", "method=erm,mixup", "seeds=0,1"]
    runs = expand(words)
    assert len(runs) == 12
    folds = [[word for word in run.words if word.startswith("data.fold=")] for run in runs]
    assert folds[:6] == [[f"data.fold={fold}"] for fold in (0, 0, 1, 1, 2, 2)]
    assert len(expand([*words, "data.fold=1"])) == 4
    assert all("data.fold=1" in run.words for run in expand([*words, "data.fold=1"]))


@pytest.mark.parametrize(("instructions", "precision"), [(True, "bf16"), (False, "fp32")])
def test_the_precision_of_a_device_and_not_the_word_auto_is_the_identity(
    monkeypatch, instructions, precision
):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: instructions)
    words = "data=digits trainer.accelerator=cpu"
    job = resolve(compose(f"{words} precision=auto"))
    assert job.config.precision == precision
    assert job.choice.startswith(f"precision=auto: {precision}, as the processor of this machine ")
    assert job.identity == resolve(compose(f"{words} precision={precision}")).identity
    demixing = resolve(compose(f"{words} method=demixgan precision=auto"))
    assert demixing.config.precision == "fp32"
