"""Tests of trackers need their packages, which are not part of the usual installation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from cairn.trackers.lines import STEP, TIME, Row


def require(*packages: str, folder: Path | None = None, file: str = "engine/tests/requirements.txt") -> None:
    """Skip a test without the packages it needs; fail it if CAIRN_TEST_STORE=required.

    Args:
        packages: Import names.
        folder: Where they are; None: in the environment.
        file: What installs them.
    """
    there = [str(folder)] if folder else None
    if missing := [name for name in packages if PathFinder.find_spec(name, there) is None]:
        target = f" --target {folder}" if folder else ""
        reason = f"{', '.join(missing)} not found (pip install --no-deps{target} -r {file})"
        if os.environ.get("CAIRN_TEST_STORE") == "required":
            pytest.fail(f"{reason}, and CAIRN_TEST_STORE=required")
        pytest.skip(reason)


MLFLOW = ("mlflow", "sqlalchemy", "alembic", "sqlparse", "cryptography")


class MemoryStore:
    """A tracker in memory, which can fail, and which deletes what a resume has cut."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.config: dict[str, Any] = {}
        self.ended: list[str] = []
        self.num_connected = self.fails = 0
        """`fails`: how many of the next requests fail; -1: all."""
        self.arrive_before_failing = False

    def connect(self) -> None:
        self.num_connected += 1
        self._fail()

    def match(self, rows: Sequence[Row], names: Iterable[str]) -> list[Row]:
        self._fail()
        ours = [row for row in self.rows if set(row) & set(names) - {STEP, TIME}]
        self.rows = [row for row in self.rows if row not in ours or row in rows]
        return [row for row in rows if row not in self.rows]

    def send(self, rows: Sequence[Row]) -> None:
        if self.arrive_before_failing:
            self.rows += rows
        self._fail()
        if not self.arrive_before_failing:
            self.rows += rows

    def configure(self, config: Mapping[str, Any]) -> None:
        self._fail()
        self.config.update(config)

    def end(self, status: str) -> None:
        self._fail()
        self.ended.append(status)

    def _fail(self) -> None:
        if self.fails:
            self.fails -= 1
            raise ConnectionError("https://me:geheim@host/api refused")


def values(rows: Iterable[Row]) -> list[tuple[Any, dict[str, Any]]]:
    """Step and values of each row."""
    return [(row.get(STEP), {name: row[name] for name in row if name not in (STEP, TIME)}) for row in rows]
