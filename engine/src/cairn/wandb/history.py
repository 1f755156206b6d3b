"""The rows of a run's history: a journal of all of them, and a list of those that W&B has.

Lightning's logger counts rows by itself, so that what a resumed run repeats appears twice in W&B, shifted. Here the
difference between the two files is what is sent.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from cairn.trackers.lines import STEP, TIME, Lines, Row, plain, read

Key = tuple[Any, ...]


class History:
    """All rows of a run, and which of them W&B has.

    Args:
        folder: Where the two files are: the folder `wandb` of a run directory.
    """

    def __init__(self, folder: Path) -> None:
        self.journal = Lines(folder / "history.jsonl")
        self._sent = Lines(folder / "sent.jsonl")
        self._has: Counter[Key] = Counter()
        """Rows that W&B has and that were not asked for since the run was resumed."""
        self._next_number: int | None = None

    def add(self, row: Row) -> None:
        """Append a row to the journal, without what a journal cannot hold (pictures, tables).

        Raises:
            OSError: It could not be written.
        """
        self.journal.add(plain(row))

    def send(self, row: Row, run: Any, online: bool) -> bool:
        """Send a row, unless W&B has it.

        Args:
            row: A row of the journal.
            run: W&B's run.
            online: W&B may have rows from before a resume.

        Returns:
            Whether it was sent.
        """
        if self._next_number is None:
            self._next_number = self._resume(run) if online else 0
        key = _key(row)
        if self._has[key]:  # each row that W&B has answers for one of ours
            self._has[key] -= 1
            return False
        number = max(self._next_number, int(run.step or 0))  # the user's own run.log() counts as well
        self._next_number = number + 1
        run.log(row, step=number, commit=True)
        if online:
            self._sent.add([number, *key])
        return True

    def _resume(self, run: Any) -> int:
        """Look up which rows W&B has; returns the number of the next one."""
        first = int(getattr(run, "starting_step", 0) or 0)
        # What came after has not arrived.
        there = [item for item in read(self._sent.path) if _is_sent(item) and item[0] < first]
        self._has = Counter(tuple(key) for _, *key in there)
        self._sent.cut(len(there))
        return first

    def sync(self) -> None:
        """Make both files survive a power cut. Called by another thread than everything else."""
        self.journal.sync()
        self._sent.sync()


def _is_sent(item: Any) -> bool:
    """Return whether a line of `sent.jsonl` is the number of a row and its key."""
    if not isinstance(item, list) or not item or type(item[0]) is not int:
        return False
    return all(isinstance(part, int | float | str | None) for part in item[1:])


def _key(row: Row) -> Key:
    """What makes a row this row: a resumed run logs the same names at the same step again.

    It is made from what the journal holds, so that a row has the same key when it is read from there.
    """
    return (row.get(STEP), *sorted(name for name in plain(row) if name not in (STEP, TIME)))
