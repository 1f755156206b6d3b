"""Whether trials have a score at their first stop. Without one, a search would train them all and compare nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cairn.errors import ConfigError
from cairn.policy import pause
from cairn.search.rungs import END


def check(stop: str, trainer: Mapping[str, Any], group: Mapping[str, Any], metric: str) -> None:
    """Check that a validation may come before the first stop, if the metric is one of the validation.

    Args:
        stop: The first stop of trials.
        trainer: Keys of the group `trainer`.
        group: Keys of the group `checkpoint`.
        metric: Metric that trials are compared by.

    Raises:
        ConfigError: The configuration shows that trials have no score there.
    """
    if metric.startswith("train") or not (metric.startswith("val") or metric == group.get("monitor")):
        return
    is_short = trainer.get("overfit_batches") or trainer.get("fast_dev_run")  # they replace the limit
    if trainer.get("limit_val_batches") == 0 and not is_short:
        raise ConfigError(f"trainer.limit_val_batches=0 leaves trials without a score: {metric} needs a validation.")
    keys = ("check_val_every_n_epoch", "val_check_interval")
    if _earliest(*map(trainer.get, keys)).comes_after(stop, trainer.get("max_epochs")):
        said = ", ".join(f"trainer.{key}={trainer[key]}" for key in keys if trainer.get(key) is not None)
        raise ConfigError(
            f"rungs: trials would have no {metric} at their first stop, {stop}, because the first validation comes "
            f"later{f' ({said})' if said else ''}. Begin with a later stop, or validate earlier.",
            parameter="rungs",
        )


@dataclass(frozen=True)
class _Earliest:
    """Lower limits for the place of the first validation in a run."""

    epochs: Fraction = Fraction(0)
    batches: int = 0

    def comes_after(self, stop: str, max_epochs: Any) -> bool:
        if stop == END:
            return type(max_epochs) is int and 0 < max_epochs < self.epochs
        point = pause.parse(stop)
        # Steps are not compared: code of the model may accumulate as many batches as it likes for one.
        if point.unit == "batches":
            return point.amount < self.batches
        return point.unit == "epochs" and point.amount < self.epochs


def _earliest(every: Any, interval: Any) -> _Earliest:
    """Return the limits that `check_val_every_n_epoch` and `val_check_interval` set."""
    epochs_before = Fraction(every - 1 if type(every) is int else 0)
    if type(interval) is int:
        one_batch = Fraction(1, 10**9)  # of an epoch, or more
        return _Earliest(epochs_before + one_batch, interval)
    if interval is not None and type(interval) is not float:  # a time
        return _Earliest()
    share = Fraction(str(interval or 1.0))
    # Lightning rounds a share of an epoch down to whole batches, at least one: more than half of it is left.
    return _Earliest(epochs_before + (share if share == 1 else share / 2))
