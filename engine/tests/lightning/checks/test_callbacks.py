"""Callbacks and schedulers that wait for a metric: a wrong name is found before the first batch, or explained."""

import logging

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from tests.support.monitored import BATCHES, Model, Nameless, OneStep, Shared, TwoLoaders, fit

from cairn.errors import ConfigError
from cairn.lightning.checks import callbacks

pytestmark = [
    pytest.mark.filterwarnings("ignore:(You defined|You passed in) a `val"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
]


class Plateau(Model):
    """Model with a scheduler that waits for a metric."""

    monitor = "val/los"

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor}}


@pytest.mark.parametrize(
    ("model", "val", "monitor", "words"),
    [
        (Model, "one", "val_loss", "Did you mean 'val/loss'?"),
        (Model, "one", "val/los", "Did you mean 'val/loss'?"),
        (TwoLoaders, "two", "val/loss", "choose val/loss/dataloader_idx_0 or"),
        (TwoLoaders, "two", "val/loss/dataloader_idx_2", "Choose val/loss/dataloader_idx_0 or"),
        (OneStep, "one", "val/loss", "log it with on_epoch=True"),
        (Plateau, "one", "", "'val/los'.* Did you mean 'val/loss'"),
    ],
)
def test_a_wrong_name_is_refused_before_the_first_batch(tmp_path, model, val, monitor, words):
    made = model()
    with pytest.raises(ConfigError, match=f"waits for .*{words}"):
        fit(tmp_path, made, None, val, callbacks=[EarlyStopping(monitor)] if monitor else [])
    assert made.num_batches == 0


@pytest.mark.parametrize(
    ("model", "monitor", "options"),
    [
        (Model, "val/loss", {}),
        (Shared, "train/loss", {}),
        (Model, "val/los", {"strict": False}),
        (Nameless, "val/f1", {"strict": False}),
    ],
)
def test_a_metric_that_is_logged_or_not_needed_is_accepted(tmp_path, model, monitor, options, caplog):
    fit(tmp_path, model(), None, callbacks=[EarlyStopping(monitor, patience=9, mode="max", **options)])
    assert "waits for" not in caplog.text


class Names(Nameless):
    """Logs a metric in each validation but not in the sanity check, under a name that does not stand in its code."""

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.log("val/" + "".join(self.name), self.weight)


def test_a_metric_that_is_perhaps_logged_later_is_named_and_accepted(tmp_path, caplog):
    fit(tmp_path, Names(), None, callbacks=[EarlyStopping("val/f1", patience=9, mode="max")])
    assert "EarlyStopping waits for 'val/f1', which the sanity check has not logged, and no code names" in caplog.text


def test_without_a_validation_it_is_named_before_the_first_batch_and_the_error_is_a_sentence(tmp_path, caplog):
    class Started(Callback):
        def on_train_batch_start(self, *args):
            said.append(caplog.text)

    said = []
    with pytest.raises(RuntimeError) as error:
        fit(tmp_path, Shared(), None, "none", callbacks=[Started(), EarlyStopping("val/los")])
    assert "EarlyStopping waits for 'val/los', this fit has no validation, and no code of the training" in said[0]
    trainer = Trainer(["train/loss"], [EarlyStopping("val/los")])
    explained = pytest.raises(
        ConfigError, match=r"EarlyStopping waits for 'val/los', .* logged: train/loss. Change its"
    )
    with explained, callbacks.explained(trainer):
        raise error.value


class Trainer:
    """What `explained` reads of a trainer."""

    def __init__(self, names, callbacks):
        self.callback_metrics, self.callbacks = dict.fromkeys(names), callbacks


class Own(Callback):
    monitor = "val/los"


@pytest.mark.parametrize(("key", "expected"), [("val/los", ConfigError), ("other", KeyError)])
def test_an_own_callback_that_reads_its_metric_is_explained(key, expected):
    with pytest.raises(expected), callbacks.explained(Trainer(["val/loss"], [Own()])):
        raise KeyError(key)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), RuntimeError()])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(RuntimeError) as raised, callbacks.explained(Trainer([], [Own()])):
        raise error
    assert raised.value is error


def test_a_run_with_an_exception_of_its_own_counts_its_batches(tmp_path):
    made = Model()
    fit(tmp_path, made, None, callbacks=[EarlyStopping("val/loss", patience=9, mode="max")])
    assert made.num_batches == 4 * BATCHES


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, "cairn")
