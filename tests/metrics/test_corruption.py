import pytest
import torch

from mixbench.config.names import COMMON_CORRUPTIONS
from mixbench.metrics.corruption import ALEXNET_ERRORS, group_means, mce, mean_ce


def test_groups_are_means_over_their_corruptions_and_all_severities():
    errors = torch.arange(20.0).view(4, 5)
    found = group_means(errors, ["blur", "noise", "blur", "noise"])
    assert list(found) == ["blur", "noise"]
    assert float(found["blur"]) == 7  # rows 0 and 2
    assert float(found["noise"]) == 12
    with pytest.raises(ValueError, match="3 groups for 4 corruptions"):
        group_means(errors, ["blur"] * 3)


def test_alexnet_has_an_mce_of_a_hundred():
    assert tuple(ALEXNET_ERRORS) == COMMON_CORRUPTIONS
    reference = torch.tensor(list(ALEXNET_ERRORS.values()))
    errors = reference[:, None].expand(-1, 5)
    assert float(mce(errors, reference)) == pytest.approx(100)
    assert float(mean_ce(errors)) == pytest.approx(0.789, abs=5e-4)  # 78.9 % in its paper
