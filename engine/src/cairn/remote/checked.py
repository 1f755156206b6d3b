"""Compares every byte of a mirror with its digests. Downloads one checkpoint at a time, and deletes it again."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cairn.errors import CheckpointError, MissingFileError
from cairn.remote import layout, listed, local_files, origin, staged
from cairn.remote.listed import Listed
from cairn.remote.objects import Objects
from cairn.remote.origin import Named
from cairn.remote.progress_bar import Bar
from cairn.remote.record import Record
from cairn.store.audit import Finding


def check_address(text: str) -> list[Finding]:
    """Verify a mirror, or one of its checkpoints; see `check`.

    Args:
        text: Its address.

    Raises:
        ConfigError: It is not an address, or the store refuses access.
        ResumeError: The store cannot be used.
        MissingFileError: There is no such checkpoint.
    """
    wanted = origin.parse(text)
    return origin.asked(wanted.run, lambda objects: check(objects, wanted))


def check(objects: Objects, wanted: Named) -> list[Finding]:
    """Verify a mirror, or one of its checkpoints.

    Args:
        objects: The mirror.
        wanted: What the user named: with the newest checkpoint, the whole mirror is meant.

    Returns:
        The checkpoints, oldest first, then what no record needs.

    Raises:
        MissingFileError: There is no such checkpoint.
        RemoteError: The store cannot be used.
    """
    found = listed.look(objects)
    if found.is_empty:
        raise MissingFileError(listed.nothing_at(objects, found))
    if not wanted.is_newest:
        return [_checkpoint(objects, found, item, set()) for item in origin.candidates(objects, wanted, found)]
    records, bad = listed.read_records(objects, found)
    known: set[str] = set()
    findings = [_checkpoint(objects, found, item, known) for item in records]
    findings += [Finding(Path(stem.record), "broken", str(why)) for stem, why in bad.items()]
    if not bad:
        why = "no record needs it: an upload was interrupted, or is under way"
        findings += [Finding(Path(name), "unfinished", why) for name in found.unreferenced(records)]
    return findings


def damage(objects: Objects, found: Listed, record: Record) -> str:
    """Return what is wrong with a checkpoint, without its run files; an empty string if it is intact."""
    finding = _checkpoint(objects, found, record, set(), files=False)
    return "" if finding.state == "whole" else finding.why


def _checkpoint(objects: Objects, found: Listed, record: Record, known: set[str], files: bool = True) -> Finding:
    """Verify a checkpoint and its run files.

    Args:
        objects: The mirror.
        found: Its listing.
        record: The record.
        known: Digests of run files that were found intact: most of them belong to several records.
        files: Whether run files are verified as well.
    """
    path = Path(layout.stem_of(record.saved).data)
    missing = found.missing(record) if files else found.missing_data(record)
    if missing:
        return Finding(path, "broken", f"{missing[0]} is missing, or has another size")
    try:
        with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
            with Bar(f"Downloading {record.saved.name}", record.saved.num_bytes) as bar:
                staged.stage(objects, record, Path(folder), bar.advance).discard()
            for item in record.files if files else ():
                if item.digest not in known:
                    local_files.download_file(objects, item, Path(folder) / "file")
                    known.add(item.digest)
    except CheckpointError as error:
        return Finding(path, "broken", str(error))
    return Finding(path, "whole", f"{record.saved.digest[: record.saved.digest.find(':') + 13]}...")
