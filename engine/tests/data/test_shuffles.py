"""Ways of shuffling: nothing grows with the dataset, and a run keeps the way with which it began."""

import re
import tracemalloc
from itertools import islice

import numpy as np
import pytest
import torch

from cairn.data import permutation, sampler, shuffles
from cairn.data.loader import DataLoader
from cairn.data.seeding import mix_seed
from cairn.errors import DataError

BILLION = range(10**9)


@pytest.fixture
def old_run():
    shuffles.begin_run("shuffled")
    yield
    shuffles.begin_run()


def loader(dataset=range(12), **options):
    return DataLoader(dataset, 4, shuffle=True, seeded_items=False, seed=3, **options)


def epoch(loader, number):
    loader.set_epoch(number)
    return [batch.tolist() for batch in loader]


def in_old_way(number, num_samples=12):
    generator = torch.Generator().manual_seed(mix_seed(3, number))
    return torch.randperm(num_samples, generator=generator).view(-1, 4).tolist()


@pytest.fixture
def computed(monkeypatch):
    """Number of indices that were computed, call by call."""
    found, at = [], permutation.Permutation.at
    monkeypatch.setattr(permutation.Permutation, "at", lambda own, places: found.append(len(places)) or at(own, places))
    return found


def test_an_epoch_of_a_billion_samples_computes_only_what_is_read(computed):
    full = iter(loader(BILLION, drop_last=True))
    assert computed == []
    next(full)
    resumed = loader(BILLION, drop_last=True)
    state = resumed.state_dict() | {"epoch": 5, "batch": 200_000_000}
    resumed.load_state_dict(state)
    next(iter(resumed))
    assert computed == [sampler._CHUNK] * 2
    assert all(isinstance(value, bool | int | str) for value in resumed.state_dict().values())


def test_an_epoch_of_a_billion_samples_takes_no_memory():
    loader(range(10_000)).set_epoch(0)
    tracemalloc.start()
    try:
        for start in (0, 200_000_000):
            large = loader(BILLION)
            large.load_state_dict(large.state_dict() | {"batch": start})
            assert len([*islice(large, 3000)]) == 3000
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_new_run_permutes_and_says_so():
    new = loader()
    assert new.state_dict()["order"] == "permuted"
    assert epoch(new, 0) != in_old_way(0)


@pytest.mark.parametrize("without", [(), ("order",)])
def test_a_position_of_an_old_run_continues_in_the_old_way_to_the_end(without):
    state = {**loader().state_dict(), "order": "shuffled", "epoch": 1, "batch": 1}
    resumed = loader()
    resumed.load_state_dict({key: value for key, value in state.items() if key not in without})
    assert epoch(resumed, 1) == in_old_way(1)[1:]
    assert resumed.state_dict()["order"] == "shuffled"
    assert epoch(resumed, 2) == in_old_way(2)


@pytest.mark.usefixtures("old_run")
def test_in_an_old_run_loaders_without_a_position_shuffle_in_the_old_way_too():
    assert epoch(loader(), 4) == in_old_way(4)


@pytest.mark.usefixtures("old_run")
def test_a_loader_of_an_old_run_permutes_in_a_new_one():
    used = loader()
    used.load_state_dict({**used.state_dict(), "batch": 1})
    shuffles.begin_run()
    assert epoch(used, 7) == epoch(loader(), 7)


@pytest.mark.parametrize("order", ["sorted by the moon", ["permuted"], None])
def test_a_way_that_this_version_does_not_know_is_refused(order):
    state = {**loader().state_dict(), "order": order, "batch": 1}
    with pytest.raises(DataError, match=re.escape(f"order was {order!r} and is 'permuted'")):
        loader().load_state_dict(state)


def test_without_shuffling_an_old_position_changes_nothing():
    plain = DataLoader(range(12), 4)
    plain.load_state_dict({**plain.state_dict(), "batch": 1})
    assert [batch.tolist() for batch in plain] == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_every_way_gives_each_sample_once():
    for way in shuffles.WAYS.values():
        assert sorted(way(50, 1, 2)(np.arange(50)).tolist()) == list(range(50))
