import pytest
import torch
from torch import nn

import mixbench.functional as mf
from mixbench.config.schema import DataInfo
from mixbench.methods.build import build_method

GOLDEN = "snapmix"
NOT_COMPARED: dict[str, str] = {}


class Recorded(nn.Module):
    """A network whose last features and classifier are the recorded ones."""

    provides = frozenset({"stages", "maps"})

    def __init__(self, case):
        super().__init__()
        self.features, self.logits = case["features"], case["logits"]
        classes, channels = case["fc_weight"].shape
        self.head = nn.Module()
        self.head.norm, self.head.fc = nn.ReLU(), nn.Linear(channels, classes)
        self.head.fc.weight.data = case["fc_weight"]
        self.head.fc.bias.data = case["fc_bias"]

    def forward_stages(self, x):
        return self.features

    def forward(self, x):
        return self.logits


def decisions(case):
    """The recorded draws, with the centres as fractions that fall into the middle of a pixel."""
    size = torch.tensor(case["img"].shape[2:])
    own, other = ((case[f"centre_{side}"][None] + 0.5) / size for side in "ab")
    shares = case["lam_drawn"].split(1)
    given = {"lam": shares[0], "source_lam": shares[1], "center": own, "source_center": other}
    return given | {"perm": case["perm"]}


@pytest.mark.cases("case*")
def test_snapmix_equals_the_authors_code_up_to_the_loss_but_for_labels_that_both_have(case):
    net, x = Recorded(case), case["img"]
    targets = mf.one_hot(case["labels"], len(case["fc_weight"]))
    info = DataInfo(targets.shape[1], *x.shape[2:])
    method = build_method("snapmix", net, info, same_label="sum")
    assert method.fidelity == "official-verified"
    mixed = method.mix(x, targets, **decisions(case))
    for side, box in zip("ab", (mixed.aux.box, mixed.aux.source), strict=True):
        top, left, bottom, right = box.unbind(1)
        case.compare(f"expect_box_{side}", torch.cat([top, bottom, left, right]), "box")
    case.compare("expect_spm", mixed.aux.maps * x[0, 0].numel(), "spm")
    case.compare("expect_img", mixed.x, "img")
    own = mixed.lam * mixed.aux.weight
    case.compare("expect_lam_a", own, "lam_a")
    case.compare("expect_lam_b", mixed.aux.weight - own, "lam_b")
    logits, mixed = method.predict(mixed)
    case.compare("expect_loss", method.loss(logits, mixed).detach(), "loss")

    once = build_method("snapmix", net, info).mix(x, targets, **decisions(case))
    shared = (case["labels"] == case["labels"][case["perm"]]) & bool((mixed.x != x).any())
    expected = torch.where(shared, mixed.aux.weight / 2, mixed.aux.weight)
    torch.testing.assert_close(once.aux.weight, expected)
    for value, wanted in ((once.x, mixed.x), (once.targets, mixed.targets)):
        torch.testing.assert_close(value, wanted)


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
