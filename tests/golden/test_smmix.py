import pytest
import torch

import mixbench.functional as mf
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataInfo
from mixbench.methods.build import build_method
from mixbench.methods.tdattenmix.consistency import WindowStep

GOLDEN = "smmix"
NOT_COMPARED: dict[str, str] = {}


class Recorded(VisionTransformer):
    """A transformer that looks where the recorded one did, and says what it said."""

    def __init__(self, case):
        self.cells, size = int(case["side"]), tuple(case["img"].shape[2:])
        classes = int(case["num_classes"])
        super().__init__(8, 1, 1, size[0] // self.cells, size, classes)
        self.attn, self.logits = case["attn"], case["preds_unmixed"]

    def forward_stages(self, h, start=0, stop=None, capture=None):
        # By every patch alike; the class token attends to, and is attended to, as it likes.
        count = self.attn.shape[1]
        seen = torch.full((len(h), 1 + count, 1 + count), 7.0)
        seen[:, 1:, 1:] = self.attn[:, None]
        seen[:, 0, 1:] = torch.rand(len(h), count)
        capture.attention = {key: seen for key in capture.wanted}
        return torch.zeros(len(h), 1 + count, 8)


@pytest.mark.cases("case*")
def test_smmix_equals_the_authors_code_up_to_its_three_losses(case):
    x, classes, k = case["img"], int(case["num_classes"]), int(case["k"])
    own = mf.one_hot(case["labels"], classes, smoothing=float(case["smoothing"]))
    net = Recorded(case)
    method = build_method("smmix", net, DataInfo(classes, *x.shape[2:]))
    assert method.fidelity == "official-verified"
    net.head = torch.nn.Module()
    net.head.forward = lambda h: case["preds_unmixed"]
    mixed = method.mix(x, own, side=k)
    windows: WindowStep = mixed.aux
    case.compare("expect_source_mask", (~windows.pasted.kept).flatten(1).long(), "mask")
    case.compare("expect_img", mixed.x, "img")
    case.compare("expect_lam", mixed.lam[0], "lam")
    case.compare("expect_target", mixed.targets, "target")
    case.compare("expect_mixed_pred", windows.expected, "target")
    regions = case["target_logits"], case["source_logits"]
    said = mixed._replace(aux=windows._replace(regions=regions))
    terms = method.loss(case["logits"], said)
    for key, name in (("cls", "ce"), ("fine", "tokens"), ("con", "consistency")):
        case.compare(f"expect_loss_{key}", terms[name], "loss")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
