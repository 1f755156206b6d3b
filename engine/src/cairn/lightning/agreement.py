"""How ranks agree: a stop that reaches any rank stops all of them; what is due is decided by rank 0."""

from __future__ import annotations

import signal
from typing import Any, Protocol, TypeVar

import torch
from lightning.pytorch.strategies import Strategy

TIME_LIMIT = "max_time"
JOB_TIME_LIMIT = "job_time_limit"
_STOPS = [None, *(item.name for item in signal.Signals), TIME_LIMIT, JOB_TIME_LIMIT]

T = TypeVar("T")


class Agreement(Protocol):
    """How the ranks of a run come to the same decision."""

    leads: bool
    """Whether this rank decides what is due."""

    def meet(self, stop: str | None, special: bool) -> tuple[str | None, bool]:
        """Combine the stops of all ranks, and whether any rank has something special; called at each boundary."""
        ...

    def share(self, value: T) -> T:
        """Return the value of rank 0 on every rank."""
        ...

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in order on rank 0, and nothing on the others."""
        ...


class Alone:
    """The agreement of a run in one process."""

    leads = True

    def meet(self, stop: str | None, special: bool) -> tuple[str | None, bool]:
        """Return what was given."""
        return stop, special

    def share(self, value: T) -> T:
        """Return what was given."""
        return value

    def gather(self, value: T) -> list[T]:
        """Return what was given, as the only one."""
        return [value]


class Ranks:
    """The agreement of a run in several processes: a small reduction at each boundary.

    Args:
        strategy: The trainer's.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.leads = strategy.is_global_zero
        self._strategy = strategy

    def meet(self, stop: str | None, special: bool) -> tuple[str | None, bool]:
        """Reduce over all ranks: the largest number of a stop wins, so that all ranks name the same one."""
        mine = torch.tensor([_STOPS.index(stop), special], device=self._strategy.root_device)
        number, anything = torch.Tensor.tolist(self._strategy.reduce(mine, reduce_op="max"))
        return _STOPS[number], bool(anything)

    def share(self, value: T) -> T:
        """Broadcast from rank 0."""
        return self._strategy.broadcast(value)

    def gather(self, value: T) -> list[T]:
        """Gather on rank 0."""
        values: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.gather_object(value, values if self.leads else None, dst=0)
        return values if self.leads else []
