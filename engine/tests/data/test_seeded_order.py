"""The user's own samplers: functions of (seed, epoch), or named before training."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, Dataset, Sampler, SequentialSampler

from cairn.data.loader import DataLoader
from cairn.data.seeded_order import SeededOrder


class Own(Sampler):
    """Draws indices by a function."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 8

    def __iter__(self):
        return iter(self.draw())


class Named(Dataset):
    """Sample of a key that is not a number."""

    def __getitem__(self, key):
        return f"{key} {torch.rand(()).item():.6f}"


class History(Own):
    """Draws what its earlier draws left."""

    def __init__(self, kind):
        self.kind, self.passes, self._last, self.table = kind, 0, [], torch.zeros(8)

    def __iter__(self):
        if self.kind == "number":
            self.passes += 1
        elif self.kind == "list":
            self._last = [*self._last, len(self._last)]
        elif self.kind == "tensor":
            self.table += 1
        elif self.kind == "entropy":
            return iter(np.random.default_rng().permutation(1000).tolist())
        return iter(range(8))


class Cached(Own):
    """Keeps what it has drawn, which is a function of (seed, epoch)."""

    def __init__(self):
        self.order, self.rng = [], random.Random(3)

    def __iter__(self):
        self.order = list(range(8))
        self.rng.shuffle(self.order)
        return iter(self.order)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("number", "History.passes changes each time History is iterated"),
        ("list", "History._last changes each time"),
        ("tensor", "History.table changes each time"),
        ("entropy", "History draws other samples each time"),
    ],
)
def test_a_sampler_with_a_history_is_named_before_the_first_batch(kind, what):
    loader = DataLoader(range(1000), 2, sampler=History(kind))
    with pytest.warns(UserWarning, match=what):
        loader.check_resumable()
    inside = DataLoader(range(1000), batch_sampler=BatchSampler(History(kind), 2, False))
    with pytest.warns(UserWarning, match="BatchSampler.* each time"):
        inside.check_resumable()


def test_a_sampler_that_cannot_be_copied_is_named():
    sampler = Own(lambda: range(8))
    sampler.lock = (number for number in range(3))
    with pytest.warns(UserWarning, match="Own cannot be copied and so cannot be checked"):
        DataLoader(range(8), 2, sampler=sampler).check_resumable()


@pytest.mark.parametrize("sampler", [Cached(), Own(lambda: torch.randperm(8).tolist()), [3, 1, 2]])
def test_a_sampler_that_is_a_function_of_the_epoch_is_not_named(sampler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DataLoader(range(8), 2, sampler=sampler).check_resumable()


def test_the_check_does_not_change_what_is_drawn():
    def batches(check):
        loader = DataLoader(range(8), 4, sampler=Cached())
        if check:
            loader.check_resumable()
        return [batch.tolist() for batch in loader]

    assert batches(True) == batches(False)


def test_weights_that_training_changes_are_named_in_the_next_epoch():
    sampler = Own(lambda: range(8))
    sampler.weights = torch.ones(8)
    loader = DataLoader(range(8), 4, sampler=sampler)
    list(loader)
    sampler.weights[0] = 2
    with pytest.warns(UserWarning, match="Own.weights was changed after the last epoch was drawn, and no checkpoint"):
        list(loader)


class Buckets(Own):
    """Batches in an order that depends on the epoch."""

    def __init__(self):
        self.epoch, self.seed = 0, 5

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter([[(index + self.epoch) % 8, index] for index in range(4)])


def test_the_epoch_that_lightning_sets_in_a_batch_sampler_is_not_named():
    """Lightning does so before the epoch is drawn, while the loader still stands in the epoch before."""
    loader = DataLoader(range(8), batch_sampler=Buckets())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader.check_resumable()
        for epoch in range(2):
            loader.set_epoch(epoch)
            loader.batch_sampler.sampler.set_epoch(epoch)
            assert next(iter(loader)).tolist() == [epoch, 0]


def test_an_attribute_that_is_set_in_the_sampler_of_a_loader_belongs_to_the_sampler_of_the_user():
    sampler = Stage()
    loader = DataLoader(range(8), 4, sampler=sampler)
    loader.sampler.stage = 5
    assert (sampler.stage, loader.sampler.stage) == (5, 5)
    assert next(iter(loader)).tolist() == [5, 6, 7, 0]
    own = Buckets()
    assert (own.seed, DataLoader(range(8), batch_sampler=own, seed=3).sampler.seed) == (5, 3)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: np.random.permutation(8),
        lambda: torch.randperm(8),
        lambda: [(int(index), "large") for index in torch.randperm(8)],
        lambda: [f"key {index}" for index in torch.randperm(8).tolist()],
    ],
)
def test_an_index_may_be_of_any_kind(draw):
    whole, resumed = (DataLoader(Named(), 2, sampler=Own(draw)) for _ in range(2))
    batches = list(whole)
    first = DataLoader(Named(), 2, sampler=Own(draw))
    next(iter(first))
    resumed.load_state_dict(first.state_dict())
    assert list(resumed) == batches[1:]
    assert len({sample for batch in batches for sample in batch}) == 8


class Stage(Own):
    """Its state is what it draws."""

    def __init__(self):
        self.stage = 0

    def __iter__(self):
        return iter([(index + self.stage) % 8 for index in range(8)])

    def state_dict(self):
        return {"stage": self.stage}

    def load_state_dict(self, state):
        self.stage = state["stage"]


@pytest.mark.parametrize("done", [1, 2])
def test_a_state_that_training_changes_is_saved_with_its_new_value(done):
    sampler = Stage()
    loader = DataLoader(range(8), 4, sampler=sampler)
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    sampler.stage = 5
    resumed = DataLoader(range(8), 4, sampler=Stage())
    resumed.load_state_dict(loader.state_dict())
    rest = iter(resumed)
    if done == 1:
        assert next(rest).tolist() == [4, 5, 6, 7]
    resumed.set_epoch(1)
    assert next(iter(resumed)).tolist() == [5, 6, 7, 0]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("num_samples", [0, 1, 6, 10])
def test_a_sampler_in_order_gives_each_process_what_a_list_of_its_items_gives(
    monkeypatch, num_samples, world_size, drop_last
):
    plain = SequentialSampler(range(num_samples))
    batches = BatchSampler(plain, 2, drop_last)
    for sampler, is_batched in ((plain, False), (range(num_samples), False), (batches, True)):
        for rank in range(world_size):
            monkeypatch.setattr(SeededOrder, "processes", staticmethod(lambda own=rank: (own, world_size)))
            lazy, listed = (SeededOrder(one, is_batched=is_batched) for one in (sampler, list(sampler)))
            for start in (0, 1):
                lazy.seek(0, start)
                listed.seek(0, start)
                assert list(lazy) == list(listed)


def test_a_sampler_in_order_over_a_billion_samples_is_not_listed():
    billion = range(10**9)
    for sampler in (SequentialSampler(billion), billion):
        order = SeededOrder(sampler)
        order.seek(0, 700_000_000)
        assert next(iter(order)) == 700_000_000
    order = SeededOrder(BatchSampler(SequentialSampler(billion), 4, False), is_batched=True)
    order.seek(0, 100_000_000)
    assert next(iter(order)) == [400_000_000, 400_000_001, 400_000_002, 400_000_003]
