"""DataModule: the loaders that it makes from its datasets, and the data that it refuses."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from cairn.data.datamodule import DataModule
from cairn.errors import DataError


class Numbers(DataModule):
    seeded_items = False

    def __init__(self, size=10, **options):
        super().__init__(**{"batch_size": 4, **options})
        self.size = size

    def setup(self, stage=None):
        self.train_set = TensorDataset(torch.arange(self.size))
        self.val_set = TensorDataset(torch.arange(self.size))


def ready(cls=Numbers, fn=TrainerFn.FITTING, **options):
    data = cls(**options)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn=fn))
    data.setup("fit")
    return data


def values(loader):
    return [batch[0].tolist() for batch in loader]


def test_the_training_loader_saves_its_position():
    data = ready()
    whole = values(data.train_dataloader())
    loader = data.train_dataloader()
    next(iter(loader))
    resumed = ready().train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert values(resumed) == whole[1:]


def test_a_position_saved_by_version_0_1_is_read():
    """In version 0.1, the datamodule itself saved the position. A trainer may request a loader more than once."""
    data = ready()
    full = data.train_dataloader()
    full.sampler.keep_way("shuffled")
    full.set_epoch(2)
    whole = values(full)
    old = {"epoch": 2, "batch": 2, "batch_size": 4, "num_samples": 10, "seed": 0, "world_size": 1}
    resumed = ready()
    resumed.load_state_dict(old)
    assert [values(resumed.train_dataloader()) for _ in range(2)] == [whole[2:]] * 2
    resumed.trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
    assert len(values(resumed.train_dataloader())) == 3, "another training with the same data"
    other = ready()
    other.load_state_dict({**old, "num_samples": 9})
    with pytest.raises(ValueError, match="num_samples was 9 and is 10"):
        other.train_dataloader()


def test_testing_ignores_a_saved_position():
    ready(fn=TrainerFn.TESTING, batch_size=5).load_state_dict({"epoch": 1, "batch": 2, "batch_size": 4})


def test_different_data_is_refused_with_all_differences():
    class Named(Numbers):
        def identity(self):
            return super().identity() | {"text": self.size}

    state = ready(Named).state_dict()
    with pytest.raises(ValueError, match="from the weights alone") as caught:
        ready(Named, size=11, batch_size=5).load_state_dict(state)
    for change in ("batch_size was 4 and is 5", "text was 10 and is 11"):
        assert change in str(caught.value)
    assert "seed" not in str(caught.value)


def test_validation_is_in_order_and_drop_last_is_for_training_only():
    data = ready(drop_last=True)
    assert len(data.train_dataloader()) == 2
    assert values(data.val_dataloader()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_never_draw_from_the_global_generator(num_workers):
    data = ready(num_workers=num_workers, persistent_workers=True)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    train, val = data.train_dataloader(), data.val_dataloader()
    for loader in (train, val, train):
        values(loader)
    assert torch.equal(torch.get_rng_state(), before)


class Drawing(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.rand(4)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sample_of_the_validation_draws_the_same_numbers_each_time_and_after_a_resume(num_workers):
    def made():
        data = ready(num_workers=num_workers)
        data.val_set = data.test_set = Drawing()
        return data

    data = made()
    loader, test = data.val_dataloader(), data.test_dataloader()
    first = torch.cat(list(loader))
    loader.set_epoch(1)
    assert torch.equal(torch.cat(list(loader)), first)
    assert torch.equal(torch.cat(list(made().val_dataloader())), first)
    assert torch.equal(torch.cat(list(test)), first)
    assert len(first.unique()) == first.numel()


def test_a_missing_training_set_is_refused_and_the_others_are_optional():
    data = DataModule(4)
    assert data.val_dataloader() == []
    assert data.test_dataloader() == []
    with pytest.raises(ValueError, match="must set `train_set`"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"batch_size": 0}, "^batch_size=0 must be an integer from 1"),
        ({"num_workers": -1}, "^num_workers=-1 must be an integer from 0"),
    ],
)
def test_a_number_out_of_range_is_named(wrong, why):
    with pytest.raises(DataError, match=why) as error:
        Numbers(**wrong)
    assert error.value.parameter == next(iter(wrong))


class Plain(IterableDataset):
    def __iter__(self):
        yield from range(10)


def test_an_iterable_without_a_state_is_refused_unless_it_may_be_replayed():
    data = DataModule(4)
    data.train_set = Plain()
    with pytest.raises(ValueError, match=r"state_dict.*replay=True"):
        data.train_dataloader()
    data.replay = True
    assert len(list(data.train_dataloader())) == 3
