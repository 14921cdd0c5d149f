"""Suites of several parts, values per image, and the resumption between parts."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from mixbench.config.schema import DataInfo, EvalConfig
from mixbench.data.images import Batch
from mixbench.distributed.process_group import ProcessGroup
from mixbench.evaluation.finished_parts import FinishedParts
from mixbench.evaluation.suite import Suite

INFO = DataInfo(num_classes=3, height=2, width=2, test_size=10, name="dots")


class Values(Suite):
    """Counts images and keeps their means, once bright and once dark."""

    name = "values"

    def __init__(self, config: EvalConfig | None = None, stop_at: str = "") -> None:
        super().__init__(config or EvalConfig())
        self.stop_at, self.seen = stop_at, []

    def parts(self, info: DataInfo) -> tuple[str, ...]:
        return ("bright", "dark")

    def count_part(
        self, part: str, model: Any, batches: Iterable[Batch], info: DataInfo
    ) -> dict[str, Any]:
        if part == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append(part)
        means = [torch.empty(0)]
        count = 0
        for batch in batches:
            count += len(batch.ids)
            means.append(model(batch.images.float()).mean(dim=1) * (1 if part == "bright" else 0.5))
        return {"n": count, "means": torch.cat(means)}

    def score(self, counts: Mapping[str, Any]) -> dict[str, float]:
        return {f"{part}_first": float(counts[f"{part}/means"][0]) for part in ("bright", "dark")}


class Network(nn.Module):
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x.flatten(1)


def batches(suite: Suite, group: ProcessGroup) -> list[Batch]:
    """Images whose means are their rows, the last ones first, three at a time."""
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 3, 2, 2)
    rows = torch.arange(10).flip(0).split(3)[group.rank :: group.world]
    return [Batch(images[each], torch.zeros(len(each)), each) for each in rows]


def judge(suite: Suite, folder: Any = None, net: nn.Module | None = None) -> Any:
    net, group = net or Network(), ProcessGroup()
    kept = folder and FinishedParts(folder, suite.name, repr(suite.config), net, group)
    return suite._judge(net, lambda part: batches(suite, group), INFO, group, kept)


def test_values_come_in_the_order_of_the_images():
    outcome = judge(Values())
    assert outcome.scores == {"bright_first": 0.0, "dark_first": 0.0}
    assert outcome.facts["images"] == 10


def test_finished_parts_are_not_counted_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        judge(Values(stop_at="dark"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["values.parts.npz"]
    again = Values()
    assert judge(again, tmp_path).scores == judge(Values()).scores
    assert again.seen == ["dark"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["weights", "settings", "file"])
def test_parts_of_another_network_or_setting_are_of_no_use(tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        judge(Values(stop_at="dark"), tmp_path)
    if change == "file":
        path = tmp_path / "values.parts.npz"
        path.write_bytes(path.read_bytes()[:100])
    again = Values(EvalConfig(adv_n=7) if change == "settings" else None)
    judge(again, tmp_path, Network(2.0) if change == "weights" else None)
    assert again.seen == ["bright", "dark"]


def test_a_suite_needs_one_way_to_count():
    class Nothing(Suite):
        def score(self, counts: Mapping[str, Any]) -> dict[str, float]:
            return {}

    with pytest.raises(NotImplementedError, match="Nothing"):
        Nothing(EvalConfig()).evaluate(Network(), [], INFO, ProcessGroup())
