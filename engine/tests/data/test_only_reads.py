"""Datasets that only read are not seeded, and nothing else is taken for one."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset

from cairn.data import only_reads, seeding
from cairn.data.seeding import SeededItems


class Pairs(Dataset):
    scale = 2.0

    def __init__(self, x=None, y=None):
        self.x, self.y = torch.arange(8.0) if x is None else x, np.arange(8.0) if y is None else y

    def __len__(self):
        return 8

    def __getitem__(self, index):
        x = self.x[index] * 2 + 1
        return {"x": x, "y": (self.y[index], -x)}


class Drawing(Pairs):
    def __getitem__(self, index):
        return self.x[index] + torch.rand(())


class Calling(Pairs):
    def __getitem__(self, index):
        return self.transform(self.x[index])


class OwnTensor(torch.Tensor):
    pass


class Sequence:
    def __getitem__(self, index):
        return torch.rand(())


class Inside(Pairs):
    def __getitem__(self, index):
        return self.x[index], [torch.rand(()) for _ in range(2)]


class Property(Pairs):
    @property
    def z(self):
        return torch.rand(8)

    def __getitem__(self, index):
        return self.z[index]


class Itself(Pairs):
    def __getitem__(self, index):
        return self + index

    def __add__(self, index):
        return torch.rand(())


class Hidden(Pairs):
    def __getattribute__(self, name):
        return torch.rand(8) if name == "x" else super().__getattribute__(name)


class Slots:
    __slots__ = ("x",)

    def __init__(self):
        self.x = torch.arange(8.0)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.x[index]


class Batched(Pairs):
    def __getitems__(self, indices):
        return [torch.rand(()) for _ in indices]


READS = {
    "tensors": TensorDataset(torch.arange(8.0)),
    "attributes": Pairs(),
    "a subset": Subset(Pairs(), [3, 1, 2, 5, 6, 7, 0, 4]),
    "a concatenation": ConcatDataset([Pairs(), Subset(TensorDataset(torch.arange(8.0)), range(8))]),
}
DRAWS = {
    "a draw": Drawing(),
    "a call": Calling(),
    "a tensor with code": Pairs(x=torch.arange(8.0).as_subclass(OwnTensor)),
    "a sequence with code": Pairs(x=Sequence()),
    "an array of objects": Pairs(y=np.array([Sequence()] * 8, dtype=object)),
    "an array with objects in a field": Pairs(y=np.array([(Sequence(),)] * 8, dtype=[("a", object)])),
    "an object without a dictionary": Slots(),
    "a comprehension": Inside(),
    "a property": Property(),
    "the dataset as an operand": Itself(),
    "an attribute that is computed": Hidden(),
    "batches": Batched(),
    "a draw in a subset": Subset(Drawing(), range(8)),
    "a draw in one of two": ConcatDataset([Pairs(), Drawing()]),
    "another class of torch": StackDataset(TensorDataset(torch.arange(8.0))),
    "tensors with code": TensorDataset(torch.arange(8.0).as_subclass(OwnTensor)),
}


@pytest.fixture
def num_seeded(monkeypatch):
    """Number of calls that seed the global generators."""
    calls, seed = [], seeding.seed_global_generators
    monkeypatch.setattr(seeding, "seed_global_generators", lambda number: (calls.append(number), seed(number))[1])
    return calls


@pytest.mark.parametrize("dataset", READS.values(), ids=READS)
def test_items_that_are_only_read_are_not_seeded(dataset, num_seeded):
    items = SeededItems(dataset, 0)
    before = seeding.global_states()[0]
    found = items.__getitems__([(0, index) for index in range(8)])
    assert str(found) == str([dataset[index] for index in range(8)])
    assert num_seeded == []
    assert torch.equal(seeding.global_states()[0], before)


@pytest.mark.parametrize("dataset", DRAWS.values(), ids=DRAWS)
def test_anything_else_may_draw(dataset):
    assert only_reads.find(dataset) is None


def test_a_dataset_that_is_changed_inside_of_an_epoch_is_seeded_from_then_on(num_seeded):
    dataset = Pairs()
    items = SeededItems(dataset, 0)
    items.__getitems__([(0, 1), (0, 2)])
    assert num_seeded == []
    dataset.x = Sequence()
    first = items.__getitems__([(0, 1), (0, 2)])
    assert len(num_seeded) >= 2
    assert str(items.__getitems__([(0, 1), (0, 2)])) == str(first)
    dataset.x = torch.arange(8.0)
    dataset.__class__ = Drawing
    assert items.__getitems__([(0, 1)]) == items.__getitems__([(0, 1)])


def test_a_method_that_is_replaced_is_seeded_from_then_on(num_seeded, monkeypatch):
    items = SeededItems(Pairs(), 0)
    items.__getitems__([(0, 1)])
    assert num_seeded == []
    monkeypatch.setattr(Pairs, "__getitem__", Drawing.__getitem__)
    assert items.__getitems__([(0, 1)]) == items.__getitems__([(0, 1)])


def test_an_index_with_code_of_its_own_is_seeded(num_seeded):
    items = SeededItems(Pairs(), 0)
    items.__getitems__([(0, torch.tensor(1))])
    assert num_seeded


def test_the_seed_of_a_batch_is_the_same_for_its_collate_function(num_seeded):
    seeds = []
    for dataset in (Pairs(), Drawing()):
        items = SeededItems(dataset, 3)
        items.__getitems__([(1, 4), (1, 2)])
        seeds.append(items.last_seed)
    assert seeds[0] == seeds[1] != 0


def test_a_copy_in_a_worker_finds_out_again():
    items = SeededItems(Pairs(), 0)
    items.__getitems__([(0, 1)])
    other = pickle.loads(pickle.dumps(items))
    assert str(other.__getitems__([(0, 1)])) == str(items.__getitems__([(0, 1)]))


def test_a_method_that_a_derived_class_gets_is_seeded_from_then_on(num_seeded):
    class Derived(Pairs):
        pass

    items = SeededItems(Derived(), 0)
    items.__getitems__([(0, 1)])
    assert num_seeded == []
    Derived.__getitem__ = Drawing.__getitem__
    assert items.__getitems__([(0, 1)]) == items.__getitems__([(0, 1)])


class Moved(Dataset):
    """Changes the tensor that it is asked with."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return int(index.add_(1))


def test_the_seed_for_the_collate_function_is_that_of_the_keys_before_they_are_read():
    items, same = SeededItems(Moved(), 3), SeededItems(Drawing(), 3)
    items.__getitems__([(1, torch.tensor(4)), (1, torch.tensor(2))])
    same.__getitems__([(1, 4), (1, 2)])
    assert items.last_seed == same.last_seed
