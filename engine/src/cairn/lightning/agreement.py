"""How ranks agree: a stop that reaches any rank stops all of them; what is due is decided by rank 0.

    boundary k       each rank says whether something has happened to it, and does not wait for the answer
    boundary k + 1   the answer is there: if it is yes, the ranks meet, and decide together

Ranks talk over a group of their own, from CPU to CPU. A value on a GPU would have to wait for all kernels before it.
"""

from __future__ import annotations

import ctypes
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
from lightning.pytorch.strategies import Strategy
from torch import distributed

from cairn.errors import ConfigError
from cairn.types import PAUSE

TIME_LIMIT = "max_time"
JOB_TIME_LIMIT = "job_time_limit"
PLANNED = (TIME_LIMIT, PAUSE)
"""Stops that were asked for when the run was started: `fit` returns as at its end."""
_STOPS = [None, PAUSE, *(item.name for item in signal.Signals), TIME_LIMIT, JOB_TIME_LIMIT]

_OTHERS = timedelta(seconds=30)
"""How long a rank that has failed waits for the others to learn of it. They may wait for it in a collective call of the
user's code, until it ends."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Agreement(Protocol):
    """How the ranks of a run come to the same decision."""

    leads: bool
    """Whether this rank decides what is due."""

    def meet(self, stop: str | None, special: bool) -> tuple[str | None, bool]:
        """Combine the stops of all ranks, and whether any rank has something special."""
        ...

    def largest(self, *numbers: int) -> list[int]:
        """Return the largest of the numbers that the ranks give, for each position."""
        ...

    def failed(self, *numbers: int) -> None:
        """Give numbers to ranks that call `largest`, and do not wait long for them: an error follows."""
        ...

    def has_news(self, mine: bool) -> bool:
        """Say whether this rank has news, and return whether any rank had; called at successive boundaries.

        Several ranks hear of news one boundary later. Hearing of them ends the succession, as `end_of_news` does.
        """
        ...

    def end_of_news(self) -> None:
        """End a succession of `has_news`, on all ranks at the same boundary."""
        ...

    def share(self, value: T) -> T:
        """Return the value of rank 0 on every rank."""
        ...

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in order on rank 0, and nothing on the others."""
        ...


@contextmanager
def together(agreement: Agreement, what: str, done: str, numbers: list[int] | None = None) -> Iterator[None]:
    """Let all ranks fail if one does, instead of waiting for it in the next collective call.

    What is done in this context must not be collective: a rank that has failed would be waited for in it.

    Args:
        agreement: Between the ranks.
        what: What the ranks do something with, for the message of the others.
        done: What they do with it, as in "saved".
        numbers: What this rank says in addition, in a call that is made anyway; it becomes the largest of all ranks.

    Raises:
        ConfigError: It failed on another rank.
    """
    numbers = [] if numbers is None else numbers
    try:
        yield
    except BaseException as error:
        if not agreement.leads and isinstance(error, Exception):
            # Before the others learn of it: a launcher kills this process as soon as another one has ended.
            log.error("%s of this rank could not be %s: %s: %s", what, done, type(error).__name__, error)
        agreement.failed(True, *numbers)
        raise
    any_failed, *numbers[:] = agreement.largest(False, *numbers)
    if any_failed:
        raise ConfigError(f"{what} of another rank could not be {done}; the message of that rank says why.")


def first_error(agreement: Agreement, mine: str) -> str:
    """Return why something has failed, on all ranks: for the first of those where it has.

    Args:
        agreement: Between the ranks. On at least one of them, something has failed.
        mine: Why it has failed on this rank; empty if it has not.
    """
    errors = agreement.gather(mine)
    return agreement.share(next((f"Rank {rank}: {why}" if rank else why for rank, why in enumerate(errors) if why), ""))


class Alone:
    """The agreement of a run in one process."""

    leads = True

    def meet(self, stop: str | None, special: bool) -> tuple[str | None, bool]:
        """Return what was given."""
        return stop, special

    def largest(self, *numbers: int) -> list[int]:
        """Return what was given."""
        return list(numbers)

    def failed(self, *numbers: int) -> None:
        """Do nothing."""

    def has_news(self, mine: bool) -> bool:
        """Return what was given."""
        return mine

    def end_of_news(self) -> None:
        """Do nothing."""

    def share(self, value: T) -> T:
        """Return what was given."""
        return value

    def gather(self, value: T) -> list[T]:
        """Return what was given, as the only one."""
        return [value]


class Ranks:
    """The agreement of a run in several processes.

    Args:
        strategy: The trainer's.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.leads = strategy.is_global_zero
        self._made: tuple[Any, Any] | None = None
        self._asked: tuple[torch.Tensor, Any] | None = None
        """What this rank said at the last boundary, which becomes what all have said, and the way to wait for it."""

    def meet(self, stop: str | None, special: bool) -> tuple[str | None, bool]:
        """Reduce over all ranks: the largest number of a stop wins, so that all ranks name the same one."""
        number, anything = self.largest(_STOPS.index(stop), special)
        return _STOPS[number], bool(anything)

    def largest(self, *numbers: int) -> list[int]:
        """Reduce over all ranks."""
        found = torch.tensor(numbers)
        distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self._group)
        return list(found.tolist())

    def failed(self, *numbers: int) -> None:
        """Reduce over all ranks, but leave if some of them do not come, or are gone."""
        said, operation = torch.tensor(numbers), distributed.ReduceOp.MAX
        try:
            distributed.all_reduce(said, operation, self._group, async_op=True).wait(_OTHERS)
        except RuntimeError:
            # Ranks that wait for this one learn of its end by their connections. But a group with a call under way is
            # deleted only when the call is over: so this one, which is of no use any more, is never deleted.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._group))

    def has_news(self, mine: bool) -> bool:
        """Return what the ranks have said at the boundary before; begin to reduce what they say now."""
        if self._heard():
            return True
        said = torch.tensor([mine])
        self._asked = said, distributed.all_reduce(said, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        return False

    def end_of_news(self) -> None:
        """Wait until all ranks have said what they say."""
        self._heard()

    def _heard(self) -> bool:
        asked, self._asked = self._asked, None
        if asked is None:
            return False
        said, all_have_said = asked
        all_have_said.wait()
        return bool(said)

    def share(self, value: T) -> T:
        """Broadcast from rank 0."""
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Gather on rank 0."""
        values: list[Any] = [None] * distributed.get_world_size()
        distributed.gather_object(value, values if self.leads else None, dst=0, group=self._group)
        return values if self.leads else []

    @property
    def _group(self) -> Any:
        """The group of CPUs, which all ranks make when they first talk; a later fit may have other processes."""
        world = distributed.group.WORLD
        if self._made is None or self._made[0] is not world:
            self._made, self._asked = (world, distributed.new_group(backend="gloo")), None
        return self._made[1]
