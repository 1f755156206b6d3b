"""Processes that all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cairn.testing.fresh import FreshProcesses


@pytest.fixture(scope="package")
def processes() -> Iterator[FreshProcesses]:
    """Fork a process for each short run."""
    with FreshProcesses("tests.support.short_runs", {}) as found:
        yield found
