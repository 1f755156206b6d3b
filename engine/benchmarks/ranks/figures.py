"""Figures of the table: how long each save has paused a rank, and what wall time it has cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.ranks.training import Blocks
from benchmarks.ranks.ways import QUIET

Times = Sequence[Mapping[str, Sequence[float]]]
"""For each rank, when its batches started and ended."""


@dataclass(frozen=True)
class Figures:
    """One way at one size. All times in seconds."""

    way: str
    state_bytes: int
    batch_s: float
    """Of a batch in blocks without saves."""
    stalls_s: tuple[tuple[float, ...], ...]
    """For each save, the stall of each rank: from the end of a batch to the start of the next, minus the same without
    a save."""
    lost_s: tuple[float, ...]
    """For each pair of blocks, the time of the one with a save minus that of the other, on rank 0."""

    @property
    def stall_s(self) -> float:
        """Median stall of the slower rank; 0 without saves."""
        return statistics.median(map(max, self.stalls_s)) if self.stalls_s else 0.0

    @property
    def worst_s(self) -> float:
        """Worst stall of any rank."""
        return max(map(max, self.stalls_s)) if self.stalls_s else 0.0


def of_run(way: str, state_bytes: int, blocks: Blocks, times: Times) -> Figures:
    """Return the figures of one training."""
    first = times[0]["ends"]
    quiet, lost = [], []
    for save in blocks.saves:
        begin, middle, end = (first[save + number * blocks.length - 1] for number in range(3))
        lost.append((middle - begin) - (end - middle))
        quiet.append((end - middle) / blocks.length)
    stalls = []
    if way not in QUIET:
        of_ranks = [_gaps(item) for item in times]
        usual = [statistics.median(gap for batch, gap in gaps.items() if not blocks.due(batch)) for gaps in of_ranks]
        stalls = [
            tuple(gaps[save] - least for gaps, least in zip(of_ranks, usual, strict=True)) for save in blocks.saves
        ]
    return Figures(way, state_bytes, statistics.median(quiet), tuple(stalls), tuple(lost))


def _gaps(times: Mapping[str, Sequence[float]]) -> dict[int, float]:
    """Return the time after each batch, by its number, up to the start of the next one."""
    return {
        number: start - end
        for number, (end, start) in enumerate(zip(times["ends"], times["starts"][1:], strict=False), start=1)
    }


def together(parts: Sequence[Figures]) -> Figures:
    """Merge the rounds of one way at one size."""
    return Figures(
        parts[0].way,
        parts[0].state_bytes,
        statistics.median(part.batch_s for part in parts),
        tuple(stall for part in parts for stall in part.stalls_s),
        tuple(lost for part in parts for lost in part.lost_s),
    )


def of_raw(raw: Mapping[str, Any]) -> dict[int, list[Figures]]:
    """Return the figures of all ways, by the size of the state, from the JSON of a measurement."""
    found: dict[int, dict[str, list[Figures]]] = {}
    for run in raw["runs"]:
        one = of_run(run["way"], run["state_bytes"], Blocks(**run["blocks"]), run["times"])
        found.setdefault(one.state_bytes, {}).setdefault(one.way, []).append(one)
    return {size: [together(parts) for parts in ways.values()] for size, ways in sorted(found.items())}
