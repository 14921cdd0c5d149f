import pytest
import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench import metrics
from mixbench.backbones.base import Head, StagedNet, with_max_pool
from mixbench.config.schema import DataInfo
from mixbench.methods import METHODS

GOLDEN = "splicemix"
NOT_COMPARED: dict[str, str] = {}


def decisions(case) -> dict:
    """All decisions of the official run, its grids as they were after being transposed."""
    groups = range(int(case["n_groups"]))
    sources = [case[f"g{group}_index"] for group in groups]
    grids = [mf.SpliceGrid(*case[f"g{group}_rows_cols"].tolist()) for group in groups]
    pairs = zip(sources, grids, strict=True)
    return {
        "grids": grids,
        "counts": [len(rows) // grid.cells for rows, grid in pairs],
        "transposed": [False] * len(grids),
        "sources": torch.cat(sources),
        "dropped": torch.cat([case[f"g{group}_drop"] for group in groups]) == 1,
    }


@pytest.mark.cases(having="expect_x")
def test_splices_and_their_consistency_equal_the_authors_code(case):
    x, targets = case["x"], case["target"]
    mixed = mf.splicemix(x, targets, **decisions(case))
    case.compare("expect_x", mixed.x[len(x) :], "pixels")
    case.compare("expect_target", mixed.targets[len(x) :], "targets")
    flag = (torch.arange(len(mixed.x)) >= len(x)).float()
    case.compare("expect_mix_flag", flag, "targets")

    net = OneConvolution(case)
    info = DataInfo(targets.shape[1], x.shape[2], x.shape[3], task="multilabel")
    for detach in (True, False):
        cls = METHODS.get("splicemix_cl")
        method = cls(net, info, cls.Config(cl_detach=detach)).train()
        logits, after = method.predict(method.mix(x, targets, **decisions(case)))
        terms = method.loss(logits, after)
        net.zero_grad()
        (terms["bce"] + terms["cl"]).backward()
        gradient = net.head.fc.weight.grad
        case.compare(f"expect_dcls_{'detach' if detach else 'nodetach'}", gradient, "losses")
        case.compare("expect_loss_official", terms["bce"] + terms["cl"], "losses")
    spliced, cells = after.aux
    case.compare("expect_preds", logits, "logits")
    case.compare("expect_preds_cell", mf.mark_dropped(cells, spliced.dropped), "logits")
    reference = mf.mark_dropped(mf.take(logits, spliced.sources), spliced.dropped)
    case.compare("expect_preds_cell_ref", reference, "logits")
    case.compare("expect_loss_bce", terms["bce"], "losses")
    case.compare("expect_loss_cl", terms["cl"], "losses")


class OneConvolution(StagedNet):
    """The network of a case: a convolution, the global maximum, and a classifier."""

    def __init__(self, case) -> None:
        super().__init__()
        weights = {
            name: case[f"{case.name}/w/{name}"]
            for part in ("backbone.0", "cls")
            for name in (f"{part}.weight", f"{part}.bias")
        }
        classes, channels = weights["cls.weight"].shape
        inputs = weights["backbone.0.weight"].shape[1]
        stride = int(case["stride"])
        conv = nn.Conv2d(inputs, channels, 3, stride=stride, padding=1)
        self.stages = nn.ModuleList([nn.Sequential(conv, nn.ReLU())])
        self.channels = (inputs, channels)
        self.head = Head(channels, classes)
        with_max_pool(self)
        places = {"backbone.0": "stages.0.0", "cls": "head.fc"}
        self.load_state_dict(
            {f"{own}.{kind}": weights[f"{theirs}.{kind}"]
             for theirs, own in places.items() for kind in ("weight", "bias")}
        )  # fmt: skip


def known_or_nan(targets: Tensor) -> Tensor:
    """Labels as the metrics here want them: 1, 0, and NaN for difficult."""
    return torch.where(targets == 0, torch.nan, (targets == 1).float())


@pytest.mark.cases(having="expect_ap")
def test_scores_equal_the_authors_code(case):
    scores, targets = case["scores"], known_or_nan(case["targets"])
    each = [
        metrics.mean_average_precision(scores[:, [label]], targets[:, [label]])
        for label in range(scores.shape[1])
    ]
    case.compare("expect_ap", torch.stack(each), "metrics")
    case.compare("expect_map", metrics.mean_average_precision(scores, targets), "metrics")
    present = targets.nan_to_num(0)  # the authors count difficult labels as absent
    for key, top in (("expect_all", None), ("expect_top3", 3)):
        found = metrics.multilabel.f1_scores(scores, present, top=top)
        case.compare(key, torch.stack(found), "metrics")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
