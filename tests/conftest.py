import collections
import functools
import gc
import logging
import os
import sys

import pytest
import torch

from mixbench.config.names import DATA, METHODS, NETS, SUITES


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One more than there are cores, as tests of servers, signals and kills mostly wait."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else None


# Assertions are rewritten once for all workers, also where no bytecode is asked for.
sys.dont_write_bytecode = False


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Each worker begins with other files, and finds those of the others rewritten."""
    report = yield
    if isinstance(collector, pytest.Dir) and "PYTEST_XDIST_WORKER" in os.environ:
        worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        first = len(report.result) * worker // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        report.result = report.result[first:] + report.result[:first]
    return report


# Files that take long by few tests, or that wait; begun last, they would have other workers wait.
LONG = {"test_process_group.py", "test_resume.py", "test_spawn.py", "test_reevaluate.py"}
LONG |= {"test_view.py", "test_runs.py", "test_slurm.py", "test_wandb_table.py", "test_run.py"}
LONG |= {"test_terminal.py", "test_stopping.py", "test_keys.py", "test_compile.py"}


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, and go on with those of most tests."""
    count = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in LONG, -count[item.path], str(item.path)))


def pytest_collection_finish():
    """What was collected stays to the end: looking whether it is garbage would only cost time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Libraries report as leaks what is frozen to the end."""
    gc.unfreeze()


TINY = ["data=digits", "data.limit=128", "data.size=16", "net.width=4", "epochs=1", "batch_size=32"]
TINY += ["eval.suites=[calibration]"]


@pytest.fixture(scope="session", autouse=True)
def one_thread_for_all():
    """The tensors of tests are so small that threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def names_of_one_module():
    """What the tests of a file register under names of their own, those of others do not meet."""
    registries = (METHODS, NETS, DATA, SUITES)
    before = [set(registry._objects) for registry in registries]
    yield
    for registry, known in zip(registries, before, strict=True):
        for name in registry._objects.keys() - known - registry.table.keys():
            del registry._objects[name]


@pytest.fixture(scope="session", autouse=True)
def place_of_data_sets(tmp_path_factory):
    """Hashes of files are kept in the folder of all data sets, which is not the checkout's."""
    os.environ.setdefault("MIXBENCH_DATA", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def digits_once():
    """Digits are parsed once for a module with many short runs."""
    import sklearn.datasets

    with pytest.MonkeyPatch.context() as patch:
        cached = functools.cache(sklearn.datasets.load_digits)
        patch.setattr(sklearn.datasets, "load_digits", cached)
        yield


@pytest.fixture
def tiny() -> list[str]:
    """Overrides of a run that takes about a second."""
    return [*TINY, "wandb.mode=disabled"]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A fresh folder of runs."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("MIXBENCH_RUNS", str(folder))
    logging.getLogger("mixbench").handlers.clear()
    return folder


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder of SLURM commands that start processes of this machine."""
    from fake_slurm import install

    return install(tmp_path, monkeypatch)


@pytest.fixture
def plain_wandb(tmp_path, monkeypatch):
    """No key, no setting and no server of the machine; W&B's process ends with the test."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("no_proxy", "*")
    wandb.teardown()  # it keeps what it read from the environment
    yield
    wandb.teardown()
