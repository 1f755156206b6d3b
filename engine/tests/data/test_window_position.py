"""A loader with global batches: the same ones, whatever number of processes loads them, and loaded them before."""

import pytest
import torch
from torch.utils.data import Dataset, DistributedSampler, IterableDataset, SequentialSampler, WeightedRandomSampler

from cairn.data import sampler
from cairn.data.datamodule import DataModule
from cairn.data.loader import DataLoader
from cairn.data.position import BetweenEpochs
from cairn.errors import DataError

SIZE, NUM_SAMPLES = 12, 41  # three complete windows, then one of 5: the last two have 9 and 8


class Noisy(Dataset):
    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        return torch.tensor([float(index), torch.rand(()).item()])


class Remembering(SequentialSampler):
    """Its order depends on how often it was iterated; it has a state."""

    times = 0

    def __iter__(self):
        self.times += 1
        return iter([(index * 5 + self.times) % NUM_SAMPLES for index in range(NUM_SAMPLES)])

    def state_dict(self):
        return {"times": self.times}

    def load_state_dict(self, state):
        self.times = state["times"]


class Longer(SequentialSampler):
    def __len__(self):
        return NUM_SAMPLES + 1


SAMPLERS = {
    "shuffled": lambda: {"shuffle": True},
    "in order": dict,
    "weighted": lambda: {"sampler": WeightedRandomSampler(torch.ones(NUM_SAMPLES), NUM_SAMPLES)},
    "with a state": lambda: {"sampler": Remembering(range(NUM_SAMPLES))},
}


@pytest.fixture
def processes(monkeypatch):
    """Sets (rank, number of processes)."""
    here = [0, 1]
    monkeypatch.setattr(sampler, "rank_and_world_size", lambda: tuple(here))
    return here.__setitem__


class Ranks:
    """The loaders of all processes, which train together."""

    def __init__(self, processes, number, state=None, options=dict):
        self.processes, self.number = processes, number
        self.loaders = []
        for _ in self._ranks():
            self.loaders.append(loader := DataLoader(Noisy(), **{"global_batch_size": SIZE, "seed": 7, **options()}))
            loader.is_dealt = True  # as in a fit
            if state is not None:
                loader.load_state_dict(state)
        self.iterators = [iter(self.loaders[rank]) for rank in self._ranks()]

    def _ranks(self):
        for rank in range(self.number):
            self.processes(0, rank)
            self.processes(1, self.number)
            yield rank

    def window(self):
        """The samples of the next global batch, in their order; None at the end."""
        found = []
        for rank in self._ranks():
            count = self.loaders[rank].global_batches.per_window
            found += [batch for batch in (next(self.iterators[rank], None) for _ in range(count)) if batch is not None]
        return sorted(torch.cat(found).tolist()) if found else None

    def rest(self):
        return list(iter(self.window, None))

    def states(self):
        found = []
        for rank in self._ranks():
            self.loaders[rank].at_boundary(0, False, self.iterators[rank])
            found.append(self.loaders[rank].state_dict())
        return found


def options(kind, batch_size=3, **more):
    return lambda: {"batch_size": batch_size, **SAMPLERS[kind](), **more}


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("before", [1, 2, 3, 4])
def test_after_each_window_any_number_of_processes_goes_on_with_the_same_windows(processes, kind, before):
    expected = Ranks(processes, 1, options=options(kind))
    whole = expected.rest()
    assert [len(window) for window in whole] == [12, 12, 9, 8]
    assert kind == "weighted" or {index for window in whole for index, _ in window} == {*range(NUM_SAMPLES)}
    ranks = Ranks(processes, before, options=options(kind))
    for done in range(1, len(whole)):
        assert ranks.window() == whole[done - 1]
        (state,) = {str(state): state for state in ranks.states()}.values()
        assert state["batch"] == done
        for now, batch_size in ((1, 3), (2, 3), (3, 2), (4, 3), (6, 2), (2, 6)):
            later = Ranks(processes, now, state, options=options(kind, batch_size))
            assert later.rest() == whole[done:]


def test_workers_load_the_same_windows(processes):
    whole = Ranks(processes, 1, options=options("shuffled")).rest()
    assert Ranks(processes, 2, options=options("shuffled", num_workers=2)).rest() == whole


def test_processes_with_workers_take_over_from_one_another(processes):
    """Each after one global batch, although the workers of the one before have loaded more than that."""
    whole = Ranks(processes, 1, options=options("shuffled")).rest()
    found, state = [], None
    for number, num_workers in ((2, 1), (1, 2), (3, 0)):
        ranks = Ranks(processes, number, state, options("shuffled", num_workers=num_workers))
        found.append(ranks.window())
        state = ranks.states()[0]
    assert found + ranks.rest() == whole


def test_another_order_in_each_epoch(processes):
    loader = DataLoader(Noisy(), 3, shuffle=True, global_batch_size=SIZE)
    assert loader.global_batches.per_window == 4
    first = torch.cat(list(loader))[:, 0].tolist()
    loader.set_epoch(1)
    second = torch.cat(list(loader))[:, 0].tolist()
    assert first != second
    assert sorted(first) == sorted(second) == list(range(NUM_SAMPLES))


def test_an_incomplete_last_window_can_be_dropped(processes):
    ranks = Ranks(processes, 2, options=lambda: {"batch_size": 3, "drop_last": True})
    assert [len(window) for window in ranks.rest()] == [12, 12, 12]
    assert len(ranks.loaders[0]) == 6


def test_a_training_that_does_not_accumulate_is_warned(processes):
    with pytest.warns(
        UserWarning, match=r"global batch of 12 samples is 4 batches of 3, and nothing accumulates .* 4 batches"
    ):
        next(iter(DataLoader(Noisy(), 3, global_batch_size=SIZE)))
    next(iter(DataLoader(Noisy(), 12, global_batch_size=SIZE)))  # one batch: nothing to accumulate
    with torch.no_grad():
        next(iter(DataLoader(Noisy(), 3, global_batch_size=SIZE)))


def test_a_mean_over_processes_with_different_numbers_of_samples_is_warned(processes, recwarn):
    processes(1, 2)
    with torch.no_grad():
        list(DataLoader(range(12), 6, global_batch_size=SIZE))
        assert not recwarn
        with pytest.warns(UserWarning, match=r"different numbers of samples, which Lightning rounds .*Checkpointer"):
            next(iter(DataLoader(range(13), 6, global_batch_size=SIZE)))


def test_samples_stay_in_order_on_one_process():
    with torch.no_grad():
        found = torch.cat(list(DataLoader(torch.arange(41), 5, global_batch_size=SIZE)))
    assert found.tolist() == list(range(41)), "a test may collect what it computes for them"


def test_a_sampler_that_yields_another_number_than_its_length_is_refused():
    loader = DataLoader(Noisy(), 12, sampler=Longer(range(NUM_SAMPLES)), global_batch_size=SIZE)
    with pytest.raises(DataError, match=r"Longer yields 41 samples, and its length is 42: .* global batches"):
        list(loader)


def test_counters_of_lightning_that_mean_something_else_are_warned(processes):
    state = {**DataLoader(Noisy(), 3, global_batch_size=SIZE).state_dict(), "batch": 1}
    with pytest.warns(UserWarning, match=r"counts 4 batches of each process .* this run has 1: go on with the same"):
        DataLoader(Noisy(), 12, global_batch_size=SIZE).load_state_dict(state)


# A checkpoint without global batches

OLD = {"epoch": 0, "cycle": 0, "batch_size": 3, "world_size": 2, "seed": 7, "num_samples": NUM_SAMPLES}


def test_a_position_in_batches_of_each_process_becomes_one_in_global_batches(processes):
    whole = Ranks(processes, 1, options=lambda: {"batch_size": 3, "global_batch_size": 6}).rest()
    state = {**OLD, "batch": 4, "order": "sequential"}
    for number in (1, 2, 3):
        ranks = Ranks(processes, number, state, options=lambda: {"batch_size": 3, "global_batch_size": 6})
        assert ranks.rest() == whole[4:]


def test_a_position_inside_of_a_global_batch_is_refused(processes):
    loader = DataLoader(Noisy(), 3, seed=7, global_batch_size=SIZE)
    with pytest.raises(DataError, match=r"a batch of all processes had 6 samples, and global_batch_size is 12"):
        loader.load_state_dict({**OLD, "batch": 3, "order": "sequential"})


@pytest.mark.parametrize(("size", "text"), [(24, "was 12 and is 24"), (None, "was 12 and is not set")])
def test_another_global_batch_size_is_refused_inside_an_epoch(processes, size, text):
    ranks = Ranks(processes, 1, options=options("shuffled"))
    ranks.window()
    (state,) = ranks.states()
    loader = DataLoader(Noisy(), 3, seed=7, shuffle=True, global_batch_size=size)
    loader.is_dealt = True
    with pytest.raises(DataError, match=f"global_batch_size {text}"):
        loader.load_state_dict(state)
    with pytest.warns(UserWarning, match=f"begins with other data than before: global_batch_size {text}"):
        loader.load_state_dict(BetweenEpochs(state))


# What cannot be divided


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(4))


class Endless:
    def __iter__(self):
        return iter(int, 1)


class Own(DataLoader):
    def __iter__(self):
        return super().__iter__()


REFUSED = {
    "is not a number": (lambda: DataLoader(Noisy(), 3, global_batch_size="12"), "must be an integer from 1"),
    "is zero": (lambda: DataLoader(Noisy(), 3, global_batch_size=0), "must be an integer from 1"),
    "iterable": (lambda: DataLoader(Stream(), 3, global_batch_size=12), "map-style"),
    "no batch size": (lambda: DataLoader(Noisy(), None, global_batch_size=12), "needs a batch_size"),
    "batch sampler": (lambda: DataLoader(Noisy(), batch_sampler=[[1]], global_batch_size=12), "give a sampler"),
    "own iteration": (lambda: Own(Noisy(), 3, global_batch_size=12), r"Own\.__iter__ may yield others"),
    "divides itself": (
        lambda: DataLoader(Noisy(), 3, sampler=DistributedSampler(Noisy(), 2, 0), global_batch_size=12),
        "DistributedSampler divides its samples",
    ),
    "no length": (lambda: DataLoader(Noisy(), 3, sampler=Endless(), global_batch_size=12), "has no length"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_divided_is_refused_with_a_solution(case):
    make, text = REFUSED[case]
    with pytest.raises(DataError, match=text):
        make()


def test_the_number_of_processes_must_divide_a_global_batch(processes):
    processes(1, 5)
    loader = DataLoader(Noisy(), 3, global_batch_size=12)
    with pytest.raises(DataError, match="5 processes cannot share a global batch of 12"):
        len(loader)


# A datamodule


class Data(DataModule):
    def setup(self, stage=None):
        self.train_set = self.val_set = self.test_set = Noisy()


def test_each_loader_of_a_datamodule_has_global_batches(processes):
    data = Data(4, global_batch_size=SIZE)
    data.setup()
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    assert [loader.global_batch_size for loader in loaders] == [SIZE] * 3
    found = []
    processes(1, 2)
    assert str(loaders[1].global_batches) == "2 processes x 2 batches of 3"
    for rank in (0, 1):
        processes(0, rank)
        found += torch.cat(list(loaders[1]))[:, 0].tolist()
    assert sorted(found) == list(range(NUM_SAMPLES)), "no sample twice, although 2 processes cannot share 41 equally"


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        ({"global_batch_size": 12}, {"global_batch_size": 24}, "global_batch_size was 12 and is 24"),
        ({"global_batch_size": 12}, {"global_batch_size": 12, "seed": 3}, "seed was 0 and is 3"),
        ({}, {"global_batch_size": 12, "seed": 3}, "seed was 0 and is 3"),
    ],
)
def test_other_data_is_refused(before, now, text):
    state = Data(3, **before).state_dict()
    with pytest.raises(DataError, match=text):
        Data(3, **now).load_state_dict(state)


@pytest.mark.parametrize("now", [{"batch_size": 6, "global_batch_size": 12}, {"batch_size": 3}])
def test_the_size_of_a_batch_may_change_where_the_loaders_compare(now):
    Data(**now).load_state_dict(
        Data(3, **({"global_batch_size": 12} if "global_batch_size" in now else {})).state_dict()
    )
