"""Goodput that the simulator predicts: for the runs that were measured, next to the measurement, and for other plans.

A measured run is replayed with its own failures: the uptimes of its attempts, in their order, and the mean of what its
starts and its waits took. An attempt that was asked to stop saved before, so it is not a failure: it is joined with the
next one. What comes after the last batch of an attempt (tests, uploads, a hang) is taken as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

from cairn.run.goodput import Span, TimeSpent
from cairn.study.choice import SHORTEST_S, USUAL_MTBF_S, Study
from cairn.study.failures import Exponential
from cairn.study.measured import Run
from cairn.study.simulate import Plan, Spent, predict, simulate
from cairn.types import SaveCost

_NUM_ATTEMPTS = 2000
"""Attempts to simulate for one prediction: the error of the share that is lost is 1 % of it, and a report is fast."""
_FACTORS = (0.25, 1.0, 4.0)
"""Other intervals and failure rates to predict, next to the measured ones."""
_MOST_INTERVALS = 5


@dataclass(frozen=True)
class Replay:
    """A run, and what the simulator says of it."""

    run: Run
    measured: Spent
    predicted: Spent


@dataclass(frozen=True)
class Forecast:
    """The goodput of one interval at one failure rate."""

    interval_s: float
    mtbf_s: float
    spent: Spent


@dataclass(frozen=True)
class Restarts:
    """What a restart costs on average, in seconds."""

    start_s: float = 0.0
    wait_s: float = 0.0


def replays(study: Study) -> list[Replay]:
    """Return the measured runs that can be replayed."""
    found = ((run, _replay(run, study.cost)) for run in study.sweep.runs)
    return [Replay(run, *both) for run, both in found if both is not None]


def restarts(runs: Iterable[Run]) -> Restarts:
    """Return what the restarts of some runs cost; zeros if there was none."""
    runs = list(runs)
    starts = [span.starting_s for run in runs for span in run.spans if span.trained_s]
    waits = [wait_s for run in runs for wait_s in _waits(run.spans)]
    return Restarts(fmean(starts) if starts else 0.0, fmean(waits) if waits else 0.0)


def forecasts(study: Study) -> list[Forecast]:
    """Predict the goodput of other intervals and failure rates; nothing if the cost of a save is unknown."""
    cost = study.cost
    if cost is None or cost.batch_s <= 0:
        return []
    known = restarts(study.sweep.runs)
    mtbfs_s = [study.mtbf_s * factor for factor in _FACTORS] if study.mtbf_s else list(USUAL_MTBF_S[::2])
    return [
        Forecast(interval_s, mtbf_s, predict(plan, Exponential(mtbf_s), num_attempts=_NUM_ATTEMPTS))
        for interval_s in _intervals_s(study, cost)
        if (plan := _plan(interval_s, cost, known)) is not None
        for mtbf_s in mtbfs_s
    ]


def _intervals_s(study: Study, cost: SaveCost) -> list[float]:
    measured = {float(f"{run.spacing_s:.2g}") for run in study.sweep.runs if run.spacing_s}
    chosen = [advice.interval_s for advice in study.advice[:1]] or sorted(measured)[:1]
    more = {float(f"{factor * interval_s:.2g}") for interval_s in chosen for factor in _FACTORS}
    few = sorted(measured)[:: max(1, len(measured) // 2)] if len(measured) > 2 else sorted(measured)
    # A save must end before the next one begins.
    return sorted({max(value, cost.write_s) for value in [*few, *more] if value > 0})[: 2 * _MOST_INTERVALS]


def _plan(interval_s: float, cost: SaveCost, known: Restarts) -> Plan | None:
    try:
        return Plan(interval_s, max(0.0, cost.save_s), cost.write_s, known.start_s, known.wait_s)
    except ValueError:
        return None


def _replay(run: Run, pooled: SaveCost | None) -> tuple[Spent, Spent] | None:
    spent, spans = run.spent, run.spans
    if spent is None or len(spans) != spent.num_starts or not run.spacing_s or spent.counted_s < SHORTEST_S:
        return None
    save_s = run.save_s if run.save_s is not None else pooled.save_s if pooled else None
    if save_s is None or run.ends is None:
        return None
    failed = [end.is_failure for end in run.ends]
    joined = [number + 1 for number, fails in enumerate(failed) if not fails]
    waits = _waits(spans)
    starts_s = [span.starting_s for number, span in enumerate(spans) if number not in joined]
    waits_s = [wait_s for wait_s, fails in zip(waits, failed, strict=True) if fails]
    write_s = min(run.write_s or 0.0, run.spacing_s + save_s)
    plan = Plan(run.spacing_s, save_s, write_s, fmean(starts_s), fmean(waits_s) if waits_s else 0.0)
    predicted = simulate(plan, [*_uptimes_s(spans, failed), math.inf], spent.counted_s)
    # What a simulation does not know: planned stops, and the ends of attempts.
    other_s = spent.ending_s + math.fsum(waits[number - 1] for number in joined)
    again_s = math.fsum(spans[number].starting_s for number in joined)
    hung_s = math.fsum(span.ended - span.seen for span in spans if span.hung)
    predicted = replace(
        predicted,
        waiting_s=predicted.waiting_s + other_s,
        starting_s=predicted.starting_s + again_s,
        lost_s=predicted.lost_s + hung_s,
    )
    return _measured(spent, sum(failed)), predicted


def _uptimes_s(spans: Sequence[Span], failed: Sequence[bool]) -> list[float]:
    """Return the uptimes until each failure; attempts that were asked to stop go on in the next one."""
    uptimes_s, so_far_s, is_joined = list[float](), 0.0, False
    for span, fails in zip(spans, failed, strict=False):
        so_far_s += span.trained_s if is_joined else span.seen - span.started
        is_joined = not fails
        if fails:
            uptimes_s.append(so_far_s)
            so_far_s = 0.0
    return uptimes_s


def _waits(spans: Sequence[Span]) -> list[float]:
    return [after.started - before.ended for before, after in pairwise(spans)]


def _measured(spent: TimeSpent, num_failures: int) -> Spent:
    waiting_s = spent.ending_s + spent.queue_s + spent.stopped_s
    return Spent(
        *(spent.counted_s, spent.saving_s or 0.0, spent.lost_s, spent.starting_s, waiting_s),
        num_failures=num_failures,
        is_finished=True,
    )
