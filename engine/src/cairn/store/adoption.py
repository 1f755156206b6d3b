"""What a start takes over from the directory of its run, decided before anything there changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn.errors import ConfigError
from cairn.policy import keep
from cairn.store import ranking
from cairn.store.catalog import Catalog, refuse_newer
from cairn.store.resume import ResumePoint
from cairn.types import Mode, Saved

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adoption:
    """The checkpoints of a run, as its next start finds them."""

    kept: Sequence[Saved] = ()
    """What the rules keep, oldest first."""
    to_delete: Sequence[Saved] = ()
    """What the rules do not keep."""
    never_committed: Sequence[str] = ()
    """Files of interrupted first saves: two of them would look like a run that has lost all its manifests."""
    newer: Sequence[str] = ()
    """Unusable files after the checkpoint that the run goes on from: they stay until their successor is committed."""


def plan(
    directory: Path,
    catalog: Catalog,
    rules: Sequence[keep.Rule],
    mode: Mode | None,
    run: str,
    start: ResumePoint,
    monitor: str | None,
) -> Adoption:
    """Decide what `run` takes over when it goes on from `start`. Logs what it ignores, and changes no file.

    Args:
        directory: Where the checkpoints are.
        catalog: What is there.
        rules: What to keep.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.
        run: Id of the run.
        start: Where it goes on.
        monitor: The metric that ranks checkpoints from now on; None: checkpoints are not ranked.

    Raises:
        ConfigError: The directory holds checkpoints of another run, which must not be deleted, or scores of another
            metric, which cannot be compared.
        ResumeError: A later version of Cairn has written there, whose checkpoints must not be replaced.
    """
    committed, rejected = catalog.all()
    refuse_newer(rejected)
    if foreign := {item.run for item in committed} - {run}:
        raise ConfigError(
            f"directory={directory} holds checkpoints of another run ({', '.join(foreign)}): give each run a "
            f"directory of its own.",
            parameter="directory",
        )
    ranking.check(directory, committed, monitor)
    newer = {item.path.name for item in start.rejected}
    for item in rejected:
        if item.path.name not in newer:  # older than `start`: it may have been good once, and is not in the way
            log.warning("Ignored %s: %s.", item.path.name, item.why)
    here = start.saved.position if start.saved else None
    ours = [item for item in committed if here is not None and item.position <= here]
    kept = keep.survivors(rules, ours, mode)
    names = {item.name for item in kept}
    to_delete = [item for item in ours if item.name not in names]
    if committed:
        return Adoption(kept, to_delete, newer=sorted(newer))
    return Adoption(kept, to_delete, never_committed=sorted(newer))
