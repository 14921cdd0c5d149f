import math

import pytest
import torch

from mixbench import compose
from mixbench.errors import UserError
from mixbench.tasks.demixing import DECIDING, RESIDUAL, Demixing, swapped
from mixbench.training.job import resolve

GAN = "method=demixgan data=digits"


def figures(count, own=10.0, other=5.0):
    """Rows with the PSNR of both components under each order, SSIM 0.5, no classifier."""
    rows = torch.zeros(count, RESIDUAL + 1)
    for start, psnr in ((0, own), (4, other)):
        rows[:, start] = rows[:, start + 3] = psnr
        rows[:, start + 1], rows[:, start + 2] = 0.5, math.nan
    return rows


def test_the_order_of_components_is_decided_by_the_first_images_which_then_do_not_count():
    count = 8 * DECIDING
    rows = figures(count, own=10.0, other=5.0)
    rows[:DECIDING] = figures(DECIDING, own=1.0, other=2.0)
    found = Demixing().scores(rows, figures(count, own=3.0, other=4.0), None)
    assert found["swapped"] == 1.0
    assert found["psnr"] == 5.0  # of the images behind, though the other order is better there
    assert found["psnr_gain"] == 1.0
    assert "top1_fixed" not in found


def test_a_hold_out_decides_in_their_place_and_all_images_count():
    rows = figures(4)
    rows[0, 0] = 2.0
    holdout = (figures(3, own=1.0, other=9.0), torch.zeros(3))
    assert Demixing().scores(rows, figures(4), None)["psnr"] == 10.0
    assert Demixing().scores(rows, figures(4), holdout)["psnr"] == 5.0
    assert Demixing().epoch_scores(rows, figures(4))["psnr"] == 8.0
    assert float(Demixing().peek_score(rows, figures(4))) == 8.0


def test_one_generator_is_never_swapped():
    rows = figures(5)
    rows[:, 4:8] = math.nan
    assert not swapped(rows)


@pytest.mark.parametrize(
    "words",
    ["optim.accumulate=2", "optim.clip=1", "optim.ema=0.9", "trainer.compile=true",
     "data.auto_augment=rand-m9-mstd0.5-inc1", "data.jitter=0.5", "data.lighting=0.1"],
)  # fmt: skip
def test_keys_of_a_classifier_s_step_are_refused_by_name(words):
    with pytest.raises(UserError, match="has no place in task=demix") as error:
        resolve(compose(f"{GAN} {words}"))
    assert words.startswith(error.value.where)


def test_methods_and_tasks_that_do_not_fit_are_refused_with_those_that_do():
    with pytest.raises(UserError, match="erm trains with labels") as error:
        resolve(compose("method=erm data=digits task=demix"))
    assert "demixgan, denoisegan" in error.value.todo
    with pytest.raises(UserError, match="erm needs logits"):
        resolve(compose("method=erm data=digits net=dcgan"))
    with pytest.raises(UserError, match="demixgan needs latent") as error:
        resolve(compose(f"{GAN} net=resnet18"))
    assert error.value.todo.endswith("dcgan")


def test_a_run_of_it_has_no_suites_of_classifiers_unless_they_are_asked_for():
    assert resolve(compose(GAN)).suites == ()
