"""Models that log metrics in different ways, and a fit whose checkpoints a metric ranks."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tests.support.short_fits import QUIET
from torch.utils.data import TensorDataset

import cairn
from cairn.store.catalog import Catalog

BATCHES = 4


class Model(LightningModule):
    """Module whose weight grows by 1 with each batch; it logs it as `val/loss`."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.num_batches = 0

    def training_step(self, batch, batch_idx):
        self.num_batches += 1
        return -self.weight

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.weight, batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Rare(Model):
    """Logs a metric in each second validation, from the first one on."""

    first = 0

    def on_validation_epoch_end(self):
        if self.current_epoch % 2 == self.first:
            self.log("val/f1", self.weight)


class RareLater(Rare):
    first = 1


class Nameless(Model):
    """Logs a metric in each second validation, under a name that does not stand in its code."""

    name = ("f", "1")

    def on_validation_epoch_end(self):
        if self.current_epoch % 2 == 1:
            self.log("val/" + "".join(self.name), self.weight)


class NotInTheSanityCheck(Model):
    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.log("val/f1", self.weight)


class LogsLater(Callback):
    """Logs nothing in the sanity check, and later under names that it computes from others."""

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            logged = {name: value for name, value in trainer.callback_metrics.items() if "/" in name}
            trainer.callback_metrics.update({name.replace("/", "_"): value for name, value in logged.items()})


class ReadsItsMetrics(Rare):
    """Reads the metrics after the Checkpointer, as a progress bar or a printed line does."""

    def on_validation_end(self):
        dict(self.trainer.callback_metrics)

    def on_train_epoch_end(self):
        dict(self.trainer.callback_metrics)


class ByHand(Model):
    """Sets the metric without `self.log`, as callbacks of others do."""

    def on_validation_epoch_end(self):
        if self.current_epoch % 2 == 0:
            self.trainer.callback_metrics["val/f1"] = self.weight.detach().clone()


class Shared(Model):
    """One method logs in training and in validations."""

    def _log(self, stage):
        self.log(f"{stage}/loss", self.weight, batch_size=1, on_step=False, on_epoch=True)

    def training_step(self, batch, batch_idx):
        self._log("train")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self._log("val")


class TwoLoaders(Model):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", self.weight, batch_size=1)


class WithoutValidation(Model):
    validation_step = LightningModule.validation_step


def loader():
    return cairn.DataLoader(TensorDataset(torch.zeros(2 * BATCHES, 1)), 2)


def fit(directory, model, monitor, val="one", callbacks=(), resume=False, **options):
    """Train up to four epochs, and return the epoch and the score of each kept checkpoint."""
    writing = cairn.Writing("sync")
    every = options.pop("every", None)
    checkpoints = cairn.Checkpointer(
        directory, every, monitor=monitor, mode="max", keep_best=-1, keep_last=-1, writing=writing
    )
    own = {"max_epochs": 4, "default_root_dir": directory, **QUIET, **options}
    trainer = Trainer(callbacks=[*callbacks, checkpoints], **own)
    val_loaders = {"one": loader(), "two": [loader(), loader()], "none": None, "empty": []}[val]
    path = checkpoints.resume() if resume else None
    trainer.fit(model, loader(), val_loaders, ckpt_path=path)
    return [(item.position.epoch, item.score) for item in Catalog(directory).committed()]


class OneStep(Model):
    """Logs its metric for each batch of a validation, and for none as a whole."""

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.weight, on_step=True, on_epoch=False)
