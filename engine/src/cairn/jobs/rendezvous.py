"""Lets the processes of a run that srun or torchrun started together meet: the first decides, the others follow.

Processes that Lightning starts itself do not need this: they inherit the decision in their environment.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cairn import opening, records
from cairn.records import RecordError

_PATIENCE_S = 600.0
_POLL_S = 0.1
_SIGN_S = 5.0


@dataclass(frozen=True)
class Rank:
    """This process among those that were started together; the default is a single process.

    Attributes:
        number: From 0 to `world_size` - 1.
        world_size: Number of processes.
        start: Name of this start: equal in all of its processes, different after a restart. With torchrun, only if it
            opens a port for each attempt; otherwise the processes have to meet first, see `lightning.torchrun`.
    """

    number: int = 0
    world_size: int = 1
    start: str = ""


def own_rank(environ: Mapping[str, str] = os.environ) -> Rank:
    """Return the rank that srun or torchrun has put into the environment."""
    if "TORCHELASTIC_RUN_ID" in environ:
        # Not TORCHELASTIC_RESTART_COUNT, which differs between nodes: each agent counts its own failures only.
        start = _join(environ, "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
        return Rank(int(environ["RANK"]), int(environ["WORLD_SIZE"]), start)
    if int(environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environ and "SLURM_STEP_ID" in environ:
        start = _join(environ, "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")
        return Rank(int(environ["SLURM_PROCID"]), int(environ["SLURM_NTASKS"]), start)
    return Rank()


def _join(environ: Mapping[str, str], *names: str) -> str:
    return "-".join(environ.get(name, "0") for name in names)


@dataclass(frozen=True)
class _Notice:
    """What the first process announces."""

    start: str
    facts: Mapping[str, str | None] | None


class Rendezvous:
    """A file in the run directory through which the first process informs the others.

    Args:
        run: The run directory.
        rank: Rank of this process.
    """

    def __init__(self, run: Path, rank: Rank) -> None:
        self.path, self.rank = run / ".start.json", rank
        self._sign = run / ".start.busy"
        self.announced = False

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Show the others that this process is still at work: it may download a checkpoint for an hour."""
        if self.rank.world_size == 1:
            yield
            return
        is_over = threading.Event()

        def show() -> None:
            while not is_over.is_set():
                with suppress(OSError), opening.new_file(self._sign):
                    pass
                is_over.wait(_SIGN_S)

        thread = threading.Thread(target=show, name="cairn-deciding", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join(_SIGN_S)
            with suppress(OSError):
                self._sign.unlink()

    def announce(self, facts: Mapping[str, str | None] | None) -> None:
        """Publish what the others need in order to take part; only the first call counts.

        Args:
            facts: Values by name; None if there is nothing to take part in.
        """
        if self.rank.world_size > 1 and not self.announced:
            self.announced = True
            # Renamed into place: a process that waits never reads half of it. Nothing has to survive a power cut.
            beside = self.path.with_suffix(".tmp")
            with opening.new_file(beside) as file:
                file.write(json.dumps({"start": self.rank.start, "facts": facts}).encode())
            beside.replace(self.path)

    def wait(
        self, patience_s: float = _PATIENCE_S, meanwhile: Callable[[], None] = lambda: None
    ) -> dict[str, str | None] | None:
        """Return what the first process of this start has announced.

        Args:
            patience_s: How long to wait for it, in seconds.
            meanwhile: Called again and again; may take part in what the first process is busy with.

        Raises:
            TimeoutError: It has announced nothing for `patience_s` seconds, and not shown that it is at work.
        """
        until, seen = time.monotonic() + patience_s, self._seen()
        while time.monotonic() < until:
            if (now := self._seen()) != seen:
                until, seen = time.monotonic() + patience_s, now
            try:
                found = records.read(_Notice, records.parse(opening.read_bytes(self.path)))
            except (OSError, RecordError):
                found = None
            if found is not None and found.start == self.rank.start:  # else an earlier start has left it
                return None if found.facts is None else dict(found.facts)
            meanwhile()
            time.sleep(_POLL_S)
        raise TimeoutError(
            f"Process {self.rank.number} has waited {patience_s:.0f} s for the first process of this run. "
            "See the output of that process for the reason."
        )

    def _seen(self) -> tuple[int, int] | None:
        """Return the last sign of the first process."""
        try:
            found = os.stat(self._sign)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns
