"""What `self.log` has collected: values of all virtual ranks, in their order.

    on_step      the mean over the virtual ranks of a global batch (or the sum, the maximum or the minimum, as logged)
    on_epoch     see turns.py

Each value counts, whatever `sync_dist` says: Lightning would log those of process 0, of its last batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric

from cairn.errors import ConfigError
from cairn.lightning.bits.exchange import gathered
from cairn.lightning.bits.tree import Layout
from cairn.lightning.bits.turns import OF_LOGGED
from cairn.lightning.loops.whole_means import WholeMeans


class LoggedInTurns(WholeMeans):
    """What `self.log` has collected, by virtual ranks."""

    layout = Layout(1)
    virtual: int | None = None
    """The virtual rank whose batch is worked on; None: none is."""
    in_step = False
    """Whether hooks of the step log, which all processes run."""
    is_out = False
    """Whether what they log does not count: another process logs the same."""
    outside: dict[str, float]
    """What was logged outside of a batch, since `compare`."""
    reported: set[str]
    """Names that `compare` has warned of."""
    _latest: dict[str, Any]
    """Latest values before this batch."""

    def log(self, fx: str, name: str, value: Any, **options: Any) -> None:
        """See `LightningModule.log`."""
        if self.in_step and self.is_out:
            return
        if self.in_step:
            options["rank_zero_only"] = False  # it counts once, on whichever process
        elif options.get("rank_zero_only") and self.virtual:
            return
        if options.get("on_step") and not self.training:
            raise ConfigError(
                f"{name!r} is logged on_step=True in a validation or a test, in which each process has batches of its"
                f" own, so the rows of metrics.csv depend on their number: elastic='bits' needs on_epoch=True alone.",
                parameter="elastic",
            )
        if self.virtual is None and isinstance(value, Tensor) and not options.get("rank_zero_only"):
            self.outside[name] = float(value)
        super().log(fx, name, value, **{**options, "sync_dist": False, "sync_dist_group": None})

    def compare(self) -> None:
        """Warn of values that were logged outside of a batch and differ between processes."""
        found = gathered(self.outside, self.layout)
        self.outside = {}
        differs = [
            name
            for name, value in found[0].items()
            if any(one.get(name, value) != value and value == value for one in found) and name not in self.reported
        ]
        self.reported.update(differs)
        if differs:
            rank_zero_warn(
                f"{', '.join(differs)}: logged outside of a step, with another value on each process, and"
                f" elastic='bits' takes that of process 0, which depends on the number of processes. Log it in the step"
                f" of each batch, or use a torchmetrics object."
            )

    @staticmethod
    def _get_cache(result_metric: _ResultMetric, on_step: bool) -> Tensor | None:
        if not on_step and result_metric.meta.on_epoch and result_metric.is_tensor:
            result_metric.compute()  # here: Lightning would recommend sync_dist=True
        return WholeMeans._get_cache(result_metric, on_step)

    @property
    def live(self) -> list[str]:
        """Keys of what was logged in this epoch, on all processes."""
        return [key for key, one in self.items() if not one.has_reset and not one.meta.sync.rank_zero_only]

    def summed(self) -> dict[str, Metric]:
        """Return what is collected over an epoch, by name."""
        return {key: metric for key, metric in self.items() if metric.is_tensor and metric.meta.on_epoch}

    def batch_begins(self, virtual: int) -> None:
        """Begin a batch of a virtual rank."""
        self.virtual, self._latest = virtual, {}
        for key, metric in self._of_steps().items():
            self._latest[key], metric._forward_cache = metric._forward_cache, None

    def batch_ends(self) -> dict[str, Any]:
        """End it, and return the values that it has logged, by name."""
        found = {key: metric._forward_cache for key, metric in self._of_steps().items()}
        for key, metric in self._of_steps().items():
            if metric._forward_cache is None:
                metric._forward_cache = self._latest.get(key)
        self.virtual = None
        return {key: value for key, value in found.items() if isinstance(value, Tensor)}

    def set_latest(self, of_virtual: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Set the latest values to those of a global batch.

        Args:
            of_virtual: Values by name, by virtual rank.
        """
        for key, metric in self._of_steps().items():
            values = [of_virtual[one][key] for one in sorted(of_virtual) if key in of_virtual[one]]
            if not values:
                continue
            by = metric.meta.reduce_fx.__name__
            total = OF_LOGGED[by](values)
            metric._forward_cache = total / len(values) if by == "mean" else total
            if metric.is_tensor and not metric.meta.on_epoch:
                metric.value = metric._forward_cache

    def _of_steps(self) -> dict[str, _ResultMetric]:
        return {key: metric for key, metric in self.items() if metric.meta.on_step}


def take_over(results: Any, layout: Layout) -> LoggedInTurns:
    """Let a loop collect by virtual ranks from now on."""
    if not isinstance(results, LoggedInTurns):
        results.__class__, results._latest, results.outside, results.reported = LoggedInTurns, {}, {}, set()
        for key, metric in results.items():
            results[key] = metric
    results.layout = layout
    return results
