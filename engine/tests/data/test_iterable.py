"""The position of an iterable: that of the batches handed out, however far the dataset has run ahead."""

import pytest
import torch
from torch.utils.data import IterableDataset

from cairn.data.iterable import Deliveries, StatefulBatches, StatefulLoader, is_stateful


class Stream(IterableDataset):
    """Numbers epoch * 100 + 0, 1, ...; `rewinds` sets it back when it meets its end."""

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


def loader_of(stream, deliveries, num_workers=0, epoch=lambda: 0, drop_last=False):
    own = torch.Generator().manual_seed(0)
    batches = StatefulBatches(stream, 3, drop_last)
    return StatefulLoader(batches, epoch, deliveries, num_workers=num_workers, generator=own)


def values(loader):
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("rewinds", [False, True])
def test_a_resume_after_any_batch_is_exact(num_workers, rewinds):
    deliveries = Deliveries()
    full, states = [], []
    for batch in loader_of(Stream(rewinds=rewinds), deliveries, num_workers):
        full.append(batch.tolist())
        states.append(deliveries.after(len(full)))
    assert full == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    for done, state in enumerate(states, start=1):
        resumed = Deliveries()
        resumed.seek(done, state)
        loader = loader_of(Stream(rewinds=rewinds), resumed, num_workers)
        assert values(loader) == full[done:]
        assert values(loader) == full, "the next epoch begins at its head"


def test_an_end_that_nobody_asks_for_is_not_carried_into_the_next_epoch():
    deliveries = Deliveries()
    deliveries.seek(3, {"ended": False, "dataset": {"position": 9}})
    loader = loader_of(Stream(9), deliveries)
    iter(loader)  # made at the resume, and never used: the epoch is over
    assert values(loader) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_state_is_that_of_its_batch_and_not_of_the_dataset():
    stream, deliveries = Stream(), Deliveries()
    batches = iter(loader_of(stream, deliveries))
    next(batches), next(batches)  # Lightning holds the second one back
    assert deliveries.after(1) == {"ended": False, "dataset": {"position": 3}}
    assert stream.position == 6


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_dataset_is_told_the_epoch(num_workers):
    loader = loader_of(Stream(3), Deliveries(), num_workers, epoch=lambda: 2)
    assert values(loader) == [[200, 201, 202]]


def test_drop_last_leaves_a_short_batch_out():
    assert values(loader_of(Stream(7), Deliveries(), drop_last=True)) == [[0, 1, 2], [3, 4, 5]]


def test_the_length_is_known_only_if_the_dataset_knows_it():
    class Sized(Stream):
        def __len__(self):
            return self.size

    assert len(loader_of(Sized(), Deliveries())) == 4
    assert len(loader_of(Sized(), Deliveries(), drop_last=True)) == 3
    with pytest.raises(TypeError):
        len(loader_of(Stream(), Deliveries()))


def test_lightning_does_not_take_the_loader_for_a_stateful_one():
    assert not is_stateful(loader_of(Stream(), Deliveries()))


def test_deliveries_keep_the_start_and_the_latest():
    deliveries = Deliveries()
    assert deliveries.after(0) is None
    deliveries.seek(5, {"at": 5})
    assert deliveries.after(5) == {"at": 5}
    assert deliveries.begin() == {"at": 5}
    for number in range(6, 30):
        deliveries.add({"at": number})
    assert deliveries.after(29) == {"at": 29}
    with pytest.raises(RuntimeError, match="after batch 5 is not known"):
        deliveries.after(5)
    assert deliveries.begin() is None
