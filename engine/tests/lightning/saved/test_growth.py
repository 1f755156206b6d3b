"""A training that adds parameter groups or changes its batch size resumes exactly."""

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning
from tests.support import short_fits
from tests.support.short_fits import Interrupted
from torch import nn

import cairn
from cairn.lightning.saved.growth import repeated_groups_ignored


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU()), nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return self.head(self.backbone(batch + torch.rand(1))).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam([item for item in self.parameters() if item.requires_grad], lr=0.1)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9), "interval": "step"}]


class Adds(Model):
    """Trains its backbone from some point on."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=0.1)

    def add(self):
        self.trainer.optimizers[0].add_param_group({"params": list(self.backbone.parameters()), "lr": 0.01})


class AddsInAnEpochsStart(Adds):
    def on_train_epoch_end(self):
        if self.current_epoch == 0:
            self.add()


class AddsInsideAnEpoch(Adds):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 6:
            self.add()


class AddsAtTheStart(Adds):
    def on_train_start(self):
        self.add()


class AddsThroughLightning(Adds):
    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.optimizers().add_param_group({"params": list(self.backbone.parameters()), "lr": 0.01})
        self.scale = 1.0 + self.current_epoch

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * self.scale


POINTS = torch.arange(16.0).reshape(8, 2)


class Data(LightningDataModule):
    def __init__(self, batch_size=2):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return cairn.DataLoader(POINTS, batch_size=self.batch_size, shuffle=True)


class Hyperparameters(LightningDataModule):
    def __init__(self, batch_size=2):
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        return cairn.DataLoader(POINTS, batch_size=self.hparams.batch_size, shuffle=True)


class Scheduled(Data):
    def train_dataloader(self):
        self.batch_size = 2 + self.trainer.current_epoch
        return super().train_dataloader()


class Ours(cairn.DataModule):
    def __init__(self, batch_size=2):
        super().__init__(batch_size)
        self.train_set = POINTS


class Grow(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        owner = trainer.datamodule.hparams if trainer.datamodule.hparams else trainer.datamodule
        owner.batch_size += 1


class Find(Callback):
    """Sets the batch size when a new run begins, as BatchSizeFinder does."""

    def on_fit_start(self, trainer, pl_module):
        if trainer.ckpt_path is None:
            trainer.datamodule.batch_size = 3


def unfreezing():
    return BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.01, verbose=False)


CASES = {
    "groups added between epochs": (AddsInAnEpochsStart, Data, list),
    "groups added inside an epoch": (AddsInsideAnEpoch, Data, list),
    "finetuning": (Model, Data, lambda: [unfreezing()]),
    "batch size of the data": (Model, Data, lambda: [Grow()]),
    "batch size of the library's data": (Model, Ours, lambda: [Grow()]),
    "groups added at the start": (AddsAtTheStart, Data, list),
    "groups added through Lightning": (AddsThroughLightning, Data, list),
    "batch size among hyperparameters": (Model, Hyperparameters, lambda: [Grow()]),
    "batch size found at the start": (Model, Data, lambda: [Find()]),
    "batch size by epoch": (Model, Scheduled, list),
}


def fit(path, name, stop=None, batch_size=2):
    model, data, callbacks = CASES[name]
    seed_everything(3, verbose=False)
    every = 1 if "batch" in name else 0
    options = {"max_epochs": 3, "reload_dataloaders_every_n_epochs": every, "callbacks": callbacks()}
    return short_fits.fit(path, model(), data(batch_size), stop=stop, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist")
@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no")
@pytest.mark.parametrize("name", CASES)
def test_what_has_grown_is_there_after_a_resume(tmp_path, name):
    whole = fit(tmp_path / "whole", name)
    for stop in (3, 5, 7):
        path = tmp_path / str(stop)
        for until in (stop, 8):  # two stops in a row
            with pytest.raises(Interrupted):
                fit(path, name, stop=until)
        resumed = fit(path, name)
        assert resumed.global_step == whole.global_step
        for key, value in whole.lightning_module.state_dict().items():
            assert torch.equal(resumed.lightning_module.state_dict()[key], value), (stop, key)
        groups = [item.optimizers[0].state_dict()["param_groups"] for item in (whole, resumed)]
        assert groups[0] == groups[1]


def test_another_batch_size_than_before_is_still_refused(tmp_path):
    name = "batch size of the data"
    with pytest.raises(Interrupted):
        fit(tmp_path, name, stop=6)
    with pytest.raises(cairn.CairnError, match="batch_size was 3 and is 4"):
        fit(tmp_path, name, batch_size=4)


class Seeded(LightningDataModule):
    """Data of the library in a module that does not check it, as with a loader that is passed to `fit`."""

    def __init__(self, batch_size=2, seed=0, num_samples=8):
        super().__init__()
        self.options = {"batch_size": batch_size, "seed": seed}
        self.num_samples = num_samples

    def train_dataloader(self):
        return cairn.DataLoader(POINTS[: self.num_samples], shuffle=True, **self.options)


class SeededOurs(Ours):
    def __init__(self, batch_size=2, seed=0, num_samples=8):
        cairn.DataModule.__init__(self, batch_size, seed=seed)
        self.train_set = POINTS[:num_samples]


class Counts(Model):
    """Counts the samples of each epoch."""

    def __init__(self):
        super().__init__()
        self.num_samples, self.num_batches = {}, {}

    def training_step(self, batch, batch_idx):
        for counted, more in ((self.num_samples, len(batch)), (self.num_batches, 1)):
            counted[self.current_epoch] = counted.get(self.current_epoch, 0) + more
        return super().training_step(batch, batch_idx)


OTHER_DATA = {"batch_size": 4, "seed": 1, "num_samples": 6}


def fit_with(path, data, stop=None, ckpt_path=None):
    seed_everything(3, verbose=False)
    model, saving = Counts(), {"keep_last": -1}
    short_fits.fit(path, model, data, stop=stop, ckpt_path=ckpt_path, saving=saving, max_epochs=3)
    return model


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no")
@pytest.mark.parametrize("kind", [Seeded, SeededOurs])
@pytest.mark.parametrize("change", OTHER_DATA)
def test_other_data_is_trained_from_the_start_of_an_epoch_on(tmp_path, caplog, kind, change):
    """As Lightning does: inside an epoch, a position belongs to its data; between two, there is none."""
    caplog.set_level("INFO", logger="cairn")
    with pytest.raises(Interrupted):
        fit_with(tmp_path / "a", kind(), stop=6)
    other = {change: OTHER_DATA[change]}
    files = {name: tmp_path / "a" / f"epoch_{name}.ckpt" for name in ("000_batch_000004", "001_batch_000002")}
    with pytest.raises(cairn.CairnError, match=f"{change} was"):
        fit_with(tmp_path / "b", kind(**other), ckpt_path=files["001_batch_000002"])
    model = fit_with(tmp_path / "c", kind(**other), ckpt_path=files["000_batch_000004"])
    samples, batches = {"batch_size": (8, 2), "seed": (8, 4), "num_samples": (6, 3)}[change]
    assert model.num_samples == {1: samples, 2: samples}
    assert model.num_batches == {1: batches, 2: batches}
    assert f"Epoch 1 begins with other data than before: {change} was" in caplog.text


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no")
@pytest.mark.parametrize("kind", [Seeded, SeededOurs])
def test_a_resumed_run_warns_of_other_data_between_epochs(tmp_path, kind):
    with pytest.raises(Interrupted):
        fit_with(tmp_path, kind(), stop=4)
    with pytest.warns(UserWarning, match="batch_size was 2 and is 4, seed was 0 and is 1. A run without this change"):
        model = fit_with(tmp_path, kind(batch_size=4, seed=1))
    assert model.num_batches == {1: 2, 2: 2}


def test_a_group_that_is_added_again_changes_nothing(tmp_path):
    trainer = fit(tmp_path, "groups added between epochs")
    (optimizer,) = trainer.optimizers
    before = optimizer.state_dict()["param_groups"]
    own = list(trainer.lightning_module.backbone.parameters())
    with repeated_groups_ignored(trainer):
        optimizer.add_param_group({"params": own})
        optimizer.add_param_group({"params": own[0]})
        assert optimizer.state_dict()["param_groups"] == before
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert len(optimizer.param_groups) == len(before) + 1
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": own})
