"""Tells `Interrupts` how far a training is, so that a signal may wait for a boundary."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from cairn.jobs.signals import Interrupts


class WatchTraining(Callback):
    """While training runs, until its last save has arrived, a signal is remembered; then it stops at once."""

    def __init__(self, signals: Interrupts) -> None:
        self.signals = signals

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.reinstall()  # Lightning has put a handler of its own before ours
        self.signals.training = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.training = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.signals.training, self.signals.stopping = False, True
