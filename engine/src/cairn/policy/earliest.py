"""When a trigger can be due at the earliest: until then, boundaries need not ask it.

Each trigger answers in its own unit. A trigger that is not of exactly the classes here may be due at any boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cairn.policy.pause import AtPause
from cairn.policy.when import (
    AtEnd,
    Auto,
    BestValidation,
    Every,
    EveryNBatches,
    EveryNEpochs,
    EveryNSeconds,
    EveryNSteps,
    OnStop,
    Trigger,
)
from cairn.types import Moment


@dataclass(frozen=True)
class Earliest:
    """The earliest boundary without an event at which a trigger can be due: one that reaches any of the three.

    Events are an end, a stop, a score and another epoch.
    """

    total_batches: float = math.inf
    step: float = math.inf
    elapsed_s: float = math.inf
    """Training time of the run, in seconds."""


_NEVER, _ALWAYS = Earliest(), Earliest(total_batches=0)


def earliest(triggers: Iterable[Trigger], moment: Moment) -> Earliest:
    """Return the earliest boundary after `moment` at which one of the triggers can be due.

    Args:
        triggers: All triggers; each of them was asked at `moment`.
        moment: A boundary without an event, at which no save was begun.

    Returns:
        The earliest in each unit.
    """
    found = [_BY_CLASS.get(type(trigger), _any_time)(trigger, moment) for trigger in triggers] or [_NEVER]
    return Earliest(
        min(item.total_batches for item in found),
        min(item.step for item in found),
        min(item.elapsed_s for item in found),
    )


def _any_time(trigger: Any, moment: Moment) -> Earliest:
    return _ALWAYS


def _no_time(trigger: Any, moment: Moment) -> Earliest:
    return _NEVER


def _in_batches(trigger: EveryNBatches, moment: Moment) -> Earliest:
    return Earliest(total_batches=_next(moment.position.total_batches, trigger.num_batches))


def _in_steps(trigger: EveryNSteps, moment: Moment) -> Earliest:
    return Earliest(step=_next(moment.position.step, trigger.num_steps))


def _in_seconds(trigger: EveryNSeconds, moment: Moment) -> Earliest:
    return Earliest(elapsed_s=moment.elapsed_s - moment.since_save_s + trigger.seconds)


def _in_epochs(trigger: EveryNEpochs, moment: Moment) -> Earliest:
    if moment.batches_per_epoch is None:  # the trigger raises an error
        return _ALWAYS
    per_epoch, here = max(1, moment.batches_per_epoch), moment.position
    now = here.epoch * per_epoch + here.batch
    due = _next(now, trigger.num_epochs.numerator * per_epoch, trigger.num_epochs.denominator)
    return Earliest(total_batches=here.total_batches + due - now)


def _at_pause(trigger: AtPause, moment: Moment) -> Earliest:
    point, per_epoch, here = trigger.point, moment.batches_per_epoch, moment.position
    if point.unit == "steps":
        return Earliest(step=int(point.amount))
    if point.unit == "batches":
        return Earliest(total_batches=int(point.amount))
    if point.unit == "seconds":
        return Earliest(elapsed_s=float(point.amount))
    if point.amount.denominator == 1:  # the end of an epoch is an event
        return _NEVER
    if per_epoch is None:  # the point raises an error
        return _ALWAYS
    now = here.epoch * per_epoch + here.batch
    return Earliest(total_batches=here.total_batches + math.ceil(point.amount * per_epoch) - now)


def _by_cost(trigger: Auto, moment: Moment) -> Earliest:
    return _ALWAYS if trigger.earliest_batch is None else Earliest(total_batches=trigger.earliest_batch)


def _by_interval(trigger: Every, moment: Moment) -> Earliest:
    return _BY_CLASS[type(trigger.trigger)](trigger.trigger, moment)


def _next(now: int, numerator: int, denominator: int = 1) -> int:
    """Return the first integer after `now` that reaches another multiple of the interval, which is a fraction."""
    multiple = now * denominator // numerator + 1
    return -(-multiple * numerator // denominator)


_BY_CLASS: dict[type, Callable[[Any, Moment], Earliest]] = {
    EveryNBatches: _in_batches,
    EveryNSteps: _in_steps,
    EveryNSeconds: _in_seconds,
    EveryNEpochs: _in_epochs,
    Auto: _by_cost,
    Every: _by_interval,
    BestValidation: _no_time,
    AtEnd: _no_time,
    OnStop: _no_time,
    AtPause: _at_pause,
}
