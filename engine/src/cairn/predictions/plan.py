"""Which batches a prediction has, which part each belongs to, and which process computes it.

A part is a fixed number of consecutive batches. Parts do not depend on the number of processes, or on where a run was
killed: what is missing is dealt out again.

    batches   0 1 2 3 4 5 6 7 8          4 in a part
    parts     [ 0     ][ 1     ][2]
    rank 0    0 1 2 3  8 *               * a batch that is computed again and not written: all processes compute as
    rank 1    4 5 6 7  4 5                 many, because a sharded model needs all of them in each forward
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
"""Version of the files in a directory of predictions."""
_MOST_PER_PART = 32
_PARTS_PER_PROCESS = 4


@dataclass(frozen=True)
class Plan:
    """What a directory of predictions holds when it is complete."""

    format: int
    num_batches: int | None
    """None: not known before the data have been read."""
    batches_per_part: int
    order: str
    """Digest of the batches; empty if they are not known."""
    seed: int
    made_with: Mapping[str, Any] = field(default_factory=dict)
    """What the predictions depend on."""
    num_parts: int | None = None
    """Known from the beginning, or at the end."""

    def batches(self, part: int) -> range:
        """Return the batches of a part. Of data without a length, the last part may have fewer."""
        first = part * self.batches_per_part
        last = first + self.batches_per_part
        return range(first, last if self.num_batches is None else min(last, self.num_batches))


def make(batches: Sequence[Any] | None, world_size: int, seed: int, made_with: Mapping[str, Any]) -> Plan:
    """Return the plan of new predictions.

    Args:
        batches: Indices of each batch; None: not known.
        world_size: Number of processes; with enough batches, each of them gets some parts.
        seed: Seed of the random numbers that a model draws.
        made_with: What the predictions depend on, as plain values.
    """
    if batches is None:
        return Plan(FORMAT, None, _MOST_PER_PART, "", seed, made_with)
    number = len(batches)
    size = min(_MOST_PER_PART, max(1, -(-number // (_PARTS_PER_PROCESS * world_size))))
    return Plan(FORMAT, number, size, _digest(batches), seed, made_with, -(-number // size))


def _digest(batches: Sequence[Any]) -> str:
    found = hashlib.sha256()
    for batch in batches:
        first, size = batch[0], len(batch)
        is_range = isinstance(first, int) and list(batch) == list(range(first, first + size))
        found.update(f"{first}+{size};".encode() if is_range else json.dumps(list(batch)).encode())
    return found.hexdigest()


def differences(old: Plan, new: Plan) -> list[str]:
    """Return what two plans differ in, other than the size of their parts."""
    pairs = {
        "the number of batches": (old.num_batches, new.num_batches),
        "the samples of the batches": (old.order, new.order),
        "the seed": (old.seed, new.seed),
        **{name: (old.made_with.get(name), new.made_with.get(name)) for name in {**old.made_with, **new.made_with}},
    }
    return [name for name, (before, now) in pairs.items() if before != now]


@dataclass(frozen=True)
class Entry:
    """A batch that a process computes."""

    batch: int
    part: int | None
    """The part that it belongs to; None: it is not written."""


def deal(plan: Plan, missing: Sequence[int], rank: int, world_size: int) -> list[Entry]:
    """Return what a process computes, in order; each process computes as many batches.

    Args:
        plan: The plan, whose number of batches is known.
        missing: Parts that are not there.
        rank: Number of the process.
        world_size: Number of processes.
    """

    def of(number: int) -> list[Entry]:
        return [Entry(batch, part) for part in missing[number::world_size] for batch in plan.batches(part)]

    own, most = of(rank), max((len(of(number)) for number in range(world_size)), default=0)
    again = own or of(0)
    return [*own, *(Entry(again[at % len(again)].batch, None) for at in range(most - len(own)))]
