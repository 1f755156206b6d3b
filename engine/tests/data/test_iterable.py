"""Position of an iterable: that of the batches handed out, however far the dataset has read ahead."""

import random
from contextlib import nullcontext

import pytest
import torch
from torch.utils.data import IterableDataset

from cairn.data.iterable import Deliveries, StatefulBatches
from cairn.data.loader import DataLoader
from cairn.errors import DataError


class Stream(IterableDataset):
    """Dataset of the numbers epoch * 100 + 0, 1, ...; with `rewinds` it resets its position at its end."""

    def __init__(self, size=10, rewinds=False):
        self.size, self.rewinds, self.epoch, self.position, self.is_loaded = size, rewinds, 0, 0, False

    def set_epoch(self, epoch):
        self.epoch = epoch

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position, self.is_loaded = state["position"], True

    def __iter__(self):
        if not self.is_loaded:
            self.position = 0
        self.is_loaded = False
        while self.position < self.size:
            self.position += 1
            yield self.epoch * 100 + self.position - 1
        if self.rewinds:
            self.position = 0


def loader_of(stream, num_workers=0, drop_last=False):
    return DataLoader(stream, 3, num_workers=num_workers, drop_last=drop_last)


def values(loader):
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("rewinds", [False, True])
def test_a_resume_after_any_batch_is_exact(num_workers, rewinds):
    full, states = [], []
    loader = loader_of(Stream(rewinds=rewinds), num_workers)
    for batch in loader:
        full.append(batch.tolist())
        states.append(loader.state_dict())
    assert full == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    for done, state in enumerate(states, start=1):
        resumed = loader_of(Stream(rewinds=rewinds), num_workers)
        resumed.load_state_dict(state)
        assert values(resumed) == full[done:]
        assert values(resumed) == full, "the next epoch starts at its beginning"


def test_an_iterator_that_is_not_used_does_not_affect_the_next_epoch():
    loader = loader_of(Stream(9))
    list(loader)
    state = loader.state_dict()
    resumed = loader_of(Stream(9))
    resumed.load_state_dict(state)
    iter(resumed)  # created by the resume, and never used, because the epoch is over
    resumed.set_epoch(1)
    assert values(resumed) == [[100, 101, 102], [103, 104, 105], [106, 107, 108]]


def test_a_state_belongs_to_its_batch_however_far_the_dataset_has_read_ahead():
    stream, deliveries = Stream(), Deliveries()
    batches = iter(StatefulBatches(stream, 3))
    for _ in range(2):
        deliveries.add(next(batches)[1])
    assert deliveries.after(1) == {"ended": False, "dataset": {"position": 3}}
    assert stream.position == 6


def test_a_state_that_is_not_known_is_refused_by_number():
    with pytest.raises(RuntimeError, match="state of the data after batch 7 is not known"):
        Deliveries().after(7)


def test_drop_last_drops_a_short_batch():
    assert values(loader_of(Stream(7), drop_last=True)) == [[0, 1, 2], [3, 4, 5]]


def test_the_length_is_known_only_if_the_dataset_has_one():
    class Sized(Stream):
        def __len__(self):
            return self.size

    assert len(loader_of(Sized())) == 4
    assert len(loader_of(Sized(), drop_last=True)) == 3
    with pytest.raises(TypeError):
        len(loader_of(Stream()))


class Drawing(Stream):
    """Draws from global generators, in a random order from a buffer that its state may hold."""

    def __init__(self, saved=True):
        super().__init__(12)
        self.saved, self.buffer = saved, []

    def state_dict(self):
        return {"position": self.position} | ({"waiting": list(self.buffer)} if self.saved else {})

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.buffer = list(state.get("waiting", []))

    def __iter__(self):
        for number in super().__iter__():
            self.buffer.append(number)
            if len(self.buffer) > 4:
                yield self.buffer.pop(random.randrange(5)) + torch.rand(()).item()


@pytest.mark.parametrize("batch_size", [2, None])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_an_iterable_draws_is_the_same_after_a_resume(num_workers, batch_size):
    def loader():
        return DataLoader(Drawing(), batch_size, num_workers=num_workers)

    first = loader()
    whole = [torch.as_tensor(batch).tolist() for batch in first]
    assert whole != [torch.as_tensor(batch).tolist() for batch in first], "another cycle draws other numbers"
    batches = iter(stopped := loader())
    next(batches), next(batches)
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    torch.manual_seed(5), random.seed(5)
    assert [torch.as_tensor(batch).tolist() for batch in resumed] == whole[2:]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_shuffle_buffer_that_the_state_does_not_hold_is_named(num_workers):
    loader = DataLoader(Drawing(saved=False), 2, num_workers=num_workers)
    loader.check_resumable()
    with pytest.warns(UserWarning, match=r"Drawing\.buffer holds samples.*state_dict\(\) of Drawing does not hold"):
        next(iter(loader))


class Constant(Stream):
    """Its state says nothing about its position."""

    def state_dict(self):
        return {"words": 7}


def test_a_state_that_is_not_a_position_is_refused_only_where_it_is_trained_on():
    assert len(values(loader_of(Constant()))) == 4
    loader = loader_of(Constant())
    loader.check_resumable()
    with pytest.raises(DataError, match=r"Constant is the same after its first and its second batch.*replay=True"):
        list(loader)


class BufferShuffled:
    buffer_size = 100


BufferShuffled.__name__, BufferShuffled.__module__ = "BufferShuffledExamplesIterable", "datasets.iterable_dataset"


def test_a_shuffle_of_a_library_is_refused_by_name():
    stream = Stream()
    stream._ex_iterable = BufferShuffled()
    with pytest.raises(
        DataError, match=r"shuffles with BufferShuffledExamplesIterable\(buffer_size=100\).*replay=True"
    ):
        loader_of(stream).check_resumable()


class OwnGenerator(Stream):
    """Draws from a generator of its own, which its state may hold."""

    def __init__(self, saved):
        super().__init__()
        self.saved, self.rng = saved, random.Random(0)

    def state_dict(self):
        return super().state_dict() | ({"rng": self.rng.getstate()} if self.saved else {})

    def load_state_dict(self, state):
        super().load_state_dict(state)
        if self.saved:
            self.rng.setstate(state["rng"])

    def __iter__(self):
        return (number + self.rng.random() for number in super().__iter__())


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("saved", [True, False])
def test_a_generator_that_the_state_does_not_hold_is_named(saved, num_workers):
    loader = loader_of(OwnGenerator(saved), num_workers)
    loader.check_resumable()
    expected = nullcontext() if saved else pytest.warns(UserWarning, match=r"OwnGenerator draws from OwnGenerator\.rng")
    with expected:
        assert len(values(loader)) == 4
