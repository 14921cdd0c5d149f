import pytest
import torch

from mixbench.nn.contrast import Queue, gather_rows, projector


def keys(first, count, dim=2):
    return torch.arange(first, first + count).float()[:, None].expand(count, dim)


def put(queue, new):
    queue.hold(new)
    queue.enqueue()


def test_a_queue_begins_with_unit_vectors():
    torch.testing.assert_close(Queue(8, 5).keys.norm(dim=0), torch.ones(5))


@pytest.mark.parametrize("batches", [[2, 2, 2, 2], [3, 3, 3], [4, 1, 2, 5], [1, 6], [5, 5, 5]])
def test_new_keys_replace_the_oldest_whatever_the_size_of_a_batch(batches):
    queue, first = Queue(2, 6), 0
    expected = queue.keys[0].tolist()
    place = 0
    for count in batches:
        put(queue, keys(first, count))
        for value in range(first, first + count):
            expected[place] = float(value)
            place = (place + 1) % 6
        first += count
    assert queue.keys[0].tolist() == expected
    assert int(queue.place) == place


def test_of_more_keys_than_it_holds_a_queue_keeps_the_last():
    queue = Queue(2, 3)
    put(queue, keys(0, 8))
    assert sorted(queue.keys[1].tolist()) == [5.0, 6.0, 7.0]


def test_offered_keys_wait_until_they_are_taken_in_and_come_once():
    queue = Queue(2, 4)
    before = queue.keys.clone()
    queue.hold(keys(0, 1))
    queue.hold(keys(5, 2))  # a step that is computed again
    assert torch.equal(queue.keys, before)
    queue.enqueue()
    assert queue.keys[0, :2].tolist() == [5.0, 6.0]
    after = queue.keys.clone()
    queue.enqueue()
    assert torch.equal(queue.keys, after)
    assert int(queue.place) == 2


def test_a_queue_goes_on_from_its_state_and_holds_no_graph():
    queue, other = Queue(2, 4), Queue(2, 4)
    put(queue, keys(0, 3).clone().requires_grad_())
    assert not queue.keys.requires_grad
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        put(one, keys(9, 2))
    assert torch.equal(queue.keys, other.keys)
    assert queue.state_dict().keys() == {"keys", "place"}


def test_a_projector_has_two_layers_with_a_relu_between_them():
    head = projector(6, 3)
    x = torch.randn(4, 6)
    first, _, second = head
    torch.testing.assert_close(head(x), second(first(x).clamp(min=0)))
    assert (first.out_features, second.out_features) == (6, 3)


def test_alone_the_rows_are_those_of_the_process_itself():
    x = torch.ones(2, 3)
    assert gather_rows(x) is x
