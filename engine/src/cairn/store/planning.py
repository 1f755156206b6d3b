"""What a commit deletes and links, decided from what is kept before it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cairn.policy import keep
from cairn.policy.shelf import Shelf, unmarked
from cairn.store import names
from cairn.store.pending import next_number
from cairn.types import Draft, Mode, Saved


@dataclass(frozen=True)
class Decided:
    """What changes around one checkpoint."""

    draft: Draft
    """The checkpoint, with its number."""
    make_room: list[str]
    """Names to delete before it is written."""
    links: Mapping[str, str | None]
    """Links to move after its commit, with their targets; None removes the link."""
    to_delete: list[str]
    """Names to delete last."""


def decide(
    rules: Sequence[keep.Rule],
    saved: Shelf[Saved],
    draft: Draft,
    mode: Mode | None,
    linked: Collection[str],
    overdue: Sequence[str],
) -> Decided:
    """Decide what to delete and where the links point to.

    Args:
        rules: What to keep.
        saved: What is kept, without a checkpoint that the new one replaces.
        draft: The new checkpoint.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.
        linked: What the links point to now, which is not deleted before they have moved.
        overdue: Names that should have been deleted before.
    """
    draft = replace(draft, number=next_number(saved))
    first = keep.to_make_room(rules, saved, draft, mode)
    make_room = [item.name for item in first if item.name not in linked]
    future = saved.without(make_room).plus(draft)
    stays = keep.marks(rules, future, mode)
    kept, dropped = future.only(stays), [future[place] for place in unmarked(stays)]
    return Decided(draft, make_room, links(kept, mode), to_delete(overdue, dropped, kept))


def links(kept: Sequence[Draft], mode: Mode | None) -> dict[str, str | None]:
    """Return the target of each link when these checkpoints are kept.

    Args:
        kept: Checkpoints, oldest first.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.

    Returns:
        Link to file name; None: no such link.
    """
    best = keep.best_of(kept, mode) if mode else None
    return {names.LAST: kept[-1].name if kept else None, names.BEST: best.name if best else None}


def to_delete(overdue: Sequence[str], dropped: Sequence[Draft], kept: Sequence[Draft]) -> list[str]:
    """Return the names to delete: what is overdue and what is dropped, but nothing that is kept."""
    found = [*overdue, *(item.name for item in dropped)]
    kept_names = {item.name for item in kept} if found else set()
    return [name for name in found if name not in kept_names]
