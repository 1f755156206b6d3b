"""HOW OFTEN, when `save_interval=auto`: from what a save costs to the number of batches between two of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cairn.types import Cost
from cairn.units import format_duration

Reason = Literal["overhead", "overlap", "failures", "resume"]

ROOM = 2.0
"""The interval is at least so many times the write: a write that takes longer than usual still ends before the next
save, and half of all batches pass while nothing is written, so that their usual time stays known."""
TOLERATED = 1.1
"""A bound that asks for up to so many times the interval is not broken clearly."""
WORTHWHILE = 1.5
"""An interval that could be so many times shorter, or that failures want so many times longer, is worth a change.

More than 1.1 / 0.9 squared: figures that all vary by 10 % never move the interval up and down again."""


@dataclass(frozen=True)
class Goal:
    """What the user asks for."""

    max_overhead: float = 0.01
    """The most that saving may cost, as a share of the time that training takes without."""
    mtbf_s: float | None = None
    """Mean time between failures, in seconds; None: not known, save as often as the bounds allow."""


@dataclass(frozen=True)
class Choice:
    """An interval, and the figures that it was chosen from."""

    interval_batches: int
    why: Reason
    goal: Goal
    cost: Cost | None = None
    """None if it was taken over from before a resume."""

    def __str__(self) -> str:
        if self.cost is None:
            return f"save_interval=auto: every {_batches(self.interval_batches)}, as before the resume."
        took = self.interval_batches * self.cost.batch_s
        why, figures = _because(self.why, self.goal), _figures(self.cost)
        return f"save_interval=auto: every {_batches(self.interval_batches)} (about {_time(took)}), {why}: {figures}."


def choose(cost: Cost, goal: Goal) -> Choice:
    """The shortest interval within both bounds; with a known time between failures the best one within them."""
    wanted: dict[Reason, float] = {
        "overhead": overhead_bound(cost, goal.max_overhead),
        "overlap": overlap_bound(cost),
        "failures": optimum(cost, goal.mtbf_s),
    }
    why = max(wanted, key=lambda name: wanted[name])  # of equals the first: a bound before a wish
    return Choice(max(1, math.ceil(wanted[why])), why, goal, cost)


def tune(old: Choice | None, cost: Cost, goal: Goal) -> Choice:
    """What to go by now: `old`, unless a change is worth it."""
    new = choose(cost, goal)
    if old is None or _is_guess_outdated(old, cost) or _is_broken(old, cost, goal) or _is_worthwhile(old, new, cost):
        return new
    return old


def overhead_bound(cost: Cost, max_overhead: float) -> float:
    """The fewest batches, as a fraction, whose time a save costs no more than `max_overhead` of."""
    return cost.save_s / (max_overhead * _batch_s(cost))


def overlap_bound(cost: Cost) -> float:
    """The fewest batches, as a fraction, in which a write ends with room to spare."""
    return ROOM * cost.write_s / _batch_s(cost)


def optimum(cost: Cost, mtbf_s: float | None) -> float:
    """The batches, as a fraction, between two saves that make a run with failures shortest; 0 if none are expected.

    What counts is the time that training loses by a save, however long it is being written: N. H. Vaidya (1997),
    "Impact of checkpoint latency on overhead ratio of a checkpointing scheme", IEEE Trans. Computers 46(8):942-947.
    """
    return 0.0 if mtbf_s is None else daly_s(cost.save_s, mtbf_s) / _batch_s(cost)


def young_s(save_s: float, mtbf_s: float) -> float:
    """Seconds of work between two saves: sqrt(2 d M), for a save that costs d and a mean time M between failures.

    J. W. Young (1974), "A first order approximation to the optimum checkpoint interval", CACM 17(9):530-531.
    """
    return math.sqrt(2 * save_s * mtbf_s)


def daly_s(save_s: float, mtbf_s: float) -> float:
    """Seconds of work between two saves: sqrt(2 d M) (1 + x / 3 + x^2 / 9) - d with x = sqrt(d / 2 M); M if d >= 2 M.

    d is what a save costs, M the mean time between failures that come as a Poisson process. The first term is Young's.

    J. T. Daly (2006), "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation
    Computer Systems 22(3):303-312.
    """
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    x = math.sqrt(save_s / (2 * mtbf_s))
    return young_s(save_s, mtbf_s) * (1 + x / 3 + x**2 / 9) - save_s


def _is_guess_outdated(old: Choice, cost: Cost) -> bool:
    return old.cost is not None and old.cost.num_saves == 0 < cost.num_saves


def _is_broken(old: Choice, cost: Cost, goal: Goal) -> bool:
    """Does a bound ask for clearly more than the interval in use?"""
    bound = max(overhead_bound(cost, goal.max_overhead), overlap_bound(cost))
    return bound > TOLERATED * old.interval_batches


def _is_worthwhile(old: Choice, new: Choice, cost: Cost) -> bool:
    # Rounded up on one side and not at all on the other: between one batch and two, too, small changes are none.
    is_too_long = math.ceil(WORTHWHILE * new.interval_batches) < old.interval_batches
    return is_too_long or optimum(cost, new.goal.mtbf_s) > WORTHWHILE * old.interval_batches


def _batch_s(cost: Cost) -> float:
    return max(cost.batch_s, 1e-9)  # a clock may be too coarse for a batch


def _because(why: Reason, goal: Goal) -> str:
    if why == "overlap":
        return "the shortest in which a save is written before the next one begins"
    if why == "failures" and goal.mtbf_s is not None:
        return f"the best for a failure every {_time(goal.mtbf_s)} (Young, Daly)"
    return f"so that saving costs at most {_number(100 * goal.max_overhead)} %"


def _figures(cost: Cost) -> str:
    parts = f"{_time(cost.stall_s)} standing still and {_time(cost.slowdown_s)} by slower batches"
    saves = "1 save" if cost.num_saves == 1 else f"{cost.num_saves} saves"
    source = f"measured over {saves}" if cost.num_saves else "an estimate before the first save"
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
