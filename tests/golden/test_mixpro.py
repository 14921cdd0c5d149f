import pytest
import torch

import mixbench.functional as mf
from mixbench.config.schema import DataInfo
from mixbench.methods.build import build_method

GOLDEN = "mixpro"
NOT_COMPARED: dict[str, str] = {}


class Recorded(torch.nn.Module):
    """A network that looks where the recorded one did, and says what it said."""

    prefix = 1
    provides = frozenset({"stages", "attention", "tokens"})

    def __init__(self, case):
        super().__init__()
        self.attn, self.patch = case["attn"], int(case["patch"])
        self.logits = torch.nn.Parameter(case["logits"])

    def grid(self, x):
        return x.shape[2] // self.patch, x.shape[3] // self.patch

    def forward_stages(self, x, capture):
        seen = torch.nn.functional.pad(self.attn, (1, 0), value=0.5)  # the class token's own
        capture.attention = {key: seen for key in capture.wanted}
        return x

    def head(self, h):
        return self.logits


@pytest.mark.cases("case*")
def test_mixpro_equals_the_authors_code_up_to_the_gradient_of_its_loss(case):
    x, classes, net = case["img"], int(case["num_classes"]), Recorded(case)
    own = mf.one_hot(case["labels"], classes, smoothing=float(case["smoothing"]))
    settings = {"cell": int(case["cell"]), "detach_progress": False, "area": "cells"}
    method = build_method("mixpro", net, DataInfo(classes, *x.shape[2:]), **settings)
    assert method.fidelity == "official-verified"
    drawn = {"lam": case["ratio_drawn"][None], "order": case["cell_perm"], "perm": case["perm"]}
    mixed = method.mix(x, own, **drawn)
    case.compare("expect_cells", mixed.aux.mask.long(), "mask")
    case.compare("expect_img", mixed.x, "img")
    case.compare("expect_lam_area", mixed.aux.area, "lam")
    case.compare("expect_mix_target", mixed.targets, "target")
    by_area = mixed.targets
    logits, mixed = method.predict(mixed)
    case.compare("expect_cos", torch.cosine_similarity(by_area, logits.softmax(1)).detach(), "lam")
    case.compare("expect_lam", mixed.lam, "lam")
    loss = method.loss(logits, mixed)
    case.compare("expect_loss", loss.detach(), "loss")
    loss.backward()
    case.compare("expect_grad_logits", net.logits.grad, "loss")

    # By default the loss has the same value, and the gradient of labels that are given.
    net.logits.grad = None
    settings["detach_progress"] = True
    fixed = build_method("mixpro", net, DataInfo(classes, *x.shape[2:]), **settings)
    logits, after = fixed.predict(fixed.mix(x, own, **drawn))
    plain_loss = fixed.loss(logits, after)
    torch.testing.assert_close(plain_loss, loss)
    plain_loss.backward()
    given = (logits.softmax(1) - mixed.targets).detach() / len(x)
    torch.testing.assert_close(net.logits.grad, given)
    differ = case["labels"] != case["labels"][case["perm"]]
    off = (net.logits.grad - case["expect_grad_logits"]).abs().amax(1)
    assert (off[differ] > 1e-5).all()


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
