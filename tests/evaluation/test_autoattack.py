import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attacked import patterns, trained
from making import twin
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack

from mixbench import cli, compose, run
from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.images import Batch
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import UserError
from mixbench.evaluation import adversarial as adv
from mixbench.evaluation import autoattack as auto
from mixbench.evaluation.attacks import ATTACKS, run_attack
from mixbench.evaluation.per_image_random import keys
from mixbench.evaluation.suite import Outcome, load_suite
from mixbench.training.reevaluate import evaluate_run, verify_run

EPS = 4 / 255
FEW = {"eps": EPS, "steps": 10, "queries": 30}


@pytest.fixture(scope="module")
def net():
    return trained(*images(256, seed=9)[:2], classes=5, grid=4)


def images(n=40, seed=0):
    return patterns(n, seed, classes=5, contrast=0.09)


def package(net, ids, **settings):
    """The package's own standard version for five classes, with the seed of a batch."""
    seed = int(keys(0, ids[:1], 1)) % 2**31
    found = AutoAttack(net, eps=EPS, norm="Linf", seed=seed, version="standard", **settings)
    found.apgd_targeted.n_target_classes = found.fab.n_target_classes = 4
    return found


def test_a_batch_ends_as_the_package_itself_ends_it(net):
    x, y, ids = images()
    theirs = package(net, ids)
    theirs.square.n_queries = 60
    expected, _ = theirs.run_standard_evaluation(x, y, batch_size=len(x))
    found, stage = auto.autoattack(net, x, y, ids, eps=EPS, queries=60)
    clean = net(x).argmax(1) != y
    changed = (expected != x).flatten(1).any(1)
    assert torch.equal(found, expected)
    assert torch.equal(stage >= 0, changed | clean)
    assert torch.equal(stage == 0, clean)
    assert 0 < clean.sum() < len(x) - changed.sum()
    assert changed.sum() > 2


def test_apgd_is_that_of_the_package(net):
    x, y, ids = images()
    theirs = APGDAttack(net, n_iter=100, norm="Linf", n_restarts=1, eps=4 / 255, loss="ce",
                        eot_iter=1, rho=0.75, seed=int(keys(0, ids[:1], 1)) % 2**31,
                        device=torch.device("cpu"))  # fmt: skip
    right = net(x).argmax(1) == y
    moved = theirs.perturb(x[right].clone(), y[right].clone())
    found = run_attack(ATTACKS["apgd_ce_4"], net, x, y, ids)
    fooled = net(moved).argmax(1) != y[right]
    assert 0 < fooled.sum() < len(fooled)
    assert torch.equal(found.fooled[right], fooled)
    assert torch.equal(found.x[right][fooled], moved[fooled])
    assert found.fooled[~right].all()


def test_the_attacks_have_the_settings_of_the_standard_version(net):
    _, _, ids = images()
    theirs = package(net, ids)
    seed = theirs.seed
    ours = auto._tools(net, EPS, 100, 5000, 4, seed, torch.device("cpu"))
    assert tuple(theirs.attacks_to_run) == auto.STANDARD == tuple(ours)
    theirs.fab.targeted, theirs.apgd.loss = True, "ce"  # as it sets them before it begins
    for part in (theirs.apgd, theirs.apgd_targeted, theirs.fab, theirs.square):
        part.seed = seed
    pairs = zip(
        auto.STANDARD,
        (theirs.apgd, theirs.apgd_targeted, theirs.fab, theirs.square),
        strict=True,
    )
    for name, part in pairs:
        own = {k: v for k, v in vars(ours[name]()).items() if k not in ("logger", "device")}
        expected = {k: v for k, v in vars(part).items() if k not in ("logger", "device")}
        assert own == expected, name


def test_presets_are_the_standard_version_and_its_black_box_alone():
    presets = {name: a for name, a in ATTACKS.items() if a.kind == "autoattack"}
    assert {name: a.eps * 255 for name, a in presets.items()} == {
        "autoattack_8": 8, "autoattack_4": 4, "autoattack_2": 2, "autoattack_1": 1,
        "square_8": 8, "square_4": 4, "apgd_ce_8": 8, "apgd_ce_4": 4,
    }  # fmt: skip
    for name, attack in presets.items():
        assert (attack.steps, attack.queries) == (100, 5000)
        alone = {"square": ("square",), "apgd_ce": ("apgd-ce",)}.get(name[:-2])
        assert attack.losses == (alone or auto.STANDARD)
        assert attack.blind == name.startswith("square")
        assert attack.targeted == (alone is None)
    assert not set(presets) & {*adv.DEFAULT, *EvalConfig().attacks}  # never unless asked for


def test_attacks_stay_in_the_ball_and_in_the_picture(net):
    x, y, ids = images()
    x[0], x[1] = 0, 1
    found, stage = auto.autoattack(net, x, y, ids, **FEW)
    assert (found - x).abs().max() <= EPS + 1e-6
    assert 0 <= found.min() <= found.max() <= 1
    with torch.no_grad():
        assert torch.equal(net(found).argmax(1) != y, stage >= 0)
    assert torch.equal(found[stage <= 0], x[stage <= 0])  # what is not won stays as it was


def test_each_attack_meets_only_what_withstood_those_before(net):
    x, y, ids = images()
    _, first = auto.autoattack(net, x, y, ids, attacks=["apgd-ce"], **FEW)
    _, both = auto.autoattack(net, x, y, ids, attacks=["apgd-ce", "square"], **FEW)
    assert torch.equal(both == 1, first == 1)
    assert not ((both == 2) & (first >= 0)).any()
    rest = first < 0
    _, alone = auto.autoattack(net, x[rest], y[rest], ids, attacks=["square"], **FEW)
    assert torch.equal(both[rest] == 2, alone == 1)


def test_nothing_else_is_changed(net):
    x, y, ids = images()
    before = [x.clone(), y.clone()]
    torch.manual_seed(1234)  # no state that an attack itself leaves behind
    state = torch.get_rng_state()
    net[0].bias.requires_grad_(False)
    try:
        auto.autoattack(net, x, y, ids, **FEW)
        learns = {name: p.requires_grad for name, p in net.named_parameters()}
        assert learns == {n: n != "0.bias" for n in learns}
    finally:
        net[0].bias.requires_grad_(True)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_no_gradient_reaches_the_weights(net):
    x, y, ids = images(12)
    for parameter in net.parameters():
        parameter.grad = None
    auto.autoattack(net, x, y, ids, **FEW)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_it_is_computed_in_float32(net):
    x, y, ids = images(12)
    outside = auto.autoattack(net, x, y, ids, **FEW)
    with torch.autocast("cpu", torch.bfloat16):
        inside = auto.autoattack(net, x, y, ids, **FEW)
    assert torch.equal(inside[0], outside[0])
    assert torch.equal(inside[1], outside[1])


def test_a_seed_gives_the_same_attack_and_another_one_another(net):
    x, y, ids = images()
    settings = {"attacks": ["square"], "eps": 4 * EPS, "queries": 5}
    first, again = (auto.autoattack(net, x, y, ids, **settings) for _ in range(2))
    assert torch.equal(first[0], again[0])
    other = auto.autoattack(net, x, y, ids, seed=1, **settings)
    assert not torch.equal(first[0], other[0])
    next_batch = auto.autoattack(net, x, y, ids + len(ids), **settings)
    assert not torch.equal(first[0], next_batch[0])


def test_the_number_of_processes_changes_no_rate(net, monkeypatch):
    quick = dataclasses.replace(ATTACKS["autoattack_4"], steps=5, queries=10)
    monkeypatch.setitem(ATTACKS, "autoattack_4", quick)  # type: ignore[arg-type]
    x, y, ids = images(150)

    def counts(rank, world):
        suite = load_suite("adversarial", EvalConfig(adv_n=None))
        rows = suite.batches(y, ProcessGroup(rank, world))
        parts = [(x[d.indices], y[d.indices], ids[d.indices]) for d in rows]
        return adv.attack_counts(net, parts, ["autoattack_4", "fgsm_4"])

    whole, parts = counts(0, 1), [counts(rank, 4) for rank in range(4)]
    assert all(list(part) == list(whole) for part in parts)  # names, also without images
    assert {key: sum(part[key] for part in parts) for key in whole} == whole
    rates = adv.attack_rates(whole)
    assert not [name for name in rates if ":" in name]
    assert rates["autoattack_4"] + rates["autoattack_4_acc"] == pytest.approx(100)
    stages = adv.attack_stages(whole)["autoattack_4"]
    assert list(stages) == ["clean", *auto.STANDARD]
    values = list(stages.values())
    assert values == sorted(values)
    assert values[0] == pytest.approx(100 * (net(x).argmax(1) != y).float().mean().item())
    assert values[-1] == pytest.approx(rates["autoattack_4"])


def check_classes(names, info):
    load_suite("adversarial", EvalConfig(attacks=names)).check_data(SimpleNamespace(info=info))


@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_classes_for_targeted_attacks_are_refused(classes):
    x = torch.rand(3, 3, 4, 4)
    y = torch.zeros(3, dtype=torch.long)

    def model(pixels):
        return pixels.flatten(1)[:, :classes]

    with pytest.raises(ValueError, match=f"4 classes or more, got {classes}"):
        auto.autoattack(model, x, y, y, **FEW)
    _, stage = auto.autoattack(model, x, y, y, attacks=["apgd-ce", "square"], **FEW)
    assert stage.shape == (3,)
    info = DataInfo(num_classes=classes, height=4, width=4, name="few")
    with pytest.raises(UserError, match=f"autoattack_8 aims .* few has {classes}") as error:
        check_classes(["fgsm_8", "square_8", "apgd_ce_8", "autoattack_8"], info)
    assert "square_8" in error.value.todo
    check_classes(["square_8", "apgd_ce_8", "fgsm_8"], info)
    check_classes(["autoattack_8"], dataclasses.replace(info, num_classes=4))


@pytest.mark.parametrize(("classes", "aimed"), [(4, 3), (9, 8), (10, 9), (100, 9)])
def test_all_wrong_classes_are_targets_up_to_nine(classes, aimed, net):
    assert auto.targets(classes) == aimed
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(27, classes, generator=generator)
    x = torch.rand(4, 3, 3, 3, generator=generator)
    model = lambda pixels: pixels.flatten(1) @ weight  # noqa: E731
    y = model(x).argmax(1)
    _, stage = auto.autoattack(model, x, y, y, eps=0.5 / 255, steps=3, queries=2)
    assert len(stage) == 4


def test_one_class_that_is_far_from_likely_is_still_aimed_at():
    # Only the fourth class can be reached: two others are ahead of it and out of reach.
    def model(pixels):
        moved = (pixels - 0.5).flatten(1).mean(1)
        fixed = [torch.full_like(moved, value) for value in (1.0, 0.9, 0.8)]
        return torch.stack([*fixed, 0.7 + 25 * moved], dim=1)

    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.long)
    _, stage = auto.autoattack(model, x, y, y, eps=8 / 255, attacks=["apgd-t"], steps=10)
    assert stage.tolist() == [1, 1]


def test_a_search_that_beats_the_gradients_is_said(net):
    masked = {"autoattack_8": {"clean": 5.0, "apgd-ce": 6.0, "fab-t": 7.0, "square": 30.5}}
    (sign,) = adv.masking_warnings({"autoattack_8": 30.5}, masked)
    assert "autoattack_8: its black-box search fools 23.5 %" in sign
    honest = {"autoattack_8": {"clean": 5.0, "apgd-ce": 30.0, "fab-t": 30.4, "square": 30.5}}
    assert adv.masking_warnings({"autoattack_8": 30.5}, honest) == []
    assert (
        adv.masking_warnings({"square_8": 30.0}, {"square_8": {"clean": 5.0, "square": 30}}) == []
    )
    (sign,) = adv.masking_warnings({"square_8": 60.0, "pgd10_8": 40.0})
    assert "pgd10_8 fails" in sign
    assert "black-box" in sign
    (sign,) = adv.masking_warnings({"square_4": 60.0, "apgd_ce_4": 40.0})
    assert "apgd_ce_4 fails" in sign
    assert adv.masking_warnings({"square_8": 20.0, "fgsm_8": 40.0}) == []  # blind and weaker


def test_masked_gradients_are_found_by_the_search_of_the_suite():
    def steps(pixels):  # flat almost everywhere, so that no gradient leads anywhere
        bright = (pixels.mean(dim=(1, 2, 3)) * 255).round()
        return (
            torch.stack([0 * bright + 130.5, bright, 0 * bright, 0 * bright], 1)
            + 0 * bright[:, None]
        )

    pixels = torch.full((6, 3, 4, 4), 128, dtype=torch.uint8)
    info = DataInfo(num_classes=4, height=4, width=4, test_size=6, name="flat")
    batches = [Batch(pixels, torch.zeros(6, dtype=torch.long), torch.arange(6))]
    config = EvalConfig(attacks=["square_8", "pgd10_8"])
    outcome = load_suite("adversarial", config).evaluate(steps, batches, info, ProcessGroup())
    assert outcome.scores["square_8"] == 100
    assert any("black-box search" in warning for warning in outcome.facts["warnings"])


@pytest.mark.parametrize("name", ["autoattack_8", "square_4", "apgd_ce_8", "apgd_ce_4"])
def test_an_attack_of_the_package_is_refused_without_it(name, monkeypatch):
    monkeypatch.setattr(auto, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package pyautoattack") as error:
        load_suite("adversarial", EvalConfig(attacks=["fgsm_8", name])).check()
    assert "mixbench[eval]" in error.value.todo
    load_suite("adversarial", EvalConfig(attacks=["fgsm_8"])).check()


def test_without_the_package_nothing_begins(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(auto, "find_spec", lambda name: None)
    words = ["data=digits", "data.limit=64", "epochs=1", f"run.dir={tmp_path}"]
    assert cli.main(["run", *words, "eval.attacks=[autoattack_4]"]) == 2
    shown = capsys.readouterr().err
    assert "the attack needs the package pyautoattack" in shown
    assert "eval.attacks=autoattack_4" in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_three_classes_is_refused_before_it_is_trained(tmp_path, capsys):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", images=pixels, label=np.arange(48) % 3)
    runs, pack = tmp_path / "runs", str(tmp_path / "few.npz")
    words = [
        "data=pack",
        f"data.train={pack}",
        f"data.test={twin(pack, tmp_path)}",
        "net.width=4",
        "epochs=1",
    ]
    words += ["batch_size=16", "wandb.mode=disabled", f"run.dir={runs}"]
    aimed = "eval.attacks=[fgsm_8,autoattack_4]"
    assert cli.main(["run", *words, aimed]) == 2
    said = "autoattack_4 aims at wrong classes and needs 4 classes or more; few has 3"
    assert said in capsys.readouterr().err
    assert not runs.exists()
    folder = runs / run(compose([*words, aimed, "eval.suites=[calibration]"])).id
    before = (folder / "record.json").read_bytes()
    assert cli.main(["eval", str(folder), "--suite", "adversarial"]) == 2
    assert said in capsys.readouterr().err
    assert (folder / "record.json").read_bytes() == before


def test_unknown_parts_are_refused(net):
    x, y, ids = images(2)
    with pytest.raises(ValueError, match="choose one of: apgd-ce, apgd-t, fab-t, square"):
        auto.autoattack(net, x, y, ids, eps=EPS, attacks=["apgd-dlr"])


def test_facts_of_earlier_attacks_on_the_same_images_are_kept():
    def outcome(name, images=10):
        facts = {"images": images, "of": 10, "seed": 0, "attacks": [name]}
        facts["autoattack"] = {name: {"errors": {"clean": 1.0}}}
        return Outcome({name: 1.0}, facts, [])

    suite, metrics, evaluations = load_suite("adversarial", EvalConfig()), {}, {}
    for name in ("autoattack_8", "square_8"):
        suite.add_to_record(outcome(name), metrics, evaluations)
    assert set(evaluations["adversarial"]["autoattack"]) == {"autoattack_8", "square_8"}
    suite.add_to_record(outcome("autoattack_4", 5), metrics, evaluations)
    assert set(evaluations["adversarial"]["autoattack"]) == {"autoattack_4"}
    assert set(metrics) == {"autoattack_4"}


WORDS = ["data=digits", "data.limit=96", "net.width=4", "epochs=2", "batch_size=16", "lr=0.1"]
WORDS += ["wandb.mode=disabled", "eval.adv_n=20"]


@pytest.mark.slow  # a run under four attacks
def test_a_run_is_judged_by_it_and_verified(tmp_path, monkeypatch):
    for name in ("autoattack_4", "square_4"):
        quick = dataclasses.replace(ATTACKS[name], steps=8, queries=15)
        monkeypatch.setitem(ATTACKS, name, quick)  # type: ignore[arg-type]
    record = run(compose([*WORDS, f"run.dir={tmp_path}", "eval.attacks=[autoattack_4,fgsm_4]"]))
    folder = tmp_path / record.id
    assert record.metrics["autoattack_4"] >= record.metrics["fgsm_4"]
    facts = record.evaluations["adversarial"]["autoattack"]["autoattack_4"]
    assert list(facts["errors"]) == ["clean", *auto.STANDARD]
    assert facts["errors"]["square"] == pytest.approx(record.metrics["autoattack_4"])
    assert (facts["steps"], facts["queries"], facts["targets"]) == (8, 15, 9)
    assert facts["package"].startswith("pyautoattack 0.")
    later = evaluate_run(folder, ["eval.attacks=[square_4]"], ["adversarial"])
    assert later.evaluations["adversarial"]["attacks"] == ["autoattack_4", "fgsm_4", "square_4"]
    assert later.evaluations["adversarial"]["autoattack"].keys() == {"autoattack_4", "square_4"}
    assert {"autoattack_4", "autoattack_4_acc", "square_4"} <= set(verify_run(folder)[1])


@pytest.mark.slow
def test_the_standard_version_does_no_less_than_pgd_and_a_single_step(tmp_path, monkeypatch):
    attacks = ["autoattack_8", "apgd_ce_8", "pgd10_8", "fgsm_8"]
    for name in attacks:  # digits withstand 8 / 255
        wide = dataclasses.replace(ATTACKS[name], eps=28 / 255, alpha=7 / 255)
        monkeypatch.setitem(ATTACKS, name, wide)  # type: ignore[arg-type]
    words = [*WORDS, f"run.dir={tmp_path}", "data.limit=null", "epochs=3", "eval.adv_n=48"]
    record = run(compose([*words, f"eval.attacks=[{','.join(attacks)}]"]))
    error = {name: record.metrics[name] for name in attacks}
    assert error["autoattack_8"] >= max(error.values()) - 2.1  # one of 48 images
    assert error["autoattack_8"] > error["fgsm_8"]
    facts = record.evaluations["adversarial"]
    stages = facts["autoattack"]["autoattack_8"]["errors"]
    assert stages["clean"] < stages["apgd-ce"] < 100
    assert facts.get("warnings") is None
