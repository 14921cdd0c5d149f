"""What only a GPU can show; run with `pytest -m gpu`."""

import contextlib
from functools import partial

import killing
import pytest
import torch

import mixbench.functional as mf
from mixbench import compose, run
from mixbench.config.schema import OptimConfig
from mixbench.data.sampling import BatchIndex
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.nn.optim import build_optimizer
from mixbench.nn.update import Update
from mixbench.records.checkpoints import LAST, read_checkpoint
from mixbench.testing.contract import RULES, rules_of
from mixbench.testing.samples import sample_method, sample_splits
from mixbench.training.compile import compile_input
from mixbench.training.step_graphs import capture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

OPERATIONS = {
    "mixup": mf.mixup,
    "mixup per sample": lambda *batch, **options: mf.mixup(*batch, per_sample=True, **options),
    "manifoldmixup": mf.manifoldmixup,
    "cutmix": mf.cutmix,
    "cutmix per sample": lambda *batch, **options: mf.cutmix(*batch, per_sample=True, **options),
    "alignmix": lambda x, targets, **options: mf.alignmix(
        x[:, :, ::8, ::8], targets, eps=1.0, **options
    ),
    "alignmix scaled": lambda x, targets, **options: mf.alignmix(
        x[:, :, ::8, ::8], targets, eps=1.0, solver="scaled", cost_scale="mean", **options
    ),
    "tdattenmix": lambda x, targets, **options: mf.tdattenmix(
        x, targets, x[:, 0, ::4, ::4].relu(), side=2, **options
    ),
    "fmix": mf.fmix,
    "fmix per sample": lambda *batch, **options: mf.fmix(*batch, per_sample=True, **options),
    "gridmix": mf.gridmix,
    "resizemix": mf.resizemix,
    "resizemix per sample": lambda *batch, **options: mf.resizemix(
        *batch, per_sample=True, mode="bilinear", **options
    ),
    "saliencymix": lambda x, targets, **options: mf.saliencymix(
        x, targets, mf.fine_grained_saliency(x[:1].sigmoid()), **options
    ),
    "attentivemix": lambda x, targets, **options: mf.attentivemix(
        x, targets, x[:, 0, ::4, ::4], **options
    ),
    "guidedmixup": mf.guidedmixup,
    "snapmix": lambda x, targets, **options: mf.snapmix(x, targets, x[:, 0, ::4, ::4], **options),
    "snapmix per sample": lambda x, targets, **options: mf.snapmix(
        x, targets, x[:, 0, ::4, ::4], per_sample=True, **options
    ),
    "tokenmix": lambda x, targets, **options: mf.tokenmix(
        x, targets, x[:, 0].relu(), grid=(8, 8), **options
    ),
    "smmix": lambda x, targets, **options: mf.smmix(x, targets, x[:, 0, ::4, ::4].abs(), **options),
    "smmix per sample": lambda x, targets, **options: mf.smmix(
        x, targets, x[:, 0, ::4, ::4].abs(), per_sample=True, **options
    ),
    "mixpro": lambda x, targets, **options: mf.mixpro(x, targets, cell=5, **options),
    "puzzlemix": lambda x, targets, **options: mf.puzzlemix(
        x, targets, x.square().mean(1), blocks=8, **options
    ),
    "smoothmix": mf.smoothmix,
    "bc": mf.bc,
    "bc plus": lambda *batch, **options: mf.bc(*batch, plus=True, **options),
}


@pytest.fixture
def forbid_waiting():
    """From its call to the end of the test, a wait of the host for the device is an error."""

    def forbid():
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")

    yield forbid
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_decisions_are_those_of_the_cpu_and_the_host_never_waits(operation, forbid_waiting):
    x, targets = torch.randn(8, 3, 32, 32), torch.eye(8)
    expected = operation(x, targets, generator=torch.Generator().manual_seed(3))
    on_device = x.cuda(), targets.cuda()
    forbid_waiting()
    mixed = operation(*on_device, generator=torch.Generator().manual_seed(3))
    torch.cuda.set_sync_debug_mode("default")  # looking at the results waits
    torch.testing.assert_close(mixed.x.cpu(), expected.x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mixed.targets.cpu(), expected.targets, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [16, 49, 64, 196])
@pytest.mark.parametrize(
    ("solver", "last"), [("compat", "columns"), ("scaled", "rows"), ("scaled", "columns")]
)
def test_a_transport_plan_takes_one_launch_and_is_that_of_float64(
    count, solver, last, monkeypatch, forbid_waiting
):
    h, partner = torch.randn(2, 8, 64, count, generator=torch.Generator().manual_seed(0)).cuda()
    cost = mf.position_cost(h, partner * 3)
    settings = {"solver": solver, "last": last}
    exact = mf.sinkhorn(cost.double(), **settings)
    mf.sinkhorn(cost, **settings)  # compiles the kernel
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        forbid_waiting()
        fused = mf.sinkhorn(cost, **settings)
        torch.cuda.set_sync_debug_mode("default")  # looking at the results waits
        torch.cuda.synchronize()
    assert sum("_solve_one" in event.name for event in profile.events()) == 1
    monkeypatch.setenv("MIXBENCH_FUSED", "0")
    for found in (fused, mf.sinkhorn(cost, **settings)):
        error = (found.plan - exact.plan) * count
        assert error.abs().max() < 0.02
        assert error.abs().mean() < 1e-4
        met = found.plan.sum(dim=2 if last == "rows" else 1) * count
        assert (met - 1).abs().max() < 1e-5


@pytest.mark.parametrize("operation", [mf.mixup, mf.cutmix, mf.bc])
def test_a_generator_on_the_device_is_followed(operation):
    x, targets = torch.randn(8, 3, 16, 16, device="cuda"), torch.eye(8, device="cuda")
    first, second = (
        operation(x, targets, generator=torch.Generator("cuda").manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first.x, second.x)
    assert first.lam.device.type == "cuda"


@pytest.mark.parametrize("name", [n for n in METHODS.names() if rules_of(METHODS.get(n)) is RULES])
def test_a_training_step_never_waits_for_the_device(name, forbid_waiting):
    method = sample_method(METHODS.get(name)).cuda()
    images = method.wrap_dataset(sample_splits(method).train.to(torch.device("cuda")))
    parameters = list(method.parameters())
    for step in range(2):
        if step == 1:  # the first one loads kernels and may wait
            forbid_waiting()
        batch = images[BatchIndex(torch.arange(6), step)]
        method.reseed(0, step)
        logits, mixed = method.predict(method.mix(*method.prepare(batch)))
        terms = method.loss(logits, mixed)
        (sum(terms.values()) if isinstance(terms, dict) else terms).backward()
        method.on_after_backward()
    assert all(p.grad is not None for p in parameters if p.requires_grad)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_trains_on_the_gpu(runs, precision):
    words = ["method=cutmix", "data=digits", "epochs=8", "trainer.accelerator=gpu"]
    record = run(compose([*words, f"precision={precision}", "wandb.mode=disabled"]))
    assert record.metrics["top1"] > 90
    assert record.gpu_hours
    assert record.peak_mem_gb
    assert "CPU" not in record.device


def test_a_run_with_averaged_weights_goes_on_bit_by_bit(tmp_path, monkeypatch):
    words = "data=digits data.limit=256 net.width=8 epochs=3 batch_size=32 wandb.mode=disabled "
    words += "trainer.accelerator=gpu trainer.deterministic=true trainer.ckpt_steps=3 optim.ema=0.9"

    whole, stopped, record = killing.crash_and_go_on(words, tmp_path, monkeypatch, step=13)
    assert record.resumed_bit_exact is True
    assert killing.differences(whole, stopped) == []


def test_the_steps_between_two_looks_at_the_loss_wait_for_nothing(tmp_path, monkeypatch):
    original, every = Method.training_step, 10

    def step(self, batch, batch_idx):
        looked_at = self.step % every == 0 or self.step < every
        torch.cuda.set_sync_debug_mode("default" if looked_at else "error")
        try:
            return original(self, batch, batch_idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Method, "training_step", step)
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    words = "data=digits data.limit=512 net.width=8 epochs=3 batch_size=32 wandb.mode=disabled "
    words += f"trainer.accelerator=gpu trainer.log_every={every} optim.ema=0.99"
    assert run(compose(words)).status == "done"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        ("erm optim.clip=0.1 optim.ema=0.9 optim.warmup_epochs=1", "1 graph"),
        ("mixup method.prob=0.5 optim.name=adamw lr=1e-3 optim.clip=0.1", "2 graphs"),
        ("manifoldmixup", "3 graphs"),
    ],
)
def test_replayed_steps_train_the_same_as_those_that_are_launched(
    words, kinds, precision, tmp_path, monkeypatch
):
    given = f"data=digits data.limit=256 net.width=8 epochs=2 batch_size=16 precision={precision} "
    given += f"method={words} eval.suites=[] logger=none trainer.engine=fast "
    given += "trainer.accelerator=gpu trainer.deterministic=true"
    weights = []
    for graphs in ("false", "true"):
        monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / graphs))
        record = run(compose(f"{given} trainer.cuda_graphs={graphs}"))
        weights.append(read_checkpoint(tmp_path / graphs / record.id / LAST)["state_dict"])
    assert record.cuda_graphs == f"{kinds} of passes and update"
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_replayed_update_leaves_the_bits_of_the_optimiser(name, forbid_waiting):
    weights = []
    for replayed in (False, True):
        generator = torch.Generator("cuda").manual_seed(0)
        given = {"device": "cuda", "generator": generator}
        found = [torch.randn(*shape, **given) for shape in [(64, 32, 3, 3), (7,), (1,)]]
        optimizer = build_optimizer([{"params": found}], OptimConfig(name=name), 0.1)
        for weight in found:
            weight.grad = torch.zeros_like(weight)
        optimizer.step()  # makes the momenta
        if replayed:
            update, replay = capture(partial(begun, optimizer))
        for step in range(5):
            optimizer.param_groups[0]["lr"] = 0.3 / (step + 3)
            for weight in found:
                weight.grad.normal_(generator=generator)
            if step == 1:
                forbid_waiting()
            if replayed:
                replay()
            (update if replayed else optimizer).step()
        torch.cuda.set_sync_debug_mode("default")
        weights.append(found)
    assert all(map(torch.equal, *weights))


def begun(optimizer):
    weights = optimizer.param_groups[0]["params"]
    torch.nn.utils.clip_grad_norm_(weights, 1e9)  # changes nothing, and waits for nothing
    update = Update(optimizer)
    update.follow_gradients()
    return update


def test_compiled_input_on_the_device_is_the_plain_one():
    made = [sample_method(METHODS.get("cutmix")).cuda() for _ in range(2)]
    assert compile_input(made[1], 6, contextlib.nullcontext())
    images = sample_splits(made[0]).train.to(torch.device("cuda"))
    found = []
    for method in made:
        method.reseed(0, 1)
        found.append(method.mix_batch(images[BatchIndex(torch.arange(6), 1)]))
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-5)
