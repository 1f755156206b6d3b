"""Whether trials have a score at their first stop: a search that finds out there has trained all of them in vain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cairn.errors import ConfigError
from cairn.policy import pause
from cairn.search.rungs import END


@dataclass(frozen=True)
class _First:
    """The first validation of a run, as far as the keys of its trainer say it."""

    epochs: Fraction | None = None
    """None: it depends on the number of batches in an epoch."""
    batches: int | None = None
    """None: it depends on the number of batches in an epoch, or on time."""

    def comes_after(self, stop: str, batches_per_step: int) -> bool:
        point = pause.parse(stop)
        if point.unit == "epochs":
            return self.epochs is not None and point.amount < self.epochs
        if point.unit == "seconds" or self.batches is None:
            return False
        return point.amount * (batches_per_step if point.unit == "steps" else 1) < self.batches


def check(stop: str, trainer: Mapping[str, Any], group: Mapping[str, Any], metric: str) -> None:
    """Check that a validation comes before the first stop, if the metric is one of the validation.

    Args:
        stop: The first stop of trials.
        trainer: Keys of the group `trainer`.
        group: Keys of the group `checkpoint`.
        metric: What trials are compared by.

    Raises:
        ConfigError: Trials would have no score there.
    """
    if metric != group.get("monitor") and not metric.startswith("val"):
        return
    if trainer.get("limit_val_batches") in (0, 0.0) and not isinstance(trainer.get("limit_val_batches"), bool):
        raise ConfigError(f"trainer.limit_val_batches=0 leaves trials without a score: {metric} needs a validation.")
    keys = ("check_val_every_n_epoch", "val_check_interval")
    every, interval = (trainer.get(key) for key in keys)
    steps = trainer.get("accumulate_grad_batches")
    if stop != END and _first(every, interval).comes_after(stop, steps if type(steps) is int else 1):
        said = " ".join(f"trainer.{key}={trainer[key]}" for key in keys if trainer.get(key) is not None)
        raise ConfigError(
            f"rungs: trials would have no {metric} at their first stop, {stop}, because the first validation comes "
            f"later{f' ({said})' if said else ''}. Begin with a later stop, or validate earlier.",
            parameter="rungs",
        )


def _first(every: Any, interval: Any) -> _First:
    every = every if type(every) is int else None if every is None else 1
    if type(interval) is int:
        return _First(batches=interval)
    share = Fraction(interval) if type(interval) is float else Fraction(1)
    return _First(epochs=(every or 1) - 1 + share)
