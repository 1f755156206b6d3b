"""A run that a command changes: nothing else may train in it or write to its checkpoints meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cairn.run.directory import RunDirectory
from cairn.store import claim


@contextmanager
def claimed(run: RunDirectory, checkpoints: Path) -> Iterator[None]:
    """Keep other processes from the run directory and from its checkpoints.

    Args:
        run: Directory of the run.
        checkpoints: Its checkpoint directory, which may lie elsewhere.

    Raises:
        ResumeError: Another process trains in the run directory.
        ConfigError: The checkpoints belong to another run, or another process uses them.
    """
    run.lock()
    try:
        record = run.record()
        if record is None or not checkpoints.is_dir():
            yield
            return
        held = claim.take(checkpoints, record.id, str(run.path))
        try:
            yield
        finally:
            held.withdraw()  # the claim stays that of the last training
    finally:
        run.unlock()
