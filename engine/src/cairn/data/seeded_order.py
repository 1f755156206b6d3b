"""The user's own sampler or batch sampler, made a function of (seed, epoch), and examined before training."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DistributedSampler

from cairn.data.generators import Generators
from cairn.data.sampler import Order, Record
from cairn.data.seeding import isolated, mix_seed, seeded
from cairn.data.trial import changes, history_of, snapshot

_DEEPEST = 4
"""How many samplers may lie inside each other."""


class SeededOrder(Order):
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
    """

    def __init__(self, sampler: Any, *, seed: int = 0, keyed: bool = False, is_batched: bool = False) -> None:
        super().__init__()
        self.sampler = sampler
        self.seed = seed
        self.keyed = keyed
        self.is_batched = is_batched
        self._pending: dict[str, Any] | None = None
        self._later: dict[str, Any] | None = None
        self._left: dict[str, Any] | None = None  # attributes after the last draw
        self._is_examined = False

    def identity(self) -> dict[str, Any]:
        return {"order": type(self.sampler).__name__}

    def __len__(self) -> int:
        """Number of items of this rank in a whole epoch; raises TypeError if the sampler has no length."""
        return -(-len(self.sampler) // self._share()[1])

    def __getattr__(self, name: str) -> Any:
        # torch and Lightning read `batch_size` and `drop_last` of a batch sampler.
        if name == "sampler" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.sampler, name)

    @property
    def is_stateful(self) -> bool:
        """Whether the sampler has `state_dict()` and `load_state_dict()`."""
        return all(callable(getattr(self.sampler, name, None)) for name in ("state_dict", "load_state_dict"))

    def seek(self, epoch: int, start: int, cycle: int = 0) -> None:
        super().seek(epoch, start, cycle)
        # After a resume at the end of an epoch, that epoch is not drawn again.
        if self._later is not None:
            self.sampler.load_state_dict(self._later)
        self._pending = self._later = None

    def load_state(self, state: dict[str, Any], later: dict[str, Any] | None = None) -> None:
        """Make the sampler draw the next epoch again.

        Args:
            state: State that the sampler had at the beginning of that epoch.
            later: State that it gets once the epoch is drawn: training may have changed it since then.
        """
        self._pending, self._later = state, later

    def history(self) -> str:
        """Return what the samples depend on besides (seed, epoch), as the beginning of a sentence; empty if nothing."""
        self._is_examined = True
        if self.is_stateful or isinstance(self.sampler, (list, tuple, range)):
            return ""
        seed = mix_seed(self.seed, self.next_record().turn)
        return history_of(self.sampler, partial(_prepare, epoch=self.epoch, seed=seed), seed)

    def _share(self) -> tuple[int, int]:
        divides_itself = any(isinstance(sampler, DistributedSampler) for sampler in _chain(self.sampler))
        return (0, 1) if divides_itself else self.processes()

    def _items(self, record: Record) -> Iterator[Any]:
        rank, world_size = self._share()
        turn, start = record.turn, record.start
        for number, item in enumerate(self._drawn(record)):
            if number % world_size == rank and number // world_size >= start:
                yield self._key(turn, item)

    def _drawn(self, record: Record) -> Iterator[Any]:
        """Yield all items of an epoch; the first ones again until each process gets the same number."""
        seed = mix_seed(self.seed, record.turn)
        self._warn_of_changes_by_others()
        _prepare(self.sampler, record.epoch, seed)
        later = self._begin_state(record)
        if not hasattr(self.sampler, "__len__"):
            yield from isolated(self.sampler, seed)  # one at a time, because it may be endless
            return
        before = _numbers(self.sampler)
        with seeded(seed):
            items = list(self.sampler)
        if later is not None:
            self.sampler.load_state_dict(later)
        if not self.is_stateful:
            self._warn_of_changes(before)
            self._left = snapshot(self.sampler)
        yield from items
        missing = -len(items) % self._share()[1]
        yield from (items[number % len(items)] for number in range(missing))

    def _warn_of_changes(self, before: dict[str, Any]) -> None:
        now = _numbers(self.sampler)
        changed = sorted(name for name in now if name in before and now[name] != before[name])
        if changed and not self._is_examined:
            name = type(self.sampler).__name__
            self._warn(f"{name}.{changed[0]} changes while {name} is iterated")

    def _warn_of_changes_by_others(self) -> None:
        if self._left is None:
            return
        if changed := changes(self._left, snapshot(self.sampler)):
            self._warn(f"{type(self.sampler).__name__}.{changed[0]} was changed after the last epoch was drawn")

    def _warn(self, what: str) -> None:
        warnings.warn(f"{what}, and no checkpoint holds it: {self.cure}", stacklevel=2)

    @property
    def cure(self) -> str:
        """What makes a resume draw the same samples, as a part of a sentence."""
        return (
            f"a resumed run would draw other samples. Give {type(self.sampler).__name__} the methods state_dict and"
            f" load_state_dict, or set_epoch."
        )

    def _begin_state(self, record: Record) -> dict[str, Any] | None:
        """Bring the sampler into its state at the beginning of the epoch, and return the one that it gets later."""
        if not self.is_stateful:
            return None
        if self._pending is not None:
            self.sampler.load_state_dict(self._pending)
        record.sampler = copy.deepcopy(self.sampler.state_dict())
        later, self._pending, self._later = self._later, None, None
        return later

    def _key(self, turn: int, item: Any) -> Any:
        if not self.keyed:
            return item
        return [(turn, index) for index in item] if self.is_batched else (turn, item)


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


def _numbers(sampler: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in getattr(sampler, "__dict__", {}).items()
        if isinstance(value, bool | int | float | str)
    }
