"""Conclusions from a sweep, as numbers: the cost of a save, the failure rate, the interval that loses least time.

Runs whose figures cannot carry a conclusion are marked with a doubt.

An interval t loses a share d / t of the time to saves that cost d each, and t / 2M to repeated work, because a
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
from cairn.types import SaveCost

Doubt = Literal["no saves", "few saves", "too short", "unknown"]

FEWEST_SAVES = 3
"""With fewer saves, a single slow one decides the result."""
SHORTEST_S = 2.0
"""Shortest training that counts: in less time, loading and warming up weigh as much as saves."""
ALIKE = 2.0
"""Runs disagree if a save costs more than this many times as much in one as in another."""
USUAL_MTBF_S = (3600.0, 4 * 3600.0, 8 * 3600.0, 24 * 3600.0, 7 * 24 * 3600.0)
"""Typical mean times between failures, 1 h to 7 d, shown when the real one is unknown."""
NOTICEABLE = 0.01
"""Smallest difference that matters, as a share."""


@dataclass(frozen=True)
class FailureStatistics:
    """How often training was interrupted.

    Young's and Daly's mean time between failures counts ends without notice only: kills, and errors. When a signal
    asks a run to stop (preemption, the end of a time slot), the run saves its state and loses nothing, so a shorter
    interval would not help. A run that lost work although it was asked to stop, because its last save did not finish
    in time, counts as killed.
    """

    trained_s: float
    """Total training time of the runs that have a record of their attempts, lost work included."""
    ends: tuple[Interruption, ...] = ()
    num_unrecorded: int = 0
    """Number of runs without such a record."""

    @property
    def unannounced(self) -> tuple[Interruption, ...]:
        """Interruptions without notice: the failures."""
        return tuple(end for end in self.ends if end.is_failure)

    @property
    def announced(self) -> tuple[Interruption, ...]:
        """Interruptions by a signal, without any loss."""
        return tuple(end for end in self.ends if end.kind == "announced" and not end.is_failure)

    @property
    def mtbf_s(self) -> float | None:
        """Seconds of training per failure; None if there was none."""
        return self.trained_s / len(self.unannounced) if self.unannounced and self.trained_s else None

    @property
    def mtbf_error(self) -> float | None:
        """Relative standard error of `mtbf_s`, 1 / sqrt(n), for failures that come independently (Poisson)."""
        return 1 / math.sqrt(len(self.unannounced)) if self.unannounced else None


@dataclass(frozen=True)
class Advice:
    """The best interval for one mean time between failures. All times in seconds of training."""

    mtbf_s: float
    young_s: float
    daly_s: float
    interval_s: float
    """Interval to choose: Daly's, unless a bound asks for more."""
    interval_batches: int
    """The interval in batches, rounded to two digits: the loss is flat around its minimum."""
    loss: float
    """Share of the time that is lost at this interval, to saves and to repeated work."""
    why: Literal["failures", "overlap", "batch"]
    """failures: Daly's interval; overlap: a write must finish before the next save; batch: the shortest possible."""


@dataclass(frozen=True)
class Study:
    """A sweep with the conclusions from it."""

    sweep: Sweep
    failures: FailureStatistics
    given_mtbf_s: float | None = None
    """Mean time between failures from `--mtbf`."""

    @cached_property
    def doubts(self) -> tuple[Doubt | None, ...]:
        """Why the overhead of each run cannot be used; None if it can."""
        return tuple(doubt(run) for run in self.sweep.runs)

    @cached_property
    def cost(self) -> SaveCost | None:
        """SaveCost of a save over all runs without a doubt, or else over all runs; None if no run has measured it."""
        sure = [run for run, why in zip(self.sweep.runs, self.doubts, strict=True) if why is None]
        return pooled(sure or self.sweep.runs)

    @property
    def is_rough(self) -> bool:
        """Whether the cost comes from runs whose overhead is in doubt."""
        return self.cost is not None and None not in self.doubts

    @cached_property
    def spread(self) -> float:
        """Ratio of the highest to the lowest cost of a save among runs without a doubt; 1 for fewer than two."""
        able = zip(self.sweep.runs, self.doubts, strict=True)
        costs = [run.save_s for run, why in able if why is None and run.save_s]
        return max(costs) / min(costs) if costs else 1.0

    @property
    def mtbf_s(self) -> float | None:
        """Mean time between failures: the given one, else the measured one."""
        return self.given_mtbf_s or self.failures.mtbf_s

    @cached_property
    def advice(self) -> tuple[Advice, ...]:
        """Advice for the mean time between failures, or for each typical one if it is unknown."""
        cost = self.cost
        if cost is None or cost.save_s <= 0 or cost.batch_s <= 0:
            return ()
        return tuple(advise(cost, mtbf_s) for mtbf_s in ([self.mtbf_s] if self.mtbf_s else USUAL_MTBF_S))


def study(sweep: Sweep, mtbf_s: float | None = None) -> Study:
    """Draw the conclusions from a sweep.

    Args:
        sweep: Measurements of its runs.
        mtbf_s: Mean time between failures in seconds; None to take the measured one.
    """
    recorded = [run for run in sweep.runs if run.ends is not None]
    ends = tuple(end for run in recorded for end in run.ends or ())
    trained_s = math.fsum(run.trained_s for run in recorded)
    return Study(sweep, FailureStatistics(trained_s, ends, len(sweep.runs) - len(recorded)), mtbf_s)


def doubt(run: Run) -> Doubt | None:
    """Return why the overhead of a run cannot be used; None if it can."""
    if not run.num_saves:
        return "no saves"
    if run.cost_s is None or run.batch_s is None:
        return "unknown"
    if run.num_measured < FEWEST_SAVES:
        return "few saves"
    return "too short" if (run.elapsed_s or 0.0) < SHORTEST_S else None


def pooled(runs: Sequence[Run]) -> SaveCost | None:
    """Return the mean cost of a save over all saves of the runs; None if none of them has measured it.

    It is the total cost of saving divided by the number of saves. The stall is a part of it, slower batches are the
    rest. The time of a write is the median; the time of a batch includes validations.

    Args:
        runs: Runs to pool.
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
    return SaveCost(batch_s, stall_s, save_s - stall_s, median(save.write_s for save in saves), num_saves)


def advise(cost: SaveCost, mtbf_s: float) -> Advice:
    """Return the interval that loses the least time.

    Args:
        cost: SaveCost of a save.
        mtbf_s: Mean training time between failures, in seconds.
    """
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
    """Return the share of the time that is lost: d / t + t / 2M, in first order; see the head of this module.

    Args:
        save_s: SaveCost of a save, d.
        mtbf_s: Mean time between failures, M.
        interval_s: Interval between two saves, t.
    """
    return save_s / interval_s + interval_s / (2 * mtbf_s)


def _two_digits(value: float) -> int:
    """Round to two digits: 2743.9 to 2700."""
    return max(1, round(float(f"{value:.2g}")))
