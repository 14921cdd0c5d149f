from typing import Any

import pytest
import torch

import mixbench.functional as mf
import mixbench.methods.pictures.masks as maskviews
from mixbench import compose, run
from mixbench.methods import METHODS
from mixbench.methods.samix.base import MIX
from mixbench.pictures.sheet import PAIRS, Sheet, label_text
from mixbench.records.checkpoints import LAST
from mixbench.records.record import runs_folder
from mixbench.testing.samples import BATCH, sample_batch, sample_method
from mixbench.training.preview import picture

NEXT = torch.arange(BATCH).roll(-1)
LAM = torch.tensor([0.3])


@pytest.fixture
def drawn(monkeypatch):
    """What was put on the sheet, instead of its pixels."""
    seen = {}

    def keep(*parts, **named):
        sheet = Sheet(*parts, **named)
        seen.update(rows=sheet.drawn(), notes=" ".join((*sheet.notes, *sheet.caveats)))
        return sheet

    monkeypatch.setattr(maskviews, "Sheet", keep)
    return seen


def method_of(name="samix", **settings):
    torch.manual_seed(0)
    method: Any = sample_method(METHODS.get(name), **settings)
    for parameter in method.mixer.parameters():
        torch.nn.init.normal_(parameter)
    return method


@torch.no_grad()
def draw(method, lam=LAM, perm=NEXT):
    x, targets = sample_batch()
    method.reseed(0, 0)
    mixed = method.mix(x, targets, lam=lam, perm=perm)
    method.picture(x, targets, mixed)
    return x, targets, mixed


@pytest.mark.parametrize("name", ["samix", "automix"])
def test_each_pair_has_the_mask_and_the_mixed_image_of_every_weight(drawn, name):
    method = method_of(name)
    x, targets, _ = draw(method)
    assert len(drawn["rows"]) == 2 * PAIRS
    pixels, names = method.to_pixels(x), method.info.names
    shared = method.share(x)
    for row in range(PAIRS):
        upper, lower = drawn["rows"][2 * row : 2 * row + 2]
        assert torch.equal(upper[0].image, pixels[row])
        assert torch.equal(lower[0].image, pixels[NEXT[row]])
        assert lower[0].lines == label_text(targets[NEXT[row]], names)
        for column, weight in enumerate((0.0, 0.25, 0.5, 0.75, 1.0), start=1):
            lam = torch.tensor([weight])
            mask = method.mixer.draw(shared, lam, NEXT, x.shape[2:])[row].detach()
            torch.testing.assert_close(upper[column].image, mask.expand(3, -1, -1))
            mixture = mask * pixels[row] + (1 - mask) * pixels[NEXT[row]]
            torch.testing.assert_close(lower[column].image, mixture, rtol=1e-4, atol=1e-5)
            labels = mf.mix_targets(targets, NEXT, lam)[row]
            assert lower[column].lines == label_text(labels, names)
            figures = [f"mean {mask.mean():.2f}", f"deviation {mask.std(correction=0):.2f}"]
            assert list(upper[column].lines) == figures
            assert f"{weight:.2f}" in drawn["rows"][0][column].title


@pytest.mark.parametrize("lam", [0.3, 0.04])
def test_the_last_column_is_what_trains_the_network(drawn, lam):
    method = method_of(mask_adjust=1.0)
    x, _, mixed = draw(method, torch.tensor([lam]))
    upper, lower = (drawn["rows"][row][-1] for row in (0, 1))
    assert f"weight {lam:.2f}" in upper.lines
    torch.testing.assert_close(lower.image, method.to_pixels(mixed.x)[0])
    assert lower.lines == label_text(mixed.targets[MIX][0], method.info.names)
    made = x[1] + upper.image * (x[0] - x[1])
    torch.testing.assert_close(made, mixed.x[0], rtol=1e-4, atol=1e-5)
    if lam < 0.08:
        torch.testing.assert_close(upper.image, torch.full_like(upper.image, lam))


def test_a_mixer_that_is_not_told_the_weight_is_said_to_be_so(drawn):
    for name, settings, blind in (
        ("samix", {}, False),
        ("automix", {}, True),
        ("automix", {"lam_concat": True}, False),
    ):
        draw(method_of(name, **settings))
        assert ("not told the weight" in drawn["notes"]) == blind, name


def test_dropout_is_left_out_of_the_masks_that_are_compared(drawn):
    draw(method_of(dropout=0.9))
    noisy = [panel.image for panel in drawn["rows"][0][1:-1]]
    draw(method_of())
    plain = [panel.image for panel in drawn["rows"][0][1:-1]]
    for one, other in zip(noisy, plain, strict=True):
        assert torch.equal(one, other)


def test_masks_of_a_mixer_say_whether_it_is_trained(drawn):
    method = method_of()
    draw(method)
    assert "Initial weights of the mixer; train first: mixbench run" in drawn["notes"]
    method.frozen = True  # as a checkpoint leaves it
    draw(method)
    assert "nitial weights" not in drawn["notes"]


def test_pairs_that_meet_are_shown_first(drawn):
    perm = torch.tensor([0, 1, 2, 4, 3, 5])
    draw(method_of(), perm=perm)
    assert len(drawn["rows"]) == 4


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_a_finished_run_is_drawn_with_what_it_has_learned(runs, tiny, statistics):
    config = compose([*tiny, "method=samix"])
    folder = runs_folder() / run(config).id
    assert (folder / "samples.png").exists()
    saved = torch.load(folder / LAST, weights_only=True)
    for name, value in saved["state_dict"].items():
        if name.startswith("mixer.") and not name.startswith("mixer.norm."):
            torch.nn.init.normal_(value)  # so few steps leave every mask a half
    torch.save(saved, folder / LAST)
    initial, trained = picture(config), picture(config, folder)
    assert initial.height > trained.height  # by the sentence that it is not trained
    parts = [drawn.crop((0, 0, 6 * 138, 150)).tobytes() for drawn in (initial, trained)]
    assert parts[0] != parts[1]
    words = [f"method.mixer_ckpt={folder / LAST}", f"method.mixer_bn={statistics}"]
    frozen = picture(compose([*tiny, "method=samix", *words]))
    assert frozen.size == trained.size
    assert frozen.crop((0, 0, 6 * 138, 150)).tobytes() != parts[0]
    # With statistics of the batch, its mixer and teacher draw what they drew in their run.
    left = trained.crop((0, 0, 5 * 138, 150)), frozen.crop((0, 0, 5 * 138, 150))
    assert (left[0].tobytes() == left[1].tobytes()) == (statistics == "batch")
