"""A run in Trackio: each row has an id that it has again when a resumed run repeats it, so that it is there once.

                     on this machine          on a server, which deletes no rows
journal has it       stays                    stays
a resume has cut it  is deleted               stays, and the row that repeats it has its id: it is ignored
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cairn.trackers.lines import STEP, TIME, Row
from cairn.trackio.target import Target

if TYPE_CHECKING:
    from cairn.trackio.client import Calls, Entry

OWN = "cairn-"
"""Beginning of the ids of our rows."""
_ID = "_id"
"""Key of the id in a row that was matched."""
_RESERVED = {"project", "run", "timestamp", "step", "time", "metrics"}
"""Names that Trackio keeps for itself. As its own client does, `__` is put in front of them."""


@dataclass(frozen=True)
class RunName:
    """What a run is called in Trackio."""

    project: str
    id: str
    """Stays the same after a resume."""
    name: str
    group: str | None = None


class TrackioStore:
    """A run in Trackio.

    Args:
        target: Where it is kept.
        named: Returns what it is called, when it is needed for the first time.
    """

    def __init__(self, target: Target, named: Callable[[], RunName]) -> None:
        self.target, self._named = target, named
        self._way: tuple[Calls, RunName] | None = None
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()
        self._config: Mapping[str, Any] | None = None

    def connect(self) -> None:
        """See `Store`. May be called on several threads."""
        with self._lock:
            if self._way is None:
                target = self.target
                with target.prepared() as folder:
                    from cairn.trackio.client import Local, Server  # they import trackio, which takes a second

                calls = Local(folder) if target.is_local else Server(target.space_id, target.server_url)
                self._way = calls, self._named()

    def match(self, rows: Sequence[Row], names: Collection[str]) -> list[Row]:
        """See `Store`."""
        calls, named = self.connected()
        self._numbers.clear()
        rows = [{**row, _ID: self._next_id(row)} for row in rows]
        there = calls.rows(named.project, named.id)
        if there is None:
            return rows  # the server ignores those that it has
        wanted = {row[_ID]: _timestamp(row) for row in rows}
        calls.delete(named.project, named.id, [id for id, time in there.items() if wanted.get(id) != time])
        return [row for row in rows if there.get(row[_ID]) != _timestamp(row)]

    def send(self, rows: Sequence[Row]) -> None:
        """See `Store`."""
        if not rows:
            return
        calls, named = self.connected()
        config = self._config
        entries: list[Entry] = []
        for number, row in enumerate(rows):
            entries.append(
                {
                    "project": named.project,
                    "run": named.name,
                    "run_id": named.id,
                    "metrics": {_metric_name(key): row[key] for key in row if key not in (STEP, TIME, _ID)},
                    "step": int(row.get(STEP, 0)),
                    "timestamp": _timestamp(row),
                    "log_id": row[_ID] if _ID in row else self._next_id(row),
                    "config": config if number == 0 else None,
                }
            )
        calls.log(entries)
        self._config = None

    def configure(self, config: Mapping[str, Any]) -> None:
        """See `Store`. Trackio takes it with the next row."""
        named = self.connected()[1]
        own = {"_Group": named.group, "_Created": datetime.now(UTC).isoformat()}
        self._config = {**{key.lstrip("_"): _plain(value) for key, value in config.items()}, **own}

    def end(self, status: str) -> None:
        """See `Store`. Trackio does not know how a run has ended."""

    def connected(self) -> tuple[Calls, RunName]:
        """Return the calls and the name of the run, after `connect`."""
        assert self._way is not None
        return self._way

    def _next_id(self, row: Row) -> str:
        """What makes a row this row: a resumed run logs the same names at the same step again."""
        key = repr((row.get(STEP), *sorted(name for name in row if name not in (STEP, TIME, _ID))))
        self._numbers[key] += 1
        text = f"{self.connected()[1].id} {key} {self._numbers[key]}"
        return OWN + hashlib.sha256(text.encode()).hexdigest()[:26]


def _metric_name(name: str) -> str:
    return f"__{name}" if name in _RESERVED or name.startswith("__") else name


def _plain(value: Any) -> Any:
    """A value as JSON has it; any object as its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _timestamp(row: Row) -> str:
    return datetime.fromtimestamp(row.get(TIME, 0), UTC).isoformat()
