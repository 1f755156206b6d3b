"""What the time of a run was spent on, in words: for the end of a run, and for `cairn status`."""

from __future__ import annotations

from cairn.run.goodput import TimeSpent
from cairn.units import format_duration


def headline(spent: TimeSpent) -> str:
    """Return the goodput in a few words: `93 % of 2.3 h (3 starts)`."""
    starts = "1 start" if spent.num_starts == 1 else f"{spent.num_starts} starts"
    return f"{100 * spent.goodput:.0f} % of {_duration(spent.wall_s)} was training that counts ({starts})"


def parts(spent: TimeSpent) -> list[tuple[str, str]]:
    """Return the name and the duration of each part of the time, largest first, without those that took no time."""
    named = {
        "training that counts": spent.counted_s,
        "saving": spent.saving_s or 0.0,
        "starting": spent.starting_s,
        "lost and trained again": spent.lost_s,
        "last saves, tests, uploads": spent.ending_s,
        "in the queue": spent.queue_s,
        "between attempts": spent.stopped_s,
    }
    return [
        (name, f"{_duration(seconds)} ({100 * seconds / spent.wall_s:.2g} %)")
        for name, seconds in sorted(named.items(), key=lambda item: -item[1])
        if seconds >= 1e-4 * spent.wall_s
    ]


def caveats(spent: TimeSpent) -> list[str]:
    """Return what is estimated or unknown, as sentences."""
    found = []
    if spent.num_estimated:
        many = "s" if spent.num_estimated != 1 else ""
        found.append(
            f"{spent.num_estimated} attempt{many} could not record the end (killed, or the disk was gone): the last "
            f"sign of life counts as the end, and what came after it as time between attempts."
        )
    if spent.saving_s is None:
        found.append("What saving cost was not measured: it is a part of the training that counts.")
    return found


def _duration(seconds: float) -> str:
    return format_duration(seconds, digits=2)
