"""Goodput of a run that fails: how much of its time is training that counts. Standard library only.

One attempt, from its start to the failure that ends it (`|` a snapshot is taken, `C` it is committed):

    start_s      interval_s  save_s  interval_s  save_s  interval_s
    ===========--------------|##|----C---------|##|----C--------X  failure
                             <-------->                 <------->
                              write_s                     lost: the next attempt trains it again

A save costs the training `save_s` (the pause, and slower batches), and protects what was trained before it only
`write_s` after it began, when it is committed. After a failure, `wait_s` passes until the next attempt starts; nothing
can fail meanwhile. An attempt may also fail during `start_s`. Within one attempt, the saves are counted by arithmetic,
so that the cost of a simulation grows with the number of failures only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from cairn.study.failures import Exponential, Failures

NUM_ATTEMPTS = 20_000
"""Attempts that a prediction simulates: the lost time of one failure varies by 60 %, the mean of them by 0.4 %."""


@dataclass(frozen=True)
class Plan:
    """How a run saves and restarts. All times in seconds.

    Raises:
        ValueError: A time is negative or not a number, or the saves would overlap.
    """

    interval_s: float
    """Training time between two saves; `math.inf`: the run never saves."""
    save_s: float = 0.0
    """Training time that a save costs: the pause, and slower batches during the write."""
    write_s: float = 0.0
    """From the beginning of a save to its commit. A save that training waits for takes `save_s`, which is the least."""
    start_s: float = 0.0
    """From the start of an attempt to its first new batch: imports, loading the checkpoint, warming up."""
    wait_s: float = 0.0
    """From a failure to the start of the next attempt: noticing it, replacing the node, the queue."""

    @property
    def commit_s(self) -> float:
        """From the beginning of a save to its commit, and never less than the save costs."""
        return max(self.save_s, self.write_s)

    def __post_init__(self) -> None:
        for name in ("save_s", "write_s", "start_s", "wait_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a number of seconds from 0.")
        if not self.interval_s > 0:
            raise ValueError(f"interval_s={self.interval_s!r} must be positive.")
        if self.write_s > self.interval_s + self.save_s:
            raise ValueError(
                f"interval_s={self.interval_s:g}: a save takes {self.write_s:g} s to write, so that saves would"
                " overlap. Choose a longer interval."
            )


@dataclass(frozen=True)
class Spent:
    """What the time of a run was spent on, over all of its attempts, in seconds."""

    counted_s: float = 0.0
    """Training whose result was kept."""
    saving_s: float = 0.0
    """Training time that saves cost, and the wait for the last one at the end."""
    lost_s: float = 0.0
    """Training that a failure undid, and that a later attempt repeats."""
    starting_s: float = 0.0
    waiting_s: float = 0.0
    num_failures: int = 0
    is_finished: bool = False
    """Whether the work was done before the failures ended; a sum of runs is finished if all of them are."""

    @property
    def total_s(self) -> float:
        """All of the time."""
        return math.fsum((self.counted_s, self.saving_s, self.lost_s, self.starting_s, self.waiting_s))

    @property
    def goodput(self) -> float:
        """Share of the time in training that counted; 0 if no time has passed."""
        return self.counted_s / self.total_s if self.total_s else 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.counted_s + other.counted_s,
            self.saving_s + other.saving_s,
            self.lost_s + other.lost_s,
            self.starting_s + other.starting_s,
            self.waiting_s + other.waiting_s,
            self.num_failures + other.num_failures,
            self.is_finished and other.is_finished,
        )


def predict(
    plan: Plan,
    failures: Failures | None,
    work_s: float = math.inf,
    *,
    num_attempts: int = NUM_ATTEMPTS,
    seed: int = 0,
) -> Spent:
    """Predict what the time of a run is spent on: the sum over many simulated runs, whose shares are the prediction.

    The same arguments give the same numbers.

    Args:
        plan: How the run saves and restarts.
        failures: When it fails; None: never.
        work_s: Training that the run needs; by default, it never ends, as in a long run with many failures.
        num_attempts: Number of attempts to simulate, over all runs.
        seed: Seed of the random numbers.

    Raises:
        ValueError: `work_s` is not positive, or the run neither fails nor ends.
    """
    failures = failures or Exponential(math.inf)
    if not work_s > 0 or (math.isinf(work_s) and math.isinf(failures.mtbf_s)):
        raise ValueError(f"work_s={work_s!r} must be positive, and finite in a run without failures.")
    uptimes_s = failures.uptimes_s(Random(seed))
    total, left = Spent(is_finished=True), num_attempts if math.isfinite(failures.mtbf_s) else 1
    while left > 0:
        run = simulate(plan, (next(uptimes_s) for _ in range(left)), work_s)
        left -= run.num_failures + run.is_finished
        total = total + run
    return total


def simulate(plan: Plan, uptimes_s: Iterable[float], work_s: float = math.inf) -> Spent:
    """Simulate one run.

    Args:
        plan: How the run saves and restarts.
        uptimes_s: For each attempt, the seconds from its start to the failure; the run ends after the last of them.
        work_s: Training that the run needs; the run ends when it is done.

    Returns:
        What its time was spent on.
    """
    spent, durable_s = Spent(), 0.0
    for uptime_s in uptimes_s:
        remaining_s = work_s - durable_s
        whole = _until_done(plan, remaining_s)
        if whole.total_s <= uptime_s:
            return replace(spent + whole, is_finished=True)
        failed = _until_failure(plan, uptime_s, remaining_s)
        durable_s += failed.counted_s
        spent = spent + failed
    return spent


def _until_done(plan: Plan, work_s: float) -> Spent:
    """Return what an attempt without a failure spends. It saves at its end, and waits for that save."""
    if math.isinf(work_s):
        return Spent(counted_s=math.inf)
    if math.isinf(plan.interval_s) or not work_s:
        return Spent(work_s, starting_s=plan.start_s)
    saving_s = (math.ceil(work_s / plan.interval_s) - 1) * plan.save_s + plan.commit_s
    return Spent(work_s, saving_s, starting_s=plan.start_s)


def _until_failure(plan: Plan, uptime_s: float, work_s: float) -> Spent:
    """Return what an attempt spends until it fails, and on the wait after that."""
    starting_s, running_s = min(uptime_s, plan.start_s), max(0.0, uptime_s - plan.start_s)
    if math.isinf(plan.interval_s):
        return Spent(lost_s=running_s, starting_s=starting_s, waiting_s=plan.wait_s, num_failures=1)
    cycle_s = plan.interval_s + plan.save_s
    num_cycles, rest_s = divmod(running_s, cycle_s)
    # A failure may also come in the wait for the last save, when there is nothing left to train.
    trained_s = min(work_s, num_cycles * plan.interval_s + min(rest_s, plan.interval_s))
    num_committed = max(0.0, (running_s - plan.interval_s - plan.commit_s) // cycle_s + 1)
    counted_s = min(trained_s, num_committed * plan.interval_s)
    return Spent(counted_s, running_s - trained_s, trained_s - counted_s, starting_s, plan.wait_s, 1)
