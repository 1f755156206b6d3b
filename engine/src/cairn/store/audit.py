"""Is every file in a checkpoint directory what it should be, and what could go? Reads all bytes; changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cairn.errors import CheckpointError
from cairn.policy import keep
from cairn.store import names
from cairn.store.catalog import Catalog, Rejected, verify_file
from cairn.types import Mode, Saved


@dataclass(frozen=True)
class Finding:
    """What is to be said of one file."""

    path: Path
    state: Literal["whole", "unfinished", "broken"]
    """unfinished: what a kill in the middle of a save leaves, and the next start clears away."""
    why: str


def check_directory(path: Path) -> list[Finding]:
    """Every checkpoint (oldest first), link and leftover in a directory."""
    catalog = Catalog(path)
    good, rejected = catalog.all()
    newest = names.parse_name(good[-1].name) if good else None
    found = [_checkpoint(path / item.name) for item in good]
    found += [_rejected(item, newest) for item in rejected]
    found.sort(key=lambda item: names.parse_name(item.path.name) or (0, 0))
    whole = [item.path.name for item in found if item.state == "whole"]
    found += [_link(path / name, whole) for name in (names.LAST, names.BEST) if (path / name).is_symlink()]
    if whole and not os.path.lexists(path / names.LAST):
        found.append(Finding(path / names.LAST, "unfinished", "it is missing; the next start makes it"))
    return found + [Finding(item, "unfinished", "left by a save that was cut off") for item in catalog.leftovers()]


def check_file(path: Path) -> Finding:
    """One checkpoint file: by its manifest, or for a file of another name by the checksums inside it.

    Raises:
        CheckpointError: it is not there.
    """
    if not path.exists():
        raise CheckpointError(f"There is no file {path}.")
    return _checkpoint(path.resolve())


@dataclass(frozen=True)
class PrunePlan:
    """What a pruning keeps and deletes."""

    kept: list[Saved]
    to_delete: list[Saved]
    broken: list[Rejected]
    """Not counted, and left alone."""


def plan_prune(path: Path, rules: Iterable[keep.Rule], mode: Mode | None) -> PrunePlan:
    """Apply `rules` to the checkpoints that are whole: one that is damaged does not take the place of a good one."""
    rules, broken = list(rules), []
    good, whole = Catalog(path).committed(), set[str]()
    while unread := [item for item in keep.survivors(rules, good, mode) if item.name not in whole]:
        for item in unread:
            finding = _checkpoint(path / item.name)
            if finding.state == "whole":
                whole.add(item.name)
            else:
                broken.append(Rejected(finding.path, finding.why))
                good.remove(item)
    kept = keep.survivors(rules, good, mode)
    return PrunePlan(kept, [item for item in good if item not in kept], broken)


def _checkpoint(path: Path) -> Finding:
    try:
        return Finding(path, "whole", verify_file(path))
    except CheckpointError as error:
        return Finding(path, "broken", str(error))


def _rejected(item: Rejected, newest: tuple[int, int] | None) -> Finding:
    """A save that never was finished is newer than all others; any other has lost its manifest, or is damaged."""
    place = names.parse_name(item.path.name)
    cut_off = not item.committed and place is not None and (newest is None or place > newest)
    return Finding(item.path, "unfinished" if cut_off else "broken", item.why)


def _link(path: Path, whole: list[str]) -> Finding:
    target = path.readlink()
    if target.name not in whole:
        why = "is not there" if not path.exists() else "is broken"
        return Finding(path, "broken", f"it leads to {target}, which {why}")
    if path.name == names.LAST and target.name != whole[-1]:
        return Finding(path, "unfinished", f"it leads to {target}, and {whole[-1]} is newer")
    return Finding(path, "whole", f"leads to {target}")
