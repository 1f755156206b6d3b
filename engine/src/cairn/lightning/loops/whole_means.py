"""Means over an epoch that are right although the processes have different numbers of samples.

For `self.log(..., on_epoch=True, sync_dist=True)`, Lightning divides the mean of the sums by the mean of the numbers of
samples, and rounds the latter down to an integer: 13 samples on 3 processes count as 12. Fractions are kept here.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric

_COUNT = "cumulated_batch_size"


class WholeMeans(_ResultCollection):
    """What `self.log` has collected, with numbers of samples that are not rounded."""

    def __setitem__(self, key: str, metric: _ResultMetric) -> None:
        if metric.is_tensor and metric.meta.is_mean_reduction:
            # A float32 counts up to 16 million samples of a process exactly, and some devices have no float64.
            metric._defaults[_COUNT] = torch.tensor(0.0)
            metric.cumulated_batch_size = metric.cumulated_batch_size.float()
        super().__setitem__(key, metric)


def keep(results: Any) -> None:
    """Let a loop's results be whole means from now on."""
    if type(results) is _ResultCollection:
        results.__class__ = WholeMeans
        for key, metric in results.items():
            results[key] = metric
