"""Every method trains every network that has what it needs."""

import pytest
import torch
from small_nets import CLASSIFIERS, SIZE, small_net

from mixbench import compose, run
from mixbench.config.schema import DataConfig, DataInfo, RunConfig
from mixbench.methods import METHODS
from mixbench.nn.optim import build_optimizer
from mixbench.testing.samples import BATCH, CLASSES, sample_batch
from mixbench.training.requirements import provided

QUICK = [
    ("cutmix", "vit_tiny"),
    ("manifoldmixup", "vit_tiny"),
    ("alignmix", "resnet18"),
    ("bc", "wrn16x8"),
]
SLOW = [
    pair for pair in ((m, n) for m in METHODS.names() for n in CLASSIFIERS) if pair not in QUICK
]


def share_that_learns(name, net):
    """Share of the network's parameters, or of what is trained instead, that three steps change."""
    cls = METHODS.get(name)
    settings = cls.Config()
    if not settings.requires <= provided(net):
        pytest.skip(f"{name} needs {', '.join(settings.requires)}")
    torch.manual_seed(0)
    info = DataInfo(CLASSES, SIZE, SIZE, residual_mean=[0.0] * 3, residual_std=[1.0] * 3)
    run = RunConfig(method={"name": name}, data=DataConfig(crop=2), batch_size=BATCH)
    method = cls(small_net(net, classes=CLASSES), info, settings, run).train()
    optimizer = build_optimizer(method.param_groups(), run.optim, lr=0.01)
    learning = [p for p in method.net.parameters() if p.requires_grad]
    learning = learning or [p for p in method.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learning]
    for batch in range(3):  # so that more than one layer is drawn
        method.reseed(0, batch)
        logits, mixed = method.predict(method.mix(*sample_batch(BATCH, SIZE, SIZE)))
        terms = method.loss(logits, mixed)
        loss = sum(terms.values()) if isinstance(terms, dict) else terms
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in learning)
    changed = [not torch.equal(a, b) for a, b in zip(before, learning, strict=True)]
    return sum(changed) / len(changed)


@pytest.mark.parametrize(("name", "net"), QUICK)
def test_a_method_trains_a_network(name, net):
    assert share_that_learns(name, net) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "net"), SLOW)
def test_every_other_pair_trains_too(name, net):
    assert share_that_learns(name, net) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("net", CLASSIFIERS)
def test_every_network_of_full_size_trains_an_epoch_on_the_digits(runs, net):
    words = f"method=mixup net={net} net.width=16 data=digits data.size=32 data.limit=64 epochs=1"
    if "attention" in provided(net):
        words += " net.patch=4"
    record = run(compose(f"{words} batch_size=16 wandb.mode=disabled"))
    assert record.status == "done"
    assert 0 <= record.metrics["top1"] <= 100


@pytest.mark.parametrize("layer", [0, 1, 4])
def test_manifold_mixup_mixes_all_tokens_of_a_layer(layer):
    cls = METHODS.get("manifoldmixup")
    method = cls(small_net("vit_tiny", patch=16), DataInfo(4, SIZE, SIZE)).train()
    x, targets = sample_batch(4, SIZE, SIZE)
    perm, lam = torch.tensor([1, 2, 3, 0]), torch.tensor([0.3])
    with torch.no_grad():
        logits, _ = method.predict(method.mix(x, targets, layer=layer, perm=perm, lam=lam))
        h = method.net.forward_stages(x, stop=layer)
        rest = method.net.forward_stages(0.3 * h + 0.7 * h[perm], start=layer)
        torch.testing.assert_close(logits, method.net.head(rest), rtol=1e-4, atol=1e-5)
