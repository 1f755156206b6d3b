"""`cairn.write_predictions`: stopped anywhere and repeated, it ends with the predictions of an undisturbed run."""

import random

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
)

import cairn
from cairn.errors import CheckpointError, ConfigError, DataError, ModelError
from cairn.lightning import predicted_data

NUM = 23


class Noisy(Dataset):
    """Samples that draw random numbers."""

    def __len__(self):
        return NUM

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), float(torch.rand(()))])


class Plain(Dataset):
    def __len__(self):
        return NUM

    def __getitem__(self, index):
        return torch.tensor([index, 0.0, 0.0])


class Stream(IterableDataset):
    """The same without a length, drawing from the global generator."""

    def __iter__(self):
        for index in range(NUM):
            yield torch.tensor([index, random.random(), float(torch.rand(()))])


class Net(LightningModule):
    """Draws random numbers itself, and counts the batches that it predicts."""

    def __init__(self):
        super().__init__()
        self.net, self.count = nn.Linear(3, 2), 0

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        self.count += 1
        return {"x": batch, "y": self.net(batch) + torch.rand(len(batch), 1), "name": [f"{i:.0f}" for i in batch[:, 0]]}


class Odd(BatchSampler):
    """Batches of the user's own: of three sizes, not in order."""

    def __init__(self):
        pass

    def __iter__(self):
        yield from ([5, 6], [0, 1, 2, 3, 4], [*range(22, 6, -1)])

    def __len__(self):
        return 3


class Shuffled(Sampler):
    """A sampler of the user's own, with random numbers."""

    def __iter__(self):
        return iter(torch.randperm(NUM).tolist())

    def __len__(self):
        return NUM


class Stop(Callback):
    def __init__(self, after):
        self.after = after

    def on_predict_batch_end(self, *arguments):
        self.after -= 1
        if self.after == 0:
            raise InterruptedError


def trainer(*callbacks, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Trainer(**quiet, callbacks=list(callbacks), enable_checkpointing=False, **options)


def model():
    torch.manual_seed(0)
    return Net()


def predict(folder, loader, *callbacks, **options):
    net = model()
    cairn.write_predictions(trainer(*callbacks, **options), net, loader, directory=folder, seed=3)
    return net.count


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in ("x", "y")) and one["name"] == other["name"]


LOADERS = {
    "torch": lambda: DataLoader(Noisy(), batch_size=4),
    "shuffled": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, drop_last=True),
    "workers": lambda: DataLoader(Noisy(), batch_size=4, num_workers=1),
    "distributed": lambda: DataLoader(Noisy(), 4, sampler=DistributedSampler(Noisy(), num_replicas=3, rank=1)),
    "own sampler": lambda: DataLoader(Noisy(), batch_size=4, sampler=Shuffled()),
    "own batches": lambda: DataLoader(Noisy(), batch_sampler=Odd()),
    "cairn": lambda: cairn.DataLoader(Noisy(), 4),
    "cairn, shuffled": lambda: cairn.DataLoader(Noisy(), 4, shuffle=True),
    "cairn, global batches": lambda: cairn.DataLoader(Noisy(), 4, global_batch_size=8),
    "cairn, own sampler": lambda: cairn.DataLoader(Noisy(), 4, sampler=RandomSampler(Noisy())),
    "cairn, own batches": lambda: cairn.DataLoader(Noisy(), batch_sampler=Odd()),
    "iterable": lambda: DataLoader(Stream(), batch_size=4),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_stopped_anywhere_and_repeated_it_is_the_same(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("cairn.predictions.plan._MOST_PER_PART", 2)
    make = LOADERS[kind]
    predict(tmp_path / "whole", make())
    whole = cairn.load_predictions(tmp_path / "whole")
    assert whole["x"][:, 0].tolist() == list(range(NUM)), "each sample once, in the order of the data"
    for after in (1, 2, 3):
        with pytest.raises(InterruptedError):
            predict(tmp_path / str(after), make(), Stop(after))
        torch.manual_seed(99), random.seed(99)
        predict(tmp_path / str(after), make())
        assert same(cairn.load_predictions(tmp_path / str(after)), whole)
    for path in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "3" / path.name).read_bytes() == path.read_bytes()
    assert predict(tmp_path / "whole", make()) == 0, "nothing is predicted again"


def test_only_what_is_missing_is_predicted(tmp_path, monkeypatch):
    monkeypatch.setattr("cairn.predictions.plan._MOST_PER_PART", 2)
    with pytest.raises(InterruptedError):
        predict(tmp_path, DataLoader(Noisy(), 4), Stop(5))
    assert predict(tmp_path, DataLoader(Noisy(), 4)) == 2
    (tmp_path / "part_000001.safetensors").unlink()
    assert predict(tmp_path, DataLoader(Noisy(), 4)) == 2


class Data(LightningDataModule):
    """Has only a loader for the test, which it makes in that stage."""

    def setup(self, stage):
        self.stage = stage
        self.test_set = {"test": Plain()}[stage]

    def test_dataloader(self):
        return DataLoader(self.test_set, batch_size=4)


class DataOfItsOwn(Data):
    def setup(self, stage):
        self.stage = stage

    def predict_dataloader(self):
        return [DataLoader(Plain(), batch_size=4), DataLoader(Plain(), batch_size=9)]


@pytest.mark.parametrize(("kind", "stage", "loaders"), [(Data, "test", 1), (DataOfItsOwn, "predict", 2)])
def test_a_data_module_predicts_what_is_for_predictions_or_else_what_is_for_the_test(tmp_path, kind, stage, loaders):
    data = kind()
    predict(tmp_path, data)
    assert data.stage == stage
    assert not {"setup", "predict_dataloader"} & vars(data).keys(), "its methods are its own again"
    found = cairn.load_predictions(tmp_path)
    for item in [found] if loaders == 1 else found:
        assert item["x"][:, 0].tolist() == list(range(NUM))


@pytest.mark.parametrize(("limit", "rows"), [(2, 8), (0.5, 12), (1.0, NUM), (100, NUM)])
@pytest.mark.parametrize("kind", ["torch", "cairn"])
def test_the_limit_of_the_trainer_is_about_all_batches(tmp_path, limit, rows, kind):
    predict(tmp_path, LOADERS[kind](), limit_predict_batches=limit)
    assert len(cairn.load_predictions(tmp_path)["x"]) == rows


def test_batches_without_a_number_are_limited_as_well(tmp_path):
    predict(tmp_path, LOADERS["iterable"](), limit_predict_batches=3)
    assert len(cairn.load_predictions(tmp_path)["x"]) == 12
    with pytest.raises(DataError, match=r"Predictions on 2 processes need data with a length and indices"):
        predicted_data.check_alone(2)


def test_loaders_that_are_not_read_one_after_the_other_are_refused(tmp_path):
    loaders = [DataLoader(Plain(), 4), DataLoader(Plain(), 9)]
    with pytest.raises(DataError, match="set the mode of CombinedLoader to sequential"):
        predict(tmp_path, CombinedLoader(loaders, "min_size"))
    predict(tmp_path, CombinedLoader(loaders, "sequential"))
    assert [len(item["x"]) for item in cairn.load_predictions(tmp_path)] == [NUM, NUM]


def test_predictions_of_another_number_of_loaders_are_not_mixed(tmp_path):
    one, two = DataLoader(Plain(), 4), [DataLoader(Plain(), 4), DataLoader(Plain(), 9)]
    for name, first, second, odd in (("one", one, two, "predictions.json"), ("two", two, one, "loader_0")):
        predict(tmp_path / name, first)
        with pytest.raises(ConfigError, match=rf"predictions of another number of data loaders \({odd}\)"):
            predict(tmp_path / name, second)


class NoStep(LightningModule):
    def forward(self, x):
        return x["image"]


class NoData(LightningDataModule):
    pass


def test_a_part_that_another_process_has_not_written_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("cairn.lightning.predicted_loader._PATIENCE_S", 0.0)

    class Losing(Callback):
        def on_predict_end(self, trainer, pl_module):
            (tmp_path / "part_000001.json").unlink()

    with pytest.raises(CheckpointError, match=r"The predictions in .* lack 1 of their parts: a process has died"):
        predict(tmp_path, DataLoader(Plain(), 4), Losing())


def test_what_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(
        ModelError, match="NoStep has no predict_step, and its forward does not take a batch of predict"
    ):
        cairn.write_predictions(trainer(), NoStep(), DataLoader(Plain(), 4), directory=tmp_path)
    with pytest.raises(DataError, match="NoData has neither a predict_dataloader nor a test_dataloader"):
        cairn.write_predictions(trainer(), Net(), NoData(), directory=tmp_path)
    with pytest.raises(DataError, match="There is nothing to predict"):
        predict(tmp_path, DataLoader(Plain(), 4), limit_predict_batches=0)
