"""Batches of an iterable that is divided into substreams, each with the state that its substream has after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, TypeAlias

from torch.utils.data import IterableDataset, get_worker_info
from torch.utils.data._utils import worker

from cairn.data.iterable import StatefulBatches, is_stateful
from cairn.data.seeding import mix_seed
from cairn.data.substreams import Division
from cairn.errors import DataError

SUBSTREAM = "substream"
"""Key of the number of a substream in the state that comes with a batch of it."""
LEFT = "left"
"""Key of the number of samples that a substream has left, in the state that comes in place of its last batch."""


class DividedBatches(StatefulBatches):
    """Batches of an iterable, from one stream as in `StatefulBatches`, or from the substreams of this process in turn.

    Each iterator has shards of its own: a substream begins an epoch at its beginning, in the main process as in a
    worker. The first substream that has no complete batch left ends the iterator, with a last pair in place of a batch.

    Args:
        dataset: Has `shard(num_shards, index)`, `state_dict()` and `load_state_dict()`.
        batch_size: See `StatefulBatches`.
        drop_last: See `StatefulBatches`; substreams always leave out an incomplete last batch.
        seed: Seed of what the dataset draws; None: the global generators are left alone.
    """

    _OWN = StatefulBatches._OWN | {"_division", "_epoch"}

    def __init__(
        self, dataset: IterableDataset[Any], batch_size: int | None, drop_last: bool = False, seed: int | None = None
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, seed)
        self._division: Division | None = None
        self._epoch = 0

    def divide(self, division: Division | None, epoch: int = 0) -> None:
        """Let the next iterators read substreams; None: one stream.

        Args:
            division: How they are divided. `begin` then gets the batches of this process before the start, and the
                states of substreams by their numbers.
            epoch: The epoch, for the substreams that have a `set_epoch`.
        """
        self._division, self._epoch = division, epoch

    def start_after(self, pairs: list[tuple[Any, Any]]) -> tuple[int, Any]:
        if self._division is None:
            return super().start_after(pairs)
        return len(pairs), {state[SUBSTREAM]: state["dataset"] for _, state in pairs}

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        if self._division is None:
            return super().__iter__()
        first, states = self._start
        self._start = (0, None)
        info = get_worker_info()
        mine = count(first) if info is None else count(first + info.id, info.num_workers)
        # What `begin` and `divide` have set is read now: they are called again before the first batch is read.
        open_shard = partial(self._open, self._division, self._turn, self._epoch, first, states or {})
        return self._in_turn(self._division, mine, open_shard)

    def _in_turn(
        self, division: Division, mine: Iterator[int], open_shard: Callable[[int, list[Any]], _Stream]
    ) -> Iterator[tuple[Any, Any]]:
        """Yield the batches with these numbers."""
        streams: dict[int, _Stream] = {}
        for batch in mine:
            substream = division.substream(batch)
            with _as_in_main_process():
                if substream not in streams:
                    others = [shard.wrapped for shard, _ in streams.values()]
                    streams[substream] = open_shard(substream, others)
                shard, pairs = streams[substream]
                samples, state = next(pairs, ([], {"ended": True}))
            state = state | {SUBSTREAM: substream}
            if state["ended"]:
                yield [], state | {LEFT: len(samples)}
                return
            self.last_seed = shard.last_seed
            yield samples, state

    def _open(
        self,
        division: Division,
        turn: int,
        epoch: int,
        first: int,
        states: dict[int, Any],
        substream: int,
        others: list[Any],
    ) -> _Stream:
        """Return a substream, before its first batch or after those that were read before the start."""
        shard: Any = self.wrapped.shard(division.num_substreams, substream)
        _check_shard(self.wrapped, shard, others)
        if callable(set_epoch := getattr(shard, "set_epoch", None)):
            set_epoch(epoch)
        seed = None if self.seed is None else mix_seed(self.seed, substream)
        batches = StatefulBatches(shard, self.batch_size, seed=seed)
        number = division.num_before(substream, first // division.per_window)
        start = (number, {"ended": False, "dataset": states[substream]}) if number > 0 else (0, None)
        batches.begin(start, turn)
        return batches, iter(batches)


_Stream: TypeAlias = tuple[StatefulBatches, Iterator[Any]]
"""A substream, and the iterator over its batches."""


def check_shards(dataset: Any, division: Division) -> None:
    """Check that there are enough shards, if their number is known, and that each has a position of its own.

    Raises:
        DataError: It is not so; the message says what to do.
    """
    number, workers = division.num_substreams, division.num_substreams // division.num_batches
    found = next((found for name in ("num_shards", "n_shards") if (found := getattr(dataset, name, None))), None)
    if isinstance(found, int) and number > found:
        raise DataError(
            f"{type(dataset).__name__} has {found} shards, and this run reads it as {number} substreams, each of which"
            f" needs one (batches in a global batch x workers when the run begins: {division.num_batches} x {workers}):"
            f" use fewer workers, a larger batch_size, or more files.",
            parameter="num_workers",
        )
    if getattr(getattr(dataset, "_distributed", None), "world_size", 1) > 1:  # split_dataset_by_node of `datasets`
        raise DataError(
            f"{type(dataset).__name__} is divided among the processes already (split_dataset_by_node), so that its"
            f" substreams would lack most samples: leave that out, cairn.DataLoader divides it."
        )
    others: list[Any] = []
    for substream in division.own[:2]:
        shard = dataset.shard(number, substream)
        _check_shard(dataset, shard, others)
        others.append(shard)


def _check_shard(dataset: Any, shard: Any, others: list[Any]) -> None:
    name = type(dataset).__name__
    if any(shard is other for other in (dataset, *others)):
        raise DataError(
            f"{name}.shard(num_shards, index) returns the same object again, but each part needs a position of its own:"
            f" return a new object."
        )
    if not is_stateful(shard):
        raise DataError(
            f"{name}.shard(num_shards, index) returns a {type(shard).__name__} without state_dict() and"
            f" load_state_dict(), so that its position cannot be saved: give it these two."
        )


@contextmanager
def _as_in_main_process() -> Iterator[None]:
    """Context in which a dataset does not know that a worker reads it, and so does not divide itself once more."""
    info, worker._worker_info = worker._worker_info, None
    try:
        yield
    finally:
        worker._worker_info = info
