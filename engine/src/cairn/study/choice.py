"""What follows from the figures of a sweep: what a save costs, how often runs fail, which interval loses least; numbers
only, and where they cannot carry a conclusion, which ones.

An interval t loses a share d / t of the time to saves that cost d each, and t / 2M to work done again, because a
failure, once per mean time M, comes on average in the middle of an interval: J. W. Young (1974), "A first order
approximation to the optimum checkpoint interval", CACM 17(9):530-531. Restarting costs the same at every interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Literal

from cairn.policy import auto
from cairn.study.measured import Interruption, Run, Sweep
from cairn.types import Cost

Doubt = Literal["no saves", "few saves", "too short", "unknown"]

FEWEST_SAVES = 3
"""With fewer, a single slow one is the result."""
SHORTEST_S = 2.0
"""Of training: in less, loading and warming up weigh as much as saves do."""
ALIKE = 2.0
"""Runs in which a save costs more than so many times what it costs in another one do not agree."""
USUAL_MTBF_S = (3600.0, 4 * 3600.0, 8 * 3600.0, 24 * 3600.0, 7 * 24 * 3600.0)
"""To choose from, when nobody knows: 1 h to 7 d."""
NOTICEABLE = 0.01
"""A share of the time, or of a value."""


@dataclass(frozen=True)
class FailureStatistics:
    """How often training ended before its time.

    The mean time between failures that Young and Daly ask for counts the ends without notice only: killed runs, and
    those that failed with an error. On a signal that asks it to stop (preemption, the end of a time slot) a run saves
    what it has and loses nothing, so no shorter interval would help: counting these would buy saves for nothing. One
    that lost work all the same, because its time was over before that save was written, counts as killed.
    """

    trained_s: float
    """All training of the runs that keep a record of their restarts, lost work included."""
    ends: tuple[Interruption, ...] = ()
    num_unrecorded: int = 0
    """Runs without such a record."""

    @property
    def unannounced(self) -> tuple[Interruption, ...]:
        """The failures."""
        return tuple(end for end in self.ends if end.is_failure)

    @property
    def announced(self) -> tuple[Interruption, ...]:
        """Asked to stop by a signal, with nothing lost."""
        return tuple(end for end in self.ends if end.kind == "announced" and not end.is_failure)

    @property
    def mtbf_s(self) -> float | None:
        """Seconds of training per failure; None if there was none."""
        return self.trained_s / len(self.unannounced) if self.unannounced and self.trained_s else None

    @property
    def mtbf_error(self) -> float | None:
        """Its relative standard error, 1 / sqrt(n): the failures are taken to come independently (Poisson)."""
        return 1 / math.sqrt(len(self.unannounced)) if self.unannounced else None


@dataclass(frozen=True)
class Advice:
    """The interval for a mean time between failures. All times in seconds of training."""

    mtbf_s: float
    young_s: float
    daly_s: float
    interval_s: float
    """What to choose: Daly's, unless a bound asks for more."""
    interval_batches: int
    """The same in batches; of two digits, because the loss hardly changes there."""
    loss: float
    """The share of the time that is lost at that interval, to saves and to work done again."""
    why: Literal["failures", "overlap", "batch"]
    """failures: it is Daly's; overlap: a write shall end before the next save; batch: there is no shorter one."""


@dataclass(frozen=True)
class Study:
    """A sweep and what follows from it."""

    sweep: Sweep
    failures: FailureStatistics
    given_mtbf_s: float | None = None
    """By `--mtbf`."""

    @cached_property
    def doubts(self) -> tuple[Doubt | None, ...]:
        """For each run why its overhead says nothing yet; None: it does."""
        return tuple(doubt(run) for run in self.sweep.runs)

    @cached_property
    def cost(self) -> Cost | None:
        """What a save costs, over all runs that can tell, or else over those that can barely; None: nobody can."""
        sure = [run for run, why in zip(self.sweep.runs, self.doubts, strict=True) if why is None]
        return pooled(sure or self.sweep.runs)

    @property
    def is_rough(self) -> bool:
        """Does the cost come from runs that can barely tell?"""
        return self.cost is not None and None not in self.doubts

    @cached_property
    def spread(self) -> float:
        """How many times what a save costs in one run it costs in another; 1 with fewer than two that can tell."""
        able = zip(self.sweep.runs, self.doubts, strict=True)
        costs = [run.save_s for run, why in able if why is None and run.save_s]
        return max(costs) / min(costs) if costs else 1.0

    @property
    def mtbf_s(self) -> float | None:
        """Mean time between failures: the given one, or the measured one."""
        return self.given_mtbf_s or self.failures.mtbf_s

    @cached_property
    def advice(self) -> tuple[Advice, ...]:
        """For the mean time between failures; if that is not known, for each of the usual ones."""
        cost = self.cost
        if cost is None or cost.save_s <= 0 or cost.batch_s <= 0:
            return ()
        return tuple(advise(cost, mtbf_s) for mtbf_s in ([self.mtbf_s] if self.mtbf_s else USUAL_MTBF_S))


def study(sweep: Sweep, mtbf_s: float | None = None) -> Study:
    """Draw the conclusions; `mtbf_s` is the mean time between failures, if somebody knows it."""
    recorded = [run for run in sweep.runs if run.ends is not None]
    ends = tuple(end for run in recorded for end in run.ends or ())
    trained_s = math.fsum(run.trained_s for run in recorded)
    return Study(sweep, FailureStatistics(trained_s, ends, len(sweep.runs) - len(recorded)), mtbf_s)


def doubt(run: Run) -> Doubt | None:
    """Why the overhead of a run says nothing yet."""
    if not run.num_saves:
        return "no saves"
    if run.cost_s is None or run.batch_s is None:
        return "unknown"
    if run.num_measured < FEWEST_SAVES:
        return "few saves"
    return "too short" if (run.elapsed_s or 0.0) < SHORTEST_S else None


def pooled(runs: Sequence[Run]) -> Cost | None:
    """What a save costs, over all saves of the runs; None if none of them knows.

    In all it is what saving has cost the runs, by the number of saves; standing still is a part of that, and slower
    batches are the rest. The time of a write is the median, that of a batch has validations in it.
    """
    able = [
        (run, run.cost_s, run.work_s) for run in runs if run.cost_s is not None and run.work_s and run.total_batches
    ]
    num_saves = sum(run.num_measured for run, *_ in able)
    if not num_saves:
        return None
    save_s = math.fsum(cost_s for _, cost_s, _ in able) / num_saves
    saves = [save for run, *_ in able for save in run.once]
    stall_s = min(save_s, math.fsum(save.stall_s for save in saves) / len(saves))
    batch_s = math.fsum(work_s for *_, work_s in able) / sum(run.total_batches or 0 for run, *_ in able)
    return Cost(batch_s, stall_s, save_s - stall_s, median(save.write_s for save in saves), num_saves)


def advise(cost: Cost, mtbf_s: float) -> Advice:
    """The interval that loses the least time, if a failure comes every `mtbf_s` seconds of training on average."""
    wanted = {
        "failures": auto.optimum(cost, mtbf_s),
        "overlap": auto.overlap_bound(cost),
        "batch": 1.0,
    }
    why = max(wanted, key=lambda name: wanted[name])  # of equals the first
    batches = max(1, math.ceil(wanted[why])) if why != "failures" else _two_digits(wanted[why])
    interval_s = batches * cost.batch_s
    young_s, daly_s = auto.young_s(cost.save_s, mtbf_s), auto.daly_s(cost.save_s, mtbf_s)
    share = expected_loss(cost.save_s, mtbf_s, interval_s)
    return Advice(mtbf_s, young_s, daly_s, interval_s, batches, share, why)  # type: ignore[arg-type]


def expected_loss(save_s: float, mtbf_s: float, interval_s: float) -> float:
    """The share of the time that is lost: d / t + t / 2M, in first order; see the head of this module."""
    return save_s / interval_s + interval_s / (2 * mtbf_s)


def _two_digits(value: float) -> int:
    """`2743.9` is 2700."""
    return max(1, round(float(f"{value:.2g}")))
