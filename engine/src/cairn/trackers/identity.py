"""The id of a run for a tracker, the same after a resume: given, in a file of the run, or in a checkpoint."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn import opening, records
from cairn.errors import ConfigError
from cairn.records import RecordError
from cairn.store import disk

log = logging.getLogger(__name__)

_ID = re.compile(r"[\w.-]{1,200}", re.ASCII)


class Identity:
    """The id of a run.

    Args:
        folder: Folder of our own files about the tracker, in the directory of the run.
        given: The id; None: it is chosen at the first start, and kept in the folder.

    Raises:
        ConfigError: The id has characters that could be more than a name in a query.
    """

    def __init__(self, folder: Path, given: str | None) -> None:
        given = None if given is None else str(given)  # a configuration may have a number
        if given is not None and not _ID.fullmatch(given):
            raise ConfigError(f"id={given!r} must have letters, digits, and _ . - only.", parameter="id")
        self._path = folder / "identity.json"  # `run.json` would make the folder look like the directory of a run
        self._id = given or ""
        self._of_checkpoint = ""

    @property
    def id(self) -> str:
        """The id."""
        if not self._id:
            self._id = self._of_checkpoint or _read(self._path) or uuid.uuid4().hex
            if getattr(rank_zero_only, "rank", 0) != 0:  # other ranks send nothing
                return self._id
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                disk.put(self._path, json.dumps({"id": self._id}).encode())
            except OSError as error:
                log.error(
                    "Could not write %s (%s): without a checkpoint, the run begins as another one.",
                    *(self._path, error),
                )
        return self._id

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the id that a checkpoint holds, unless one is given."""
        self._of_checkpoint = _valid(state.get("id"))


def _read(path: Path) -> str:
    try:
        found = records.parse(opening.read_bytes(path))
    except (OSError, RecordError):
        return ""
    return _valid(found.get("id")) if isinstance(found, dict) else ""


def _valid(found: object) -> str:
    """An id; empty if it is none. It may come from other people."""
    return found if isinstance(found, str) and _ID.fullmatch(found) else ""
