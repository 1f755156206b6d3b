"""Random numbers of samples: the same in any process, and independent of those of the training."""

import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, Subset

import cairn
from cairn.data.iterable import StatefulBatches
from cairn.data.sampler import EpochSampler
from cairn.data.seeding import SeededItems, mix_seed


class Draws(Dataset):
    """Dataset whose items draw from all three global generators."""

    name = "draws"

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()).item(), np.random.rand(), random.random()])


def epoch_of(num_workers, epoch=1, batch_size=4, start=0):
    sampler = EpochSampler(12, keyed=True)
    sampler.seek(epoch, start)
    items, own = SeededItems(Draws(), seed=5), torch.Generator().manual_seed(0)
    return torch.cat(list(DataLoader(items, batch_size, sampler=sampler, num_workers=num_workers, generator=own)))


def global_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def test_items_are_the_same_with_and_without_workers():
    assert torch.equal(epoch_of(0), epoch_of(2))


def test_items_do_not_depend_on_their_batch():
    assert torch.equal(epoch_of(0)[5:], epoch_of(0, batch_size=3, start=5))


def test_each_epoch_and_each_item_draws_its_own():
    assert not torch.equal(epoch_of(0, 1)[:, 1:], epoch_of(0, 2)[:, 1:])
    assert len(epoch_of(0)[:, 1:].unique()) == 36


def test_the_global_generators_are_restored():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = global_states()
    epoch_of(0)
    assert global_states() == before


def test_the_global_generators_are_restored_after_an_error():
    before = global_states()
    with pytest.raises(TypeError):
        SeededItems(None, 0).__getitems__([(0, 1)])
    assert global_states() == before


def test_a_plain_index_is_epoch_0():
    items = SeededItems(Draws(), 5)
    assert torch.equal(items[3], items[(0, 3)])


def test_attributes_of_the_dataset_are_available_after_pickling():
    items = pickle.loads(pickle.dumps(SeededItems(Draws(), 5)))
    assert (items.name, len(items)) == ("draws", 12)
    assert not hasattr(items, "nothing")


@pytest.mark.parametrize("wrap", [lambda data: SeededItems(data, 5), lambda data: StatefulBatches(data, 2)])
def test_an_attribute_that_is_set_on_the_dataset_of_a_loader_reaches_the_users_dataset(wrap):
    data = Draws()
    wrap(data).level = 2
    assert data.level == 2
    part = Subset(data, [0, 1])
    loaded = pickle.loads(pickle.dumps(wrap(part)))
    assert wrap(part).dataset is data
    loaded.dataset.level = 3
    assert loaded.wrapped.dataset.level == 3


def test_the_mixing_step_is_splitmix64():
    # The first output for the state 0 of the reference implementation in C.
    assert mix_seed(0) == 0xE220A8397B1DCDAF


@given(st.lists(st.integers(min_value=0, max_value=2**40), min_size=1, max_size=4))
def test_seeds_fit_into_64_bits(parts):
    assert 0 <= mix_seed(*parts) < 2**64


def test_neighbouring_keys_have_different_seeds():
    low = {mix_seed(s, e, i) & 0xFFFFFFFF for s in range(5) for e in range(5) for i in range(40)}
    assert len(low) == 1000


class OwnDraws(Dataset):
    """Dataset whose items draw from generators that it and its transform own; one is created late."""

    late = None

    def __init__(self):
        self.rng = np.random.default_rng(1)
        self.transform = [random.Random(2)]

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if self.late is None:
            self.late = torch.Generator()
        return torch.tensor(
            [index, self.rng.random(), self.transform[0].random(), torch.rand((), generator=self.late).item()]
        )


class Together(OwnDraws):
    """The same, for whole batches only."""

    def __getitem__(self, index):
        raise NotImplementedError

    def __getitems__(self, indices):
        return [super(Together, self).__getitem__(index) for index in indices]


def _batches(dataset, num_workers=0, epoch=1, start=0, **options):
    loader = cairn.DataLoader(dataset, 4, shuffle=True, num_workers=num_workers, **options)
    loader.load_state_dict({"epoch": epoch, "batch": start})
    return torch.stack(list(loader))


@pytest.mark.parametrize("kind", [OwnDraws, Together])
def test_generators_of_the_dataset_are_seeded_for_each_item(kind):
    whole = _batches(kind())
    assert torch.equal(whole, _batches(kind(), num_workers=2))
    assert torch.equal(whole[1:], _batches(kind(), start=1))
    part = _batches(Subset(kind(), range(12)))
    assert torch.equal(part[1:], _batches(Subset(kind(), range(12)), num_workers=2, start=1))
    assert not torch.equal(whole.sort(1)[0], _batches(kind(), epoch=2).sort(1)[0])
    assert len(whole[..., 1:].unique()) == 36


class Mixed:
    """Collate function that draws from a generator of its own and from a global one."""

    def __init__(self):
        self.rng = random.Random(1)

    def __call__(self, samples):
        return torch.stack(samples) * self.rng.random() + np.random.rand()


def test_a_collate_function_draws_the_same_in_a_worker_and_after_a_resume():
    whole = _batches(OwnDraws(), collate_fn=Mixed())
    assert torch.equal(whole, _batches(OwnDraws(), num_workers=2, collate_fn=Mixed()))
    assert torch.equal(whole[1:], _batches(OwnDraws(), start=1, collate_fn=Mixed()))
