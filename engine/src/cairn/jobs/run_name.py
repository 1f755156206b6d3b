"""The name of a run directory: the same in all processes of a run, and after each restart.

A run that a person starts is named by the time of its start. Processes that srun or torchrun starts together read the
clock at different times, and a restart has to find the directory of the attempt before it. Their launcher names it:

    torchrun --rdzv-id=NAME        torchrun-NAME
    torchrun, one node             torchrun-PID-TICKS    of the agent, which lives through all restarts
    srun                           slurm-JOB-STEP        a requeued job repeats its steps, perhaps with one task left

A single task may also be a script or a shell in which several runs are started: those are named by the time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from cairn import opening
from cairn.errors import ConfigError
from cairn.jobs.rendezvous import own_rank

_NO_ID = "none"
"""The rendezvous id of torchrun, if none is given."""


def run_name(environ: Mapping[str, str] = os.environ, parent: int | None = None) -> str:
    """Return the name of the directory of a new run.

    Args:
        environ: The environment of this process.
        parent: Id of the process that has started this one; None: as it is.

    Raises:
        ConfigError: torchrun started this process on one of several nodes, and no id names the run.
    """
    parent = os.getppid() if parent is None else parent
    if (given := environ.get("TORCHELASTIC_RUN_ID")) is not None:
        if given != _NO_ID:
            return f"torchrun-{_safe(given)}"
        agent = _process(parent)
        if agent is None or environ.get("GROUP_WORLD_SIZE", "1") != "1":
            raise ConfigError(
                "The processes that torchrun has started need the same run directory: give torchrun a name for the run"
                " (--rdzv-id=NAME), or set hydra.run.dir=DIR.",
                parameter="hydra.run.dir",
            )
        return f"torchrun-{agent}"
    if own_rank(environ).world_size > 1 or ("SLURM_STEP_ID" in environ and _is_task(parent)):
        return f"slurm-{environ.get('SLURM_JOB_ID', '0')}-{environ['SLURM_STEP_ID']}"
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}"


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _is_task(parent: int) -> bool:
    """Return whether srun has started this process, and not a script in which it runs."""
    try:
        return opening.read_text(Path(f"/proc/{parent}/comm")).strip() == "slurmstepd"
    except OSError:
        return False


def _process(pid: int) -> str | None:
    """Return a name of a process that no other one of this machine has; None if the system does not tell."""
    try:
        stat = opening.read_text(Path(f"/proc/{pid}/stat"))
    except OSError:
        return None
    started = stat.rpartition(")")[2].split()[19]  # in ticks since the machine was started
    return f"{pid}-{started}"
