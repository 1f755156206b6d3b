"""Loaders and positions of a datamodule, with the trainer's counters as plain values."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from cairn.data.datamodule import DataModule


def trainer_at(epoch=0, batch=0, *, inside=True, fn=TrainerFn.FITTING, rank=0, world_size=1):
    """What a datamodule reads of a Trainer that has done `batch` batches of `epoch`."""
    progress = SimpleNamespace(started=epoch + inside, processed=epoch)
    batches = SimpleNamespace(current=SimpleNamespace(ready=batch))
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=progress), epoch_loop=SimpleNamespace(batch_progress=batches)
    )
    state = SimpleNamespace(fn=fn)
    return SimpleNamespace(fit_loop=loop, current_epoch=epoch, state=state, global_rank=rank, world_size=world_size)


class Noisy(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index + torch.rand(())


class Numbers(DataModule):
    seeded_items = False

    def __init__(self, size=10, **options):
        super().__init__(**{"batch_size": 4, **options})
        self.size = size

    def setup(self, stage=None):
        self.train_set = TensorDataset(torch.arange(self.size))
        self.val_set = TensorDataset(torch.arange(self.size))


class Noise(DataModule):
    def setup(self, stage=None):
        self.train_set = Noisy()


def ready(cls=Numbers, trainer=None, **options):
    data = cls(**options)
    data.trainer = trainer
    data.setup("fit")
    return data


def values(loader):
    return [batch[0].tolist() for batch in loader]


def test_a_resumed_loader_goes_on_after_the_batches_that_were_trained_on():
    trainer = trainer_at(epoch=2, batch=2)
    data = ready(trainer=trainer)
    full = data.train_dataloader()
    full.sampler.seek(2, 0)
    expected = values(full)
    state = data.state_dict()
    assert state == {
        "epoch": 2, "batch": 2, "batch_size": 4, "num_samples": 10, "seed": 0, "world_size": 1,
    }  # fmt: skip
    resumed = ready(trainer=trainer_at())  # its counters are not restored yet
    resumed.load_state_dict(state)
    loader = resumed.train_dataloader()
    assert len(loader) == 3
    assert values(loader) == expected[2:]
    assert len(values(loader)) == 3


def test_a_resumed_place_holds_until_the_trainer_is_beyond_it():
    trainer = trainer_at()
    data = ready(trainer=trainer)
    data.load_state_dict(ready(trainer=trainer_at(1, 2)).state_dict())
    assert [len(values(data.train_dataloader())) for _ in range(2)] == [1, 1]
    data.trainer.fit_loop.epoch_progress.current = SimpleNamespace(started=2, processed=2)
    data.trainer.current_epoch = 2
    assert len(values(data.train_dataloader())) == 3
    data.trainer = trainer_at()  # another training with the same data
    assert len(values(data.train_dataloader())) == 3


def test_outside_of_an_epoch_no_batch_of_it_is_done():
    assert ready(trainer=trainer_at(3, 7, inside=False)).state_dict()["batch"] == 0


def test_a_test_run_has_no_position():
    data = ready(trainer=trainer_at(fn=TrainerFn.TESTING), batch_size=5)
    data.load_state_dict({"epoch": 1, "batch": 2, "batch_size": 4})
    assert len(values(data.train_dataloader())) == 2


def test_other_data_is_refused_with_all_that_differs():
    state = ready(trainer=trainer_at(1, 2)).state_dict()
    other = ready(size=11, trainer=trainer_at(), batch_size=5, seed=1)
    with pytest.raises(ValueError, match="init_weights") as caught:
        other.load_state_dict(state)
    for change in ("batch_size was 4 and is 5", "num_samples was 10 and is 11", "seed was 0 and is 1"):
        assert change in str(caught.value)
    assert "world_size" not in str(caught.value)


def test_another_world_size_is_refused():
    state = ready(trainer=trainer_at(1, 2)).state_dict()
    with pytest.raises(ValueError, match="world_size was 1 and is 2"):
        ready(trainer=trainer_at(world_size=2)).load_state_dict(state)


@pytest.mark.parametrize("kind", ["train_dataloader", "val_dataloader"])
def test_ranks_share_the_samples(kind):
    parts = [ready(trainer=trainer_at(rank=rank, world_size=2)) for rank in range(2)]
    samples = [index for part in parts for batch in values(getattr(part, kind)()) for index in batch]
    assert sorted(samples) == list(range(10))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_never_draw_from_the_global_generator(num_workers):
    data = ready(num_workers=num_workers, persistent_workers=True)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    train, val = data.train_dataloader(), data.val_dataloader()
    for loader in (train, val, train):
        values(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_samples_are_the_same_with_any_number_of_workers():
    data = [ready(Noise, batch_size=4, num_workers=number) for number in (0, 2)]
    first, second = (torch.cat(list(part.train_dataloader())) for part in data)
    assert torch.equal(first, second)


def test_drop_last():
    assert len(ready(drop_last=True).train_dataloader()) == 2


def test_missing_sets():
    data = DataModule(4)
    assert data.val_dataloader() == []
    assert data.test_dataloader() == []
    with pytest.raises(ValueError, match="has to set `train_set`"):
        data.train_dataloader()


class Plain(IterableDataset):
    def __init__(self):
        self.position = 0

    def __iter__(self):
        yield from range(self.position, 10)


class Counted(Plain):
    def __iter__(self):
        start, self.position = self.position, 0
        for number in range(start, 10):
            self.position = number + 1
            yield number
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def streaming(dataset, trainer=None, **options):
    data = DataModule(4, **options)
    data.trainer = trainer
    data.train_set = dataset
    return data


def test_the_state_of_an_iterable_is_that_of_the_batches_trained_on():
    data = streaming(Counted(), trainer=trainer_at())
    batches = iter(data.train_dataloader())
    next(batches), next(batches)
    data.trainer = trainer_at(0, 1)
    state = data.state_dict()
    assert state["batch"] == 1
    assert "num_samples" not in state
    resumed = streaming(Counted(), trainer=trainer_at())
    resumed.load_state_dict(state)
    assert [batch.tolist() for batch in resumed.train_dataloader()] == [[4, 5, 6, 7], [8, 9]]


def test_an_iterable_without_a_state_is_refused_or_replayed():
    with pytest.raises(ValueError, match=r"state_dict.*data\.replay=true"):
        streaming(Plain()).train_dataloader()
    data = streaming(Plain(), replay=True, trainer=trainer_at())
    data.load_state_dict(data.state_dict() | {"batch": 2})
    with pytest.warns(UserWarning, match="2 batches come twice"):
        loader = data.train_dataloader()
    assert len(list(loader)) == 3


@pytest.mark.parametrize(("num_workers", "world_size"), [(2, 1), (0, 2)])
def test_more_than_one_position_of_an_iterable_is_refused(num_workers, world_size):
    data = streaming(Counted(), trainer_at(world_size=world_size), num_workers=num_workers)
    with pytest.raises(ValueError, match="a position of its own"):
        data.train_dataloader()


def test_a_position_that_was_not_saved_is_refused():
    state = streaming(Plain(), trainer_at(0, 1), replay=True).state_dict()
    with pytest.raises(ValueError, match="was not saved"):
        streaming(Counted(), trainer_at()).load_state_dict(state)
