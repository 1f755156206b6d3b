"""Report to `Interrupts` whether training runs, so that a signal can wait for a boundary."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from cairn.jobs.signals import Interrupts
from cairn.lightning import unused_hooks


class WatchTraining(Callback):
    """Callback that makes signals wait for a boundary, from the start of training until its last save is committed.

    Args:
        signals: The handlers of this process.
    """

    def __init__(self, signals: Interrupts) -> None:
        self.signals = signals
        unused_hooks.hide(self)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.signals.remember_own()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.reinstall()  # Lightning has installed a handler of its own since
        self.signals.training = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.training = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.signals.training, self.signals.stopping = False, True
