"""What each rank of a run that hangs says about itself: those that wait for another one, and perhaps that one.

A rank that has stopped, or whose node is lost, says nothing: that is how the others know it. The reports are temporary
files in the directory of the checkpoints, which the next start removes.

    .hang-RANK.tmp              report of a rank
    .hang-called-ATTEMPT.tmp    a rank of this attempt hangs: all others report, too. Their limits differ a little
    .hang-noted-ATTEMPT.tmp     created by the one process that notes the hang
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cairn import opening, records
from cairn.records import RecordError
from cairn.store import names
from cairn.types import Position
from cairn.units import format_ranges

_POLL_S = 0.1


@dataclass(frozen=True)
class Report:
    """One rank, at its alarm."""

    rank: int
    host: str
    position: Position
    """The last boundary."""
    place: str
    """The function in which its main thread is."""


def put(directory: Path, report: Report) -> None:
    """Write the report of this rank.

    Raises:
        OSError: It cannot be written.
    """
    path = directory / names.hang_name(report.rank)
    beside = path.with_suffix(".new")
    with opening.new_file(beside) as file:
        file.write(json.dumps(asdict(report)).encode())
    beside.replace(path)


def remove(directory: Path, rank: int) -> None:
    """Remove what an earlier attempt has left."""
    with suppress(OSError):
        os.unlink(directory / names.hang_name(rank))


def call(directory: Path, attempt: str) -> None:
    """Ask all ranks of an attempt to report.

    Raises:
        OSError: The mark cannot be made.
    """
    opening.make_once(directory / names.hang_mark("called", attempt))


def is_called(directory: Path, attempt: str) -> bool:
    """Return whether a rank of this attempt has asked the others to report."""
    return os.path.lexists(directory / names.hang_mark("called", attempt))


def claim(directory: Path, attempt: str) -> bool:
    """Return whether this process is the one that notes the hang of an attempt: the first that asks.

    It is also if the mark cannot be made: rather twice than never.
    """
    try:
        return opening.make_once(directory / names.hang_mark("noted", attempt))
    except OSError:
        return True


def wait(directory: Path, num_ranks: int, patience_s: float) -> dict[int, Report]:
    """Return the reports of all ranks, or those that are there after a while.

    Args:
        directory: Directory of the checkpoints.
        num_ranks: Number of ranks.
        patience_s: How long to wait, in seconds: the ranks do not notice a hang at the same moment.
    """
    until, found = time.monotonic() + patience_s, dict[int, Report]()
    while True:
        for rank in set(range(num_ranks)) - found.keys():
            with suppress(OSError, RecordError):
                path = directory / names.hang_name(rank)
                found[rank] = records.read(Report, records.parse(opening.read_bytes(path)))
        if len(found) == num_ranks or time.monotonic() >= until:
            return found
        time.sleep(_POLL_S)


def words(found: Mapping[int, Report], num_ranks: int) -> str:
    """Return sentences that name each rank and where it is; those that do not answer first.

    Args:
        found: What `wait` has returned.
        num_ranks: Number of ranks.
    """
    lines = []
    if silent := [rank for rank in range(num_ranks) if rank not in found]:
        do = "does" if len(silent) == 1 else "do"
        it = "It is" if len(silent) == 1 else "They are"
        lines.append(
            f"{name_ranks(silent).capitalize()} {do} not answer. {it} stopped, dead, on a node that is lost, or inside "
            "of C code that holds Python's lock."
        )
    places = dict[tuple[str, Position], list[Report]]()
    for rank in sorted(found):
        places.setdefault((found[rank].place, found[rank].position), []).append(found[rank])
    # The rank that the others wait for is rarely where most of them are.
    for (place, position), there in sorted(places.items(), key=lambda item: len(item[1])):
        hosts = ", ".join(dict.fromkeys(report.host for report in there))
        ranks = name_ranks([report.rank for report in there]).capitalize()
        after = f"epoch {position.epoch}, batch {position.batch}"
        lines.append(f"{ranks} on {hosts}: after {after}, in {place}.")
    return "".join(f"{line}\n" for line in lines)


def name_ranks(numbers: Sequence[int]) -> str:
    """Return `rank 3`, or `ranks 1, 4-7`.

    Args:
        numbers: The ranks in order, at least one.
    """
    return f"rank{'s' if len(numbers) > 1 else ''} {format_ranges(numbers)}"
