"""Scores of a training step, whose labels are mixed."""

import torch

import mixbench.functional as mf
from mixbench.methods.epoch_loss import EpochLoss
from mixbench.tasks.classification import Classification


def test_a_prediction_counts_by_the_weight_of_its_class_as_the_authors_of_mixup_count_it():
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(64, 4, generator=generator), torch.arange(64) % 4
    perm, lam = torch.randperm(64, generator=generator), torch.tensor([0.7])
    mixed = mf.mixup(torch.zeros(64, 1), mf.one_hot(y, 4), lam=lam, perm=perm)
    found = logits.argmax(1)
    theirs = 0.7 * (found == y).float().sum() + 0.3 * (found == y[perm]).float().sum()
    scores = Classification().training_scores(logits, mixed.targets)
    torch.testing.assert_close(scores["top1_mixed"], 100 * theirs / 64)
    # Others count mixed images against the label of the first one alone.
    assert (scores["top1_mixed"] - 100 * (found == y).float().mean()).abs() > 1


def test_the_loss_of_an_epoch_is_the_mean_of_all_its_batches():
    losses, epoch = [1.0, 2.0, 6.0], EpochLoss()
    for position, loss in enumerate(losses):
        epoch.add(torch.tensor(loss), position)
    assert float(epoch.mean()) == 3.0
    # The authors of mixup divide by the number of the last batch, which is counted from 0.
    assert sum(losses) / (len(losses) - 1) == 4.5
