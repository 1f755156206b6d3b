"""Restarts by torchrun: the processes of one attempt meet at a store of their own.

    store of torchrun's agent, for all attempts    attempt    <- rank 0: name of this attempt
                                                   NAME/r     <- rank r: its token
                                                   TOKEN      <- rank 0: name and port; an answer to this process only
    store of rank 0, for this attempt              addresses of gloo, ids of NCCL

torchrun hands the store of its agent to the processes of each attempt. What the attempt before has left in it is there
still: a process that reads the address of one that has ended cannot connect. No variable of torchrun names an attempt:
each agent counts its own failures only, and a node that joins or leaves is not counted.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from torch.distributed import DistError, Store, TCPStore

from cairn.jobs.rendezvous import Rank, own_rank

_USES_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""Set by torchrun, read by torch: whether the processes use the store of the agent; else rank 0 opens one."""
_ATTEMPT = "cairn/attempt"
_PATIENCE_S = 600.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Attempt:
    """The processes that torchrun has started together."""

    name: str
    """Equal in all of them, different after a restart."""
    port: int
    """Port of the store of rank 0."""
    store: TCPStore | None = None
    """The store itself, on rank 0: it is open as long as this object lives."""


def meet(environ: Mapping[str, str] = os.environ, patience_s: float = _PATIENCE_S) -> Attempt | None:
    """Wait for the other processes of this attempt.

    Args:
        environ: The environment of this process.
        patience_s: How long to wait for them, in seconds.

    Returns:
        The attempt; None in a process that is alone, or whose launcher opens a store for each attempt anyway.

    Raises:
        TimeoutError: They do not come.
    """
    if "TORCHELASTIC_RUN_ID" not in environ or environ.get(_USES_AGENT_STORE) != "True":
        return None
    rank, host, port = own_rank(environ), environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    if rank.world_size == 1:
        return None
    timeout = timedelta(seconds=patience_s)
    try:
        agents = TCPStore(host, port, is_master=False, timeout=timeout)
        if rank.number > 0:
            return follow(agents, rank, patience_s)
        own = TCPStore(host, 0, is_master=True, timeout=timeout, wait_for_workers=False, multi_tenant=True)
        return Attempt(lead(agents, rank, own.port, timeout), own.port, own)
    except DistError as error:
        raise _too_late(rank, patience_s) from error


def rank_in(attempt: Attempt | None, environ: Mapping[str, str] = os.environ) -> Rank:
    """Return the rank of this process, in an attempt if there is one."""
    own = own_rank(environ)
    return own if attempt is None else replace(own, start=attempt.name)


def lead(store: Store, rank: Rank, port: int, timeout: timedelta) -> str:
    """Name an attempt, in its rank 0, and give the others the name.

    Args:
        store: Store of the agent.
        rank: Rank of this process.
        port: Port of its own store.
        timeout: How long to wait for the others.

    Returns:
        The name.
    """
    name = secrets.token_hex(8)
    answers = [f"{name}/{number}" for number in range(1, rank.world_size)]
    store.set(_ATTEMPT, name)
    store.wait(answers, timeout)
    for answer in answers:
        store.set(store.get(answer).decode(), f"{name} {port}")
    return name


def follow(store: Store, rank: Rank, patience_s: float) -> Attempt:
    """Find the attempt that this process belongs to, in another rank than 0.

    Args:
        store: Store of the agent.
        rank: Rank of this process.
        patience_s: How long to wait, in seconds.

    Raises:
        TimeoutError: Rank 0 does not answer.
    """
    token, answered, until = secrets.token_hex(8), "", time.monotonic() + patience_s
    while time.monotonic() < until:
        # It may be the name of the attempt before, whose rank 0 does not answer any more.
        if (name := store.get(_ATTEMPT).decode()) != answered:
            store.set(f"{name}/{rank.number}", token)
            answered = name
        if store.check([token]):
            name, port = store.get(token).decode().split()
            return Attempt(name, int(port))
        time.sleep(_POLL_S)
    raise _too_late(rank, patience_s)


def _too_late(rank: Rank, patience_s: float) -> TimeoutError:
    others = "rank 0" if rank.number else "the other ranks"
    return TimeoutError(
        f"Rank {rank.number} has waited {patience_s:.0f} s for {others} of this attempt of torchrun. Their output "
        "has the reason."
    )


class TorchrunEnvironment(TorchElasticEnvironment):
    """The environment of torchrun, with a store for each attempt; `Trainer(plugins=[TorchrunEnvironment()])`.

    Args:
        attempt: The attempt, if the processes have met already.
    """

    def __init__(self, attempt: Attempt | None = None) -> None:
        super().__init__()
        self._attempt = attempt or meet()

    @property
    def main_port(self) -> int:
        """Port of the store at which the processes meet."""
        if self._attempt is None:
            return super().main_port
        os.environ[_USES_AGENT_STORE] = "False"
        return self._attempt.port
