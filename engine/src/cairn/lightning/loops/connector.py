"""What is logged after a batch, in a run with virtual ranks."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector

from cairn.lightning.loops.calls import VirtualRanks


class WindowConnector(_LoggerConnector):
    """Lightning's way to the loggers, which logs once in a global batch, whatever its number of batches."""

    virtual_ranks: VirtualRanks

    @property
    def should_update_logs(self) -> bool:
        # Callbacks ask before each batch, such as LearningRateMonitor.
        return not self.virtual_ranks.is_inside and super().should_update_logs

    def on_batch_end(self) -> None:
        self.virtual_ranks.batch_logged()  # before callbacks and loggers get the values
        super().on_batch_end()


def install(trainer: Trainer, ranks: VirtualRanks | None) -> None:
    """Let a trainer log the values of all virtual ranks, if it has any."""
    connector = trainer._logger_connector
    if type(connector) not in (_LoggerConnector, WindowConnector):
        return
    connector.__class__ = _LoggerConnector if ranks is None else WindowConnector
    if isinstance(connector, WindowConnector) and ranks is not None:
        connector.virtual_ranks = ranks


WindowConnector.__name__ = _LoggerConnector.__name__  # as in epoch_loop.py
