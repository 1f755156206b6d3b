"""Log metrics to CSV files that stay exact over resumes.

`metrics.csv` has a row per log call. A resume removes the rows that were written after the checkpoint.
`checkpoints.csv` has a row for each save with its cost, and is never cut.

Lightning's CSVLogger deletes an existing file, so a resumed run would lose its history.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from cairn import opening
from cairn.known_directory import KnownDirectory
from cairn.store import disk

log = logging.getLogger(__name__)

Row = dict[str, str]
_COSTS = "checkpoint/"


class CSVLogger(Logger):
    """Logger that writes `save_dir/metrics.csv`: a sorted column per metric, with `epoch` and `step`.

    Args:
        save_dir: Directory of the file, created with the first row.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self._directory = Path(save_dir)
        self._known = KnownDirectory.at_or_above(self._directory.parent)
        self._columns: list[str] = []
        self._num_rows = 0
        self._buffer: list[Row] = []
        self._fresh = True
        """The file, if there is one, belongs to an earlier run."""
        self._warned = False

    @property
    def path(self) -> Path:
        """Path of `metrics.csv`."""
        return self._directory / "metrics.csv"

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._directory)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run directory holds the whole configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if all(name.startswith(_COSTS) for name in metrics):
            self._log_costs({name.removeprefix(_COSTS): value for name, value in metrics.items()}, step)
            return
        row = {name: str(float(value) if name != "epoch" else int(value)) for name, value in metrics.items()}
        self._buffer.append({**row, "step": "" if step is None else str(step)})

    def _log_costs(self, costs: Mapping[str, float], step: int | None) -> None:
        """Append the cost of a save to a file of its own: costs differ between equal runs, and metrics.csv must not."""
        path = self._directory / "checkpoints.csv"
        try:
            self._known = self._known.make(self._directory)
            _append(path, {"step": step, **costs})
        except OSError as error:
            log.error("%s cannot be written (%s): the cost of this save is not recorded.", path, error.strerror)

    @rank_zero_only
    def save(self) -> None:
        """Write the buffered rows. If that fails, log an error once and keep the rows for the next call."""
        try:
            self._flush()
        except OSError as error:
            if not self._warned:
                log.error(
                    "%s cannot be written (%s): training continues, and its rows are kept for the next try.",
                    self.path,
                    error.strerror,
                )
            self._warned = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def state_dict(self) -> dict[str, Any]:
        """Write the buffered rows, and return how much of the file belongs to this position.

        The rows do not yet survive a power cut: call `sync` for that.

        Raises:
            OSError: The rows could not be written.
        """
        self._flush()
        return {"rows": self._num_rows, "columns": list(self._columns)}

    def sync(self) -> None:
        """Make the rows up to the last `state_dict` survive a power cut. May be called on another thread.

        Raises:
            OSError: The file could not be synced.
        """
        if self._num_rows:
            with opening.for_reading(self.path) as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the file to the rows and columns of the checkpoint."""
        rows = self._read()[: state["rows"]] if self.path.is_file() else []
        self._buffer = []
        if len(rows) < state["rows"]:
            rank_zero_warn(
                f"{self.path} has only {len(rows)} of the {state['rows']} rows that the checkpoint knows: the others "
                f"are lost."
            )
        if state["rows"]:
            self._rewrite(rows, list(state["columns"]))

    def _flush(self) -> None:
        """Append the buffered rows; a new column rewrites the whole file."""
        if not self._buffer:
            return
        self._known = self._known.make(self._directory)
        columns = sorted({*self._columns, *(name for row in self._buffer for name in row)})
        if not self._fresh and not self.path.is_file():
            log.error(
                "%s was removed by another program: its first %d rows are lost, and a new file is started.",
                self.path,
                self._num_rows,
            )
            self._rewrite([], columns)
        if self._fresh or columns != self._columns:
            self._rewrite([] if self._fresh else self._read(), columns)
        size = self.path.stat().st_size
        try:
            with io.TextIOWrapper(opening.for_appending(self.path), "utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerows(self._buffer)
        except OSError:
            opening.cut(self.path, size)  # remove a partly written row
            raise
        self._num_rows += len(self._buffer)
        self._buffer, self._warned = [], False

    def _read(self) -> list[Row]:
        with opening.rows(self.path, newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: list[Row], columns: list[str]) -> None:
        self._known = self._known.make(self._directory)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        disk.put(self.path, text.getvalue().encode())
        self._columns, self._num_rows, self._fresh = columns, len(rows), False


def _append(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a file whose columns are those of its first row: other values of later rows are dropped."""
    with io.TextIOWrapper(opening.for_appending(path), "utf-8", newline="") as file:
        file.seek(0)
        columns = next(csv.reader(file), None) or list(row)
        file.seek(0, os.SEEK_END)
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
