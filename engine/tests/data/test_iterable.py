"""Position of an iterable: that of the batches handed out, however far the dataset has read ahead."""

import pytest
from torch.utils.data import IterableDataset

from cairn.data.iterable import Deliveries, StatefulBatches
from cairn.data.loader import DataLoader


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
