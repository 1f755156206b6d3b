"""Brings the newest intact checkpoint of a mirror into a directory, with all that a run needs to go on from it.

    1  download the newest under a hidden name, verify it;  if it is damaged: warn, and the one before
    2  run files: configuration, attempts, metrics
    3  the older checkpoints that the keep rules want, such as the best one
    4  commit the newest

The newest appears last: after a crash in between, the mirror is still newer, and the next start begins again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn.errors import CheckpointError, NewerFormatError, ResumeError
from cairn.policy import keep
from cairn.remote import listed, local_files, staged
from cairn.remote.listed import Listed
from cairn.remote.objects import Objects
from cairn.remote.progress_bar import Bar
from cairn.remote.record import Record
from cairn.store import names
from cairn.types import Mode, Saved

log = logging.getLogger(__name__)

Rules = tuple[Sequence[keep.Rule], Mode | None]
"""What a run keeps, and whether a lower or a higher score is better."""


@dataclass(frozen=True)
class Target:
    """Where a run lies, or will lie, on this machine."""

    directory: Path
    """Its checkpoints."""
    run: Path | None = None
    """Its run directory; None: only checkpoints are brought."""
    rules: Rules | None = None
    """Older checkpoints that these rules keep are brought as well; None: only the newest."""


def newest(objects: Objects, target: Target, local: Saved | None) -> Saved | None:
    """Bring the newest intact checkpoint of a mirror, if it is newer than that of the directory.

    Args:
        objects: The mirror.
        target: Where it goes.
        local: The newest intact checkpoint in the directory.

    Returns:
        What was brought; None: the directory is as new, or the mirror holds no checkpoint.

    Raises:
        ResumeError: The mirror holds checkpoints and none is intact, and neither is one of the directory; or a later
            version of Cairn wrote the newest; or there is no room.
        RemoteError: The store cannot be used.
    """
    found = listed.look(objects)
    skipped: list[str] = []
    brought = None
    for record in newest_first(objects, found, skipped.append, after=local):
        why = _bring(objects, found, record, target)
        if not why:
            brought = record.saved
            break
        skipped.append(f"{record.saved.name}: {why}")
    warn_of_skipped(objects, skipped)
    if brought is None and local is None and found.stems:
        raise ResumeError(
            f"No checkpoint in {objects.address} is intact ({'; '.join(skipped)}). To start over, choose another "
            f"address, or move these objects away."
        )
    return brought


def warn_of_skipped(objects: Objects, skipped: Iterable[str]) -> None:
    """Log what was skipped in a mirror, once for these objects: a start may look several times."""
    for text in skipped:
        if text not in objects.skipped:
            objects.skipped.add(text)
            log.warning("Skipped in %s: %s.", objects.address, text)


def newest_first(
    objects: Objects, found: Listed, skip: Callable[[str], None], after: Saved | None = None
) -> Iterator[Record]:
    """Yield the records of a mirror from the newest to the oldest, each when it is asked for.

    Args:
        objects: The mirror.
        found: Its listing.
        skip: Called with a text for each record that cannot be read.
        after: Only those after its position; None: all.

    Raises:
        ResumeError: A later version of Cairn wrote one: falling back to an older one would lose work.
        RemoteError: The store cannot be used.
    """
    begin = (after.position.epoch, after.position.batch) if after is not None else (-1, -1)
    stems = [stem for stem in found.stems if (names.parse_name(stem.name) or begin) > begin]
    while stems:
        name, same = stems[-1].name, list[Record]()
        while stems and stems[-1].name == name:  # saved twice at one position, on two machines
            stem = stems.pop()
            try:
                same.append(listed.read_record(objects, stem))
            except NewerFormatError as error:
                raise ResumeError(f"{stem.record} of {objects.address} cannot be used: {error}.") from error
            except CheckpointError as error:
                skip(f"{name}: {error}")
        yield from sorted(same, key=lambda record: record.saved.created, reverse=True)


def _bring(objects: Objects, found: Listed, record: Record, target: Target) -> str:
    """Bring a checkpoint and what belongs to it; return why that is not possible, or an empty string."""
    if missing := found.missing(record):
        return f"{missing[0]} is missing in the mirror, or has another size"
    older = _older(objects, found, record, target)
    total = sum(item.saved.num_bytes for item in (record, *older))
    with Bar(f"Downloading from {objects.address}", total) as bar:
        try:
            coming = staged.stage(objects, record, target.directory, bar.advance)
        except CheckpointError as error:
            return str(error)
        try:
            if target.run is not None:
                try:
                    local_files.bring(objects, record.files, target.run)
                except CheckpointError as error:
                    return str(error)
            for item in older:
                _bring_older(objects, found, item, target.directory, bar)
            coming.commit()
        finally:
            coming.discard()
    log.info("Downloaded %s from %s.", record.saved.name, objects.address)
    return ""


def _older(objects: Objects, found: Listed, record: Record, target: Target) -> list[Record]:
    """Return what the keep rules want of the checkpoints before this one, except what is there."""
    if target.rules is None:
        return []
    rules, mode = target.rules
    before = [item for item in listed.read_records(objects, found)[0] if item.saved.position < record.saved.position]
    by_name = {item.saved.name: item for item in sorted(before, key=lambda item: item.saved.created)}
    saved = sorted((item.saved for item in (*by_name.values(), record)), key=lambda item: item.position)
    wanted = [item for item in keep.survivors(list(rules), saved, mode) if item.name in by_name]
    return [by_name[item.name] for item in wanted if not staged.is_there(target.directory, item)]


def _bring_older(objects: Objects, found: Listed, record: Record, directory: Path, bar: Bar) -> None:
    why = ", ".join(f"{name} is missing" for name in found.missing(record)[:1])
    try:
        if not why:
            staged.stage(objects, record, directory, bar.advance).commit()
    except CheckpointError as error:
        why = str(error)
    if why:
        log.warning(
            "Not downloaded from %s: %s (%s). The run goes on without this older checkpoint.",
            objects.address,
            record.saved.name,
            why,
        )
