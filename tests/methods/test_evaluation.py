import pytest
import torch

from mixbench.methods import METHODS
from mixbench.methods.evaluation import mix_for_evaluation
from mixbench.testing.samples import BATCH, CLASSES, SIZE, sample_method

PERM = torch.arange(BATCH).roll(1)


def images():
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, 3, SIZE, SIZE)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return pixels, torch.arange(BATCH) % CLASSES


@pytest.mark.parametrize("name", ["mixup", "cutmix", "samix", "choice"])
def test_test_images_are_mixed_by_the_key_alone_and_every_layer_keeps_its_mode(name):
    method = sample_method(METHODS.get(name)).eval()
    buffers = {key: value.clone() for key, value in method.named_buffers()}
    found = []
    for key in (3, 3, 4):
        method.reseed(len(found), 0)
        x, mixed = mix_for_evaluation(method, *images(), PERM, key)
        found.append(mixed.x)
        assert torch.equal(mixed.perm, PERM)
        assert torch.equal(x, method.normalize(images()[0] / 255))
        assert not any(module.training for module in method.modules())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert all(torch.equal(value, buffers[key]) for key, value in method.named_buffers())
