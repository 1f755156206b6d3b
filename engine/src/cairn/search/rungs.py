"""WHERE trials stop to be compared: points of the full schedule, in the words of `pause_at`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from cairn.errors import ConfigError
from cairn.policy import pause

END = "end"
"""The last rung: the full length of a run."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Length:
    """The full length of a run, if it is known before it starts.

    Attributes:
        amount: How many epochs or steps; None: not known.
        suffix: `ep` or `st`.
    """

    amount: int | None = None
    suffix: str = "ep"

    @classmethod
    def of(cls, max_epochs: int | None, max_steps: int | None) -> Length:
        """Return the length of a run with these limits; None and -1 mean no limit."""
        if max_epochs is not None and max_epochs > 0:
            return cls(max_epochs)
        if max_steps is not None and max_steps > 0:
            return cls(max_steps, "st")
        return cls()


def parse(rungs: int | Sequence[str | int] | None, eta: int, length: Length) -> tuple[str, ...]:
    """Return where trials stop: increasing points, and the end.

    Args:
        rungs: Points such as `[1ep, 3ep]`, or their number with the end; None: as many as the length has room for.
        eta: From one rung to the next, the length grows by this factor.
        length: The full length of a run.

    Raises:
        ConfigError: These are not rungs.
    """
    if isinstance(eta, bool) or not isinstance(eta, int) or eta < 2:
        raise ConfigError(f"eta={eta!r} must be an integer from 2.", parameter="eta")
    if isinstance(rungs, str) or not isinstance(rungs, int | Sequence | None):
        raise ConfigError(_wrong(rungs), parameter="rungs")
    if isinstance(rungs, Sequence):
        return _given(rungs)
    return _spaced(rungs, eta, length)


def _given(rungs: Sequence[str | int]) -> tuple[str, ...]:
    points = [item for item in rungs if item != END]
    if len(points) != len(rungs) - (list(rungs[-1:]) == [END]):
        raise ConfigError(f"{_wrong(list(rungs))} {END!r} comes last.", parameter="rungs")
    try:
        found = [pause.parse(point) for point in points]
    except ConfigError as error:
        raise ConfigError(_wrong(list(rungs)), parameter="rungs") from error
    for one, next_one in pairwise(found):
        if one.unit != next_one.unit or one.amount >= next_one.amount:
            raise ConfigError(
                f"rungs={list(rungs)!r}: {next_one} does not come after {one}. Give increasing points in one unit.",
                parameter="rungs",
            )
    return (*map(str, found), END)


def _spaced(number: int | None, eta: int, length: Length) -> tuple[str, ...]:
    if isinstance(number, bool) or (number is not None and number < 1):
        raise ConfigError(_wrong(number), parameter="rungs")
    if number == 1:
        return (END,)
    if length.amount is None:
        raise ConfigError(
            f"rungs={number} needs the length of a run: set trainer.max_epochs or trainer.max_steps, or give the rungs "
            f"as a list such as [10min,30min].",
            parameter="rungs",
        )
    points: list[int] = []
    while (number is None or len(points) < number - 1) and (not points or points[-1] > 1):
        # Whole epochs: inside of one, there may be no validation to compare trials by.
        points.append(max(1, round(Fraction(length.amount, eta ** (len(points) + 1)))))
    found = sorted({point for point in points if point < length.amount})
    if number is not None and len(found) < number - 1:
        log.warning(
            "rungs=%d: %d%s have room for %d, with eta=%d.", number, length.amount, length.suffix, len(found) + 1, eta
        )
    return (*(f"{point}{length.suffix}" for point in found), END)


def _wrong(rungs: object) -> str:
    return f"rungs={rungs!r} must be a number, or a list of points such as [1ep,3ep], [200st,1000st] or [10min,1h]."
