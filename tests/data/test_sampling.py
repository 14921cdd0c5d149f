import pytest
import torch

from mixbench.data.sampling import BatchIndex, KeyedBatches, OrderedBatches, mix_seed


def rows(sampler):
    return torch.cat([draw.indices for draw in sampler])


def test_seeds_of_neighbouring_keys_are_unrelated():
    seeds = {
        mix_seed(1, seed, epoch, batch)
        for seed in range(10)
        for epoch in range(10)
        for batch in range(10)
    }
    assert len(seeds) == 1000
    bits = torch.tensor([[s >> k & 1 for k in range(63)] for s in seeds], dtype=torch.float64)
    assert (bits.mean(0) - 0.5).abs().max() < 0.07  # four deviations of a fair coin
    assert all(0 <= s < 2**63 for s in seeds)
    assert mix_seed(1, 2) != mix_seed(2, 1) != mix_seed(1, 2, 0)


def test_an_epoch_visits_each_image_at_most_once_in_full_batches():
    sampler = KeyedBatches(103, 10, seed=4)
    draws = list(sampler)
    assert len(draws) == len(sampler) == 10
    assert all(len(draw.indices) == 10 for draw in draws)
    assert rows(sampler).unique().numel() == 100


def test_order_depends_on_seed_and_epoch_only():
    first, second = KeyedBatches(50, 5, seed=1), KeyedBatches(50, 5, seed=1)
    torch.manual_seed(0)
    start = rows(first)
    torch.rand(7)
    assert torch.equal(start, rows(second))
    second.set_epoch(1)
    assert not torch.equal(start, rows(second))
    second.set_epoch(0)
    assert torch.equal(start, rows(second))
    assert not torch.equal(start, rows(KeyedBatches(50, 5, seed=2)))


def test_ranks_share_an_epoch_without_overlap():
    parts = [rows(KeyedBatches(40, 10, 3, rank=rank, world=2)) for rank in range(2)]
    assert torch.cat(parts).unique().numel() == 40
    whole = KeyedBatches(40, 10, 3)
    joined = [torch.cat(pair) for pair in zip(*(part.split(5) for part in parts), strict=True)]
    assert torch.equal(torch.cat(joined), rows(whole))
    seeds = [[draw.seed for draw in KeyedBatches(40, 10, 3, rank, 2)] for rank in range(2)]
    assert not set(seeds[0]) & set(seeds[1])


@pytest.mark.parametrize("total", [100, 103, 20])
def test_accumulation_and_processes_only_divide_the_steps(total):
    steps = [draw.indices for draw in KeyedBatches(total, 24, seed=3)]
    for accumulate, world in ((2, 1), (1, 2), (3, 2), (4, 3)):
        ranks = [
            KeyedBatches(total, 24, 3, rank, world, accumulate=accumulate) for rank in range(world)
        ]
        assert {len(sampler) for sampler in ranks} == {accumulate * len(steps)}
        batches = [[draw.indices for draw in sampler] for sampler in ranks]
        whole = torch.cat([part for parts in zip(*batches, strict=True) for part in parts])
        if total >= 24:
            assert torch.equal(whole, torch.cat(steps))


@pytest.mark.parametrize(("total", "world"), [(30, 1), (32, 1), (32, 2), (7, 1)])
def test_repeated_images_follow_each_other_in_an_epoch_as_long_as_without(total, world):
    plain = KeyedBatches(total, 8, 3, world=world)
    samplers = [KeyedBatches(total, 8, 3, rank, world, repeats=3) for rank in range(world)]
    assert {len(sampler) for sampler in samplers} == {len(plain)}
    steps = [torch.cat([draw.indices for draw in ranks]) for ranks in zip(*samplers, strict=True)]
    shown = [torch.cat([draw.shown for draw in ranks]) for ranks in zip(*samplers, strict=True)]
    images, times = torch.cat(steps).tolist(), torch.cat(shown).tolist()
    assert times == [place % 3 for place in range(len(times))]
    assert images == [images[place - place % 3] for place in range(len(images))]
    assert len(set(images)) == -(-len(images) // 3)
    first = rows(samplers[0])
    for sampler in samplers:
        sampler.set_epoch(1)
    assert not torch.equal(rows(samplers[0]), first)


def test_each_showing_has_a_seed_of_its_own_and_the_first_that_of_an_epoch_without():
    once = BatchIndex(torch.tensor([4, 9]), 0, crop_seed=5)
    thrice = BatchIndex(
        torch.tensor([4, 4, 4, 9]), 0, crop_seed=5, shown=torch.tensor([0, 1, 2, 0])
    )
    known, seeds = once.image_seeds([4, 9]), thrice.image_seeds([4, 4, 4, 9])
    assert [seeds[0], seeds[3]] == known
    assert len({*seeds, *thrice.image_seeds([4, 4, 4, 9], 1)}) == 8


def test_an_epoch_can_be_entered_anywhere_and_the_next_one_is_whole():
    sampler = KeyedBatches(50, 5, seed=1)
    sampler.set_epoch(3)
    whole = list(sampler)
    again = KeyedBatches(50, 5, seed=1)
    again.start_at(3, 4)
    rest = list(again)
    assert len(again) == 10  # of the epoch, as progress counts from its start
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(whole[4:], rest, strict=True))
    assert [draw.seed for draw in whole[4:]] == [draw.seed for draw in rest]
    again.set_epoch(4)
    assert len(list(again)) == 10
    assert torch.equal(again.draw(3, 6).indices, whole[6].indices)
    assert again.draw(3, 6).seed == whole[6].seed


def test_a_set_smaller_than_a_batch_gives_one_batch_of_its_own_size():
    draws = list(KeyedBatches(7, 64, 0))
    assert [len(draw.indices) for draw in draws] == [7]


@pytest.mark.parametrize("total", [1, 13, 20])
def test_evaluation_counts_each_image_once_in_order(total):
    sampler = OrderedBatches(total, 10)
    assert torch.equal(rows(sampler), torch.arange(total))
    assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize(("total", "world"), [(13, 2), (20, 3), (1, 2), (2, 3)])
def test_processes_share_the_evaluation_and_none_is_left_without_work(total, world):
    parts = [rows(OrderedBatches(total, 4, rank, world)) for rank in range(world)]
    assert all(len(part) for part in parts)
    assert torch.equal(torch.cat(parts).unique(), torch.arange(total))
    if total >= world:
        assert sum(map(len, parts)) == total
