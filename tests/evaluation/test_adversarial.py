import dataclasses

import pytest
import torch
import torch.nn.functional as F
from attacked import patterns, trained

from mixbench.evaluation import adversarial as adv
from mixbench.evaluation import attacks

EPS = 8 / 255


@pytest.fixture(scope="module")
def net():
    return trained(*images(256, seed=9)[:2], classes=4, grid=2)


def images(n=24, seed=0):
    return patterns(n, seed, classes=4, contrast=0.08)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
def test_attacks_stay_in_the_ball_and_in_the_picture(net, kind, loss):
    x, y, ids = images()
    x[0], x[1] = 0, 1  # at the border of the picture
    attack = attacks.Attack(EPS, EPS / 4, 12, kind=kind, losses=(loss,))
    found = attacks.run_attack(attack, net, x, y, ids)
    assert (found.x - x).abs().max() <= EPS + 1e-6
    assert 0 <= found.x.min() <= found.x.max() <= 1
    clean = net(x).argmax(1) != y
    assert found.fooled.sum() > clean.sum()
    assert torch.equal(found.fooled, net(found.x).argmax(1) != y)


def test_more_steps_do_more_than_one(net):
    x, y, _ = images(64)
    loss = {"clean": F.cross_entropy(net(x), y)}
    moved = {
        "fgsm": attacks.fgsm(net, x, y, eps=EPS),
        "pgd": attacks.pgd(net, x, y, eps=EPS, alpha=EPS / 4, steps=20),
    }
    loss |= {name: F.cross_entropy(net(value), y) for name, value in moved.items()}
    assert loss["clean"] < loss["fgsm"] < loss["pgd"] + 1e-3
    errors = {name: (net(value).argmax(1) != y).sum() for name, value in moved.items()}
    assert errors["pgd"] >= errors["fgsm"] > 0


def test_starts_belong_to_the_image_and_not_to_its_batch(net):
    x, y, ids = images()
    attack = attacks.ATTACKS["pgd10_8"]
    whole = attacks.run_attack(attack, net, x, y, ids)
    for rows in torch.randperm(24, generator=torch.Generator().manual_seed(1)).split(5):
        part = attacks.run_attack(attack, net, x[rows], y[rows], ids[rows])
        assert torch.equal(part.fooled, whole.fooled[rows])
        close = torch.isclose(part.x, whole.x[rows], rtol=0, atol=1e-6)
        assert close.float().mean() > 0.995
    one_step = dataclasses.replace(attack, steps=0)
    start = attacks.run_attack(one_step, net, x, y, ids).x
    assert (start - x).max() > 0.9 * attack.eps
    assert (start - x).min() < -0.9 * attack.eps
    assert not torch.equal(start, attacks.run_attack(one_step, net, x, y, ids, seed=1).x)
    assert not torch.equal(start, attacks.run_attack(one_step, net, x, y, ids + 1).x)
    still = dataclasses.replace(one_step, random_start=False)
    assert torch.equal(attacks.run_attack(still, net, x, y, ids).x, x)


def test_a_network_that_is_too_sure_hides_from_cross_entropy_only(net):
    x, y, ids = images(64)

    def sure(pixels):
        return 1e5 * net(pixels)

    attack = attacks.Attack(EPS, EPS / 4, 10, random_start=False, losses=("ce",))
    hidden = attacks.run_attack(attack, sure, x, y, ids)
    right = net(x).argmax(1) == y
    assert torch.equal(hidden.saturated, right)
    assert torch.equal(hidden.x[right], x[right])  # no gradient, no step
    both = attacks.run_attack(dataclasses.replace(attack, losses=("ce", "margin")), sure, x, y, ids)
    assert both.fooled.sum() > hidden.fooled.sum()
    assert (both.fooled | ~hidden.fooled).all()  # the worse of the two for each image
    assert torch.equal(sure(both.x).argmax(1) != y, both.fooled)  # and its picture
    turned = dataclasses.replace(attack, losses=("margin", "ce"))
    assert torch.equal(attacks.run_attack(turned, sure, x, y, ids).fooled, both.fooled)
    found = adv.attack_scores(sure, [(x, y, ids)], ["pgd20_2"])
    assert found["sat_pct"] == pytest.approx(100 * right.float().mean().item())


def test_the_margin_is_that_of_the_best_wrong_class():
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 7.0, 1.0]])
    torch.testing.assert_close(
        attacks.margin(logits, torch.tensor([0, 2])), torch.tensor([-0.5, 6.0])
    )


def test_scores_have_the_names_of_columns_and_depend_on_no_batch(net):
    x, y, ids = images(30)
    names = ["fgsm_8", "fgsm_4", "pgd20_1", "pgd10_8"]
    whole = adv.attack_scores(net, [(x, y, ids)], names)
    parts = zip(x.split(7), y.split(7), ids.split(7), strict=True)
    assert adv.attack_scores(net, parts, names) == whole
    clean = 100 * (net(x).argmax(1) != y).float().mean().item()
    assert whole["pgd10_8"] >= whole["fgsm_8"] > whole["fgsm_4"] >= clean
    assert whole["fgsm_8_acc"] == 100 - whole["fgsm_8"]
    assert whole["adv_n"] == 30
    assert set(adv.attack_scores(net, [(x, y, ids)])) >= set(adv.DEFAULT)


def test_presets_are_those_of_the_protocol():
    table = {
        name: (attack.eps * 255, attack.alpha * 255, attack.steps, attack.random_start)
        for name, attack in attacks.ATTACKS.items()
        if attack.kind == "pgd"
    }
    assert table == {
        "pgd10_4": (4, 2, 10, True),
        "pgd10_8": (8, 2, 10, True),
        "pgd20_1": (1, 0.25, 20, True),
        "pgd20_2": (2, 0.5, 20, True),
        "pgd20_4_puzzlemix": (4, 2, 20, True),
    }
    for name, eps in (("fgsm_8", 8), ("fgsm_4", 4)):
        attack = attacks.ATTACKS[name]
        assert attack.eps * 255 == eps
        assert (attack.random_start, attack.losses) == (False, ("ce",))
    assert attacks.ATTACKS["pgd20_4_puzzlemix"].losses == ("ce",)
    assert attacks.ATTACKS["pgd10_4"].losses == ("ce", "margin")


def test_signs_of_masked_gradients_are_named():
    assert adv.masking_warnings({"fgsm_8": 60.0, "pgd10_8": 80.0, "fgsm_4": 90.0}) == []
    (single,) = adv.masking_warnings({"fgsm_8": 60.0, "pgd10_8": 40.0})
    assert "pgd10_8 fails on 40.0 %" in single
    assert "60.0 %" in single
    (blind,) = adv.masking_warnings({"square_4": 60.0, "pgd10_4": 40.0, "pgd10_4_acc": 60.0})
    assert "black-box" in blind
    assert adv.masking_warnings({"fgsm_4": 60.0, "pgd10_8": 40.0}) == []


def test_attacks_compute_in_float32_and_leave_no_gradient(net):
    x, y, ids = images(8)
    for parameter in net.parameters():
        parameter.grad = None
    types = set()

    def seen(images):
        logits = net(images)
        types.add(logits.dtype)
        return logits

    with torch.autocast("cpu", torch.bfloat16):
        inside = attacks.run_attack(attacks.ATTACKS["fgsm_8"], net, x, y, ids)
        counts = adv.attack_counts(seen, [(x, y, ids)], ["fgsm_8", "pgd20_1"])
    assert counts["n"] == 8
    assert types == {torch.float32}
    with torch.no_grad():
        outside = attacks.run_attack(attacks.ATTACKS["fgsm_8"], net, x, y, ids)
    assert torch.equal(inside.x, outside.x)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not inside.x.requires_grad


def test_bad_attacks_are_refused(net):
    x, y, ids = images(2)
    with pytest.raises(ValueError, match="choose one of: fgsm_8"):
        adv.attack_scores(net, [(x, y, ids)], ["fgsm_9"])
    with pytest.raises(ValueError, match="at least one batch"):
        adv.attack_scores(net, [])
    with pytest.raises(ValueError, match="ce, margin"):
        attacks.fgsm(net, x, y, eps=EPS, loss="mse")
    with pytest.raises(ValueError, match="fgsm, pgd or autoattack"):
        attacks.run_attack(attacks.Attack(EPS, kind="fab"), net, x, y, ids)
    with pytest.raises(ValueError, match="eps must be > 0"):
        attacks.run_attack(attacks.Attack(0.0), net, x, y, ids)
