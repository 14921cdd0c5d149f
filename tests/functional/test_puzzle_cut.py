"""The cut of PuzzleMix: exact against all labels, relaxed against exact."""

import itertools

import pytest
import torch
from torch import Generator

import mixbench.functional as mf


def random_problem(seed, labels, rows, columns, *, batch=3, smooth=600):
    generator = Generator().manual_seed(seed)
    unary = torch.randint(0, 1500, (batch, labels, rows, columns), generator=generator).float()
    down = torch.randint(0, smooth, (batch, rows - 1, columns), generator=generator).float()
    right = torch.randint(0, smooth, (batch, rows, columns - 1), generator=generator).float()
    return mf.CutProblem(unary, down, right)


def energy_by_hand(problem, image, labels):
    """Energy of nested lists of labels of one image."""
    unary, down, right = (part[image].tolist() for part in problem)
    last, total = len(unary) - 1, 0.0
    for i, row in enumerate(labels):
        for j, label in enumerate(row):
            total += unary[label][i][j]
            if i + 1 < len(labels):
                total += down[i][j] * ((label - labels[i + 1][j]) / last) ** 2
            if j + 1 < len(row):
                total += right[i][j] * ((label - row[j + 1]) / last) ** 2
    return total


@pytest.mark.parametrize(
    ("labels", "rows", "columns"), [(2, 2, 4), (3, 2, 3), (4, 1, 4), (3, 4, 1)]
)
def test_no_labels_cost_less_than_the_exact_cut(labels, rows, columns):
    problem = random_problem(labels, labels, rows, columns)
    exact, relaxed = mf.exact_cut(problem), mf.relaxed_cut(problem)
    energies = mf.cut_energy(problem, exact), mf.cut_energy(problem, relaxed)
    for image in range(3):
        best = min(
            energy_by_hand(
                problem, image, [flat[k : k + columns] for k in range(0, len(flat), columns)]
            )
            for flat in itertools.product(range(labels), repeat=rows * columns)
        )
        assert energy_by_hand(problem, image, exact[image].tolist()) == pytest.approx(best)
        assert energies[0][image].item() == pytest.approx(best)
        assert energies[1][image].item() == pytest.approx(
            energy_by_hand(problem, image, relaxed[image].tolist())
        )


def problem_of_images(seed, labels, side):
    generator = Generator().manual_seed(seed)
    small = torch.rand(16, 3, 6, 6, generator=generator)
    pixels = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")
    saliency = torch.rand(16, 32, 32, generator=generator) ** 4
    perm = torch.randperm(16, generator=generator)
    costs = mf.puzzle_costs(pixels, saliency, perm, (side, side))
    return mf.cut_problem(costs, torch.rand(16, generator=generator), labels=labels)


@pytest.mark.parametrize("labels", [2, 3, 4])
@pytest.mark.parametrize("side", [2, 4, 8])
def test_the_relaxed_cut_costs_nearly_the_least(labels, side):
    excess = []
    for seed in range(3):
        problem = problem_of_images(seed, labels, side)
        least = mf.cut_energy(problem, mf.exact_cut(problem))
        found = mf.cut_energy(problem, mf.relaxed_cut(problem))
        assert (found >= least - 1e-6).all()
        excess.append(found / least - 1)
    assert torch.cat(excess).mean() < 0.005


def test_the_relaxed_cut_is_never_dearer_than_one_label_everywhere():
    for labels in (2, 3, 5):
        problem = random_problem(labels, labels, 8, 8, batch=8, smooth=4000)
        found = mf.cut_energy(problem, mf.relaxed_cut(problem))
        for label in range(labels):
            even = mf.cut_energy(problem, torch.full((8, 8, 8), label))
            assert (found <= even).all()


def test_problems_of_a_batch_do_not_touch_each_other():
    problem = random_problem(1, 3, 4, 4, batch=4)
    alone = mf.CutProblem(*(part[2:3] for part in problem))
    for solve in (mf.exact_cut, mf.relaxed_cut):
        assert torch.equal(solve(problem)[2:3], solve(alone))
