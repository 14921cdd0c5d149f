import torch

from mixbench.data.images import Batch
from mixbench.evaluation.inference import infer


class Doubles:
    """A method of one class per pixel, with another head."""

    device = torch.device("cpu")
    moved = 0

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        assert device == self.device
        self.moved += 1
        return batch

    def validation_step(self, batch, batch_idx):
        assert not torch.is_grad_enabled()
        logits = 2.0 * batch.images
        return {"logits": logits, "y": batch.labels, "ids": batch.ids, "extra": {"less": -logits}}


def batches():
    images, ids = torch.arange(12.0).view(6, 2), torch.tensor([4, 1, 0, 5, 3, 2])
    return [Batch(images[ids[i : i + 2]], ids[i : i + 2] % 2, ids[i : i + 2]) for i in (0, 2, 4)]


def test_outputs_come_in_the_order_of_the_ids_whatever_the_batches():
    method = Doubles()
    found = infer(method, batches())
    logits, labels, ids = found.compute()
    assert ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert torch.equal(logits, 2.0 * torch.arange(12.0).view(6, 2))
    assert torch.equal(found.extra()["less"], -logits)
    assert method.moved == 3


def test_a_single_image_keeps_its_row():
    batch = Batch(torch.ones(1, 2), torch.tensor([1]), torch.tensor([0]))
    logits, labels, ids = infer(Doubles(), [batch]).compute()
    assert (logits.shape, labels.tolist(), ids.tolist()) == ((1, 2), [1], [0])


def test_another_step_takes_the_place_of_the_methods_own():
    def step(batch, number):
        logits = batch.images + 100 * number
        return {"logits": logits, "y": batch.labels, "ids": batch.ids, "extra": {}}

    found = infer(Doubles(), batches(), step)
    assert found.compute()[0][:, 0].tolist() == [100, 2, 204, 206, 8, 110]
    assert found.extra() == {}
