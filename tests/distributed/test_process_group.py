"""Several processes that train together: one group is started and checked in turn."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import group_checks
import killing
import numpy as np
import pytest
import torch
from paths import ROOT

from mixbench import compose, run
from mixbench.data import DATA
from mixbench.distributed.process_group import (
    ProcessGroup,
    destroy_process_group,
    init_process_group,
)
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.metrics import scores, topk
from mixbench.records.checkpoints import read_checkpoint
from mixbench.records.predictions import read_predictions
from mixbench.records.record import read_record
from mixbench.training.build import build
from mixbench.training.job import resolve
from mixbench.training.reevaluate import evaluate_run, verify_run
from mixbench.training.requirements import check_splits

pytestmark = pytest.mark.ddp


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the checks found."""
    place = tmp_path_factory.mktemp("group")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1",
         group_checks.__file__, str(place)],
        capture_output=True,
        text=True,
        timeout=group_checks.LIMIT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        cwd=place,
    )  # fmt: skip
    path = place / "found.json"
    assert path.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(path.read_text()), done


def facts(found, name):
    results, done = found
    assert name in results, done.stdout[-2000:] + done.stderr[-3000:]
    assert "error" not in results[name], results[name]["error"]
    return results[name]


# FAULTS rows 44, 47 and 48.
def test_all_ranks_end_with_one_set_of_weights_and_leave_one_record(found):
    training = facts(found, "training")
    assert training["weights"]
    assert training["shared"]
    assert not training["own"]
    assert training["rank"]
    assert training["record"]
    assert (training["status"], training["device_count"]) == ("done", 2)
    assert training["log_lines"] == 1
    assert training["steps"] == 12  # as many as of one process: the global batch is kept
    names = {path.name for path in Path(training["folder"]).iterdir()}
    assert {"record.json", "last.ckpt", "metrics.csv", "predictions.npz"} <= names
    assert not [name for name in names if name.startswith("rank")]


@pytest.mark.parametrize("name", ["manifoldmixup", "alignmix"])
def test_all_ranks_cut_the_network_at_one_place_and_mix_partners_of_their_own(found, name):
    drawn = facts(found, "places")[name]
    assert drawn["status"] == "done"
    assert drawn["drawn"] >= 3
    assert drawn["places"]
    assert not drawn["partners"]
    assert drawn["weights"]


# FAULTS row 45.
def test_suites_find_the_same_on_any_number_of_processes(found):
    for images, shared in facts(found, "suites").items():
        assert shared["same"]
        record = read_record(Path(shared["folder"]))
        assert record.evaluations["adversarial"]["images"] == int(images)
        assert record.evaluations["occlusion"]["images"] == 96
        words = ["trainer.threads=1", "trainer.accelerator=cpu"]
        names = ["adversarial", "occlusion", "salience", "shuffle", "linearity", "gaze"]
        names += ["corruption", "human", "human_attacks"]
        again = evaluate_run(Path(shared["folder"]), words, names)
        assert record.evaluations["gaze"]["pairs"] == 96
        for name, value in record.metrics.items():
            assert again.metrics[name] == value, name


def test_the_hold_out_is_judged_with_the_statistics_of_the_leading_rank(found):
    validation = facts(found, "validation")
    assert validation["alike"] == [True, True]
    assert validation["status"] == "done"


# FAULTS row 45.
def test_each_of_13_images_counts_once(found):
    folder = Path(facts(found, "uneven")["folder"])
    record = read_record(folder)
    with np.load(folder / "predictions.npz") as saved:
        logits, labels, ids = (torch.from_numpy(saved[key]) for key in ("logits", "labels", "ids"))
    assert torch.equal(ids, torch.arange(13))
    assert record.metrics == pytest.approx(scores(logits, labels), rel=1e-6)
    config = compose([*group_checks.WORDS.split(), "data.limit=13", "batch_size=8", "seed=3"])
    splits = DATA.get("digits")(config.data).load()
    assert torch.equal(labels, splits.test.labels)
    method, _ = build(resolve(config), splits)
    method.load_state_dict(read_checkpoint(folder / "last.ckpt")["state_dict"])
    with torch.no_grad():
        alone = method.eval()(splits.test.images / 255)
    torch.testing.assert_close(alone, logits, rtol=1e-5, atol=1e-5)
    assert scores(alone, labels) == pytest.approx(record.metrics, rel=1e-5)
    for name in ("top1", "top5"):  # Lightning hands scores on in single precision
        assert np.float32(scores(alone, labels)[name]) == record.metrics[name]


# FAULTS row 45.
def test_a_hold_out_that_two_processes_cannot_halve_chooses_the_epoch_of_one(found):
    folder = Path(facts(found, "uneven")["held"])
    words = ["trainer.threads=1", "trainer.accelerator=cpu"]
    record, compared, left = verify_run(folder, words)
    assert left == {}
    assert {"val_top1", "best_epoch", "T_ts"} <= set(compared)
    holdout = read_predictions(folder / "predictions.npz").holdout
    assert holdout is not None
    assert len(holdout[2].unique()) == len(holdout[2]) == 13
    assert record.metrics["val_top1"] == np.float32(topk(*holdout[:2]))


def test_values_per_image_are_those_of_one_process(found):
    values = facts(found, "values")
    assert values["gathered"] == {"10": [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]], "1": [[0], []]}
    assert (values["n"], values["means"]) == (10, list(map(float, range(10))))


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_accumulation_and_devices_give_the_weights_of_the_whole_batch(found, accumulate):
    divided = facts(found, "float64")[str(accumulate)]
    for alone in (1, 4):
        config = compose(f"{group_checks.PLAIN} optim.accumulate={alone}")
        whole = group_checks.plain_training(config)
        for name, value in whole.items():
            torch.testing.assert_close(
                torch.tensor(divided[name], dtype=torch.float64), value, rtol=0, atol=1e-10
            )
    start = build(resolve(compose(group_checks.PLAIN)), DATA.get("digits")(config.data).load())[0]
    assert start is not None
    moved = (whole["stages.0.0.weight"] - initial("stages.0.0.weight")).abs().max()
    assert moved > 1e-3


def initial(name):
    import dataclasses

    config = compose(group_checks.PLAIN)
    config = dataclasses.replace(config, net=dataclasses.replace(config.net, name="plain"))
    return (
        build(resolve(config), DATA.get("digits")(config.data).load())[0]
        .net.state_dict()[name]
        .double()
    )


def test_a_part_that_some_steps_leave_out_makes_nobody_wait(found):
    assert facts(found, "unused")["status"] == "done"


def test_a_decoder_that_only_some_steps_train_makes_nobody_wait_and_stays_one(found):
    autoencoder = facts(found, "autoencoder")
    assert autoencoder["status"] == "done"
    assert autoencoder["weights"]
    assert autoencoder["kinds"] == [["ce"], ["ce", "reconstruction"]]


def test_a_teacher_and_its_mixer_are_the_same_on_all_ranks_whatever_each_mixes(found):
    teacher = facts(found, "teacher")
    assert teacher["status"] == "done"
    assert teacher["teacher"]
    assert teacher["weights"]
    assert not teacher["decisions"]
    assert teacher["learned"]
    assert teacher["kinds"] == [0.0, 1.0]


def test_keys_of_all_ranks_enter_one_queue_and_one_classifier_is_fitted(found):
    queue = facts(found, "queue")
    assert queue["status"] == "done"
    assert queue["held"]
    assert queue["alike"]
    assert queue["place"] == 16 * queue["steps"] % 40
    assert not queue["own"]
    assert queue["weights"]
    assert queue["bank"]
    assert queue["rows"] == 90
    folder = Path(queue["folder"])
    with np.load(folder / "predictions.npz") as saved:
        hits = saved["logits"].argmax(axis=1) == saved["labels"]
    assert 100 * hits.mean() == pytest.approx(queue["top1"], rel=1e-5)
    assert "top1_knn" in queue["metrics"]


def test_two_networks_in_turns_train_as_on_one_device(found):
    playing = facts(found, "playing")
    assert playing["alike"]
    assert playing["run"]
    assert not playing["own"]  # each rank draws latent vectors of its own
    assert playing["status"] == "done"
    assert playing["same_metrics"]
    assert "psnr" in playing["metrics"]
    whole = group_checks.playing_training(compose(group_checks.PLAYING))
    moved = 0.0
    job = resolve(compose(group_checks.PLAYING))
    start = dict(build(job, job.read_data())[0].named_parameters())
    for name, value in whole.items():
        divided = torch.tensor(playing["weights"][name], dtype=torch.float64)
        # Logits are brought to float32, which rounds gradients.
        torch.testing.assert_close(divided, value, rtol=0, atol=1e-6)
        moved = max(moved, float((value - start[name].detach().double()).abs().max()))
    assert moved > 1e-2


def test_windows_are_of_one_size_on_all_ranks_and_their_second_head_makes_nobody_wait(found):
    windows = facts(found, "windows")
    assert windows["status"] == "done"
    assert windows["weights"]
    assert windows["sides"]
    assert not windows["partners"]
    assert windows["kinds"] == [True, True]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("chosen0", [0, 1, 2]),
        ("chosen1", [0, 1]),
        ("chosen2", [0, 1, 2, 3, 4]),
        ("chosen3", [0, 1, 2]),
        ("chosen4", [0, 1, 2, 3]),
    ],
)
def test_one_of_several_methods_is_drawn_for_all_ranks_and_nobody_waits(found, name, kinds):
    chosen = facts(found, "chosen")[name]
    assert chosen["status"] == "done"
    assert chosen["members"]
    assert chosen["kinds"] == kinds
    assert not chosen["decisions"]
    assert chosen["weights"]


@pytest.mark.parametrize(
    ("name", "rows", "grids"),
    [("splices0", [10], False), ("splices1", [8, 10], True), ("splices2", [5], False)],
)
def test_each_rank_splices_its_own_images_into_as_many(found, name, rows, grids):
    splices = facts(found, "splices")[name]
    assert splices["status"] == "done"
    assert splices["rows"] == rows
    assert splices["alike"]
    assert splices["grids"] is grids
    assert not splices["sources"]
    assert splices["weights"]


def test_a_signal_to_one_rank_ends_all_at_one_step_and_changes_nothing(found):
    stop = facts(found, "stop")
    assert stop["code"] == 4
    assert stop["agreed"]
    assert 7 <= stop["steps"] <= 9
    assert stop["exact"] is True
    outcomes = [killing.outcome(Path(stop[kind])) for kind in ("whole", "stopped")]
    for outcome in outcomes:
        outcome["checkpoint"]["mixbench"]["config"]["run"].pop("dir")
    assert killing.differences(*outcomes) == []


@pytest.mark.parametrize("kind", ["steps", "plays"])
def test_either_engine_trains_several_processes_to_the_same_weights(found, kind):
    outcomes = []
    for engine in ("lightning", "fast"):
        left = killing.outcome(Path(facts(found, "engines")[f"{kind}, {engine}"]))
        assert left["record"].pop("engine") == engine
        config = left["checkpoint"]["mixbench"]["config"]
        del config["trainer"]["engine"], config["run"]["dir"]
        outcomes.append(left)
    assert killing.differences(*outcomes) == []


def test_a_loss_that_is_not_finite_on_one_rank_ends_all(found):
    diverge = facts(found, "diverge")
    assert "diverged" in diverge["message"]
    assert diverge["status"] == "diverged"
    assert "rank1-diverged.json" in diverge["files"]
    replay = diverge["replay"]
    assert (replay["epoch"], replay["batch"], replay["rank"], replay["world"]) == (0, 3, 1, 2)
    assert len(replay["rows"]) == 8


# FAULTS row 36.
def test_another_number_of_devices_goes_on_and_is_marked(found, tmp_path, monkeypatch):
    stop = facts(found, "stop")
    (folder,) = Path(stop["stopped"]).iterdir()
    content = json.loads((folder / "record.json").read_text())
    content["status"] = "interrupted"
    target = tmp_path / folder.name
    target.mkdir()
    (target / "last.ckpt").write_bytes((folder / "previous.ckpt").read_bytes())
    (target / "record.json").write_text(json.dumps(content))
    words = [*group_checks.WORDS.split(), "trainer.log_every=2", "devices=1"]
    monkeypatch.setitem(METHODS._objects, "stops", group_checks.Method)
    record = run(compose([*words, "method=stops", f"run.dir={tmp_path}"]))
    assert record.id == folder.name
    assert record.resumed_bit_exact is False
    assert record.device_count == 1
    assert read_checkpoint(target / "last.ckpt")["mixbench_step"] == 12


def test_alone_nothing_is_exchanged():
    group = ProcessGroup()
    assert group.is_main
    assert group.broadcast("mine") == "mine"
    assert group.all_reduce_max(2) == 2
    assert group.all_reduce_max_later(1) == 1


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("batch_size=10 devices=4", "must be a multiple of"),
        ("batch_size=12 devices=2 optim.accumulate=4", "= 8"),
        ("devices=0", "devices must be >= 1"),
        ("num_nodes=0", "num_nodes must be >= 1"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused(words, match):
    with pytest.raises(UserError, match=match):
        compose(words)


def test_single_images_per_device_are_refused(tmp_path):
    config = compose("data=digits batch_size=4 devices=4")
    job = resolve(config)
    with pytest.raises(UserError, match="batches of 1 image"):
        check_splits(config, job.task, job.suites, job.read_data())


def test_more_machines_need_a_launcher_of_their_own(runs):
    with pytest.raises(UserError, match="torchrun --nnodes=2"):
        run(compose("data=digits num_nodes=2 wandb.mode=disabled"))


def test_another_number_of_processes_than_asked_for_is_refused(runs, monkeypatch):
    started = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}
    for key, value in started.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match="3 processes were started, but the run asks for 2"):
        run(compose("data=digits devices=2 wandb.mode=disabled"))


def join_as_task(said, answers):
    """Meet the other task, and add up a number with it."""
    for key in [key for key in os.environ if key.startswith(("TORCHELASTIC", "SLURM"))]:
        del os.environ[key]
    os.environ |= said
    group = init_process_group(2, 60, on_gpu=False)
    total = torch.tensor([group.rank + 1.0])
    torch.distributed.all_reduce(total)
    answers.put((group.rank, group.world, group.local_rank, total.item()))
    destroy_process_group()


SLURM = {
    **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "bench", "SLURM_NODEID": "0"},
    **{"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_NODELIST": "127.0.0.1"},
    **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
}


def test_tasks_of_slurm_meet_by_what_it_says_of_them():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    said = SLURM | place | {"SLURM_NTASKS_PER_NODE": "2"}
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    tasks = [
        context.Process(
            target=join_as_task,
            args=(said | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}, answers),
        )
        for rank in (0, 1)
    ]
    try:
        for task in tasks:
            task.start()
        found = [answers.get(timeout=60) for _ in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert sorted(found) == [(0, 2, 0, 3.0), (1, 2, 1, 3.0)]


def test_tasks_that_slurm_does_not_count_a_machine_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    for key, value in SLURM.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match="--ntasks-per-node"):
        init_process_group(2, 60, on_gpu=False)
