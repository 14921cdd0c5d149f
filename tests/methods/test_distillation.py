import pytest
import torch

import mixbench.functional as mf
from mixbench import compose, run
from mixbench.data import DATA
from mixbench.data.images import Batch
from mixbench.errors import UserError
from mixbench.training.build import build
from mixbench.training.job import resolve


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    words = ["data=digits", "data.limit=128", "net.width=4", "epochs=2", "batch_size=32"]
    words += ["eval.suites=[calibration]", "wandb.mode=disabled", f"run.dir={folder}"]
    record = run(compose([*words, "method=erm"]))
    return words, folder / record.id, record


def built(words):
    config = compose(words)
    splits = DATA.get("digits")(config.data).load()
    return build(resolve(config), splits)[0], splits


def stepped(method, splits, key=0):
    images = splits.train
    batch = Batch(images.images[:16], images.labels[:16], torch.arange(16))
    method.reseed(0, key)
    mixed = method.mix_batch(batch)
    logits, mixed = method.predict(mixed)
    return mixed, logits, method.loss(logits, mixed)


def test_softened_predictions_are_compared_at_one_size_of_gradients():
    logits, other = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    p, q = (other / 3).softmax(1), (logits / 3).softmax(1)
    expected = 9 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(mf.distillation_loss(logits, other, 3.0), expected)
    assert mf.distillation_loss(other, other).abs() < 1e-5


def test_teacher_and_network_see_the_same_mixture(teacher):
    words, place, _ = teacher
    method, splits = built([*words, "method=cutmix", f"distill={place}", "distill_labels=0.5"])
    mixed, logits, own = stepped(method, splits)
    found = method.distillation.terms(own, logits, method.to_pixels(mixed.x))
    net, info = method.distillation.teacher.module, method.distillation
    assert not net.training
    seen = net((method.to_pixels(mixed.x) - info.mean) / info.std)
    soft = (seen / 4).softmax(1)
    expected = 16 * (soft * (soft.log() - (logits / 4).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(found["distill"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["labels"], 0.5 * own)
    found["distill"].backward()
    assert not any(p.grad is not None for p in net.parameters())
    assert all(p.grad is not None for p in method.net.parameters())
    assert not [name for name in method.state_dict() if "distillation" in name]


def test_a_run_learns_from_its_teacher_and_counts_it(teacher):
    words, place, record = teacher
    config = compose([*words, "method=mixup", f"distill={place}"])
    found = run(config)
    assert found.status == "done"
    assert found.inputs["distill"]["name"].startswith(record.id)
    assert set(found.prior_hours) == {record.id}
    plain = resolve(compose([*words, "method=mixup"])).identity
    assert plain.config_hash != found.config_hash
    assert plain.recipe_hash != found.recipe_hash  # another way to train, whatever the method


def test_a_run_without_a_teacher_keeps_its_name_and_has_no_part_for_one(teacher):
    words, _, record = teacher
    method, _ = built([*words, "method=erm"])
    assert method.distillation is None
    assert resolve(compose([*words, "method=erm"])).identity.id == record.id
    given = [*words, "method=erm", "distill_temperature=4.0"]
    assert resolve(compose(given)).identity.id == record.id


def test_teacher_of_a_larger_network_teaches_a_smaller_one(teacher):
    words, place, _ = teacher
    method, splits = built([*words, "method=mixup", "net.width=2", f"distill={place}"])
    mixed, logits, own = stepped(method, splits)
    assert method.distillation.terms(own, logits, method.to_pixels(mixed.x))["distill"] > 0


@pytest.mark.parametrize("name", ["manifoldmixup", "alignmix", "bc", "choice"])
def test_methods_whose_mixtures_no_teacher_sees_are_refused(teacher, name):
    words, place, _ = teacher
    own = [f"method={name}", f"distill={place}"]
    own += ["method.members=[mixup,manifoldmixup]"] if name == "choice" else []
    with pytest.raises(UserError, match=f"{name}: it (mixes inside|normalises)") as error:
        built([*words, *own])
    assert "mixup or cutmix" in error.value.todo


def test_methods_of_several_passes_are_refused_at_their_first_step(teacher):
    words, place, _ = teacher
    method, splits = built([*words, "method=mixup2", f"distill={place}"])
    mixed, logits, own = stepped(method, splits)
    with pytest.raises(UserError, match="mixup2 passes several batches"):
        method.distillation.terms(own, logits, method.to_pixels(mixed.x))


def test_a_teacher_of_other_classes_or_none_is_refused(teacher, tmp_path):
    words, place, _ = teacher
    with pytest.raises(UserError, match="no such file or folder"):
        resolve(compose([*words, f"distill={tmp_path / 'gone'}"])).identity  # noqa: B018
    config = compose([*words, "method=erm", f"distill={place}"])
    splits = DATA.get("digits")(config.data).load()
    splits.info.num_classes = 11
    with pytest.raises(UserError, match="knows 10 classes, the data has 11"):
        build(resolve(config), splits)
