"""Order of samples: complete, repeatable, divided among ranks, and resumable at any position."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.data.sampler import EpochSampler

SIZES = st.integers(min_value=1, max_value=60)
EPOCHS = st.integers(min_value=0, max_value=5)


def order(num_samples, epoch=0, **options):
    sampler = EpochSampler(num_samples, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


@given(SIZES, EPOCHS, st.integers(), st.booleans())
def test_an_epoch_has_every_sample_once(num_samples, epoch, seed, shuffle):
    assert sorted(order(num_samples, epoch, seed=seed, shuffle=shuffle)) == list(range(num_samples))


@given(SIZES, EPOCHS, st.booleans(), st.data())
def test_seek_continues_the_full_order(num_samples, epoch, shuffle, data):
    start = data.draw(st.integers(min_value=0, max_value=num_samples))
    sampler = EpochSampler(num_samples, shuffle=shuffle)
    sampler.seek(epoch, start)
    assert list(sampler) == order(num_samples, epoch, shuffle=shuffle)[start:]


@given(SIZES, st.integers(min_value=1, max_value=8), st.booleans())
def test_ranks_get_equal_shares_that_cover_all_samples(num_samples, world_size, shuffle):
    parts = [order(num_samples, rank=r, world_size=world_size, shuffle=shuffle) for r in range(world_size)]
    (length,) = {len(part) for part in parts}
    assert length == -(-num_samples // world_size)
    whole = [part[turn] for turn in range(length) for part in parts]
    head = order(num_samples, shuffle=shuffle)
    assert whole == [head[place % num_samples] for place in range(length * world_size)]


def test_order_depends_on_seed_and_epoch_and_not_on_their_sum():
    orders = {tuple(order(50, epoch, seed=seed)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_the_global_generator_is_not_used():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    order(1000, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shuffle", [True, False])
def test_length_stays_full_after_seek(shuffle):
    sampler = EpochSampler(10, shuffle=shuffle)
    sampler.seek(2, 7)
    assert len(sampler) == 10
    assert len(list(sampler)) == 3
    assert len(sampler) == 10


def test_the_start_is_used_once():
    sampler = EpochSampler(10)
    sampler.seek(1, 4)
    assert (len(list(sampler)), len(list(sampler))) == (6, 10)


def test_the_same_epoch_keeps_the_start_and_another_drops_it():
    sampler = EpochSampler(10)
    sampler.seek(1, 4)
    sampler.set_epoch(1)  # as Lightning does, before or after it creates the first iterator
    assert len(list(sampler)) == 6
    sampler.seek(1, 4)
    sampler.set_epoch(2)
    assert list(sampler) == order(10, 2)


def test_the_start_is_read_when_the_iterator_is_created():
    sampler = EpochSampler(10)
    sampler.seek(1, 4)
    first = iter(sampler)
    sampler.set_epoch(2)
    assert list(first) == order(10, 1)[4:]


def test_keys_are_pairs_of_epoch_and_index():
    assert order(7, 3, keyed=True) == [(3, index) for index in order(7, 3)]


@settings(max_examples=20)
@given(st.integers(min_value=0, max_value=300), st.integers(min_value=1, max_value=7))
def test_the_order_does_not_depend_on_the_chunk_size(num_samples, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cairn.data.sampler._CHUNK", chunk)
        parts = order(num_samples, 1)
    assert parts == order(num_samples, 1)


@given(st.integers(min_value=4090, max_value=9000), st.integers(min_value=1, max_value=5), st.integers())
@settings(max_examples=10)
def test_a_large_order_is_divided_and_continued_like_a_small_one(num_samples, world_size, seed):
    whole = order(num_samples, seed=seed)
    assert sorted(whole) == list(range(num_samples))
    for rank in range(world_size):
        sampler = EpochSampler(num_samples, seed=seed, rank=rank, world_size=world_size)
        sampler.seek(0, 700)
        own = [whole[place % num_samples] for place in range(rank, world_size * len(sampler), world_size)]
        assert list(sampler) == own[700:]


def test_the_order_of_a_dataset_that_has_grown_is_another_one():
    small, large = order(5000), order(5001)
    assert sum(a == b for a, b in zip(small, large, strict=False)) < 10


@pytest.mark.parametrize(("rank", "world_size"), [(1, 1), (-1, 2), (0, 0)])
def test_an_impossible_rank_is_refused(rank, world_size):
    with pytest.raises(ValueError, match="rank"):
        EpochSampler(10, rank=rank, world_size=world_size)
