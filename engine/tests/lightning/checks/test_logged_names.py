"""A name is refused only if no code can log it: what is computed may be anything."""

import functools
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torchmetrics import MeanMetric, MetricCollection

from cairn.lightning.checks.logged_names import may_log

lines = logging.getLogger(__name__)


def log_all(module, stage):
    module.log(f"{stage}/all", 1.0)


class Helper:
    def __init__(self, module):
        self.module = module

    def report(self, name):
        self.module.log("helper/" + name, 1.0)


class Plain(LightningModule):
    def training_step(self, batch, batch_idx):
        lines.log(logging.INFO, "a line")
        self.log("train/loss", math.log(2.0) + torch.ones(()).log())

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val/loss": 1.0, f"val/{batch_idx}/f1": 2.0})
        self.log(name="val/top" if batch else "val/end", value=1.0)


class ThroughOthers(Plain):
    def __init__(self):
        super().__init__()
        self.helper = Helper(self)

    def training_step(self, batch, batch_idx):
        log_all(self, "train")


class Collects(Plain):
    def __init__(self):
        super().__init__()
        self.scores = MetricCollection({"mean": MeanMetric()}, prefix="val/")

    def validation_step(self, batch, batch_idx):
        self.log_dict(self.scores)


class Anything(Plain):
    def validation_step(self, batch, batch_idx):
        self.log_dict(batch)


class PassesOn(Plain):
    def validation_step(self, batch, batch_idx):
        functools.partial(self.log, "val/x")(1.0)


class ByName(Plain):
    def validation_step(self, batch, batch_idx):
        getattr(self, "log")("val/x", 1.0)  # noqa: B009


class Sets(Callback):
    def on_validation_end(self, trainer, pl_module):
        trainer.callback_metrics["set/by_hand"] = trainer.callback_metrics.get("val/loss")


class Updates(Callback):
    def on_validation_end(self, trainer, pl_module):
        trainer.callback_metrics.update(a=1)


def trainer_of(model, *callbacks):
    return SimpleNamespace(lightning_module=model(), callbacks=[*callbacks], lr_scheduler_configs=[])


@pytest.mark.parametrize(
    ("model", "callback", "names", "others"),
    [
        (Plain, None, ["train/loss_epoch", "val/3/f1", "val/loss/dataloader_idx_1", "val/end"], ["val_loss", "val/f1"]),
        (Plain, Sets, ["set/by_hand"], ["set/by_hands"]),
        (ThroughOthers, None, ["test/all", "helper/x"], ["train/al", "help/x"]),
        (Collects, None, ["val/mean"], ["val/means", "mean"]),
        (Plain, Updates, ["a", "b"], []),
        (Anything, None, ["b"], []),
        (PassesOn, None, ["b"], []),
        (ByName, None, ["b"], []),
    ],
)
def test_names_that_the_code_may_log(model, callback, names, others):
    trainer = trainer_of(model, *([callback()] if callback else []))
    found = {name: may_log(trainer, name) for name in [*names, *others]}
    assert found == dict.fromkeys(names, True) | dict.fromkeys(others, False)
