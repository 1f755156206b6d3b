"""Rows of a run's history in a file: a line of JSON for each. A resume cuts it to the rows of its checkpoint."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from cairn import opening, records
from cairn.known_directory import KnownDirectory
from cairn.records import RecordError
from cairn.store import disk, journal

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
TIME = "_timestamp"

Row = dict[str, Any]


class Lines:
    """A file with a line of JSON for each item, oldest first.

    Args:
        path: Created, or emptied, with the first item, unless `cut` was called before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._known = KnownDirectory.at_or_above(path.parent.parent)
        self._fresh = True

    def add(self, item: Any) -> None:
        """Append an item as `journal.append` does.

        Args:
            item: A mapping or sequence of JSON values.

        Raises:
            OSError: The item could not be written; no part of it is left in the file.
        """
        self.notice_deletion()
        if self._fresh and self.path.is_file():
            opening.cut(self.path, 0)
        self._known = self._known.make(self.path.parent)
        journal.append(self.path, item)
        self._fresh = False
        self.count += 1

    def keep(self) -> None:
        """Keep the items that are there: the next one is added to them."""
        self.count, self._fresh = sum(1 for _ in read(self.path)), False

    def notice_deletion(self) -> None:
        """If the file was deleted, log it once and start a new one."""
        if self.count and not self.path.exists():
            log.error("%s was deleted, and not by this run: its first %d lines are lost.", self.path, self.count)
            self.count = 0

    def sync(self) -> None:
        """Make all items survive a power cut. Another thread may add one meanwhile."""
        with suppress(FileNotFoundError), opening.for_reading(self.path) as file:  # no item yet, or it was deleted
            os.fsync(file.fileno())

    def cut(self, count: int) -> list[Any]:
        """Keep the first items and remove the others.

        Args:
            count: Number of items to keep.

        Returns:
            The items that are left.
        """
        items = list(read(self.path))[:count]
        if self.path.is_file():
            disk.put(self.path, "".join(json.dumps(item) + "\n" for item in items).encode())
        self.count, self._fresh = len(items), False
        return items

    def after(self, offset: int, most: int | None = None) -> tuple[list[Any], int]:
        """Read whole lines from a position on. Those that are damaged are skipped.

        Args:
            offset: Number of bytes before it; beyond the end, the file was replaced and is read from its beginning.
            most: Maximum number of lines; None: all.

        Returns:
            The items, and the position after them.
        """
        items: list[Any] = []
        try:
            file = opening.for_reading(self.path)
        except FileNotFoundError:
            return items, 0
        with file:
            end = os.fstat(file.fileno()).st_size
            file.seek(position := offset if offset <= end else 0)
            while (most is None or len(items) < most) and (line := file.readline()).endswith(b"\n"):
                position += len(line)
                with suppress(RecordError):
                    items.append(records.parse(line))
        return items, position


def read(path: Path) -> Iterator[Any]:
    """Yield the items in a file of lines; none if there is no file. Each line that a kill cut off is logged."""
    if path.is_file():
        yield from journal.read(path, lambda: log.warning("%s has a line that was cut off: it is skipped.", path))


def plain(row: Row) -> Row:
    """A row without what a journal cannot hold (pictures, tables)."""
    return {name: value for name, value in row.items() if isinstance(value, int | float | str)}


def number(value: Any) -> Any:
    """A tensor or array of one number as that number; anything else as it is."""
    num = value.numel() if hasattr(value, "numel") else getattr(value, "size", None)
    return value.item() if num == 1 and hasattr(value, "item") else value
