"""Finders of a learning rate or a batch size, and a Tuner, in a trainer with a Checkpointer: they work as without."""

import gc
import signal

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cairn
from cairn.store.catalog import Catalog
from cairn.store.listener import Listener


@pytest.fixture(autouse=True, scope="module")
def _fast_collections():
    """BatchSizeFinder collects garbage after each trial: leave out the objects of all imported packages."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Net(LightningModule):
    def __init__(self, lr=0.001):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(3, 1)
        self.batches = []

    def training_step(self, batch, batch_idx):
        if self.trainer.callbacks and isinstance(self.trainer.callbacks[-1], cairn.Checkpointer):
            self.batches.append(len(batch[0]))
        return (self.net(batch[0]) - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams.lr)


class Data(LightningDataModule):
    def __init__(self, batch_size=4):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        points = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
        return cairn.DataLoader(TensorDataset(points), self.batch_size, shuffle=self.trainer.training)


class Events(Listener):
    def __init__(self):
        self.committed_names = []

    def committed(self, saved, links):
        self.committed_names.append(saved.name)


FINDERS = {
    "learning rate": lambda: LearningRateFinder(num_training_steps=20, min_lr=1e-4),
    "batch size": lambda: BatchSizeFinder(steps_per_trial=1, max_trials=3),
}


def checkpointer(tmp_path, **options):
    return cairn.Checkpointer(tmp_path / "checkpoints", 1, **{"writing": cairn.Writing("sync"), **options})


def trainer(tmp_path, callbacks, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=tmp_path, callbacks=callbacks, **{"max_epochs": 2, **quiet, **options})


def fit(tmp_path, finders=(), checkpoints=None, ckpt_path=None, **options):
    seed_everything(0, verbose=False)
    ours = [checkpoints] if checkpoints else []
    made, module, data = trainer(tmp_path, [*finders, *ours], **options), Net(), Data()
    if not checkpoints:
        options["enable_checkpointing"] = False
    made.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return made, module, data


@pytest.mark.parametrize("kind", FINDERS)
def test_a_finder_finds_the_same_as_without_a_checkpointer(kind, tmp_path):
    finder, other = FINDERS[kind](), FINDERS[kind]()
    _, module, data = fit(tmp_path, [finder], checkpointer(tmp_path))
    _, plain, plain_data = fit(tmp_path / "plain", [other], enable_checkpointing=False)
    assert (module.hparams.lr, data.batch_size) == (plain.hparams.lr, plain_data.batch_size)
    assert (module.hparams.lr, data.batch_size) != (0.001, 4)
    assert torch.equal(module.net.weight, plain.net.weight)


@pytest.mark.parametrize("kind", FINDERS)
def test_nothing_is_saved_and_no_signal_is_caught_during_a_search(kind, tmp_path, monkeypatch):
    handlers, finder, checkpoints = [], FINDERS[kind](), checkpointer(tmp_path, listeners=[events := Events()])
    step = Net.training_step

    def watched(self, batch, batch_idx):
        if checkpoints not in self.trainer.callbacks:
            handlers.append(signal.getsignal(signal.SIGTERM))
            assert Catalog(checkpoints.policy.directory).committed() == []
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Net, "training_step", watched)
    before = signal.getsignal(signal.SIGTERM)
    made, module, data = fit(tmp_path, [finder], checkpoints)
    assert set(handlers) == {before}
    assert len(module.batches) == 2 * 32 // data.batch_size == len(events.committed_names)
    assert checkpoints.newest.position.step == made.global_step == len(module.batches)
    assert checkpoints.newest.position.samples == 64
    assert list(tmp_path.glob(".*.ckpt")) == []


@pytest.mark.parametrize("kind", FINDERS)
def test_a_resume_takes_what_was_found_and_does_not_search_again(kind, tmp_path):
    finder = FINDERS[kind]()
    _, whole, data = fit(tmp_path, [finder], checkpointer(tmp_path, keep_last=-1))
    again, checkpoints = FINDERS[kind](), checkpointer(tmp_path, keep_last=-1)
    third = Catalog(tmp_path / "checkpoints").committed()[2]
    made, module, again_data = fit(tmp_path, [again], checkpoints, str(tmp_path / "checkpoints" / third.name))
    assert module.batches == whole.batches[3:]
    assert torch.equal(module.net.weight, whole.net.weight)
    assert (module.hparams.lr, again_data.batch_size) == (whole.hparams.lr, data.batch_size)
    if kind == "learning rate":
        assert (
            again.optimal_lr.suggestion() == finder.optimal_lr.suggestion() == made.optimizers[0].param_groups[0]["lr"]
        )
    else:
        assert again.optimal_batch_size == finder.optimal_batch_size


@pytest.mark.parametrize("when", ["before the first fit", "before a resume"])
def test_a_tuner_leaves_the_checkpointer_as_it_was(when, tmp_path):
    def tuned(max_epochs, checkpoints):
        seed_everything(0, verbose=False)
        made, module, data = trainer(tmp_path, [checkpoints], max_epochs=max_epochs), Net(), Data()
        saved = Catalog(tmp_path / "checkpoints").committed()
        Tuner(made).lr_find(module, datamodule=data, num_training=20, min_lr=1e-4)
        Tuner(made).scale_batch_size(module, datamodule=data, steps_per_trial=1, max_trials=3)
        assert made.checkpoint_callback.watch._watchdog is None, "a search is over: nothing is watched after it"
        assert Catalog(tmp_path / "checkpoints").committed() == saved
        made.fit(module, datamodule=data, ckpt_path=checkpoints.resume())
        return made, module, data

    if when == "before a resume":
        tuned(1, checkpointer(tmp_path))
    made, module, data = tuned(2, checkpointer(tmp_path))
    assert data.batch_size == 8
    assert module.hparams.lr != 0.001
    assert made.global_step == 8
    assert module.batches == [8] * (8 if when == "before the first fit" else 4)
    assert Catalog(tmp_path / "checkpoints").committed()[-1].position.total_batches == 8


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_a_tuner_finds_the_batch_size_of_other_stages(method, tmp_path):
    class Evaluated(Net):
        def validation_step(self, batch, batch_idx):
            self.log("loss", self.net(batch[0]).mean())

        test_step = validation_step

        def predict_step(self, batch, batch_idx):
            return self.net(batch[0])

    class Others(Data):
        val_dataloader = test_dataloader = Data.train_dataloader

        def predict_dataloader(self):
            return DataLoader(TensorDataset(torch.zeros(32, 3)), batch_size=self.batch_size)

    made, data = trainer(tmp_path, [checkpointer(tmp_path)]), Others()
    found = Tuner(made).scale_batch_size(Evaluated(), datamodule=data, method=method, steps_per_trial=1, max_trials=3)
    assert found == data.batch_size == 8
    assert Catalog(tmp_path / "checkpoints").committed() == []


class Later(LearningRateFinder):
    """Searches at the start of epoch 1, when the save pipeline is open."""

    def on_fit_start(self, trainer, pl_module):
        pass

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


class FailsInSearch(Net):
    def training_step(self, batch, batch_idx):
        if not any(isinstance(item, cairn.Checkpointer) for item in self.trainer.callbacks):
            raise ArithmeticError("no search")
        return super().training_step(batch, batch_idx)


def test_a_search_that_fails_ends_the_fit_as_any_error_does(tmp_path):
    before, writing = signal.getsignal(signal.SIGTERM), cairn.Writing("thread", when_busy="wait")
    checkpoints = checkpointer(tmp_path, writing=writing)
    made = trainer(tmp_path, [Later(), checkpoints], max_epochs=4)
    with pytest.raises(ArithmeticError, match="no search"):
        made.fit(FailsInSearch(), datamodule=Data())
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoints.engine.saves.pipeline is None
    assert checkpoints.newest.position.total_batches == 8


def test_a_new_run_that_begins_with_a_checkpoint_warns_that_there_is_no_search(tmp_path):
    _, _, _ = fit(tmp_path / "old", [], checkpointer(tmp_path / "old"), max_epochs=1)
    path = checkpointer(tmp_path / "old").resume()
    with pytest.warns(match="LearningRateFinder does not search in a fit that begins with a checkpoint"):
        _, module, _ = fit(tmp_path, [FINDERS["learning rate"]()], checkpointer(tmp_path), path)
    assert (len(module.batches), module.hparams.lr) == (8, 0.001)


def test_a_finder_that_is_skipped_in_a_fast_run_leaves_the_fit_alone(tmp_path):
    made, module = trainer(tmp_path, [FINDERS["learning rate"](), checkpointer(tmp_path)], fast_dev_run=True), Net()
    with pytest.warns(match="Skipping learning rate finder"):
        made.fit(module, datamodule=Data())
    assert len(module.batches) == 1
