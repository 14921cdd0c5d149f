import contextlib
import re
import subprocess
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from paths import ROOT

from mixbench.config import yaml_files
from mixbench.config.compose import (
    compose,
    compose_text,
    method_defaults,
    method_settings,
    render,
    resolve_method,
    to_plain,
)
from mixbench.config.overrides import flatten
from mixbench.config.schema import DataInfo, RunConfig, keys_not_in_identity
from mixbench.config.settings import Above, setting
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.training.job import resolve


def assert_refused(words, match):
    with pytest.raises(UserError, match=match) as error:
        compose(words)
    return str(error.value)


def test_layers_win_in_their_order():
    config = compose("method=cutmix data=digits epochs=3 method.alpha=0.5 optim.clip=1")
    assert config.method["alpha"] == 0.5
    assert config.net.width == 8  # the recipe `digits` over the network's file
    assert config.epochs == 3  # the command line over the recipe
    assert config.data.flip is False  # the data file over the schema
    assert config.optim.clip == 1.0


def test_a_configuration_leaves_nothing_behind_for_the_next():
    before = compose("data=digits")
    changed = compose("data=digits method=mixup method.alpha=3 lr=0.5 eval.suites=[]")
    assert (changed.method["alpha"], changed.lr, changed.eval.suites) == (3, 0.5, [])
    assert before.recipe == changed.recipe == "digits"
    assert compose("data=digits") == before
    assert compose("data=digits method=mixup").method["alpha"] == 1


def test_every_value_is_shown_with_its_origin():
    composed = resolve_method(compose_text("method=cutmix method.alpha=0.5 lr=1e-2"))
    shown = {line.split(":")[0]: line.split("  # ")[-1] for line in render(composed).splitlines()}
    assert shown["method.alpha"] == "command line"
    assert shown["method.name"] == "command line"
    assert shown["lr"] == "command line"
    assert shown["net.width"] == "experiments/recipe/digits.yaml"
    assert shown["data.flip"] == "experiments/data/digits.yaml"
    assert shown["method.box_rule"] == "default"
    lines = render(composed).splitlines()
    assert len(shown) == len(lines)
    assert len({line.rindex("  # ") for line in lines}) == 1


def test_the_scientific_notation_without_a_dot_is_a_number():
    assert compose("lr=1e-2").lr == 0.01


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_composes_to_plain_values(name):
    config = compose(["method=" + name, "data=digits"])
    assert yaml.safe_load(yaml.safe_dump(to_plain(config))) == to_plain(config)
    assert method_defaults(config).keys() == config.method.keys() - {"name"}


# The snapshot of recipes has each of them with the methods that it has keys for.
@pytest.mark.parametrize("recipe", yaml_files.names("recipe"))
def test_every_recipe_fits_a_method_that_it_does_not_name(recipe):
    config = compose([f"recipe={recipe}", "method=erm", "data=digits"])
    assert config.recipe == recipe
    assert config.epochs > 0


# FAULTS rows 1 and 2.
@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("method=cutmx", "unknown method 'cutmx'; did you mean 'cutmix'"),
        ("data=digit", "unknown data set 'digit'; did you mean 'digits'"),
        ("net=preactresnet", "unknown net 'preactresnet'; did you mean 'preactresnet18'"),
        ("recipe=quik", "unknown recipe 'quik'; did you mean 'quick'"),
        ("optim.name=sdg", "optim.name must be one of sgd, adamw, got 'sdg'"),
        ("optim.schedule=cos", "optim.schedule must be one of"),
        ("select=best", "select must be one of last, val"),
        ("select=best_test", "would choose on the test set"),
    ],
)
def test_an_unknown_name_is_refused_with_the_right_list(words, match):
    assert_refused(words, match)


def test_a_path_given_as_a_data_set_is_told_the_keys_that_take_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "pack.npz").touch()
    assert_refused("data=photos", "write data=folder data.root=photos$")
    assert_refused("data=pack.npz", "write data=pack data.train=pack.npz$")
    assert_refused("data=other", "choose one of: cifar10")


# FAULTS row 3.
@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("method=mixup method.alhpa=0.2", "unknown key method.alhpa .* did you mean 'alpha'"),
        ("optim.momentm=0.2", "unknown key optim.momentm; did you mean 'optim.momentum'"),
        ("epoch=3", "unknown key epoch; did you mean 'epochs'"),
        ("methd=cutmix", "unknown key methd; did you mean 'method'"),
        ("recpie=quick", "unknown key recpie; did you mean 'recipe'"),
        ("methd.alpha=1", "unknown key methd.alpha; did you mean 'method.alpha'"),
        ("dta.limit=9", "unknown key dta.limit; did you mean 'data.limit'"),
        ("optim=sgd", "optim is a group of keys"),
        ("method.name=cutmix", "method.name is chosen by name"),
        ("data.kind=pack", "data.kind is chosen by name"),
        ("method.a.b=1", "method keys are flat"),
    ],
)
def test_a_mistyped_key_is_refused_with_the_nearest(words, match):
    assert_refused(words, match)


# FAULTS row 4.
@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("method=mixup method.alpha=abc", "method.alpha='abc' has the wrong type"),
        ("seed=1.5", "seed=1.5 has the wrong type"),
        ("epochs=[1]", r"epochs=\[1\] has the wrong type"),
        ("data.flip=maybe", "data.flip='maybe' has the wrong type"),
        ("optim.milestones=0.5", "optim.milestones=0.5 has the wrong type"),
        ("net.width={a: 1}", "net.width=.* has the wrong type"),
    ],
)
def test_a_wrong_type_is_refused_with_key_value_and_expected_type(words, match):
    text = assert_refused([*words.split(" ", 1)] if "{" not in words else [words], match)
    assert "to do: give " in text


# FAULTS row 5.
@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("method=mixup method.alpha=0", "method.alpha must be > 0"),
        ("method=mixup method.alpha=-1", "method.alpha must be > 0"),
        ("method=mixup method.alpha=.nan", "method.alpha must be > 0 and finite, got nan"),
        ("method=cutmix method.alpha=.inf", "method.alpha must be > 0 and finite, got inf"),
        ("method=cutmix method.prob=1.5", r"method.prob must lie in \[0, 1\]"),
        ("method=cutmix method.minmax=[0.5,0.2]", "method.minmax must be"),
        ("method=mixup method.partner=best", "method.partner must be one of"),
        ("method=manifoldmixup method.alpha=0", "method.alpha must be > 0"),
        ("method=manifoldmixup method.loss=mse", "method.loss must be one of ce, bce_softmax"),
        ("method=bc method.pairing=all", "method.pairing must be one of batch, dataset"),
        ("epochs=-1", "epochs must be >= 1"),
        ("epochs=0", "epochs must be >= 1"),
        ("lr=.nan", "lr must be > 0 and finite"),
        ("batch_size=0", "batch_size must be >= 1"),
        ("optim.label_smoothing=2", "optim.label_smoothing must lie"),
        ("optim.weight_decay=-0.1", "optim.weight_decay must be >= 0"),
        ("optim.accumulate=3", "must be a multiple of optim.accumulate"),
        ("net.width=0", "net.width must be >= 1"),
        ("data.limit=0", "data.limit must be >= 1"),
        ("trainer.threads=0", "trainer.threads must be >= 1"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(words, match):
    text = assert_refused(words, match)
    assert "where: command line" in text
    assert "to do: correct " in text


def test_an_unknown_suite_is_refused_with_its_key():
    text = assert_refused("eval.suites=[adversarials]", "did you mean 'adversarial'")
    assert "where: eval.suites" in text


BOMB = "".join(
    f"{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


# FAULTS rows 6, 60 and 61.
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("epochs: 3\nlr: 0.1\nepochs: 4\n", r"bad.yaml:3"),
        ("epochs: 3\n\tlr: 0.1\n", r"bad.yaml:2"),
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", "found a list"),
        ("just text\n", "found a single value"),
        ("lr: ${epochs}\n", r"bad.yaml:1"),
        ("lr: ${oc.env:HOME}\n", "references to other keys are not supported"),
        ("a: &a [*a]\n", "bad.yaml"),
        ("lr: !!python/object/apply:os.system [ls]\n", "is not allowed"),
        ("lr: {lr: [1\n", "not valid YAML"),
        ("? [a]\n: 1\n", "a key must be a word"),
        ("a: &a [1,1,1,1,1,1,1,1,1]\n" + BOMB, "YAML is too large or too deeply nested"),
        ("a: " + "[" * 40 + "]" * 40, "YAML is too large or too deeply nested"),
    ],
)
def test_a_bad_file_is_refused_with_file_and_line(tmp_path, monkeypatch, text, match):
    monkeypatch.chdir(tmp_path)
    path = Path("experiments/recipe/bad.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert "bad.yaml" in assert_refused("recipe=bad", match)


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("method", "name: os:system"),
        ("data", "kind: pack"),
        ("net", "name: other"),
        ("recipe", "net: {name: other}"),
        ("recipe", "per_method: {mixup: {name: 'os:system'}}"),
        ("recipe", "method: {alpha: 2}"),
        ("data", "default_recipe: [quick]"),
    ],
)
def test_no_file_picks_a_name(tmp_path, monkeypatch, group, text):
    monkeypatch.chdir(tmp_path)
    names = {"method": "mixup", "data": "digits", "net": "preactresnet18", "recipe": "quick"}
    path = Path("experiments") / group / f"{names[group]}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    words = [f"{key}={name}" for key, name in names.items() if key != "recipe" or key == group]
    message = assert_refused(words, "cannot be set in a file|under `per_method`|is not a name")
    assert f"experiments/{group}/" in message


def test_a_growing_yaml_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("experiments/recipe/bomb.yaml")
    path.parent.mkdir(parents=True)
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path.write_text("\n".join(lines))
    assert_refused("recipe=bomb", "too large")


def test_surprising_yaml_values_warn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("experiments/recipe/odd.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("epochs: 010\ndata:\n  flip: yes\n")
    composed = compose_text("recipe=odd")
    assert composed.config.epochs == 8
    assert composed.config.data.flip is True
    notes = "\n".join(composed.notes)
    assert "experiments/recipe/odd.yaml:1" in notes
    assert "as octal, 8" in notes
    assert "experiments/recipe/odd.yaml:3" in notes
    path.write_text("on: yes\n")
    assert_refused("recipe=odd", "unknown key on")


def test_a_recipe_in_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("experiments/recipe/digits.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("epochs: 77\n")
    assert compose("data=digits").epochs == 77
    assert compose("recipe=quick").epochs == 16  # still found in the package


# FAULTS row 8.
def test_a_key_without_effect_warns_and_is_an_error_under_strict():
    with pytest.warns(UserWarning, match=r"method\.alpha has no effect for method erm"):
        compose("method=erm method.alpha=0.5")
    with pytest.raises(UserError, match=r"method\.alpha has no effect"):
        compose("method=erm method.alpha=0.5", strict=True)
    with pytest.warns(UserWarning, match=r"optim\.gamma has no effect while optim.schedule=cosine"):
        compose("recipe=cifar200 optim.gamma=0.5")
    with pytest.raises(UserError, match=r"optim\.nesterov has no effect"):
        compose("optim.name=adamw optim.nesterov=true", strict=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "method=puzzlemix method.adv_eps=4",
            "method.adv_eps has no effect while method.adv_prob=0.0",
        ),
        (
            "method=choice method.members=[cutmix,mixup] method.cutmix.minmax=[0.2,0.3] "
            "method.cutmix.alpha=0.5 method.mixup.alpha=0.5",
            "method.cutmix.alpha has no effect while method.cutmix.minmax=[0.2, 0.3]",
        ),
        (
            "method=tdattenmix method.sigma=2",
            "method.sigma has no effect while method.absvit=null",
        ),
        (
            "method=alignmix method.ae_weight=2",
            "method.ae_weight has no effect while method.ae=false",
        ),
        (
            "method=mixup method.prob=0 method.alpha=2",
            "method.alpha has no effect while method.prob=0.0",
        ),
        (
            "data=cifar10 data.flip=false data.flip_rule=alternating",
            "data.flip_rule has no effect while data.flip=false",
        ),
    ],
)
def test_a_key_that_another_of_its_method_switches_off_is_told(words, told):
    assert resolve_method(compose_text(words)).notes == [told]
    with pytest.raises(UserError) as refused:
        compose(words, strict=True)
    assert refused.value.what == told


@pytest.mark.parametrize(
    ("decider", "values", "idle", "acting"),
    [
        ("task", ("ssl",), "supervised", None),
        ("optim.name", ("sgd",), "adamw", "sgd"),
        ("optim.clip", Above(0), "null", "1"),
    ],
)
def test_a_key_of_a_method_may_depend_on_any_key(monkeypatch, decider, values, idle, acting):
    @dataclass
    class Config(Method.Config):
        extra: int = setting(1, "more", only_when={decider: values})

    monkeypatch.setitem(METHODS._objects, "erm", type("Own", (Method,), {"Config": Config}))
    told = f"extra has no effect while {decider}={idle}"
    for prefix in ("method", "method.erm"):
        words = f"method=erm {decider}={idle} {prefix}.extra=2"
        if prefix != "method":
            words = words.replace("erm", "choice method.members=[mixup,erm]", 1)
        assert resolve_method(compose_text(words)).notes == [f"{prefix}.{told}"]
        if acting:
            assert resolve_method(compose_text(f"{words} {decider}={acting}")).notes == []


def test_a_method_whose_key_depends_on_no_key_is_refused(monkeypatch):
    @dataclass
    class Config(Method.Config):
        extra: int = setting(1, "more", only_when={"alpha": (1,)})

    monkeypatch.setitem(METHODS._objects, "mixup", type("Own", (Method,), {"Config": Config}))
    assert_refused("method=mixup", "only_when of method.extra names alpha, which is no key")


def test_a_key_is_not_told_of_where_its_decider_lets_it_act():
    given = "method=puzzlemix method.adv_eps=4 method.adv_prob=0.1"
    assert resolve_method(compose_text(given)).notes == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("trainer.compile_input=yes", "got 'yes'"),
        ("method=cutmix method.partner=On", "got 'On'"),
        ("method=choice method.cutmix.partner=off", "got 'off'"),
        ("eval.adv_n=yes", "eval.adv_n=yes has the wrong type"),
        ("eval.suites=[calibration,no]", "unknown suite 'no'"),
        ("optim.ema=yes", "optim.ema=yes has the wrong type"),
    ],
)
def test_a_word_that_yaml_takes_for_a_truth_value_is_shown_as_it_was_typed(words, told):
    with pytest.raises(UserError) as refused:
        compose(words)
    assert told in refused.value.what


def test_a_text_may_be_such_a_word():
    composed = compose_text("run.notes=yes run.tags=[on,b] data.flip=yes")
    config = composed.config
    assert (config.run.notes, config.run.tags, config.data.flip) == ("yes", ["on", "b"], True)
    (note,) = composed.notes
    assert "data.flip" in note


@pytest.mark.parametrize(
    "text", ["12:30", "1_000", "0x10", "1e3", "1.10", "+5", "007", ".5", "Off"]
)
def test_a_text_may_look_like_a_number(text):
    composed = compose_text(f"run.notes={text} run.tags=[{text},b] wandb.group={text}")
    config = composed.config
    assert (config.run.notes, config.run.tags, config.wandb.group) == (text, [text, "b"], text)
    assert composed.notes == []
    words = f"method=puzzlemix method.teacher_ckpt={text}"
    assert compose(words, strict=True).method["teacher_ckpt"] == text


def test_a_text_that_may_be_missing_is_missing_where_null_is_written():
    assert compose("net.weights=null wandb.group=~").net.weights is None


def test_the_last_of_equal_keys_counts_with_its_text_and_its_note():
    composed = compose_text("run.tags=[yes,b] data.flip=yes run.tags=[a] data.flip=true")
    assert (composed.config.run.tags, composed.config.data.flip) == (["a"], True)
    assert composed.notes == []
    assert compose("run.tags=[a] run.tags=[yes,b]").run.tags == ["yes", "b"]


def test_a_text_of_a_method_may_be_such_a_word():
    words = "method=puzzlemix method.teacher_ckpt=on"
    assert compose(words, strict=True).method["teacher_ckpt"] == "on"
    members = ["method=choice", "method.members=[puzzlemix,alignmix,erm]"]
    members += ["method.puzzlemix.teacher_ckpt=on", "method.puzzlemix.transport=on"]
    notes = resolve_method(compose_text([*members, "method.alignmix={ae: on}"])).notes
    assert [note.split(":")[0] for note in notes] == [
        "command line, method.puzzlemix.transport",
        "command line, method.alignmix",
    ]
    with pytest.raises(UserError, match="'on' as a truth value"):
        compose("method=alignmix method.ae=on", strict=True)


def test_a_key_of_text_or_a_truth_value_takes_the_value(monkeypatch):
    @dataclass
    class Config(Method.Config):
        how: bool | str = True

    monkeypatch.setitem(METHODS._objects, "erm", type("Either", (Method,), {"Config": Config}))
    assert compose("method=erm method.how=false").method["how"] is False
    assert compose("method=erm method.how=fast").method["how"] == "fast"


def test_method_files_may_differ_by_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("experiments/method/mixup.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("alpha: 1.0\nper_data:\n  digits:\n    alpha: 0.2\n")
    assert compose("method=mixup data=digits").method["alpha"] == 0.2
    assert compose("method=mixup data=pack").method["alpha"] == 1.0


def test_each_layer_of_files_wins_over_the_one_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "method/mixup": "alpha: 0.1\nprob: 0.1\npartner: flip\nper_data:\n  digits: {prob: 0.2}\n",
        "recipe/mine": "net: {width: 9}\ndata: {crop: 3}\nper_method:\n  mixup: {alpha: 0.3}\n",
        "net/preactresnet18": "width: 7\nfinal_norm: false\n",
        "data/digits": "crop: 1\npad: mean\ndefault_recipe: mine\n",
    }.items():
        path = Path(f"experiments/{name}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    config = compose("method=mixup data=digits method.fold=true")
    # The recipe over the method's file, whose part for the data is over the rest of it.
    own = {"alpha": 0.3, "prob": 0.2, "partner": "flip", "fold": True, "per_sample": False}
    assert config.method == {"name": "mixup", **own}
    assert (config.net.width, config.net.final_norm) == (9, False)
    assert (config.data.crop, config.data.pad) == (3, "mean")
    last = compose("method=mixup data=digits method.alpha=0.4 net.width=8 data.crop=2")
    assert (last.method["alpha"], last.net.width, last.data.crop) == (0.4, 8, 2)


@pytest.mark.parametrize(
    "word", ["foo", "=1", "a..b=1", "a b=1", "--x", "1a=2", "seed=", "seed= ", "a=b=c", "é=1"]
)
def test_what_is_no_override_is_refused(word):
    with pytest.raises(UserError):
        compose([word])


def test_the_wheel_carries_every_experiment_file(tmp_path):
    root = ROOT
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = [path.relative_to(root / "experiments") for path in root.glob("experiments/*/*.yaml")]
    assert {path.parent.name for path in files} == {*yaml_files.GROUPS, "sweep", "literature"}
    assert {f"mixbench/_experiments/{path.as_posix()}" for path in files} <= packed

    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    listed = subprocess.run(
        [sys.executable, "-m", "mixbench", "list", "recipes"],
        cwd=tmp_path / "site",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "mixup_cifar" in listed.stdout


def test_paths_seeds_and_machine_take_no_part_in_the_identity():
    aside = keys_not_in_identity()
    assert {"seed", "data.root", "data.workers", "trainer.threads", "run.dir", "devices"} <= aside
    assert not {"lr", "epochs", "data.crop", "select", "optim.clip", "net.width"} & aside


def test_the_schema_defaults_are_valid():
    assert RunConfig().epochs == 200
    assert DataInfo(10, 32, 32).task == "multiclass"


@pytest.fixture
def saved(tmp_path):
    """A resolved configuration as a run leaves it."""
    import yaml

    path = tmp_path / "config.yaml"

    def write(words, **changes):
        content = to_plain(compose(words))
        for key, value in changes.items():
            group, _, leaf = key.partition("__")
            content[group][leaf] = value
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_a_saved_configuration_comes_back_and_takes_overrides(saved):
    words = "method=cutmix data=digits method.alpha=0.3 epochs=7 optim.milestones=[0.3,0.6] seed=2"
    path = saved(words)
    assert compose("", base=path) == compose(words)
    assert compose("lr=0.5", base=path) == compose(f"{words} lr=0.5")
    assert compose("method=cutmix data=digits", base=path) == compose(words)


def test_a_saved_configuration_cannot_be_turned_into_another(saved):
    with pytest.raises(UserError, match="method=mixup differs from cutmix"):
        compose("method=mixup", base=saved("method=cutmix"))


# FAULTS row 62.
@pytest.mark.parametrize("key", ["method__name", "net__name", "data__kind"])
def test_a_saved_configuration_cannot_name_code_to_import(saved, key):
    path = saved("method=cutmix", **{key: "os:system"})
    with pytest.raises(UserError, match="names code that would be imported: os:system"):
        compose("", base=path)


def test_a_saved_configuration_may_name_a_network_of_a_family_or_nothing_unknown(saved):
    path = saved("method=cutmix", net__name="timm:resnet18")
    assert compose("", base=path).net.name == "timm:resnet18"
    with pytest.raises(UserError, match="unknown method"):
        compose("", base=saved("method=cutmix", method__name="nothing"))


@pytest.mark.parametrize("text", ["", "lr: 0.1\n", "- 1\n", "lr: ${oc.env:HOME}\n"])
def test_what_is_no_configuration_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        compose("", base=path)


# Keys of members.


CHOICE = "method=choice method.members=[mixup,bc]"


def test_keys_of_members_stand_below_the_member():
    words = f"{CHOICE} method.mixup.alpha=0.3 method.mixup.partner=flip method.probs=[1,3]"
    composed = resolve_method(compose_text(words))
    method = composed.config.method
    assert (method["members"], method["probs"]) == (["mixup", "bc"], [1.0, 3.0])
    assert (method["mixup"]["alpha"], method["mixup"]["partner"]) == (0.3, "flip")
    assert method["mixup"]["fold"] is False
    assert method["bc"] == {"plus": False, "pairing": "batch"}
    assert "cutmix" not in method
    assert composed.notes == []
    lines = {line.split(":")[0]: line.split("  # ")[-1] for line in render(composed).splitlines()}
    assert lines["method.mixup.alpha"] == "command line"
    assert lines["method.mixup.fold"] == lines["method.bc.plus"] == "default"
    config = METHODS.get("choice").Config(**method_settings(composed.config))
    assert config.of["mixup"].alpha == 0.3
    assert config.of["bc"] == METHODS.get("bc").Config()


def test_the_file_of_choice_is_the_switch_of_deit_and_its_keys_of_others_are_left_alone():
    method = compose("method=choice").method
    assert method["members"] == ["mixup", "cutmix"]
    assert method["probs"] is None  # equal shares, of any number of members
    assert (method["mixup"]["alpha"], method["cutmix"]["alpha"]) == (0.8, 1.0)
    composed = resolve_method(compose_text("method=choice method.members=[erm,bc]"), strict=True)
    assert set(composed.config.method) == {"name", "members", "probs", "erm", "bc"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (f"{CHOICE} method.mixup.alhpa=1", "unknown key method.mixup.alhpa of method mixup; did"),
        (f"{CHOICE} method.mixup.alpha=x", "method.mixup.alpha='x' has the wrong type"),
        (f"{CHOICE} method.mixup.alpha=-1", "method.mixup.alpha must be > 0"),
        (f"{CHOICE} method.mixupp.alpha=1", "unknown method 'mixupp'; did you mean 'mixup'"),
        (f"{CHOICE} method.mixup.alpha.x=1", "unknown key method.mixup.alpha.x"),
        (f"{CHOICE} method.member=[erm]", "unknown key method.member of method choice; did you"),
        ("method=choice method.members=[os:getcwd]", "method.members=['os:getcwd']"),
        ("method=choice method.members=[erm,nothing]", "unknown method 'nothing'"),
        ("method=cutmix method.mixup.alpha=1", "unknown key method.mixup.alpha of method cutmix"),
        ("method=cutmix method.alpha=0.5 method.alpha.x=1", "has the wrong type"),
        ("method=choice method.probs=[1]", "must give each of 2 members a share"),
    ],
)
def test_keys_that_no_member_has_are_refused(words, text):
    assert_refused(words, re.escape(text))


def test_a_key_of_a_method_that_is_not_drawn_has_no_effect_and_strict_refuses_it():
    words = f"{CHOICE} method.cutmix.alpha=0.5"
    told = "method.cutmix.alpha has no effect, as cutmix is not among method.members"
    assert resolve_method(compose_text(words)).notes == [told]
    with pytest.raises(UserError, match="cutmix is not among"):
        resolve_method(compose_text(words), strict=True)


def test_a_choice_is_known_by_its_keys_and_not_by_their_defaults(tmp_path):
    def identity(words):
        return resolve(compose(f"data=digits {words}")).identity

    plain = identity(CHOICE)
    assert identity(f"{CHOICE} method.bc.plus=false").id == plain.id
    other = identity(f"{CHOICE} method.mixup.fold=true")
    assert other.id != plain.id
    assert other.recipe_hash == plain.recipe_hash
    assert other.settings["mixup.fold"] is True
    assert not [key for key in plain.settings if key.startswith("bc.")]

    path = tmp_path / "config.yaml"
    config = compose(f"{CHOICE} method.mixup.fold=true data=digits")
    path.write_text(yaml.safe_dump(to_plain(config)))
    again = compose("", base=path)
    assert again.method == config.method
    assert resolve(again).identity.id == other.id


TEXTS = {
    *("data.name", "data.root", "data.train", "data.test", "data.labels", "data.auto_augment"),
    *("data.judgements", "eval.human"),
    *("net.weights", "distill", "eval.saliency", "eval.judge", "eval.gaze", "eval.demixer"),
    *("eval.corrupted", "eval.frost"),
    *("run.dir", "run.notes", "wandb.project", "wandb.group"),
}


@pytest.mark.parametrize("value", ["no-such-word", "-1", "-0.5", "nan", "inf"])
def test_every_key_but_those_of_free_text_refuses_what_cannot_be(value):
    keys = [key for key, _ in flatten(to_plain(compose(""))) if not key.startswith("method.")]
    assert set(keys) > TEXTS

    def refused(key):
        with contextlib.suppress(UserError):
            compose(f"data=digits {key}={value}")
            return False
        return True

    assert [key for key in keys if not refused(key) and key not in TEXTS] == []


def test_the_gaze_suite_needs_its_maps():
    assert compose("eval.suites=[gaze] eval.gaze=maps.npy").eval.gaze == "maps.npy"
    with pytest.raises(UserError, match=r"needs one map per test image[\s\S]*eval\.gaze=FILE"):
        resolve(compose("eval.suites=[gaze]"))


def test_keys_of_suites_that_are_not_asked_for_are_told():
    for words in ("eval.corrupted=published", "eval.judge=run eval.suites=[ood]"):
        with pytest.warns(UserWarning, match=r"has no effect without a suite that reads it: \w+"):
            compose(words)
        with pytest.raises(UserError, match="has no effect without a suite"):
            compose(words, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compose("eval.corrupted=published eval.suites=[corruption] eval.adv_n=8")
        compose("eval.search=joint eval.suites=[separation]")


def test_of_two_keys_that_do_not_go_together_the_one_that_was_given_is_named():
    with pytest.raises(UserError) as told:
        compose("data=folder data.root=x data.size=32 data.store=48")
    assert (told.value.where, told.value.todo) == ("command line", "correct data.store")
