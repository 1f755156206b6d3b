"""WHEN to save: pure policies, each asked at every moment at which a checkpoint is possible.

The engine asks all triggers of the configuration; every one that says yes becomes a reason of the same checkpoint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Protocol, TypeVar

from cairn.policy import auto
from cairn.types import Cost, Moment, Saved, beats
from cairn.units import SECONDS_PER_UNIT
from cairn.units import Duration as Duration
from cairn.units import parse_duration_s as parse_duration_s

N = TypeVar("N", int, float, Fraction)

_UNITS = (
    "a number of batches such as 50 or '50ba', or '100st' (optimizer steps), '90s', '10min', '2h', '0.25ep', or 'auto'"
)
_AUTO = "auto"


class Trigger(Protocol):
    """One reason to save."""

    lasting: bool
    """False if an undisturbed, longer run would not have saved there: such a checkpoint gives way to the next one."""
    recurs: bool
    """True if it will soon be due again, so that it may be left out while the writer is busy with the ones before."""

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        """Is a checkpoint due now? `saved` holds what is kept, oldest first."""
        ...


class EveryNBatches:
    """Each time the run has done another `num_batches` training batches, counted over the whole run."""

    lasting = recurs = True

    def __init__(self, num_batches: int) -> None:
        self.num_batches = _positive(num_batches)

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        # A crossing, not an equality: with gradient accumulation the exact multiple may lie inside a window.
        return _crossed(moment.previous.total_batches, moment.position.total_batches, self.num_batches)


class EveryNSteps:
    """Each time the run has done another `num_steps` optimizer steps."""

    lasting = recurs = True

    def __init__(self, num_steps: int) -> None:
        self.num_steps = _positive(num_steps)

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        return _crossed(moment.previous.step, moment.position.step, self.num_steps)


class EveryNSeconds:
    """When `seconds` of training have passed since the last save, whatever its reason was."""

    lasting = recurs = True

    def __init__(self, seconds: float) -> None:
        self.seconds = _positive(seconds)

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        return moment.since_save_s >= self.seconds


class EveryNEpochs:
    """Each time the run has done another `num_epochs` epochs; a fraction is a part of an epoch."""

    lasting = recurs = True

    def __init__(self, num_epochs: float | str | Fraction) -> None:
        # A Fraction of the written digits: 0.1 of an epoch ten times is one epoch, exactly.
        self.num_epochs = _positive(Fraction(str(num_epochs)))

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        if moment.batches_per_epoch is None:
            raise ValueError(
                f"save_interval='{float(self.num_epochs)}ep' needs training data with a length, and this has none: "
                f"give batches, steps or a time instead."
            )
        per_epoch = max(1, moment.batches_per_epoch)
        done = [p.epoch * per_epoch + p.batch for p in (moment.previous, moment.position)]
        return _crossed(done[0], done[1], self.num_epochs * per_epoch)


class Auto:
    """When so many batches have passed since its last save as `pace` finds best for what a save costs now.

    The one trigger with a memory: where it was due last, whatever other triggers save, and its choice. Before anything
    is known it waits; then it goes by an estimate until the first save was measured.

    Args:
        max_overhead: the most that saving may cost, as a share of the time that training takes without.
        mtbf: mean time between failures, in seconds or '8h'; None: not known.

    Raises:
        ValueError: one of them cannot be.
    """

    lasting = recurs = True

    def __init__(self, max_overhead: float = 0.01, mtbf: Duration | None = None) -> None:
        self.goal = auto.Goal(_share(max_overhead), None if mtbf is None else _mtbf_s(mtbf))
        self.choice: auto.Choice | None = None
        self._last: int | None = None
        self._num_busy = 0

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        if self._last is None:
            self._last = self._start(moment, saved)
        now, before = moment.position.total_batches, moment.previous.total_batches
        self._num_busy += now - before if moment.busy else 0
        self._tune(moment.cost, now - self._last)
        if now == before or moment.busy or not self._is_over(now - self._last):
            return False
        self._last, self._num_busy = now, 0
        return True

    def _is_over(self, num_batches: int) -> bool:
        """Is the interval over, after so many batches since the last save?

        Not while the writer is busy, nor for as long again: when writes take longer than was known, saves must not
        follow on each other's heels, or no batch is left to measure without one.
        """
        if self.choice is None:
            return False
        return num_batches >= max(self.choice.interval_batches, auto.ROOM * self._num_busy)

    def _start(self, moment: Moment, saved: Sequence[Saved]) -> int:
        """Take the interval over from before a resume; and count from the last save that might be this trigger's."""
        if saved and saved[-1].interval_batches:
            self.choice = auto.Choice(saved[-1].interval_batches, "resume", self.goal)
        lasting = [item.position.total_batches for item in saved if item.lasting]
        return lasting[-1] if lasting else moment.previous.total_batches

    def _tune(self, cost: Cost | None, num_batches: int) -> None:
        """Choose anew where it makes a difference: when a save is due by the old choice or by the new one.

        Not at every batch: while an estimate follows a change, it would pass through a dozen choices.
        """
        if cost is None:
            return
        new = auto.tune(self.choice, cost, self.goal)
        if self.choice is None or num_batches >= min(self.choice.interval_batches, new.interval_batches):
            self.choice = new


class Every:
    """The trigger that `save_interval` names: an integer counts batches, a string carries its unit.

    Args:
        interval: what `parse_interval` reads.
        max_overhead: for 'auto', as in `Auto`.
        mtbf: likewise.
    """

    lasting = recurs = True

    def __init__(self, interval: int | str, max_overhead: float = 0.01, mtbf: Duration | None = None) -> None:
        self.interval = interval
        self._trigger = parse_interval(interval, max_overhead, mtbf)

    @property
    def choice(self) -> auto.Choice | None:
        """What `auto` goes by; None as long as it does not know, and for other intervals."""
        return self._trigger.choice if isinstance(self._trigger, Auto) else None

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        return self._trigger.due(moment, saved)


class BestValidation:
    """After a validation whose score is among the best `count` (-1: after every validation with a finite score)."""

    lasting, recurs = True, False

    def __init__(self, count: int = 1) -> None:
        self.count = count

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        return beats(moment.score, saved, self.count, moment.mode)


class AtEnd:
    """At the last batch of the run."""

    lasting = recurs = False

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        return moment.ends


class OnStop:
    """When the run is asked to stop: Ctrl-C, SIGTERM, a time limit."""

    lasting = recurs = False

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        return moment.stop is not None


def reasons(triggers: Mapping[str, Trigger], moment: Moment, saved: Sequence[Saved]) -> tuple[str, ...]:
    """The names of all triggers that are due at `moment`, in the order of the configuration."""
    return tuple(name for name, trigger in triggers.items() if trigger.due(moment, saved))


def choice(triggers: Mapping[str, Trigger]) -> auto.Choice | None:
    """The interval that one of them has chosen by itself, if one does and has."""
    return next(filter(None, (getattr(trigger, "choice", None) for trigger in triggers.values())), None)


def parse_interval(interval: int | str, max_overhead: float = 0.01, mtbf: Duration | None = None) -> Trigger:
    """Read a `save_interval`.

    Args:
        interval: a positive number with a known unit, or 'auto'.
        max_overhead: for 'auto', as in `Auto`.
        mtbf: likewise.

    Raises:
        ValueError: the interval is something else, or 'auto' cannot go by the other two.
    """
    if interval == _AUTO:
        return Auto(max_overhead, mtbf)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(interval))
    number, unit = match.groups() if match else ("", "")
    if not number or isinstance(interval, bool):
        raise ValueError(f"save_interval={interval!r} is no interval: give {_UNITS}.")
    if Fraction(number) <= 0:
        raise ValueError(f"save_interval={interval!r} must be more than 0: give {_UNITS}.")
    if unit == "ep":
        return EveryNEpochs(number)
    if unit in SECONDS_PER_UNIT:
        return EveryNSeconds(float(number) * SECONDS_PER_UNIT[unit])
    if unit in ("", "ba", "st") and "." not in number:
        return EveryNSteps(int(number)) if unit == "st" else EveryNBatches(int(number))
    raise ValueError(f"save_interval={interval!r} is no interval: give {_UNITS}.")


def _mtbf_s(mtbf: Duration) -> float:
    """The mean time between failures, in seconds."""
    seconds = parse_duration_s(mtbf, name="mtbf")
    if not 0 < seconds < math.inf:
        raise ValueError(f"mtbf={mtbf!r} must be more than 0: give the mean time between failures, as in '8h'.")
    return seconds


def _share(max_overhead: float) -> float:
    if isinstance(max_overhead, bool) or not isinstance(max_overhead, (int, float)) or not 0 < max_overhead < 1:
        raise ValueError(f"max_overhead={max_overhead!r} must be a share between 0 and 1: 0.01 is 1 % of the time.")
    return max_overhead


def _crossed(before: int, now: int, interval: int | Fraction) -> bool:
    return math.floor(Fraction(now) / interval) > math.floor(Fraction(before) / interval)


def _positive(value: N) -> N:
    if value <= 0:
        raise ValueError(f"An interval must be more than 0, not {value}: give {_UNITS}.")
    return value
