"""Lets processes of a run find each other that were started at once: the first decides, the others follow.

(Those that Lightning starts itself inherit what they need, see `command.announce_children`.)
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PATIENCE_S = 600.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Rank:
    """Of this process among those that were started together; a single one is the first of one.

    Attributes:
        start: a name for this very start, the same in all of its processes and another after a restart.
    """

    number: int = 0
    world_size: int = 1
    start: str = ""


def own_rank(environ: Mapping[str, str] = os.environ) -> Rank:
    """What srun or torchrun say in the environment."""
    if "TORCHELASTIC_RUN_ID" in environ:
        start = _join(environ, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
        return Rank(int(environ["RANK"]), int(environ["WORLD_SIZE"]), start)
    if int(environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environ and "SLURM_STEP_ID" in environ:
        start = _join(environ, "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")
        return Rank(int(environ["SLURM_PROCID"]), int(environ["SLURM_NTASKS"]), start)
    return Rank()


def _join(environ: Mapping[str, str], *names: str) -> str:
    return "-".join(environ.get(name, "0") for name in names)


class Rendezvous:
    """What the first process tells the others: a file in the run directory.

    Args:
        run: the directory.
        own: the place of this process.
    """

    def __init__(self, run: Path, own: Rank) -> None:
        self.path, self.own = run / ".start.json", own
        self.announced = False

    def announce(self, facts: Mapping[str, str | None] | None) -> None:
        """What they need in order to take part; None: there is nothing to take part in."""
        if self.own.world_size > 1 and not self.announced:
            self.announced = True
            beside = self.path.with_suffix(".tmp")
            beside.write_text(json.dumps({"start": self.own.start, "facts": facts}))
            beside.replace(self.path)

    def wait(self, patience_s: float = _PATIENCE_S) -> dict[str, str | None] | None:
        """What the first process of this start has announced.

        Raises:
            TimeoutError: nothing, for so long.
        """
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            try:
                said = json.loads(self.path.read_text())
            except (OSError, ValueError):
                said = {}
            if said.get("start") == self.own.start:
                facts: dict[str, str | None] | None = said["facts"]
                return facts
            time.sleep(_POLL_S)
        raise TimeoutError(f"Process {self.own.number} has waited {patience_s:.0f} s for the first one of this run.")
