"""Find the run directories below a directory, without a look into what the runs have written."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_RECORD = "run.json"
_WANDB = "wandb"
_OWN = frozenset({"checkpoints", "csv", "mlflow", "mlruns", "predictions", "tensorboard", "trackio", _WANDB})
"""Folders of a run, which may hold thousands of files. Any other folder of a run may hold more runs."""
_DATABASE, _ARTIFACTS = "mlflow.db", "artifacts"
"""The file of MLflow, and its folder next to it, which has several folders per run."""


@dataclass(frozen=True)
class Found:
    """What is below a directory."""

    runs: tuple[Path, ...]
    trouble: tuple[str, ...]
    """A sentence for each directory that cannot be read."""


def find(folder: Path) -> Found:
    """Return all run directories at and below a directory. Links to directories are not followed.

    Args:
        folder: The directory.
    """
    runs: list[Path] = []
    trouble: list[str] = []
    waiting = [os.fspath(folder)]
    while waiting:
        here = waiting.pop()
        try:
            is_run, folders = _look(here)
        except OSError as error:
            trouble.append(f"{here} cannot be read: {error.strerror or error}.")
            continue
        if is_run:
            runs.append(Path(here))
            folders = [name for name in folders if name not in _OWN]
        waiting += [os.path.join(here, name) for name in folders]
    return Found(tuple(sorted(runs)), tuple(sorted(trouble)))


def _look(here: str) -> tuple[bool, list[str]]:
    """Return whether a directory is that of a run, and the names of its folders without the hidden ones."""
    is_run, folders, without = False, [], ""
    with os.scandir(here) as entries:
        for entry in entries:
            if entry.name == _RECORD:
                is_run = True
            elif entry.name == _DATABASE:
                without = _ARTIFACTS
            elif not entry.name.startswith("."):
                with suppress(OSError):  # deleted in this moment
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
    # W&B has a file of the same name in a folder of its own.
    return is_run and os.path.basename(here) != _WANDB, [name for name in folders if name != without]
