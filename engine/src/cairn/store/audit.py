"""Verify a checkpoint directory, and plan what to delete from it. Reads all bytes; changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cairn.errors import CheckpointError, NewerFormatError
from cairn.policy import keep
from cairn.store import directory_lock, earlier, links, names
from cairn.store.catalog import Catalog, Rejected, verify_file
from cairn.types import Mode, Saved

_LINKS = (names.LAST, names.BEST)
_MOST_LOOKS = 5


@dataclass(frozen=True)
class Finding:
    """The state of one file."""

    path: Path
    state: Literal["whole", "unfinished", "newer", "broken"]
    """unfinished: an interrupted save left it, and the next start removes or repairs it. newer: only a later version of
    Cairn can read it."""
    why: str
    """What was compared, or what is wrong."""


def check_directory(path: Path) -> list[Finding]:
    """Verify every checkpoint, link and leftover in a directory.

    Args:
        path: The directory.

    Returns:
        The checkpoints, oldest first, then links, then leftovers.
    """
    known: dict[tuple[str, str], Finding] = {}
    for _ in range(_MOST_LOOKS):
        before = _listing(path)
        found = _check_directory(path, known)
        if _listing(path) == before:
            break  # else a run has saved meanwhile: what was read is not read again
    return found


def _listing(path: Path) -> list[tuple[str, str]]:
    try:
        found = os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((name, links.named(path / name) if name in _LINKS else "") for name in found)


def _check_directory(path: Path, known: dict[tuple[str, str], Finding]) -> list[Finding]:
    catalog = Catalog(path)
    good, rejected = catalog.all()
    newest = names.parse_name(good[-1].name) if good else None
    waiting = earlier.waiting(path)
    for item in good:
        if (item.name, item.digest) not in known:
            known[item.name, item.digest] = _checkpoint(path / item.name)
    found = [known[item.name, item.digest] for item in good]
    found += [_rejected(item, newest) for item in rejected]
    # The bytes under this name are those of the save that was interrupted.
    found = [item for item in found if item.path.name not in waiting]
    found += [Finding(path / name, "unfinished", earlier.INTERRUPTED) for name in waiting]
    found.sort(key=lambda item: names.parse_name(item.path.name) or (0, 0))
    whole = [item.path.name for item in found if item.state == "whole"]
    later = [item.path.name for item in found if item.state == "newer"]
    links_there = [name for name in _LINKS if catalog.linked(name)]
    found += [_link(path, name, whole, later) for name in links_there if catalog.linked(name) not in waiting]
    if whole and not os.path.lexists(path / names.LAST):
        found.append(Finding(path / names.LAST, "unfinished", "it is missing; the next start creates it"))
    its_parts = {part(name) for part in (names.before_name, names.manifest_name) for name in waiting}
    left = [item for item in catalog.leftovers() if item.name not in its_parts]
    is_used = bool(left) and directory_lock.is_held_elsewhere(path)
    why = "a process uses this directory: it is writing or deleting it" if is_used else "an interrupted save left it"
    return found + [Finding(item, "unfinished", why) for item in left]


def check_file(path: Path) -> Finding:
    """Verify one file by its manifest, or a file of another name by the checksums inside it.

    Args:
        path: The file, or a link to it.

    Returns:
        Its state.

    Raises:
        CheckpointError: It does not exist.
    """
    if not path.exists():
        raise CheckpointError(f"There is no file {path}.")
    return _checkpoint(links.target(path))


@dataclass(frozen=True)
class PrunePlan:
    """What a prune keeps and deletes."""

    kept: list[Saved]
    to_delete: list[Saved]
    broken: list[Rejected]
    """Damaged checkpoints, which count for no rule and are not deleted."""


def plan_prune(path: Path, rules: Iterable[keep.Rule], mode: Mode | None) -> PrunePlan:
    """Apply keep rules to the intact checkpoints: a damaged one does not take the place of an intact one.

    Args:
        path: The directory.
        rules: The keep rules.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.

    Returns:
        What stays and what to delete; nothing is deleted yet.
    """

    def damage(saved: Saved) -> str:
        finding = _checkpoint(path / saved.name)
        return "" if finding.state == "whole" else finding.why

    return choose(Catalog(path).committed(), list(rules), mode, damage)


def choose(
    good: Sequence[Saved], rules: Sequence[keep.Rule], mode: Mode | None, damage: Callable[[Saved], str]
) -> PrunePlan:
    """Do as `plan_prune`, for checkpoints that lie anywhere.

    Args:
        good: The checkpoints, oldest first.
        rules: The keep rules.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.
        damage: Reads a checkpoint, and returns what is wrong with it; an empty string if it is intact.
    """
    broken, whole = list[Rejected](), set[tuple[str, str]]()
    # Only what a rule would keep is read: a damaged one is taken out, and the rules choose again.
    while unread := [item for item in keep.survivors(rules, good, mode) if _key(item) not in whole]:
        found = {_key(item): damage(item) for item in unread}
        broken += [Rejected(Path(item.name), why) for item in unread if (why := found[_key(item)])]
        good = [item for item in good if not found.get(_key(item))]
        whole.update(key for key, why in found.items() if not why)
    kept = keep.survivors(rules, good, mode)
    stays = {_key(item) for item in kept}
    return PrunePlan(kept, [item for item in good if _key(item) not in stays], broken)


def _key(saved: Saved) -> tuple[str, str]:
    return saved.name, saved.digest  # a mirror may hold two of one name


def _checkpoint(path: Path) -> Finding:
    try:
        return Finding(path, "whole", verify_file(path))
    except NewerFormatError as error:
        return Finding(path, "newer", str(error))
    except CheckpointError as error:
        return Finding(path, "broken", str(error))


def _rejected(item: Rejected, newest: tuple[int, int] | None) -> Finding:
    # An interrupted save is newer than all others; any other file has lost its manifest, or is damaged.
    at = names.parse_name(item.path.name)
    is_interrupted = not item.committed and at is not None and (newest is None or at > newest)
    return Finding(item.path, "newer" if item.newer else "unfinished" if is_interrupted else "broken", item.why)


def _link(directory: Path, name: str, whole: list[str], later: list[str]) -> Finding:
    path, target = directory / name, links.named(directory / name)
    if target in later:
        return Finding(path, "newer", f"it points to {target}, which a later version of Cairn wrote")
    if target not in whole:
        why = "is corrupt" if (directory / target).exists() else "does not exist"
        return Finding(path, "broken", f"it points to {target}, which {why}")
    if name == names.LAST and target != whole[-1]:
        return Finding(path, "unfinished", f"it points to {target}, and {whole[-1]} is newer")
    return Finding(path, "whole", f"points to {target}")
