"""The user's own sampler or batch sampler, made a function of (seed, epoch), and examined before training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DistributedSampler

from cairn.data.batches import in_order
from cairn.data.generators import Generators
from cairn.data.record import Record
from cairn.data.sampler import Order
from cairn.data.seeding import isolated, mix_seed, seeded
from cairn.data.trial import Watch, numbers
from cairn.data.windows import Dealing
from cairn.errors import DataError

_DEEPEST = 4
"""How many samplers may lie inside each other."""


class _OfSampler(Order):
    """An order whose other attributes are those of its sampler."""

    sampler: Any

    def __getattr__(self, name: str) -> Any:
        # torch and Lightning read `batch_size` and `drop_last` of a batch sampler.
        if name == "sampler" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # `loader.sampler.level = 3` in a hook means the sampler of the user.
        if name in self.__dict__ or "sampler" not in self.__dict__ or not hasattr(self.sampler, name):
            super().__setattr__(name, value)
        else:
            setattr(self.sampler, name, value)


class SeededOrder(_OfSampler):
    """Items of a given sampler or batch sampler, made a function of (seed, epoch).

    The sampler draws from generators that are seeded with (seed, epoch): the global ones, which are restored
    afterwards, and those that it owns. Its `set_epoch` is called, if it has one. If it has `state_dict` and
    `load_state_dict`, its state at the beginning of the epoch is saved, and a resume draws that epoch again; then it
    gets the state that it had when the checkpoint was saved.

    With several processes, each gets every `world_size`-th item. If the number of items is not divisible, the first
    ones are repeated. A `DistributedSampler` divides the items itself.

    Args:
        sampler: Yields indices, or lists of indices.
        seed: Seed of the random numbers that it draws.
        keyed: Yield pairs (epoch, index), the keys of `SeededItems`, instead of indices.
        is_batched: Whether the items are lists of indices.
        dealing: See `Order`; the sampler needs a length then.
        **others: Arguments of a batch sampler.

    Raises:
        DataError: Lightning creates the batch sampler again; or the samples cannot be divided into global batches.
    """

    def __init__(
        self,
        sampler: Any,
        *,
        seed: int = 0,
        keyed: bool = False,
        is_batched: bool = False,
        dealing: Dealing | None = None,
        **others: Any,
    ) -> None:
        _check(sampler, others, dealing is not None)
        super().__init__(dealing)
        self.seed = seed
        self.keyed = keyed
        self.is_batched = is_batched or dealing is not None
        self._restored: tuple[dict[str, Any], dict[str, Any] | None] | None = None
        self._watch = Watch(sampler)
        self.sampler = sampler  # the last one: from here on, attributes that only it has are set there

    def identity(self) -> dict[str, Any]:
        return {"order": type(self.sampler).__name__}

    def __len__(self) -> int:
        """Number of items of this rank in a whole epoch; raises TypeError if the sampler has no length."""
        if self.dealing is not None:
            return self._num_dealt(len(self.sampler))
        return -(-len(self.sampler) // self._share()[1])

    @property
    def is_stateful(self) -> bool:
        """Whether the sampler has `state_dict()` and `load_state_dict()`."""
        return all(callable(getattr(self.sampler, name, None)) for name in ("state_dict", "load_state_dict"))

    def seek(self, epoch: int, start: int, cycle: int = 0) -> None:
        super().seek(epoch, start, cycle)
        # After a resume at the end of an epoch, that epoch is not drawn again.
        if self._latest is not None and self._latest.restored is not None and self._latest.restored[1] is not None:
            self.sampler.load_state_dict(self._latest.restored[1])
            self._latest.restored = None
        self._restored = None

    def next_record(self) -> Record:
        record = super().next_record()
        record.restored = self._restored
        return record

    def use_up(self) -> None:
        super().use_up()
        self._restored = None

    def load_state(self, state: dict[str, Any], later: dict[str, Any] | None = None) -> None:
        """Make the sampler draw the next epoch again.

        Args:
            state: State that the sampler had at the beginning of that epoch.
            later: State that it gets once the epoch is drawn: training may have changed it since then. None: the
                epoch has not begun, and hooks before it may change the sampler.
        """
        if later is None:
            self.sampler.load_state_dict(state)
        else:
            self._restored = (state, later)

    def state_now(self, record: Record) -> dict[str, Any]:
        """Return the state of the sampler now, in an iteration that may not have drawn its epoch yet."""
        later = record.restored[1] if record.restored is not None else None
        state: dict[str, Any] = self.sampler.state_dict() if later is None else later
        return state

    def check(self) -> None:
        """Warn if the samples depend on more than (seed, epoch), and no checkpoint holds it."""
        if not self.is_stateful and not isinstance(self.sampler, (list, tuple, range)):
            seed = mix_seed(self.seed, self.next_record().turn)
            self._watch.try_twice(partial(_prepare, epoch=self.epoch, seed=seed), seed)

    def _share(self) -> tuple[int, int]:
        divides_itself = any(isinstance(sampler, DistributedSampler) for sampler in _chain(self.sampler))
        return (0, 1) if divides_itself else self.processes()

    def _total(self, record: Record) -> int:
        return len(self.sampler)

    def _items(self, record: Record) -> Iterator[Any]:
        turn, start = record.turn, record.start
        items = self._drawn(record)
        own = _of_rank(items, start, *self._share()) if self.dealing is None else _dealt(items, start, self)
        yield from (self._key(turn, item) for item in own)

    def _drawn(self, record: Record) -> Sequence[Any] | Iterator[Any]:
        """Return all items of an epoch: an iterator if the sampler has no length, which may be endless."""
        seed = mix_seed(self.seed, record.turn)
        if not self.is_stateful:
            self._watch.before_an_epoch(_prepare)
        _prepare(self.sampler, record.epoch, seed)
        later = self._begin_state(record)
        if not hasattr(self.sampler, "__len__"):
            return isolated(self.sampler, seed)
        before = numbers(self.sampler)
        with seeded(seed):
            items = found if (found := in_order(self.sampler)) is not None else list(self.sampler)
        if later is not None:
            self.sampler.load_state_dict(later)
        if not self.is_stateful:
            self._watch.after_an_epoch(before, record.epoch, seed)
        return items

    def _begin_state(self, record: Record) -> dict[str, Any] | None:
        """Bring the sampler into its state at the beginning of the epoch, and return the one that it gets later."""
        if not self.is_stateful:
            return None
        before, later = record.restored or (None, None)
        if before is not None:
            self.sampler.load_state_dict(before)
        record.sampler, record.restored = copy.deepcopy(self.sampler.state_dict()), None
        return later

    def _key(self, turn: int, item: Any) -> Any:
        if not self.keyed:
            return item
        return [(turn, index) for index in item] if self.is_batched else (turn, item)


def _of_rank(items: Sequence[Any] | Iterator[Any], start: int, rank: int, world_size: int) -> Iterator[Any]:
    """Yield the items of one rank, after the first `start` of them."""
    if isinstance(items, Sequence):
        # The first items come again until each process gets the same number.
        length = -(-len(items) // world_size)
        places = range(start * world_size + rank, length * world_size, world_size)
        yield from (items[place % len(items)] for place in places)
        return
    for number, item in enumerate(items):
        if number % world_size == rank and number // world_size >= start:
            yield item


def _dealt(items: Any, start: int, order: SeededOrder) -> Iterator[list[Any]]:
    """Yield the batches of this rank, after the first `start` of them."""
    assert order.dealing is not None
    if len(items) != (length := len(order.sampler)):
        raise DataError(
            f"{type(order.sampler).__name__} yields {len(items)} samples, and its length is {length}: the two must be"
            f" equal to divide them into global batches.",
            parameter="global_batch_size",
        )
    for places in order.share.batches(order.dealing.windows(len(items)), start):
        yield [items[place] for place in places.tolist()]


def _check(sampler: Any, others: Mapping[str, Any], is_dealt: bool) -> None:
    if others:
        raise DataError(
            "Lightning exchanges the sampler here (for overfit_batches, or in predict), and cairn.DataLoader "
            "cannot do so inside of a batch_sampler: give batch_size and sampler in place of batch_sampler."
        )
    if not is_dealt:
        return
    if any(isinstance(one, DistributedSampler) for one in _chain(sampler)):
        raise DataError(
            f"{type(sampler).__name__} divides its samples among the processes, and so does global_batch_size: give a"
            f" sampler that yields the samples of all processes.",
            parameter="global_batch_size",
        )
    if not hasattr(sampler, "__len__"):
        raise DataError(
            f"{type(sampler).__name__} has no length, so its samples cannot be divided into global batches: give it a"
            f" __len__, or leave global_batch_size out.",
            parameter="global_batch_size",
        )


def _chain(sampler: Any) -> list[Any]:
    """Return a sampler and those inside it: a batch sampler usually has one, which may have one in turn."""
    found = [sampler]
    while len(found) < _DEEPEST:
        inner = getattr(found[-1], "sampler", None)
        if inner is None or any(inner is known for known in found):
            break
        found.append(inner)
    return found


def _prepare(sampler: Any, epoch: int, seed: int) -> None:
    """Set the epoch of a sampler and of those inside it, and seed the generators that they own."""
    chain = _chain(sampler)
    for one in chain:
        if callable(set_epoch := getattr(one, "set_epoch", None)):
            set_epoch(epoch)
    Generators(sampler=sampler).seed(seed)
    for one in chain[:2]:
        # Checkpoints of earlier versions stand in an order that was drawn with this seed.
        if isinstance(generator := getattr(one, "generator", None), torch.Generator):
            generator.manual_seed(seed)
