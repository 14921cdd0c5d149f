import subprocess
import sys

import pytest
from torch import nn

from mixbench.config.compose import compose
from mixbench.training.build import with_safe_layout
from mixbench.training.job import resolve

CRASH = """
import torch
from torch import nn
from mixbench.training.build import with_safe_layout
from mixbench.backbones import NETS
from mixbench.config.compose import compose
from mixbench.config.schema import DataInfo

torch.set_num_threads(1)
config = compose("net.width=8 trainer.accelerator=cpu")
net = NETS.get("preactresnet18")(config.net, DataInfo(10, 64, 64))
x = torch.randn(32, 3, 64, 64)
if with_safe_layout(config, net).trainer.channels_last:
    net, x = (value.to(memory_format=torch.channels_last) for value in (net, x))
net(x).sum().backward()
"""


@pytest.mark.slow
def test_a_narrow_net_on_images_of_64_pixels_survives_its_gradient():
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


# FAULTS row 55: what rows are grouped by holds resolution, length and pretraining.
@pytest.mark.parametrize("change", ["data.size=16", "epochs=7", "net.weights=FILE", "lr=0.7"])
def test_another_protocol_has_another_hash(tmp_path, change):
    (tmp_path / "weights.pt").write_bytes(b"weights")
    plain = ["data=digits", "method=mixup"]
    given = change.replace("FILE", str(tmp_path / "weights.pt"))
    first, second = resolve(compose(plain)).identity, resolve(compose([*plain, given])).identity
    assert first.recipe_hash != second.recipe_hash
    assert first.id != second.id


@pytest.mark.parametrize(
    ("channels", "stride", "kept"), [(8, 2, False), (16, 2, True), (8, 1, True)]
)
def test_the_layout_changes_for_the_convolution_in_question_alone(channels, stride, kept):
    config = compose("trainer.accelerator=cpu")
    net = nn.Sequential(nn.Conv2d(3, channels, 3, stride=2), nn.Conv2d(channels, 16, 1, stride))
    assert with_safe_layout(config, net).trainer.channels_last is kept
    plain = compose("trainer.accelerator=cpu trainer.channels_last=false")
    assert with_safe_layout(plain, net).trainer.channels_last is False
