"""WHERE a run pauses: a point of its full schedule. Nothing else about the run depends on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from cairn.errors import ConfigError
from cairn.types import PAUSE, Draft, Moment, Position
from cairn.units import SECONDS_PER_UNIT

Unit = Literal["epochs", "steps", "batches", "seconds"]

_UNITS: dict[str, Unit] = {"ep": "epochs", "st": "steps", "ba": "batches", "": "batches"}
_HOW = "give '3ep' (epochs), '200st' (optimizer steps), '500ba' (batches), or a training time such as '10min' or '2h'"


@dataclass(frozen=True)
class PausePoint:
    """A point of a run's full schedule, counted from its beginning over all attempts."""

    amount: Fraction
    unit: Unit
    text: str
    """As it was written."""

    def __str__(self) -> str:
        return self.text

    def is_reached(self, position: Position, num_epochs: int, elapsed_s: float, batches_per_epoch: int | None) -> bool:
        """Decide whether a run has come that far.

        Args:
            position: The boundary where it is.
            num_epochs: Epochs that are complete there, with the hooks at their ends.
            elapsed_s: Its training time, in seconds.
            batches_per_epoch: None if the training data has no length.

        Raises:
            ConfigError: The point lies inside of an epoch, and the data has no length.
        """
        if self.unit == "epochs":
            if num_epochs >= self.amount or self.amount.denominator == 1:
                return num_epochs >= self.amount
            if batches_per_epoch is None:
                raise ConfigError(
                    f"pause_at={self.text!r} lies inside of an epoch, and this training data has no length: give whole "
                    f"epochs, batches, steps or a time instead.",
                    parameter="pause_at",
                )
            return position.epoch * batches_per_epoch + position.batch >= self.amount * batches_per_epoch
        reached = {"steps": position.step, "batches": position.total_batches, "seconds": elapsed_s}[self.unit]
        return reached >= self.amount


def parse(value: str | int) -> PausePoint:
    """Read a point as a user writes it.

    Args:
        value: A number with a unit; without one, it counts batches.

    Raises:
        ConfigError: It is not a point after the beginning of a run.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value))
    number, suffix = match.groups() if match and not isinstance(value, bool) else ("", "")
    unit: Unit | None = "seconds" if suffix in SECONDS_PER_UNIT else _UNITS.get(suffix)
    is_whole = unit in ("epochs", "seconds") or "." not in number
    if not number or unit is None or not is_whole or Fraction(number) <= 0:
        raise ConfigError(
            f"pause_at={value!r} is not a point of a run after its beginning: {_HOW}.", parameter="pause_at"
        )
    return PausePoint(Fraction(number) * SECONDS_PER_UNIT.get(suffix, 1), unit, f"{number}{suffix}")


class AtPause:
    """Due where the run pauses. An undisturbed run would not save there, so the next save replaces this checkpoint."""

    lasting = recurs = False

    def __init__(self, point: PausePoint) -> None:
        self.point = point

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        return moment.stop == PAUSE
