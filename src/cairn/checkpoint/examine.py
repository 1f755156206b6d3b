"""Is every file in a checkpoint directory what it should be, and what could go? Reads all bytes; changes nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cairn.checkpoint import layout, retention
from cairn.checkpoint.catalog import Catalog, Rejected, describe, verify
from cairn.checkpoint.errors import CheckpointError
from cairn.checkpoint.types import Mode, Saved


@dataclass(frozen=True)
class Finding:
    """What is to be said of one file."""

    path: Path
    state: Literal["whole", "unfinished", "broken"]
    """unfinished: what a kill in the middle of a save leaves, and the next start clears away."""
    why: str


def directory(path: Path) -> list[Finding]:
    """Every checkpoint (oldest first), link and leftover in a directory."""
    catalog = Catalog(path)
    good, rejected = catalog.all()
    newest = layout.parse_name(good[-1].name) if good else None
    found = [_checkpoint(path / item.name, item) for item in good]
    found += [_rejected(item, newest) for item in rejected]
    found.sort(key=lambda item: layout.parse_name(item.path.name) or (0, 0))
    found += [_link(path / name, good) for name in (layout.LAST, layout.BEST) if (path / name).is_symlink()]
    return found + [Finding(item, "unfinished", "left by a save that was cut off") for item in catalog.leftovers()]


def file(path: Path) -> Finding:
    """One checkpoint file: by its manifest, or for a file of another name by the checksums inside it.

    Raises:
        CheckpointError: it is not there.
    """
    if not path.exists():
        raise CheckpointError(f"There is no file {path}.")
    path = path.resolve()
    if layout.parse_name(path.name):
        try:
            return _checkpoint(path, describe(path))
        except CheckpointError as error:
            return Finding(path, "broken", str(error))
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return Finding(path, "broken", f"it is not a file that torch.save wrote ({error})")
    if bad:
        return Finding(path, "broken", f"the checksum of {bad} in it does not fit")
    return Finding(path, "whole", "it has no manifest; the checksums that torch.save has stored in it fit")


@dataclass(frozen=True)
class Pruning:
    """What a pruning keeps and deletes."""

    kept: list[Saved]
    dropped: list[Saved]
    broken: list[Rejected]
    """Not counted, and left alone."""


def prune(path: Path, rules: Iterable[retention.Rule], mode: Mode | None) -> Pruning:
    """Apply `rules` to the checkpoints that are whole: one that is damaged does not take the place of a good one."""
    rules, broken = list(rules), []
    good, whole = Catalog(path).committed(), set[str]()
    while unread := [item for item in retention.survivors(rules, good, mode) if item.name not in whole]:
        for item in unread:
            finding = _checkpoint(path / item.name, item)
            if finding.state == "whole":
                whole.add(item.name)
            else:
                broken.append(Rejected(finding.path, finding.why))
                good.remove(item)
    kept = retention.survivors(rules, good, mode)
    return Pruning(kept, [item for item in good if item not in kept], broken)


def _checkpoint(path: Path, saved: Saved) -> Finding:
    try:
        verify(path, saved)
    except CheckpointError as error:
        return Finding(path, "broken", str(error))
    return Finding(path, "whole", f"sha256 {saved.sha256[:12]}...")


def _rejected(item: Rejected, newest: tuple[int, int] | None) -> Finding:
    """A save that never was finished is newer than all others; one that has lost its manifest need not be."""
    place = layout.parse_name(item.path.name)
    cut_off = not item.committed and place is not None and (newest is None or place > newest)
    return Finding(item.path, "unfinished" if cut_off else "broken", item.why)


def _link(path: Path, good: list[Saved]) -> Finding:
    target = path.readlink()
    if not path.exists():
        return Finding(path, "broken", f"it leads to {target}, which is not there")
    if path.name == layout.LAST and good and target.name != good[-1].name:
        return Finding(path, "unfinished", f"it leads to {target}, and {good[-1].name} is newer")
    return Finding(path, "whole", f"leads to {target}")
