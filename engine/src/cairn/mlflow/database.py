"""Deletes values of metrics from MLflow's SQLite file, which its client cannot: those after the resumed checkpoint."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

_WAIT_S = 30.0
"""Maximum time to wait for other writers."""


def delete(database: Path, run_id: str, points: Iterable[tuple[str, int, int]]) -> None:
    """Delete values, and let the newest of the others be the latest of its metric.

    Args:
        database: The file.
        run_id: MLflow's id of the run.
        points: Name, step and timestamp of each value.

    Raises:
        sqlite3.Error: The file cannot be written, or its tables are not those of MLflow 3.
    """
    gone = list(points)
    with closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection, connection:
        connection.executemany(
            "DELETE FROM metrics WHERE run_uuid = ? AND key = ? AND step = ? AND timestamp = ?",
            [(run_id, *point) for point in gone],
        )
        keys = [(run_id, key) for key in {point[0] for point in gone}]
        connection.executemany("DELETE FROM latest_metrics WHERE run_uuid = ? AND key = ?", keys)
        connection.executemany(
            # As MLflow chooses it: the largest step, then the largest timestamp, then the largest value.
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
            "SELECT key, value, timestamp, step, is_nan, run_uuid FROM metrics WHERE run_uuid = ? AND key = ? "
            "ORDER BY step DESC, timestamp DESC, value DESC LIMIT 1",
            keys,
        )
