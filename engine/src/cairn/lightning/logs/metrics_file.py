"""A CSV file of numbers that grows by rows and by columns, and is cut at a resume; its columns are sorted.

Appending a row writes that row. Another column is another cell in each row, so the file is written again, block by
block; a large one in a thread, while training continues and new rows wait in memory:

    training thread     row, row, a new key ------ row ------------ row ---------> rows that waited, row
    thread                       metrics.csv -> .metrics.csv.tmp   fsync, rename

A reader sees a complete file at any moment.
"""

from __future__ import annotations

import csv
import errno
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn import opening
from cairn.store import disk, names

Row = dict[str, str]

_BLOCK_BYTES = 1 << 18
_COMMA, _NEWLINE = ord(","), ord("\n")
_MISSING = -1


class MetricsFile:
    """Writes one file. Not for several threads at once.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self.num_rows = 0
        self._num_bytes = 0
        self._last = b""
        """The last row, as it was written."""

    def create(self, columns: Sequence[str]) -> None:
        """Start a new file with these columns, in place of one that is there.

        Raises:
            OSError: It could not be written.
        """
        header = _line(columns)
        disk.put(self.path, header)
        self.columns, self.num_rows, self._num_bytes, self._last = list(columns), 0, len(header), header

    def append(self, rows: Sequence[Row]) -> None:
        """Append rows, which have no other columns than the file.

        Raises:
            OSError: They could not be written; the file is as it was.
        """
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns, lineterminator="\n").writerows(rows)
        added = text.getvalue().encode()
        size = self.path.stat().st_size
        try:
            with os.fdopen(opening.for_writing(self.path, os.O_WRONLY | os.O_APPEND), "ab") as file:
                file.write(added)
        except OSError:
            opening.cut(self.path, size)  # remove a partly written row
            raise
        self.num_rows += len(rows)
        self._num_bytes = size + len(added)
        self._last = added[added.rfind(b"\n", 0, -1) + 1 :]

    def rearrange(self, columns: Sequence[str], num_rows: int | None = None) -> None:
        """Write the file again with these columns: cells of new ones are empty, and others are left out.

        Args:
            columns: Names of the columns.
            num_rows: The rows to keep; None: all.

        Raises:
            OSError: It could not be read or written; the file is as it was.
        """
        with (
            _as_oserror(self.path),
            opening.for_reading(self.path) as source,
            disk.renamed_at_end(self.path) as temp,
            opening.new_file(temp) as target,
        ):
            before = next(csv.reader([_header(source).decode()]), [])
            places = [before.index(name) if name in before else _MISSING for name in columns]
            last, kept = _line(columns), 0
            target.write(last)
            for block in _blocks(source, len(before), num_rows):
                moved = block if before == list(columns) else _moved(block, len(before), places)
                target.write(moved)
                kept += block.count(b"\n")
                last = moved[moved.rfind(b"\n", 0, -1) + 1 :]
            target.flush()
            os.fsync(target.fileno())
            num_bytes = target.tell()
        self.columns, self.num_rows, self._num_bytes, self._last = list(columns), kept, num_bytes, last

    def state(self) -> dict[str, Any]:
        """Return how much of the file there is."""
        position = {"bytes": self._num_bytes, "last": self._last.decode()} if self.num_rows else {}
        return {"rows": self.num_rows, "columns": list(self.columns), **position}

    @property
    def is_large(self) -> bool:
        """Whether `rearrange` takes longer than a moment."""
        return self._num_bytes > _BLOCK_BYTES

    def cut(self, state: Mapping[str, Any]) -> None:
        """Go back to a `state`: at its position if the rows up to there are unchanged, else after its number of rows.

        A file that is missing is created, and one that has lost rows is continued, with a warning.

        Args:
            state: What `state` has returned; without `bytes`, from before it had them.

        Raises:
            OSError: The file could not be written.
        """
        disk.remove(self.path.with_name(names.temp_name(self.path.name)))  # a kill may have left it
        columns, last = list(state["columns"]), state.get("last", "").encode()
        if not self.path.is_file():
            self.create(columns)
        elif last and self._ends_with(_line(columns), last, state["bytes"]):
            opening.cut(self.path, state["bytes"])
            self.columns, self.num_rows = columns, state["rows"]
            self._num_bytes, self._last = state["bytes"], last
        else:
            self.rearrange(columns, state["rows"])
        if self.num_rows < state["rows"]:
            rank_zero_warn(
                f"{self.path} has only {self.num_rows} of the {state['rows']} rows that the checkpoint knows: the "
                f"others are lost."
            )

    def _ends_with(self, header: bytes, last: bytes, num_bytes: int) -> bool:
        """Whether the file begins with a header, and has a row right before a position."""
        with opening.for_reading(self.path) as file:
            begins = file.read(len(header)) == header
            file.seek(max(0, num_bytes - len(last)))
            return begins and file.read(len(last)) == last


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    # Before Python 3.13, the writer does not quote a carriage return, which its reader takes for the end of the row.
    has_return = any("\r" in cell for cell in cells)
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL).writerow(cells)
    return text.getvalue().encode()


def _header(file: BinaryIO) -> bytes:
    """Read the first row, whose names may contain line breaks."""
    line = file.readline()
    while line.count(b'"') % 2 and (more := file.readline()):
        line += more
    return line


@contextmanager
def _as_oserror(path: Path) -> Iterator[None]:
    """Raise an OSError for a file that is damaged, as for one that cannot be read."""
    try:
        yield
    except (ValueError, csv.Error) as error:
        raise OSError(errno.EINVAL, f"it is not a table that can be read: {error}", str(path)) from error


def _blocks(file: BinaryIO, num_columns: int, num_rows: int | None) -> Iterator[bytes]:
    """Read whole rows, some hundred kilobytes at a time; what is left of a row that a kill has cut is left out."""
    left = math.inf if num_rows is None else num_rows
    while left > 0 and (block := file.read(_BLOCK_BYTES) + file.readline()):
        end = block.rfind(b"\n") + 1
        lacks_only_its_end = end < len(block) and block.count(b",", end) == num_columns - 1
        rows = block + b"\n" if lacks_only_its_end else block[:end]
        if (found := rows.count(b"\n")) > left:
            rows, found = b"".join(islice(io.BytesIO(rows), int(left))), int(left)
        left -= found
        yield rows


def _moved(rows: bytes, num_columns: int, places: Sequence[int]) -> bytes:
    """Return rows with their cells in other places.

    Args:
        rows: Whole rows.
        num_columns: Number of cells in each.
        places: For each new column, its place so far; -1: it is empty.
    """
    text = np.frombuffer(rows, np.uint8)
    ends = np.flatnonzero((text == _COMMA) | (text == _NEWLINE))
    if b'"' in rows or ends.size % num_columns or (text[ends[num_columns - 1 :: num_columns]] != _NEWLINE).any():
        # Not as we have written it. A cell that is not there is empty.
        cells = csv.reader(io.StringIO(rows.decode(), newline=""))
        return b"".join(_line([row[at] if 0 <= at < len(row) else "" for at in places]) for row in cells)
    starts = np.concatenate(([0], ends[:-1] + 1))
    known = np.array([place != _MISSING for place in places])
    begins = starts.reshape(-1, num_columns)[:, places]
    sizes = np.where(known, ends.reshape(-1, num_columns)[:, places] - begins, 0)
    lengths = (sizes + 1).ravel()  # with the separator after the cell
    stops = np.cumsum(lengths)
    source = np.arange(stops[-1]) + np.repeat(begins.ravel() - (stops - lengths), lengths)
    moved = text[source]
    moved[stops - 1] = _COMMA
    moved[stops[len(places) - 1 :: len(places)] - 1] = _NEWLINE
    return moved.tobytes()
