"""What will be kept when the checkpoints that are being written are committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from cairn.policy import keep
from cairn.policy.shelf import Shelf
from cairn.types import AnyDraft, Draft, Mode, Saved


class Pending:
    """The checkpoints that are being written.

    Args:
        rules: What to keep.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.
    """

    def __init__(self, rules: Sequence[keep.Rule], mode: Mode | None) -> None:
        self._rules, self._mode = rules, mode
        self._drafts: list[Draft] = []
        self._known: tuple[Shelf[Saved], list[Draft]] | None = None
        """The last answer of `kept_with`, which is asked at every boundary."""

    def add(self, draft: Draft) -> None:
        """Register a checkpoint that is about to be written."""
        self._drafts.append(draft)
        self._known = None

    def remove(self, draft: Draft) -> None:
        """Forget a checkpoint that was committed or given up."""
        self._drafts.remove(draft)
        self._known = None

    def kept_with(self, shelf: Shelf[Saved]) -> list[Draft]:
        """Return what will be kept when all pending checkpoints are committed in addition to those on the shelf."""
        if self._known is None or self._known[0] is not shelf:
            found: Shelf[Any] = shelf
            for draft in self._drafts:
                left = others(found, draft)
                future = left.plus(replace(draft, number=next_number(left)))
                found = future.only(keep.marks(self._rules, future, self._mode))
            self._known = (shelf, found.items)
        return self._known[1]


def others(shelf: Shelf[AnyDraft], draft: Draft) -> Shelf[AnyDraft]:
    """Return the checkpoints whose file a new one does not replace: that of the same position, among the newest."""
    newer = takewhile(lambda item: item.position >= draft.position, reversed(shelf.items))
    return shelf.without([draft.name]) if any(item.name == draft.name for item in newer) else shelf


def next_number(saved: Sequence[Draft]) -> int:
    """Return the number of the next save; one that is not lasting passes its number on."""
    return saved[-1].number + saved[-1].lasting if saved else 0
