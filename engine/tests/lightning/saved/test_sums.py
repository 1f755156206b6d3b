"""Sums and metrics within an epoch can be saved and restored."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from tests.support.toy import BATCH_SIZE, PointData, Toy
from tests.support.values import reloaded
from torch import nn
from torchmetrics import MeanMetric, Metric, MetricCollection, MinMaxMetric, RunningMean
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.lightning.saved import sums


class Lists(Metric):
    """Metric whose state is a list of tensors."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, value):
        self.values.append(value)

    def compute(self):
        return torch.stack(list(self.values)).sum()


class Total(Metric):
    """Metric whose update replaces its state by a new tensor."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value):
        self.total = self.total + value

    def compute(self):
        return self.total


class Half(Total):
    def compute(self):
        return self.total / 2


class Module(LightningModule):
    """Metrics at several depths; those of a collection share their states."""

    def __init__(self):
        super().__init__()
        self.mean, self.lists = MeanMetric(), Lists()
        self.inner = nn.ModuleDict({"scores": MetricCollection([MulticlassF1Score(2), MulticlassAccuracy(2)])})
        self.totals = MetricCollection([Total(), Half()])
        self.running, self.extremes = RunningMean(window=2), MinMaxMetric(Total())

    def update(self, seed):
        generator = torch.Generator().manual_seed(seed)
        guess, truth = torch.rand(6, 2, generator=generator), torch.randint(2, (6,), generator=generator)
        # Not forward: `update` changes states in place, and in a collection only that of the first of several metrics
        # that share one.
        self.mean.update(guess.sum()), self.lists.update(guess.sum())
        self.inner["scores"].update(guess, truth), self.totals.update(guess.sum())
        self.running(guess.sum()), self.extremes(guess.sum())

    def compute(self):
        several = {**self.inner["scores"].compute(), **self.totals.compute()}
        alone = {name: getattr(self, name).compute() for name in ("mean", "lists", "running")}
        return {name: value.item() for name, value in {**several, **alone, **self.extremes.compute()}.items()}


@pytest.mark.parametrize("before", [0, 1, 3])
def test_restored_metrics_continue_exactly(before):
    one, other = Module(), Module()
    for seed in range(before):
        one.update(seed)
    sums.set_metrics(other, reloaded(sums.metrics(one)))
    for seed in range(10, 13):
        one.update(seed), other.update(seed)
    assert other.compute() == one.compute()


def test_a_restored_metric_does_not_change_the_saved_state():
    module = Module()
    module.update(0)
    kept = reloaded(sums.metrics(module))
    other = Module()
    sums.set_metrics(other, kept)
    other.update(1)
    again = Module()
    sums.set_metrics(again, kept)
    assert again.compute() == module.compute()


class Wipes(Callback):
    """Callback that saves all sums before one batch, resets them, and restores them if `restore` is true."""

    def __init__(self, batch, restore):
        self.batch, self.restore = batch, restore

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch and trainer.current_epoch == 1:
            logged, metrics = reloaded(sums.logged(trainer)), reloaded(sums.metrics(pl_module))
            trainer.fit_loop.epoch_loop._results.clear()
            for metric in pl_module.modules():
                metric.reset() if isinstance(metric, Metric) else None
            if self.restore:
                sums.set_logged(trainer, logged)
                sums.set_metrics(pl_module, metrics)
                assert reloaded(sums.logged(trainer)) is not None


def plain_trainer(directory, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    own = {"max_epochs": 2, "log_every_n_steps": 2, "accelerator": "cpu", "devices": 1, **quiet}
    return Trainer(default_root_dir=directory, **own, **options)


def rows(directory, *callbacks):
    seed_everything(7, verbose=False)
    logger = CSVLogger(directory)
    trainer = plain_trainer(directory, logger=logger, callbacks=list(callbacks))
    trainer.fit(Toy(), datamodule=PointData(batch_size=BATCH_SIZE, seed=3))
    return logger.path.read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return rows(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("batch", [1, 3, 4, 7])
def test_restored_means_cover_the_whole_epoch(undisturbed, tmp_path, batch):
    assert rows(tmp_path, Wipes(batch, restore=True)) == undisturbed


def test_without_a_restore_the_means_differ(undisturbed, tmp_path):
    assert rows(tmp_path, Wipes(4, restore=False)) != undisturbed


class Logs(LightningModule):
    """Module that logs with each reduction: functions of torch, functions of Python, and names."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        value = torch.tensor(float((3 * batch_idx) % 7))
        for number, function in enumerate([max, min, sum, torch.max, torch.min, torch.sum, torch.mean, "max", "mean"]):
            self.log(f"{number}", value, on_step=False, on_epoch=True, reduce_fx=function)
        return self.weight

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_every_reduction_is_restored(tmp_path):
    found = []
    for wiped in ([], [Wipes(4, restore=True)]):
        trainer = plain_trainer(tmp_path, logger=False, callbacks=wiped)
        trainer.fit(Logs(), datamodule=PointData(batch_size=BATCH_SIZE, seed=3))
        found.append({name: value.item() for name, value in trainer.callback_metrics.items()})
    assert found[0] == found[1]
    assert [found[0][str(number)] for number in range(7)] == [6, 0, 21, 6, 0, 21, pytest.approx(63 / 23)]
