"""The speed measurements: what they conclude, never how fast this machine is."""

import dataclasses
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from frozen_calls import FrozenCalls
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

import mixbench.functional as mf
import mixbench.records.checkpoints as checkpoints
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.perf import input as input_part
from mixbench.perf import loops, mix, peers, photographs, step, timing, transport
from mixbench.perf import main as main_module
from mixbench.perf import run as run_part
from mixbench.perf.benchmark import NO_GPU, NOT_ASKED
from mixbench.perf.cut import EXCESS, CutBenchmark, Cuts
from mixbench.perf.engine import GRAPHS, PASSES, EngineBenchmark, Steps, time_of_step
from mixbench.perf.growth import AMOUNTS, PEAK, Amount, GrowthBenchmark
from mixbench.perf.input import SingleImages
from mixbench.perf.main import FAILED, main
from mixbench.perf.mix import MixBenchmark
from mixbench.perf.photographs import PhotographBenchmark
from mixbench.perf.report import (
    FAIL,
    PASS,
    SKIPPED,
    Gate,
    Limit,
    Row,
    Rule,
    judge,
    to_json,
    to_markdown,
    write,
)
from mixbench.perf.run import TIMM, RunBenchmark, Whole, own_words
from mixbench.perf.search import SearchBenchmark, Searches
from mixbench.perf.step import StepBenchmark
from mixbench.perf.timing import Budget
from mixbench.perf.transport import TransportBenchmark
from mixbench.perf.views import BASE as BY_PILLOW
from mixbench.perf.views import RESIDENT as BY_TENSORS
from mixbench.perf.views import ViewBenchmark, by_pillow, by_tensors
from mixbench.training import step_graphs
from mixbench.training.fast_loop import FastTrainingLoop
from mixbench.training.step_graphs import StepGraphs

CPU = torch.device("cpu")
SEARCHES = Searches(2, 2, 4)
ENGINES = Steps(8, "a few", 64)
WHOLE = Whole(16, "a few", 32, 16, 2, width=4)
TINY = Budget(
    rounds=2,
    round_s=1e-4,
    input_rounds=2,
    images=256,
    files=2,
    plan_rounds=2,
    step_rounds=2,
    run_rounds=1,
)
SHAPE = mix.Shape(4, 8, 3)
MAPS = transport.Maps(2, 32, 4, 2)
STEP = step.Shape(4, 32, 4)
VIT = step.Shape(4, 32, patch=16)
FACTS = {
    "device": "cpu",
    "date": "2000-01-01",
    "hardware": "made up",
    "threads": 1,
    "clock": "none",
    "versions": {"torch": "0"},
    "commit": "",
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """As little work as shows what is concluded."""
    monkeypatch.setattr(transport, "REFERENCE_ITERATIONS", 400)


@pytest.fixture
def no_peers(monkeypatch):
    for package in ("torchvision", "torchvision.transforms", "timm.data.mixup", "timm"):
        monkeypatch.setitem(sys.modules, package, None)
    for package in ("kornia", "kornia.augmentation", "ot.batch", "geomloss"):
        monkeypatch.setitem(sys.modules, package, None)
    for checkout in ("OPENMIXUP", "ALIGNMIX"):
        monkeypatch.delenv(checkout, raising=False)


def busy(seconds):
    def call(number):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    return call


def test_a_variant_that_is_four_times_slower_is_seen_as_such():
    calls = {"fast": busy(2e-4), "slow": busy(8e-4)}
    measures = {name: timing.repeated(call, CPU, 5e-3) for name, call in calls.items()}
    seconds = timing.interleave(measures, rounds=5)
    slower = timing.ratio(seconds["slow"], seconds["fast"])
    assert 3 < slower.value < 5
    assert slower.low <= slower.high


def test_variants_run_in_turn():
    order = []
    measures = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    seconds = timing.interleave(measures, rounds=2)
    assert order == list("abcabc")
    assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}


def test_a_round_between_two_ticks_of_a_coarse_clock_is_repeated(monkeypatch):
    calls = []
    monkeypatch.setattr(timing.time, "process_time", lambda: len(calls) // 4 * 0.01)
    measures = {name: timing.repeated(calls.append, CPU, 1e-4) for name in ("one", "other")}
    seconds = timing.interleave(measures, rounds=3)
    assert all(value == pytest.approx(0.01 / 4) for each in seconds.values() for value in each)
    assert timing.ratio(seconds["one"], seconds["other"]).value == pytest.approx(1)


def test_a_clock_that_stands_still_is_told():
    with pytest.raises(RuntimeError, match="still: the clock has not moved"):
        timing.interleave({"still": lambda: 0.0}, rounds=1)


def test_a_fast_variant_is_repeated_on_alternating_inputs_until_the_round_is_filled():
    counts = []
    for _ in range(5):  # a pause of the machine while the count is found makes it small
        numbers = []
        measure = timing.repeated(lambda number, seen=numbers: seen.append(number), CPU, 2e-3)
        before = len(numbers)
        measure()
        assert numbers == list(range(len(numbers)))
        counts.append(len(numbers) - before)
    assert max(counts) > 100


def test_ratio_is_that_of_the_medians_with_the_quartiles_of_the_turns():
    found = timing.ratio([2.0, 4.0, 90.0], [1.0, 2.0, 3.0])
    assert (found.value, found.low, found.high) == (2.0, 2.0, 16.0)


def test_ratio_of_different_turns_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        timing.ratio([1.0, 2.0], [1.0])


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with timing.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def rows():
    return [
        Row("P1", "s", "copy", 4, [1.0, 1.0, 1.0], traffic=8),
        Row("P1", "s", "ours", 4, [2.0, 2.0, 2.0], traffic=12, note="shared"),
        Row("P1", "s", "slow peer", 4, [6.0, 6.0, 5.0]),
        Row("P1", "s", "quick peer", 4, [1.9, 1.9, 1.0]),
        Row("P1", "s", "absent peer", 4, skipped="not installed"),
        Row("P1", "other", "quick peer", 4, [0.1, 0.1, 0.1]),
    ]


@pytest.mark.parametrize(
    ("peer", "speedup", "status"),
    [
        ("slow peer", 2.0, PASS),
        ("slow peer", 3.5, FAIL),
        ("quick peer", 1 / 1.1, PASS),
        ("quick peer", 1.0, FAIL),
        ("absent peer", 2.0, SKIPPED),
        ("unknown peer", 2.0, SKIPPED),
    ],
)
def test_a_gate_compares_the_rows_of_its_shape(peer, speedup, status):
    (gate,) = judge([Rule("P1", "s", "ours", peer, speedup)], rows())
    assert gate.status == status


@pytest.mark.parametrize(
    ("most", "status", "detail"),
    [
        (0.5, PASS, "0.5"),
        (0.4, FAIL, "0.5"),
        ("worse", PASS, "0.5 and 0.6"),
        ("lost", FAIL, "0.5 and nan"),
        ("absent", SKIPPED, "absent: not installed"),
    ],
)
def test_a_limit_compares_a_figure_with_a_number_or_a_peer(most, status, detail):
    table = [
        Row("P2", "s", "ours", 4, [1.0], figures={"error": 0.5}),
        Row("P2", "s", "worse", 4, [1.0], figures={"error": 0.6}),
        Row("P2", "s", "lost", 4, [1.0], figures={"error": float("nan")}),
        Row("P2", "s", "absent", 4, skipped="not installed"),
    ]
    (gate,) = judge([Limit("P2", "s", "ours", "error", most)], table)
    assert (gate.status, gate.detail) == (status, detail)
    (lost,) = judge([Limit("P2", "s", "lost", "error", 0.5)], table)
    assert lost.status == FAIL


def test_figures_are_columns_of_their_part_and_json_that_others_can_read():
    table = [
        Row("P1", "s", "copy", 4, [1.0]),
        Row("P2", "s", "good", 4, [1.0], figures={"error": 0.25}, note="fixed"),
        Row("P2", "s", "lost", 4, [1.0], figures={"error": float("nan")}),
        Row("P2", "s", "absent", 4, skipped="not installed"),
    ]
    bases = {"P1": "copy", "P2": "good"}
    content = json.loads(to_json(FACTS, table, [], bases), parse_constant=pytest.fail)
    assert [row["figures"].get("error") for row in content["rows"]] == [None, 0.25, None, None]
    lines = to_markdown(FACTS, table, [], bases).splitlines()
    assert "| P2 | s | good | 1.000 | 0.000 | 1 |  | 4,000 | 0.25 | fixed |" in lines
    assert "| P2 | s | lost | 1.000 | 0.000 | 1 |  | 4,000 | nan |  |" in lines
    widths = [[len(line.split("|")) for line in lines if f"| {part} |" in line] for part in bases]
    assert widths == [[11], [12, 12, 12]]


def test_a_skipped_gate_says_what_is_missing():
    (gate,) = judge([Rule("P1", "s", "ours", "absent peer", 2.0)], rows())
    assert gate.detail == "absent peer: not installed"
    (gate,) = judge([Rule("P1", "s", "unknown", "quick peer", 2.0)], rows())
    assert gate.detail == "unknown: not measured"


def test_a_gate_states_its_limit_and_shows_the_ratio_in_the_same_direction():
    faster, slower = (Rule("P1", "s", "ours", "slow peer", limit) for limit in (2.0, 1 / 1.1))
    assert str(faster) == "P1 s: ours >= 2x faster than slow peer"
    assert str(slower) == "P1 s: ours <= 1.1x the time of slow peer"
    shown = [gate.detail.split("x")[0] for gate in judge([faster, slower], rows())]
    assert shown == ["3.00", "0.33"]


def test_report_writes_every_row_and_gate_as_json_and_markdown(tmp_path):
    gates = [Gate("a rule", PASS, "3x"), Gate("another", SKIPPED, "no GPU")]
    bases = {"P1": "copy"}
    texts = (to(FACTS, rows(), gates, bases) for to in (to_json, to_markdown))
    json_path, markdown_path = write(tmp_path / "perf", "2000-01-01-cpu", *texts)
    content = json.loads(json_path.read_text())
    by_name = {row["variant"]: row for row in content["rows"] if row["shape"] == "s"}
    assert by_name["ours"]["ratio"] == 2.0
    assert by_name["ours"]["rounds_ms"] == [2.0, 2.0, 2.0]
    assert by_name["absent peer"]["skipped"] == "not installed"
    assert [gate["status"] for gate in content["gates"]] == [PASS, SKIPPED]
    markdown = markdown_path.read_text()
    assert "| P1 | s | ours | 2.000 | 0.000 | 2 | 0.0 | 2,000 | shared |" in markdown
    assert "| absent peer |  |  |  |  |  | skipped: not installed |" in markdown
    assert "- pass: a rule: 3x" in markdown
    assert "1 pass, 0 FAIL, 1 skipped" in markdown


@pytest.mark.usefixtures("no_peers")
def test_missing_peers_become_skipped_rows_and_gates():
    measured = MixBenchmark().measure(CPU, TINY, (SHAPE,))
    skipped = {row.variant: row.skipped for row in measured if row.skipped}
    assert len(skipped) == 13
    assert skipped["mixup per sample, timm elem"] == "not installed"
    assert skipped["cutmix shared, OpenMixup"] == "OPENMIXUP=path not given"
    ours = [row.variant for row in measured if not row.skipped]
    assert ours == [variant.name for variant in (*mix.own_variants(SHAPE), *loops.loops(SHAPE))]
    assert {gate.status for gate in MixBenchmark().gates(measured, CPU)} == {SKIPPED}


def test_a_peer_that_raises_is_skipped_with_its_error(monkeypatch):
    def broken(x, y):
        raise RuntimeError("its own affair")

    monkeypatch.setattr(MixBenchmark, "peers", (lambda shape: [peers.Variant("broken", broken)],))
    row = MixBenchmark().measure(CPU, TINY, (SHAPE,))[-1]
    assert (row.variant, row.skipped) == ("broken", "failed with RuntimeError")


def test_every_rule_names_variants_that_exist(monkeypatch):
    monkeypatch.delenv("OPENMIXUP", raising=False)
    known = {variant.name for variant in mix.own_variants(SHAPE)}
    for package in ("torchvision.transforms", "timm.data.mixup", "kornia.augmentation"):
        monkeypatch.setitem(sys.modules, package, None)
    known |= {variant.name for peer in MixBenchmark.peers for variant in peer(SHAPE)}
    assert {name for rule in MixBenchmark().rules(CPU) for name in (rule.ours, rule.peer)} <= known


def test_own_variants_leave_their_input_alone_and_return_soft_targets():
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    before = x.clone()
    for variant in mix.own_variants(SHAPE)[1:]:
        assert variant.call is not None
        mixed = variant.call(x, y)
        assert mixed.targets.shape == (4, SHAPE.classes)
        torch.testing.assert_close(mixed.targets.sum(1), torch.ones(4))
    assert torch.equal(x, before)


def test_loops_over_images_do_the_work_of_our_forms():
    x, y = torch.rand(3, 3, 16, 16), torch.tensor([0, 1, 2])
    for image, own in zip(x, mf.fine_grained_saliency(x), strict=True):
        np.testing.assert_allclose(loops.fine_grained(image.numpy()), 255 * own.numpy(), atol=0.01)
    mask = loops.fmix_mask(0.25, 16, 16)
    assert mask.sum() == 64
    for variant in loops.loops(SHAPE):
        mixed, first, second, lam = variant.call(x, y)
        shown = torch.isclose(mixed, x).all(1).float().mean((1, 2))
        moved = second != first
        torch.testing.assert_close(
            shown[moved], torch.as_tensor(lam).float().expand(3)[moved], atol=0.01, rtol=0
        )


CHECKOUT = """
import numpy as np
import torch
from openmixup.models.utils import batch_shuffle_ddp

def {kind}(img, gt_label, alpha=1.0, lam=None, dist_mode=False, **kwargs):
    rand_index = torch.randperm(img.size(0)).cuda()
    img[:] = np.int(2.5)
    return img, (gt_label, gt_label[rand_index], np.random.beta(alpha, alpha))
"""


def test_an_openmixup_checkout_is_read_by_path_and_leaves_no_trace(tmp_path, monkeypatch):
    folder = tmp_path / "openmixup" / "models" / "augments"
    folder.mkdir(parents=True)
    (folder / "cutmix.py").write_text(CHECKOUT.format(kind="cutmix"))
    monkeypatch.setenv("OPENMIXUP", str(tmp_path))
    cuda = torch.Tensor.cuda
    missing, found, *others = mix._openmixup(SHAPE)
    assert all(variant.skipped for variant in others)
    assert missing.skipped == "no openmixup/models/augments/mixup.py in the OPENMIXUP folder"
    x = torch.zeros(4, 3, 8, 8)
    assert found.call is not None
    images, (first, second, _) = found.call(x, torch.arange(4))
    assert images.eq(2).all()
    assert x.eq(0).all()
    assert first.sort().values.equal(second.sort().values)
    assert torch.Tensor.cuda is cuda
    assert "openmixup" not in sys.modules


# Transport plans.


def maps():
    h = transport.features(MAPS)
    return h, h.roll(1, dims=0)


def test_the_base_has_the_plan_of_the_official_arithmetic():
    own = {variant.name: variant.call for variant in transport.own_variants(CPU)}
    plan = own[transport.BASE](*maps())
    assert plan.shape == (2, 16, 16)
    assert transport.plan_error(plan, own[transport.COMPAT](*maps()).double()) < 1e-3
    assert transport.plan_error(plan, own[transport.SCALED](*maps()).double()) > 0.1


def test_the_error_of_a_plan_is_the_mean_distance_of_its_rows():
    exact = torch.eye(2).double()[None]
    assert transport.plan_error(torch.eye(2)[None], exact) == 0
    assert transport.plan_error(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), exact) == 1
    assert transport.plan_error(torch.eye(2)[None].flip(2), exact) == 2


def test_features_are_raw_or_of_norm_1_and_drawn_alike_each_time():
    raw, normalised = (
        transport.features(MAPS._replace(kind=kind))
        for kind in (transport.RAW, transport.NORMALISED)
    )
    assert raw.shape == (2, 512, 4, 4)
    assert raw.norm(dim=1).mean() > 5
    torch.testing.assert_close(normalised.norm(dim=1), torch.ones(2, 4, 4))
    assert torch.equal(raw, transport.features(MAPS))


@pytest.mark.usefixtures("no_peers")
def test_missing_solvers_become_skipped_rows():
    measured = TransportBenchmark().measure(CPU, TINY, (MAPS,))
    skipped = {row.variant: row.skipped for row in measured if row.skipped}
    assert skipped == {
        "log-domain, POT batch": "not installed",
        "kernel domain, POT batch": "not installed",
        "eps falling, geomloss": "not installed",
        "official file": "ALIGNMIX=path not given",
        transport.COMPAT_LAUNCH: NOT_ASKED if torch.cuda.is_available() else NO_GPU,
        transport.SCALED_LAUNCH: NOT_ASKED if torch.cuda.is_available() else NO_GPU,
    }
    raw = {row.variant: row.figures[transport.ERROR] for row in measured if not row.skipped}
    assert raw[transport.SCALED] < raw[transport.SHORT] < raw[transport.COMPAT]


def test_every_rule_of_the_solvers_names_what_is_measured():
    names = {variant.name for variant in transport.own_variants(CPU)}
    shapes = {str(case) for case in TransportBenchmark().cases(torch.device("cuda"))}
    for rule in TransportBenchmark().rules(CPU):
        assert {rule.ours, getattr(rule, "peer", transport.BASE)} <= names
        assert rule.shape in shapes


@pytest.mark.parametrize(
    ("name", "solver"), [(transport.COMPAT_LAUNCH, "compat"), (transport.SCALED_LAUNCH, "scaled")]
)
def test_the_solve_alone_gives_the_plan_and_its_microseconds(name, solver):
    call = transport.launched(solver)
    expected = mf.position_plan(*maps(), solver=solver)
    torch.testing.assert_close(call(*maps()), expected)
    row = Row("P2", str(MAPS), name, MAPS.batch, [0.03, 0.04, 0.05])
    figures = TransportBenchmark().figures(MAPS, peers.Variant(name, call), row, CPU)
    assert figures["us"] == 40
    assert figures[transport.ERROR] >= 0


@pytest.mark.slow
def test_pot_and_a_checkout_by_path_give_the_plan_of_the_same_arithmetic(tmp_path, monkeypatch):
    folder = tmp_path / "cifar10_100" / "utils"
    folder.mkdir(parents=True)
    (folder / "OT.py").write_text(SOLVER)
    monkeypatch.setenv("ALIGNMIX", str(tmp_path))
    exact = transport.own_variants(CPU)[0].call(*maps()).double()
    for variant in (transport._pot(MAPS)[0], *transport._official(MAPS)):
        found = peers.tried(variant, *maps())
        assert found.skipped == ""
        assert transport.plan_error(found.call(*maps()), exact) < 1e-3


SOLVER = """
import torch

class SinkhornDistance:
    def __init__(self, eps, max_iter):
        self.eps, self.max_iter = eps, max_iter

    def __call__(self, x, y):
        cost = (x.cuda()[:, :, None] - y.cuda()[:, None]).square().sum(-1)
        share = torch.full_like(cost[:, 0], 1 / cost.shape[2])
        v = torch.zeros_like(share)
        for _ in range(self.max_iter):
            u = share.log() - ((v[:, None] - cost) / self.eps).logsumexp(2)
            u = u * self.eps
            v = self.eps * (share.log() - ((u[:, :, None] - cost) / self.eps).logsumexp(1))
        return ((u[:, :, None] + v[:, None] - cost) / self.eps).exp()
"""


def test_a_checkout_without_the_solver_is_skipped_with_the_file_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMIX", str(tmp_path))
    (variant,) = transport._official(MAPS)
    assert variant.skipped == "no cifar10_100/utils/OT.py in the ALIGNMIX folder"


# Whole steps.


def test_every_method_has_a_step():
    steps = {**step.STEPS, **step.VIT_STEPS}.values()
    generators = {name for name in METHODS.names() if METHODS.get(name).tasks == {"demix"}}
    assert {name for name, _, _ in steps} == set(METHODS.names()) - generators


@pytest.mark.parametrize(
    ("shape", "title"),
    [*((STEP, title) for title in step.STEPS), *((VIT, title) for title in step.VIT_STEPS)],
)
def test_a_step_trains_and_is_keyed_by_its_number(shape, title):
    name, settings, _ = shape.steps[title]
    first, second = (step.training_step(name, settings, shape, CPU) for _ in range(2))
    losses = [float(first(number)) for number in (0, 1, 1)]
    assert losses == [float(second(number)) for number in (0, 1, 1)]
    assert len(set(losses)) == 3


def test_the_mixer_of_a_frozen_step_comes_from_a_file_and_only_the_network_learns(monkeypatch):
    read, built = [], []
    real, build = checkpoints.torch.load, step._build
    monkeypatch.setattr(
        checkpoints.torch, "load", lambda path, **how: read.append(path) or real(path, **how)
    )
    monkeypatch.setattr(step, "_build", lambda *how: built.append(build(*how)) or built[-1])
    name, settings, _ = step.STEPS[step.FROZEN]
    call = step.training_step(name, settings, STEP, CPU)
    trained, frozen = built
    assert [path.exists() for path in read] == [False]
    parts = [(getattr(frozen, part), getattr(trained, part)) for part in ("mixer", "teacher")]
    for number in (0, 1):
        call(number)
    for own, source in parts:
        for value, expected in zip(own.parameters(), source.parameters(), strict=True):
            assert torch.equal(value, expected)
            assert not value.requires_grad
    first, initial = (part.net.stages[0][0].weight for part in (frozen, trained))
    assert not torch.equal(first, initial)


def test_what_is_saved_for_backward_is_counted_once_by_its_memory():
    weight = torch.ones(1000, requires_grad=True)

    def call(number):
        product = weight * weight.detach()  # one memory, saved once
        (product[:10].exp() * torch.ones(10)).sum().backward()

    assert step.saved_mb(call) == pytest.approx((1000 + 10 + 10) * 4 / 1e6)
    titles = ("erm", "mixup2", step.SAMIX, step.FROZEN)
    found = [step.saved_mb(step.training_step(*step.STEPS[t][:2], STEP, CPU)) for t in titles]
    plain, twice, learned, frozen = found
    assert 1.5 * plain < twice < 2 * plain
    assert twice < learned
    assert frozen == pytest.approx(twice, rel=0.05)


def test_without_lightning_steps_are_skipped(monkeypatch):
    monkeypatch.setitem(sys.modules, "mixbench.methods.build", None)
    measured = StepBenchmark().measure(CPU, TINY, (STEP,))
    assert {row.skipped for row in measured} == {"lightning is not installed"}
    assert {gate.status for gate in StepBenchmark().gates(measured, CPU)} == {SKIPPED}


def test_every_rule_of_the_steps_names_what_is_measured():
    for device, shapes in (("cpu", step.CPU_SHAPES), ("cuda", step.CUDA_SHAPES)):
        for rule in StepBenchmark().rules(torch.device(device)):
            (shape,) = [shape for shape in shapes if str(shape) == rule.shape]
            assert {rule.ours, rule.peer} <= set(shape.steps)
            assert rule.shape in {str(shape) for shape in shapes}


def test_smooth_images_are_neither_constant_nor_drawn_anew():
    images = input_part.smooth_images(4).images
    assert images.dtype == torch.uint8
    assert images.shape == (4, 3, 32, 32)
    assert images.float().std(dim=(2, 3)).min() > 5
    assert torch.equal(images, input_part.smooth_images(4).images)


def test_the_time_of_an_ended_worker_counts():
    before = input_part.cpu_seconds()
    own = time.process_time()
    code = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-S", "-c", code], check=True)
    assert input_part.cpu_seconds() - before >= 0.2
    assert time.process_time() - own < 0.2


def test_input_paths_read_every_full_batch():
    images = input_part.smooth_images(40)
    assert input_part.keyed_epoch(images, 0, CPU, 16, padding=4) == 32
    assert input_part.whole_epoch(images, 0, CPU, 16, 4) == 32
    single = SingleImages(40, lambda row: row, lambda row: torch.zeros(3, 32, 32))
    assert input_part.single_epoch(single, CPU, 16) == 32
    assert input_part.single_epoch(single, CPU, 16, workers=1) == 32


def test_photographs_are_files_that_can_be_read_and_the_same_each_time():
    files = photographs.photographs(2)
    assert files == photographs.photographs(2)
    size = (photographs.WIDTH, photographs.HEIGHT)
    assert [Image.open(io.BytesIO(file)).size for file in files] == [size, size]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_of_files_reads_every_full_batch(workers):
    files = photographs.photographs(5)
    part = photographs.Part([""] * 5, files.__getitem__, torch.zeros(5))
    images = photographs.FileImages(part, photographs.DataConfig(size=32, crop_area=0.5))
    assert input_part.keyed_epoch(images, 0, CPU, 2, workers=workers) == 4


def test_the_cores_that_a_gpu_asks_for_follow_from_the_rate():
    measured = PhotographBenchmark().measure(CPU, TINY)
    assert [row.variant for row in measured] == [
        input_part.BASE,
        photographs.FILES,
        photographs.WORKER,
        photographs.STORED,
        photographs.CROPS,
        photographs.STORED_CROPS,
    ]
    _, gate = PhotographBenchmark().rules(CPU)
    assert isinstance(gate, Rule)
    assert (gate.ours, gate.peer, gate.speedup) == (photographs.STORED_CROPS, photographs.CROPS, 2)
    for row in measured:
        rate = row.images / row.median_ms * 1000
        assert row.figures[photographs.CORES] == pytest.approx(5000 / rate)


@pytest.mark.slow  # reads views by Pillow
def test_both_paths_of_views_read_the_same_and_are_held_against_each_other():
    images = input_part.smooth_images(40)
    index = next(iter(input_part.KeyedBatches(40, 16, 0)))
    for one, other in zip(by_tensors(images)(index), by_pillow(images)(index), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1.01 / 255)
    measured = ViewBenchmark().measure(CPU, TINY)
    ran = [row.variant for row in measured if not row.skipped]
    assert ran[:2] == [BY_PILLOW, BY_TENSORS]
    (rule,) = ViewBenchmark().rules(CPU)
    assert isinstance(rule, Rule)
    assert (rule.ours, rule.peer, rule.speedup) == (BY_TENSORS, BY_PILLOW, 10)
    assert rule.shape == measured[0].shape


def test_the_bare_loop_and_both_engines_take_the_same_steps(monkeypatch):
    taken, train = [], FastTrainingLoop._train_batch
    monkeypatch.setattr(
        FastTrainingLoop, "_train_batch", lambda self, data: taken.append(1) or train(self, data)
    )
    found = {}
    for name in ("bare loop", "engine fast", "engine lightning"):
        taken.clear()
        seconds, weights = time_of_step(name, ENGINES, CPU)
        assert seconds > 0
        found[name] = weights, len(taken)
    assert [count for _, count in found.values()] == [0, 8, 0]
    first, *others = (weights for weights, _ in found.values())
    for weights in others:
        assert all(map(torch.equal, first, weights))
    (rule,) = EngineBenchmark().rules(CPU)
    assert {rule.ours, rule.peer} < found.keys()
    assert rule.shape in map(str, EngineBenchmark().cases(CPU))


def test_graphs_are_timed_on_a_network_with_the_update_and_without(monkeypatch):
    made, make = [], StepGraphs.__init__
    monkeypatch.setattr(step_graphs, "DEVICES", ("cpu",))
    monkeypatch.setattr(step_graphs, "capture", lambda function: FrozenCalls().capture(function))
    monkeypatch.setattr(
        StepGraphs, "__init__", lambda self, *given: (made.append(self), make(self, *given))[1]
    )
    network = dataclasses.replace(ENGINES, net="net.width=4")
    found = [time_of_step(name, network, CPU)[1] for name in ("engine fast", PASSES, GRAPHS)]
    assert [graphs.outcome for graphs in made] == [
        "1 graph of passes alone: the method or a callback has hooks in front of the update",
        "1 graph of passes and update",
    ]
    for weights in found[1:]:
        assert all(map(torch.equal, found[0], weights))


def test_the_search_at_once_finds_what_a_plain_loop_finds():
    given = SEARCHES.inputs(CPU)
    base, by_image, batched = SearchBenchmark().own(SEARCHES, CPU, TINY)
    found = batched.call(*given).data_terms
    assert len(found.unique()) == SEARCHES.batch
    for loop in (base, by_image):
        torch.testing.assert_close(found, loop.call(*given), rtol=1e-4, atol=1e-4)
    cases = list(map(str, SearchBenchmark().cases(CPU)))
    for rule in SearchBenchmark().rules(CPU):
        assert (rule.ours, rule.peer) == (batched.name, base.name)
        assert rule.shape in cases


def test_cuts_tell_what_they_cost_beyond_the_least():
    base, relaxed = CutBenchmark().measure(CPU, TINY, (Cuts(8, 4),))
    assert base.figures == {EXCESS: 0}
    problem = Cuts(8, 4).problem(CPU)
    found, least = (mf.cut_energy(problem, s(problem)) for s in (mf.relaxed_cut, mf.exact_cut))
    assert relaxed.figures[EXCESS] == pytest.approx(100 * (found / least - 1).mean().item())
    shapes = {str(case) for case in CutBenchmark().cases(CPU)}
    for rule in CutBenchmark().rules(CPU):
        assert rule.ours == relaxed.variant
        assert rule.shape in shapes


def test_a_plain_loop_and_a_run_take_the_same_steps_on_batches_mixed_by_cutmix():
    taken, counts = [], []
    counting = register_optimizer_step_post_hook(lambda *given: taken.append(1))
    for variant in RunBenchmark().own(WHOLE, CPU, TINY)[:2]:
        taken.clear()
        assert variant.call() > 0
        counts.append(len(taken))
    counting.remove()
    assert counts == [4, 4]
    words = dict(word.split("=", 1) for word in own_words(".", WHOLE, CPU).split())
    assert (words["method"], words["method.prob"], words["batch_size"]) == ("cutmix", "1", "16")
    asked = {rule.peer: rule.speedup for rule in RunBenchmark().rules(CPU)}
    assert asked == {run_part.BASE: 1.2, run_part.NETWORK: 1 / 1.2, TIMM: 1}
    asked = {rule.peer: rule.speedup for rule in RunBenchmark().rules(torch.device("cuda"))}
    assert asked == {run_part.BASE: 1.2, TIMM: 1.2}


def test_a_network_alone_takes_the_steps_and_the_test_of_a_run_from_files():
    case = Whole(16, "files", 64, 32, 2, files=True)
    variant = RunBenchmark().own(case, CPU, TINY)[3]
    assert variant.name == run_part.NETWORK
    steps, tested = [], []
    counting = register_optimizer_step_post_hook(lambda *given: steps.append(1))
    asking = torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, result: (
            tested.append(len(result))
            if isinstance(module, torch.nn.Linear) and not module.training
            else None
        )
    )
    assert variant.call() > 0
    counting.remove()
    asking.remove()
    assert len(steps) == 8
    assert tested == [16, 16]


TRAIN = """
import sys, pathlib
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
images = list(pathlib.Path(words["--data-dir"], "train").glob("*/*.png"))
assert (len(images), words["--epochs"], words["--cutmix"], words["-b"]) == (32, "2", "1", "16")
assert __name__ == "__main__"
"""


def test_train_py_of_a_checkout_is_given_the_same_training_or_skipped(tmp_path, monkeypatch):
    files = Whole(16, "files", 32, 16, 2, files=True)
    monkeypatch.delenv("TIMM", raising=False)
    assert RunBenchmark().cases(CPU) == (run_part.CPU_RUN,)
    assert RunBenchmark().own(WHOLE, CPU, TINY)[2].skipped == "TIMM=path not given"
    monkeypatch.setenv("TIMM", str(tmp_path))
    assert RunBenchmark().cases(CPU) == (run_part.CPU_RUN, run_part.CPU_FILES)
    assert RunBenchmark().own(files, CPU, TINY)[2].skipped == "no train.py in the TIMM folder"
    (tmp_path / "train.py").write_text(TRAIN)
    argv = list(sys.argv)
    assert RunBenchmark().own(files, CPU, TINY)[2].skipped == ""
    assert sys.argv == argv
    (tmp_path / "train.py").write_text("raise SystemExit(2)")
    assert RunBenchmark().own(files, CPU, TINY)[2].skipped == "failed with SystemExit"


def test_ten_times_as_much_is_held_against_as_much():
    def work(folder, number):
        assert folder.is_dir()
        return lambda: bytearray(number * 1_000_000)

    one, ten = GrowthBenchmark().measure(CPU, TINY, (Amount(3, "3 MB", work),))
    assert (one.images, ten.images) == (3, 30)
    for rule, case in zip(GrowthBenchmark().rules(CPU), AMOUNTS, strict=True):
        assert (rule.shape, rule.ours, rule.peer) == (str(case), ten.variant, one.variant)
    assert GrowthBenchmark().cases(torch.device("cuda")) == ()
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell the most memory that a process had")
    assert 2.5 < one.figures[PEAK] < 6
    assert 29 < ten.figures[PEAK] < 34


def test_what_grows_is_the_work_itself(tmp_path):
    images, methods, records, tested = (amount.work for amount in AMOUNTS)
    assert images(tmp_path, 138)() == 128
    assert len(set(methods(tmp_path, 2)())) == 2
    assert "row1" in records(tmp_path, 11)()
    assert tested(tmp_path, 20)()["top1"] >= 0
    assert (tmp_path / "predictions.npz").exists()


@pytest.fixture
def quiet_main(monkeypatch, no_peers):
    for always in (ViewBenchmark, GrowthBenchmark):  # whose peers are always there
        monkeypatch.setattr(always, "rules", lambda self, device: [])
    monkeypatch.setattr(main_module, "keep_freed_memory", lambda: False)
    cases = ((MixBenchmark, SHAPE), (TransportBenchmark, MAPS), (StepBenchmark, STEP))
    cases += ((SearchBenchmark, SEARCHES), (EngineBenchmark, ENGINES), (CutBenchmark, Cuts(3, 2)))
    cases += ((RunBenchmark, WHOLE), (GrowthBenchmark, Amount(20, "few", AMOUNTS[3].work)))
    for benchmark, case in cases:
        monkeypatch.setattr(benchmark, "cases", lambda self, device, case=case: (case,))


@pytest.mark.slow
@pytest.mark.usefixtures("quiet_main")
def test_a_run_without_peers_writes_and_prints_its_table(tmp_path, capsys):
    assert main("cpu", None, tmp_path, budget=TINY) == 0
    (json_path,), (markdown_path,) = tmp_path.glob("*-cpu.json"), tmp_path.glob("*-cpu.md")
    printed = capsys.readouterr().out
    assert printed.startswith(markdown_path.read_text())
    content = json.loads(json_path.read_text())
    parts = {"P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9"}
    assert {row["part"] for row in content["rows"]} == parts
    assert {gate["status"] for gate in content["gates"]} == {SKIPPED}
    assert content["threads"] == 1


@pytest.mark.usefixtures("quiet_main")
def test_a_part_that_fails_or_is_stopped_leaves_what_was_measured(tmp_path, monkeypatch):
    def fail(self, *given):
        raise error

    for error in (RuntimeError("planted"), KeyboardInterrupt()):
        monkeypatch.setattr(TransportBenchmark, "measure", fail)
        out = tmp_path / type(error).__name__
        if isinstance(error, RuntimeError):
            assert main("cpu", ["P1", "P2", "P8"], out, budget=TINY) == FAILED
        else:
            with pytest.raises(KeyboardInterrupt):
                main("cpu", ["P1", "P2", "P8"], out, budget=TINY)
        content = json.loads(next(out.glob("*.json")).read_text())
        stopped = isinstance(error, KeyboardInterrupt)
        assert {row["part"] for row in content["rows"]} == ({"P1"} if stopped else {"P1", "P8"})
        failed = [gate["rule"] for gate in content["gates"] if gate["status"] == FAIL]
        assert stopped or f"P2 {MAPS} can be measured" in failed


@pytest.mark.usefixtures("quiet_main")
def test_a_failed_gate_sets_the_exit_code(tmp_path, monkeypatch):
    monkeypatch.setattr(MixBenchmark, "gates", lambda *_: [Gate("too slow", FAIL)])
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    assert main("cpu", ["P1"], budget=TINY) == FAILED == 3
    assert "- FAIL: too slow" in next((tmp_path / "perf").glob("*.md")).read_text()


def test_unknown_parts_and_devices_are_refused_before_anything_runs():
    with pytest.raises(
        UserError, match=r"(?s)unknown part 'P0'.*P1, P2, P3, P4, P5, P6, P7, P8, P9"
    ):
        main("cpu", ["P0"])
    with pytest.raises(UserError, match=r"(?s)unknown device 'tpu'.*cpu, cuda"):
        main("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_refused():
    with pytest.raises(UserError, match="no CUDA device"):
        main("cuda")


@pytest.mark.slow
def test_importing_the_measurements_loads_no_trainer():
    code = (
        "import sys, mixbench.perf.main; "
        "print([m for m in ('lightning', 'omegaconf', 'wandb', 'torchvision', 'timm', 'kornia') "
        "if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("peer", [mix._torchvision, mix._timm, mix._kornia])
def test_installed_peers_still_answer_to_the_names_used_here(peer):
    variants = peer(SHAPE)
    if variants[0].skipped:
        pytest.skip(variants[0].skipped)
    batch = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    assert [peers.tried(variant, *batch).skipped for variant in variants] == [""] * len(variants)
