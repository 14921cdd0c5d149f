import pytest

from mixbench.config.compose import compose
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.training import estimate as module
from mixbench.training.estimate import PROCESS_S, WANDB_S, estimate
from mixbench.training.job import resolve

WORDS = ["data=digits", "data.limit=96", "net.width=4", "batch_size=32", "wandb.mode=disabled"]
BARE = [*WORDS, "eval.suites=[]", "method=erm"]


def found(*words, load_s=0.0):
    job = resolve(compose([*BARE, *words]))
    return estimate(job, job.read_data(), load_s)


@pytest.fixture
def counted(monkeypatch):
    """Time as a count of images: of a forward pass one second each, of training ten."""
    now = [0.0]
    for clock in ("monotonic", "process_time"):
        monkeypatch.setattr(module.time, clock, lambda: now[0])
    monkeypatch.setattr(module, "STEP_S", 1e9)

    class Counted(Method):
        def forward(self, x):
            now[0] += len(x)
            return super().forward(x)

        def mix(self, x, targets, **decisions):
            now[0] += 10 * len(x)
            return super().mix(x, targets, **decisions)

    monkeypatch.setitem(METHODS._objects, "erm", Counted)
    return now


@pytest.mark.usefixtures("counted")
def test_training_is_as_many_steps_of_the_method_as_the_run_takes():
    assert found("epochs=5").training_s == 5 * 3 * 32 * 10
    assert found("epochs=5", "optim.accumulate=2").training_s == 5 * 3 * 32 * 10


@pytest.mark.usefixtures("counted")
def test_evaluation_counts_where_it_takes_place():
    tested = 96  # test images
    assert found().after_s == tested
    seen = found("epochs=5", "peek=true")
    assert seen.training_s == 5 * (3 * 320 + tested)
    assert seen.after_s == tested
    chosen = found("epochs=2", "select=val")
    held = chosen.after_s - tested
    assert held > 0
    steps = (96 - held) // 32
    assert chosen.training_s == 2 * (steps * 320 + held)
    both = found("epochs=2", "select=val", "peek=true")
    assert both.training_s == chosen.training_s + 2 * tested
    assert both.after_s == chosen.after_s


@pytest.mark.usefixtures("counted")
def test_a_suite_costs_its_passes():
    words = ["eval.suites=[adversarial]", "eval.adv_n=100"]
    more, most = (found(*words, f"eval.attacks=[{name}]") for name in ("fgsm_8", "pgd20_1"))
    assert 96 + 96 < more.after_s < most.after_s / 3
    assert found("eval.suites=[calibration]").after_s == 96
    assert found("eval.suites=[occlusion]").after_s > 2 * 96


@pytest.mark.usefixtures("counted")
def test_the_start_counts_reading_the_data_and_wandb(monkeypatch):
    bare = found().start_s
    assert bare >= PROCESS_S
    assert found(load_s=7.0).start_s == bare + 7
    assert found("wandb.mode=offline").start_s == bare + WANDB_S


@pytest.mark.usefixtures("counted")
def test_a_step_that_would_take_long_is_timed_by_a_part_of_the_batch(monkeypatch):
    monkeypatch.setattr(module, "STEP_S", 3 * 8)
    rows = []
    mix = METHODS._objects["erm"].mix

    def noted(self, x, targets, **decisions):
        rows.append(len(x))
        return mix(self, x, targets, **decisions)

    monkeypatch.setattr(METHODS._objects["erm"], "mix", noted)
    assert found("epochs=5").training_s == 5 * 3 * 32 * 10
    assert set(rows) == {8}


@pytest.mark.parametrize(("threads", "times"), [(1, 1), (2, 3)])
def test_other_programs_on_the_core_make_no_method_dearer(counted, monkeypatch, threads, times):
    monkeypatch.setattr(module.time, "monotonic", lambda: 3 * counted[0])
    loaded = found("epochs=5", f"trainer.threads={threads}")
    assert loaded.training_s == times * 5 * 3 * 32 * 10
    assert loaded.elapsed_s == 3 / times * loaded.counted_s > 0


def test_a_method_that_fails_is_estimated_by_its_cost(monkeypatch):
    class Fails(Method):
        cost = 4.0

        def mix(self, x, targets, **decisions):
            raise RuntimeError("planted failure")

    now = [0.0]
    for clock in ("monotonic", "process_time"):
        monkeypatch.setattr(module.time, clock, lambda: now[0])

    def forward(self, x):
        now[0] += len(x)
        return Method.forward(self, x)

    monkeypatch.setattr(Fails, "forward", forward)
    monkeypatch.setitem(METHODS._objects, "erm", Fails)
    assert found("epochs=5").training_s == 5 * 3 * 32 * 3 * 4


@pytest.mark.usefixtures("counted")
def test_a_method_that_looks_at_all_images_before_training_sees_few(monkeypatch):
    seen = []

    def wrap_dataset(self, train_set):
        seen.append(len(train_set))
        return train_set

    monkeypatch.setattr(METHODS._objects["erm"], "wrap_dataset", wrap_dataset)
    assert found("epochs=5").training_s == 5 * 3 * 32 * 10
    assert seen == [32]


def test_no_part_of_a_batch_is_too_small_for_a_method_that_appends_to_it(monkeypatch, caplog):
    monkeypatch.setattr(module, "STEP_S", 0.0)
    grown = []

    class Watched(METHODS.get("splicemix")):
        def mix(self, x, targets, **decisions):
            mixed = super().mix(x, targets, **decisions)
            grown.append((len(x), len(mixed.x)))
            return mixed

    monkeypatch.setitem(METHODS._objects, "splicemix", Watched)
    assert found("method=splicemix", "method.labels=mean").training_s > 0
    assert set(grown) == {(4, 5)}
    assert "too small" not in caplog.text
