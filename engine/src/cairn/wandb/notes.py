"""Facts that W&B was sent, kept in `wandb/run.json`: a later start, or `cairn sync`, could not find them out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn import opening, records
from cairn.records import RecordError
from cairn.store import disk

log = logging.getLogger(__name__)


@rank_zero_only
def add(run: Path, **facts: Any) -> None:
    """Keep facts, if the run has a folder of W&B's files. On other ranks than 0: nothing.

    Args:
        run: The run directory.
        facts: What JSON can hold.
    """
    path = _path(run)
    if path.parent.is_dir():
        try:
            disk.put(path, json.dumps(read(run) | facts, indent=2, default=str).encode())
        except OSError as error:
            log.error("Could not write %s (%s): `cairn sync` will not know all facts.", path, error)


def read(run: Path) -> dict[str, Any]:
    """All facts; empty if there are none."""
    try:
        found = records.parse(opening.read_bytes(_path(run)))
    except (OSError, RecordError):
        return {}
    return found if isinstance(found, dict) else {}


def _path(run: Path) -> Path:
    return run / "wandb" / "run.json"
