"""The learning rate of a new run that starts in the middle of a schedule with other settings.

A scheduler saves its settings with its counters, and most schedulers compute a rate from the one before it. So where
another schedule would be does not follow from the state of the earlier one. It is found by doing what a run from the
start would have done: the schedulers take their steps again, from the state in which this run has built them. A million
steps take some seconds. Of many, schedulers whose rate is a function of the step take the last one only.
"""

from __future__ import annotations

import copy
import heapq
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer, lr_scheduler

from cairn.lightning.settings.alike import SCHEDULED, one_of_each_kind, put

log = logging.getLogger(__name__)

_MANY_STEPS, _MOST_STEPS = 100_000, 1_000_000
"""Steps that take a second, and those that are repeated at most; each counts once for each kind of parameter groups."""
_BY_STEP = (lr_scheduler.LambdaLR, lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)
"""Schedulers that compute each rate from the number of the step alone."""


class TooManySteps(Exception):
    """A schedule cannot be repeated in a few seconds."""


class Schedule:
    """The schedulers of one optimizer, as they were built.

    Args:
        optimizer: The optimizer, before a state is loaded.
        schedulers: The schedulers that act on it.
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[Any]) -> None:
        self.optimizer, self.schedulers = optimizer, schedulers
        self._names = [(part, {*vars(part)}) for scheduler in schedulers for _, part in nested(scheduler, "")]
        self._built = self._state()

    def move_to(self, counts: Sequence[int]) -> None:
        """Set rates and schedulers to where a run from the start would be; unchanged if a scheduler raises an error.

        Args:
            counts: Number of steps that each scheduler has taken.

        Raises:
            TooManySteps: Each rate follows from the one before, and there are too many.
            Exception: Whatever a scheduler raises that cannot take these steps.
        """
        loaded = self._state()
        try:
            self._set(*self._built)
            for scheduler, names in self._names:  # those of another class, whose state was loaded
                for name in vars(scheduler).keys() - names:
                    vars(scheduler).pop(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "step before optimizer.step()"
                with one_of_each_kind(self.optimizer, [part for part, _ in self._names]) as num_groups:
                    self._repeat(counts, num_groups)
        except Exception:
            self._set(*loaded)
            raise

    def _repeat(self, counts: Sequence[int], num_groups: int) -> None:
        num_steps = sum(counts) * num_groups
        if num_steps > _MANY_STEPS and len(self.schedulers) == 1 and _is_by_step(self.schedulers[0]):
            (scheduler,) = self.schedulers
            scheduler.last_epoch, scheduler._step_count = counts[0] - 1, counts[0]
            scheduler.step()
            return
        if num_steps > _MOST_STEPS:
            kinds = f"{num_groups} kind{'s' if num_groups > 1 else ''} of parameter groups"
            raise TooManySteps(f"{sum(counts)} steps for {kinds} take too long to repeat")
        if num_steps > _MANY_STEPS:
            names = ", ".join(type(item).__name__ for item in self.schedulers)
            log.info("Repeating %d steps of %s, to find the learning rate of this run.", sum(counts), names)
        for index in _in_turn(counts):
            self.schedulers[index].step()

    def scale(self, ratios: Sequence[float]) -> None:
        """Multiply the current rates: all that is known of a schedule that depends on a metric.

        Args:
            ratios: For each parameter group, the configured learning rate, as a multiple of the earlier one.
        """
        for group, ratio in zip(self.optimizer.param_groups, ratios, strict=False):
            put(group, "lr", group["lr"] * ratio)
        for scheduler in self.schedulers:
            if hasattr(scheduler, "_last_lr"):
                scheduler._last_lr = [copy.deepcopy(group["lr"]) for group in self.optimizer.param_groups]

    def _state(self) -> tuple[list[dict[str, Any]], list[Any]]:
        groups = [
            {name: copy.deepcopy(group[name]) for name in SCHEDULED if name in group}
            for group in self.optimizer.param_groups
        ]
        return groups, [copy.deepcopy(scheduler.state_dict()) for scheduler in self.schedulers]

    def _set(self, groups: Sequence[Mapping[str, Any]], states: Sequence[Any]) -> None:
        for group, values in zip(self.optimizer.param_groups, groups, strict=True):
            for name, value in values.items():
                put(group, name, copy.deepcopy(value))
        for scheduler, state in zip(self.schedulers, states, strict=True):
            scheduler.load_state_dict(copy.deepcopy(state))


def schedules(trainer: Trainer) -> list[Schedule]:
    """Return the schedulers of each optimizer."""
    every = [config.scheduler for config in trainer.lr_scheduler_configs]
    return [Schedule(own, [item for item in every if item.optimizer is own]) for own in trainer.optimizers]


def nested(scheduler: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield a scheduler and those inside of it (SequentialLR, ChainedScheduler), with a key for each."""
    yield key, scheduler
    for index, inner in enumerate(getattr(scheduler, "_schedulers", [])):
        yield from nested(inner, f"{key}.{index}")


def num_steps(scheduler: Any) -> int | None:
    """Return how many steps a scheduler has taken by its own count; None: it does not count them."""
    counts = [part.last_epoch for _, part in nested(scheduler, "") if hasattr(part, "last_epoch")]
    outer = getattr(scheduler, "last_epoch", max(counts, default=None))  # a ChainedScheduler has none
    return None if outer is None else int(outer)


def ratio(made: Mapping[str, Any], changed: Mapping[str, tuple[Any, Any]]) -> float:
    """Return the configured learning rate of a group as a multiple of the earlier one; 1 if it is unknown.

    Args:
        made: Configured settings of the group.
        changed: Settings that have changed, with the earlier and the present value.
    """
    name = "initial_lr" if "initial_lr" in made else "lr"  # the first exists if a scheduler acts on the group
    before, now = changed.get(name, (1.0, 1.0))
    return float(now) / float(before) if before else 1.0


def _in_turn(counts: Sequence[int]) -> Iterator[int]:
    """Yield the indices of schedulers in the order in which they take their steps in a training."""
    return (index for _, index in heapq.merge(*(_turns(index, count) for index, count in enumerate(counts))))


def _turns(index: int, count: int) -> Iterator[tuple[float, int]]:
    return ((step / count, index) for step in range(1, count + 1))


def _is_by_step(scheduler: Any) -> bool:
    kind = type(scheduler)
    return any(issubclass(kind, known) and kind.get_lr is known.get_lr for known in _BY_STEP)
