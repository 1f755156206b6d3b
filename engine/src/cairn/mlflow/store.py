"""A run in MLflow, found again by a tag after a resume; each value of a metric is there once.

                     in SQLite               on a server, which deletes no values
journal has it       stays                   stays
a resume has cut it  is deleted              stays, and the value that is logged again counts as sent
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cairn.mlflow import environment
from cairn.mlflow.target import Target
from cairn.store import disk
from cairn.trackers.lines import STEP, TIME, Row

log = logging.getLogger(__name__)

_STATUSES = {"finished": "FINISHED", "paused": "SCHEDULED", "failed": "FAILED", "stopped": "KILLED"}
_LONGEST_NAME = 250
"""In characters."""
_COSTS = "checkpoint/"
"""Metrics of saves, which differ between equal runs."""


@dataclass(frozen=True)
class RunName:
    """What a run is called in MLflow."""

    experiment: str
    id: str
    """Our id, which stays the same after a resume."""
    name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class MLFlowStore:
    """A run in MLflow.

    Args:
        target: Where it is kept.
        named: Returns what it is called, when it is needed for the first time.
    """

    def __init__(self, target: Target, named: Callable[[], RunName]) -> None:
        self.target, self._named = target, named
        self.client: Any = None
        self.run_id = ""
        """MLflow's id; empty until `connect`."""
        self.artifact_uri = ""
        self._lock = threading.Lock()
        self._ahead: dict[tuple[str, int], list[float]] = {}
        """Values on a server that a resume has cut, by metric and step."""
        self._has_warned = False

    def connect(self) -> None:
        """See `Store`. May be called on several threads."""
        with self._lock:
            if self.client is not None:
                return
            environment.prepare()
            from cairn.mlflow import client as calls  # it imports mlflow, which takes a second

            with self._alone():
                named, client = self._named(), calls.connect(self.target.uri)
                experiment = calls.experiment(client, named.experiment, self.target.artifacts)
                run = calls.run(client, experiment, named.id, named.name, named.tags)
            self.run_id, self.artifact_uri, self.client = run.info.run_id, run.info.artifact_uri, client

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let other runs wait: MLflow makes the tables of a new SQLite file twice if two of its clients open it."""
        database = self.target.database
        if database is None:
            yield
            return
        folder = database.absolute().parent
        folder.mkdir(parents=True, exist_ok=True)
        with disk.locked(folder):
            yield

    def match(self, rows: Sequence[Row], names: Collection[str]) -> list[Row]:
        """See `Store`."""
        from cairn.mlflow import client as calls

        keys = {metric_name(name) for name in (*names, *(name for row in rows for name in row))}
        wanted = {point[:3] for row in rows for _, point in _points(row)}
        there = [point for key in sorted(keys) for point in calls.history(self.client, self.run_id, key)]
        lost = [point for point in there if point[:3] not in wanted]
        self._ahead = {}
        if lost and self.target.database is not None:
            from cairn.mlflow import database

            database.delete(self.target.database, self.run_id, {point[:3] for point in lost})
        else:
            for point in lost:
                self._ahead.setdefault((point.key, point.step), []).append(point.value)
        has = {point[:3] for point in there}
        parts = [{name: row[name] for name, point in _points(row) if point[:3] not in has} for row in rows]
        places = [{name: row[name] for name in (STEP, TIME) if name in row} for row in rows]
        return [{**part, **place} for part, place in zip(parts, places, strict=True) if part]

    def send(self, rows: Sequence[Row]) -> None:
        """See `Store`."""
        from cairn.mlflow import client as calls

        points = [calls.Point(*point) for row in rows for _, point in _points(row) if not self._is_there(*point)]
        calls.log_points(self.client, self.run_id, points)

    def configure(self, config: Mapping[str, Any]) -> None:
        """See `Store`. It becomes parameters."""
        from cairn.mlflow import client as calls

        calls.log_params(self.client, self.run_id, dict(_flat(config)))

    def end(self, status: str) -> None:
        """See `Store`."""
        self.client.set_terminated(self.run_id, _STATUSES[status])

    def _is_there(self, key: str, step: int, timestamp_ms: int, value: float) -> bool:
        values = self._ahead.get((key, step))
        if not values:
            return False
        before = values.pop(0)
        if before != value and not key.startswith(_COSTS) and not self._has_warned:
            self._has_warned = True
            log.warning(
                "MLflow: %s at step %d was %.6g before the resume and is %.6g now. The server deletes no values: it "
                "keeps those of before. This message is logged once.",
                *(key, step, before, value),
            )
        return True


def metric_name(name: str) -> str:
    """A name as MLflow accepts it, which would otherwise refuse all rows that come with it.

    Other characters than letters, digits and `_/. -` become `_`, and parts that a path would not have are left out.
    """
    parts = re.sub(r"[^\w/. -]", "_", name, flags=re.ASCII).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))[:_LONGEST_NAME].rstrip("/") or "_"


def _points(row: Row) -> Iterator[tuple[str, tuple[str, int, int, float]]]:
    """Yield each number of a row by its name, as name in MLflow, step, timestamp and value."""
    step, timestamp_ms = int(row.get(STEP, 0)), int(1000 * row.get(TIME, 0))
    for name, value in row.items():
        if name not in (STEP, TIME) and isinstance(value, int | float):
            yield name, (metric_name(name), step, timestamp_ms, float(value))


def _flat(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings, with dotted names."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield metric_name(name), str(config)
