"""An iterable that is divided into substreams: the same global batches on any number of processes and workers."""

import copy
import itertools
import random
from functools import partial

import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

from cairn.data import loader as loaders
from cairn.data import sampler
from cairn.data.loader import DataLoader

BATCH, NUM_FILES = 2, 24


class Files(IterableDataset):
    """Samples of some files, in order, with random numbers; a shard has every `num_shards`-th file."""

    def __init__(self, files):
        self.files, self.epoch, self.place, self.is_loaded = list(files), 0, (0, 0), False

    def shard(self, num_shards, index):
        part = copy.copy(self)
        part.files = self.files[index::num_shards]
        return part

    def set_epoch(self, epoch):
        self.epoch = epoch

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place, self.is_loaded = state["place"], True

    def __iter__(self):
        if not self.is_loaded:
            self.place = (0, 0)
        self.is_loaded = False
        while self.place[0] < len(self.files):
            file, number = self.place
            if number < len(self.files[file]):
                self.place = (file, number + 1)
                yield float(self.files[file][number] + 1000 * self.epoch), torch.rand(()).item(), random.random()
            else:
                self.place = (file + 1, 0)
        self.place = (0, 0)  # it rewinds at its end


class Streamed(IterableDataset):
    """As an iterable of Hugging Face: `num_shards`, contiguous shards, a state that is read when iteration begins, and
    a worker that would read only a part of it."""

    def __init__(self, files, epoch=0):
        self.files, self.epoch = list(files), epoch
        self._state, self._starting_state = None, None

    @property
    def num_shards(self):
        return len(self.files)

    def shard(self, num_shards, index, contiguous=True):
        quotient, rest = divmod(len(self.files), num_shards)
        start = quotient * index + min(index, rest)
        return Streamed(self.files[start : start + quotient + (index < rest)])

    def set_epoch(self, epoch):
        self.epoch = epoch

    def state_dict(self):
        return copy.deepcopy(self._state)

    def load_state_dict(self, state):
        self._starting_state = state

    def __iter__(self):
        info = get_worker_info()
        files = self.files if info is None else self.files[info.id :: info.num_workers]
        self._state = {"shard_idx": 0, "example_idx": 0, "epoch": self.epoch}
        if self._starting_state and self._starting_state["epoch"] == self.epoch:
            self._state = copy.deepcopy(self._starting_state)
        order = random.Random(self.epoch).sample(files, len(files))  # shuffled by files
        for number in range(self._state["shard_idx"], len(order)):
            for example in range(self._state["example_idx"], len(order[number])):
                self._state["example_idx"] = example + 1
                yield {"x": float(order[number][example]), "noise": random.random()}
            self._state["shard_idx"], self._state["example_idx"] = number + 1, 0


def files(sizes):
    numbers = itertools.count()
    return [[next(numbers) for _ in range(size)] for size in sizes]


EQUAL = files([4] * NUM_FILES)
UNEQUAL = files([4, 3, 7, 4, 5, 4, 9, 4] * 3)
DATA = {
    "own": partial(Files, EQUAL),
    "own, of unequal size": partial(Files, UNEQUAL),
    "Hugging Face": partial(Streamed, EQUAL),
    "Hugging Face, of unequal size": partial(Streamed, UNEQUAL),
}


@pytest.fixture
def processes(monkeypatch):
    """Sets (rank, number of processes)."""
    here = [0, 1]
    for module in (sampler, loaders):
        monkeypatch.setattr(module, "rank_and_world_size", lambda: tuple(here))
    return here.__setitem__


class Ranks:
    """The loaders of all processes, which train together."""

    def __init__(self, processes, number, dataset, state=None, num_workers=0, **options):
        self.processes, self.number = processes, number
        self.loaders = []
        for _ in self._ranks():
            self.loaders.append(loader := DataLoader(dataset(), BATCH, num_workers=num_workers, seed=7, **options))
            loader.is_dealt = True  # as in a fit
            if state is not None:
                loader.load_state_dict(copy.deepcopy(state))
        self.iterators = [iter(self.loaders[rank]) for rank in self._ranks()]

    def _ranks(self):
        for rank in range(self.number):
            self.processes(0, rank)
            self.processes(1, self.number)
            yield rank

    def window(self):
        """The batches of the next global batch, in their order; None if one of the processes has no complete one."""
        found = {}
        for rank in self._ranks():
            for place in range(self.loaders[rank]._position.division.per_window):
                found[place * self.number + rank] = next(self.iterators[rank], None)
        return None if None in found.values() else [plain(found[number]) for number in range(len(found))]

    def rest(self):
        return list(iter(self.window, None))

    def state(self, epoch_is_over=False):
        """What a resume reads: that of rank 0, with the substreams of all ranks."""
        found = []
        for rank in self._ranks():
            self.loaders[rank].at_boundary(0, epoch_is_over, self.iterators[rank])
            found.append(self.loaders[rank].state_dict())
        parts = [state.pop("substreams") for state in found]
        assert all(state == found[0] for state in found)
        return found[0] | {"substreams": {key: value for part in parts for key, value in part.items()}}


def plain(batch):
    if isinstance(batch, dict):
        return {key: value.tolist() for key, value in batch.items()}
    return [value.tolist() for value in batch]


def beginning(num_substreams, epoch=0):
    """The state at the beginning of a run that has so many substreams: it began with as many workers as follow."""
    return {"epoch": epoch, "cycle": 0, "batch": 0, "num_substreams": num_substreams, "substreams": {}}


def firsts(windows):
    """The first values of the samples in some global batches."""
    batches = [batch for window in windows for batch in window]
    return [value for batch in batches for value in (batch["x"] if isinstance(batch, dict) else batch[0])]


# Any number of processes and workers

LAYOUTS = list(itertools.product((1, 2, 3, 4), (1, 2)))
"""Number of processes before, and number of workers with which the run has begun."""


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("before", "workers"), LAYOUTS)
def test_after_each_global_batch_any_number_of_processes_goes_on_with_the_same_ones(processes, data, before, workers):
    number = 4 if before == 4 else 6  # batches in a global batch
    dataset, start, options = DATA[data], beginning(number * workers), {"global_batch_size": number * BATCH}
    whole = Ranks(processes, 1, dataset, start, **options).rest()
    assert len(whole) > 1
    assert len(set(firsts(whole))) == len(firsts(whole)), "no sample twice"
    ranks = Ranks(processes, before, dataset, start, **options)
    for done, expected in enumerate(whole):
        assert ranks.window() == expected
        state = ranks.state()
        assert state["batch"] == done + 1
        for now in (1, 2, 4) if before == 4 else (1, 2, 3):
            assert Ranks(processes, now, dataset, state, **options).rest() == whole[done + 1 :]
    assert ranks.window() is None
