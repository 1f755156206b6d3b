"""What a stopped trial keeps of its checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from cairn.errors import CairnError, ConfigError, first_line
from cairn.policy import keep
from cairn.run.claimed import claimed
from cairn.run.directory import RunDirectory
from cairn.store.catalog import Catalog
from cairn.store.history import History
from cairn.trackers.deleted import note_in_all
from cairn.types import Saved

Keep = Literal["best", "nothing", "all"]

log = logging.getLogger(__name__)


def check(value: Any) -> Keep:
    """Return what stopped trials keep.

    Raises:
        ConfigError: It is something else.
    """
    if value not in get_args(Keep):
        raise ConfigError(f"losers={value!r} must be best, nothing or all.", parameter="losers")
    return value


def warn_of_mirror(kept: Keep, group: Mapping[str, Any]) -> None:
    """Log that copies in a mirror stay, if stopped trials do not keep all of their checkpoints.

    Args:
        kept: What stopped trials keep.
        group: Keys of the group `checkpoint`.
    """
    if kept != "all" and (mirror := group.get("mirror")):
        log.warning(
            "hydra.sweeper.losers=%s deletes checkpoints of stopped trials on this disk only. Their copies in %s stay "
            "until `cairn prune ADDRESS`.",
            kept,
            mirror,
        )


def clear(path: Path, stop: str, kept: Keep) -> None:
    """Delete what a stopped trial need not keep. An error is logged: the search goes on.

    A trial that was resumed by hand since, and does not stand there any more, keeps everything.

    Args:
        path: Its run directory.
        stop: Where it has stopped, as a `pause_at`.
        kept: Its best checkpoint, or else the newest; nothing; or all.
    """
    run = RunDirectory(path)
    try:
        record = run.record()
        if kept == "all" or record is None or (record.status, record.why) != ("paused", stop):
            return
        checkpoint, mode = run.config("checkpoint").get("checkpoint"), None
        if isinstance(checkpoint, dict) and checkpoint.get("monitor") and checkpoint.get("mode") in ("min", "max"):
            mode = checkpoint["mode"]
        directory = run.checkpoints()
        found = Catalog(directory).committed()
        best = (keep.best_of(found, mode) if mode else None) or (found[-1] if found else None)
        stays: list[Saved] = [best] if best is not None and kept == "best" else []
        if len(found) > len(stays):
            with claimed(run, directory):
                to_delete = [item for item in found if item not in stays]
                note_in_all(path, to_delete)
                History(directory, [], mode).retain(stays, to_delete)
    except (CairnError, OSError) as error:
        log.warning("Checkpoints of %s could not be deleted: %s.", path, first_line(error))
