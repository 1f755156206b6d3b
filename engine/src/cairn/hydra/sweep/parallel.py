"""How many local jobs of a sweep run at a time, and which GPUs each of them sees."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra.errors import CompactHydraException

from cairn import opening
from cairn.hydra.sweep import slots

log = logging.getLogger(__name__)

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Devices of the drivers of GPUs. Without one, torch is not imported to count them, which takes seconds."""


@dataclass(frozen=True)
class Slots:
    """Places for the jobs of a sweep that run at the same time."""

    devices: tuple[str | None, ...]
    """For each place, the value of CUDA_VISIBLE_DEVICES; None: what submitit sets."""
    why: str

    def __str__(self) -> str:
        number = len(self.devices)
        jobs = "1 job runs" if number == 1 else f"{number} jobs run"
        return f"At most {jobs} at a time ({self.why})."


def choose(given: int | None, gpus_per_job: int | None, gpus: Sequence[str], num_cores: int) -> Slots:
    """Choose the number of jobs: what is configured, else one per GPU, else one per core.

    Args:
        given: `hydra.launcher.array_parallelism`; None: not configured.
        gpus_per_job: `hydra.launcher.gpus_per_node`; None: one, if there are any.
        gpus: GPUs of this machine, as CUDA_VISIBLE_DEVICES names them.
        num_cores: CPU cores that this process may use.

    Raises:
        CompactHydraException: A job needs more GPUs than there are, or `given` is not a positive integer.
    """
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        raise CompactHydraException(f"hydra.launcher.array_parallelism={given!r} must be an integer from 1.")
    needed = min(1, len(gpus)) if gpus_per_job is None else gpus_per_job
    if needed > len(gpus):
        raise CompactHydraException(
            f"hydra.launcher.gpus_per_node={needed}, but this machine has {len(gpus)}: give a job at most that many."
        )
    if not needed:
        return Slots((None,) * (given or num_cores), _why(given, "one per CPU core"))
    unit = "one per GPU" if needed == 1 else f"{needed} GPUs for each"
    parts = [",".join(gpus[first : first + needed]) for first in range(0, len(gpus) - needed + 1, needed)]
    return Slots(tuple(parts[at % len(parts)] for at in range(given or len(parts))), _why(given, unit))


def _why(given: int | None, unit: str) -> str:
    return "hydra.launcher.array_parallelism" if given else f"{unit}; hydra.launcher.array_parallelism changes this"


def gpus() -> list[str]:
    """Return the GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return []
    import torch

    number, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in visible.split(",")][:number] if visible else [str(at) for at in range(number)]


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def place_of_locks(folder: Path) -> Path:
    """Return a folder for the files of the slots: this one, or a temporary one if its file system has no locks.

    With a temporary one, the jobs of an earlier command are not counted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with opening.for_appending(folder / "next") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a job that waits has it
            pass
        except OSError as error:
            other = Path(tempfile.mkdtemp(prefix="cairn-slots-"))
            log.warning("No locks in %s (%s): the jobs of this command count themselves in %s.", folder, error, other)
            return other
    return folder


def let_jobs_wait(folder: Path, chosen: Slots) -> None:
    """Let each local job that this process submits wait for a slot. Call it in a process that only submits jobs.

    Args:
        folder: Where the files of the slots are.
        chosen: The slots.
    """
    from submitit.local import local

    start = [sys.executable, "-I", "-S", slots.__file__, str(folder), json.dumps(chosen.devices)]

    def start_waiting(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*start, *command], **options)

    # submitit starts the controller of a job in a function that cannot be given another command.
    local.subprocess = SimpleNamespace(Popen=start_waiting)  # type: ignore[assignment, attr-defined]
