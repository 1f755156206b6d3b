"""When to save: triggers, which are asked at every boundary.

Every trigger that is due becomes a reason of the same checkpoint. A trigger decides from the values that it is given
and does no I/O, so that it can be tested as a table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, Protocol

from cairn.errors import ConfigError
from cairn.policy import auto, given
from cairn.policy.keep import check_count
from cairn.policy.pause import AtPause
from cairn.types import PAUSE, Draft, Moment, SaveCost, beats
from cairn.units import SECONDS_PER_UNIT, Duration, parse_duration_s

_UNITS = (
    "give a number of batches such as 50 or '50ba', or '100st' (optimizer steps), '90s', '10min', '2h', '0.25ep', or "
    "'auto'"
)
_AUTO = "auto"


class Trigger(Protocol):
    """A reason to save."""

    lasting: bool
    """False if an undisturbed, longer run would not save there: the next save replaces such a checkpoint."""
    recurs: bool
    """True if the trigger is soon due again, so that a save may be skipped while the writer is busy."""

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        """Decide whether to save now.

        Args:
            moment: What is known at this boundary.
            saved: The checkpoints that are kept, oldest first, including those that are still being written.

        Returns:
            True to save.
        """
        ...


class EveryNBatches:
    """Due each time the run completes another `num_batches` training batches, counted over the whole run."""

    lasting = recurs = True

    def __init__(self, num_batches: int) -> None:
        self.num_batches = _whole("num_batches", num_batches)

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        return _crossed(moment.previous.total_batches, moment.position.total_batches, self.num_batches)


class EveryNSteps:
    """Due each time the run completes another `num_steps` optimizer steps."""

    lasting = recurs = True

    def __init__(self, num_steps: int) -> None:
        self.num_steps = _whole("num_steps", num_steps)

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        return _crossed(moment.previous.step, moment.position.step, self.num_steps)


class EveryNSeconds:
    """Due when `seconds` of training have passed since the last save, whichever trigger asked for that."""

    lasting = recurs = True

    def __init__(self, seconds: float) -> None:
        self.seconds = _positive("seconds", seconds)

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        return moment.since_save_s >= self.seconds


class EveryNEpochs:
    """Due each time the run completes another `num_epochs` epochs; a fraction is a part of an epoch."""

    lasting = recurs = True

    def __init__(self, num_epochs: float | str | Fraction) -> None:
        try:
            # The written digits, not the float: ten times 0.1 is then exactly one epoch.
            self.num_epochs = Fraction(str(num_epochs))
        except ValueError:
            self.num_epochs = Fraction(0)
        if not self.num_epochs > 0:
            raise ConfigError(f"num_epochs={num_epochs!r} must be a number greater than 0.", parameter="num_epochs")

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        if moment.batches_per_epoch is None:
            raise ConfigError(
                f"interval='{float(self.num_epochs)}ep' needs training data with a length, and this data has none: "
                f"give batches, steps or a time instead.",
                parameter="interval",
            )
        per_epoch = max(1, moment.batches_per_epoch)
        before, now = (p.epoch * per_epoch + p.batch for p in (moment.previous, moment.position))
        return _crossed(before, now, self.num_epochs.numerator * per_epoch, self.num_epochs.denominator)


class Auto:
    """Due when as many batches have passed since its last save as `auto.choose` finds best for the measured cost.

    The only trigger with a memory: its last save, regardless of other triggers, and its current choice. Before a cost
    is known it waits; then it uses an estimate until the first save is measured.

    Args:
        max_overhead: The most that saving may cost, as a share of the training time without saves.
        mtbf: Mean time between failures, in seconds or as '8h'; None: unknown.

    Raises:
        ConfigError: One of them is invalid.
    """

    lasting = recurs = True

    def __init__(self, max_overhead: float = 0.01, mtbf: Duration | None = None) -> None:
        self.goal = auto.Goal(_share(max_overhead), None if mtbf is None else _mtbf_s(mtbf))
        self.choice: auto.Choice | None = None
        self._last: int | None = None
        """Batches of the run at the last save of this trigger."""
        self._num_busy = 0
        """Batches since then during which a save was being written."""

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        if self._last is None:
            self._last = self._start(moment, saved)
        now, before = moment.position.total_batches, moment.previous.total_batches
        self._num_busy += now - before if moment.busy else 0
        self._tune(moment.cost, now - self._last)
        if now == before or moment.busy or not self._is_over(now - self._last):
            return False
        self._last, self._num_busy = now, 0
        return True

    @property
    def earliest_batch(self) -> int | None:
        """Batches of the run at the earliest next save by the present choice; None: that is not known yet."""
        return None if self.choice is None or self._last is None else self._last + self.choice.interval_batches

    def _is_over(self, num_batches: int) -> bool:
        """True if the interval ends `num_batches` after the last save."""
        if self.choice is None:
            return False
        # At least as many batches without a write as with one: if writes take longer than measured before, saves would
        # follow each other directly, and no batch would be left that shows the usual time.
        return num_batches >= max(self.choice.interval_batches, auto.ROOM * self._num_busy)

    def _start(self, moment: Moment, saved: Sequence[Draft]) -> int:
        """Continue with the interval from before a resume; return the batches at the last save that may be ours."""
        if saved and saved[-1].interval_batches:
            self.choice = auto.Choice(saved[-1].interval_batches, "resume", self.goal)
        lasting = [item.position.total_batches for item in saved if item.lasting]
        return lasting[-1] if lasting else moment.previous.total_batches

    def _tune(self, cost: SaveCost | None, num_batches: int) -> None:
        """Update the choice, but only when it matters: a save is due by the old choice or by the new one."""
        if cost is None:
            return
        new = auto.tune(self.choice, cost, self.goal)
        # Not at every batch: while an estimate adapts to a change, it would pass through a dozen choices.
        if self.choice is None or num_batches >= min(self.choice.interval_batches, new.interval_batches):
            self.choice = new


class Every:
    """Due at a fixed interval in batches, steps, time or epochs, or at one that is tuned to the cost of a save.

    Args:
        interval: An integer counts batches; a string carries its unit: '100st' (optimizer steps), '90s', '10min',
            '2h', '0.25ep', or 'auto'.
        max_overhead: For 'auto', as in `Auto`.
        mtbf: For 'auto', as in `Auto`.

    Raises:
        ConfigError: One of them is invalid.
    """

    lasting = recurs = True

    def __init__(self, interval: int | str, max_overhead: float = 0.01, mtbf: Duration | None = None) -> None:
        self.interval = interval
        self.trigger = parse_interval(interval, max_overhead, mtbf)

    @property
    def choice(self) -> auto.Choice | None:
        """The interval that 'auto' uses now; None before it has one, and for other intervals."""
        return self.trigger.choice if isinstance(self.trigger, Auto) else None

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        return self.trigger.due(moment, saved)


class BestValidation:
    """Due after a validation whose score is among the best `count`; -1: after each validation with a finite score."""

    lasting, recurs = True, False

    def __init__(self, count: int = 1) -> None:
        self.count = check_count(count)

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        return beats(moment.score, saved, self.count, moment.mode)


class AtEnd:
    """Due at the last batch of the run."""

    lasting = recurs = False

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        return moment.ends


class OnStop:
    """Due when the run is asked to stop: Ctrl-C, SIGTERM, a time limit."""

    lasting = recurs = False

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        return moment.stop not in (None, PAUSE)  # a pause saves by a trigger of its own


OF_EVENTS: tuple[type, ...] = (BestValidation, AtEnd, OnStop, AtPause)
"""Triggers that are never due at a moment without a score, an end and a stop, and need not be asked there. Exactly
these classes: one that derives from them may answer differently."""


def check_triggers(triggers: Any) -> dict[str, Trigger]:
    """Check that `triggers` maps names to triggers, before the first of them is asked.

    Args:
        triggers: What a user gave.

    Returns:
        The same triggers.

    Raises:
        ConfigError: It is not a mapping, or one of its values is not a trigger.
    """
    checked = given.named("triggers", triggers, "{'a_name': cairn.Every('10min')}")
    for name, trigger in checked.items():
        if isinstance(trigger, int | str):
            raise ConfigError(
                f"triggers[{name!r}] is {trigger!r}, not a trigger: write every={trigger!r}, or "
                f"triggers={{{name!r}: cairn.Every({trigger!r})}}."
            )
        if not given.has_method(trigger, "due", ("lasting", "recurs")):
            raise ConfigError(
                f"triggers[{name!r}] is {trigger!r}, not a trigger: it needs a method due(moment, saved) and the "
                f"attributes lasting and recurs."
            )
    return checked


def reasons(triggers: Mapping[str, Trigger], moment: Moment, saved: Sequence[Draft]) -> tuple[str, ...]:
    """Names of all triggers that are due at `moment`, in the order of `triggers`."""
    return tuple([name for name, trigger in triggers.items() if trigger.due(moment, saved)])


def tuning(triggers: Mapping[str, Trigger]) -> dict[str, Trigger]:
    """The triggers that may choose an interval by themselves."""
    fixed = {name for name, item in triggers.items() if type(item) is Every and not isinstance(item.trigger, Auto)}
    return {name: item for name, item in triggers.items() if hasattr(item, "choice") and name not in fixed}


def choice(triggers: Mapping[str, Trigger]) -> auto.Choice | None:
    """The interval that the first tuning trigger uses now; None if there is no such trigger, or no choice yet."""
    for trigger in triggers.values():
        if chosen := getattr(trigger, "choice", None):
            return chosen
    return None


def parse_interval(interval: int | str, max_overhead: float = 0.01, mtbf: Duration | None = None) -> Trigger:
    """Turn the interval of `Every` into a trigger.

    Args:
        interval: A positive number with a known unit, or 'auto'.
        max_overhead: For 'auto', as in `Auto`.
        mtbf: For 'auto', as in `Auto`.

    Returns:
        The trigger of that unit.

    Raises:
        ConfigError: The interval is something else, or 'auto' cannot use the other two.
    """
    if interval == _AUTO:
        return Auto(max_overhead, mtbf)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(interval))
    number, unit = match.groups() if match else ("", "")
    if not number or isinstance(interval, bool):
        raise ConfigError(f"interval={interval!r} is not an interval: {_UNITS}.", parameter="interval")
    if Fraction(number) <= 0:
        raise ConfigError(f"interval={interval!r} must be more than 0: {_UNITS}.", parameter="interval")
    if unit == "ep":
        return EveryNEpochs(number)
    if unit in SECONDS_PER_UNIT:
        return EveryNSeconds(float(number) * SECONDS_PER_UNIT[unit])
    if unit in ("", "ba", "st") and "." not in number:
        return EveryNSteps(int(number)) if unit == "st" else EveryNBatches(int(number))
    raise ConfigError(f"interval={interval!r} is not an interval: {_UNITS}.", parameter="interval")


def _mtbf_s(mtbf: Duration) -> float:
    try:
        seconds = parse_duration_s(mtbf, name="mtbf")
    except ValueError as error:
        raise ConfigError(str(error), parameter="mtbf") from error
    if not 0 < seconds < math.inf:
        raise ConfigError(
            f"mtbf={mtbf!r} must be more than 0: give the mean time between failures, as in '8h'.", parameter="mtbf"
        )
    return seconds


def _share(max_overhead: float) -> float:
    if isinstance(max_overhead, bool) or not isinstance(max_overhead, (int, float)) or not 0 < max_overhead < 1:
        raise ConfigError(
            f"max_overhead={max_overhead!r} must be a share between 0 and 1: 0.01 is 1 % of the time.",
            parameter="max_overhead",
        )
    return max_overhead


def _crossed(before: int, now: int, numerator: int, denominator: int = 1) -> bool:
    """Whether a multiple of the interval, which is a fraction, lies after `before`, and not after `now`."""
    # A crossing, not an equality: with gradient accumulation the exact multiple may lie inside a window. In integers,
    # because this is asked at every boundary.
    return now * denominator // numerator > before * denominator // numerator


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"{name}={value!r} must be an integer from 1.", parameter=name)
    return int(value)


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not value > 0:
        raise ConfigError(f"{name}={value!r} must be a number greater than 0.", parameter=name)
    return value
