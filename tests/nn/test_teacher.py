import copy

import torch
from torch import nn

from mixbench.backbones.cifar import PreActResNet
from mixbench.nn.teacher import Teacher, freeze, second_head


def network():
    torch.manual_seed(0)
    return PreActResNet((1, 1), 4, 5)


def test_a_second_head_has_the_form_of_the_first_and_weights_of_its_own():
    head = network().head
    other = second_head(head)
    assert other.fc.weight.shape == head.fc.weight.shape
    assert not torch.equal(other.fc.weight, head.fc.weight)


def test_a_teacher_starts_as_a_copy_and_follows_parameters_alone():
    net = network()
    head = second_head(net.head)
    teacher = Teacher(net, head)
    assert not any(p.requires_grad for p in teacher.parameters())
    for one, two in zip(teacher.net.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    before = copy.deepcopy(teacher.state_dict())
    for part in (net, head):
        for p in part.parameters():
            nn.init.normal_(p)
    for buffer in net.buffers():
        buffer.fill_(7)
    teacher.update(net, head, 0.9)
    trained = {f"net.{k}": v for k, v in net.named_parameters()}
    trained |= {f"mix_head.{k}": v for k, v in head.named_parameters()}
    for name, value in teacher.state_dict().items():
        if name in trained:
            torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * trained[name].detach())
        else:
            assert torch.equal(value, before[name]), name


def test_a_frozen_module_uses_the_batch_in_training_and_stays_as_it_is():
    net = network().train()
    x = torch.randn(4, 3, 8, 8) + 2
    expected = copy.deepcopy(net)(x)
    freeze(net)
    before = copy.deepcopy(net.state_dict())
    assert torch.equal(net(x), expected)
    assert not any(p.requires_grad for p in net.parameters())
    still = net.eval()(x)
    assert not torch.equal(still, expected)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(net(x[:2]), still[:2])  # one image does not depend on the others
