"""Loaders, samplers and datasets of many kinds: a run that is stopped after any batch and resumed is exact."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from tests.support.every_stop import inexact_stops, train
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Sampler, Subset, WeightedRandomSampler

import cairn


class Noisy(Dataset):
    """Sample i is i plus noise from a generator of its own and from a global one."""

    def __init__(self, size=10, rng=None):
        self.size, self.rng = size, rng or random.Random(1)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor(float(index) + self.rng.random()) + torch.rand(())


class Stream(IterableDataset):
    """The numbers 0, 1, ... of each epoch with noise from a global generator, and with a state."""

    def __init__(self, size):
        self.size, self.epoch, self.position, self.is_loaded = size, 0, 0, False

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
            yield self.epoch * 100 + self.position + np.random.rand()


class Buckets(Sampler):
    """Batches of samples of similar length, from generators of its own and a global one."""

    def __init__(self):
        self.lengths, self.rng, self.order = np.arange(10.0), np.random.default_rng(0), random.Random(0)

    def __len__(self):
        return 4

    def __iter__(self):
        indices = np.argsort(self.lengths + 3 * self.rng.random(10))
        batches = [indices[first : first + 3] for first in range(0, 10, 3)]
        self.order.shuffle(batches)
        np.random.shuffle(batches[0])
        return iter(batches)


class Curriculum(Sampler):
    """Its stage is moved by the training, and is its state."""

    stage = 0

    def __len__(self):
        return 10

    def __iter__(self):
        return iter([(index * 3 + self.stage) % 10 for index in range(10)])

    def state_dict(self):
        return {"stage": self.stage}

    def load_state_dict(self, state):
        self.stage = state["stage"]


class Indices(Sampler):
    """Its order is a function of an epoch that a hook sets."""

    epoch = 0

    def __len__(self):
        return 10

    def __iter__(self):
        return iter([(index * 3 + self.epoch) % 10 for index in range(10)])


class Harder(Callback):
    def __init__(self, sampler):
        self.sampler = sampler

    def on_train_batch_end(self, *args):
        self.sampler.stage += 1


class Replay(Dataset):
    """Samples that training adds to."""

    def __init__(self):
        self.items = list(range(10))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return float(self.items[index])


class Collect(Callback):
    """Adds a sample after each batch, and saves all."""

    def __init__(self, replay):
        self.replay = replay

    def on_train_batch_end(self, trainer, *args):
        self.replay.items.append(100 + trainer.global_step)

    def state_dict(self):
        return {"items": self.replay.items}

    def load_state_dict(self, state):
        self.replay.items = list(state["items"])


class Statistics(Callback):
    """Reads the training data in a hook."""

    def __init__(self, hook, loader):
        self.loader, self.sizes = loader, []
        setattr(self, hook, self.read)

    def read(self, *args):
        self.sizes.append(sum(len(batch) for batch in self.loader))


class Doubled(cairn.DataLoader):
    """Draws for each of its batches, from a global generator and one of its own."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.rng = random.Random(1)

    def __iter__(self):
        return (2 * batch + torch.rand(()) + self.rng.random() for batch in super().__iter__())


class Ahead(cairn.DataLoader):
    """Reads one batch ahead."""

    def __iter__(self):
        batches = super().__iter__()
        ahead = next(batches)
        for batch in batches:
            yield ahead
            ahead = batch
        yield ahead


class Skips(Doubled):
    """Leaves out batches, some of them by chance."""

    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            if number % 3 != 2 and random.random() < 0.9:
                yield batch

    def __len__(self):
        raise TypeError


class Epochs(Noisy):
    """Its samples depend on an epoch that a hook sets, and on noise."""

    epoch = 0

    def __getitem__(self, index):
        return super().__getitem__(index) * (1 + self.epoch)


class EpochStream(Stream):
    """Reads the epoch that a hook sets when a sample is drawn."""

    hooked = 0

    def __iter__(self):
        return (sample * (1 + self.hooked) for sample in super().__iter__())


class SetsEpoch(Callback):
    """Sets an attribute of the data in a hook at the start of each epoch."""

    def __init__(self, data, name="epoch"):
        self.data, self.name = data, name

    def on_train_epoch_start(self, trainer, module):
        setattr(self.data, self.name, trainer.current_epoch)


class Scaled(Callback):
    """Changes each batch by a mean over the noisy training data, which it takes in a hook."""

    def __init__(self, hook):
        self.hook = hook
        setattr(self, hook, self.read)

    def read(self, trainer, module):
        self.mean = torch.cat(list(trainer.train_dataloader)).mean()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        batch.mul_(self.mean)


class Requested(LightningDataModule):
    """Its training loader depends on the epoch in which it is requested, and on a draw."""

    def train_dataloader(self):
        kept = torch.randperm(12)[: 4 + 3 * self.trainer.current_epoch + self.trainer.global_step % 2]
        return cairn.DataLoader(Subset(Noisy(12), kept.tolist()), 2 + self.trainer.current_epoch, shuffle=True)


class Accumulates(Callback):
    def on_train_epoch_start(self, trainer, module):
        trainer.accumulate_grad_batches = 1 + trainer.current_epoch


class Counter:
    """A loader that is not Cairn's, without a length, whose state is its position."""

    position = 0

    def __iter__(self):
        while self.position < 4:
            self.position += 1
            yield torch.tensor(float(self.position))
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def loader(size, batch_size, **options):
    return cairn.DataLoader(Noisy(size), batch_size, shuffle=True, **options)


def stream(size):
    return cairn.DataLoader(Stream(size), 2)


def curriculum():
    sampler = Curriculum()
    return cairn.DataLoader(Noisy(), 3, sampler=sampler), {}, [Harder(sampler)]


def replay():
    data = Replay()
    return cairn.DataLoader(data, 3, shuffle=True), {}, [Collect(data)]


def statistics(hook):
    made = loader(10, 3)
    return made, {}, [Statistics(hook, made)]


def epochs(**options):
    data = Epochs()
    return cairn.DataLoader(data, 3, shuffle=True, **options), {}, [SetsEpoch(data)]


def epoch_stream(**options):
    data = EpochStream(7)
    return cairn.DataLoader(data, 2, **options), {}, [SetsEpoch(data, "hooked")]


def indices_set_by_a_hook(**options):
    data = Indices()
    return cairn.DataLoader(Noisy(), 3, sampler=data, **options), {}, [SetsEpoch(data)]


def scaled(hook):
    return loader(10, 3), {}, [Scaled(hook)]


def requested(every, epochs=3):
    return Requested(), {"reload_dataloaders_every_n_epochs": every, "max_epochs": epochs}


def weighted():
    return WeightedRandomSampler(torch.arange(1.0, 11.0), 10, generator=torch.Generator())


FAST = {
    "max_size_cycle": lambda: (CombinedLoader([loader(7, 2), loader(5, 3)], "max_size_cycle"),),
    "max_size_cycle, iterables": lambda: (CombinedLoader([stream(5), stream(9)], "max_size_cycle"),),
    "bucketed": lambda: (cairn.DataLoader(Noisy(), batch_sampler=Buckets()),),
    "curriculum moved by training": curriculum,
    "growing": replay,
    "own loader without a length": lambda: (Counter(),),
    "epoch set in a hook, 2 workers": lambda: epochs(num_workers=2),
    "epoch of an iterable set in a hook": epoch_stream,
    "statistics of an epoch decide": lambda: scaled("on_train_epoch_start"),
    "subclass that reads ahead": lambda: (Ahead(Noisy(), 3, shuffle=True),),
    "subclass that skips batches": lambda: (Skips(Noisy(16), 2, shuffle=True),),
    "loader of an epoch": lambda: requested(1),
}
SLOW = {
    "max_size": lambda: (CombinedLoader([loader(7, 2), loader(5, 3)], "max_size"),),
    "max_size, iterables": lambda: (CombinedLoader([stream(5), stream(9)], "max_size"),),
    "min_size": lambda: (CombinedLoader({"a": loader(12, 2), "b": loader(10, 2)}, "min_size"),),
    "min_size, iterables": lambda: (CombinedLoader([stream(12), stream(9)], "min_size"),),
    "max_size_cycle, iterable and map": lambda: ([stream(5), loader(9, 2)],),
    "max_size_cycle, map and iterable": lambda: ([loader(5, 2), stream(9)],),
    "max_size_cycle, 2 workers": lambda: ([loader(5, 2, num_workers=2), loader(9, 2)], {"max_epochs": 1}),
    "max_size_cycle, limited": lambda: ([loader(5, 3), loader(20, 2)], {"limit_train_batches": 5}),
    "weighted": lambda: (cairn.DataLoader(Noisy(), 3, sampler=weighted()),),
    "nested datasets": lambda: (
        cairn.DataLoader(ConcatDataset([Subset(Noisy(8), range(1, 6)), Noisy(5, np.random.RandomState(2))]), 3),
    ),
    "statistics in on_fit_start": lambda: statistics("on_fit_start"),
    "statistics in on_train_start": lambda: statistics("on_train_start"),
    "statistics in on_train_batch_end": lambda: statistics("on_train_batch_end"),
    "subclass that changes batches": lambda: (Doubled(Noisy(), 3, shuffle=True),),
    "subclass over an iterable": lambda: (Doubled(Stream(9), 2),),
    "subclass that reads ahead in an iterable": lambda: (Ahead(Stream(9), 2),),
    "subclass that reads ahead, sampler with a state": lambda: (Ahead(Noisy(), 3, sampler=Curriculum()),),
    "subclass that skips batches, cycled": lambda: ([Skips(Noisy(9), 2), loader(15, 2)],),
    "epoch set in a hook, 2 persistent workers": lambda: epochs(num_workers=2, persistent_workers=True),
    "epoch of an iterable set in a hook, 1 worker": lambda: epoch_stream(num_workers=1),
    "epoch of two datasets set in a hook": lambda: ([epochs(num_workers=1)[0], loader(9, 2)], *epochs()[1:]),
    "sampler set in a hook, 2 workers": lambda: indices_set_by_a_hook(num_workers=2),
    "statistics of the start decide": lambda: scaled("on_train_start"),
    "loader of the first epoch": lambda: requested(0, epochs=2),
    "loader of every second epoch": lambda: requested(2),
    "accumulation set in a hook": lambda: (loader(11, 2), {"max_epochs": 3}, [Accumulates()]),
    "growing, loaded again in each epoch": lambda: (*replay()[:1], {"reload_dataloaders_every_n_epochs": 1}),
}


@pytest.mark.filterwarnings("ignore:A training loader .Counter. has a state of its own")
@pytest.mark.filterwarnings("ignore:Indices.epoch was changed after the last epoch .* unless a hook sets it")
@pytest.mark.parametrize("kind", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_resume_after_any_batch_is_exact(kind, tmp_path):
    assert inexact_stops({**FAST, **SLOW}[kind], tmp_path, each=1 if kind in FAST else 2) == []


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_batch_end"])
def test_statistics_over_the_data_see_a_whole_epoch_after_a_resume(hook, tmp_path):
    train(lambda: statistics(hook), tmp_path / "run", seed=1)
    file = min((tmp_path / "run").glob("epoch_001*.ckpt"))
    made = statistics(hook)
    train(lambda: made, tmp_path / "run", seed=2, resume=file)
    assert set(made[2][0].sizes) == {10}
