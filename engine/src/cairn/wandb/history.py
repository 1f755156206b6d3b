"""The rows of a run's history: a journal of all of them, and a list of those that W&B has.

Lightning's logger counts rows by itself, so that what a resumed run repeats appears twice in W&B, shifted. Here the
difference between the two files is what is sent.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
TIME = "_timestamp"

Row = dict[str, Any]
Key = tuple[Any, ...]


class Lines:
    """A file with a line of JSON for each item, oldest first.

    Args:
        path: Created, or emptied, with the first item, unless `cut` was called before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._fresh = True

    def add(self, item: Any) -> None:
        """Append an item. If that fails, no half of a line is left.

        Args:
            item: Something that JSON can hold.

        Raises:
            OSError: It could not be written.
        """
        self.notice_deletion()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "wb" if self._fresh else "ab", buffering=0) as file:
            size = file.tell()
            try:
                line = json.dumps(item).encode() + b"\n"
                if file.write(line) != len(line):
                    raise OSError(28, "No space left on device")
            except OSError:
                os.truncate(self.path, size)
                raise
        self._fresh = False
        self.count += 1

    def notice_deletion(self) -> None:
        """If the file was deleted, log it once and start a new one."""
        if self.count and not self.path.exists():
            log.error("%s was deleted, and not by this run: its first %d lines are lost.", self.path, self.count)
            self.count = 0

    def sync(self) -> None:
        """Make all items survive a power cut. Another thread may add one meanwhile."""
        with suppress(FileNotFoundError), open(self.path) as file:  # no item yet, or the file was deleted
            os.fsync(file.fileno())

    def cut(self, count: int) -> list[Any]:
        """Remove all items but the first ones.

        Args:
            count: How many to keep.

        Returns:
            Those that are left.
        """
        items = list(read(self.path))[:count]
        if self.path.is_file():
            temp = self.path.with_suffix(".tmp")
            with open(temp, "w") as file:
                file.write("".join(json.dumps(item) + "\n" for item in items))
                file.flush()
                os.fsync(file.fileno())
            temp.replace(self.path)
        self.count, self._fresh = len(items), False
        return items


def read(path: Path) -> Iterator[Any]:
    """The items in a file of lines; none if there is no file. A line that a kill has cut off is left out."""
    if path.is_file():
        with open(path) as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    log.warning("%s has a line that was cut off: it is left out.", path)


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
        self.journal.add(_plain(row))

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
        there = [item for item in read(self._sent.path) if item[0] < first]  # what came after has not arrived
        self._has = Counter(tuple(key) for _, *key in there)
        self._sent.cut(len(there))
        return first

    def sync(self) -> None:
        """Make both files survive a power cut. Called by another thread than everything else."""
        self.journal.sync()
        self._sent.sync()


def _plain(row: Row) -> Row:
    return {name: value for name, value in row.items() if isinstance(value, int | float | str)}


def _key(row: Row) -> Key:
    """What makes a row this row: a resumed run logs the same names at the same step again.

    It is made from what the journal holds, so that a row has the same key when it is read from there.
    """
    return (row.get(STEP), *sorted(name for name in _plain(row) if name not in (STEP, TIME)))
