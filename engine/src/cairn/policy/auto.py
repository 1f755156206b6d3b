"""The interval of `Every("auto")`: from the measured cost of a save to a number of batches.

The interval is the longest of three:

    overhead    batches after which a save costs at most `max_overhead` of the training time
    overlap     batches in which a save is written with time to spare
    failures    the optimum for the mean time between failures, if that is known (Young, Daly)

It changes only when the measured costs have changed clearly, so that the same figures give the same interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cairn.types import SaveCost
from cairn.units import format_duration

Reason = Literal["overhead", "overlap", "failures", "resume"]

ROOM = 2.0
"""The interval is at least this many times the write: a slow write still ends before the next save, and half of all
batches pass without a write, which keeps their usual time known."""
TOLERATED = 1.1
"""A bound may exceed the interval in use by this factor before the interval changes."""
WORTHWHILE = 1.5
"""The interval changes if it could be shorter by this factor, or if failures want it longer by this factor.

More than (1.1 / 0.9) ** 2: costs that vary by 10 % never move the interval back and forth."""


@dataclass(frozen=True)
class Goal:
    """What the user asks for, and knows."""

    max_overhead: float = 0.01
    """The most that saving may cost, as a share of the training time without saves."""
    mtbf_s: float | None = None
    """Mean time between failures, in seconds; None: unknown, save as often as the bounds allow."""


@dataclass(frozen=True)
class Choice:
    """An interval, and the figures behind it."""

    interval_batches: int
    why: Reason
    goal: Goal
    cost: SaveCost | None = None
    """None if the interval comes from before a resume."""

    def __str__(self) -> str:
        if self.cost is None:
            return f"Interval 'auto': every {_batches(self.interval_batches)}, as before the resume."
        took = self.interval_batches * self.cost.batch_s
        why, figures = _because(self.why, self.goal), _figures(self.cost)
        return f"Interval 'auto': every {_batches(self.interval_batches)} (about {_time(took)}), {why}: {figures}."


def choose(cost: SaveCost, goal: Goal) -> Choice:
    """Choose the shortest interval within both bounds, or the optimum for failures if that is longer.

    Args:
        cost: What a save costs.
        goal: What the user asks for.

    Returns:
        The choice.
    """
    wanted: dict[Reason, float] = {
        "overhead": overhead_bound(cost, goal.max_overhead),
        "overlap": overlap_bound(cost),
        "failures": optimum(cost, goal.mtbf_s),
    }
    why = max(wanted, key=lambda name: wanted[name])  # the first of equals: a bound explains more than a wish
    return Choice(max(1, math.ceil(wanted[why])), why, goal, cost)


def tune(old: Choice | None, cost: SaveCost, goal: Goal) -> Choice:
    """Keep the interval in use unless a change is worth it.

    Args:
        old: The choice in use; None: there is none yet.
        cost: What a save costs now.
        goal: What the user asks for.

    Returns:
        `old` or a new choice.
    """
    new = choose(cost, goal)
    if old is None or _is_guess_outdated(old, cost) or _is_broken(old, cost, goal) or _is_worthwhile(old, new, cost):
        return new
    return old


def overhead_bound(cost: SaveCost, max_overhead: float) -> float:
    """Smallest interval at which a save costs at most `max_overhead` of the training time, in (fractional) batches."""
    return cost.save_s / (max_overhead * _batch_s(cost))


def overlap_bound(cost: SaveCost) -> float:
    """Smallest interval in which a write ends with time to spare, in (fractional) batches."""
    return ROOM * cost.write_s / _batch_s(cost)


def optimum(cost: SaveCost, mtbf_s: float | None) -> float:
    """Interval that minimizes the duration of a run with failures, in (fractional) batches; 0 if none are expected.

    What counts is the training time that a save costs, not how long it is being written: N. H. Vaidya (1997), "Impact
    of checkpoint latency on overhead ratio of a checkpointing scheme", IEEE Trans. Computers 46(8):942-947.
    """
    return 0.0 if mtbf_s is None else daly_s(cost.save_s, mtbf_s) / _batch_s(cost)


def young_s(save_s: float, mtbf_s: float) -> float:
    """Seconds of work between two saves: sqrt(2 d M), where a save costs d and M is the mean time between failures.

    J. W. Young (1974), "A first order approximation to the optimum checkpoint interval", CACM 17(9):530-531.
    """
    return math.sqrt(2 * save_s * mtbf_s)


def daly_s(save_s: float, mtbf_s: float) -> float:
    """Seconds of work between two saves: sqrt(2 d M) (1 + x / 3 + x^2 / 9) - d with x = sqrt(d / 2 M); M if d >= 2 M.

    A save costs d; failures are a Poisson process with mean time M between them. The first term is Young's.

    J. T. Daly (2006), "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation
    Computer Systems 22(3):303-312.
    """
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    x = math.sqrt(save_s / (2 * mtbf_s))
    return young_s(save_s, mtbf_s) * (1 + x / 3 + x**2 / 9) - save_s


def _is_guess_outdated(old: Choice, cost: SaveCost) -> bool:
    return old.cost is not None and old.cost.num_saves == 0 < cost.num_saves


def _is_broken(old: Choice, cost: SaveCost, goal: Goal) -> bool:
    """True if a bound clearly exceeds the interval in use."""
    bound = max(overhead_bound(cost, goal.max_overhead), overlap_bound(cost))
    return bound > TOLERATED * old.interval_batches


def _is_worthwhile(old: Choice, new: Choice, cost: SaveCost) -> bool:
    # Rounding up on one side only keeps an interval of two batches from switching to one and back.
    is_too_long = math.ceil(WORTHWHILE * new.interval_batches) < old.interval_batches
    return is_too_long or optimum(cost, new.goal.mtbf_s) > WORTHWHILE * old.interval_batches


def _batch_s(cost: SaveCost) -> float:
    return max(cost.batch_s, 1e-9)  # a clock may be too coarse for a batch


def _because(why: Reason, goal: Goal) -> str:
    if why == "overlap":
        return "the shortest in which a save is written before the next one starts"
    if why == "failures" and goal.mtbf_s is not None:
        return f"the best for a failure every {_time(goal.mtbf_s)} (Young, Daly)"
    return f"so that saving costs at most {_number(100 * goal.max_overhead)} %"


def _figures(cost: SaveCost) -> str:
    parts = f"{_time(cost.stall_s)} pause and {_time(cost.slowdown_s)} by slower batches"
    saves = "1 save" if cost.num_saves == 1 else f"{cost.num_saves} saves"
    source = f"measured over {saves}" if cost.num_saves else "estimated before the first save"
    return (
        f"a save costs {_time(cost.save_s)} ({parts}), takes {_time(cost.write_s)} to write, a batch "
        f"{_time(cost.batch_s)}; {source}"
    )


def _batches(count: int) -> str:
    return "batch" if count == 1 else f"{count} batches"


def _time(seconds: float) -> str:
    return format_duration(seconds, digits=2)


def _number(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"
