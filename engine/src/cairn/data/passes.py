"""Iterations over a loader, with the number of batches that each has handed out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cairn.data.generators import Generators
from cairn.data.iterable import Deliveries
from cairn.data.record import Record
from cairn.data.sampler import Order
from cairn.data.seeding import mix_seed, seeded

log = logging.getLogger(__name__)


class Pass:
    """One iteration over a loader: its epoch and cycle, and the number of batches that it has handed out.

    A loader can be iterated again while training iterates over it, for statistics over the data for example. So the
    position belongs to the iterator. This does not hold torch's iterator, whose workers end when it is dropped.

    Args:
        order: Order of the items.
        record: Where the iteration starts.
        items_per_batch: Items of the order in a batch.
        deliveries: States of an iterable dataset.
    """

    def __init__(
        self, order: Order, record: Record, items_per_batch: int, deliveries: Deliveries | None = None
    ) -> None:
        self.order, self.record, self.deliveries = order, record, deliveries
        self._items_per_batch = items_per_batch
        self.num_counted = 0
        self.exhausted = False

    @property
    def handed_out(self) -> int:
        """Batches of the cycle up to now."""
        return self.record.start // self._items_per_batch + self.num_counted

    @property
    def at_start(self) -> Record:
        """The record that knows the state of the sampler when the epoch began."""
        return self.record

    def end(self) -> None:
        """Note that the iterator has reached its end."""
        self.exhausted = True
        if (self.order.epoch, self.order.cycle) == (self.record.epoch, self.record.cycle):
            self.order.exhausted = True


class CountedBatches(Iterator[Any]):
    """Iterator over the batches of a pass, which counts them."""

    def __init__(self, batches: Iterator[Any], counted: Pass) -> None:
        self.batches = batches
        self.counted = counted

    def __next__(self) -> Any:
        try:
            batch = next(self.batches)
        except StopIteration:
            self.counted.end()
            raise
        self.counted.num_counted += 1
        return batch


class OwnPass(Pass):
    """One iteration by the `__iter__` of a subclass, which may skip batches, or read ahead.

    Args:
        order: Order of the items.
        record: Where the iteration starts.
        items_per_batch: Items of the order in a batch.
    """

    def __init__(self, order: Order, record: Record, items_per_batch: int) -> None:
        super().__init__(order, record, items_per_batch)
        self.inner: list[Pass] = []
        """The iterations over the loader itself."""

    @property
    def at_start(self) -> Record:
        return self.inner[0].record if self.inner else self.record


class OwnBatches(CountedBatches):
    """Iterator over the batches that a subclass makes.

    Args:
        create: Calls the `__iter__` of the subclass.
        counted: Counts them.
        inside: Holds the pass while the code of the subclass runs.
        generators: Those that the subclass owns.
        seed: Seed of what it draws; None: the generators are left alone.
        repeated: Number of batches to read before the first one: a resume that begins with its epoch.
    """

    def __init__(
        self,
        create: Callable[[], Iterator[Any]],
        counted: OwnPass,
        inside: list[OwnPass],
        generators: Generators,
        seed: int | None,
        repeated: int,
    ) -> None:
        self.own, self._inside, self._repeated = counted, inside, repeated
        self._generators, self._seed = generators, seed
        with self._code():
            batches = iter(create())
        super().__init__(batches, counted)

    def __next__(self) -> Any:
        if self._repeated:
            number, self._repeated = self._repeated, 0
            log.info("A subclass of cairn.DataLoader iterates in its own way: reading %d batches again.", number)
            for _ in range(number):
                self._next()
        return self._next()

    def _next(self) -> Any:
        with self._code():
            return super().__next__()

    @contextmanager
    def _code(self) -> Iterator[None]:
        """Context in which the code of the subclass runs."""
        self._inside.append(self.own)
        try:
            if self._seed is None:
                yield
                return
            seed = mix_seed(self._seed, self.own.record.turn, self.own.handed_out)
            with seeded(seed):
                self._generators.seed(seed)
                yield
        finally:
            self._inside.remove(self.own)
