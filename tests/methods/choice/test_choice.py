"""One of several methods per batch, all on one network."""

import copy
from dataclasses import dataclass

import pytest
import torch

import mixbench.functional as mf
from mixbench import build_method
from mixbench.backbones.cifar import PreActResNet
from mixbench.config.schema import DataInfo
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.methods.choice.choice import Choice
from mixbench.pictures.sheet import as_sheets
from mixbench.testing.samples import CLASSES, SIZE, fit, sample_batch, sample_method, sample_splits

LEARNED = ["cutmix", "samix"]


def choice(members=None, **settings):
    members = {} if members is None else {"members": members}
    return sample_method(METHODS.get("choice"), **members, **settings)


def drawn(method, steps=200, rank=0):
    x, targets = sample_batch()
    method.rank = rank
    places = []
    for index in range(steps):
        method.reseed(0, index)
        places.append(method.mix(x, targets).aux[0])
    return places


def test_members_are_drawn_by_their_shares_and_alike_on_all_ranks():
    method = choice(["erm", "mixup", "cutmix"], probs=[1.0, 0.0, 3.0])
    places = drawn(method)
    assert abs(places.count(2) - 150) < 30
    assert 1 not in places
    assert places[:30] == drawn(method, 30, rank=1)
    even = drawn(choice())
    assert abs(even.count(0) - 100) < 30


@pytest.mark.parametrize("place", [0, 1])
def test_a_step_is_that_of_the_member_with_its_own_keys(place):
    settings = {"mixup": {"alpha": 0.3}, "cutmix": {"box_rule": "inside", "alpha": 0.4}}
    method = choice(settings=settings)
    name = ("mixup", "cutmix")[place]
    alone = METHODS.get(name)
    alone = alone(method.net, method.info, alone.Config(**settings[name]), method.run).train()
    x, targets = sample_batch()
    method.reseed(2, 3)
    alone.reseed(2, 3)
    alone.shared_generator = method.shared_generator  # the draw of the member comes first
    mixed = method.mix(x, targets, member=place)
    method.reseed(2, 3)
    torch.multinomial(torch.ones(2), 1, generator=method.shared_generator)
    expected = alone.mix(x, targets)
    assert torch.equal(mixed.x, expected.x)
    logits, after = method.predict(mixed)
    assert torch.equal(logits, alone.predict(expected)[0])
    assert torch.equal(after.targets, expected.targets)
    torch.testing.assert_close(method.loss(logits, after), alone.loss(logits, expected))


def test_decisions_reach_the_member():
    method = choice()
    x, targets = sample_batch()
    lam, perm = torch.tensor([0.25]), torch.arange(len(x)).flip(0)
    mixed = method.mix(x, targets, member=0, lam=lam, perm=perm)
    assert torch.equal(mixed.x, mf.mixup(x, targets, lam=lam, perm=perm).x)


def test_the_net_is_kept_once_with_all_that_members_own():
    method = choice(LEARNED)
    state = method.state_dict()
    nets = [name for name in state if name.endswith("net.head.fc.weight")]
    assert nets == ["net.head.fc.weight", "members.1.teacher.net.head.fc.weight"]
    assert [name for name in state if name.endswith("mean") and "running" not in name] == ["mean"]
    for member in method.members:
        assert member.net is method.net
        assert member.mean is method.mean
        assert member.generator is method.generator
        assert member.shared_generator is method.shared_generator
    twin = copy.deepcopy(method)
    assert twin.members[0].net is twin.net is not method.net


def test_moved_buffers_are_those_of_the_members_too():
    method = choice(["mixup", "bc"]).double()
    assert method.mean.dtype == torch.float64
    assert all(member.mean is method.mean for member in method.members)
    assert all(member.std is method.std for member in method.members)


def test_groups_are_joined_and_keep_the_rates_of_their_members():
    method = choice(LEARNED, settings={"samix": {"mixer_lr": 0.5}})
    groups = method.param_groups()
    grouped = [id(p) for group in groups for p in group["params"]]
    trainable = [id(p) for p in method.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    rates = {id(p): group.get("lr") for group in groups for p in group["params"]}
    assert {rates[id(p)] for p in method.members[1].mixer.parameters()} == {0.5}
    assert {rates[id(p)] for p in method.net.parameters()} == {None}


@pytest.mark.parametrize("place", [0, 1])
def test_parameters_of_other_members_have_a_gradient_of_zero(place):
    method = choice(LEARNED)
    x, targets = sample_batch()
    logits, mixed = method.predict(method.mix(x, targets, member=place))
    terms = method.loss(logits, mixed)
    loss = sum(terms.values()) if isinstance(terms, dict) else terms
    loss.backward()
    own = [p.grad for p in method.members[1].parameters() if p.requires_grad]
    assert all(grad is not None for grad in own)
    assert any(bool(grad.any()) for grad in own) is (place == 1)
    assert any(bool(p.grad.any()) for p in method.net.parameters())


def test_weight_zero_does_not_change_the_loss():
    method = choice(LEARNED)
    x, targets = sample_batch()
    logits, mixed = method.predict(method.mix(x, targets, member=0))
    assert torch.equal(method.loss(logits, mixed), mf.soft_cross_entropy(logits, mixed.targets))


def test_all_members_follow_each_step_and_share_the_clock():
    method = choice(LEARNED, probs=[1.0, 0.0])
    teacher = [p.clone() for p in method.members[1].teacher.parameters()]
    fit(method)
    assert method.step == method.total_steps == 4
    assert all(m.step == 4 and m.total_steps == 4 for m in method.members)
    moved = zip(teacher, method.members[1].teacher.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)


def test_what_is_tested_is_the_network_or_the_product_of_the_member_that_has_one():
    x = torch.rand(4, 3, SIZE, SIZE)
    plain, learned = choice().eval(), choice(LEARNED).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(x), plain.net(plain.normalize(x)))
        learned.members[1].teacher.net.head.fc.bias += 1
        expected = learned.members[1].teacher.net(learned.normalize(x))
        torch.testing.assert_close(learned(x), expected)
        assert (learned(x) - learned.net(learned.normalize(x))).abs().max() > 0.5
        assert set(learned.extra_logits(x)) == {"k_mix", "q_one", "q_mix"}
        assert plain.extra_logits(x) == {}


def test_curves_and_pictures_are_those_of_the_member():
    method = choice(["mixup", "bc"])
    x, targets = sample_batch()
    for place, keys in ((0, {"lam", "member"}), (1, {"lam", "alone", "member"})):
        mixed = method.mix(x, targets, member=place)
        figures = method.diagnostics(method.predict(mixed)[1])
        assert set(figures) == keys
        assert figures["member"] == place
        (shown,) = as_sheets(method.picture(x, targets, mixed))
        assert ["mixup", "bc"][place] in shown.title


def test_requirements_and_cost_are_those_of_the_members():
    config = METHODS.get("choice").Config
    assert config().requires == frozenset()
    assert config(members=["mixup", "tlalign"]).requires == {"stages", "attention"}
    samix = METHODS.get("samix").cost
    assert config(members=["mixup", "samix"], probs=[3, 1]).cost == pytest.approx((3 + samix) / 4)
    assert config().fidelity == "variant"


class OwnStep(Method):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)


class Elsewhere(Method):
    tasks = frozenset({"ssl"})


class Picky(Method):
    @dataclass
    class Config(Method.Config):
        alpha: float = 1.0

        def __post_init__(self):
            if self.alpha < 0:
                raise ValueError(f"method.alpha must be >= 0, got {self.alpha}")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"members": []}, "method.members must name methods, each once"),
        ({"members": ["mixup", "mixup"]}, "each once"),
        ({"members": ["mixup", "cutmx"]}, "did you mean 'cutmix'"),
        ({"members": ["os:getcwd"]}, "'os:getcwd' is not a registered name"),
        ({"members": ["mixup", "choice"]}, "choice cannot be a member"),
        ({"members": ["mixup", "elsewhere"]}, "elsewhere cannot be a member"),
        ({"probs": [1.0]}, "must give each of 2 members a share"),
        ({"probs": [1.0, -1.0]}, "a share >= 0"),
        ({"probs": [0.0, 0.0]}, "not all of them 0"),
        ({"probs": [1.0, float("inf")]}, "a share"),
        ({"probs": [1.0, float("nan")]}, "a share"),
        ({"settings": {"bc": {}}}, "'bc', which is not among method.members"),
        ({"settings": {"mixup": {"alhpa": 1}}}, "unknown key method.mixup.alhpa; did you mean"),
        ({"members": ["picky"], "settings": {"picky": {"alpha": -1}}}, r"method\.picky\.alpha"),
        ({"members": ["mixup", "ownstep"]}, "ownstep has training steps of its own"),
        (
            {"members": ["mixup", "bc"], "settings": {"bc": {"plus": True}}},
            "bc normalises images in its own way",
        ),
        ({"members": ["samix", "automix"]}, "samix and automix each test a network"),
    ],
    ids=str,
)
def test_what_cannot_be_a_choice_is_refused(settings, text, monkeypatch):
    for name, cls in (("ownstep", OwnStep), ("elsewhere", Elsewhere), ("picky", Picky)):
        monkeypatch.setitem(METHODS._objects, name, cls)
    with pytest.raises(ValueError, match=text):
        choice(**settings)


class OwnImages(Method):
    def wrap_dataset(self, train_set):
        return copy.copy(train_set)


def test_a_member_that_wants_another_training_set_is_refused(monkeypatch):
    monkeypatch.setitem(METHODS._objects, "ownimages", OwnImages)
    method = choice(["mixup", "ownimages"])
    images = sample_splits(method).train
    with pytest.raises(UserError, match="ownimages needs another training set") as error:
        method.wrap_dataset(images)
    assert error.value.todo == "change its keys method.ownimages.<key>, or leave it out"
    assert choice().wrap_dataset(images) is images


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bc", {"pairing": "dataset"}),
        ("tdattenmix", {"maps": "maps.npy"}),
        ("tdattenmix", {"maps": "maps.npy", "attention": "gaze"}),
    ],
)
def test_settings_that_want_another_training_set_are_refused_before_any_is_read(name, settings):
    with pytest.raises(UserError, match=f"{name} needs another training set") as error:
        METHODS.get("choice").Config(members=["mixup", name], settings={name: settings})
    assert error.value.todo == f"change its keys method.{name}.<key>, or leave it out"


ATTENDING = ["tlalign", "transmix", "tdattenmix"]


@pytest.mark.parametrize("place", range(3), ids=ATTENDING)
def test_methods_of_attention_share_a_transformer(place):
    """What a member mixes, predicts and loses is what it does alone."""
    settings = {"tdattenmix": {"switch_prob": 1.0}, "transmix": {"mixup_alpha": 0.0}}
    method = choice(ATTENDING, settings=settings)
    cls = METHODS.get(ATTENDING[place])
    config = cls.Config(**settings.get(ATTENDING[place], {}))
    alone = cls(copy.deepcopy(method.net), method.info, config, method.run).train()
    own = {
        name.removeprefix(f"members.{place}."): value
        for name, value in method.state_dict().items()
        if name.startswith(f"members.{place}.")
    }
    assert alone.load_state_dict(own, strict=False).unexpected_keys == []
    x, targets = sample_batch()
    method.reseed(1, 2)
    mixed = method.mix(x, targets, member=place)
    alone.reseed(1, 2)
    torch.multinomial(torch.ones(3), 1, generator=alone.shared_generator)
    expected = alone.mix(x, targets)
    assert torch.equal(mixed.x, expected.x)
    logits, after = method.predict(mixed)
    alone_logits, alone_after = alone.predict(expected)
    assert torch.equal(after.targets, alone_after.targets)
    terms, alone_terms = method.loss(logits, after), alone.loss(alone_logits, alone_after)
    values = [t if isinstance(t, torch.Tensor) else sum(t.values()) for t in (terms, alone_terms)]
    torch.testing.assert_close(*values)
    values[0].backward()
    waiting = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert waiting == []
    assert ATTENDING[place] in as_sheets(method.picture(x, targets, mixed))[0].title


@pytest.mark.parametrize("members", [["mixup", "tdattenmix"], ATTENDING], ids="-".join)
def test_methods_of_attention_train_and_are_tested_by_turns(members):
    method = choice(members, settings={"tdattenmix": {"min_ratio": 0.5}})
    fit(method)
    assert method.step == 4
    assert len(set(drawn(method, 30))) == len(members)
    x = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(method.eval()(x), method.net(method.normalize(x)))


def test_in_plain_python_a_choice_takes_the_keys_of_its_members():
    settings = {"mixup": {"alpha": 0.8}}
    method = build_method("choice", settings=settings, info=DataInfo(4, 16, 16))
    assert method.config.of["mixup"].alpha == 0.8
    assert method.config.of["cutmix"].alpha == 1.0
    assert isinstance(method, Choice)


@pytest.mark.slow
def test_a_compiled_choice_adds_no_graph_per_step():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    net = PreActResNet((1, 1, 1, 1), 4, CLASSES)
    method = build_method("choice", net, DataInfo(CLASSES, SIZE, SIZE)).train()
    for stage in net.stages:
        stage.compile(backend="eager", fullgraph=True)
    x, targets = sample_batch()
    counts = []
    for index in range(10):
        method.reseed(0, index)
        logits, mixed = method.predict(method.mix(x, targets))
        method.loss(logits, mixed).backward()
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[0] == counts[-1] <= 4
