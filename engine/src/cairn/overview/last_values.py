"""Last value of each metric in a run's metrics.csv, read from the end of the file: it may have a million rows."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from cairn import opening

_FIRST_BYTES = 2**13
_MORE = 8
"""Each step back reads this many times as much, so that a file is read about once, however far back a value is."""
_MOST_BYTES = 2**26
"""Upper limit for what is read of a file. A value before that is not found."""
_NOT_METRICS = ("", "epoch", "step")


class LastValues:
    """Last values in one file. A file that is missing or damaged has none.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, float] = {}
        self._missing: set[str] = set()

    @cached_property
    def names(self) -> Sequence[str]:
        """Names of the metrics, in the order of the columns."""
        return [name for name in self._columns if name not in _NOT_METRICS]

    def of(self, name: str) -> float | None:
        """Return the last value of a metric; None if it has none."""
        return self.several([name]).get(name)

    def several(self, names: Sequence[str]) -> dict[str, float]:
        """Return the last values of those metrics that have one."""
        wanted = {name for name in names if name in self._columns} - self._known.keys() - self._missing
        if wanted:
            self._search(wanted)
        return {name: self._known[name] for name in names if name in self._known}

    def _search(self, wanted: set[str]) -> None:
        places = {place: name for place, name in enumerate(self._columns) if name in wanted}
        try:
            for row in self._rows_from_the_end():
                if len(row) != len(self._columns):
                    continue  # damaged
                for place in [place for place in places if row[place]]:
                    name = places.pop(place)
                    try:
                        self._known[name] = float(row[place])
                    except ValueError:
                        self._missing.add(name)
                if not places:
                    break
        except (OSError, csv.Error):
            pass
        self._missing |= set(places.values())

    @cached_property
    def _columns(self) -> list[str]:
        try:
            with opening.for_reading(self._path) as file:
                return next(csv.reader([_header(file).decode("utf-8", "replace")]), [])
        except (OSError, csv.Error):
            return []

    def _rows_from_the_end(self) -> Iterator[list[str]]:
        with opening.for_reading(self._path) as file:
            first = len(_header(file))
            end = _end_of_last_row(file, first)
            num_bytes = _FIRST_BYTES
            while end > first and num_bytes <= _MOST_BYTES:
                begin = max(first, end - num_bytes)
                file.seek(begin)
                block = file.read(end - begin)
                # The first row of a block may have begun before it.
                skipped = 0 if begin == first else block.find(b"\n") + 1
                if begin == first or skipped:
                    # A row of numbers is a line. Mostly, the last ones are enough.
                    for line in reversed(block[skipped:].decode("utf-8", "replace").split("\n")):
                        yield next(csv.reader([line]), [])
                    end = begin + skipped
                num_bytes *= _MORE


def _header(file: BinaryIO) -> bytes:
    """Read the first row, whose names may contain line breaks."""
    line = file.readline(opening.MOST_LINE_BYTES)
    while line.count(b'"') % 2 and (more := file.readline(opening.MOST_LINE_BYTES)):
        line += more
    return line


def _end_of_last_row(file: BinaryIO, first: int) -> int:
    """Return where the last complete row ends: the beginning of a number, which a kill has left, is another number."""
    size = file.seek(0, os.SEEK_END)
    begin = max(first, size - _FIRST_BYTES * _MORE)
    file.seek(begin)
    end = file.read().rfind(b"\n") + 1
    return begin + end if end else first
