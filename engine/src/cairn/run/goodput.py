"""Goodput of a run: what its time was spent on, over all of its attempts, and the share that is training that counts.

    attempt 1                                    attempt 2
    start       first batch      last sign  end  start
    |--starting--|--training-------|--ending--|  |--starting--|--training ...
                           |--lost-|          |--|  queue, or stopped
                           the checkpoint that attempt 2 resumes from

The parts add up to the time from the first start to the end, or to now. What was killed has left no end: its last sign
of life stands for it, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cairn.run.attempts import Attempt
from cairn.types import Saved

_OVER = ("finished", "paused", "stopped")
"""States of a run whose last attempt has saved its work before it ended."""


@dataclass(frozen=True)
class Last:
    """What is known of the newest attempt of a run."""

    state: str
    """As in `cairn status`: finished, paused, running, waiting, dead, ..."""
    seen: float
    """Time of its last sign of life, in seconds since 1970; 0 if there was none."""
    ended: float | None
    """When its end was recorded, in seconds since 1970; None: it runs, or was killed."""
    elapsed_s: float
    """Training time of the run at its last sign of life, over all attempts."""
    saved: Saved | None
    """Newest checkpoint of the run."""
    now: float
    """Time of the look, in seconds since 1970."""


@dataclass(frozen=True)
class TimeSpent:
    """What the time of a run was spent on, in seconds."""

    counted_s: float
    """Training whose result was kept, without what saving cost."""
    saving_s: float | None
    """Training time that saves cost; None if it was not measured, so that it is a part of `counted_s`."""
    starting_s: float
    """From the start of an attempt's process to its first batch: imports, data, loading the checkpoint."""
    lost_s: float
    """Training that a failure undid, and time in which an attempt hung."""
    ending_s: float
    """From the last batch of an attempt to its end: the last save, tests, uploads."""
    queue_s: float
    """Between two attempts of the same job of a scheduler."""
    stopped_s: float
    """Between two attempts otherwise."""
    num_starts: int
    num_estimated: int
    """Attempts that were killed: their last sign of life counts as their end."""

    @property
    def wall_s(self) -> float:
        """All of the time: from the first start to the end, or to now."""
        parts = (self.counted_s, self.saving_s or 0.0, self.starting_s, self.lost_s, self.ending_s)
        return math.fsum((*parts, self.queue_s, self.stopped_s))

    @property
    def goodput(self) -> float:
        """Share of the time in training that counts; 0 if no time has passed."""
        return self.counted_s / self.wall_s if self.wall_s else 0.0


@dataclass(frozen=True)
class Span:
    """One attempt on the clock. Times in seconds since 1970, all in order."""

    started: float
    seen: float
    """Its last sign of life."""
    ended: float
    trained_s: float
    """Training time of this attempt."""
    lost_s: float
    """Training time, of this attempt or an earlier one, that the next attempt repeats."""
    hung: bool
    estimated: bool
    """Whether `ended` is its last sign of life."""

    @property
    def starting_s(self) -> float:
        """Time before its first batch."""
        return self.seen - self.started - self.trained_s

    @property
    def uptime_s(self) -> float:
        """From its start to its end."""
        return self.ended - self.started


def spans(tried: Sequence[Attempt], last: Last) -> list[Span]:
    """Return the attempts of a run on the clock; none if one of them is not recorded, or without its time.

    Args:
        tried: All recorded attempts, oldest first.
        last: What is known of the newest one.
    """
    ends = [attempt.before for attempt in tried[1:]]
    if not all(attempt.at_s for attempt in tried) or not all(ends) or not _are_numbers(tried, last):
        return []
    found = [
        _span(attempt, False, end.status, end.elapsed_s, end.at, end.ended, later.started_s, later.lost_s)
        for attempt, later, end in zip(tried, tried[1:], ends, strict=False)
        if end is not None
    ]
    if tried:
        newest = tried[-1]
        # A progress file that is older than this attempt is that of the attempt before.
        reached_s = last.elapsed_s if last.seen >= newest.at_s else newest.begins.elapsed_s
        kept_s = last.saved.elapsed_s if last.saved else 0.0
        lost_s = 0.0 if last.state in (*_OVER, "running") else max(0.0, reached_s - kept_s)
        found.append(_span(newest, True, last.state, reached_s, last.seen, last.ended, last.now, lost_s))
    return found


def _are_numbers(tried: Sequence[Attempt], last: Last) -> bool:
    """Return whether all times are numbers: a file of a run may be damaged."""
    times: list[object] = [last.seen, last.elapsed_s, *(attempt.begins.elapsed_s for attempt in tried)]
    for attempt in tried:
        times.append(attempt.process_age_s or 0.0)
        if attempt.before is not None:
            times += [attempt.before.at, attempt.before.elapsed_s, attempt.before.ended or 0.0]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in times)


def _span(
    attempt: Attempt,
    is_last: bool,
    status: str,
    reached_s: float,
    seen: float,
    ended: float | None,
    limit: float,
    lost_s: float,
) -> Span:
    # Clocks of two nodes may differ, and a clock may be set: times are put in order, so that the parts add up.
    started = min(attempt.started_s, limit)
    seen = min(max(seen, started), limit)
    trained_s = max(0.0, reached_s - attempt.begins.elapsed_s)
    if is_last and status == "running":
        # What has passed since the last sign of life goes on: training, if it has begun.
        trained_s += limit - seen if trained_s else 0.0
        seen = ended = limit
    over = min(max(ended, seen), limit) if ended is not None else seen
    return Span(
        started, seen, over, min(trained_s, seen - started), lost_s, hung=status == "hung", estimated=ended is None
    )


def spent(tried: Sequence[Attempt], last: Last) -> TimeSpent | None:
    """Return what the time of a run was spent on; None if its attempts are not recorded, or without their times.

    Args:
        tried: All recorded attempts, oldest first.
        last: What is known of the newest one.
    """
    found = spans(tried, last)
    trained_s = math.fsum(span.trained_s for span in found)
    undone_s = min(trained_s, math.fsum(span.lost_s for span in found))
    hung_s = math.fsum(span.ended - span.seen for span in found if span.hung)
    ending_s = math.fsum(span.ended - span.seen for span in found if not span.hung)
    known_s = _saving_s(last.saved)
    saving_s = None if known_s is None else min(known_s, trained_s - undone_s)
    queue_s, stopped_s = _between(tried, found, last)
    time = TimeSpent(
        counted_s=trained_s - undone_s - (saving_s or 0.0),
        saving_s=saving_s,
        starting_s=math.fsum(span.starting_s for span in found),
        lost_s=undone_s + hung_s,
        ending_s=ending_s,
        queue_s=queue_s,
        stopped_s=stopped_s,
        num_starts=len(tried),
        num_estimated=sum(span.estimated for span in found),
    )
    return time if time.wall_s > 0 else None


def _saving_s(saved: Saved | None) -> float | None:
    """Return the training time that all saves up to the newest checkpoint cost, without those that were lost."""
    if saved is None:
        return 0.0
    if saved.overhead is None:
        return None
    # A manifest knows the cost of the saves before its own, as a share of the time without them, and its own pause.
    return saved.elapsed_s * saved.overhead / (1 + saved.overhead) + saved.stall_s


def _between(tried: Sequence[Attempt], found: Sequence[Span], last: Last) -> tuple[float, float]:
    """Return the time between attempts, in seconds: in the queue of a scheduler, and otherwise."""
    queue_s = stopped_s = 0.0
    pairs = zip(tried, tried[1:], found, found[1:], strict=False)
    for before, after, ended, started in pairs:
        gap_s = started.started - ended.ended
        if after.job and after.job == before.job:
            queue_s += gap_s
        else:
            stopped_s += gap_s
    if last.state == "waiting" and found:
        queue_s += last.now - found[-1].ended
    return queue_s, stopped_s
