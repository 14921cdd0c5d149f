import dataclasses

import pytest
import torch
import torch.nn.functional as F
from attacked import patterns, trained

from mixbench.evaluation import adversarial as adv

EPS = 8 / 255


@pytest.fixture(scope="module")
def net():
    return trained(*images(256, seed=9)[:2], classes=4, grid=2)


def images(n=24, seed=0):
    return patterns(n, seed, classes=4, contrast=0.08)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("kind", ["fgsm", "pgd", "apgd"])
def test_attacks_stay_in_the_ball_and_in_the_picture(net, kind, loss):
    x, y, ids = images()
    x[0], x[1] = 0, 1  # at the border of the picture
    attack = adv.Attack(EPS, EPS / 4, 12, kind=kind, losses=(loss,))
    found = adv.run_attack(attack, net, x, y, ids)
    assert (found.x - x).abs().max() <= EPS + 1e-6
    assert 0 <= found.x.min() <= found.x.max() <= 1
    clean = net(x).argmax(1) != y
    assert found.fooled.sum() > clean.sum()
    assert torch.equal(found.fooled, net(found.x).argmax(1) != y)


def test_more_steps_do_more_than_one_and_apgd_no_less_than_pgd(net):
    x, y, _ = images(64)
    loss = {"clean": F.cross_entropy(net(x), y)}
    moved = {
        "fgsm": adv.fgsm(net, x, y, eps=EPS),
        "pgd": adv.pgd(net, x, y, eps=EPS, alpha=EPS / 4, steps=20),
    }
    loss |= {name: F.cross_entropy(net(value), y) for name, value in moved.items()}
    assert loss["clean"] < loss["fgsm"] < loss["pgd"] + 1e-3
    errors = {name: (net(value).argmax(1) != y).sum() for name, value in moved.items()}
    apgd = adv.apgd(net, x, y, eps=EPS, steps=50)
    assert (net(apgd).argmax(1) != y).sum() >= errors["pgd"] >= errors["fgsm"] > 0


def test_apgd_finds_the_corner_of_a_linear_network():
    weight = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))

    def model(x):
        return x.flatten(1) @ weight.T + torch.tensor([9.0, 0.0])  # never fooled

    x, y = torch.full((3, 3, 2, 2), 0.5), torch.zeros(3, dtype=torch.long)
    corner = x + EPS * (weight[1] - weight[0]).sign().view(3, 2, 2)
    for steps in (3, 20, 100):
        found = adv.apgd(model, x, y, eps=EPS, steps=steps, loss="margin")
        torch.testing.assert_close(found, corner)


def test_apgd_halves_its_step_where_it_swings(monkeypatch):
    # The loss has its peak inside the ball: steps of 2 eps jump over it for ever.
    peak = 0.5 + 0.3 * EPS
    seen = []

    def model(x):
        seen.append(x.flatten()[0].item())
        height = -((x.flatten(1) - peak) ** 2).sum(1) * 1e4
        return torch.stack([-height + 50, height], dim=1)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    found = adv.apgd(model, x, y, eps=EPS, steps=100, loss="margin")
    assert abs(found.item() - peak) < 1e-3 * EPS
    early, late = seen[:20], seen[-5:]
    assert max(early) - min(early) > EPS
    assert max(late) - min(late) < 0.05 * EPS


def apgd_by_hand(model, x, y, eps, checks, steps, rho):
    """Algorithm 1 of the paper for one image, and the first point on its way that fools."""

    def look(point):
        value, gradient, wrong = adv._loss_and_gradient(model, point, y, "ce")
        return value.item(), gradient, wrong.item()

    def project(point):
        return torch.minimum(torch.maximum(point, x - eps), x + eps).clamp(0, 1)

    value, gradient, wrong = look(x)
    fooling = x if wrong else None
    best, best_x, best_gradient = value, x, gradient
    old, here, step = x, x, 2 * eps
    ups, since, best_before, halved_before = 0, 0, value, True
    for number in range(1, steps + 1):
        new = project(here + step * gradient.sign())
        if number > 1:
            new = project(here + 0.75 * (new - here) + 0.25 * (here - old))
        old, here, last_value = here, new, value
        value, gradient, wrong = look(here)
        if wrong and fooling is None:
            fooling = here
        ups, since = ups + (value > last_value), since + 1
        if value > best:
            best, best_x, best_gradient = value, here, gradient
        if number in checks:
            halve = ups < rho * since or (not halved_before and best == best_before)
            if halve:
                step, here, gradient, value = step / 2, best_x, best_gradient, best
            ups, since, best_before, halved_before = 0, 0, best, halve
    return best_x if fooling is None else fooling


@pytest.mark.parametrize("lead", [0.0, 9.0])
@pytest.mark.parametrize(("steps", "rho"), [(7, 0.75), (60, 0.75), (60, 0.0)])
def test_apgd_takes_the_steps_of_the_paper_for_each_image(lead, steps, rho):
    # A loss with many peaks inside the ball; with a lead of 9 no point of it is fooling.
    weight, phase, mix = (
        torch.randn(*size, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        for i, size in enumerate([(12, 6), (6,), (6,)])
    )

    def model(pixels):
        height = (25 * pixels.double().flatten(1) @ weight + phase).sin() @ mix
        return torch.stack([height + lead, torch.zeros_like(height)], dim=1)

    x = torch.rand(20, 3, 2, 2, generator=torch.Generator().manual_seed(9))
    y = torch.zeros(20, dtype=torch.long)
    more = {} if rho == 0.75 else {"rho": rho}  # the paper's share is the default
    found = adv.apgd(model, x, y, eps=EPS, steps=steps, **more)
    checks = adv._checks(steps)
    for i in range(len(x)):
        one = apgd_by_hand(model, x[i : i + 1], y[i : i + 1], EPS, checks, steps, rho)
        torch.testing.assert_close(found[i : i + 1], one, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("steps", "places"), [(100, [22, 41, 57, 70, 80, 87, 93, 99]), (10, None)])
def test_apgd_checks_its_step_ever_more_often(steps, places):
    found = sorted(adv._checks(steps))
    assert places is None or found == places
    assert found[-1] <= steps
    assert found[0] == -(-22 * steps // 100)


def test_starts_belong_to_the_image_and_not_to_its_batch(net):
    x, y, ids = images()
    attack = adv.ATTACKS["pgd10_8"]
    whole = adv.run_attack(attack, net, x, y, ids)
    for rows in torch.randperm(24, generator=torch.Generator().manual_seed(1)).split(5):
        part = adv.run_attack(attack, net, x[rows], y[rows], ids[rows])
        assert torch.equal(part.fooled, whole.fooled[rows])
        close = torch.isclose(part.x, whole.x[rows], rtol=0, atol=1e-6)
        assert close.float().mean() > 0.995
    one_step = dataclasses.replace(attack, steps=0)
    start = adv.run_attack(one_step, net, x, y, ids).x
    assert (start - x).max() > 0.9 * attack.eps
    assert (start - x).min() < -0.9 * attack.eps
    assert not torch.equal(start, adv.run_attack(one_step, net, x, y, ids, seed=1).x)
    assert not torch.equal(start, adv.run_attack(one_step, net, x, y, ids + 1).x)
    still = dataclasses.replace(one_step, random_start=False)
    assert torch.equal(adv.run_attack(still, net, x, y, ids).x, x)


def test_a_network_that_is_too_sure_hides_from_cross_entropy_only(net):
    x, y, ids = images(64)

    def sure(pixels):
        return 1e5 * net(pixels)

    attack = adv.Attack(EPS, EPS / 4, 10, random_start=False, losses=("ce",))
    hidden = adv.run_attack(attack, sure, x, y, ids)
    right = net(x).argmax(1) == y
    assert torch.equal(hidden.saturated, right)
    assert torch.equal(hidden.x[right], x[right])  # no gradient, no step
    both = adv.run_attack(dataclasses.replace(attack, losses=("ce", "margin")), sure, x, y, ids)
    assert both.fooled.sum() > hidden.fooled.sum()
    assert (both.fooled | ~hidden.fooled).all()  # the worse of the two for each image
    assert torch.equal(sure(both.x).argmax(1) != y, both.fooled)  # and its picture
    turned = dataclasses.replace(attack, losses=("margin", "ce"))
    assert torch.equal(adv.run_attack(turned, sure, x, y, ids).fooled, both.fooled)
    found = adv.attack_scores(sure, [(x, y, ids)], ["pgd20_2"])
    assert found["sat_pct"] == pytest.approx(100 * right.float().mean().item())


def test_the_margin_is_that_of_the_best_wrong_class():
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 7.0, 1.0]])
    torch.testing.assert_close(adv.margin(logits, torch.tensor([0, 2])), torch.tensor([-0.5, 6.0]))


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
        for name, attack in adv.ATTACKS.items()
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
        attack = adv.ATTACKS[name]
        assert attack.eps * 255 == eps
        assert (attack.random_start, attack.losses) == (False, ("ce",))
    assert adv.ATTACKS["pgd20_4_puzzlemix"].losses == ("ce",)
    assert adv.ATTACKS["pgd10_4"].losses == ("ce", "margin")


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
        inside = adv.run_attack(adv.ATTACKS["fgsm_8"], net, x, y, ids)
        counts = adv.attack_counts(seen, [(x, y, ids)], ["fgsm_8", "pgd20_1"])
    assert counts["n"] == 8
    assert types == {torch.float32}
    with torch.no_grad():
        outside = adv.run_attack(adv.ATTACKS["fgsm_8"], net, x, y, ids)
    assert torch.equal(inside.x, outside.x)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not inside.x.requires_grad


def test_bad_attacks_are_refused(net):
    x, y, ids = images(2)
    with pytest.raises(ValueError, match="choose of: fgsm_8"):
        adv.attack_scores(net, [(x, y, ids)], ["fgsm_9"])
    with pytest.raises(ValueError, match="at least one batch"):
        adv.attack_scores(net, [])
    with pytest.raises(ValueError, match="ce, margin"):
        adv.fgsm(net, x, y, eps=EPS, loss="mse")
    with pytest.raises(ValueError, match="fgsm, pgd, apgd or autoattack"):
        adv.run_attack(adv.Attack(EPS, kind="fab"), net, x, y, ids)
    with pytest.raises(ValueError, match="eps must be > 0"):
        adv.run_attack(adv.Attack(0.0), net, x, y, ids)
