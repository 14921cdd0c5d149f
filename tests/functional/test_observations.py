import math

import torch

import mixbench.functional as mf


def test_lines_are_one_pixel_wide_of_value_one_and_cross_at_one():
    found = mf.line_image(torch.tensor([[1, 4 + 2, 3]]), (4, 5))[0, 0]
    expected = torch.zeros(4, 5)
    expected[[1, 3]] = 1
    expected[:, 2] = 1
    assert torch.equal(found, expected)


def test_no_place_is_no_line_and_no_wave():
    assert mf.line_image(torch.empty(2, 0, dtype=torch.int64), (4, 5)).abs().sum() == 0
    none = torch.empty(2, 0)
    assert mf.wave_image(none, none, none, none.bool(), (4, 5)).abs().sum() == 0


def test_waves_are_the_formula_pixel_by_pixel_and_add_up():
    strength, rate = torch.tensor([[0.5, 0.9]]), torch.tensor([[1.5, 4.0]])
    phase, turn = torch.tensor([[0.3, 2.0]]), torch.tensor([[True, False]])
    found = mf.wave_image(strength, rate, phase, turn, (8, 6))[0, 0]
    for row in range(8):
        for column in range(6):
            down = 0.5 * math.sin(2 * math.pi * 1.5 * row / 8 + 0.3)
            across = 0.9 * math.sin(2 * math.pi * 4.0 * column / 6 + 2.0)
            assert abs(found[row, column].item() - down - across) < 1e-5
