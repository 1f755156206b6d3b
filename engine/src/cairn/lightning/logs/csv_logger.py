"""Log metrics to CSV files that stay exact over resumes.

`metrics.csv` has a row per log call. A resume removes the rows that were written after the checkpoint. How the file
grows is in metrics_file.py.
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
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn import opening
from cairn.known_directory import KnownDirectory
from cairn.lightning.logs.metrics_writer import MetricsWriter

log = logging.getLogger(__name__)

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
        self._rows = MetricsWriter(self._directory / "metrics.csv")

    @property
    def path(self) -> Path:
        """Path of `metrics.csv`."""
        return self._rows.file.path

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
        self._rows.add({**row, "step": "" if step is None else str(step)})

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
        self._rows.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._rows.save()
        self._rows.wait()

    def state_dict(self) -> dict[str, Any]:
        """Write the buffered rows, and return how much of the file belongs to this position.

        The rows do not yet survive a power cut: call `sync` for that.

        Raises:
            OSError: The rows could not be written.
        """
        return self._rows.state()

    def sync(self) -> None:
        """Make the rows up to the last `state_dict` survive a power cut. May be called on another thread.

        Raises:
            OSError: The file could not be written or synced.
        """
        self._rows.sync()

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the file to the rows and columns of the checkpoint, when training begins or a row is written."""
        self._rows.cut(state)

    @rank_zero_only
    def training_begins(self) -> None:
        """Cut the file now: this start is not refused any more."""
        self._rows.cut_now()


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
