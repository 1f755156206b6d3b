"""An iterable that is divided into substreams: the same global batches on any number of processes and workers."""

import copy
import itertools
import logging
import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

from cairn.data import loader as loaders
from cairn.data import sampler
from cairn.data.datamodule import DataModule
from cairn.data.loader import DataLoader
from cairn.data.position import BetweenEpochs
from cairn.data.substreams import Division
from cairn.errors import DataError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # more workers than cores
    pytest.mark.filterwarnings("ignore:Each global batch of .* nothing accumulates:UserWarning"),
]
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
    """The state at the beginning of a run with this number of substreams, which says with how many workers it began."""
    return {"epoch": epoch, "cycle": 0, "batch": 0, "num_substreams": num_substreams, "substreams": {}}


def firsts(windows):
    """The first values of the samples in some global batches."""
    batches = [batch for window in windows for batch in window]
    return [value for batch in batches for value in (batch["x"] if isinstance(batch, dict) else batch[0])]


# Any number of processes and workers

LAYOUTS = list(itertools.product((1, 2, 3, 4), (1, 2, 3)))
"""Number of processes before, and number of workers with which the run has begun."""


@pytest.mark.parametrize("data", ["own, of unequal size", "Hugging Face, of unequal size"])
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


# Workers


@pytest.mark.parametrize(
    ("data", "processes_and_workers"),
    [("own, of unequal size", [(1, 2), (2, 3), (1, 1)]), ("Hugging Face, of unequal size", [(3, 2), (2, 1), (1, 3)])],
)
def test_real_workers_read_the_same_substreams(processes, data, processes_and_workers):
    """Each takes over from the one before, after one global batch; the run has begun with 3 workers."""
    dataset, options, start = DATA[data], {"global_batch_size": 6 * BATCH}, beginning(6 * 3)
    whole, done, state = Ranks(processes, 1, dataset, start, **options).rest(), [], start
    for number, num_workers in processes_and_workers:
        ranks = Ranks(processes, number, dataset, state, num_workers, **options)
        done.append(ranks.window())
        state = ranks.state()
    assert done + ranks.rest() == whole


def test_a_run_begins_with_a_substream_for_each_worker_and_batch_of_a_global_one(processes):
    ranks = Ranks(processes, 1, DATA["own"], num_workers=2, global_batch_size=3 * BATCH)
    assert ranks.state() == {
        **{"epoch": 0, "cycle": 0, "batch": 0, "num_substreams": 6, "substreams": {}},
        **{"batch_size": BATCH, "global_batch_size": 3 * BATCH, "seed": 7},
    }
    assert Ranks(processes, 1, DATA["own"], beginning(6), global_batch_size=3 * BATCH).rest() == ranks.rest()


def test_several_workers_in_one_process_need_no_global_batches(processes):
    ranks = Ranks(processes, 1, DATA["own"], num_workers=2)
    first, state, rest = ranks.window(), ranks.state(), ranks.rest()
    assert Ranks(processes, 1, DATA["own"], state).rest() == rest
    assert sorted(firsts([first, *rest])) == [float(number) for number in range(4 * NUM_FILES)]


def test_without_global_batches_a_run_can_get_them(processes):
    """Each of two processes had batches of its own, as in the global batches that they become."""
    ranks = Ranks(processes, 2, DATA["own"])
    ranks.window()
    state, rest = ranks.state(), ranks.rest()
    assert "world_size" in state
    assert Ranks(processes, 1, DATA["own"], state, global_batch_size=2 * BATCH).rest() == rest
    with pytest.raises(DataError, match="world_size was 2 and is 1"):
        Ranks(processes, 1, DATA["own"], state)


class OneStream(Files):
    shard = None


@pytest.mark.parametrize("num_workers", [0, 1])
def test_one_worker_in_one_process_reads_one_stream_as_before(num_workers):
    with_parts, without = (DataLoader(kind(UNEQUAL[:3]), BATCH, num_workers=num_workers) for kind in (Files, OneStream))
    for one, other in zip(with_parts, without, strict=True):
        assert plain(one) == plain(other)
        assert with_parts.state_dict() == without.state_dict()
    assert "num_substreams" not in with_parts.state_dict()


# Epochs and random numbers


@pytest.mark.parametrize("data", DATA)
def test_a_later_epoch(processes, data):
    options = {"global_batch_size": 2 * BATCH}
    ranks = Ranks(processes, 1, DATA[data], beginning(4), **options)
    first = ranks.rest()
    state = ranks.state(epoch_is_over=True)
    assert state | beginning(4, epoch=1) == state, "nothing of the last epoch is left"
    second = Ranks(processes, 2, DATA[data], state, **options)
    assert second.window() not in first
    middle, rest = second.state(), second.rest()
    assert len(rest) == len(first) - 1
    assert Ranks(processes, 1, DATA[data], middle, **options).rest() == rest
    ranks.loaders[0].set_epoch(1)
    assert [plain(batch) for batch in ranks.loaders[0]][2:] == [batch for window in rest for batch in window]


def test_each_substream_draws_numbers_of_its_own(processes):
    whole = Ranks(processes, 1, DATA["own"], beginning(4), global_batch_size=2 * BATCH).rest()
    drawn = [number for window in whole for _, *noise in window for part in noise for number in part]
    assert len({*drawn}) == len(drawn)


def test_what_is_left_at_the_end_is_logged_once(processes, caplog):
    ranks = Ranks(processes, 1, DATA["own, of unequal size"], beginning(8), global_batch_size=8 * BATCH)
    with caplog.at_level(logging.INFO):
        number = len(ranks.rest())
        list(ranks.loaders[0])
    (text,) = [record.message for record in caplog.records]
    assert f"ends after {number} global batches, because one of the 8 substreams of Files has no complete" in text
    assert "At least 3 samples are left out" in text


def test_a_validation_reads_one_stream(processes):
    processes(1, 2)
    loader = DataLoader(DATA["own"](), BATCH, global_batch_size=4 * BATCH)
    with torch.no_grad():
        assert firsts([[plain(batch) for batch in loader]]) == [float(number) for number in range(4 * NUM_FILES)]


# What is refused


def position(num_substreams=None, num_workers=0, **options):
    loader = DataLoader(DATA["own"](), BATCH, num_workers=num_workers, **options)
    if num_substreams is not None:
        loader.load_state_dict(beginning(num_substreams))
    return loader


class Same(Files):
    def shard(self, num_shards, index):
        return self


class Stateless(Files):
    def shard(self, num_shards, index):
        return self.files[index::num_shards]


class Whole(IterableDataset):
    """It cannot be divided."""

    state_dict = load_state_dict = __iter__ = lambda self, *_: None


REFUSED = {
    "not a multiple": (lambda: position(global_batch_size=5), "global_batch_size=5 must be a multiple of batch_size=2"),
    "no shard": (
        lambda: DataLoader(Whole(), 2, global_batch_size=4),
        r"Whole has no shard\(\): give it shard\(num_sha",
    ),
    "batches as items": (lambda: DataLoader(Files(EQUAL), None, global_batch_size=4), "needs a batch_size"),
    "replay": (lambda: position(global_batch_size=4, replay=True), "leave one out"),
    "no such number": (lambda: position(global_batch_size="4"), "must be an integer from 1"),
    "processes": (
        lambda: iter(position(global_batch_size=8)),
        "3 processes cannot share a global batch of 4 batches equally: use one of 1, 2, 4 processes",
    ),
    "workers": (
        lambda: position(18, num_workers=4, global_batch_size=18),
        r"num_workers=4 cannot share the 6 substreams that this process reads \(of 18, .* use one of 0, 1, 2, 3, 6 wo",
    ),
    "too few files": (
        lambda: iter(DataLoader(Streamed(EQUAL), 2, num_workers=3, global_batch_size=18)),
        r"Streamed has 24 shards, .* 27 substreams, .* \(batches .*: 9 x 3\): use fewer workers, a larger batch_size",
    ),
    "one object": (lambda: iter(DataLoader(Same(EQUAL), 2, global_batch_size=6)), "returns the same object again"),
    "a part without a state": (
        lambda: iter(DataLoader(Stateless(EQUAL), 2, global_batch_size=6)),
        r"Stateless\.shard\(.*\) returns a list without state_dict\(\)",
    ),
    "an iterable without parts": (
        lambda: DataLoader(Whole(), 2, num_workers=2).check_resumable(),
        r"2 workers in 1, .*: give it shard\(num_shards, index\), which returns a part of it, or set replay=True",
    ),
    "a state of one stream": (
        lambda: position(global_batch_size=6).load_state_dict({"epoch": 0, "batch": 2, "dataset": 1}),
        "it was read by at most one worker in one process",
    ),
    "lost substreams": (
        lambda: position(global_batch_size=6).load_state_dict({**beginning(3), "batch": 1, "substreams": {0: 1, 2: 1}}),
        "the positions of substreams 1 were not saved",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exact_is_refused_with_a_solution(processes, case):
    make, text = REFUSED[case]
    processes(1, 3 if case in ("processes", "workers") else 1)
    with pytest.raises(DataError, match=text):
        make()


def test_an_iterable_that_is_divided_among_the_processes_already_is_refused():
    dataset = Streamed(EQUAL)
    dataset._distributed = SimpleNamespace(rank=0, world_size=2)
    with pytest.raises(DataError, match=r"Streamed is divided .* \(split_dataset_by_node\)"):
        iter(DataLoader(dataset, 2, global_batch_size=6))


class Sharing(Files):
    """Its parts share the object that knows how far they are."""

    def __init__(self, files):
        super().__init__(files)
        self.at = [0]

    def state_dict(self):
        return {"at": self.at[0]}

    def load_state_dict(self, state):
        self.at[0] = state["at"]

    def __iter__(self):
        for file in self.files:
            for number in file:
                self.at[0] += 1
                if number >= self.at[0]:
                    yield number


def test_parts_that_share_a_state_are_named():
    loader = DataLoader(Sharing(EQUAL), 2, global_batch_size=6)
    with pytest.warns(UserWarning, match="Sharing that is loaded with the state after .* yields other samples"):
        loader.check_resumable()


def test_parts_with_states_of_their_own_are_not_named(recwarn):
    DataLoader(Files(EQUAL), 2, global_batch_size=6).check_resumable()
    assert not recwarn.list


# Kinds of iterables


def test_webdataset_is_refused_by_name_with_a_solution():
    kind = type(
        "WebDataset", (IterableDataset,), {"__module__": "webdataset.compat", "__iter__": lambda self: iter(())}
    )
    with pytest.raises(DataError, match=r"iterable WebDataset cannot be saved.*Hugging Face datasets.*litdata.*replay"):
        DataLoader(kind(), 2).check_resumable()


class Loader:
    """As a loader of torchdata.nodes: not an IterableDataset, and a resume at its end begins again."""

    def __init__(self, restart_on_stop_iteration=True):
        self.restart_on_stop_iteration, self._next, self.done = restart_on_stop_iteration, None, 0

    def __iter__(self):
        self.done, self._next = self._next or 0, None
        if self.restart_on_stop_iteration and self.done == 8:
            self.done = 0
        while self.done < 8:
            self.done += 1
            yield self.done

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self._next = state["done"]


Loader.__module__ = "torchdata.nodes.loader"


def test_a_loader_of_nodes_is_exact_in_one_process():
    loader, full = DataLoader(Loader(), 2), [[1, 2], [3, 4], [5, 6], [7, 8]]
    for done, batch in enumerate(loader, start=1):
        assert batch.tolist() == full[done - 1]
        (later := DataLoader(Loader(), 2)).load_state_dict(loader.state_dict())
        assert [batch.tolist() for batch in later] == full[done:]
    assert [batch.tolist() for batch in loader] == full


def test_nodes_have_no_parts():
    with pytest.raises(DataError, match=r"iterable Loader .* 2 workers in 1, each .* own: set replay=True"):
        DataLoader(Loader(), 2, num_workers=2).check_resumable()
    node = type("Batcher", (), {"__module__": "torchdata.nodes.batch", "__iter__": iter, "state_dict": dict})
    with pytest.raises(DataError, match=r"Batcher cannot be saved.*wrap it in torchdata\.nodes\.Loader"):
        DataLoader(node(), 2)


# The real ones


def test_an_iterable_of_hugging_face(processes):
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"x": [float(number) for number in range(96)]})

    def dataset():
        return whole.to_iterable_dataset(num_shards=24)

    options = {"global_batch_size": 6 * BATCH}
    expected = Ranks(processes, 1, dataset, beginning(12), **options).rest()
    ranks = Ranks(processes, 2, dataset, beginning(12), **options)
    assert ranks.window() == expected[0]
    assert Ranks(processes, 3, dataset, ranks.state(), **options).rest() == expected[1:]


def test_a_loader_of_torchdata():
    nodes = pytest.importorskip("torchdata.nodes")

    def loader():
        return DataLoader(nodes.Loader(nodes.IterableWrapper(range(8))), 2)

    batches = iter(first := loader())
    next(batches)
    (later := loader()).load_state_dict(first.state_dict())
    assert [batch.tolist() for batch in later] == [[2, 3], [4, 5], [6, 7]]


# A datamodule


class Data(DataModule):
    def setup(self, stage=None):
        self.train_set, self.val_set = DATA["own"](), DATA["own"]()


def test_the_training_loader_of_a_datamodule_is_divided(processes):
    data = Data(BATCH, global_batch_size=4 * BATCH)
    data.setup()
    processes(1, 2)
    assert str(data.train_dataloader().global_batches) == "2 processes x 2 batches of 2"
    assert data.val_dataloader().global_batches is None


def test_a_new_run_between_two_epochs_follows_its_own_workers():
    state = BetweenEpochs(beginning(18) | {"seed": 0})
    state.goes_on = False
    loader = DataLoader(DATA["own"](), BATCH, num_workers=2, global_batch_size=3 * BATCH)
    loader.load_state_dict(state)
    assert loader._position.division == Division(3, 6, 0, 1)
